package runtime

import (
	"bytes"
	"crypto/sha256"
	_ "embed"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	goruntime "runtime"
	"slices"
	"strings"
	"sync"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

//go:embed seccomp.txt
var seccompText string

// seccompCalls are the names in seccomp.txt by the section they are in; "" is
// for all containers.
var seccompCalls = sync.OnceValue(func() map[string][]string {
	sections, name := map[string][]string{}, ""
	for line := range strings.Lines(seccompText) {
		line = strings.TrimSpace(line)
		switch {
		case line == "" || line[0] == '#':
		case line[0] == '[':
			name = strings.Trim(line, "[]")
		default:
			sections[name] = append(sections[name], strings.Fields(line)...)
		}
	}
	return sections
})

// seccompArches are the ABIs a 64-bit machine runs.
var seccompArches = map[string][]specs.Arch{
	"amd64": {specs.ArchX86_64, specs.ArchX86, specs.ArchX32},
	"arm64": {specs.ArchAARCH64, specs.ArchARM},
}

// newNamespaces are the clone(2) flags that need CAP_SYS_ADMIN.
const newNamespaces = unix.CLONE_NEWNS | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC | unix.CLONE_NEWUSER |
	unix.CLONE_NEWPID | unix.CLONE_NEWNET | unix.CLONE_NEWCGROUP

// seccompProfile is the profile of a container with these capabilities; nil is
// none.
func seccompProfile(p *runtimeapi.SecurityProfile, caps []string) (*specs.LinuxSeccomp, error) {
	switch p.GetProfileType() {
	case runtimeapi.SecurityProfile_RuntimeDefault:
		if p == nil {
			return nil, nil // not asked for
		}
		return defaultSeccomp(caps), nil
	case runtimeapi.SecurityProfile_Localhost:
		return loadSeccomp(p.GetLocalhostRef())
	}
	return nil, nil
}

// warmFilter has the shim translate a profile ahead of the containers that will
// use it, once each.
func (r *Runtime) warmFilter(profile *specs.LinuxSeccomp) {
	if profile == nil {
		return
	}
	text, err := json.Marshal(profile)
	if err != nil {
		return
	}
	if _, known := r.filters.LoadOrStore(sha256.Sum256(text), true); known {
		return
	}
	r.background(func() {
		cmd := exec.Command(r.shim, "seccomp")
		cmd.Stdin, cmd.Env = bytes.NewReader(text), shimEnv
		// A profile that kills its process on the way out has served all the same.
		if out, err := cmd.CombinedOutput(); err != nil && len(out) > 0 {
			r.log.Warn("a seccomp profile could not be prepared; containers start slower", "err", err, "output", string(out))
		}
	})
}

func loadSeccomp(path string) (*specs.LinuxSeccomp, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, invalid("seccomp profile: %v", err)
	}
	profile := new(specs.LinuxSeccomp)
	if err := json.Unmarshal(data, profile); err != nil {
		return nil, invalid("seccomp profile %s: %v", path, err)
	}
	return profile, nil
}

func defaultSeccomp(caps []string) *specs.LinuxSeccomp {
	allow := func(names []string, args ...specs.LinuxSeccompArg) specs.LinuxSyscall {
		return specs.LinuxSyscall{Names: names, Action: specs.ActAllow, Args: args}
	}
	arg := func(op specs.LinuxSeccompOperator, value uint64) specs.LinuxSeccompArg {
		return specs.LinuxSeccompArg{Index: 0, Value: value, Op: op}
	}
	calls := seccompCalls()
	names := slices.Concat(calls[""], calls[goruntime.GOARCH])
	for _, c := range caps {
		names = append(names, calls[c]...)
	}
	slices.Sort(names)
	profile := &specs.LinuxSeccomp{
		DefaultAction: specs.ActErrno,
		Architectures: seccompArches[goruntime.GOARCH],
		Syscalls:      []specs.LinuxSyscall{allow(slices.Compact(names))},
	}
	// All address families but AF_ALG (38) and AF_VSOCK (40): the kernel's
	// cryptography and the machine's hypervisor are not the container's.
	for _, a := range []specs.LinuxSeccompArg{
		arg(specs.OpLessThan, unix.AF_ALG), arg(specs.OpEqualTo, unix.AF_NFC), arg(specs.OpGreaterThan, unix.AF_VSOCK)} {
		profile.Syscalls = append(profile.Syscalls, allow([]string{"socket"}, a))
	}
	// personality(2): the usual ones, with and without UNAME26, and asking which.
	for _, value := range []uint64{0, 0x8, 0x20000, 0x20008, 0xffffffff} {
		profile.Syscalls = append(profile.Syscalls, allow([]string{"personality"}, arg(specs.OpEqualTo, value)))
	}
	if !slices.Contains(caps, "CAP_SYS_ADMIN") {
		nosys := uint(unix.ENOSYS)
		profile.Syscalls = append(profile.Syscalls,
			allow([]string{"clone"}, specs.LinuxSeccompArg{Index: 0, Value: newNamespaces, Op: specs.OpMaskedEqual}),
			// ENOSYS has C libraries fall back to clone, whose flags can be seen.
			specs.LinuxSyscall{Names: []string{"clone3"}, Action: specs.ActErrno, ErrnoRet: &nosys})
	}
	return profile
}

func apparmorProfile(p *runtimeapi.SecurityProfile) (string, error) {
	if p.GetProfileType() != runtimeapi.SecurityProfile_Localhost {
		return "", nil
	}
	if _, err := os.Stat("/sys/kernel/security/apparmor"); err != nil {
		return "", fmt.Errorf("apparmor profile %q: the kernel has no AppArmor", p.GetLocalhostRef())
	}
	return strings.TrimPrefix(p.GetLocalhostRef(), "localhost/"), nil
}
