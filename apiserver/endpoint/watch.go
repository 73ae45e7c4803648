package endpoint

import (
	"context"
	"errors"
	"iter"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"

	"proa/store"
)

// Change is one event of a watch, as its selectors see it.
type Change struct {
	Type   watch.EventType
	Record *store.Record
	// Prev is set where the object left the selection: it is shown as deleted,
	// in the state that was selected last.
	Prev *store.Record
}

// Watch is a running watch; it holds no goroutine.
type Watch struct {
	// Bookmark tells that the end of Initial is to be marked.
	Bookmark bool
	// Revision is that of the initial state.
	Revision uint64

	sel     Selection
	scope   store.Scope
	initial store.Snapshot
	watcher store.Watcher
}

// Watch follows what a list with the same options would show.
func (e *Endpoint) Watch(ctx context.Context, q Request, opts ListOptions) (*Watch, error) {
	opts.Watch = true
	if err := validateListOptions(opts); err != nil {
		return nil, err
	}
	w := &Watch{scope: store.Scope{Resource: q.Served.Key(), Namespace: q.Namespace, Name: q.Name}}
	var err error
	if w.sel, err = newSelection(ctx, q.Served, opts.LabelSelector, opts.FieldSelector, &w.scope); err != nil {
		return nil, err
	}
	rev, err := parseRevision(opts.ResourceVersion)
	if err != nil {
		return nil, err
	}
	return w, e.begin(ctx, w, rev, opts)
}

// begin opens the store's watcher: with the state before it where the client
// wants that (sendInitialEvents, KEP-3157) or names no revision.
func (e *Endpoint) begin(ctx context.Context, w *Watch, rev uint64, opts ListOptions) error {
	wanted := opts.SendInitialEvents
	if err := e.reach(ctx, rev); err != nil {
		return err
	}
	if rev > 0 && (wanted == nil || !*wanted) {
		watcher, err := e.Store.Watch(rev, w.scope)
		if errors.Is(err, store.ErrExpired) {
			return expiredWatch()
		}
		if err != nil {
			return apierrors.NewInternalError(err)
		}
		w.watcher, w.Revision = watcher, rev
		return nil
	}
	if opts.ResourceVersion == "" {
		if _, err := e.latest(ctx); err != nil {
			return err
		}
	}
	world, watcher := e.Store.SnapshotAndWatch(w.scope)
	w.watcher, w.Revision = watcher, world.Revision()
	if wanted == nil || *wanted {
		w.initial = world
		w.Bookmark = wanted != nil && *wanted && opts.AllowWatchBookmarks
	}
	return nil
}

func expiredWatch() error {
	return apierrors.NewResourceExpired("too old resource version: the history since then is not kept any more")
}

// Initial yields the state that the watch begins with; it can be walked once.
func (w *Watch) Initial() iter.Seq2[*store.Record, error] {
	return func(yield func(*store.Record, error) bool) {
		world := w.initial
		w.initial = nil
		if world == nil {
			return
		}
		for rec := range candidates(world, w.scope, w.sel, store.Key{}) {
			ok, err := w.sel.matches(rec)
			if (ok || err != nil) && !yield(rec, err) {
				return
			}
		}
	}
}

// Next waits for changes. It may return none where only the revision went on.
// When ctx ends it returns ctx's error with the revision reached; a 410 Status
// error ends the watch.
func (w *Watch) Next(ctx context.Context) ([]Change, uint64, error) {
	events, rev, err := w.watcher.Next(ctx)
	if errors.Is(err, store.ErrExpired) {
		return nil, rev, expiredWatch()
	}
	if err != nil {
		return nil, rev, err
	}
	changes := make([]Change, 0, len(events))
	for _, ev := range events {
		c, err := w.sel.change(ev)
		if err != nil {
			return nil, rev, internal(err)
		}
		if c.Record != nil {
			changes = append(changes, c)
		}
	}
	return changes, rev, nil
}

// Close ends the watch.
func (w *Watch) Close() { w.watcher.Close() }

// change is what an event is to a reader that sees the selection only; the zero
// Change is nothing.
func (s Selection) change(ev store.Event) (Change, error) {
	was, err := s.matches(ev.Prev)
	if err != nil {
		return Change{}, err
	}
	is := false
	if ev.Type != store.Deleted {
		if is, err = s.matches(ev.Record); err != nil {
			return Change{}, err
		}
	}
	switch {
	case is && was:
		return Change{Type: watch.Modified, Record: ev.Record}, nil
	case is:
		return Change{Type: watch.Added, Record: ev.Record}, nil
	case was && ev.Type == store.Deleted:
		return Change{Type: watch.Deleted, Record: ev.Record}, nil
	case was:
		return Change{Type: watch.Deleted, Record: ev.Record, Prev: ev.Prev}, nil
	}
	return Change{}, nil
}

// InitialEventsEnd marks the bookmark that ends the initial events.
var InitialEventsEnd = map[string]string{metav1.InitialEventsAnnotationKey: "true"}
