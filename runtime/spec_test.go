package runtime

import (
	"slices"
	"strings"
	"testing"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestCommand(t *testing.T) {
	img := v1.ImageConfig{Entrypoint: []string{"ep"}, Cmd: []string{"c1", "c2"}}
	for _, c := range []struct {
		command, args []string
		want          string
	}{
		{nil, nil, "ep c1 c2"},
		{nil, []string{"a"}, "ep a"},
		{[]string{"x"}, nil, "x"},
		{[]string{"x"}, []string{"a"}, "x a"},
	} {
		got := commandOf(&runtimeapi.ContainerConfig{Command: c.command, Args: c.args}, img)
		if strings.Join(got, " ") != c.want {
			t.Errorf("%v %v: %v", c.command, c.args, got)
		}
	}
}

func TestEnvironment(t *testing.T) {
	in := specInput{pod: &runtimeapi.PodSandboxConfig{Hostname: "h"}, image: v1.ImageConfig{Env: []string{"A=1", "PATH=/bin", "B=x=y"}},
		config: &runtimeapi.ContainerConfig{Envs: []*runtimeapi.KeyValue{{Key: "A", Value: []byte("2")}, {Key: "C", Value: []byte("3")}, {Key: "HOSTNAME", Value: []byte("mine")}}}}
	if got := strings.Join(environment(in), " "); got != "PATH=/bin HOSTNAME=mine A=2 B=x=y C=3" {
		t.Error(got)
	}
}

func TestSignals(t *testing.T) {
	for name, want := range map[string]unix.Signal{"": unix.SIGTERM, "SIGINT": unix.SIGINT, "int": unix.SIGINT, "9": unix.SIGKILL, "SIGRTMIN+3": 37,
		"RTMIN": 34, "SIGRTMAX-1": 63, "RTMINPLUS15": 49, "RTMAXMINUS14": 50, "nonsense": unix.SIGTERM, "SIGRTMIN+99": unix.SIGTERM, "0": unix.SIGTERM, "-1": unix.SIGTERM} {
		if got := parseSignal(name); got != want {
			t.Errorf("%q: %d", name, got)
		}
	}
	for name := range runtimeapi.Signal_value {
		s := runtimeapi.Signal(runtimeapi.Signal_value[name])
		if s == runtimeapi.Signal_SIGNAL_RUNTIME_DEFAULT {
			continue
		}
		sig := parseSignal(strings.TrimPrefix(name, "SIGNAL_"))
		if back := parseSignal(strings.TrimPrefix(signalEnum(sig).String(), "SIGNAL_")); back != sig {
			t.Errorf("%s: %d, back %d", name, sig, back)
		}
	}
}

func TestCapabilities(t *testing.T) {
	own := ownCapabilities()
	for _, c := range []struct {
		add, drop, ambient []string
		has, not           []string
	}{
		{has: []string{"CAP_CHOWN"}, not: []string{"CAP_SYS_ADMIN"}},
		{add: []string{"sys_time"}, drop: []string{"CHOWN"}, has: []string{"CAP_SYS_TIME", "CAP_KILL"}, not: []string{"CAP_CHOWN"}},
		{add: []string{"CAP_CHOWN"}, drop: []string{"all"}, has: []string{"CAP_CHOWN"}, not: []string{"CAP_KILL"}},
		{add: []string{"ALL"}, drop: []string{"SYS_MODULE"}, not: []string{"CAP_SYS_MODULE"}},
	} {
		got, err := capabilities(&runtimeapi.LinuxContainerSecurityContext{Capabilities: &runtimeapi.Capability{AddCapabilities: c.add, DropCapabilities: c.drop}}, own)
		if err != nil {
			t.Error(err)
			continue
		}
		for _, n := range c.has {
			if !slices.Contains(got.Effective, n) {
				t.Errorf("+%v -%v lacks %s", c.add, c.drop, n)
			}
		}
		for _, n := range c.not {
			if slices.Contains(got.Bounding, n) {
				t.Errorf("+%v -%v has %s", c.add, c.drop, n)
			}
		}
		if len(got.Inheritable) != 0 {
			t.Errorf("inheritable %v", got.Inheritable)
		}
	}
}

func TestResourcesMerge(t *testing.T) {
	old := &runtimeapi.LinuxContainerResources{CpuShares: 5, MemoryLimitInBytes: 9, HugepageLimits: []*runtimeapi.HugepageLimit{{PageSize: "2MB", Limit: 1}}}
	got := mergeResources(old, &runtimeapi.LinuxContainerResources{MemoryLimitInBytes: 10, HugepageLimits: []*runtimeapi.HugepageLimit{{PageSize: "2MB", Limit: 2}}})
	if got.CpuShares != 5 || got.MemoryLimitInBytes != 10 || len(got.HugepageLimits) != 1 || got.HugepageLimits[0].Limit != 2 || old.MemoryLimitInBytes != 9 {
		t.Errorf("%v", got)
	}
	if r := linuxResources(got, 2); *r.Memory.Limit != 10 || *r.CPU.Shares != 5 || r.CPU.Quota != nil {
		t.Errorf("%+v", r)
	}
}

// TestDefaultProfile: the names are real and none is there twice.
func TestDefaultProfile(t *testing.T) {
	p := defaultSeccomp(defaultCapabilities)
	seen := map[string]bool{}
	for _, s := range p.Syscalls {
		if len(s.Args) > 0 {
			continue
		}
		for _, n := range s.Names {
			if seen[n] {
				t.Errorf("%s is there twice", n)
			}
			seen[n] = true
		}
	}
	for _, n := range []string{"read", "execve", "chroot", "arch_prctl", "faccessat2", "openat2"} {
		if !seen[n] && (n != "arch_prctl" || seccompArches["amd64"] != nil) {
			t.Errorf("%s is missing", n)
		}
	}
	for _, n := range []string{"mount", "bpf", "keyctl", "kexec_load", "init_module", "unshare", "setns", "io_uring_setup", "userfaultfd"} {
		if seen[n] {
			t.Errorf("%s is allowed", n)
		}
	}
}
