//go:build cgo

package shim

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"sync"
	"time"

	_ "github.com/opencontainers/cgroups/devices" // has cgroup managers enforce device rules
	"github.com/opencontainers/runc/libcontainer"
	_ "github.com/opencontainers/runc/libcontainer/nsenter" // becomes the container's init, before Go starts
	"golang.org/x/sys/unix"

	"proa/runtime/wire"
)

// ListenFD is where the daemon hands the listening socket to the shim.
const ListenFD = 3

// Init is a container's first process until it becomes the user's program. It
// must run on the main thread, first of all.
func Init() {
	runtime.LockOSThread()
	// libcontainer restores this setting after it has changed the user. The
	// signal comes when the shim's main thread ends, which is when the shim does.
	if err := unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0); err != nil {
		fmt.Fprintln(os.Stderr, "prctl(PR_SET_PDEATHSIG):", err)
		os.Exit(1)
	}
	libcontainer.Init()
}

// Shim is the process.
type Shim struct {
	listener *net.UnixListener
	work     chan func() // for the main thread
	quit     chan struct{}
	quitOnce sync.Once
	idle     *time.Timer

	reaper reaper

	mu         sync.Mutex
	pod        wire.Pod
	pause      int
	containers map[string]*container
	watchers   map[*watcher]struct{}
}

// Main serves a pod until it is told to quit.
func Main() error {
	// The children's parent is the thread that forked them: they must all come
	// from one that lives as long as the shim.
	runtime.LockOSThread()
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("prctl(PR_SET_CHILD_SUBREAPER): %w", err)
	}
	file := os.NewFile(ListenFD, "listener")
	l, err := net.FileListener(file)
	if err != nil {
		return fmt.Errorf("descriptor %d: %w", ListenFD, err)
	}
	file.Close()
	s := &Shim{
		listener:   l.(*net.UnixListener),
		work:       make(chan func()),
		quit:       make(chan struct{}),
		containers: map[string]*container{},
		watchers:   map[*watcher]struct{}{},
	}
	s.reaper.tracked = map[int]func(unix.WaitStatus){}
	s.idle = time.AfterFunc(time.Second, becomeIdle)
	return s.run()
}

func (s *Shim) run() error {
	children := make(chan os.Signal, 1)
	signal.Notify(children, unix.SIGCHLD)
	signal.Ignore(unix.SIGHUP, unix.SIGINT, unix.SIGTERM, unix.SIGPIPE)
	go s.reaper.run(children)
	failed := make(chan error, 1)
	go func() { failed <- s.accept() }()
	for {
		select {
		case f := <-s.work:
			f()
		case err := <-failed:
			return err
		case <-s.quit:
			return nil
		}
	}
}

func (s *Shim) accept() error {
	for {
		c, err := s.listener.AcceptUnix()
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			return err
		}
		go s.serve(wire.Conn{UnixConn: c})
	}
}

// onMain runs f on the main thread while nobody reaps unknown children:
// libcontainer waits for its own.
func (s *Shim) onMain(f func()) {
	done := make(chan struct{})
	select {
	case s.work <- func() {
		defer close(done)
		s.busy()
		s.reaper.pause()
		defer s.reaper.resume()
		f()
	}:
		<-done
	case <-s.quit:
	}
	s.rest()
}

// busy keeps the garbage collector out of short work.
func (s *Shim) busy() { debug.SetGCPercent(-1) }

// rest gives memory back once the shim has been idle for a second.
func (s *Shim) rest() { s.idle.Reset(time.Second) }

func becomeIdle() {
	debug.SetGCPercent(50)
	debug.FreeOSMemory()
}

// shutdown kills every container, records how they ended and has run return.
func (s *Shim) shutdown() {
	defer close(s.quit)
	var all []*container
	s.mu.Lock()
	for _, c := range s.containers {
		all = append(all, c)
	}
	s.mu.Unlock()
	for _, c := range all {
		if err := s.signal(c, int(unix.SIGKILL)); err != nil && !isNotRunning(err) {
			fmt.Fprintln(os.Stderr, "kill", c.id, err)
		}
	}
	for _, c := range all {
		<-c.done
	}
}

// setUp makes the process the pod's sandbox.
func (s *Shim) setUp(p *wire.Pod) (wire.Response, error) {
	if err := os.MkdirAll(filepath.Join(p.Dir, exitDir), 0o700); err != nil {
		return wire.Response{}, err
	}
	if p.Hostname != "" {
		if err := unix.Sethostname([]byte(p.Hostname)); err != nil {
			return wire.Response{}, fmt.Errorf("set the host name: %w", err)
		}
	}
	if p.Loopback {
		if err := loopbackUp(); err != nil {
			return wire.Response{}, fmt.Errorf("bring the loopback link up: %w", err)
		}
	}
	for name, value := range p.Sysctls {
		if err := setSysctl(name, value); err != nil {
			return wire.Response{}, err
		}
	}
	pause := 0
	if p.Pause {
		var err error
		if pause, err = s.startPause(); err != nil {
			return wire.Response{}, fmt.Errorf("start the PID namespace's first process: %w", err)
		}
	}
	s.mu.Lock()
	s.pod, s.pause = *p, pause
	s.mu.Unlock()
	return wire.Response{Shim: os.Getpid(), Pause: pause}, nil
}
