package runtime

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestOOM(t *testing.T) {
	w := newWorld(t)
	pod, _ := w.pod("a")
	config := containerConfig("c", "alloc", "200")
	config.Linux.Resources.MemoryLimitInBytes = 32 << 20
	id := w.start(pod, config)
	if s := w.ended(id); s.Reason != "OOMKilled" || s.ExitCode != 137 {
		t.Errorf("status: %v", s)
	}
	config = containerConfig("fits", "alloc", "4")
	config.Linux.Resources.MemoryLimitInBytes = 64 << 20
	if s := w.ended(w.start(pod, config)); s.Reason != "Completed" {
		t.Errorf("status: %v", s)
	}
}

func (w *world) cgroupValue(id, controller, v1, v2 string) string {
	w.t.Helper()
	rec, err := w.runningContainer(id)
	must(w.t, err)
	file := v1
	if w.version == 2 {
		file = v2
	}
	data, err := os.ReadFile(filepath.Join(w.version.dir(controller, rec.Cgroup), file))
	must(w.t, err)
	return strings.TrimSpace(string(data))
}

func TestResources(t *testing.T) {
	w := newWorld(t)
	pod, podConfig := w.pod("a")
	config := containerConfig("c", "burn")
	config.Linux.Resources = &runtimeapi.LinuxContainerResources{CpuPeriod: 100000, CpuQuota: 20000, CpuShares: 204, MemoryLimitInBytes: 64 << 20, OomScoreAdj: -998}
	id := w.start(pod, config)
	if got := w.cgroupValue(id, "cpu", "cpu.cfs_quota_us", "cpu.max"); !strings.HasPrefix(got, "20000") {
		t.Errorf("quota %s", got)
	}
	if got := w.cgroupValue(id, "memory", "memory.limit_in_bytes", "memory.max"); got != fmt.Sprint(64<<20) {
		t.Errorf("limit %s", got)
	}
	if !strings.Contains(w.cgroupDir(id), podConfig.Linux.CgroupParent+"/"+id) {
		t.Errorf("cgroup %s", w.cgroupDir(id))
	}
	must(t, w.UpdateContainerResources(ctx, id, &runtimeapi.ContainerResources{Linux: &runtimeapi.LinuxContainerResources{CpuQuota: 30000, MemoryLimitInBytes: 96 << 20}}))
	if got := w.cgroupValue(id, "cpu", "cpu.cfs_quota_us", "cpu.max"); !strings.HasPrefix(got, "30000") {
		t.Errorf("updated quota %s", got)
	}
	if got := w.cgroupValue(id, "memory", "memory.limit_in_bytes", "memory.max"); got != fmt.Sprint(96<<20) {
		t.Errorf("updated limit %s", got)
	}
	if got := w.status(id).Resources.Linux; got.CpuQuota != 30000 || got.CpuShares != 204 {
		t.Errorf("status: %v", got)
	}
	w.output(id, "print", "exec still works after an update")
	if _, err := w.ContainerStats(ctx, id); err != nil {
		t.Fatal(err)
	}
	time.Sleep(1100 * time.Millisecond)
	stats, err := w.ContainerStats(ctx, id)
	must(t, err)
	// The quota is 30 % of a core.
	if got := stats.Cpu.GetUsageNanoCores().GetValue(); got < 1e8 || got > 4.5e8 {
		t.Errorf("CPU %d nanocores", got)
	}
	if m := stats.Memory; m.GetWorkingSetBytes().GetValue() == 0 || m.WorkingSetBytes.Value > m.UsageBytes.Value || m.AvailableBytes.GetValue() > 96<<20 {
		t.Errorf("memory %v", m)
	}
	ps, err := w.PodSandboxStats(ctx, pod)
	must(t, err)
	if ps.Linux.GetCpu().GetUsageCoreNanoSeconds().GetValue() == 0 || len(ps.Linux.Containers) != 1 || ps.Linux.GetProcess().GetProcessCount().GetValue() != 1 {
		t.Errorf("pod stats %v", ps.Linux)
	}
	err = w.UpdateContainerResources(ctx, id, &runtimeapi.ContainerResources{Linux: &runtimeapi.LinuxContainerResources{MemoryLimitInBytes: 4096}})
	if err == nil {
		t.Error("a limit below the use was taken")
	}
	if got := w.cgroupValue(id, "memory", "memory.limit_in_bytes", "memory.max"); got != fmt.Sprint(96<<20) {
		t.Errorf("limit after a refused update %s", got)
	}
}

