// Package netnstest runs a test binary in a network namespace of its own and
// makes further ones that stand for pods and other machines.
package netnstest

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

const inside = "PROA_TEST_NETNS"

// Main runs the tests in a new network namespace: the whole process, so that
// every thread is in it. Without root it runs nothing and says so.
func Main(m *testing.M) {
	if os.Getenv(inside) != "" {
		os.Exit(m.Run())
	}
	if os.Geteuid() != 0 {
		fmt.Println("skipped: network namespaces need root")
		os.Exit(0)
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Args[0] = os.Args[0]
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET, Pdeathsig: unix.SIGKILL}
	runtime.LockOSThread() // the death signal is tied to this thread
	if err := cmd.Run(); err != nil {
		if cmd.ProcessState == nil {
			fmt.Println(err)
		}
		os.Exit(1)
	}
	os.Exit(0)
}

// NS is a network namespace that lasts as long as the test.
type NS struct {
	fd int
}

// New makes one.
func New(t testing.TB) *NS {
	t.Helper()
	made := make(chan int)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			made <- -1
			return
		}
		fd, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			fd = -1
		}
		made <- fd
	}()
	fd := <-made
	if fd < 0 {
		t.Fatal("cannot make a network namespace")
	}
	t.Cleanup(func() { unix.Close(fd) })
	return &NS{fd: fd}
}

// Path names the namespace for as long as it lasts.
func (n *NS) Path() string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), n.fd) }

// FD is the namespace's descriptor.
func (n *NS) FD() int { return n.fd }

// Do runs f on a thread inside the namespace; nil is the test's own. Sockets
// that f opens stay there.
func (n *NS) Do(f func() error) error {
	if n == nil {
		return f()
	}
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		if err := unix.Setns(n.fd, unix.CLONE_NEWNET); err != nil {
			done <- err
			return
		}
		done <- f()
	}()
	return <-done
}
