package cgroup

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestPodCgroup(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("cgroups need root")
	}
	tree, err := Open("/sys/fs/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	root := fmt.Sprintf("proa-cgroup-test-%d", os.Getpid())
	t.Cleanup(func() {
		if err := tree.Remove("/" + root); err != nil {
			t.Error(err)
		}
	})
	path := "/" + root + "/burstable/podu1"
	if err := tree.Set(path, &cri.LinuxContainerResources{CpuShares: 512, CpuPeriod: 100000, CpuQuota: 50000, MemoryLimitInBytes: 64 << 20}, 100); err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"cpu/%s/cpu.shares": "512", "cpu/%s/cpu.cfs_quota_us": "50000", "memory/%s/memory.limit_in_bytes": "67108864", "pids/%s/pids.max": "100"}
	procs := filepath.Join("/sys/fs/cgroup/cpu", path, "cgroup.procs")
	if tree.Unified() {
		want = map[string]string{"%s/cpu.max": "50000 100000", "%s/memory.max": "67108864", "%s/pids.max": "100"}
		procs = filepath.Join("/sys/fs/cgroup", path, "cgroup.procs")
	}
	for file, value := range want {
		got, err := os.ReadFile("/sys/fs/cgroup/" + fmt.Sprintf(file, path))
		if strings.TrimSpace(string(got)) != value {
			t.Errorf("%s is %q, want %q (%v)", file, got, value, err)
		}
	}
	if got := tree.Pods(root); got["u1"] != path {
		t.Errorf("pods %v", got)
	}
	cmd := exec.Command("sleep", "60")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(procs, fmt.Append(nil, cmd.Process.Pid), 0o644); err != nil {
		t.Error(err)
	}
	if got := tree.Process("/" + root); got != cmd.Process.Pid {
		t.Errorf("process %d, want %d", got, cmd.Process.Pid)
	}
	if err := tree.Remove(path); err == nil {
		t.Error("a cgroup with a process in it was removed")
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	if err := tree.Remove(path); err != nil {
		t.Error(err)
	}
	if got := tree.Pods(root); len(got) != 0 {
		t.Errorf("pods after removal: %v", got)
	}
}

// TestHandDown runs on plain files: what is written last is what the kernel would
// have been told last.
func TestHandDown(t *testing.T) {
	dir := t.TempDir()
	put := func(name, text string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	put("cgroup.controllers", "cpuset cpu io memory hugetlb pids rdma")
	put("cgroup.subtree_control", "cpu memory pids cpuset io")
	if err := handDown(dir); err != nil {
		t.Error(err)
	}
	if got, _ := os.ReadFile(filepath.Join(dir, "cgroup.subtree_control")); string(got) != "+hugetlb" {
		t.Errorf("asked for %q", got)
	}
	put("cgroup.controllers", "cpu pids")
	put("cgroup.subtree_control", "")
	if err := handDown(dir); err == nil || !strings.Contains(err.Error(), `controller "memory" is not available`) {
		t.Error(err)
	}
}