func (w *world) cgroupDir(id string) string {
	rec, err := w.runningContainer(id)
	must(w.t, err)
	return rec.Cgroup
}

func TestUsers(t *testing.T) {
	w := newWorld(t)
	pod, _ := w.pod("a")
	n := func(v int64) *runtimeapi.Int64Value { return &runtimeapi.Int64Value{Value: v} }
	for i, c := range []struct {
		image string
		set   *runtimeapi.LinuxContainerSecurityContext
		want  string
	}{
		{want: "0 0 [0]"},
		{image: "web", want: "101 102 [102 200]"},
		{image: "web:root", want: "101 0 [0 200]"},
		{image: "5000:6000", want: "5000 6000 [6000]"},
		{image: "web", set: &runtimeapi.LinuxContainerSecurityContext{RunAsUser: n(0)}, want: "0 0 [0]"},
		{set: &runtimeapi.LinuxContainerSecurityContext{RunAsUser: n(101), SupplementalGroups: []int64{7}}, want: "101 102 [7 102 200]"},
		{set: &runtimeapi.LinuxContainerSecurityContext{RunAsUser: n(101), SupplementalGroups: []int64{7}, SupplementalGroupsPolicy: runtimeapi.SupplementalGroupsPolicy_Strict}, want: "101 102 [7 102]"},
		{set: &runtimeapi.LinuxContainerSecurityContext{RunAsUsername: "web", RunAsGroup: n(9)}, want: "101 9 [9 200]"},
	} {
		w.images.cfg.User = c.image
		config := containerConfig(fmt.Sprint("c", i), "id")
		sc := config.Linux.SecurityContext
		sc.RunAsUser, sc.RunAsGroup, sc.RunAsUsername = c.set.GetRunAsUser(), c.set.GetRunAsGroup(), c.set.GetRunAsUsername()
		sc.SupplementalGroups, sc.SupplementalGroupsPolicy = c.set.GetSupplementalGroups(), c.set.GetSupplementalGroupsPolicy()
		id := w.start(pod, config)
		s := w.ended(id)
		if got := w.log(id); len(got) != 1 || got[0] != "stdout F "+c.want {
			t.Errorf("%d: %q, want %s", i, got, c.want)
		}
		if u := s.User.GetLinux(); fmt.Sprint(u.GetUid(), u.GetGid(), u.GetSupplementalGroups()) != c.want {
			t.Errorf("%d: status %v", i, u)
		}
	}
	w.images.cfg.User = "nobody-knows"
	id := w.create(pod, containerConfig("unknown", "id"))
	if err := w.StartContainer(ctx, id); err == nil || !strings.Contains(err.Error(), "nobody-knows") {
		t.Errorf("unknown user: %v", err)
	}
}

