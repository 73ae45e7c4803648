package runtime

import (
	"context"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// events hands what happens to whoever listens.
type events struct {
	mu        sync.Mutex
	listeners map[*listener]struct{}
}

// listener has a queue of its own, so that a slow one delays nobody.
type listener struct {
	wake  chan struct{}
	queue []*runtimeapi.ContainerEventResponse // guarded by events.mu
	lost  bool                                 // guarded by events.mu
}

// maxQueued is how many events may wait for a listener before it is told by an
// error that it has missed some.
const maxQueued = 10000

func (e *events) add() *listener {
	l := &listener{wake: make(chan struct{}, 1)}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.listeners == nil {
		e.listeners = map[*listener]struct{}{}
	}
	e.listeners[l] = struct{}{}
	return l
}

func (e *events) remove(l *listener) {
	e.mu.Lock()
	delete(e.listeners, l)
	e.mu.Unlock()
}

func (e *events) idle() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.listeners) == 0
}

func (e *events) send(ev *runtimeapi.ContainerEventResponse) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for l := range e.listeners {
		if len(l.queue) < maxQueued {
			l.queue = append(l.queue, ev)
		} else {
			l.lost = true
		}
		select {
		case l.wake <- struct{}{}:
		default:
		}
	}
}

func (e *events) take(l *listener) (queue []*runtimeapi.ContainerEventResponse, lost bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	queue, l.queue = l.queue, nil
	return queue, l.lost
}

// GetContainerEvents implements CRI: it sends to ch until ctx ends, or fails when
// the reader has fallen too far behind. established
// is called with nil once no event will be missed.
func (r *Runtime) GetContainerEvents(ctx context.Context, ch chan *runtimeapi.ContainerEventResponse,
	established func(runtimeapi.RuntimeService_GetContainerEventsClient)) error {
	l := r.events.add()
	defer r.events.remove(l)
	if established != nil {
		established(nil)
	}
	for {
		queue, lost := r.events.take(l)
		for _, ev := range queue {
			select {
			case ch <- ev:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		if lost {
			return status.Error(codes.DataLoss, "events were not taken and have been lost: list and listen anew")
		}
		select {
		case <-l.wake:
		case <-ctx.Done():
			return ctx.Err()
		case <-r.closing:
			return nil
		}
	}
}

func (r *Runtime) containerEvent(c *container, kind runtimeapi.ContainerEventType) {
	r.mu.RLock()
	rec := c.rec
	s := r.sandboxes[rec.Sandbox]
	r.mu.RUnlock()
	r.event(rec.ID, s, kind)
}

// sandboxEvent carries the sandbox's ID where a container's would be, as other
// runtimes do.
func (r *Runtime) sandboxEvent(s *sandbox, kind runtimeapi.ContainerEventType) {
	r.event(s.id, s, kind)
}

func (r *Runtime) event(id string, s *sandbox, kind runtimeapi.ContainerEventType) {
	if s == nil || r.events.idle() {
		return
	}
	ev := &runtimeapi.ContainerEventResponse{ContainerId: id, ContainerEventType: kind, CreatedAt: time.Now().UnixNano()}
	r.mu.RLock()
	ev.PodSandboxStatus = s.rec.status()
	for _, c := range r.containers {
		if c.rec.Sandbox == s.id && c.rec.Phase != phaseMaking {
			ev.ContainersStatuses = append(ev.ContainersStatuses, c.rec.status())
		}
	}
	r.mu.RUnlock()
	r.events.send(ev)
}
