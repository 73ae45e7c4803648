package store

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"sync/atomic"
)

// watchLimit is how many events one Next returns at most.
const watchLimit = 256

// watcher is a cursor into the histories of its resources. It has no queue: a
// slow one costs nothing until its cursor leaves the history.
type watcher struct {
	store  *Store
	scopes []Scope
	// cursor is how far the stream has come; more says that the last reading was
	// cut short. Both belong to the caller of Next.
	cursor uint64
	more   bool
	// pending is the revision of the first event in scope that was announced
	// since it was last looked at, or 0.
	pending atomic.Uint64
	wake    chan struct{}
	gone    chan struct{}
	once    sync.Once
}

func (s *Store) Watch(from uint64, scopes ...Scope) (Watcher, error) {
	w := s.newWatcher(scopes)
	now := s.world.Load()
	w.cursor = from
	if from > now.revision {
		w.Close()
		return nil, ErrFuture
	}
	if from < s.start.Load() || w.lost(now) {
		w.Close()
		return nil, ErrExpired
	}
	if events, _ := w.collect(now); len(events) > 0 {
		w.pending.Store(events[0].Revision)
	}
	return w, nil
}

func (s *Store) SnapshotAndWatch(scopes ...Scope) (Snapshot, Watcher) {
	w := s.newWatcher(scopes)
	now := s.world.Load()
	w.cursor = now.revision
	return &now.view, w
}

func (s *Store) newWatcher(scopes []Scope) *watcher {
	w := &watcher{store: s, scopes: slices.Clone(scopes),
		wake: make(chan struct{}, 1), gone: make(chan struct{})}
	s.watched.add(w)
	return w
}

func (w *watcher) Close() {
	w.once.Do(func() {
		w.store.watched.remove(w)
		close(w.gone)
	})
}

func (w *watcher) Next(ctx context.Context) ([]Event, uint64, error) {
	for {
		events, err := w.take()
		if err != nil || len(events) > 0 {
			return events, w.cursor, err
		}
		select {
		case <-w.wake:
		case <-ctx.Done():
			w.settle()
			return nil, w.cursor, ctx.Err()
		case <-w.gone:
			return nil, w.cursor, ErrClosed
		case <-w.store.closed:
			return nil, w.cursor, ErrClosed
		}
	}
}

// settle moves the cursor over revisions that were announced and held nothing
// in scope. The order of the two reads matters: events up to notified have set
// pending already.
func (w *watcher) settle() (announced bool) {
	if w.more {
		return true
	}
	n := w.store.notified.Load()
	if first := w.pending.Load(); first != 0 {
		w.cursor = max(w.cursor, first-1)
		return true
	}
	w.cursor = max(w.cursor, n)
	return false
}

// take returns the events that are there.
func (w *watcher) take() ([]Event, error) {
	if !w.settle() {
		return nil, nil
	}
	w.pending.Store(0) // whatever set it is in the world that is loaded next
	now := w.store.world.Load()
	if w.lost(now) {
		return nil, ErrExpired
	}
	events, horizon := w.collect(now)
	w.cursor = horizon
	w.more = horizon < now.revision
	return events, nil
}

// lost tells that events between the cursor and the kept history are gone.
func (w *watcher) lost(now *world) bool {
	return slices.ContainsFunc(w.scopes, func(s Scope) bool {
		t := now.tree(s.Resource)
		return t != nil && w.cursor < t.history.floor
	})
}

// collect returns the next events in scope in revision order, and how far the
// histories were read.
func (w *watcher) collect(now *world) (events []Event, horizon uint64) {
	horizon = now.revision
	for i, s := range w.scopes {
		t := now.tree(s.Resource)
		if t == nil || slices.ContainsFunc(w.scopes[:i], func(o Scope) bool { return o.Resource == s.Resource }) {
			continue
		}
		n := 0
		for _, e := range t.history.after(w.cursor) {
			if !w.covers(e.Record.key) {
				continue
			}
			if n >= watchLimit && e.Revision != events[len(events)-1].Revision { // a revision is never cut
				horizon = min(horizon, events[len(events)-1].Revision)
				break
			}
			events = append(events, e.Event)
			n++
		}
	}
	slices.SortStableFunc(events, func(a, b Event) int { return cmp.Compare(a.Revision, b.Revision) })
	if len(events) > watchLimit {
		horizon = min(horizon, events[watchLimit-1].Revision)
	}
	end := len(events)
	for end > 0 && events[end-1].Revision > horizon {
		end--
	}
	return events[:end], horizon
}

func (w *watcher) covers(k Key) bool {
	return slices.ContainsFunc(w.scopes, func(s Scope) bool { return s.Covers(k) })
}

// Covers tells whether a key is in the scope.
func (s Scope) Covers(k Key) bool {
	return s.Resource == k.Resource && (s.Namespace == "" || s.Namespace == k.Namespace) && (s.Name == "" || s.Name == k.Name)
}

// registrations finds the watchers that an event concerns without asking the
// others.
type registrations struct {
	mu      sync.Mutex
	byScope map[Scope]map[*watcher]struct{}
}

func (r *registrations) add(w *watcher) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range w.scopes {
		if r.byScope[s] == nil {
			r.byScope[s] = map[*watcher]struct{}{}
		}
		r.byScope[s][w] = struct{}{}
	}
}

func (r *registrations) remove(w *watcher) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range w.scopes {
		delete(r.byScope[s], w)
		if len(r.byScope[s]) == 0 {
			delete(r.byScope, s)
		}
	}
}

// notify wakes the watchers of the events, which must be visible already.
func (r *registrations) notify(events []Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range events {
		k := events[i].Record.key
		r.wake(Scope{k.Resource, "", ""}, events[i].Revision)
		r.wake(Scope{k.Resource, "", k.Name}, events[i].Revision)
		if k.Namespace != "" {
			r.wake(Scope{k.Resource, k.Namespace, ""}, events[i].Revision)
			r.wake(Scope{k.Resource, k.Namespace, k.Name}, events[i].Revision)
		}
	}
}

func (r *registrations) wake(s Scope, revision uint64) {
	for w := range r.byScope[s] {
		if !w.pending.CompareAndSwap(0, revision) {
			continue // it knows, and has a wake-up under way
		}
		select {
		case w.wake <- struct{}{}:
		default:
		}
	}
}

// wakeAll has everybody look at a new world.
func (r *registrations) wakeAll(revision uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for s := range r.byScope {
		r.wake(s, revision)
	}
}
