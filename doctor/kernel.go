package doctor

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"
)

// needCaps are the capabilities a node uses, by their bit (capability(7)).
var needCaps = []struct {
	bit  uint
	name string
}{
	{0, "CAP_CHOWN"}, {1, "CAP_DAC_OVERRIDE"}, {5, "CAP_KILL"}, {6, "CAP_SETGID"}, {7, "CAP_SETUID"}, {8, "CAP_SETPCAP"},
	{10, "CAP_NET_BIND_SERVICE"}, {12, "CAP_NET_ADMIN"}, {13, "CAP_NET_RAW"}, {18, "CAP_SYS_CHROOT"}, {19, "CAP_SYS_PTRACE"},
	{21, "CAP_SYS_ADMIN"}, {27, "CAP_MKNOD"},
}

func root(Config) Result {
	if uid := os.Geteuid(); uid != 0 {
		return bad(Fail, "root", fmt.Sprintf("running as uid %d", uid), "run it with sudo, or with --no-node for a control plane alone")
	}
	have, err := effectiveCaps()
	if err != nil {
		return bad(Fail, "root", err.Error(), "mount /proc")
	}
	var missing []string
	for _, c := range needCaps {
		if have&(1<<c.bit) == 0 {
			missing = append(missing, c.name)
		}
	}
	if len(missing) > 0 {
		return bad(Fail, "root", "without "+strings.Join(missing, ", "), "run it outside a restricted container, or give that container these capabilities (--privileged)")
	}
	return ok("root", "with the capabilities a node needs")
}

func effectiveCaps() (uint64, error) {
	data, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(data)) {
		if v, found := strings.CutPrefix(line, "CapEff:"); found {
			return strconv.ParseUint(strings.TrimSpace(v), 16, 64)
		}
	}
	return 0, fmt.Errorf("/proc/self/status names no capabilities")
}

// oldest is the first kernel with everything used here: pidfd_open and clone3
// came with 5.3, openat2 and pidfd_getfd with 5.6, overlayfs in user namespaces
// and cgroup.kill later and are done without.
var oldest = [2]int{5, 6}

func kernel(Config) Result {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return bad(Fail, "kernel", err.Error(), "run it on Linux")
	}
	release := unix.ByteSliceToString(u.Release[:])
	var major, minor int
	fmt.Sscanf(release, "%d.%d", &major, &minor)
	if major < oldest[0] || major == oldest[0] && minor < oldest[1] {
		return bad(Fail, "kernel", release, fmt.Sprintf("use Linux %d.%d or newer", oldest[0], oldest[1]))
	}
	fd, err := unix.PidfdOpen(os.Getpid(), 0)
	if err != nil {
		return bad(Fail, "kernel", release+" without pidfd", "use a kernel with pidfd_open, or allow the call in the sandbox that this runs in")
	}
	unix.Close(fd)
	return ok("kernel", "%s", release)
}

func namespaces(Config) Result {
	var missing []string
	for _, ns := range []string{"cgroup", "ipc", "mnt", "net", "pid", "uts"} {
		if _, err := os.Stat("/proc/self/ns/" + ns); err != nil {
			missing = append(missing, ns)
		}
	}
	if len(missing) > 0 {
		return bad(Fail, "namespaces", "no "+strings.Join(missing, ", "), "use a kernel with CONFIG_NAMESPACES and these kinds")
	}
	if _, err := os.Stat("/proc/self/ns/user"); err != nil {
		return bad(Warn, "namespaces", "no user namespaces", "pods with hostUsers: false will not start: use a kernel with CONFIG_USER_NS")
	}
	return ok("namespaces", "cgroup, ipc, mnt, net, pid, user, uts")
}

func overlay(Config) Result {
	if knowsFS("overlay") || hasModule("overlay") {
		return ok("overlayfs", "available")
	}
	return bad(Fail, "overlayfs", "not in /proc/filesystems", "load it with modprobe overlay, or use a kernel with CONFIG_OVERLAY_FS")
}

func knowsFS(name string) bool {
	data, _ := os.ReadFile("/proc/filesystems")
	return slices.Contains(strings.Fields(string(data)), name)
}

func hasModule(name string) bool {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return false
	}
	found, _ := filepath.Glob(filepath.Join("/lib/modules", unix.ByteSliceToString(u.Release[:]), "kernel/*/*", name+".ko*"))
	return len(found) > 0
}

func netfilter(Config) Result {
	c, err := nftables.New()
	if err == nil {
		_, err = c.ListTables()
	}
	if err != nil {
		return bad(Fail, "nftables", err.Error(), "load it with modprobe nf_tables, or use a kernel with CONFIG_NF_TABLES; it needs CAP_NET_ADMIN")
	}
	return ok("nftables", "available")
}

func forwarding(Config) Result {
	const file = "/proc/sys/net/ipv4/ip_forward"
	if unix.Access(file, unix.W_OK) != nil {
		if data, _ := os.ReadFile(file); strings.TrimSpace(string(data)) == "1" {
			return ok("ip forwarding", "on")
		}
		return bad(Fail, "ip forwarding", "off, and "+file+" is read-only", "turn it on: sysctl -w net.ipv4.ip_forward=1")
	}
	return ok("ip forwarding", "can be turned on")
}

func limits(Config) Result {
	data, err := os.ReadFile("/proc/sys/kernel/pid_max")
	if err != nil {
		return bad(Warn, "pids", err.Error(), "mount /proc")
	}
	n, _ := strconv.Atoi(strings.TrimSpace(string(data)))
	if n < 32768 {
		return bad(Warn, "pids", fmt.Sprintf("at most %d", n), "raise it: sysctl -w kernel.pid_max=4194304")
	}
	return ok("pids", "at most %d", n)
}

func inotify(Config) Result {
	const file = "/proc/sys/fs/inotify/max_user_instances"
	data, err := os.ReadFile(file)
	if err != nil {
		return bad(Fail, "inotify", err.Error(), "use a kernel with CONFIG_INOTIFY_USER")
	}
	n, _ := strconv.Atoi(strings.TrimSpace(string(data)))
	if n < 128 {
		return bad(Warn, "inotify", fmt.Sprintf("%d instances", n), "pods that watch files run out of them: sysctl -w fs.inotify.max_user_instances=8192")
	}
	return ok("inotify", "%d instances a user", n)
}
