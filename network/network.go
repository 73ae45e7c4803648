package network

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"

	"github.com/vishvananda/netlink"

	"proa/internal/nft"
)

// Config is what a node's network needs to know.
type Config struct {
	NodeName string
	// PodCIDR is where this node's pods get their addresses from.
	PodCIDR netip.Prefix
	// ClusterCIDR holds all nodes' pod CIDRs: traffic within it keeps its
	// source. The zero Prefix stands for PodCIDR.
	ClusterCIDR netip.Prefix
	ServiceCIDR netip.Prefix
	// StateDir is where the allocations are kept.
	StateDir string
	Log      *slog.Logger
}

// Network is the pod network of one node. All methods may be called at once
// from many goroutines; those for one pod ID wait for each other.
type Network struct {
	cfg    Config
	state  stateDir
	links  *netlink.Handle
	reaper reaper
	rules  *nft.Conn
	busy   keyedLock
	turn   sync.Mutex // one writer of the cursor files at a time

	mu      sync.Mutex // guards what follows; never held across I/O
	pools   []*pool
	records map[string]*record
}

// New takes up what an earlier run left: addresses, links and host ports stay
// as they are. It enables forwarding and replaces the node's rules at once.
func New(cfg Config) (*Network, error) {
	if err := cfg.complete(); err != nil {
		return nil, err
	}
	n := &Network{cfg: cfg, state: stateDir(cfg.StateDir), records: map[string]*record{}}
	n.pools = []*pool{newPool(cfg.PodCIDR)}
	if err := n.load(); err != nil {
		return nil, err
	}
	if err := forward(cfg.PodCIDR.Addr()); err != nil {
		return nil, err
	}
	var err error
	if n.links, err = netlink.NewHandle(); err != nil {
		return nil, fmt.Errorf("network: open netlink: %w", err)
	}
	n.reaper.links = n.links
	if n.rules, err = nft.Dial(); err != nil {
		return nil, err
	}
	return n, n.installRules()
}

