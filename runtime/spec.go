package runtime

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"proa/image"
	"proa/runtime/wire"
)

// containerSpec gathers what buildSpec needs from the machine.
func (r *Runtime) containerSpec(rec containerRecord, img image.Image) (*specs.Spec, error) {
	r.mu.RLock()
	s := r.sandboxes[rec.Sandbox]
	var pod *runtimeapi.PodSandboxConfig
	if s != nil {
		pod = s.rec.Config.M
	}
	r.mu.RUnlock()
	if pod == nil {
		return nil, notFound("sandbox", rec.Sandbox)
	}
	in := specInput{config: rec.Config.M, resources: rec.Resources.M, pod: pod, image: img.Config, rootfs: rec.Rootfs.Path,
		cgroup: rec.Cgroup, podDir: r.runDir("sandboxes", rec.Sandbox), version: r.version, caps: ownCapabilities()}
	if rec.Config.M.GetLinux().GetSecurityContext().GetPrivileged() {
		var err error
		if in.hostDevices, err = hostDevices(); err != nil {
			return nil, err
		}
	}
	spec, err := buildSpec(in)
	if err == nil {
		r.warmFilter(spec.Linux.Seccomp)
	}
	return spec, err
}

// specInput is all that a container's specification follows from.
type specInput struct {
	config      *runtimeapi.ContainerConfig
	resources   *runtimeapi.LinuxContainerResources
	pod         *runtimeapi.PodSandboxConfig
	image       v1.ImageConfig
	rootfs      string
	cgroup      string
	podDir      string
	version     cgroupVersion
	caps        []string // what the daemon itself may
	hostDevices []specs.LinuxDevice
}

// defaultPath is for images that say nothing.
const defaultPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// buildSpec is the OCI specification of a container, but for its user.
func buildSpec(in specInput) (*specs.Spec, error) {
	sc := in.config.GetLinux().GetSecurityContext()
	process, err := processSpec(in, sc)
	if err != nil {
		return nil, err
	}
	mounts, err := mountSpecs(in, sc)
	if err != nil {
		return nil, err
	}
	devices, rules, err := deviceSpecs(in, sc)
	if err != nil {
		return nil, err
	}
	resources := linuxResources(in.resources, in.version)
	resources.Devices = rules
	linux := &specs.Linux{
		CgroupsPath: in.cgroup, Resources: resources, Devices: devices,
		Namespaces:        namespaceSpecs(in, sc),
		RootfsPropagation: rootPropagation(in.config.GetMounts()),
	}
	if !sc.GetPrivileged() {
		linux.MaskedPaths, linux.ReadonlyPaths = sc.GetMaskedPaths(), sc.GetReadonlyPaths()
		if linux.Seccomp, err = seccompProfile(sc.GetSeccomp(), process.Capabilities.Bounding); err != nil {
			return nil, err
		}
	}
	return &specs.Spec{Version: specs.Version, Process: process, Mounts: mounts, Linux: linux,
		Root: &specs.Root{Path: in.rootfs, Readonly: sc.GetReadonlyRootfs()}}, nil
}

func processSpec(in specInput, sc *runtimeapi.LinuxContainerSecurityContext) (*specs.Process, error) {
	args := commandOf(in.config, in.image)
	if len(args) == 0 {
		return nil, invalid("no command specified: neither the container nor its image has one")
	}
	caps, err := capabilities(sc, in.caps)
	if err != nil {
		return nil, err
	}
	p := &specs.Process{Terminal: in.config.Tty, Args: args, Cwd: "/", Capabilities: caps, NoNewPrivileges: sc.GetNoNewPrivs(),
		Env: environment(in)}
	for _, dir := range []string{in.image.WorkingDir, in.config.WorkingDir} {
		if dir != "" {
			p.Cwd = filepath.Join("/", dir)
		}
	}
	if !sc.GetPrivileged() {
		if p.ApparmorProfile, err = apparmorProfile(sc.GetApparmor()); err != nil {
			return nil, err
		}
	}
	if in.resources != nil {
		score := int(in.resources.OomScoreAdj)
		p.OOMScoreAdj = &score
	}
	return p, nil
}

// commandOf merges as Kubernetes documents it: command replaces the image's
// entry point and command, args alone its command.
func commandOf(c *runtimeapi.ContainerConfig, img v1.ImageConfig) []string {
	switch {
	case len(c.Command) > 0:
		return slices.Concat(c.Command, c.Args)
	case len(c.Args) > 0:
		return slices.Concat(img.Entrypoint, c.Args)
	}
	return slices.Concat(img.Entrypoint, img.Cmd)
}

