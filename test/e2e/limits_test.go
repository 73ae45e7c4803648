package e2e

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
)

// TestBinPackingAndLimits: requests decide where, limits hold in the kernel.
func TestBinPackingAndLimits(t *testing.T) {
	m := newMachine(t)
	m.start()
	m.importImages()

	t.Run("what does not fit waits and says why", func(t *testing.T) {
		t.Parallel()
		m := m.in(t)
		m.apply(box("huge", "sleep 3600", "    resources: {requests: {cpu: '1000', memory: 100Ti}}\n"))
		m.sees("0/1 nodes are available: 1 Insufficient cpu, 1 Insufficient memory", 20*time.Second, "describe", "pod", "huge")
		m.sees("FailedScheduling", 5*time.Second, "get", "events", "--field-selector", "involvedObject.name=huge")
		if phase := m.get("{.status.phase}", "pod/huge"); phase != "Pending" {
			t.Errorf("phase %s", phase)
		}
		m.k("delete", "pod", "huge", "--now")
	})
	t.Run("freed room is used", func(t *testing.T) {
		t.Parallel()
		m := m.in(t)
		m.k("create", "namespace", "packing")
		half := `{"spec":{"containers":[{"name":"c","image":"busybox","imagePullPolicy":"IfNotPresent","command":["sleep","3600"],"resources":{"requests":{"ephemeral-storage":"` + m.halfOf("ephemeral-storage") + `"}}}],"terminationGracePeriodSeconds":1}}`
		m.k("run", "a", "-n", "packing", "--image=busybox", "--overrides="+half)
		m.k("wait", "-n", "packing", "--for=condition=Ready", "pod/a", "--timeout=30s")
		m.k("run", "b", "-n", "packing", "--image=busybox", "--overrides="+half)
		m.sees("Insufficient ephemeral-storage", 20*time.Second, "describe", "pod", "-n", "packing", "b")
		m.k("delete", "pod", "-n", "packing", "a")
		m.k("wait", "-n", "packing", "--for=condition=Ready", "pod/b", "--timeout=30s")
		m.k("delete", "namespace", "packing")
	})
	t.Run("memory", func(t *testing.T) {
		t.Parallel()
		m := m.in(t)
		m.apply(box("hog", "sleep 1; exec tail /dev/zero", "    resources: {limits: {memory: 32Mi}}\n"))
		m.until("OOMKilled", 60*time.Second, func() (string, bool) {
			got := m.get("{.status.containerStatuses[0]..terminated.reason}", "pod/hog")
			return got, strings.Contains(got, "OOMKilled")
		})
		if code := m.get("{.status.containerStatuses[0]..terminated.exitCode}", "pod/hog"); !strings.Contains(code, "137") {
			t.Errorf("exit code %s", code)
		}
	})
	t.Run("cpu", func(t *testing.T) {
		t.Parallel()
		m := m.in(t)
		m.apply(box("busy", "while :; do :; done", "    resources: {limits: {cpu: 100m}}\n"))
		m.k("wait", "--for=condition=Ready", "pod/busy", "--timeout=30s")
		uid := m.get("{.metadata.uid}", "pod/busy")
		m.until("the kernel to throttle it", 20*time.Second, func() (string, bool) {
			stat := throttling(m.data, uid)
			return stat, stat != "" && !strings.Contains(stat, "nr_throttled 0\n")
		})
		m.k("delete", "pod", "busy", "--now")
	})
}

func (m *machine) halfOf(resource string) string {
	m.t.Helper()
	all := m.k("get", "node", "one", "-o", "go-template={{index .status.allocatable \""+resource+"\"}}")
	var n int64
	if _, err := fmt.Sscan(strings.TrimRight(all, "Kik"), &n); err != nil {
		m.t.Fatalf("allocatable %s: %q", resource, all)
	}
	unit := all[len(fmt.Sprint(n)):]
	return fmt.Sprint(n*6/10) + unit
}

// throttling reads cpu.stat of a pod's containers, wherever the pod's cgroup is.
func throttling(_, uid string) (stat string) {
	for _, root := range []string{"/sys/fs/cgroup/cpu", "/sys/fs/cgroup"} {
		for _, dir := range cgroupsOf(root, uid) {
			if data, err := os.ReadFile(dir + "/cpu.stat"); err == nil && !strings.Contains(string(data), "nr_throttled 0\n") {
				return string(data)
			} else if err == nil {
				stat = string(data)
			}
		}
	}
	return stat
}