func (c *Config) complete() error {
	if !c.PodCIDR.IsValid() {
		return errors.New("network: no pod CIDR for this node")
	}
	c.PodCIDR = c.PodCIDR.Masked()
	if !c.ClusterCIDR.IsValid() {
		c.ClusterCIDR = c.PodCIDR
	}
	if !c.ClusterCIDR.Overlaps(c.PodCIDR) || c.ClusterCIDR.Bits() > c.PodCIDR.Bits() {
		return fmt.Errorf("network: the node's pod CIDR %s is not within the cluster's %s", c.PodCIDR, c.ClusterCIDR)
	}
	if c.ServiceCIDR.IsValid() && c.ServiceCIDR.Overlaps(c.ClusterCIDR) {
		return fmt.Errorf("network: the service CIDR %s overlaps the pod CIDR %s; choose others with --pod-cidr and --service-cidr", c.ServiceCIDR, c.ClusterCIDR)
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return nil
}

// load reads the allocations. Those of before a reboot name namespaces that no
// longer exist, so they are dropped, all but the place where the round-robin
// goes on.
func (n *Network) load() error {
	records, err := n.state.load()
	if err != nil {
		return err
	}
	for _, r := range records {
		n.records[r.ID] = r
		for _, a := range r.IPs {
			n.poolOf(a).take(a, r.ID)
		}
	}
	for i, p := range n.pools {
		p.resume(n.state.cursor(i))
	}
	return nil
}

func (n *Network) poolOf(a netip.Addr) *pool {
	for _, p := range n.pools {
		if p.prefix.Contains(a) {
			return p
		}
	}
	return &pool{used: map[netip.Addr]string{}} // of a CIDR that this node had once
}

// Attach gives the pod its address, its link and its host ports, or returns
// what it has already. On an error nothing of it is left.
func (n *Network) Attach(ctx context.Context, p Pod) (Result, error) {
	defer n.busy.lock(p.ID)()
	if err := ctx.Err(); err != nil {
		return Result{}, err
	}
	rec, known, err := n.reserve(p)
	if err != nil {
		return Result{}, fmt.Errorf("network: pod %s/%s: %w", p.Namespace, p.Name, err)
	}
	if known && n.plugged(rec, p.NetNS) {
		return Result{IPs: rec.IPs}, nil
	}
	if err := n.realise(rec, p.NetNS); err != nil {
		err = fmt.Errorf("network: pod %s/%s: %w", p.Namespace, p.Name, err)
		return Result{}, errors.Join(err, n.release(rec))
	}
	return Result{IPs: rec.IPs}, nil
}

// realise makes what the record says, the record on disk first, so that
// whatever was made can be found and undone.
func (n *Network) realise(rec *record, ns string) error {
	if err := n.state.save(rec); err != nil {
		return err
	}
	if err := n.saveCursors(); err != nil {
		return err
	}
	if err := n.plug(rec, ns); err != nil {
		return err
	}
	return n.openPorts(rec)
}

// reserve finds the pod's record or makes one.
func (n *Network) reserve(p Pod) (rec *record, known bool, err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if rec, ok := n.records[p.ID]; ok {
		return rec, true, nil
	}
	if err := n.portConflict(p); err != nil {
		return nil, false, err
	}
	rec = newRecord(p)
	for _, pool := range n.pools {
		addr, err := pool.allocate(p.ID)
		if err != nil {
			n.free(rec)
			return nil, false, err
		}
		rec.IPs = append(rec.IPs, addr)
	}
	n.records[p.ID] = rec
	return rec, false, nil
}

// saveCursors keeps where the round-robin stands.
func (n *Network) saveCursors() error {
	n.turn.Lock()
	defer n.turn.Unlock()
	n.mu.Lock()
	var next []netip.Addr
	for _, p := range n.pools {
		next = append(next, p.next)
	}
	n.mu.Unlock()
	for i, a := range next {
		if err := n.state.saveCursor(i, a); err != nil {
			return err
		}
	}
	return nil
}

// Detach takes the pod off the network and gives its address back. It is no
// error if there is nothing to do.
func (n *Network) Detach(_ context.Context, p Pod) error {
	defer n.busy.lock(p.ID)()
	n.mu.Lock()
	rec := n.records[p.ID]
	n.mu.Unlock()
	if rec == nil {
		return n.unplug(linkName(p.ID))
	}
	if err := n.release(rec); err != nil {
		return fmt.Errorf("network: pod %s/%s: %w", p.Namespace, p.Name, err)
	}
	return nil
}

// release undoes a record, the file last, so that a crash in between leaves
// enough to do it again.
func (n *Network) release(rec *record) error {
	if err := n.closePorts(rec); err != nil {
		return err
	}
	if err := n.unplug(rec.Link); err != nil {
		return err
	}
	if err := n.state.remove(rec.ID); err != nil {
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.records, rec.ID)
	n.free(rec)
	return nil
}

func (n *Network) free(rec *record) {
	for _, a := range rec.IPs {
		n.poolOf(a).free(a)
	}
}

// Reconcile releases everything that belongs to no pod in keep: allocations
// and links that a crash left behind.
func (n *Network) Reconcile(keep []string) error {
	wanted := map[string]bool{}
	links := map[string]bool{}
	for _, id := range keep {
		wanted[id] = true
		links[linkName(id)] = true
	}
	var errs []error
	for _, id := range n.ids() {
		if !wanted[id] {
			errs = append(errs, n.Detach(context.Background(), Pod{ID: id}))
		}
	}
	stray, err := podLinks(n.links)
	errs = append(errs, err)
	for name := range stray {
		if !links[name] && !n.owned(name) {
			errs = append(errs, n.unplug(name))
		}
	}
	return errors.Join(errs...)
}

func (n *Network) ids() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	var ids []string
	for id := range n.records {
		ids = append(ids, id)
	}
	return ids
}

// owned tells a link of a pod that was attached meanwhile.
func (n *Network) owned(link string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, r := range n.records {
		if r.Link == link {
			return true
		}
	}
	return false
}

// Close gives the sockets back and leaves the network as it is.
func (n *Network) Close() error {
	n.links.Close()
	return n.rules.Close()
}

// Cleanup removes every link, route and rule of ours from this network
// namespace.
func Cleanup() error {
	links, err := netlink.NewHandle()
	if err != nil {
		return fmt.Errorf("network: open netlink: %w", err)
	}
	defer links.Close()
	found, err := podLinks(links)
	errs := []error{err}
	indexes := slices.Collect(maps.Values(found))
	if link, err := links.LinkByName(dnsLink); err == nil {
		indexes = append(indexes, link.Attrs().Index)
	}
	errs = append(errs, (&reaper{links: links}).removeAll(indexes))
	rules, err := nft.Dial()
	if err != nil {
		return errors.Join(append(errs, err)...)
	}
	defer rules.Close()
	b := nft.NewBatch(table)
	b.DelTable()
	return errors.Join(append(errs, rules.Apply(b), shutOut(rules))...)
}

// keyedLock lets one goroutine at a time work on a key.
type keyedLock struct {
	mu   sync.Mutex
	held map[string]*waiters
}

type waiters struct {
	sync.Mutex
	n int
}

func (k *keyedLock) lock(key string) (unlock func()) {
	k.mu.Lock()
	if k.held == nil {
		k.held = map[string]*waiters{}
	}
	w := k.held[key]
	if w == nil {
		w = &waiters{}
		k.held[key] = w
	}
	w.n++
	k.mu.Unlock()
	w.Lock()
	return func() {
		w.Unlock()
		k.mu.Lock()
		defer k.mu.Unlock()
		if w.n--; w.n == 0 {
			delete(k.held, key)
		}
	}
}
