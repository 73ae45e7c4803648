package runtime

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// TestDaemonRestart: containers run on, and what happened meanwhile is learnt.
func TestDaemonRestart(t *testing.T) {
	w := newWorld(t)
	pod, _ := w.pod("a")
	steady := w.start(pod, containerConfig("steady", "trap"))
	w.logged(steady, "stdout F ready")
	brief := w.start(pod, containerConfig("brief", "trap"))
	w.logged(brief, "stdout F ready")
	done := w.start(pod, containerConfig("done", "exit", "4"))
	before := w.ended(done)
	waiting := w.create(pod, containerConfig("waiting", "print", "late"))
	rec, err := w.runningContainer(brief)
	must(t, err)
	steadyRec, err := w.runningContainer(steady)
	must(t, err)

	must(t, w.Close(ctx))
	killed := time.Now()
	must(t, unix.Kill(rec.PID, unix.SIGKILL))
	time.Sleep(500 * time.Millisecond)
	back := time.Now()
	w.restart()

	if s := w.ended(brief); s.ExitCode != 137 || s.Reason != "Error" || s.FinishedAt < killed.UnixNano() || s.FinishedAt > back.UnixNano() {
		t.Errorf("ended meanwhile: %v, %v after the kill", s, time.Unix(0, s.FinishedAt).Sub(killed))
	}
	if s := w.status(done); s.ExitCode != 4 || s.FinishedAt != before.FinishedAt {
		t.Errorf("ended before: %v", s)
	}
	if s := w.status(steady); s.State != runtimeapi.ContainerState_CONTAINER_RUNNING || !alive(steadyRec.PID) {
		t.Errorf("steady: %v", s)
	}
	st, err := w.PodSandboxStatus(ctx, pod, false)
	must(t, err)
	if st.Status.State != runtimeapi.PodSandboxState_SANDBOX_READY || st.Status.Network.Ip != "10.9.0.1" || st.Status.Labels["pod"] != "a" {
		t.Errorf("sandbox: %v", st.Status)
	}
	w.output(steady, "print", "exec works")
	must(t, w.StartContainer(ctx, waiting))
	w.ended(waiting)
	must(t, w.StopContainer(ctx, steady, 5))
	if s := w.status(steady); s.ExitCode != 0 {
		t.Errorf("stopped: %v", s)
	}
	must(t, w.RemovePodSandbox(ctx, pod))
}

// TestShimKilled: its containers die with it, whether a daemon looks or not.
func TestShimKilled(t *testing.T) {
	for _, present := range []bool{true, false} {
		t.Run(fmt.Sprint("daemon=", present), func(t *testing.T) {
			w := newWorld(t)
			pod, _ := w.pod("a", func(c *runtimeapi.PodSandboxConfig) {
				c.Linux.SecurityContext.NamespaceOptions.Pid = runtimeapi.NamespaceMode_POD
			})
			own := w.start(pod, containerConfig("own", "fork", "2"))
			config := containerConfig("shared", "fork", "2")
			config.Linux.SecurityContext.NamespaceOptions.Pid = runtimeapi.NamespaceMode_POD
			shared := w.start(pod, config)
			// Another user: the kernel forgets the signal when a process changes it.
			config = containerConfig("user", "ignore")
			config.Linux.SecurityContext.RunAsUser = &runtimeapi.Int64Value{Value: 101}
			user := w.start(pod, config)
			w.logged(own, "stdout F forked")
			w.logged(shared, "stdout F forked")
			w.logged(user, "stdout F ready")
			pids := pidsBelow(w.version.dir("memory", "/"+w.cfg.CgroupRoot))
			if len(pids) != 7 {
				t.Fatalf("%d processes", len(pids))
			}
			s, err := w.findSandbox(pod)
			must(t, err)
			shim := s.rec.Shim
			if !present {
				must(t, w.Close(ctx))
			}
			must(t, unix.Kill(shim, unix.SIGKILL))
			for deadline := time.Now().Add(5 * time.Second); len(pidsBelow(w.version.dir("memory", "/"+w.cfg.CgroupRoot))) > 0; time.Sleep(time.Millisecond) {
				if time.Now().After(deadline) {
					t.Fatalf("alive: %v", pidsBelow(w.version.dir("memory", "/"+w.cfg.CgroupRoot)))
				}
			}
			if !present {
				w.restart()
			}
			for _, id := range []string{own, shared, user} {
				want := int32(137)
				if !present {
					want = 255
				}
				if st := w.ended(id); st.ExitCode != want {
					t.Errorf("status: %v", st)
				}
			}
			w.notReady(pod)
			if _, err := w.CreateContainer(ctx, pod, containerConfig("more", "print"), nil); status.Code(err) != codes.FailedPrecondition {
				t.Errorf("create in a dead sandbox: %v", err)
			}
			must(t, w.RemovePodSandbox(ctx, pod))
		})
	}
}

