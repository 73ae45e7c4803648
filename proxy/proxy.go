// Package proxy makes Services work on a node: connections to a Service's
// addresses go to one of its endpoints, by rules in the kernel.
//
// What it promises:
//   - What the rules should be is a pure function of the world (Desired); a
//     change of one Service touches the chains and elements of that Service
//     only, in one transaction, however many there are.
//   - A new start replaces what an earlier run left in one transaction: no
//     connection fails meanwhile, and clients keep their session affinity.
//   - Nothing is done while nothing changes.
//   - WaitGone tells when an endpoint gets no new connections.
package proxy

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"proa/client"
	"proa/internal/nft"
)

// Config is what the proxy of a node needs to know.
type Config struct {
	Client   client.Client
	NodeName string
	NodeIPs  []netip.Addr
	// ClusterCIDR holds all pods' addresses; zero if unknown.
	ClusterCIDR netip.Prefix
	// ServiceCIDR holds all cluster IPs: what goes to one that no Service has
	// is dropped. Zero to let it pass.
	ServiceCIDR netip.Prefix
	// OwnServiceIPs are cluster IPs that this node has on a link and serves
	// itself even if their Service has endpoints. Without endpoints, being on a
	// link is enough.
	OwnServiceIPs []netip.Addr
	Log           *slog.Logger
}

// Proxy keeps a node's rules current.
type Proxy struct {
	cfg    Config
	layout *Layout

	mu      sync.Mutex
	targets map[netip.Addr]int // addresses in applied rules that are not terminating
	applied chan struct{}      // closed and replaced when rules were applied
}

// New makes a proxy that does nothing before Run.
func New(cfg Config) *Proxy {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Proxy{cfg: cfg, layout: NewLayout(), targets: map[netip.Addr]int{}, applied: make(chan struct{})}
}

// Run applies the rules and every change of them until ctx ends. The rules
// stay when it returns.
func (p *Proxy) Run(ctx context.Context) error {
	conn, err := nft.Dial()
	if err != nil {
		return err
	}
	defer conn.Close()
	view, stream, err := p.cfg.Client.Watch(ctx, client.All[corev1.Service](), client.All[discoveryv1.EndpointSlice]())
	if err != nil {
		return err
	}
	defer stream.Close()
	s := &syncer{Proxy: p, conn: conn}
	updates, stop := follow(ctx, stream)
	defer stop()
	removed, stopWatch, err := watchTable(ctx, conn)
	if err != nil {
		return err
	}
	defer stopWatch()
	retry := s.sync(view, nil)
	for {
		select {
		case <-ctx.Done():
			return nil
		case u := <-updates:
			switch {
			case u.err != nil:
				return u.err
			case retry != nil && s.failures > 1:
				s.view = u.view // the retry will see to all
			default:
				retry = s.sync(u.view, u.events)
			}
		case err := <-removed:
			if err != nil {
				return err
			}
			s.cfg.Log.Warn("somebody removed the service rules; they are made again")
			s.state = nil
			retry = s.sync(s.view, nil)
		case <-retry:
			retry = s.sync(s.view, nil)
		}
	}
}

// watchTable tells when somebody else removed the table, as a restart of the
// machine's firewall does.
func watchTable(ctx context.Context, conn *nft.Conn) (removed <-chan error, stop func(), err error) {
	w, err := nft.Watch(conn)
	if err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	out, done := make(chan error, 1), make(chan struct{})
	go func() {
		defer close(done)
		err := w.Run(ctx, func(removed func(string) bool) {
			if !removed(table) {
				return
			}
			select {
			case out <- nil:
			default: // a word is waiting already
			}
		})
		if err != nil {
			select {
			case out <- err:
			case <-ctx.Done():
			}
		}
	}()
	return out, func() { cancel(); <-done }, nil
}

// update is what the stream gave at one time.
type update struct {
	events []client.Event
	view   client.View
	err    error
}

// follow reads the stream, so that Run can wait for a retry as well. While
// rules are applied, further events gather in the stream. Nothing comes after
// an error or the end of ctx.
func follow(ctx context.Context, stream client.Stream) (updates <-chan update, stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	out, done := make(chan update), make(chan struct{})
	go func() {
		defer close(done)
		for {
			events, view, err := stream.Next(ctx)
			select {
			case out <- update{events, view, err}:
			case <-ctx.Done():
				return
			}
			if err != nil {
				return
			}
		}
	}()
	return out, func() { cancel(); <-done }
}

// syncer brings the kernel to what the world asks for.
type syncer struct {
	*Proxy
	conn     *nft.Conn
	view     client.View
	state    *state // nil: what the kernel holds is unknown
	failures int
}

// sync applies events, or everything if the kernel's state is unknown. It
// returns a channel that fires when a failure should be tried again.
func (s *syncer) sync(view client.View, events []client.Event) <-chan time.Time {
	s.view = view
	begin := time.Now()
	err := s.apply(view, changed(events))
	if err == nil {
		s.failures = 0
		s.cfg.Log.Debug("service rules applied", "events", len(events), "took", time.Since(begin))
		return nil
	}
	s.state = nil
	s.failures++
	wait := min(time.Second<<min(s.failures-1, 5), 30*time.Second)
	if s.failures == 1 {
		wait = 0 // somebody else may have removed our table: make it anew at once
	}
	s.cfg.Log.Warn("service rules were not applied; all of them will be", "in", wait, "error", err)
	return time.After(wait)
}

