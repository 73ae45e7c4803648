// Package plane gives a test a control plane in its own process: the API server, a
// datastore on disk, and all controllers, with whatever else the test has run
// beside them. Nobody is asked for permission; nothing outlives the test.
package plane

import (
	"context"
	"log/slog"
	"net/netip"
	"os"
	"sync"
	"testing"

	"proa/api"
	"proa/apiserver"
	"proa/auth"
	"proa/client"
	"proa/controllers"
	"proa/reconcile"
	"proa/store"
	"proa/store/pebble"
)

type everybody struct{}

func (everybody) Authorize(context.Context, auth.Attributes) (auth.Decision, string, error) {
	return auth.Allow, "", nil
}

// Start runs a control plane until the test ends. What runs beside it is given its
// client; an error of anything, and of closing the datastore, is the test's.
func Start(t testing.TB, beside ...func(context.Context, client.Client) error) client.Client {
	t.Helper()
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError}))
	engine, err := pebble.Open(pebble.Config{Dir: t.TempDir(), Log: log})
	if err != nil {
		t.Fatal(err)
	}
	s, err := store.New(store.Config{Engine: engine, Codec: apiserver.NewCodec(api.Builtin()), Registry: api.Builtin(), Log: log})
	if err != nil {
		t.Fatal(err)
	}
	server, err := apiserver.New(apiserver.Config{Store: s, Registry: api.Builtin(), Authorizer: everybody{}, ServiceCIDR: netip.MustParsePrefix("10.43.0.0/16"),
		NodePorts: [2]int{30000, 32767}, ClusterDomain: "cluster.local", ExternalHost: "192.0.2.1:6443", Log: log})
	if err != nil {
		t.Fatal(err)
	}
	c := server.Client(auth.User{Name: "system:kube-controller-manager", Groups: []string{"system:masters"}})
	all := controllers.All(controllers.Config{RootCA: []byte("PEM"), ClusterCIDR: netip.MustParsePrefix("10.42.0.0/16")})
	parts := []func(context.Context) error{server.Run, func(ctx context.Context) error { return reconcile.Run(ctx, c, log, all...) }}
	for _, run := range beside {
		parts = append(parts, func(ctx context.Context) error { return run(ctx, c) })
	}
	ctx, stop := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	for _, run := range parts {
		wg.Go(func() {
			if err := run(ctx); err != nil && ctx.Err() == nil {
				t.Error(err)
			}
		})
	}
	t.Cleanup(func() {
		stop()
		wg.Wait()
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}
