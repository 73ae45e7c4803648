package doctor

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	gib = 1 << 30
	// wantFree is room for a few images; needFree for the datastore to start.
	wantFree, needFree = 2 * gib, gib / 4
	wantInodes         = 100_000
	// KubeletPort is where a node serves logs and exec.
	KubeletPort = 10250
)

// built is a time that the clock cannot honestly be before.
var built = time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)

func disk(c Config) Result {
	var fs unix.Statfs_t
	dir := existing(c.DataDir)
	if err := unix.Statfs(dir, &fs); err != nil {
		return bad(Fail, "disk", err.Error(), "choose a readable directory with --data-dir")
	}
	free := int64(fs.Bavail) * fs.Bsize
	kept := int64(0)
	if c.Reserve != nil {
		kept = c.Reserve(int64(fs.Blocks) * fs.Bsize)
	}
	found := fmt.Sprintf("%.1f GiB free for %s", float64(free)/gib, c.DataDir)
	switch {
	case fs.Flags&unix.ST_RDONLY != 0:
		return bad(Fail, "disk", dir+" is read-only", "choose a writable directory with --data-dir")
	case free < kept && holdsData(c):
		state := Warn // a start that is refused could not even delete
		if c.Running {
			state = Fail
		}
		return bad(state, "disk", found+", too little for the datastore: creates and updates are refused, deletes work",
			fmt.Sprintf("free at least %d MiB there, or delete objects that the cluster does not need", kept>>20+1))
	case free < needFree && holdsData(c):
		return bad(Warn, "disk", found, fmt.Sprintf("free 2 GiB there: below %d MiB creates and updates are refused", kept>>20+1))
	case free < needFree:
		return bad(Fail, "disk", found, "free at least 256 MiB there or choose another directory with --data-dir")
	case free < wantFree:
		return bad(Warn, "disk", found, "images need room: free 2 GiB there or choose another directory with --data-dir")
	}
	return ok("disk", "%s", found)
}

// holdsData tells a cluster that has been started there before.
func holdsData(c Config) bool {
	_, err := os.Stat(filepath.Join(c.DataDir, "store"))
	return err == nil
}

func inodes(c Config) Result {
	var fs unix.Statfs_t
	if err := unix.Statfs(existing(c.DataDir), &fs); err != nil || fs.Files == 0 {
		return ok("inodes", "not limited")
	}
	if fs.Ffree < wantInodes {
		return bad(Warn, "inodes", fmt.Sprintf("%d free", fs.Ffree), "images hold many small files: remove files or choose another directory with --data-dir")
	}
	return ok("inodes", "%d free", fs.Ffree)
}

func clock(Config) Result {
	now := time.Now()
	if now.Before(built) {
		return bad(Fail, "clock", now.Format(time.RFC3339), "set the clock (for example with chronyd or ntpd): certificates made now would not be valid")
	}
	return ok("clock", "%s", now.UTC().Format(time.RFC3339))
}

func files(Config) Result {
	var l unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &l); err != nil {
		return bad(Warn, "open files", err.Error(), "check ulimit -n")
	}
	if l.Max < 65536 {
		return bad(Warn, "open files", fmt.Sprintf("at most %d", l.Max), "raise the limit: ulimit -Hn 1048576, or LimitNOFILE=1048576 in the systemd unit")
	}
	return ok("open files", "at most %d", l.Max)
}

func apiPort(c Config) Result { return port("api port", "tcp", c.Address, c.APIPort, "--api-port") }

func kubeletPort(c Config) Result {
	return port("kubelet port", "tcp", c.Address, KubeletPort, "a network namespace of its own for this instance")
}

// port tries to listen; what is taken is named.
func port(check, network, address string, n int, flag string) Result {
	l, err := net.Listen(network, net.JoinHostPort(address, strconv.Itoa(n)))
	if err == nil {
		l.Close()
		return ok(check, "%d is free", n)
	}
	found := err.Error()
	if errors.Is(err, syscall.EADDRINUSE) {
		found = fmt.Sprintf("%d is in use%s", n, holder(n))
	}
	return bad(Fail, check, found, "stop what uses it, or choose another with "+flag)
}

// holder names the process that listens on a TCP port, as far as /proc tells.
func holder(port int) string {
	inode := listener(port)
	if inode == "" {
		return ""
	}
	want := "socket:[" + inode + "]"
	procs, _ := os.ReadDir("/proc")
	for _, p := range procs {
		fds, err := os.ReadDir("/proc/" + p.Name() + "/fd")
		if err != nil {
			continue
		}
		for _, fd := range fds {
			if to, _ := os.Readlink("/proc/" + p.Name() + "/fd/" + fd.Name()); to == want {
				comm, _ := os.ReadFile("/proc/" + p.Name() + "/comm")
				return fmt.Sprintf(" by %s (pid %s)", strings.TrimSpace(string(comm)), p.Name())
			}
		}
	}
	return ""
}

// listener finds the socket's inode in /proc/net/tcp and tcp6.
func listener(port int) string {
	const listening = "0A"
	suffix := fmt.Sprintf(":%04X", port)
	for _, file := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		data, _ := os.ReadFile(file)
		for line := range strings.Lines(string(data)) {
			if f := strings.Fields(line); len(f) > 9 && strings.HasSuffix(f[1], suffix) && f[3] == listening {
				return f[9]
			}
		}
	}
	return ""
}

func resolvers(Config) Result {
	data, err := os.ReadFile("/etc/resolv.conf")
	if err != nil {
		return bad(Warn, "resolvers", err.Error(), "pods will resolve cluster names only: write /etc/resolv.conf")
	}
	var servers []string
	for line := range strings.Lines(string(data)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "nameserver" {
			servers = append(servers, f[1])
		}
	}
	if len(servers) == 0 {
		return bad(Warn, "resolvers", "none in /etc/resolv.conf", "pods will resolve cluster names only: add a nameserver line")
	}
	return ok("resolvers", "%s", strings.Join(servers, ", "))
}
