package cluster

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"

	"proa/apiserver"
	"proa/auth"
	"proa/auth/pki"
	"proa/client"
	"proa/control"
	"proa/doctor"
	"proa/internal/giveback"
	"proa/internal/supervise"
	"proa/store"
	"proa/store/pebble"
)

// Cluster is one instance. Run it once.
type Cluster struct {
	cfg     Config
	started time.Time
	parts   *supervise.Group
	ready   chan struct{}
	stop    chan stopRequest

	authority *pki.Authority
	who
	frontProxy *pki.Authority
	store      *store.Store
	secrets    secrets
	api        *apiserver.Server
	addresses  []netip.Addr
	node       atomic.Pointer[node]

	readyIn  time.Duration
	instance control.Instance
}

// stopRequest is what the control socket asks of Run.
type stopRequest struct{ pods bool }

// New checks the configuration. Nothing is touched before Run.
func New(cfg Config) (*Cluster, error) {
	cfg, err := cfg.Complete()
	if err != nil {
		return nil, err
	}
	return &Cluster{cfg: cfg, parts: supervise.New(), ready: make(chan struct{}), stop: make(chan stopRequest, 1)}, nil
}

// Ready is closed once the API answers and the node is Ready.
func (c *Cluster) Ready() <-chan struct{} { return c.ready }

// Instance describes the running cluster; ReadyIn is how long Run took to be
// ready. Both are valid once Ready is closed.
func (c *Cluster) Instance() control.Instance { return c.instance }
func (c *Cluster) ReadyIn() time.Duration     { return c.readyIn }

// Client is the control plane's own client with the given identity.
func (c *Cluster) Client(name string) client.Client { return c.api.Client(auth.System(name)) }

// PreflightError lists what stands in the way on this machine.
type PreflightError struct{ Failed []doctor.Result }

func (e *PreflightError) Error() string {
	var b strings.Builder
	b.WriteString("this machine cannot run it yet:")
	for _, r := range e.Failed {
		fmt.Fprintf(&b, "\n  %s: %s: %s", r.Check, r.Found, r.Fix)
	}
	return b.String()
}

// Run starts everything, serves until ctx ends, `proa down` asks for it or a
// part fails, and stops everything in reverse order. Pods run on, unless the
// request was to stop them too.
func (c *Cluster) Run(ctx context.Context) error {
	c.started = time.Now()
	c.parts.Go("memory", giveback.Run)
	err := c.start(ctx)
	var pods bool
	if err == nil {
		pods, err = c.serve(ctx)
	}
	if pods {
		err = errors.Join(err, c.parts.StopAfter(runtimePart), c.stopPods(context.WithoutCancel(ctx)))
	}
	return errors.Join(err, c.parts.Stop())
}

// serve waits until all is ready and then for a reason to end. One loop sees all
// reasons, so that none is lost while the node is not Ready yet.
func (c *Cluster) serve(ctx context.Context) (pods bool, err error) {
	waiting, cancel := context.WithCancel(ctx)
	node := make(chan error, 1)
	go func() { node <- c.awaitReady(waiting) }()
	defer func() {
		cancel()
		if node != nil {
			<-node
		}
	}()
	for {
		select {
		case <-ctx.Done():
			return false, nil
		case r := <-c.stop:
			return r.pods, nil
		case err := <-c.parts.Failed():
			return false, err
		case err := <-node:
			node = nil
			if err != nil {
				return false, err
			}
			c.readyIn = time.Since(c.started)
			close(c.ready)
		}
	}
}

// start brings the parts up, each leaning only on those before it.
func (c *Cluster) start(ctx context.Context) error {
	for _, step := range []func(context.Context) error{
		c.lock, c.preflight, c.openAuthority, c.openStore, c.startAPI, c.startSecrets, c.startControllers, c.startNode, c.startControl,
	} {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := step(ctx); err != nil {
			return cmp.Or(ctx.Err(), err) // who was told to end need not explain
		}
	}
	return nil
}

func (c *Cluster) lock(context.Context) error {
	for _, dir := range []string{c.cfg.DataDir, c.cfg.RunDir} {
		release, err := control.Lock(dir)
		if err != nil {
			return err
		}
		c.parts.Closer("lock of "+dir, func() error { release(); return nil })
	}
	return nil
}

