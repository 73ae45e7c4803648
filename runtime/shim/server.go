//go:build cgo

package shim

import (
	"errors"
	"fmt"
	"net"
	"os"

	"golang.org/x/sys/unix"

	"proa/runtime/wire"
)

// serve answers the one request of a connection.
func (s *Shim) serve(c wire.Conn) {
	defer c.Close()
	var req wire.Request
	files, err := c.Recv(&req)
	if err != nil {
		return // the other side thought better of it, or is no daemon of ours
	}
	defer s.rest()
	switch req.Op {
	case wire.OpWatch:
		s.watch(c)
		return
	case wire.OpExec:
		s.exec(c, &req, files)
		return
	case wire.OpAttach:
		s.attach(c, &req, files)
		return
	case wire.OpDial:
		s.dial(c, req.Port)
		return
	}
	wire.CloseAll(files)
	resp, err := s.answer(&req)
	_ = c.Send(withError(resp, err))
	if req.Op == wire.OpQuit {
		s.quitOnce.Do(s.shutdown)
		_, _ = c.Read(make([]byte, 1)) // the daemon waits for the process's end
	}
}

func (s *Shim) answer(req *wire.Request) (wire.Response, error) {
	switch req.Op {
	case wire.OpPod:
		if req.Pod == nil {
			return wire.Response{}, errors.New("a pod request without a pod")
		}
		return s.setUp(req.Pod)
	case wire.OpStart:
		if req.Start == nil || req.Start.Spec == nil || req.Start.Spec.Process == nil || req.Start.Spec.Linux == nil {
			return wire.Response{}, errors.New("a start request without a container")
		}
		return s.start(req.Container, req.Start)
	case wire.OpQuit:
		return wire.Response{Shim: os.Getpid()}, nil
	}
	c, err := s.container(req.Container)
	if err != nil {
		return wire.Response{}, err
	}
	switch req.Op {
	case wire.OpSignal:
		err = s.signal(c, req.Signal)
	case wire.OpForget:
		err = s.forget(c)
	case wire.OpResize:
		err = c.io.resize(req.Size)
	case wire.OpReopen:
		err = c.io.log.reopen()
	case wire.OpUpdate:
		err = s.update(c, req.Resources)
	default:
		err = fmt.Errorf("unknown request %q", req.Op)
	}
	return wire.Response{}, err
}

func withError(r wire.Response, err error) *wire.Response {
	if err == nil {
		return &r
	}
	r.Error = err.Error()
	var e *wire.Error
	if errors.As(err, &e) {
		r.Kind = e.Kind
	}
	return &r
}

func isNotRunning(err error) bool {
	var e *wire.Error
	return errors.As(err, &e) && e.Kind == wire.ErrNotRunning
}

func (s *Shim) container(id string) (*container, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.containers[id]; c != nil {
		return c, nil
	}
	return nil, &wire.Error{Kind: wire.ErrNotFound, Text: fmt.Sprintf("container %q is not known to the pod's shim", id)}
}

// watcher is a connection that wants to know of every change.
type watcher struct {
	wake    chan struct{}
	pending []wire.ContainerState // guarded by Shim.mu
}

// watch sends every container's state, a state without ID as the end of those,
// and then each change.
func (s *Shim) watch(c wire.Conn) {
	w := &watcher{wake: make(chan struct{}, 1)}
	s.mu.Lock()
	for _, k := range s.containers {
		w.pending = append(w.pending, k.state)
	}
	w.pending = append(w.pending, wire.ContainerState{})
	s.watchers[w] = struct{}{}
	pause := s.pause
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.watchers, w)
		s.mu.Unlock()
	}()

	gone := make(chan struct{})
	go func() {
		defer close(gone)
		_, _ = c.Read(make([]byte, 1))
	}()
	for {
		s.mu.Lock()
		states := w.pending
		w.pending = nil
		s.mu.Unlock()
		for _, state := range states {
			if c.Send(&wire.Response{State: &state, Shim: os.Getpid(), Pause: pause}) != nil {
				return
			}
		}
		select {
		case <-w.wake:
		case <-gone:
			return
		}
	}
}

// changed tells the watchers; s.mu is held.
func (s *Shim) changed(state wire.ContainerState) {
	for w := range s.watchers {
		w.pending = append(w.pending, state)
		select {
		case w.wake <- struct{}{}:
		default:
		}
	}
}

// dial sends a connection to a port on the pod's own loopback, IPv4 first.
func (s *Shim) dial(c wire.Conn, port uint16) {
	f, err := dialLoopback(port)
	if err != nil {
		_ = c.Send(withError(wire.Response{}, err))
		return
	}
	defer f.Close()
	_ = c.Send(&wire.Response{}, f)
}

func dialLoopback(port uint16) (*os.File, error) {
	var first error
	for _, ip := range []string{"127.0.0.1", "::1"} {
		conn, err := net.Dial("tcp", net.JoinHostPort(ip, fmt.Sprint(port)))
		if err == nil {
			defer conn.Close()
			return conn.(*net.TCPConn).File()
		}
		if first == nil {
			first = err
		}
	}
	return nil, first
}

func (s *Shim) signal(c *container, sig int) error {
	if sig == int(unix.SIGKILL) && !c.ownPIDs {
		return s.killAll(c)
	}
	if err := s.reaper.kill(c.pid(), unix.Signal(sig)); err != nil {
		return c.notRunning()
	}
	return nil
}
