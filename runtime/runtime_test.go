package runtime

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestLife(t *testing.T) {
	w := newWorld(t)
	pod, _ := w.pod("a")
	st, err := w.PodSandboxStatus(ctx, pod, true)
	must(t, err)
	if st.Status.State != runtimeapi.PodSandboxState_SANDBOX_READY || st.Status.Network.Ip != "10.9.0.1" {
		t.Fatalf("status: %v", st.Status)
	}
	id := w.create(pod, containerConfig("one", "print", "hello", "there"))
	if s := w.status(id); s.State != runtimeapi.ContainerState_CONTAINER_CREATED {
		t.Fatalf("state: %v", s.State)
	}
	must(t, w.StartContainer(ctx, id))
	s := w.ended(id)
	if s.State != runtimeapi.ContainerState_CONTAINER_EXITED || s.ExitCode != 0 || s.Reason != "Completed" {
		t.Fatalf("status: %v", s)
	}
	if s.CreatedAt > s.StartedAt || s.StartedAt > s.FinishedAt {
		t.Errorf("times: %d %d %d", s.CreatedAt, s.StartedAt, s.FinishedAt)
	}
	if got := w.log(id); !slices.Equal(got, []string{"stdout F hello there"}) {
		t.Errorf("log: %q", got)
	}
	must(t, w.RemoveContainer(ctx, id))
	must(t, w.RemoveContainer(ctx, id))
	if _, err := w.ContainerStatus(ctx, id, false); status.Code(err) != codes.NotFound {
		t.Errorf("status of a removed container: %v", err)
	}
	must(t, w.StopPodSandbox(ctx, pod))
	must(t, w.StopPodSandbox(ctx, pod))
	must(t, w.RemovePodSandbox(ctx, pod))
	must(t, w.RemovePodSandbox(ctx, pod))
	if _, err := w.PodSandboxStatus(ctx, pod, false); status.Code(err) != codes.NotFound {
		t.Errorf("status of a removed sandbox: %v", err)
	}
	if len(w.net.attached) != 0 || len(w.images.use) != 0 {
		t.Errorf("left: %v %v", w.net.attached, w.images.use)
	}
}

func TestExits(t *testing.T) {
	w := newWorld(t)
	pod, _ := w.pod("a")
	for _, c := range []struct {
		args   []string
		code   int32
		reason string
	}{
		{[]string{"exit", "0"}, 0, "Completed"},
		{[]string{"exit", "3"}, 3, "Error"},
		{[]string{"exit", "255"}, 255, "Error"},
	} {
		id := w.start(pod, containerConfig(strings.Join(c.args, ""), c.args...))
		if s := w.ended(id); s.ExitCode != c.code || s.Reason != c.reason {
			t.Errorf("%v: %d %s", c.args, s.ExitCode, s.Reason)
		}
	}
	config := containerConfig("missing")
	config.Command = []string{"/no/such/program"}
	id := w.create(pod, config)
	err := w.StartContainer(ctx, id)
	if err == nil || !strings.Contains(err.Error(), "/no/such/program") || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("start: %v", err)
	}
	if s := w.ended(id); s.ExitCode != 128 || s.Reason != "StartError" || !strings.Contains(s.Message, "/no/such/program") {
		t.Errorf("status: %v", s)
	}
	must(t, w.RemoveContainer(ctx, id))
}

func TestStop(t *testing.T) {
	w := newWorld(t)
	pod, _ := w.pod("a")
	polite := w.start(pod, containerConfig("polite", "trap"))
	w.logged(polite, "stdout F ready")
	must(t, w.StopContainer(ctx, polite, 10))
	if s := w.status(polite); s.ExitCode != 0 || s.State != runtimeapi.ContainerState_CONTAINER_EXITED {
		t.Errorf("polite: %v", s)
	}
	if !slices.Contains(w.log(polite), "stdout F got terminated") {
		t.Errorf("log: %q", w.log(polite))
	}
	config := containerConfig("other", "trap")
	config.StopSignal = runtimeapi.Signal_SIGNAL_SIGUSR1
	other := w.start(pod, config)
	w.logged(other, "stdout F ready")
	must(t, w.StopContainer(ctx, other, 10))
	if !slices.Contains(w.log(other), "stdout F got user defined signal 1") {
		t.Errorf("log: %q", w.log(other))
	}
	stubborn := w.start(pod, containerConfig("stubborn", "ignore"))
	w.logged(stubborn, "stdout F ready")
	begin := time.Now()
	must(t, w.StopContainer(ctx, stubborn, 1))
	if s := w.status(stubborn); s.ExitCode != 137 || s.Reason != "Error" {
		t.Errorf("stubborn: %v", s)
	}
	if d := time.Since(begin); d < time.Second || d > 4*time.Second {
		t.Errorf("stopping took %v", d)
	}
	must(t, w.StopContainer(ctx, stubborn, 1))
	must(t, w.StopContainer(ctx, "nosuchcontainer", 1))
}

func TestLogs(t *testing.T) {
	w := newWorld(t)
	pod, _ := w.pod("a")
	id := w.start(pod, containerConfig("partial", "printn", "no newline"))
	w.ended(id)
	if got := w.log(id); !slices.Equal(got, []string{"stdout P no newline"}) {
		t.Errorf("log: %q", got)
	}
	id = w.start(pod, containerConfig("long", "long", "40000"))
	w.ended(id)
	got := w.log(id)
	if len(got) != 3 || !strings.HasPrefix(got[0], "stdout P x") || len(got[0]) != len("stdout P ")+16<<10 ||
		!strings.HasPrefix(got[2], "stdout F x") || len(got[2]) != len("stdout F ")+40000-32<<10 {
		t.Errorf("long line: %d records", len(got))
	}
	id = w.start(pod, containerConfig("both", "count", "100"))
	w.ended(id)
	var out, errs []string
	for _, l := range w.log(id) {
		if strings.HasPrefix(l, "stdout F out ") {
			out = append(out, l)
		} else if strings.HasPrefix(l, "stderr F err ") {
			errs = append(errs, l)
		}
	}
	for i := range 100 {
		if len(out) != 100 || len(errs) != 100 || out[i] != fmt.Sprint("stdout F out ", i) || errs[i] != fmt.Sprint("stderr F err ", i) {
			t.Fatalf("%d and %d lines", len(out), len(errs))
		}
	}
}