// environment is the image's, then the container's, each name once.
func environment(in specInput) []string {
	env := []string{defaultPath, "HOSTNAME=" + hostname(in.pod)}
	if in.config.Tty {
		env = append(env, "TERM=xterm")
	}
	at := map[string]int{}
	set := func(entry string) {
		name, _, _ := strings.Cut(entry, "=")
		if i, ok := at[name]; ok {
			env[i] = entry
			return
		}
		at[name] = len(env)
		env = append(env, entry)
	}
	for i, e := range env {
		name, _, _ := strings.Cut(e, "=")
		at[name] = i
	}
	for _, e := range in.image.Env {
		set(e)
	}
	for _, e := range in.config.Envs {
		set(e.Key + "=" + string(e.Value))
	}
	return env
}

// namespaceSpecs lists what the container does not simply have from the shim:
// network, IPC and host name are the shim's own.
func namespaceSpecs(in specInput, sc *runtimeapi.LinuxContainerSecurityContext) []specs.LinuxNamespace {
	ns := []specs.LinuxNamespace{{Type: specs.MountNamespace}}
	opts := sc.GetNamespaceOptions()
	mode := opts.GetPid()
	if opts == nil {
		mode = runtimeapi.NamespaceMode_CONTAINER
	}
	switch mode {
	case runtimeapi.NamespaceMode_CONTAINER:
		ns = append(ns, specs.LinuxNamespace{Type: specs.PIDNamespace})
	case runtimeapi.NamespaceMode_POD:
		// The zero value: also what comes when a pod says nothing.
		if options(in.pod).GetPid() == runtimeapi.NamespaceMode_POD {
			ns = append(ns, specs.LinuxNamespace{Type: specs.PIDNamespace, Path: "pod"})
		} else {
			ns = append(ns, specs.LinuxNamespace{Type: specs.PIDNamespace})
		}
	case runtimeapi.NamespaceMode_TARGET:
		ns = append(ns, specs.LinuxNamespace{Type: specs.PIDNamespace, Path: opts.GetTargetId()})
	}
	if in.version == 2 && !sc.GetPrivileged() {
		ns = append(ns, specs.LinuxNamespace{Type: specs.CgroupNamespace})
	}
	return ns
}

func wireUser(sc *runtimeapi.LinuxContainerSecurityContext, image string) wire.User {
	u := wire.User{Name: image, Groups: sc.GetSupplementalGroups(),
		Strict: sc.GetSupplementalGroupsPolicy() == runtimeapi.SupplementalGroupsPolicy_Strict}
	if sc.GetRunAsUsername() != "" {
		u.Name = sc.GetRunAsUsername()
	}
	if v := sc.GetRunAsUser(); v != nil {
		u.UID = &v.Value
	}
	if v := sc.GetRunAsGroup(); v != nil {
		u.GID = &v.Value
	}
	return u
}

// cgroupPath is a container's cgroup below its pod's.
func cgroupPath(parent, id string) (string, error) {
	if slices.Contains(strings.Split(parent, "/"), "..") || strings.HasSuffix(parent, ".slice") {
		return "", invalid("cgroup parent %q: not a cgroupfs path", parent)
	}
	return filepath.Join("/", parent, id), nil
}

// linuxResources is the OCI form of limits.
func linuxResources(r *runtimeapi.LinuxContainerResources, v cgroupVersion) *specs.LinuxResources {
	out := &specs.LinuxResources{CPU: &specs.LinuxCPU{}, Memory: &specs.LinuxMemory{}}
	if r == nil {
		return out
	}
	if r.CpuShares > 0 {
		shares := uint64(r.CpuShares)
		out.CPU.Shares = &shares
	}
	if r.CpuQuota != 0 {
		quota := r.CpuQuota
		out.CPU.Quota = &quota
	}
	if r.CpuPeriod > 0 {
		period := uint64(r.CpuPeriod)
		out.CPU.Period = &period
	}
	out.CPU.Cpus, out.CPU.Mems = r.CpusetCpus, r.CpusetMems
	if r.MemoryLimitInBytes != 0 {
		limit, swap := r.MemoryLimitInBytes, r.MemoryLimitInBytes
		if r.MemorySwapLimitInBytes != 0 {
			swap = r.MemorySwapLimitInBytes
		}
		out.Memory.Limit = &limit
		if v.hasSwap() {
			out.Memory.Swap = &swap
		}
	}
	for _, h := range r.HugepageLimits {
		out.HugepageLimits = append(out.HugepageLimits, specs.LinuxHugepageLimit{Pagesize: h.PageSize, Limit: h.Limit})
	}
	if v == 2 && len(r.Unified) > 0 {
		out.Unified = r.Unified
	}
	return out
}

// hasSwap tells whether the kernel accounts swap.
func (v cgroupVersion) hasSwap() bool {
	return map[cgroupVersion]func() bool{1: swapV1, 2: swapV2}[v]()
}

var swapV1 = sync.OnceValue(func() bool {
	_, err := os.Stat(filepath.Join(cgroupMount, "memory", "memory.memsw.limit_in_bytes"))
	return err == nil
})

var swapV2 = sync.OnceValue(func() bool {
	found, _ := filepath.Glob(filepath.Join(cgroupMount, "*", "memory.swap.max"))
	return len(found) > 0
})

