package runtime

import (
	"encoding/json"
	"os"
	"time"

	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"proa/runtime/wire"
)

// followShim watches a sandbox's shim until it ends or the Runtime is closed.
// When it returns, all that the shim knew by then has been taken over; known is
// which containers the shim has.
func (r *Runtime) followShim(s *sandbox) (known map[string]bool, err error) {
	conn, err := r.dial(s.id)
	if err != nil {
		return nil, err
	}
	err = conn.Send(&wire.Request{Op: wire.OpWatch})
	known = map[string]bool{}
	for err == nil {
		var resp wire.Response
		if _, err = conn.Recv(&resp); err != nil || resp.State == nil {
			break
		}
		if resp.State.ID == "" {
			r.startFollowing(s, &conn, resp)
			return known, nil
		}
		known[resp.State.ID] = true
		r.observe(*resp.State)
	}
	conn.Close()
	return nil, err
}

func (r *Runtime) startFollowing(s *sandbox, conn *wire.Conn, first wire.Response) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s.watch, s.gone, s.dead = conn, make(chan struct{}), false
	s.rec.Shim, s.rec.Pause = first.Shim, first.Pause
	r.watches.Add(1)
	go func() {
		defer r.watches.Done()
		r.follow(s, conn, first.Shim)
	}()
	if r.closed() {
		conn.Close()
	}
}

func (r *Runtime) follow(s *sandbox, conn *wire.Conn, pid int) {
	for {
		var resp wire.Response
		if _, err := conn.Recv(&resp); err != nil {
			break
		}
		if resp.State != nil {
			r.observe(*resp.State)
		}
	}
	conn.Close()
	if r.closed() {
		return
	}
	reap(pid)
	r.shimGone(s)
	close(s.gone)
}

// reap waits for the end of a shim that is a child of this process; one that an
// earlier daemon has started is not.
func reap(pid int) {
	if pid <= 1 {
		return
	}
	for {
		if _, err := unix.Wait4(pid, nil, 0, nil); err != unix.EINTR {
			return
		}
	}
}

// observe takes over what a shim says about a container.
func (r *Runtime) observe(state wire.ContainerState) {
	r.mu.RLock()
	c := r.containers[state.ID]
	r.mu.RUnlock()
	if c == nil {
		return // removed meanwhile
	}
	if state.Exited {
		r.ended(c, exitOf(state))
		return
	}
	r.running(c, state)
}

// exit is how a container ended.
type exit struct {
	code            int32
	finished        int64
	reason, message string
	started         int64
}

func exitOf(state wire.ContainerState) exit {
	e := exit{code: int32(state.Code), finished: state.Finished.UnixNano(), started: state.Started.UnixNano(), reason: "Error"}
	switch {
	case state.OOMKilled:
		e.reason = "OOMKilled"
	case state.Code == 0:
		e.reason = "Completed"
	}
	return e
}

// running records that a container runs, once.
func (r *Runtime) running(c *container, state wire.ContainerState) {
	r.mu.Lock()
	if c.rec.Phase != phaseCreated {
		r.mu.Unlock()
		return
	}
	c.rec.Phase, c.rec.PID, c.rec.Started = phaseRunning, state.PID, state.Started.UnixNano()
	if state.User != nil {
		c.rec.User = state.User
	}
	rec := c.rec
	r.mu.Unlock()
	r.keepContainer(rec)
	r.containerEvent(c, runtimeapi.ContainerEventType_CONTAINER_STARTED_EVENT)
}

// ended records how a container ended, once.
func (r *Runtime) ended(c *container, e exit) {
	r.mu.Lock()
	if c.rec.Phase == phaseEnded {
		r.mu.Unlock()
		return
	}
	c.rec.Phase, c.rec.PID = phaseEnded, 0
	c.rec.ExitCode, c.rec.Finished, c.rec.Reason, c.rec.Message = e.code, e.finished, e.reason, e.message
	if c.rec.Started == 0 {
		c.rec.Started = e.started
	}
	rec := c.rec
	r.mu.Unlock()
	r.keepContainer(rec)
	close(c.exited)
	r.containerEvent(c, runtimeapi.ContainerEventType_CONTAINER_STOPPED_EVENT)
}

func (r *Runtime) keepContainer(rec containerRecord) {
	if err := r.saveContainer(rec); err != nil {
		r.log.Error("a container's state could not be kept", "container", rec.ID, "err", err)
	}
}

// shimGone takes down what a shim left: it may have been killed.
func (r *Runtime) shimGone(s *sandbox) {
	for _, c := range r.containersOf(s.id) {
		r.abandoned(c, exit{code: 137, finished: time.Now().UnixNano(), reason: "Error",
			message: "the pod's shim ended"})
	}
	r.mu.Lock()
	s.watch, s.dead = nil, true
	unexpected := s.rec.Phase == phaseRunning
	if unexpected {
		s.rec.Phase = phaseEnded
	}
	rec := s.rec
	r.mu.Unlock()
	if unexpected {
		if err := r.saveSandbox(rec); err != nil {
			r.log.Error("a sandbox's state could not be kept", "sandbox", rec.ID, "err", err)
		}
		r.sandboxEvent(s, runtimeapi.ContainerEventType_CONTAINER_STOPPED_EVENT)
	}
}

// abandoned ends a container whose shim is no more, by what the shim recorded
// or, failing that, by unknown.
func (r *Runtime) abandoned(c *container, unknown exit) {
	rec := r.record(c)
	// Also of one that was only created, or could not be started: the shim may
	// have ended in the midst of it.
	if err := r.version.killCgroup(rec.Cgroup); err != nil {
		r.log.Warn("a container's processes could not be ended", "container", rec.ID, "err", err)
	}
	rec.unmount()
	state, ok := r.recordedExit(rec)
	switch {
	case ok:
		r.ended(c, exitOf(state))
	case rec.Phase == phaseRunning:
		r.ended(c, unknown)
	}
}

// recordedExit reads what the shim wrote when the container ended.
func (r *Runtime) recordedExit(rec containerRecord) (state wire.ContainerState, ok bool) {
	data, err := os.ReadFile(r.runDir("sandboxes", rec.Sandbox, "exits", rec.ID))
	if err != nil || json.Unmarshal(data, &state) != nil {
		return state, false
	}
	return state, true
}

func (rec containerRecord) unmount() {
	unmountRootfs(rec.Rootfs.Path)
	for _, v := range rec.Volumes {
		unmountRootfs(v.Path)
	}
}

func unmountRootfs(path string) {
	if path == "" {
		return
	}
	if unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW) == nil {
		_ = os.Remove(path)
	}
}