// changed names the Services that events may concern.
func changed(events []client.Event) map[client.Key]bool {
	out := map[client.Key]bool{}
	for _, e := range events {
		for _, obj := range []client.Object{e.Old, e.New} {
			switch o := obj.(type) {
			case *corev1.Service:
				if o != nil {
					out[client.KeyOf(o)] = true
				}
			case *discoveryv1.EndpointSlice:
				if o != nil && o.Labels[discoveryv1.LabelServiceName] != "" {
					out[client.Key{Namespace: o.Namespace, Name: o.Labels[discoveryv1.LabelServiceName]}] = true
				}
			}
		}
	}
	return out
}

func (s *syncer) apply(view client.View, keys map[client.Key]bool) error {
	b, ch := nft.NewBatch(table), newChanges()
	fresh := s.state == nil
	if fresh {
		s.state, keys = newState(), every(view)
		s.start(b)
	}
	for _, key := range slices.SortedFunc(maps.Keys(keys), compareKeys) {
		s.state.replace(key.String(), compile(view, s.cfg, s.layout, key), ch)
	}
	ch.settle(s.state)
	ch.write(b, s.cfg)
	if fresh {
		if err := s.keepClients(b, ch.Add); err != nil {
			return err
		}
	}
	if err := s.conn.Apply(b); err != nil {
		return err
	}
	for _, group := range ch.forgotten {
		s.layout.forget(group)
	}
	for _, text := range ch.contention {
		s.cfg.Log.Warn("two services want the same address and port", "detail", text)
	}
	s.announce(ch.moved, fresh)
	if err := dropFlows(ch.stale); err != nil {
		s.cfg.Log.Warn("old UDP flows may go to endpoints that are gone", "error", err)
	}
	return nil
}

func compareKeys(a, b client.Key) int {
	return slices.Compare([]string{a.Namespace, a.Name}, []string{b.Namespace, b.Name})
}

func every(view client.View) map[client.Key]bool {
	keys := map[client.Key]bool{}
	for svc := range client.List[corev1.Service](view, "") {
		keys[client.KeyOf(svc)] = true
	}
	return keys
}

// start replaces the table by an empty one.
func (s *syncer) start(b *nft.Batch) {
	b.DelTable()
	b.AddTable()
	for _, f := range families {
		for _, set := range setsOf(f) {
			b.AddSet(set)
		}
	}
	chains := skeleton(s.cfg)
	for _, c := range chains {
		b.AddChain(c.Name, c.Hook)
	}
	for _, c := range chains {
		for _, r := range c.Rules {
			b.AddRule(c.Name, r)
		}
	}
}

// keepClients carries session affinity over into the new table, where the
// endpoint still serves.
func (s *syncer) keepClients(b *nft.Batch, serving []Element) error {
	for _, f := range families {
		elems, err := s.conn.Elements(table, set(setClients, f))
		if err != nil {
			return err
		}
		if len(elems) == 0 {
			continue
		}
		serves := map[string]bool{}
		for _, e := range serving {
			serves[e.Key] = serves[e.Key] || e.Set == set(setServing, f)
		}
		elems = slices.DeleteFunc(elems, func(e nft.Element) bool { return !serves[e.Key[:4]+e.Data] })
		b.AddElements(set(setClients, f), elems...)
	}
	return nil
}

// announce makes the applied targets known. fresh counts from nothing.
func (s *syncer) announce(moved map[netip.Addr]int, fresh bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if fresh {
		clear(s.targets)
	}
	for a, n := range moved {
		if s.targets[a] += n; s.targets[a] == 0 {
			delete(s.targets, a)
		}
	}
	close(s.applied)
	s.applied = make(chan struct{})
}

// WaitGone blocks until no Service rule sends new connections to the pod
// addresses any more, or ctx ends: whoever stops a pod calls it before it
// signals the processes. An endpoint that serves only because all others
// terminate as well does not hold it up: there is nothing left to wait for.
func (p *Proxy) WaitGone(ctx context.Context, addrs []netip.Addr) error {
	for {
		p.mu.Lock()
		applied := p.applied
		used := slices.ContainsFunc(addrs, func(a netip.Addr) bool { return p.targets[a.Unmap()] > 0 })
		p.mu.Unlock()
		if !used && !p.coming(addrs) {
			return nil
		}
		select {
		case <-applied:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// coming tells whether the newest world asks for rules, perhaps not applied
// yet, that send connections to one of the addresses.
func (p *Proxy) coming(addrs []netip.Addr) bool {
	view := p.cfg.Client.View()
	keys := map[client.Key]bool{}
	for s := range client.List[discoveryv1.EndpointSlice](view, "") {
		if mentions(s, addrs) {
			keys[client.Key{Namespace: s.Namespace, Name: s.Labels[discoveryv1.LabelServiceName]}] = true
		}
	}
	for key := range keys {
		if b := compile(view, p.cfg, NewLayout(), key); b != nil && b.targets(addrs) {
			return true
		}
	}
	return false
}

func mentions(s *discoveryv1.EndpointSlice, addrs []netip.Addr) bool {
	for i := range s.Endpoints {
		for _, text := range s.Endpoints[i].Addresses {
			a, err := netip.ParseAddr(text)
			if err == nil && slices.Contains(addrs, a) {
				return true
			}
		}
	}
	return false
}

func (b *Block) targets(addrs []netip.Addr) bool {
	return slices.ContainsFunc(b.Targets, func(t Target) bool {
		return !t.Terminating && slices.Contains(addrs, t.Addr.Addr())
	})
}

// Cleanup removes all rules of ours from this network namespace.
func Cleanup() error {
	conn, err := nft.Dial()
	if err != nil {
		return err
	}
	b := nft.NewBatch(table)
	b.DelTable()
	return errors.Join(conn.Apply(b), conn.Close())
}
