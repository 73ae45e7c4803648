package leader

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"proa/client"
	"proa/client/clienttest"
)

// cut is a client whose writes can be made to fail.
type cut struct {
	client.Client
	off atomic.Bool
}

var errCut = errors.New("cut off")

func (c *cut) Update(ctx context.Context, obj client.Object, sub string) (client.Object, error) {
	if c.off.Load() {
		return nil, errCut
	}
	return c.Client.Update(ctx, obj, sub)
}

// stage counts who works.
type stage struct {
	now, most atomic.Int32
	who       chan string
}

func (s *stage) work(name string) func(context.Context) error {
	return func(ctx context.Context) error {
		s.most.Store(max(s.most.Load(), s.now.Add(1)))
		defer s.now.Add(-1)
		s.who <- name
		<-ctx.Done()
		return fmt.Errorf("cut short: %w", ctx.Err()) // which is no failure
	}
}

func (s *stage) next(t *testing.T, want string) {
	t.Helper()
	select {
	case got := <-s.who:
		if want != "" && got != want {
			t.Fatalf("%s leads, want %s", got, want)
		}
	case <-time.After(30 * time.Second):
		t.Fatalf("nobody leads, want %s", want)
	}
}

// One works at a time: after the leader stopped, at once; after it was cut off,
// once its Lease has run out, and not before it has stopped by itself.
func TestOneAtATime(t *testing.T) {
	world, s := clienttest.New(), &stage{who: make(chan string, 10)}
	var wg sync.WaitGroup
	defer wg.Wait()
	start := func(name string, c client.Client) context.CancelFunc {
		ctx, cancel := context.WithCancel(t.Context())
		wg.Go(func() {
			config := Config{Client: c, Namespace: "kube-system", Name: "it", Identity: name, Log: slog.New(slog.DiscardHandler), Duration: 3 * time.Second}
			if err := Run(ctx, config, s.work(name)); err != nil {
				t.Error(err)
			}
		})
		return cancel
	}
	stopA := start("a", world)
	s.next(t, "a")
	b := &cut{Client: world}
	stopB := start("b", b)
	defer stopB()
	began := time.Now()
	stopA()
	s.next(t, "b")
	if d := time.Since(began); d > 2*time.Second {
		t.Errorf("a released lease was taken after %s", d)
	}
	stopC := start("c", world)
	defer stopC()
	b.off.Store(true)
	s.next(t, "c")
	if s.most.Load() != 1 {
		t.Errorf("%d worked at once", s.most.Load())
	}
	stopC()
	b.off.Store(false)
	s.next(t, "b")
}

// What work returns ends the election, and the Lease is free for the next.
func TestWorkFails(t *testing.T) {
	world := clienttest.New()
	config := Config{Client: world, Namespace: "kube-system", Name: "it", Identity: "a", Log: slog.New(slog.DiscardHandler)}
	if err := Run(t.Context(), config, func(context.Context) error { return errCut }); !errors.Is(err, errCut) {
		t.Errorf("got %v", err)
	}
	config.Identity = "b"
	if err := Run(t.Context(), config, func(context.Context) error { return errCut }); !errors.Is(err, errCut) {
		t.Errorf("the next got %v", err)
	}
}
