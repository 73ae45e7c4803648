package kubelet

import (
	"context"
	"log/slog"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"

	"proa/api"
	"proa/client"
	"proa/kubelet/spec"
)

// sources reads what pods refer to from the client's view of the world.
type sources struct{ client client.Client }

func (s sources) ConfigMap(namespace, name string) *corev1.ConfigMap {
	return client.Get[corev1.ConfigMap](s.client.View(), namespace, name)
}

func (s sources) Secret(namespace, name string) *corev1.Secret {
	return client.Get[corev1.Secret](s.client.View(), namespace, name)
}

func (s sources) Services(namespace string) []*corev1.Service {
	var out []*corev1.Service
	for svc := range client.List[corev1.Service](s.client.View(), namespace) {
		out = append(out, svc)
	}
	return out
}

// references watches the ConfigMaps and Secrets that this node's pods refer to,
// each once, and no others: a node may not see more.
type references struct {
	client client.Client
	log    *slog.Logger

	mu      sync.Mutex
	watched map[spec.Ref]*watched
	tasks   sync.WaitGroup
}

// watched is one object's watch and who cares.
type watched struct {
	users  map[*worker]bool
	cancel context.CancelFunc
	ready  chan struct{} // closed once the client's view shows the object
}

func newReferences(c client.Client, log *slog.Logger) *references {
	return &references{client: c, log: log, watched: map[spec.Ref]*watched{}}
}

// follow makes the worker hear of changes of what its pod refers to.
func (r *references) follow(ctx context.Context, w *worker, pod *corev1.Pod) {
	want := spec.Refs(pod)
	r.mu.Lock()
	defer r.mu.Unlock()
	for ref := range want {
		if r.watched[ref] == nil {
			r.watch(context.WithoutCancel(ctx), ref)
		}
		r.watched[ref].users[w] = true
	}
	r.release(w, want)
}

func (r *references) drop(w *worker) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.release(w, nil)
}

// release ends watches that nobody needs any more. The caller holds mu.
func (r *references) release(w *worker, keep map[spec.Ref]bool) {
	for ref, one := range r.watched {
		if !keep[ref] {
			delete(one.users, w)
		}
		if len(one.users) == 0 {
			one.cancel()
			delete(r.watched, ref)
		}
	}
}

func (r *references) watch(ctx context.Context, ref spec.Ref) {
	ctx, cancel := context.WithCancel(ctx)
	one := &watched{users: map[*worker]bool{}, cancel: cancel, ready: make(chan struct{})}
	r.watched[ref] = one
	r.tasks.Go(func() {
		for wait := time.Second; ctx.Err() == nil; wait = min(2*wait, time.Minute) {
			if err := r.stream(ctx, ref, one); err != nil && ctx.Err() == nil {
				r.log.Warn("a reference of a pod cannot be watched", "namespace", ref.Namespace, "name", ref.Name, "secret", ref.Secret, "err", err)
				sleep(ctx, wait)
			}
		}
	})
}

func (r *references) stream(ctx context.Context, ref spec.Ref, one *watched) error {
	scope := client.Scope{Resource: row(ref), Namespace: ref.Namespace, Name: ref.Name}
	_, stream, err := r.client.Watch(ctx, scope)
	if err != nil {
		return err
	}
	defer stream.Close()
	select {
	case <-one.ready:
		r.notify(one) // it may have changed while nobody watched
	default:
		close(one.ready)
	}
	for {
		batch, _, err := stream.Next(ctx)
		if err != nil {
			return err
		}
		if len(batch) > 0 {
			r.notify(one)
		}
	}
}

func row(ref spec.Ref) *api.Resource {
	if ref.Secret {
		return client.Row[corev1.Secret]()
	}
	return client.Row[corev1.ConfigMap]()
}

func (r *references) notify(one *watched) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for w := range one.users {
		w.post((*worker).referred)
	}
}

// wait returns when the client's view shows all that the pod refers to, as far as
// it exists.
func (r *references) wait(ctx context.Context, pod *corev1.Pod) {
	for ref := range spec.Refs(pod) {
		r.mu.Lock()
		one := r.watched[ref]
		r.mu.Unlock()
		if one == nil {
			continue
		}
		select {
		case <-ctx.Done():
			return
		case <-one.ready:
		}
	}
}

func (r *references) close() {
	r.mu.Lock()
	for ref, one := range r.watched {
		one.cancel()
		delete(r.watched, ref)
	}
	r.mu.Unlock()
	r.tasks.Wait()
}
