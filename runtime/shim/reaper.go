//go:build cgo

package shim

import (
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// reaper waits for children: for those it was told of, and for orphans that the
// kernel hands to the shim as their subreaper.
type reaper struct {
	mu      sync.Mutex
	busy    bool // libcontainer has children of its own just now
	tracked map[int]func(unix.WaitStatus)
}

func (r *reaper) run(children <-chan os.Signal) {
	for range children {
		r.reap()
	}
}

func (r *reaper) pause() {
	r.mu.Lock()
	r.busy = true
	r.mu.Unlock()
}

func (r *reaper) resume() {
	r.mu.Lock()
	r.busy = false
	r.mu.Unlock()
	r.reap()
}

// track has f called, on its own goroutine, when the child ends. It is called
// on the main thread within onMain, so the child cannot have been reaped yet.
func (r *reaper) track(pid int, f func(unix.WaitStatus)) {
	r.mu.Lock()
	r.tracked[pid] = f
	r.mu.Unlock()
}

// kill signals a tracked child; its process ID cannot have been reused.
func (r *reaper) kill(pid int, sig unix.Signal) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.tracked[pid] == nil {
		return unix.ESRCH
	}
	return unix.Kill(pid, sig)
}

func (r *reaper) reap() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.busy {
		for r.wait(-1) {
		}
		return
	}
	for pid := range r.tracked {
		r.wait(pid)
	}
}

// wait reaps one child and tells whether there was one.
func (r *reaper) wait(pid int) bool {
	var status unix.WaitStatus
	got, err := unix.Wait4(pid, &status, unix.WNOHANG, nil)
	if err == unix.EINTR {
		return true
	}
	if err != nil || got <= 0 {
		return false
	}
	if f := r.tracked[got]; f != nil {
		delete(r.tracked, got)
		go f(status)
	}
	return true
}

// exitCode is a shell's: the status, or 128 and the signal's number.
func exitCode(s unix.WaitStatus) int {
	if s.Signaled() {
		return 128 + int(s.Signal())
	}
	return s.ExitStatus()
}
