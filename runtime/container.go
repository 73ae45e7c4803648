package runtime

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"proa/image"
	"proa/runtime/wire"
)

// container is one of a sandbox. rec is guarded by Runtime.mu.
type container struct {
	id      string
	op      sync.Mutex // one change at a time; Stop does not need it
	rec     containerRecord
	exited  chan struct{} // closed when it has ended
	removed bool          // guarded by op
}

// record is the container's, as it is now.
func (r *Runtime) record(c *container) containerRecord {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return c.rec
}

// startErrorCode is the exit code of a container whose program could not be
// started, as other runtimes report it.
const startErrorCode = 128

// CreateContainer implements CRI: it settles what the container will be and
// makes its root; nothing runs yet.
func (r *Runtime) CreateContainer(ctx context.Context, sandboxID string, config *runtimeapi.ContainerConfig, _ *runtimeapi.PodSandboxConfig) (string, error) {
	s, err := r.findSandbox(sandboxID)
	if err != nil {
		return "", err
	}
	if config.GetMetadata().GetName() == "" {
		return "", invalid("a container needs a name")
	}
	r.expedite()
	img, err := r.imageOf(config)
	if err != nil {
		return "", err
	}
	c, err := r.addContainer(s, config, img)
	if err != nil {
		return "", err
	}
	c.op.Lock()
	defer c.op.Unlock()
	if err := r.makeContainer(ctx, c, img); err != nil {
		return "", failed("create container "+config.Metadata.Name, errors.Join(err, r.eraseContainer(c)))
	}
	r.containerEvent(c, runtimeapi.ContainerEventType_CONTAINER_CREATED_EVENT)
	return c.id, nil
}

func (r *Runtime) imageOf(config *runtimeapi.ContainerConfig) (image.Image, error) {
	ref := config.GetImage().GetImage()
	img, ok := r.cfg.Images.Get(ref)
	if !ok {
		return img, status.Errorf(codes.NotFound, "image %q is not present", ref)
	}
	return img, nil
}

func (r *Runtime) addContainer(s *sandbox, config *runtimeapi.ContainerConfig, img image.Image) (*container, error) {
	rec := containerRecord{ID: newID(), Phase: phaseMaking, Created: time.Now().UnixNano(), ImageID: img.ID, ImageRef: imageRef(img),
		Stop: img.Config.StopSignal}
	rec.Config.M, rec.Resources.M = config, config.GetLinux().GetResources()
	rec.Rootfs.Path = r.runDir("rootfs", rec.ID)
	name := config.Metadata.String()
	r.mu.Lock()
	defer r.mu.Unlock()
	if s.rec.Phase != phaseRunning {
		return nil, status.Errorf(codes.FailedPrecondition, "sandbox %s is not ready", s.id)
	}
	rec.Sandbox = s.id
	var err error
	if rec.Cgroup, err = cgroupPath(r.parentCgroup(s), rec.ID); err != nil {
		return nil, err
	}
	if p := config.GetLogPath(); p != "" {
		rec.LogPath = filepath.Join(s.rec.Config.M.GetLogDirectory(), p)
	}
	for _, other := range r.containers {
		if other.rec.Sandbox == rec.Sandbox && other.rec.Config.M.Metadata.String() == name {
			return nil, status.Errorf(codes.AlreadyExists, "container %s of the sandbox has this name and attempt", other.rec.ID)
		}
	}
	c := &container{id: rec.ID, rec: rec, exited: make(chan struct{})}
	r.containers[rec.ID] = c
	return c, nil
}

func (r *Runtime) parentCgroup(s *sandbox) string {
	if p := s.rec.Config.M.GetLinux().GetCgroupParent(); p != "" {
		return p
	}
	return r.cfg.CgroupRoot
}

func imageRef(img image.Image) string {
	if len(img.Digests) > 0 {
		return img.Digests[0]
	}
	return img.ID
}

// makeContainer runs with c.op held.
func (r *Runtime) makeContainer(ctx context.Context, c *container, img image.Image) error {
	rec := c.rec
	if err := r.saveContainer(rec); err != nil {
		return err
	}
	rootfs, err := r.cfg.Images.Prepare(ctx, img.ID, rec.ID)
	if err != nil {
		return fmt.Errorf("prepare the root file system: %w", err)
	}
	rec.Rootfs.Lower, rec.Rootfs.Upper, rec.Rootfs.Work = rootfs.Lower, rootfs.Upper, rootfs.Work
	if rec.Volumes, err = r.prepareVolumes(ctx, rec); err != nil {
		return err
	}
	spec, err := r.containerSpec(rec, img)
	if err != nil {
		return err
	}
	rec.Process, rec.Phase = spec.Process, phaseCreated
	r.mu.Lock()
	c.rec = rec
	r.mu.Unlock()
	return r.saveContainer(rec)
}