func TestMounts(t *testing.T) {
	w := newWorld(t)
	pod, _ := w.pod("a")
	dir := t.TempDir()
	must(t, os.MkdirAll(filepath.Join(dir, "sub"), 0o755))
	must(t, os.WriteFile(filepath.Join(dir, "file"), []byte("content"), 0o644))
	must(t, os.Symlink(filepath.Join(dir, "file"), filepath.Join(dir, "link")))
	config := containerConfig("c", "sleep")
	config.Mounts = []*runtimeapi.Mount{
		{ContainerPath: "/data/inner", HostPath: filepath.Join(dir, "sub")}, // deeper, yet named first
		{ContainerPath: "/data", HostPath: dir},
		{ContainerPath: "/ro", HostPath: dir, Readonly: true},
		{ContainerPath: "/rro", HostPath: dir, Readonly: true, RecursiveReadOnly: true},
		{ContainerPath: "/etc/one", HostPath: filepath.Join(dir, "link"), Readonly: true},
		{ContainerPath: "/etc/resolv.conf", HostPath: filepath.Join(dir, "file")},
	}
	id := w.start(pod, config)
	if got := w.output(id, "read", "/etc/one"); got != "content" {
		t.Errorf("link: %q", got)
	}
	if got := w.output(id, "read", "/etc/resolv.conf"); got != "content" {
		t.Errorf("the pod's own resolv.conf: %q", got)
	}
	w.output(id, "write", "/data/inner/new", "x")
	if _, err := os.Stat(filepath.Join(dir, "sub/new")); err != nil {
		t.Error(err)
	}
	for _, path := range []string{"/ro/new", "/rro/new", "/rro/sub/new", "/etc/one", "/proc/sys/kernel/hostname", "/sys/kernel/x"} {
		if _, _, err := w.ExecSync(ctx, id, []string{"box", "write", path, "x"}, 0); err == nil {
			t.Errorf("%s can be written", path)
		}
	}
	other := w.start(pod, containerConfig("other", "sleep"))
	if got := w.output(other, "read", "/etc/resolv.conf"); got != "search ns.svc\nnameserver 10.0.0.10\noptions ndots:5" {
		t.Errorf("resolv.conf: %q", got)
	}
	if got := w.output(other, "hostname"); got != "a" {
		t.Errorf("host name %q", got)
	}
	// /dev/shm is the pod's.
	w.output(id, "write", "/dev/shm/x", "shared")
	if got := w.output(other, "read", "/dev/shm/x"); got != "shared" {
		t.Errorf("/dev/shm: %q", got)
	}
	readonly := containerConfig("readonly", "sleep")
	readonly.Linux.SecurityContext.ReadonlyRootfs = true
	id = w.start(pod, readonly)
	if _, _, err := w.ExecSync(ctx, id, []string{"box", "write", "/x", "x"}, 0); err == nil {
		t.Error("a read-only root can be written")
	}
}

func TestImageVolumes(t *testing.T) {
	w := newWorld(t)
	pod, _ := w.pod("a")
	must(t, os.Symlink("/../../../../../../../../etc", filepath.Join(w.images.dir, "image/trap")))
	volume := func(dest, sub string) *runtimeapi.Mount {
		return &runtimeapi.Mount{ContainerPath: dest, Image: &runtimeapi.ImageSpec{Image: "box"}, ImageSubPath: sub, Readonly: true}
	}
	config := containerConfig("c", "sleep")
	config.Mounts = []*runtimeapi.Mount{volume("/vol/tmp", "etc"), volume("/vol", ""), volume("/trap", "trap")}
	id := w.start(pod, config)
	for _, path := range []string{"/vol/etc/group", "/vol/tmp/group", "/trap/group"} {
		if got := w.output(id, "read", path); !strings.Contains(got, "extra:x:200:web") {
			t.Errorf("%s: %q", path, got)
		}
		if _, _, err := w.ExecSync(ctx, id, []string{"box", "write", path, "x"}, 0); err == nil {
			t.Errorf("%s can be written", path)
		}
	}
	if len(w.images.use) != 4 {
		t.Errorf("layers: %v", w.images.use)
	}
	must(t, w.StopContainer(ctx, id, 0))
	if left := mountsBelow(t, w.runDir("rootfs")); left != 0 {
		t.Errorf("%d mounts left", left)
	}
	must(t, w.RemoveContainer(ctx, id))
	if len(w.images.use) != 0 {
		t.Errorf("layers left: %v", w.images.use)
	}
	config = containerConfig("missing", "sleep")
	config.Mounts = []*runtimeapi.Mount{volume("/vol", "no/such")}
	id = w.create(pod, config)
	if err := w.StartContainer(ctx, id); err == nil || !strings.Contains(err.Error(), "no/such") {
		t.Errorf("missing sub path: %v", err)
	}
	config = containerConfig("leaving", "sleep")
	config.Mounts = []*runtimeapi.Mount{volume("/vol", "../x")}
	if _, err := w.CreateContainer(ctx, pod, config, nil); status.Code(err) != codes.InvalidArgument {
		t.Errorf("sub path that leaves: %v", err)
	}
}

func mountsBelow(t *testing.T, dir string) int {
	t.Helper()
	data, err := os.ReadFile("/proc/self/mountinfo")
	must(t, err)
	return strings.Count(string(data), " "+dir+"/")
}

