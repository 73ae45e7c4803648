package runtime

import (
	"bufio"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"proa/network"
)

// victimSetup is what a daemon that is to be killed is told.
type victimSetup struct {
	Root, Run, CgroupRoot, Shim, Images, Logs string
	Round                                     int
}

// victim is a daemon that makes and removes pods until it is killed.
func victim(dir string) {
	var s victimSetup
	data, err := os.ReadFile(filepath.Join(dir, "setup.json"))
	if err == nil {
		err = json.Unmarshal(data, &s)
	}
	if err != nil {
		panic(err)
	}
	images := &directoryImages{dir: s.Images, use: map[string]bool{}, cfg: v1.ImageConfig{Entrypoint: []string{"box"}, Env: []string{"PATH=/bin"}}}
	w := &world{images: images, net: &fakeNetwork{attached: map[string]network.Pod{}}, logs: s.Logs}
	w.cfg = Config{Root: s.Root, Run: s.Run, CgroupRoot: s.CgroupRoot, Shim: s.Shim, Images: images, Network: w.net}
	if w.Runtime, err = New(w.cfg); err != nil {
		panic(err)
	}
	fmt.Println("ready")
	var all sync.WaitGroup
	for i := range 3 {
		all.Go(func() {
			for n := 0; ; n++ {
				w.victimPod(fmt.Sprintf("r%d-%d-%d", s.Round, i, n))
			}
		})
	}
	all.Wait()
}

func (w *world) victimPod(name string) {
	pod, err := w.RunPodSandbox(ctx, w.podConfig(name), "")
	if err != nil {
		panic(err)
	}
	for c := range 2 {
		id, err := w.CreateContainer(ctx, pod, containerConfig(fmt.Sprint("c", c), "sleep"), nil)
		if err == nil {
			err = w.StartContainer(ctx, id)
		}
		if err != nil {
			panic(err)
		}
	}
	if rand.IntN(3) > 0 {
		if err := w.RemovePodSandbox(ctx, pod); err != nil {
			panic(err)
		}
	}
}

// TestKilledAnywhere kills a daemon at a random instant, again and again: the
// next one must know of all that runs, and when that is removed nothing is left.
func TestKilledAnywhere(t *testing.T) {
	w := newWorld(t)
	must(t, w.Close(ctx))
	w.Runtime = nil
	rounds := 6
	if testing.Short() {
		rounds = 2
	}
	for round := range rounds {
		dir := t.TempDir()
		data, err := json.Marshal(victimSetup{Root: w.cfg.Root, Run: w.cfg.Run, CgroupRoot: w.cfg.CgroupRoot, Shim: shimPath,
			Images: w.images.dir, Logs: w.logs, Round: round})
		must(t, err)
		must(t, os.WriteFile(filepath.Join(dir, "setup.json"), data, 0o600))
		exe, err := os.Executable()
		must(t, err)
		cmd := exec.Command(exe)
		cmd.Env = append(os.Environ(), "PROA_TEST_VICTIM="+dir)
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		must(t, err)
		must(t, cmd.Start())
		if line, _ := bufio.NewReader(out).ReadString('\n'); line != "ready\n" {
			t.Fatalf("the daemon said %q", line)
		}
		time.Sleep(time.Duration(rand.IntN(600)) * time.Millisecond)
		must(t, cmd.Process.Kill())
		_ = cmd.Wait()

		w.restart()
		w.consistent(round)
		if round%2 == 1 {
			w.emptied(round)
		}
		must(t, w.Close(ctx))
		w.Runtime = nil
	}
}

// consistent checks that what is told runs, and that nothing else does.
func (w *world) consistent(round int) {
	w.t.Helper()
	shims := map[string]bool{}
	ready, err := w.ListPodSandbox(ctx, &runtimeapi.PodSandboxFilter{State: &runtimeapi.PodSandboxStateValue{State: runtimeapi.PodSandboxState_SANDBOX_READY}})
	must(w.t, err)
	for _, p := range ready {
		st, err := w.PodSandboxStatus(ctx, p.Id, false)
		must(w.t, err)
		s, _ := w.findSandbox(p.Id)
		shims[fmt.Sprint(w.sandboxRecord(s).Shim)] = true
		for _, c := range st.ContainersStatuses {
			if c.State == runtimeapi.ContainerState_CONTAINER_RUNNING {
				w.reallyRuns(p.Id, c.Id)
			}
		}
	}
	for _, path := range shimProcesses() {
		if pid := filepath.Base(filepath.Dir(path)); !shims[pid] {
			w.t.Errorf("round %d: shim %s belongs to no sandbox", round, pid)
		}
	}
	for _, dir := range []string{"sandboxes", "rootfs"} {
		entries, _ := os.ReadDir(w.runDir(dir))
		for _, e := range entries {
			if dir == "sandboxes" && w.sandboxes[e.Name()] == nil || dir == "rootfs" && w.containers[e.Name()] == nil {
				w.t.Errorf("round %d: %s/%s belongs to nothing", round, dir, e.Name())
			}
		}
	}
}

// reallyRuns allows for a pod that was being removed when the daemon was killed:
// its end is then still under way.
func (w *world) reallyRuns(pod, id string) {
	w.t.Helper()
	_, _, err := w.ExecSync(ctx, id, []string{"box", "print", "I run"}, 0)
	if err == nil {
		return
	}
	if s := w.ended(id); s.ExitCode != 137 {
		w.t.Errorf("neither runs nor was killed: %v: %v", err, s)
	}
	w.notReady(pod)
}

// emptied removes every pod and checks that nothing is left.
func (w *world) emptied(round int) {
	w.t.Helper()
	all, err := w.ListPodSandbox(ctx, nil)
	must(w.t, err)
	for _, p := range all {
		must(w.t, w.RemovePodSandbox(ctx, p.Id))
	}
	if len(w.containers) != 0 || len(w.sandboxes) != 0 {
		w.t.Errorf("round %d: %d containers and %d sandboxes left", round, len(w.containers), len(w.sandboxes))
	}
	if left := shimProcesses(); len(left) > 0 {
		w.t.Errorf("round %d: shims left: %v", round, left)
	}
	for _, dir := range []string{filepath.Join(w.images.dir, "c"), w.runDir("rootfs"), w.runDir("sandboxes"), w.containerRecords(), w.sandboxRecords()} {
		if entries, _ := os.ReadDir(dir); len(entries) > 0 {
			w.t.Errorf("round %d: left in %s: %v", round, dir, entries)
		}
	}
	if pids := pidsBelow(w.version.dir("memory", "/"+w.cfg.CgroupRoot)); len(pids) > 0 {
		w.t.Errorf("round %d: processes left: %v", round, pids)
	}
	groups, _ := filepath.Glob(w.version.dir("memory", "/"+w.cfg.CgroupRoot) + "/pod*/*/cgroup.procs")
	if len(groups) > 0 {
		w.t.Errorf("round %d: cgroups left: %v", round, groups)
	}
}

func shimProcesses() (found []string) {
	procs, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, p := range procs {
		if args, _ := os.ReadFile(p); strings.HasPrefix(string(args), shimPath+"\x00pod") {
			found = append(found, p)
		}
	}
	return found
}