// mergeResources is what holds after an update: set fields replace.
func mergeResources(old, update *runtimeapi.LinuxContainerResources) *runtimeapi.LinuxContainerResources {
	out := &runtimeapi.LinuxContainerResources{}
	if old != nil {
		out = proto.Clone(old).(*runtimeapi.LinuxContainerResources)
	}
	if update != nil {
		u := proto.Clone(update).(*runtimeapi.LinuxContainerResources)
		if len(u.HugepageLimits) > 0 {
			out.HugepageLimits = nil // else they would be added
		}
		proto.Merge(out, u)
	}
	return out
}

// capabilities of a container: the usual set, all for the privileged, and what
// the pod adds and drops.
func capabilities(sc *runtimeapi.LinuxContainerSecurityContext, own []string) (*specs.LinuxCapabilities, error) {
	set := map[string]bool{}
	add := func(names []string, on bool) error {
		for _, n := range names {
			n = "CAP_" + strings.TrimPrefix(strings.ToUpper(n), "CAP_")
			switch {
			case n == "CAP_ALL" && on:
				for _, c := range own {
					set[c] = true
				}
			case n == "CAP_ALL":
				clear(set)
			case !slices.Contains(allCapabilities, n):
				return invalid("unknown capability %q", n)
			case on:
				set[n] = true
			default:
				delete(set, n)
			}
		}
		return nil
	}
	base := defaultCapabilities
	if sc.GetPrivileged() {
		base = own
	}
	_ = add(base, true)
	c := sc.GetCapabilities()
	if !sc.GetPrivileged() {
		// "ALL" first, so that what is named survives it.
		all, named := splitAll(c.GetAddCapabilities())
		dropAll, dropNamed := splitAll(c.GetDropCapabilities())
		for _, step := range []struct {
			names []string
			on    bool
		}{{all, true}, {dropAll, false}, {named, true}, {dropNamed, false}} {
			if err := add(step.names, step.on); err != nil {
				return nil, err
			}
		}
	}
	out := &specs.LinuxCapabilities{}
	for _, n := range allCapabilities {
		if set[n] {
			out.Bounding = append(out.Bounding, n)
		}
	}
	out.Effective, out.Permitted = out.Bounding, out.Bounding
	for _, n := range c.GetAddAmbientCapabilities() {
		n = "CAP_" + strings.TrimPrefix(strings.ToUpper(n), "CAP_")
		if set[n] {
			out.Ambient, out.Inheritable = append(out.Ambient, n), append(out.Inheritable, n)
		}
	}
	return out, nil
}

func splitAll(names []string) (all, named []string) {
	for _, n := range names {
		if strings.EqualFold(n, "ALL") || strings.EqualFold(n, "CAP_ALL") {
			all = append(all, n)
		} else {
			named = append(named, n)
		}
	}
	return all, named
}

// defaultCapabilities are those of Docker and the container runtimes.
var defaultCapabilities = []string{"CAP_AUDIT_WRITE", "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_MKNOD",
	"CAP_NET_BIND_SERVICE", "CAP_NET_RAW", "CAP_SETFCAP", "CAP_SETGID", "CAP_SETPCAP", "CAP_SETUID", "CAP_SYS_CHROOT"}

// allCapabilities by number (linux/capability.h).
var allCapabilities = []string{"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL",
	"CAP_SETGID", "CAP_SETUID", "CAP_SETPCAP", "CAP_LINUX_IMMUTABLE", "CAP_NET_BIND_SERVICE", "CAP_NET_BROADCAST", "CAP_NET_ADMIN",
	"CAP_NET_RAW", "CAP_IPC_LOCK", "CAP_IPC_OWNER", "CAP_SYS_MODULE", "CAP_SYS_RAWIO", "CAP_SYS_CHROOT", "CAP_SYS_PTRACE",
	"CAP_SYS_PACCT", "CAP_SYS_ADMIN", "CAP_SYS_BOOT", "CAP_SYS_NICE", "CAP_SYS_RESOURCE", "CAP_SYS_TIME", "CAP_SYS_TTY_CONFIG",
	"CAP_MKNOD", "CAP_LEASE", "CAP_AUDIT_WRITE", "CAP_AUDIT_CONTROL", "CAP_SETFCAP", "CAP_MAC_OVERRIDE", "CAP_MAC_ADMIN",
	"CAP_SYSLOG", "CAP_WAKE_ALARM", "CAP_BLOCK_SUSPEND", "CAP_AUDIT_READ", "CAP_PERFMON", "CAP_BPF", "CAP_CHECKPOINT_RESTORE"}

// ownCapabilities is what this process may: nobody can give more.
var ownCapabilities = sync.OnceValue(func() (names []string) {
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if unix.Capget(&hdr, &data[0]) != nil {
		return nil
	}
	for i, n := range allCapabilities {
		if data[i/32].Permitted&(1<<(i%32)) != 0 {
			names = append(names, n)
		}
	}
	return names
})

func deviceErr(path string, err error) error { return fmt.Errorf("device %s: %w", path, err) }
