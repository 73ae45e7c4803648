package kubelet

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"proa/kubelet/logs"
)

// Container logs are rotated at this size and kept this often, the one that is
// written included (containerLogMaxSize and containerLogMaxFiles of upstream).
const (
	maxLogSize  = 10 << 20
	maxLogFiles = 5
	// logRest is how long a log that was written to is left alone before it is
	// looked at again: a chatty container costs one look in that time.
	logRest = 10 * time.Second
)

// rotation keeps the logs of running containers within bounds. A silent container
// costs nothing: its file is watched by the kernel.
type rotation struct {
	k *Kubelet

	mu    sync.Mutex
	sizes *logs.Sizes
	owner map[string]rotated // by path
}

type rotated struct {
	id string
	w  *worker
}

func newRotation(k *Kubelet) *rotation { return &rotation{k: k, owner: map[string]rotated{}} }

func (r *rotation) run(ctx context.Context) error {
	sizes, err := logs.NewSizes()
	if err != nil {
		return err
	}
	r.mu.Lock()
	r.sizes = sizes
	for path := range r.owner {
		_ = sizes.Watch(path)
	}
	r.mu.Unlock()
	stop := context.AfterFunc(ctx, func() { sizes.Close() })
	defer stop()
	for {
		paths, err := sizes.Next()
		if ctx.Err() != nil {
			return nil
		} else if err != nil {
			return err
		}
		r.k.effects.Go(func() { r.look(ctx, paths) })
	}
}

// look rotates what has grown too large, and watches on.
func (r *rotation) look(ctx context.Context, paths []string) {
	sleep(ctx, logRest)
	for _, p := range paths {
		r.mu.Lock()
		o, ok := r.owner[p]
		r.mu.Unlock()
		if !ok || ctx.Err() != nil {
			continue
		}
		if info, err := os.Stat(p); err == nil && info.Size() >= maxLogSize {
			if err := r.rotate(ctx, p, o.id); err != nil {
				r.k.log.Warn("a container's log could not be rotated", "path", p, "err", err)
			}
		}
		_ = r.sizes.Watch(p)
	}
}

// rotate renames the log and has the runtime begin a new one; if it does not, the
// name is given back.
func (r *rotation) rotate(ctx context.Context, path, id string) error {
	old := path + "." + time.Now().Format("20060102-150405")
	if err := os.Rename(path, old); err != nil {
		return err
	}
	if err := r.k.cfg.Runtime.ReopenContainerLog(ctx, id); err != nil {
		if back := os.Rename(old, path); back != nil {
			return fmt.Errorf("%w; and then %w", err, back)
		}
		return err
	}
	kept, err := filepath.Glob(path + ".*")
	if err != nil {
		return err
	}
	slices.Sort(kept)
	for len(kept) > maxLogFiles-1 {
		if err := os.Remove(kept[0]); err != nil {
			return err
		}
		kept = kept[1:]
	}
	return nil
}

// follow takes up the running containers of a worker and lets go of the others.
func (r *rotation) follow(w *worker) {
	running := map[string]string{}
	for _, c := range w.st.Containers {
		if c.State == cri.ContainerState_CONTAINER_RUNNING {
			running[logPath(r.k.node, w.st.Pod, c)] = c.Id
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for path, o := range r.owner {
		if o.w == w && running[path] == "" {
			delete(r.owner, path)
		}
	}
	for path, id := range running {
		if _, ok := r.owner[path]; !ok && r.sizes != nil {
			_ = r.sizes.Watch(path)
		}
		r.owner[path] = rotated{id, w}
	}
}

func (r *rotation) forget(w *worker) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for path, o := range r.owner {
		if o.w == w {
			delete(r.owner, path)
		}
	}
}

// remove deletes the log of an instance that is gone, with its rotated parts.
func (r *rotation) remove(path string) {
	parts, _ := filepath.Glob(path + ".*")
	for _, p := range append(parts, path) {
		os.Remove(p)
	}
}