// DiskReserve is what the datastore keeps back of a file system of some bytes.
func DiskReserve(total int64) int64 { return pebble.Reserve(total) }

func (c *Cluster) preflight(context.Context) error {
	results := doctor.Run(doctor.Config{
		DataDir: c.cfg.DataDir, APIPort: c.cfg.APIPort, Address: c.cfg.BindAddress, Node: !c.cfg.NoNode, Reserve: DiskReserve})
	if failed := doctor.Failed(results); len(failed) > 0 {
		return &PreflightError{failed}
	}
	for _, r := range results {
		if r.State == doctor.Warn {
			c.cfg.Log.Info("this machine has a limit", "check", r.Check, "found", r.Found, "fix", r.Fix)
		}
	}
	var err error
	if c.addresses, err = nodeAddresses(); err != nil {
		return err
	}
	c.cfg.Progress("machine checked")
	return nil
}

// awaitReady waits until the API has what every cluster has, and this run's node
// is Ready, if there is to be one.
func (c *Cluster) awaitReady(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-c.api.Ready():
	}
	if c.cfg.NoNode {
		return nil
	}
	v, stream, err := c.Client("proa").Watch(ctx,
		client.Scope{Resource: client.Row[corev1.Node](), Name: c.cfg.NodeName},
		client.Scope{Resource: client.Row[coordinationv1.Lease](), Namespace: corev1.NamespaceNodeLease, Name: c.cfg.NodeName})
	if err != nil {
		return err
	}
	defer stream.Close()
	for !nodeReady(v, c.cfg.NodeName, c.started) {
		if _, v, err = stream.Next(ctx); err != nil {
			return err
		}
	}
	c.cfg.Progress("node " + c.cfg.NodeName + " is Ready")
	return nil
}

// nodeReady wants a Ready node that pods may be bound to, whose kubelet has shown
// life in this run: the status may be that of the run before.
func nodeReady(v client.View, name string, since time.Time) bool {
	n, lease := client.Get[corev1.Node](v, "", name), client.Get[coordinationv1.Lease](v, corev1.NamespaceNodeLease, name)
	if n == nil || lease == nil || lease.Spec.RenewTime == nil || lease.Spec.RenewTime.Time.Before(since) {
		return false
	}
	if slices.ContainsFunc(n.Spec.Taints, func(t corev1.Taint) bool { return t.Key == corev1.TaintNodeNotReady }) {
		return false // the controller that takes it away has not seen the condition yet
	}
	return slices.ContainsFunc(n.Status.Conditions, func(c corev1.NodeCondition) bool {
		return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
	})
}

// url is where clients on this machine reach the API.
func (c *Cluster) url() string {
	host := c.cfg.BindAddress
	if a := netip.MustParseAddr(host); a.IsUnspecified() {
		host = "127.0.0.1"
	}
	return "https://" + net.JoinHostPort(host, strconv.Itoa(c.cfg.APIPort))
}

// advertised is the address at which pods and other machines reach the API.
func (c *Cluster) advertised() netip.Addr {
	if a := netip.MustParseAddr(c.cfg.BindAddress); !a.IsUnspecified() && !a.IsLoopback() {
		return a
	}
	return c.addresses[0] // a Service's endpoint cannot be a loopback address
}

// names are the hosts that the API's certificate is good for.
func (c *Cluster) names() []string {
	host, _ := os.Hostname()
	out := []string{"localhost", "127.0.0.1", "::1", "kubernetes", "kubernetes.default", "kubernetes.default.svc",
		"kubernetes.default.svc." + c.cfg.ClusterDomain, c.cfg.serviceAddress(1).String(), c.advertised().String()}
	for _, a := range c.addresses {
		out = append(out, a.String())
	}
	return unique(append(out, c.cfg.NodeName, host))
}

func unique(list []string) (out []string) {
	seen := map[string]bool{"": true}
	for _, s := range list {
		if !seen[s] {
			seen[s] = true
			out = append(out, s)
		}
	}
	return out
}
