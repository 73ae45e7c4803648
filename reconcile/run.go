package reconcile

import (
	"context"
	"fmt"
	"log/slog"
	"runtime/debug"
	"time"

	"golang.org/x/sync/errgroup"

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

// Run runs the controllers until ctx ends or the watch fails. All share one
// stream; every object that exists at the start wakes its keys once.
func Run(ctx context.Context, c client.Client, log *slog.Logger, controllers ...Controller) error {
	l := &loop{client: c, log: log, wakes: map[string][]wake{}, recorder: events.New(c, "", "", log)}
	group, ctx := errgroup.WithContext(ctx)
	scopes := l.add(ctx, controllers)
	view, stream, err := c.Watch(ctx, scopes...)
	if err != nil {
		return fmt.Errorf("reconcile: watching: %w", err)
	}
	defer stream.Close()
	group.Go(func() error { return l.recorder.Run(ctx) })
	group.Go(func() error {
		defer l.close()
		l.start(view)
		return l.follow(ctx, stream)
	})
	return group.Wait()
}

// add makes the runners and returns the union of what they watch.
func (l *loop) add(ctx context.Context, controllers []Controller) []client.Scope {
	var scopes []client.Scope
	all := false
	for _, c := range controllers {
		r := &runner{loop: l, Controller: c, recorder: l.recorder.For(c.Name), log: l.log.With("controller", c.Name)}
		r.queue = newQueue(ctx, c.Workers, r.reconcile)
		l.runners = append(l.runners, r)
		for _, w := range c.Watches {
			name := ""
			if w.Resource == nil {
				all = true
			} else if name = w.Resource.Key(); len(l.wakes[name]) == 0 {
				scopes = append(scopes, client.Scope{Resource: w.Resource})
			}
			l.wakes[name] = append(l.wakes[name], wake{r, w.Keys})
		}
	}
	if all {
		return []client.Scope{{}}
	}
	return scopes
}

// start wakes the keys of all that exists.
func (l *loop) start(view client.View) {
	for _, row := range l.client.Registry().All() {
		if len(l.wakes[row.Key()]) == 0 && len(l.wakes[""]) == 0 {
			continue
		}
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