func (w *world) notReady(pod string) {
	w.t.Helper()
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(time.Millisecond) {
		st, err := w.PodSandboxStatus(ctx, pod, false)
		must(w.t, err)
		if st.Status.State == runtimeapi.PodSandboxState_SANDBOX_NOTREADY {
			return
		}
		if time.Now().After(deadline) {
			w.t.Fatal("the sandbox stays ready")
		}
	}
}

// TestReboot: every process gone, the run directory cleared.
func TestReboot(t *testing.T) {
	w := newWorld(t)
	pod, _ := w.pod("a")
	running := w.start(pod, containerConfig("running", "sleep"))
	done := w.start(pod, containerConfig("done", "exit", "4"))
	w.ended(done)
	created := w.create(pod, containerConfig("created", "print"))
	s, err := w.findSandbox(pod)
	must(t, err)
	shim := s.rec.Shim
	must(t, w.Close(ctx))
	must(t, unix.Kill(shim, unix.SIGKILL))
	reap(shim)
	must(t, unmountBelow(w.cfg.Run))
	must(t, os.RemoveAll(w.cfg.Run))
	w.restart()
	w.notReady(pod)
	if st := w.status(running); st.State != runtimeapi.ContainerState_CONTAINER_EXITED || st.ExitCode != 255 || st.Reason != "Unknown" {
		t.Errorf("running: %v", st)
	}
	if st := w.status(done); st.ExitCode != 4 {
		t.Errorf("done: %v", st)
	}
	list, err := w.ListContainers(ctx, &runtimeapi.ContainerFilter{PodSandboxId: pod, LabelSelector: map[string]string{"container": "running"}})
	must(t, err)
	if len(list) != 1 || list[0].Id != running {
		t.Errorf("list: %v", list)
	}
	if err := w.StartContainer(ctx, created); err == nil {
		t.Error("started in a sandbox that is gone")
	}
	if len(w.net.attached) != 0 {
		t.Errorf("attached: %v", w.net.attached)
	}
	must(t, w.RemovePodSandbox(ctx, pod))
	if len(w.images.use) != 0 {
		t.Errorf("roots left: %v", w.images.use)
	}
}

