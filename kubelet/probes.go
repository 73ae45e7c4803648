package kubelet

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"time"

	corev1 "k8s.io/api/core/v1"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"proa/kubelet/lifecycle"
	"proa/kubelet/probe"
)

type probeKind uint8

const (
	startup probeKind = iota
	liveness
	readiness
	probeKinds
)

var probeNames = [probeKinds]string{"Startup", "Liveness", "Readiness"}

// prober holds the running probes of one container instance.
type prober struct {
	cancel [probeKinds]context.CancelFunc
}

func (p *prober) stop() { p.stopExcept(probeKinds) }

func (p *prober) stopExcept(keep probeKind) {
	for kind, cancel := range p.cancel {
		if cancel != nil && probeKind(kind) != keep {
			cancel()
			p.cancel[kind] = nil
		}
	}
}

func probesOf(c *corev1.Container) [probeKinds]*corev1.Probe {
	return [probeKinds]*corev1.Probe{c.StartupProbe, c.LivenessProbe, c.ReadinessProbe}
}

// attend starts the probes of containers that run and stops those of ones that do
// not. Liveness and readiness begin once the startup probe has succeeded; when a
// pod ends, only readiness goes on.
func (w *worker) attend(ctx context.Context, d *lifecycle.Decision) {
	current := map[string]bool{}
	each := func(containers []corev1.Container, statuses []corev1.ContainerStatus) {
		for i := range min(len(containers), len(statuses)) {
			if c := w.instance(&statuses[i]); c != nil {
				current[c.Id] = true
				w.probe(ctx, &containers[i], &statuses[i], c, d.Terminating)
			}
		}
	}
	each(w.st.Pod.Spec.InitContainers, d.Status.InitContainerStatuses)
	each(w.st.Pod.Spec.Containers, d.Status.ContainerStatuses)
	for id, p := range w.probes {
		if !current[id] {
			p.stop()
			delete(w.probes, id)
			delete(w.st.Probes, id)
		}
	}
}

// instance is the running one that a status shows, or nil.
func (w *worker) instance(s *corev1.ContainerStatus) *cri.ContainerStatus {
	if s.State.Running == nil {
		return nil
	}
	for _, c := range w.st.Containers {
		if w.k.runtime+"://"+c.Id == s.ContainerID {
			return c
		}
	}
	return nil
}

func (w *worker) probe(ctx context.Context, c *corev1.Container, s *corev1.ContainerStatus, inst *cri.ContainerStatus, terminating bool) {
	p := w.probes[inst.Id]
	began := s.Started != nil && *s.Started
	for kind, def := range probesOf(c) {
		kind := probeKind(kind)
		want := def != nil && (kind == startup) == !began && w.kills[inst.Id] == nil && !terminating
		switch {
		case want && p == nil:
			p = &prober{}
			w.probes[inst.Id] = p
			fallthrough
		case want && p.cancel[kind] == nil:
			p.cancel[kind] = w.begin(ctx, kind, def, c, inst)
		case !want && p != nil && p.cancel[kind] != nil && !(kind == readiness && began):
			p.cancel[kind]()
			p.cancel[kind] = nil
		}
	}
}

// begin runs one probe until it is cancelled.
func (w *worker) begin(ctx context.Context, kind probeKind, def *corev1.Probe, c *corev1.Container, inst *cri.ContainerStatus) context.CancelFunc {
	ctx, cancel := context.WithCancel(ctx)
	pod := w.st.Pod
	target := probe.Target{Container: c, PodIP: first(w.podIPs()), Exec: func(ctx context.Context, cmd []string, timeout time.Duration) ([]byte, error) {
		out, stderr, err := w.k.cfg.Runtime.ExecSync(ctx, inst.Id, cmd, timeout)
		return append(out, stderr...), err
	}}
	timeout := time.Duration(max(def.TimeoutSeconds, 1)) * time.Second
	ask := func(ctx context.Context) error { return probe.Run(ctx, &def.ProbeHandler, timeout, target) }
	verdict := func(v probe.Verdict) {
		if result := results[v]; ctx.Err() == nil {
			w.post(func(w *worker) { w.judge(inst.Id, kind, result) })
		}
	}
	w.k.effects.Go(func() {
		probe.Loop(ctx, def, time.Unix(0, inst.StartedAt), ask, verdict, func(err error) { w.unhealthy(pod, c, kind, err) })
	})
	return cancel
}

var results = map[probe.Verdict]lifecycle.Result{probe.Healthy: lifecycle.Success, probe.Unhealthy: lifecycle.Failure}

func (w *worker) judge(id string, kind probeKind, result lifecycle.Result) {
	if w.probes[id] == nil {
		return
	}
	p := w.st.Probes[id]
	*[probeKinds]*lifecycle.Result{&p.Startup, &p.Liveness, &p.Readiness}[kind] = result
	w.st.Probes = maps.Clone(w.st.Probes)
	w.st.Probes[id] = p
}

func (w *worker) unhealthy(pod *corev1.Pod, c *corev1.Container, kind probeKind, err error) {
	verb := "errored"
	var bad probe.Failed
	if errors.As(err, &bad) {
		verb = "failed"
	}
	w.k.container(pod, c, corev1.EventTypeWarning, "Unhealthy", fmt.Sprintf("%s probe %s: %v", probeNames[kind], verb, err))
}
