// Package supervise owns the goroutines of a daemon. Components are started in
// order; the first that returns, for whatever reason, ends all; they are stopped
// one by one in reverse order, each after the one that leans on it is gone.
package supervise

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
)

// Group is a set of components that live and end together.
type Group struct {
	mu     sync.Mutex
	parts  []*part
	failed chan error // capacity 1: the first reason
}

type part struct {
	name   string
	cancel context.CancelFunc
	done   chan struct{}
	err    error
}

// New returns an empty group.
func New() *Group { return &Group{failed: make(chan error, 1)} }

// Go starts a component. run must block until its context ends or it cannot go
// on; a return before the group stops is a failure even without an error.
func (g *Group) Go(name string, run func(context.Context) error) {
	ctx, cancel := context.WithCancel(context.Background())
	p := &part{name: name, cancel: cancel, done: make(chan struct{})}
	g.mu.Lock()
	g.parts = append(g.parts, p)
	g.mu.Unlock()
	go func() {
		defer close(p.done)
		p.err = run(ctx)
		if ctx.Err() == nil {
			g.fail(name, p.err)
		}
	}()
}

// Closer adds something that does not run but must be closed when its turn
// comes.
func (g *Group) Closer(name string, close func() error) {
	g.Go(name, func(ctx context.Context) error {
		<-ctx.Done()
		return close()
	})
}

func (g *Group) fail(name string, err error) {
	if err == nil {
		err = errors.New("ended by itself")
	}
	select {
	case g.failed <- fmt.Errorf("%s: %w", name, err):
	default:
	}
}

// Failed yields the reason why the group cannot go on.
func (g *Group) Failed() <-chan error { return g.failed }

// Stop ends all components, the last started first, and returns what went wrong
// while they stopped.
func (g *Group) Stop() error { return g.StopAfter("") }

// StopAfter ends those components that were started after the named one, and
// leaves it and those before it running.
func (g *Group) StopAfter(name string) error {
	g.mu.Lock()
	keep := 1 + slices.IndexFunc(g.parts, func(p *part) bool { return p.name == name })
	rest := slices.Clone(g.parts[keep:])
	g.parts = g.parts[:keep]
	g.mu.Unlock()
	var errs []error
	for _, p := range slices.Backward(rest) {
		p.cancel()
		<-p.done
		if p.err != nil && !errors.Is(p.err, context.Canceled) {
			errs = append(errs, fmt.Errorf("%s: %w", p.name, p.err))
		}
	}
	return errors.Join(errs...)
}
