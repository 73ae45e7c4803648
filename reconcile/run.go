package reconcile

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"runtime/debug"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"proa/api"
	"proa/client"
	"proa/client/events"
)

// loop runs controllers over one watch.
type loop struct {
	client   client.Client
	log      *slog.Logger
	recorder *events.Recorder
	runners  []*runner
	wakes    map[string][]wake // by Resource.Key; "" is every resource
}

// runner is one controller with its queue.
type runner struct {
	*loop
	Controller
	queue    *queue
	recorder *events.Recorder
	log      *slog.Logger
}

// wake is one Watch of one controller.
type wake struct {
	*runner
	keys func(client.View, client.Event) []client.Key
}

// Run runs the controllers until ctx ends or a watch fails. All share one
// stream; every object that exists at the start wakes its keys once.
func Run(ctx context.Context, c client.Client, log *slog.Logger, controllers ...Controller) error {
	l := &loop{client: c, log: log, wakes: map[string][]wake{}, recorder: events.New(c, "", "", log)}
	group, ctx := errgroup.WithContext(ctx)
	for _, controller := range controllers {
		l.add(ctx, controller)
	}
	defer l.close()
	group.Go(func() error { return l.recorder.Run(ctx) })
	changed, rows := c.Registry().Changed(), l.rows()
	group.Go(func() error { return l.watch(ctx, rows) })
	if len(l.wakes[""]) > 0 {
		group.Go(func() error { return l.widen(ctx, group, changed, rows) })
	}
	return group.Wait()
}

// add makes a controller's runner.
func (l *loop) add(ctx context.Context, c Controller) {
	r := &runner{loop: l, Controller: c, recorder: l.recorder.For(cmp.Or(c.Source, c.Name)), log: l.log.With("controller", c.Name)}
	r.queue = newQueue(ctx, c.Name, c.Workers, r.reconcile)
	r.queue.pace = c.Pace
	l.runners = append(l.runners, r)
	for _, w := range c.Watches {
		name := ""
		if w.Resource != nil {
			name = w.Resource.Key()
		}
		l.wakes[name] = append(l.wakes[name], wake{r, w.Keys})
	}
}

// rows are the resources that somebody watches and that are there now. Reviews
// and their like, which are not stored, cannot be watched.
func (l *loop) rows() []*api.Resource {
	return slices.DeleteFunc(l.client.Registry().All(), func(row *api.Resource) bool {
		return row.NewList == nil || len(l.wakes[row.Key()]) == 0 && len(l.wakes[""]) == 0
	})
}

// widen watches resources that are added later, too, each lot on a stream of
// its own.
func (l *loop) widen(ctx context.Context, group *errgroup.Group, changed <-chan struct{}, rows []*api.Resource) error {
	known := map[string]bool{}
	for {
		for _, row := range rows {
			known[row.Key()] = true
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil
		}
		changed = l.client.Registry().Changed()
		rows = slices.DeleteFunc(l.rows(), func(row *api.Resource) bool { return known[row.Key()] })
		if added := rows; len(added) > 0 {
			group.Go(func() error { return l.watch(ctx, added) })
		}
	}
}

// watch wakes keys for what there is of some resources, and for every change.
func (l *loop) watch(ctx context.Context, rows []*api.Resource) error {
	var scopes []client.Scope
	for _, row := range rows {
		scopes = append(scopes, client.Scope{Resource: row})
	}
	view, stream, err := l.client.Watch(ctx, scopes...)
	if err != nil {
		return fmt.Errorf("reconcile: watching: %w", err)
	}
	defer stream.Close()
	l.start(view, rows)
	return l.follow(ctx, stream)
}

// start wakes the keys of all that exists.
func (l *loop) start(view client.View, rows []*api.Resource) {
	for _, row := range rows {
		for obj := range view.List(row, "") {
			l.dispatch(view, client.Event{Resource: row, New: obj, Revision: view.Revision()})
		}
	}
}

func (l *loop) follow(ctx context.Context, stream client.Stream) error {
	clock := newWallClock()
	for {
		batch, view, err := stream.Next(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("reconcile: watching: %w", err)
		}
		for _, e := range batch {
			l.dispatch(view, e)
		}
		if clock.jumped() {
			l.log.Info("the clock was set or the machine slept: timers start again")
			for _, r := range l.runners {
				r.queue.wakeAll()
			}
		}
	}
}

func (l *loop) close() {
	for _, r := range l.runners {
		r.queue.close()
	}
}

func (l *loop) dispatch(view client.View, e client.Event) {
	for _, w := range l.wakes[e.Resource.Key()] {
		w.dispatch(view, e)
	}
	for _, w := range l.wakes[""] {
		w.dispatch(view, e)
	}
}

func (w wake) dispatch(view client.View, e client.Event) {
	defer func() {
		if p := recover(); p != nil {
			w.log.Error("panic while mapping an event", "resource", e.Resource.Key(), "panic", p, "stack", string(debug.Stack()))
		}
	}()
	if w.keys == nil {
		w.queue.add(client.KeyOf(e.Object()))
		return
	}
	for _, key := range w.keys(view, e) {
		w.queue.add(key)
	}
}

// reconcile is one attempt at a key.
func (r *runner) reconcile(ctx context.Context, key client.Key) outcome {
	began := time.Now()
	plan := r.decide(began, key)
	result := r.apply(ctx, plan)
	if plan.Err != nil && result.err == nil {
		result.err = plan.Err
	}
	observe(r.Name, time.Since(began), result)
	if result.err != nil && ctx.Err() == nil {
		r.log.Warn("reconciling failed; it is tried again", "key", key.String(), "error", result.err)
	}
	return result
}

// decide calls the decision; a panic in it is that key's error.
func (r *runner) decide(now time.Time, key client.Key) (plan Plan) {
	defer func() {
		if p := recover(); p != nil {
			r.log.Error("panic in a decision", "key", key.String(), "panic", p, "stack", string(debug.Stack()))
			plan = Plan{Err: fmt.Errorf("panic: %v", p)}
		}
	}()
	return r.Decide(r.client.View(), now, key)
}

// wallClock notices that wall time and the clock that timers run by have
// drifted apart.
type wallClock struct {
	began time.Time
	drift time.Duration
}

const jump = 2 * time.Second

func newWallClock() *wallClock { return &wallClock{began: time.Now()} }

func (c *wallClock) jumped() bool {
	now := time.Now()
	drift := now.Round(0).Sub(c.began.Round(0)) - now.Sub(c.began)
	if (drift - c.drift).Abs() < jump {
		return false
	}
	c.drift = drift
	return true
}
