package supervise

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
)

func TestStopsInReverseOrder(t *testing.T) {
	g, order := New(), []string{}
	for _, name := range []string{"store", "api", "node"} {
		g.Closer(name, func() error { order = append(order, name); return nil })
	}
	if err := g.Stop(); err != nil {
		t.Fatal(err)
	}
	if want := []string{"node", "api", "store"}; !slices.Equal(order, want) {
		t.Errorf("stopped %v, want %v", order, want)
	}
}

func TestAnyReturnIsAFailure(t *testing.T) {
	g := New()
	g.Closer("store", func() error { return nil })
	g.Go("api", func(context.Context) error { return nil })
	if err := <-g.Failed(); err == nil || !strings.Contains(err.Error(), "api: ended by itself") {
		t.Errorf("got %v", err)
	}
	if err := g.Stop(); err != nil {
		t.Error(err)
	}
}

func TestReportsWhatWentWrongWhileStopping(t *testing.T) {
	g, broken := New(), errors.New("broken")
	g.Closer("store", func() error { return broken })
	g.Go("api", func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() })
	if err := g.Stop(); !errors.Is(err, broken) || strings.Contains(err.Error(), "api") {
		t.Errorf("got %v", err)
	}
}