// StartContainer implements CRI.
func (r *Runtime) StartContainer(ctx context.Context, id string) error {
	c, err := r.findContainer(id)
	if err != nil {
		return err
	}
	c.op.Lock()
	defer c.op.Unlock()
	rec := r.record(c)
	if c.removed {
		return notFound("container", id)
	}
	if rec.Phase != phaseCreated {
		return status.Errorf(codes.FailedPrecondition, "container %s was started before", rec.ID)
	}
	r.expedite()
	state, err := r.launch(ctx, rec)
	if err != nil {
		err = failed("start container "+rec.Config.M.Metadata.Name, err)
		r.startFailed(c, err)
		return err
	}
	r.running(c, *state)
	return nil
}

func (r *Runtime) launch(ctx context.Context, rec containerRecord) (*wire.ContainerState, error) {
	img, ok := r.cfg.Images.Get(rec.ImageID)
	if !ok {
		return nil, status.Errorf(codes.NotFound, "image %s is not present any more", rec.ImageID)
	}
	spec, err := r.containerSpec(rec, img)
	if err != nil {
		return nil, err
	}
	config := rec.Config.M
	if rec.LogPath != "" {
		if err := os.MkdirAll(filepath.Dir(rec.LogPath), 0o755); err != nil {
			return nil, err
		}
	}
	resp, _, err := r.call(ctx, rec.Sandbox, &wire.Request{Op: wire.OpStart, Container: rec.ID, Start: &wire.Start{
		Spec: spec, Rootfs: rec.Rootfs, Volumes: rec.Volumes, User: wireUser(config.GetLinux().GetSecurityContext(), img.Config.User),
		Log: rec.LogPath, Stdin: config.Stdin, StdinOnce: config.StdinOnce}})
	if err != nil {
		return nil, err
	}
	return resp.State, nil
}

// startFailed leaves a container that was never alive as exited, unless the
// shim has told otherwise meanwhile.
func (r *Runtime) startFailed(c *container, err error) {
	now := time.Now().UnixNano()
	r.mu.RLock()
	phase := c.rec.Phase
	r.mu.RUnlock()
	if phase == phaseCreated {
		r.ended(c, exit{code: startErrorCode, started: now, finished: now, reason: "StartError",
			message: status.Convert(err).Message()})
	}
}

// StopContainer implements CRI: the stop signal, then SIGKILL after timeout
// seconds. It returns when the container has ended.
func (r *Runtime) StopContainer(ctx context.Context, id string, timeout int64) error {
	c, err := r.findContainer(id)
	if status.Code(err) == codes.NotFound {
		return nil
	}
	if err != nil {
		return err
	}
	return failed("stop container", r.stopContainer(ctx, c, time.Duration(timeout)*time.Second))
}

