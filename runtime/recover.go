package runtime

import (
	"context"
	"errors"
	"os"
	"regexp"
	"sync"
	"time"
)

// recover takes over from an earlier daemon: it reads the records, connects to
// the shims that live, ends what has no shim, and takes down what was half made.
func (r *Runtime) recover(ctx context.Context) error {
	torn := func(id string, err error) { r.log.Warn("a torn record is dropped", "id", id, "err", err) }
	err := loadRecords(r.sandboxRecords(), func(rec sandboxRecord) {
		r.sandboxes[rec.ID] = &sandbox{id: rec.ID, rec: rec}
	}, torn)
	if err != nil {
		return err
	}
	err = loadRecords(r.containerRecords(), func(rec containerRecord) {
		c := &container{id: rec.ID, rec: rec, exited: make(chan struct{})}
		if rec.Phase == phaseEnded {
			close(c.exited)
		}
		r.containers[rec.ID] = c
	}, torn)
	if err != nil {
		return err
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	var errs []error
	for _, s := range r.snapshotSandboxes() {
		wg.Go(func() {
			if err := r.recoverSandbox(ctx, s); err != nil {
				mu.Lock()
				errs = append(errs, err)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	errs = append(errs, r.recoverOrphans(), r.releaseLost())
	return errors.Join(errs...)
}

// layerKey is the form of the keys this package gives to the image store.
var layerKey = regexp.MustCompile(`^([0-9a-f]{64})(-v[0-9]+)?$`)

// releaseLost lets go of the layers whose container's record is gone.
func (r *Runtime) releaseLost() error {
	var errs []error
	for _, key := range r.cfg.Images.Containers() {
		m := layerKey.FindStringSubmatch(key)
		if m != nil && r.containers[m[1]] == nil {
			errs = append(errs, r.cfg.Images.Release(key))
		}
	}
	return errors.Join(errs...)
}

func (r *Runtime) snapshotSandboxes() (all []*sandbox) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	for _, s := range r.sandboxes {
		all = append(all, s)
	}
	return all
}

func (r *Runtime) recoverSandbox(ctx context.Context, s *sandbox) error {
	s.op.Lock()
	defer s.op.Unlock()
	rec := r.sandboxRecord(s)
	if rec.Phase == phaseRunning {
		known, err := r.followShim(s)
		if err == nil {
			return r.recoverContainers(s, known)
		}
		r.log.Info("a sandbox has no shim any more", "sandbox", rec.ID, "err", err)
	}
	// No shim, or one that was never finished: containers end as it recorded or,
	// after a reboot, as nobody knows.
	r.endShim(s)
	for _, c := range r.containersOf(rec.ID) {
		if r.record(c).Phase == phaseMaking {
			if err := r.eraseContainer(c); err != nil {
				return err
			}
			continue
		}
		r.abandoned(c, exit{code: 255, finished: time.Now().UnixNano(), reason: "Unknown"})
	}
	if rec.Phase == phaseMaking {
		return r.eraseSandbox(s)
	}
	return r.stopSandbox(ctx, s)
}

// recoverContainers sets right what the shim and the records see differently.
func (r *Runtime) recoverContainers(s *sandbox, known map[string]bool) error {
	for _, c := range r.containersOf(s.id) {
		switch phase := r.record(c).Phase; {
		case phase == phaseMaking:
			if err := r.eraseContainer(c); err != nil {
				return err
			}
		case known[c.id]:
		case phase == phaseRunning:
			r.abandoned(c, exit{code: 255, finished: time.Now().UnixNano(), reason: "Unknown"})
		}
	}
	return nil
}

// recoverOrphans takes down what has no record: containers without a sandbox and
// run directories whose record is gone.
func (r *Runtime) recoverOrphans() error {
	var errs []error
	r.mu.RLock()
	var lost []*container
	for _, c := range r.containers {
		if r.sandboxes[c.rec.Sandbox] == nil {
			lost = append(lost, c)
		}
	}
	r.mu.RUnlock()
	for _, c := range lost {
		_ = r.version.killCgroup(c.rec.Cgroup)
		errs = append(errs, r.eraseContainer(c))
	}
	entries, err := os.ReadDir(r.runDir("sandboxes"))
	errs = append(errs, err)
	for _, e := range entries {
		if r.sandboxes[e.Name()] == nil {
			r.quitShim(e.Name())
			errs = append(errs, r.removeFiles(e.Name()))
		}
	}
	entries, err = os.ReadDir(r.runDir("rootfs"))
	errs = append(errs, err)
	for _, e := range entries {
		if m := layerKey.FindStringSubmatch(e.Name()); m == nil || r.containers[m[1]] == nil {
			unmountRootfs(r.runDir("rootfs", e.Name()))
			_ = os.Remove(r.runDir("rootfs", e.Name()))
		}
	}
	return errors.Join(errs...)
}
