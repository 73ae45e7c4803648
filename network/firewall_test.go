package network

import (
	"context"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"proa/internal/netnstest"
	"proa/internal/nft"
)

// run runs the network's watch until it is stopped or the test ends.
func run(t *testing.T, n *Network) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- n.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	return stop
}

// firewall makes what Docker makes: a chain that forwards nothing by default.
func firewall(t *testing.T) {
	c, err := nft.Dial()
	check(t, err)
	b := nft.NewBatchIn(unix.NFPROTO_IPV4, "filter")
	b.AddTable()
	b.AddChain("FORWARD", &nft.Hook{Type: "filter", Num: unix.NF_INET_FORWARD, Drops: true})
	check(t, c.Apply(b))
	t.Cleanup(func() {
		defer c.Close()
		if left, err := c.Handles(unix.NFPROTO_IPV4, "filter", "FORWARD", comment); err != nil || len(left) > 0 {
			t.Errorf("rules %v are left in the other firewall, error %v", left, err)
		}
		b := nft.NewBatchIn(unix.NFPROTO_IPV4, "filter")
		b.DelTable()
		check(t, c.Apply(b))
	})
}

// eventually asks until there is an answer.
func eventually(t *testing.T, ns *netnstest.NS, addr string) {
	t.Helper()
	var err error
	for give := time.Now().Add(10 * time.Second); time.Now().Before(give); time.Sleep(5 * time.Millisecond) {
		if _, err = ask(ns, "tcp4", addr, brief); err == nil {
			return
		}
	}
	t.Errorf("%s: %v", addr, err)
}

func TestPodsPassOtherFirewalls(t *testing.T) {
	for _, when := range []string{"before", "later"} {
		t.Run(when, func(t *testing.T) {
			world := outside(t, "192.168.7.2/24", "192.168.7.1/24")
			if when == "before" {
				firewall(t)
			}
			n := start(t, t.TempDir())
			a, b := netnstest.New(t), netnstest.New(t)
			attach(t, n, pod("a", a))
			ipB := attach(t, n, pod("b", b))
			serve(t, b, 80)
			serve(t, world, 80)
			if when == "before" {
				refuse(t, a, "tcp4", ipB.String()+":80") // the firewall works
			}
			stop := run(t, n)
			if when == "later" {
				eventually(t, a, ipB.String()+":80")
				firewall(t)
			}
			eventually(t, a, ipB.String()+":80")
			eventually(t, a, "192.168.7.1:80")
			stop()
			check(t, Cleanup())
		})
	}
}

func TestRulesAreMadeAgain(t *testing.T) {
	outside(t, "192.168.7.2/24", "192.168.7.1/24")
	n := start(t, t.TempDir())
	a := netnstest.New(t)
	attach(t, n, pod("a", a, Port{Container: 80, Host: 8080}))
	serve(t, a, 80)
	run(t, n)
	eventually(t, nil, "192.168.7.2:8080")
	time.Sleep(50 * time.Millisecond) // Run must be watching
	c, err := nft.Dial()
	check(t, err)
	defer c.Close()
	gone := nft.NewBatch(table)
	gone.DelTable()
	check(t, c.Apply(gone))
	eventually(t, nil, "192.168.7.2:8080")
}