// TestInterrupted leaves a daemon's half-made work behind in every state that a
// kill can leave it in.
func TestInterrupted(t *testing.T) {
	w := newWorld(t)
	half := w.podConfig("half")
	s, err := w.addSandbox(half, "")
	must(t, err)
	must(t, w.saveSandbox(s.rec))
	must(t, w.makeFiles(s.rec))
	cmd, err := w.spawn(s.id, namespacesOf(half))
	must(t, err)
	// The record with the process ID was not written.
	other, err := w.addSandbox(w.podConfig("other"), "")
	must(t, err)
	must(t, w.saveSandbox(other.rec))
	pod, _ := w.pod("whole")
	whole, err := w.findSandbox(pod)
	must(t, err)
	img, _ := w.images.Get("box")
	c, err := w.addContainer(whole, containerConfig("half", "sleep"), img)
	must(t, err)
	must(t, w.saveContainer(c.rec))
	_, err = w.images.Prepare(ctx, img.ID, c.rec.ID)
	must(t, err)
	// Started, and the daemon did not live to hear it.
	started := w.create(pod, containerConfig("started", "sleep"))
	rec := w.containers[started].rec
	if _, err := w.launch(ctx, rec); err != nil {
		t.Fatal(err)
	}
	must(t, os.WriteFile(filepath.Join(w.containerRecords(), "torn.json"), []byte(`{"ID":"to`), 0o600))
	_, err = w.images.Prepare(ctx, img.ID, newID()) // its record was never written
	must(t, err)
	must(t, os.WriteFile(filepath.Join(w.sandboxRecords(), "x.json.new"), []byte(`{`), 0o600))
	must(t, w.Close(ctx))
	must(t, w.saveContainer(rec)) // as it was before
	w.restart()
	if alive(cmd.Process.Pid) {
		t.Errorf("shim %d lives", cmd.Process.Pid)
	}
	list, err := w.ListPodSandbox(ctx, nil)
	must(t, err)
	if len(list) != 1 || list[0].Id != pod {
		t.Errorf("sandboxes: %v", list)
	}
	if len(w.images.use) != 1 {
		t.Errorf("roots: %v", w.images.use)
	}
	if st := w.status(started); st.State != runtimeapi.ContainerState_CONTAINER_RUNNING {
		t.Errorf("started: %v", st)
	}
	entries, _ := os.ReadDir(w.runDir("sandboxes"))
	if len(entries) != 1 {
		t.Errorf("run directories: %v", entries)
	}
	must(t, w.RemovePodSandbox(ctx, pod))
}

// TestFailedSandbox leaves nothing.
func TestFailedSandbox(t *testing.T) {
	w := newWorld(t)
	w.net.fail = errors.New("no addresses left")
	if _, err := w.RunPodSandbox(ctx, w.podConfig("a"), ""); err == nil || !strings.Contains(err.Error(), "no addresses left") {
		t.Fatalf("error: %v", err)
	}
	config := w.podConfig("b")
	config.Linux.Sysctls = map[string]string{"net.ipv4.no_such_thing": "1"}
	w.net.fail = nil
	if _, err := w.RunPodSandbox(ctx, config, ""); err == nil || !strings.Contains(err.Error(), "no_such_thing") {
		t.Fatalf("error: %v", err)
	}
	for _, dir := range []string{w.runDir("sandboxes"), w.sandboxRecords()} {
		if entries, _ := os.ReadDir(dir); len(entries) != 0 {
			t.Errorf("left: %v", entries)
		}
	}
	w.pod("a")
}