func (r *Runtime) stopContainer(ctx context.Context, c *container, timeout time.Duration) error {
	rec := r.record(c)
	if rec.Phase != phaseRunning {
		return nil // CRI: stopping what does not run succeeds
	}
	if timeout > 0 {
		if err := r.signal(ctx, rec, stopSignal(rec)); err != nil {
			return err
		}
		timer := time.NewTimer(timeout)
		defer timer.Stop()
		select {
		case <-c.exited:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		case <-timer.C:
		}
	}
	if err := r.signal(ctx, rec, unix.SIGKILL); err != nil {
		return err
	}
	select {
	case <-c.exited:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// signal is no error when the container has ended or the shim is gone: the end
// will be told.
func (r *Runtime) signal(ctx context.Context, rec containerRecord, sig unix.Signal) error {
	_, _, err := r.call(ctx, rec.Sandbox, &wire.Request{Op: wire.OpSignal, Container: rec.ID, Signal: int(sig)})
	if err == nil || ctx.Err() != nil {
		return ctx.Err()
	}
	if isKind(err, wire.ErrNotRunning) || isKind(err, wire.ErrNotFound) || r.shimless(rec.Sandbox) {
		return nil
	}
	return err
}

// shimless tells whether the sandbox's shim has ended or is about to be seen so.
func (r *Runtime) shimless(id string) bool {
	conn, err := r.dial(id)
	if err != nil {
		return true
	}
	conn.Close()
	return false
}

// stopSignal is the pod's choice, the image's, or SIGTERM.
func stopSignal(rec containerRecord) unix.Signal {
	name := rec.Stop
	if s := rec.Config.M.GetStopSignal(); s != runtimeapi.Signal_SIGNAL_RUNTIME_DEFAULT {
		name = strings.TrimPrefix(s.String(), "SIGNAL_")
	}
	return parseSignal(name)
}

// RemoveContainer implements CRI.
func (r *Runtime) RemoveContainer(ctx context.Context, id string) error {
	c, err := r.findContainer(id)
	if status.Code(err) == codes.NotFound {
		return nil
	}
	if err != nil {
		return err
	}
	return r.removeContainer(ctx, c)
}

// removeContainer waits for whoever is making or starting the container.
func (r *Runtime) removeContainer(ctx context.Context, c *container) error {
	c.op.Lock()
	defer c.op.Unlock()
	if c.removed {
		return nil
	}
	if err := r.stopContainer(ctx, c, 0); err != nil {
		return failed("remove container", err)
	}
	if err := r.eraseContainer(c); err != nil {
		return failed("remove container", err)
	}
	r.containerEvent(c, runtimeapi.ContainerEventType_CONTAINER_DELETED_EVENT)
	return nil
}

// eraseContainer forgets a container that does not run; c.op is held.
func (r *Runtime) eraseContainer(c *container) error {
	rec := r.record(c)
	_, _, err := r.call(context.Background(), rec.Sandbox, &wire.Request{Op: wire.OpForget, Container: rec.ID})
	if err != nil && !isKind(err, wire.ErrNotFound) && !r.shimless(rec.Sandbox) {
		return err
	}
	rec.unmount()
	if err := r.release(rec); err != nil {
		return fmt.Errorf("release the root file system: %w", err)
	}
	if err := removeRecord(r.containerRecords(), rec.ID); err != nil {
		return err
	}
	r.nano.forget(rec.ID)
	c.removed = true
	r.mu.Lock()
	delete(r.containers, rec.ID)
	r.mu.Unlock()
	return nil
}

// UpdateContainerResources implements CRI. What a field leaves zero stays.
func (r *Runtime) UpdateContainerResources(ctx context.Context, id string, res *runtimeapi.ContainerResources) error {
	c, err := r.findContainer(id)
	if err != nil {
		return err
	}
	c.op.Lock()
	defer c.op.Unlock()
	rec := r.record(c)
	if rec.Phase == phaseEnded {
		return status.Errorf(codes.FailedPrecondition, "container %s has ended", rec.ID)
	}
	next := mergeResources(rec.Resources.M, res.GetLinux())
	if rec.Phase == phaseRunning {
		_, _, err := r.call(ctx, rec.Sandbox, &wire.Request{Op: wire.OpUpdate, Container: rec.ID, Resources: linuxResources(next, r.version)})
		if err != nil {
			return failed("update the container's resources", err)
		}
	}
	r.mu.Lock()
	c.rec.Resources.M = next
	rec = c.rec
	r.mu.Unlock()
	return r.saveContainer(rec)
}

// ReopenContainerLog implements CRI.
func (r *Runtime) ReopenContainerLog(ctx context.Context, id string) error {
	rec, err := r.runningContainer(id)
	if err != nil {
		return err
	}
	_, _, err = r.call(ctx, rec.Sandbox, &wire.Request{Op: wire.OpReopen, Container: rec.ID})
	return failed("reopen the container's log", err)
}

// CheckpointContainer implements CRI.
func (r *Runtime) CheckpointContainer(context.Context, *runtimeapi.CheckpointContainerRequest) error {
	return status.Error(codes.Unimplemented, "containers cannot be checkpointed")
}

// findContainer knows IDs and prefixes that only one ID has.
func (r *Runtime) findContainer(id string) (*container, error) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	c, err := lookUp(r.containers, "container", id)
	if err == nil && c.rec.Phase == phaseMaking {
		return nil, notFound("container", id)
	}
	return c, err
}

// runningContainer is the record of a container that runs.
func (r *Runtime) runningContainer(id string) (containerRecord, error) {
	c, err := r.findContainer(id)
	if err != nil {
		return containerRecord{}, err
	}
	r.mu.RLock()
	defer r.mu.RUnlock()
	if c.rec.Phase != phaseRunning {
		return c.rec, status.Errorf(codes.FailedPrecondition, "container %s is not running", c.rec.ID)
	}
	return c.rec, nil
}

// containersOf are a sandbox's.
func (r *Runtime) containersOf(sandbox string) (all []*container) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	for _, c := range r.containers {
		if c.rec.Sandbox == sandbox {
			all = append(all, c)
		}
	}
	return all
}
