//go:build cgo

package shim

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/configs"
	"github.com/opencontainers/runc/libcontainer/specconv"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"proa/runtime/wire"
)

// In the pod's directory: one file an exited container, and libcontainer's own
// state of the live ones.
const (
	exitDir  = "exits"
	stateDir = "libcontainer"
)

// drainTime is how long output is still read after a container has ended; only
// a process that left the container's namespaces can hold it open longer.
const drainTime = 2 * time.Second

type container struct {
	id      string
	io      *streams
	mounted []wire.Rootfs
	ownPIDs bool // the kernel kills all with the first process
	done    chan struct{}
	state   wire.ContainerState // guarded by Shim.mu
	init    int                 // process ID; set before others see the container
}

func (c *container) pid() int { return c.init }

func (c *container) notRunning() error {
	return &wire.Error{Kind: wire.ErrNotRunning, Text: fmt.Sprintf("container %s is not running", c.id)}
}

// start makes a container and runs its program. When it returns an error
// nothing is left of it.
func (s *Shim) start(id string, r *wire.Start) (resp wire.Response, err error) {
	s.mu.Lock()
	_, exists := s.containers[id]
	s.mu.Unlock()
	if exists {
		return resp, fmt.Errorf("container %s was started before", id)
	}
	c := &container{id: id, done: make(chan struct{})}
	defer func() {
		if err != nil {
			c.unmount()
		}
	}()
	if err := c.mount(r); err != nil {
		return resp, err
	}
	user, err := resolveUser(r.Rootfs.Path, r.User)
	if err != nil {
		return resp, err
	}
	r.Spec.Process.User = user
	if err := s.joinPIDs(r.Spec); err != nil {
		return resp, err
	}
	if c.io, err = newStreams(r); err != nil {
		return resp, err
	}
	s.onMain(func() { err = s.launch(c, r.Spec) })
	if err != nil {
		c.io.abort()
		return resp, err
	}
	return wire.Response{State: &c.state, User: &user}, nil
}

// launch runs on the main thread.
func (s *Shim) launch(c *container, spec *specs.Spec) (err error) {
	config, err := specconv.CreateLibcontainerConfig(&specconv.CreateOpts{CgroupName: c.id, Spec: spec})
	if err != nil {
		return err
	}
	allowOOMScore(config)
	c.ownPIDs = config.Namespaces.IsPrivate(configs.NEWPID)
	lc, err := libcontainer.Create(s.stateDir(), c.id, config)
	if err != nil {
		return err
	}
	p := newProcess(spec.Process)
	p.Init = true
	if err := c.io.connect(p); err != nil {
		_ = lc.Destroy()
		return err
	}
	err = lc.Run(p)
	c.io.childDone()
	if err == nil && spec.Process.Terminal {
		err = c.io.takeTerminal()
	}
	if err != nil {
		if pid, perr := p.Pid(); perr == nil {
			_ = unix.Kill(pid, unix.SIGKILL)
			_, _ = p.Wait()
		}
		_ = lc.Destroy()
		return err
	}
	c.init, err = p.Pid()
	if err != nil {
		return err
	}
	s.started(c, spec)
	return nil
}

func (s *Shim) started(c *container, spec *specs.Spec) {
	user := spec.Process.User
	s.mu.Lock()
	c.state = wire.ContainerState{ID: c.id, PID: c.init, Started: time.Now(), User: &user}
	s.containers[c.id] = c
	s.changed(c.state)
	s.mu.Unlock()
	c.io.pump()
	s.reaper.track(c.init, func(status unix.WaitStatus) { s.exited(c, status) })
}

// exited runs once, when the container's first process has ended.
func (s *Shim) exited(c *container, status unix.WaitStatus) {
	finished := time.Now()
	oom := false
	s.onMain(func() {
		lc, err := libcontainer.Load(s.stateDir(), c.id)
		if err != nil {
			return
		}
		oom = oomKilled(lc)
		if err := lc.Destroy(); err != nil { // kills what shares another's PIDs
			fmt.Fprintln(os.Stderr, "destroy", c.id, err)
		}
	})
	c.io.drain(drainTime)
	c.unmount()

	s.mu.Lock()
	state := c.state
	s.mu.Unlock()
	state.Exited, state.Finished = true, finished
	state.Code, state.OOMKilled = exitCode(status), oom
	if err := s.record(state); err != nil {
		fmt.Fprintln(os.Stderr, "record the exit of", c.id, err)
	}
	s.mu.Lock()
	c.state = state
	close(c.done) // before anybody hears of it, and has the container forgotten
	s.changed(state)
	s.mu.Unlock()
	s.rest()
}

// record keeps an exit where the next daemon finds it even if the shim is gone.
func (s *Shim) record(state wire.ContainerState) error {
	data, err := json.Marshal(state)
	if err != nil {
		return err
	}
	path := filepath.Join(s.pod.Dir, exitDir, state.ID)
	if err := os.WriteFile(path+".new", data, 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

func (s *Shim) forget(c *container) error {
	select {
	case <-c.done:
	default:
		return fmt.Errorf("container %s is running", c.id)
	}
	s.mu.Lock()
	delete(s.containers, c.id)
	s.mu.Unlock()
	err := os.Remove(filepath.Join(s.pod.Dir, exitDir, c.id))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

func (s *Shim) killAll(c *container) (err error) {
	s.onMain(func() {
		var lc *libcontainer.Container
		if lc, err = libcontainer.Load(s.stateDir(), c.id); err == nil {
			err = lc.Signal(unix.SIGKILL)
		}
	})
	if errors.Is(err, libcontainer.ErrNotRunning) || errors.Is(err, libcontainer.ErrNotExist) {
		return c.notRunning()
	}
	return err
}

func (s *Shim) stateDir() string { return filepath.Join(s.pod.Dir, stateDir) }

// joinPIDs gives the spec's PID namespace the path it has on this machine:
// "pod" is the pod's common one, any other name is a container's.
func (s *Shim) joinPIDs(spec *specs.Spec) error {
	for i := range spec.Linux.Namespaces {
		ns := &spec.Linux.Namespaces[i]
		if ns.Type != specs.PIDNamespace || ns.Path == "" {
			continue
		}
		pid := s.pause
		if ns.Path != "pod" {
			target, err := s.container(ns.Path)
			if err != nil {
				return err
			}
			pid = target.init
		}
		if pid == 0 {
			return errors.New("the pod has no PID namespace of its own")
		}
		ns.Path = fmt.Sprintf("/proc/%d/ns/pid", pid)
	}
	return nil
}

// oomKilled asks the kernel whether a process of the container was killed for
// want of memory.
func oomKilled(lc *libcontainer.Container) bool {
	state, err := lc.State()
	if err != nil {
		return false
	}
	file := "memory.oom_control"
	dir := state.CgroupPaths["memory"]
	if cgroups.IsCgroup2UnifiedMode() {
		file, dir = "memory.events", state.CgroupPaths[""]
	}
	n, err := keyedCount(filepath.Join(dir, file), "oom_kill")
	return err == nil && n > 0
}

// allowOOMScore takes back a score that the kernel would refuse: without
// CAP_SYS_RESOURCE a process cannot go below the score it has inherited.
func allowOOMScore(config *configs.Config) {
	if config.OomScoreAdj == nil {
		return
	}
	own, err := readInt("/proc/self/oom_score_adj")
	if err != nil || *config.OomScoreAdj >= own || hasSysResource() {
		return
	}
	*config.OomScoreAdj = own
}