func TestManyPods(t *testing.T) {
	w := newWorld(t)
	var wg sync.WaitGroup
	begin := time.Now()
	for i := range 20 {
		wg.Go(func() {
			pod, err := w.RunPodSandbox(ctx, w.podConfig(fmt.Sprint("p", i)), "")
			if err != nil {
				t.Error(err)
				return
			}
			id, err := w.CreateContainer(ctx, pod, containerConfig("c", "sleep"), nil)
			if err == nil {
				err = w.StartContainer(ctx, id)
			}
			if err != nil {
				t.Error(err)
				return
			}
			if i%2 == 0 {
				if err := w.RemovePodSandbox(ctx, pod); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	t.Logf("20 pods in %v", time.Since(begin))
	running, err := w.ListContainers(ctx, &runtimeapi.ContainerFilter{State: &runtimeapi.ContainerStateValue{State: runtimeapi.ContainerState_CONTAINER_RUNNING}})
	must(t, err)
	if len(running) != 10 {
		t.Errorf("%d containers run", len(running))
	}
}

func TestHostileSandboxes(t *testing.T) {
	w := newWorld(t)
	for name, change := range map[string]func(*runtimeapi.PodSandboxConfig){
		"no metadata":   func(c *runtimeapi.PodSandboxConfig) { c.Metadata = nil },
		"no name":       func(c *runtimeapi.PodSandboxConfig) { c.Metadata.Name = "" },
		"cgroup escape": func(c *runtimeapi.PodSandboxConfig) { c.Linux.CgroupParent = "/a/../../b" },
		"node sysctl": func(c *runtimeapi.PodSandboxConfig) {
			c.Linux.Sysctls = map[string]string{"kernel.core_pattern": "|/x"}
		},
		"sysctl with dots": func(c *runtimeapi.PodSandboxConfig) {
			c.Linux.Sysctls = map[string]string{"net/../kernel/core_pattern": "|/x"}
		},
		"host's net sysctl": func(c *runtimeapi.PodSandboxConfig) {
			c.Linux.Sysctls = map[string]string{"net.ipv4.ip_forward": "1"}
			c.Linux.SecurityContext.NamespaceOptions.Network = runtimeapi.NamespaceMode_NODE
		},
		"long host name":  func(c *runtimeapi.PodSandboxConfig) { c.Hostname = strings.Repeat("x", 65) },
		"unknown handler": nil,
		"own user namespace": func(c *runtimeapi.PodSandboxConfig) {
			c.Linux.SecurityContext.NamespaceOptions.UsernsOptions = &runtimeapi.UserNamespace{}
		},
	} {
		config, handler := w.podConfig("a"), "kata"
		if change != nil {
			change(config)
			handler = ""
		}
		if _, err := w.RunPodSandbox(ctx, config, handler); status.Code(err) != codes.InvalidArgument {
			t.Errorf("%s: %v", name, err)
		}
	}
	_, podConfig := w.pod("a")
	if _, err := w.RunPodSandbox(ctx, podConfig, ""); status.Code(err) != codes.AlreadyExists {
		t.Errorf("the same sandbox again: %v", err)
	}
	if _, err := w.findSandbox(""); status.Code(err) != codes.NotFound {
		t.Errorf("empty ID: %v", err)
	}
}

func TestHostileContainers(t *testing.T) {
	w := newWorld(t)
	pod, _ := w.pod("a")
	for name, c := range map[string]struct {
		code   codes.Code
		change func(*runtimeapi.ContainerConfig)
	}{
		"no metadata":   {codes.InvalidArgument, func(c *runtimeapi.ContainerConfig) { c.Metadata = nil }},
		"no image":      {codes.NotFound, func(c *runtimeapi.ContainerConfig) { c.Image = nil }},
		"unknown image": {codes.NotFound, func(c *runtimeapi.ContainerConfig) { c.Image.Image = "nope" }},
		"mount on root": {codes.InvalidArgument, func(c *runtimeapi.ContainerConfig) {
			c.Mounts = []*runtimeapi.Mount{{ContainerPath: "/..", HostPath: "/tmp"}}
		}},
		"missing source": {codes.InvalidArgument, func(c *runtimeapi.ContainerConfig) {
			c.Mounts = []*runtimeapi.Mount{{ContainerPath: "/x", HostPath: "/no/such"}}
		}},
		"mount option": {codes.InvalidArgument, func(c *runtimeapi.ContainerConfig) {
			c.Mounts = []*runtimeapi.Mount{{ContainerPath: "/x", HostPath: "/tmp", MountOptions: []string{"suid"}}}
		}},
		"missing device": {codes.InvalidArgument, func(c *runtimeapi.ContainerConfig) {
			c.Devices = []*runtimeapi.Device{{ContainerPath: "/dev/x", HostPath: "/dev/nope"}}
		}},
		"no seccomp": {codes.InvalidArgument, func(c *runtimeapi.ContainerConfig) {
			c.Linux.SecurityContext.Seccomp = &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Localhost, LocalhostRef: "/no/such"}
		}},
	} {
		config := containerConfig("c", "print")
		c.change(config)
		if _, err := w.CreateContainer(ctx, pod, config, nil); status.Code(err) != c.code {
			t.Errorf("%s: %v", name, err)
		}
	}
	if len(w.images.use) != 0 {
		t.Errorf("roots left: %v", w.images.use)
	}
	// A log path that leaves the pod's directory is the kubelet's to forbid, but
	// one that cannot be opened must not leave a container behind.
	must(t, os.WriteFile(filepath.Join(w.logs, "a", "file"), nil, 0o644))
	config := containerConfig("badlog", "print")
	config.LogPath = "file/0.log"
	id := w.create(pod, config)
	if err := w.StartContainer(ctx, id); err == nil {
		t.Error("started without a log")
	}
}

func TestHostileImages(t *testing.T) {
	w := newWorld(t)
	pod, _ := w.pod("a")
	// An image whose passwd is a trap.
	for _, trap := range []func(path string) error{
		func(p string) error { return os.Symlink("/../../../../etc/shadow", p) },
		func(p string) error { return unix.Mkfifo(p, 0o644) },
		func(p string) error { return os.Mkdir(p, 0o755) },
		func(p string) error { return os.Symlink("passwd", p) },
	} {
		passwd := filepath.Join(w.images.dir, "image/etc/passwd")
		must(t, os.RemoveAll(passwd))
		must(t, trap(passwd))
		config := containerConfig("trap", "id")
		config.Metadata.Attempt = uint32(time.Now().UnixNano())
		id := w.create(pod, config)
		c, cancel := context.WithTimeout(ctx, 10*time.Second)
		err := w.StartContainer(c, id)
		cancel()
		if errors.Is(err, context.DeadlineExceeded) || status.Code(err) == codes.DeadlineExceeded {
			t.Errorf("the start hangs")
		}
	}
}

// TestOutput: children that hold it open, floods, rotation.
func TestOutput(t *testing.T) {
	w := newWorld(t)
	pod, _ := w.pod("a")
	// A child that holds the output open ends with the PID namespace.
	id := w.start(pod, containerConfig("leave", "leave"))
	if s := w.ended(id); s.ExitCode != 0 {
		t.Errorf("status: %v", s)
	}
	id = w.start(pod, containerConfig("flood", "flood", "300000"))
	w.ended(id)
	info, err := os.Stat(w.status(id).LogPath)
	must(t, err)
	if info.Size() < 300000*(100+40) {
		t.Errorf("log of %d bytes", info.Size())
	}
	// Rotation: the kubelet renames and asks to reopen.
	id = w.start(pod, containerConfig("tick", "tick"))
	w.logged(id, "stdout F tick 1")
	path := w.status(id).LogPath
	must(t, os.Rename(path, path+".1"))
	must(t, w.ReopenContainerLog(ctx, id))
	for deadline := time.Now().Add(5 * time.Second); len(w.log(id)) < 3; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("nothing is logged after rotation")
		}
	}
	must(t, w.StopContainer(ctx, id, 0))
	if err := w.ReopenContainerLog(ctx, id); err == nil {
		t.Error("reopened the log of what has ended")
	}
}

func TestEvents(t *testing.T) {
	w := newWorld(t)
	ch := make(chan *runtimeapi.ContainerEventResponse, 100)
	ready := make(chan struct{})
	c, cancel := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() {
		done <- w.GetContainerEvents(c, ch, func(runtimeapi.RuntimeService_GetContainerEventsClient) { close(ready) })
	}()
	<-ready
	pod, _ := w.pod("a")
	id := w.start(pod, containerConfig("c", "exit", "2"))
	w.ended(id)
	must(t, w.RemovePodSandbox(ctx, pod))
	var got []string
	for len(got) < 8 {
		select {
		case e := <-ch:
			who := "container"
			if e.ContainerId == pod {
				who = "sandbox"
			}
			got = append(got, who+" "+strings.TrimSuffix(strings.TrimPrefix(e.ContainerEventType.String(), "CONTAINER_"), "_EVENT"))
			if e.PodSandboxStatus.GetId() != pod {
				t.Errorf("event without its pod: %v", e)
			}
			if e.ContainerId == id && e.ContainerEventType == runtimeapi.ContainerEventType_CONTAINER_STOPPED_EVENT &&
				(len(e.ContainersStatuses) != 1 || e.ContainersStatuses[0].ExitCode != 2) {
				t.Errorf("stopped: %v", e.ContainersStatuses)
			}
		case <-time.After(5 * time.Second):
			t.Fatalf("events: %q", got)
		}
	}
	want := "[sandbox CREATED sandbox STARTED container CREATED container STARTED container STOPPED sandbox STOPPED container DELETED sandbox DELETED]"
	if fmt.Sprint(got) != want {
		t.Errorf("events: %v", got)
	}
	cancel()
	<-done
}

func TestNoShim(t *testing.T) {
	if _, err := shimFiles.ReadFile("shimbin/proa-shim"); err == nil {
		t.Skip("a shim is embedded")
	}
	_, err := New(Config{Root: t.TempDir(), Run: t.TempDir()})
	if !errors.Is(err, ErrNoShim) {
		t.Errorf("error: %v", err)
	}
}

// TestRemoveWhileStarting: whatever a pod's removal meets half-way is gone
// afterwards.
func TestRemoveWhileStarting(t *testing.T) {
	w := newWorld(t)
	for round := range 4 {
		pod, _ := w.pod(fmt.Sprint("p", round))
		var wg sync.WaitGroup
		for i := range 6 {
			wg.Go(func() {
				id, err := w.CreateContainer(ctx, pod, containerConfig(fmt.Sprint("c", i), "sleep"), nil)
				if err == nil {
					_ = w.StartContainer(ctx, id)
				}
			})
		}
		time.Sleep(time.Duration(round) * 30 * time.Millisecond)
		must(t, w.RemovePodSandbox(ctx, pod))
		wg.Wait()
		left, err := w.ListContainers(ctx, nil)
		must(t, err)
		for _, c := range left { // made after the removal looked: the kubelet removes them
			must(t, w.RemoveContainer(ctx, c.Id))
		}
		if pids := pidsBelow(w.version.dir("memory", "/"+w.cfg.CgroupRoot)); len(pids) > 0 {
			t.Errorf("round %d: processes left: %v", round, pids)
		}
		if len(w.images.use) != 0 || len(w.containers) != 0 {
			t.Errorf("round %d: left %v %v", round, w.images.use, w.containers)
		}
		if groups, _ := filepath.Glob(w.version.dir("memory", "/"+w.cfg.CgroupRoot) + "/*/*"); len(groups) > 0 {
			for _, g := range groups {
				if info, err := os.Stat(g); err == nil && info.IsDir() {
					t.Errorf("round %d: cgroup left: %s", round, g)
				}
			}
		}
	}
}

// TestIdle: an idle pod's shim is not woken once.
func TestIdle(t *testing.T) {
	w := newWorld(t)
	pod, _ := w.pod("a")
	id := w.start(pod, containerConfig("c", "sleep"))
	w.output(id, "print", "x")
	s, err := w.findSandbox(pod)
	must(t, err)
	switches := func() (all []string) {
		tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", w.sandboxRecord(s).Shim))
		for _, path := range tasks {
			data, _ := os.ReadFile(path)
			for line := range strings.Lines(string(data)) {
				if strings.Contains(line, "ctxt_switches") {
					all = append(all, line)
				}
			}
		}
		return all
	}
	time.Sleep(2500 * time.Millisecond) // it gives its memory back after one
	before := switches()
	time.Sleep(3 * time.Second)
	if after := switches(); !slices.Equal(before, after) {
		t.Errorf("the idle shim ran: %q, %q", before, after)
	}
}
