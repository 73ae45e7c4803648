//go:build cgo

package shim

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// loopbackUp brings lo up in the process's network namespace.
func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	req, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFFLAGS, req); err != nil {
		return err
	}
	req.SetUint16(req.Uint16() | unix.IFF_UP)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, req)
}

// setSysctl writes a namespaced kernel parameter. Names use dots, or slashes
// where a dot is part of a component (sysctl(8)).
func setSysctl(name, value string) error {
	rel := name
	if !strings.Contains(name, "/") {
		rel = strings.ReplaceAll(name, ".", "/")
	}
	if !filepath.IsLocal(rel) {
		return fmt.Errorf("sysctl %q: not a name", name)
	}
	f, err := os.OpenFile(filepath.Join("/proc/sys", rel), os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("sysctl %s: %w", name, err)
	}
	defer f.Close()
	if _, err := f.WriteString(value); err != nil {
		return fmt.Errorf("sysctl %s=%s: %w", name, value, err)
	}
	return nil
}

// startPause starts the first process of a PID namespace for the whole pod. It
// never reaches Go (see pause.go), so it costs a few pages.
func (s *Shim) startPause() (pid int, err error) {
	s.onMain(func() {
		cmd := exec.Command("/proc/self/exe", "pause")
		cmd.Args[0] = "pause"
		cmd.Env = []string{}
		cmd.SysProcAttr = &syscall.SysProcAttr{
			Cloneflags: syscall.CLONE_NEWPID,
			Pdeathsig:  syscall.SIGKILL,
		}
		if err = cmd.Start(); err != nil {
			return
		}
		pid = cmd.Process.Pid
		s.reaper.track(pid, func(unix.WaitStatus) {})
		_ = cmd.Process.Release()
	})
	return pid, err
}