// TestPropagation needs a mount that is shared; the machine's own may not be.
func TestPropagation(t *testing.T) {
	w := newWorld(t)
	pod, _ := w.pod("a")
	dir := t.TempDir()
	config := containerConfig("c", "sleep")
	config.Linux.SecurityContext.Privileged = true
	config.Mounts = []*runtimeapi.Mount{{ContainerPath: "/both", HostPath: dir, Propagation: runtimeapi.MountPropagation_PROPAGATION_BIDIRECTIONAL}}
	must(t, unix.Mount(dir, dir, "", unix.MS_BIND, ""))
	defer unix.Unmount(dir, unix.MNT_DETACH)
	must(t, unix.Mount("", dir, "", unix.MS_PRIVATE, ""))
	if _, err := w.CreateContainer(ctx, pod, config, nil); status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), "not a shared mount") {
		t.Errorf("not shared: %v", err)
	}
	must(t, unix.Mount("", dir, "", unix.MS_SHARED, ""))
	must(t, os.Mkdir(filepath.Join(dir, "m"), 0o755))
	id := w.start(pod, config)
	w.output(id, "mount", "/both/m")
	defer unix.Unmount(filepath.Join(dir, "m"), unix.MNT_DETACH)
	point, _, err := mountOf(filepath.Join(dir, "m"))
	if err != nil || point != filepath.Join(dir, "m") {
		t.Errorf("the container's mount is not on the node: %s %v", point, err)
	}
}

func TestRights(t *testing.T) {
	w := newWorld(t)
	pod, _ := w.pod("a")
	caps := func(id string) (eff, bound uint64, seccomp, nnp string) {
		for line := range strings.Lines(w.output(id, "read", "/proc/self/status")) {
			key, v, _ := strings.Cut(strings.TrimSpace(line), ":\t")
			switch key {
			case "CapEff":
				fmt.Sscanf(v, "%x", &eff)
			case "CapBnd":
				fmt.Sscanf(v, "%x", &bound)
			case "Seccomp":
				seccomp = v
			case "NoNewPrivs":
				nnp = v
			}
		}
		return
	}
	usual := w.start(pod, containerConfig("usual", "sleep"))
	if eff, bound, seccomp, nnp := caps(usual); eff != 0xa80425fb || bound != 0xa80425fb || seccomp != "2" || nnp != "0" {
		t.Errorf("usual: %x %x %s %s", eff, bound, seccomp, nnp)
	}
	for _, family := range []string{"38", "40"} { // AF_ALG, AF_VSOCK
		if _, out, err := w.ExecSync(ctx, usual, []string{"box", "socket", family}, 0); err == nil || !strings.Contains(string(out), "not permitted") {
			t.Errorf("socket family %s: %v %s", family, err, out)
		}
	}
	w.output(usual, "socket", "1")
	if _, out, err := w.ExecSync(ctx, usual, []string{"box", "mount", "/tmp"}, 0); err == nil || !strings.Contains(string(out), "not permitted") {
		t.Errorf("mount: %v %s", err, out)
	}
	config := containerConfig("less", "sleep")
	config.Linux.SecurityContext.Capabilities = &runtimeapi.Capability{DropCapabilities: []string{"ALL"}, AddCapabilities: []string{"NET_ADMIN"}}
	config.Linux.SecurityContext.NoNewPrivs = true
	if eff, _, _, nnp := caps(w.start(pod, config)); eff != 1<<unix.CAP_NET_ADMIN || nnp != "1" {
		t.Errorf("less: %x %s", eff, nnp)
	}
	config = containerConfig("privileged", "sleep")
	config.Linux.SecurityContext.Privileged = true
	id := w.start(pod, config)
	var own uint64
	for i, n := range allCapabilities {
		for _, o := range ownCapabilities() {
			if o == n {
				own |= 1 << i
			}
		}
	}
	if eff, _, seccomp, _ := caps(id); eff != own || seccomp != "0" {
		t.Errorf("privileged: %x, want %x, %s", eff, own, seccomp)
	}
	w.output(id, "mount", "/tmp")
	config = containerConfig("unknown", "sleep")
	config.Linux.SecurityContext.Capabilities = &runtimeapi.Capability{AddCapabilities: []string{"FLY"}}
	if _, err := w.CreateContainer(ctx, pod, config, nil); status.Code(err) != codes.InvalidArgument {
		t.Errorf("unknown capability: %v", err)
	}
	profile := filepath.Join(t.TempDir(), "seccomp.json")
	data, err := json.Marshal(specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{{Names: []string{"sethostname", "mkdirat"}, Action: specs.ActErrno}}})
	must(t, err)
	must(t, os.WriteFile(profile, data, 0o644))
	config = containerConfig("local", "sleep")
	config.Linux.SecurityContext.Seccomp = &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Localhost, LocalhostRef: profile}
	if _, _, seccomp, _ := caps(w.start(pod, config)); seccomp != "2" {
		t.Errorf("localhost profile: %s", seccomp)
	}
}

