package kubelet

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"proa/kubelet/spec"
)

// Draining takes no more than these, and the first no more than half of the grace
// period. Both are over in milliseconds unless the machine is overloaded or a
// client keeps its connection.
const (
	drainLimit  = 5 * time.Second       // until Services send nothing new
	settleLimit = time.Second           // for requests in flight
	settleStep  = 20 * time.Millisecond // between looks at them
	settleQuiet = 3                     // looks in a row that must find none: a packet may be on its way
)

// drain lets traffic leave a pod before its processes are told to end: Services
// stop sending, then what they sent last is answered. Many servers end at once on
// SIGTERM, and would cut off the requests they are at.
func (w *worker) drain(ctx context.Context, pod *corev1.Pod, deadline time.Time) {
	if w.k.cfg.BeforeStop != nil {
		bounded, cancel := context.WithTimeout(ctx, min(drainLimit, time.Until(deadline)/2))
		w.k.cfg.BeforeStop(bounded, pod)
		cancel()
	}
	if pod.Spec.HostNetwork || !w.k.served(pod) {
		return
	}
	if pid := w.k.cgroups.Process(spec.CgroupParent(pod, w.k.node)); pid > 0 {
		settle(ctx, pid)
	}
}

// served tells whether any Service may have sent the pod connections.
func (k *Kubelet) served(pod *corev1.Pod) bool {
	for _, s := range (sources{k.cfg.Client}).Services(pod.Namespace) {
		if len(s.Spec.Selector) > 0 && subset(s.Spec.Selector, pod.Labels) {
			return true
		}
	}
	return false
}

func subset(selector, labels map[string]string) bool {
	for k, v := range selector {
		if have, ok := labels[k]; !ok || have != v {
			return false
		}
	}
	return true
}

// settle waits until the network namespace of a process has no connection to a
// port it listens on. The kernel tells nobody when one closes, so this looks,
// for a second at most.
func settle(ctx context.Context, pid int) {
	ctx, cancel := context.WithTimeout(ctx, settleLimit)
	defer cancel()
	for quiet := 0; quiet < settleQuiet && ctx.Err() == nil; sleep(ctx, settleStep) {
		text := ""
		for _, file := range []string{"tcp", "tcp6"} {
			part, _ := os.ReadFile(fmt.Sprintf("/proc/%d/net/%s", pid, file))
			text += string(part)
		}
		quiet++
		if accepted(text) > 0 {
			quiet = 0
		}
	}
}

// The states of /proc/net/tcp (include/net/tcp_states.h).
const (
	tcpEstablished = "01"
	tcpSynRecv     = "03"
	tcpListen      = "0A"
)

// accepted counts the open connections, in the text of /proc/net/tcp, to ports that
// are listened on.
func accepted(text string) int {
	listening, open := map[string]bool{}, map[string]int{}
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) < 4 {
			continue
		}
		_, port, ok := strings.Cut(f[1], ":")
		switch {
		case ok && f[3] == tcpListen:
			listening[port] = true
		case ok && (f[3] == tcpEstablished || f[3] == tcpSynRecv):
			open[port]++
		}
	}
	n := 0
	for port := range listening {
		n += open[port]
	}
	return n
}