func TestNamespaces(t *testing.T) {
	w := newWorld(t)
	pod, _ := w.pod("shared", func(c *runtimeapi.PodSandboxConfig) {
		c.Linux.SecurityContext.NamespaceOptions.Pid = runtimeapi.NamespaceMode_POD
		c.Linux.Sysctls = map[string]string{"net.ipv4.tcp_syncookies": "0", "kernel.shm_rmid_forced": "1"}
	})
	share := func(c *runtimeapi.ContainerConfig) *runtimeapi.ContainerConfig {
		c.Linux.SecurityContext.NamespaceOptions.Pid = runtimeapi.NamespaceMode_POD
		return c
	}
	a := w.start(pod, share(containerConfig("a", "sleep", "a")))
	b := w.start(pod, share(containerConfig("b", "fork", "3")))
	w.logged(b, "stdout F forked")
	ps := w.output(a, "ps")
	if !strings.Contains(ps, "1 pause pause") || strings.Count(ps, "box sleep a") != 1 || !strings.Contains(ps, "box fork 3") {
		t.Errorf("processes:\n%s", ps)
	}
	must(t, w.StopContainer(ctx, b, 0))
	if ps := w.output(a, "ps"); strings.Contains(ps, "fork") || strings.Count(ps, "sleep") != 1 {
		t.Errorf("left of a stopped container:\n%s", ps)
	}
	if got := w.output(a, "read", "/proc/sys/net/ipv4/tcp_syncookies"); got != "0" {
		t.Errorf("sysctl %s", got)
	}
	debug := containerConfig("debug", "sleep")
	debug.Linux.SecurityContext.NamespaceOptions = &runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_TARGET, TargetId: a}
	if ps := w.output(w.start(pod, debug), "ps"); !strings.Contains(ps, "box sleep a") {
		t.Errorf("target's processes:\n%s", ps)
	}
	host, _ := w.pod("host", func(c *runtimeapi.PodSandboxConfig) {
		c.Linux.SecurityContext.NamespaceOptions = &runtimeapi.NamespaceOption{Network: runtimeapi.NamespaceMode_NODE,
			Pid: runtimeapi.NamespaceMode_NODE, Ipc: runtimeapi.NamespaceMode_NODE}
	})
	config := containerConfig("c", "leave")
	config.Linux.SecurityContext.NamespaceOptions = &runtimeapi.NamespaceOption{Network: runtimeapi.NamespaceMode_NODE,
		Pid: runtimeapi.NamespaceMode_NODE, Ipc: runtimeapi.NamespaceMode_NODE}
	id := w.start(host, config)
	w.ended(id)
	var left int
	fmt.Sscanf(w.log(id)[0], "stdout F left %d", &left)
	if left == 0 || alive(left) {
		t.Errorf("process %d outlived its container", left)
	}
	config = containerConfig("s", "sleep")
	config.Linux.SecurityContext.NamespaceOptions = &runtimeapi.NamespaceOption{Network: runtimeapi.NamespaceMode_NODE, Pid: runtimeapi.NamespaceMode_NODE}
	id = w.start(host, config)
	name, _ := os.Hostname()
	if got := w.output(id, "hostname"); got != name {
		t.Errorf("host name %q", got)
	}
	st, err := w.PodSandboxStatus(ctx, host, false)
	must(t, err)
	if st.Status.Network.Ip != "" {
		t.Errorf("address %s", st.Status.Network.Ip)
	}
}
