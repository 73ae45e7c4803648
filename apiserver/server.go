package apiserver

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	rbacv1 "k8s.io/api/rbac/v1"

	"proa/api"
	"proa/apiserver/admission"
	"proa/apiserver/admission/extension"
	"proa/apiserver/admission/policy"
	"proa/apiserver/admission/webhook"
	"proa/apiserver/aggregate"
	"proa/apiserver/audit"
	"proa/apiserver/callout"
	"proa/apiserver/codec"
	"proa/apiserver/custom"
	"proa/apiserver/endpoint"
	"proa/apiserver/fieldmanager"
	"proa/auth"
	"proa/auth/rbac"
	"proa/client"
	"proa/store"
)

// Config is what a Server is made of.
type Config struct {
	Store         store.Interface
	Registry      *api.Registry
	Authenticator auth.Authenticator
	Authorizer    auth.Authorizer
	// Anonymous tells whether a request for a path needs no credentials; nil
	// stands for all paths.
	Anonymous func(path string) bool
	// Tokens issues service account tokens; nil serves none. Reviewer answers
	// reviews of tokens; nil stands for Tokens.
	Tokens   auth.TokenIssuer
	Reviewer auth.TokenReviewer
	// IncompleteRules says that others than RBAC decide, too, so that a list of
	// what RBAC grants is not all that somebody may.
	IncompleteRules bool
	// ServiceCIDR is where cluster IPs come from; NodePorts is the inclusive
	// range of node ports, 30000 to 32767 if zero.
	ServiceCIDR   netip.Prefix
	NodePorts     [2]int
	ClusterDomain string
	// ExternalHost is the host:port that clients outside are told, and that the
	// Service default/kubernetes leads to.
	ExternalHost string
	// Peer is this server's name among several on one datastore; empty where
	// there is one server only.
	Peer string
	// Node finds the kubelet's HTTP server of a node.
	Node func(name string) (http.Handler, error)
	// DialPod connects to pods' addresses and nodes' ports, for the proxy
	// subresources; nil dials from here.
	DialPod func(ctx context.Context, network, address string) (net.Conn, error)
	// Bootstrap are further objects that Run creates where they are missing.
	// Cluster roles and their bindings are completed, never cut back.
	Bootstrap []api.Object
	// OpenAPI serves /openapi/; nil answers 404 there.
	OpenAPI http.Handler
	// FrontProxy is the certificate by which extension API servers know this
	// server; nil shows none.
	FrontProxy func() (*tls.Certificate, error)
	// ExtensionAuthentication is what extension API servers read of how clients are
	// authenticated: the data of the ConfigMap
	// kube-system/extension-apiserver-authentication. Nil publishes none.
	ExtensionAuthentication map[string]string
	// EnablePlugins and DisablePlugins name admission plugins that are to be on or
	// off other than by default.
	EnablePlugins, DisablePlugins []string
	// AdmissionConfig is the file of an AdmissionConfiguration; empty is none.
	AdmissionConfig string
	// Checks are further health checks of the moment, by name; nil for none.
	Checks func() map[string]func(context.Context) error
	// Flags are what the process was started with, for /flagz.
	Flags map[string]string
	// TaintNodes has new nodes tainted as not ready, which a node controller
	// takes away again.
	TaintNodes bool
	// Audit records requests; nil records nothing.
	Audit *audit.Auditor
	// EventTTL is how long an Event is kept after it was last seen; an hour if
	// zero.
	EventTTL time.Duration
	// MaxInFlight is how many requests of ordinary size run at once;
	// fairness.DefaultSeats if zero.
	MaxInFlight int
	// Now is the clock; nil is time.Now.
	Now func() time.Time
	Log *slog.Logger
}

// Server serves the API. Its Handler works at once; Run does the background work.
type Server struct {
	cfg      Config
	endpoint *endpoint.Endpoint
	metrics  *metrics
	limits   *limits
	// callout reaches webhooks and aggregated servers.
	callout   *callout.Pool
	aggregate *aggregate.Aggregator
	policies  *policy.Policies
	custom    *custom.Follower
	backends  *http.Transport
	peers     peers
	started   time.Time
	draining  context.Context // ends when Drain is called
	drain     context.CancelFunc
	ready     atomic.Bool
	complete  chan struct{} // closed when nothing is missing any more
	stopping  atomic.Bool
}

// New checks the configuration and makes a Server.
func New(c Config) (*Server, error) {
	switch {
	case c.Store == nil || c.Registry == nil:
		return nil, errors.New("apiserver: a store and a registry are needed")
	case c.Authorizer == nil:
		return nil, errors.New("apiserver: an authorizer is needed")
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.EventTTL == 0 {
		c.EventTTL = time.Hour
	}
	if c.NodePorts == [2]int{} {
		c.NodePorts = [2]int{30000, 32767}
	}
	if c.Reviewer == nil && c.Tokens != nil {
		c.Reviewer = c.Tokens
	}
	s := &Server{cfg: c, complete: make(chan struct{}), peers: peers{identity: c.Peer}, metrics: newMetrics()}
	s.limits = newLimits(&s.cfg, s.metrics)
	s.draining, s.drain = context.WithCancel(context.Background())
	s.backends, s.started = backends(c.DialPod), c.Now()
	s.callout = callout.New(callout.Config{World: c.Store.Snapshot, ClientCert: c.FrontProxy, Log: c.Log})
	hooks := webhook.New(webhook.Config{Pool: s.callout, Authorizer: c.Authorizer, Metrics: s.metrics.registry, Log: c.Log})
	fields := fieldmanager.New(c.Registry)
	s.policies = policy.New(policy.Config{
		Registry: c.Registry, Authorizer: c.Authorizer, Types: fields.Types, Metrics: s.metrics.registry, Log: c.Log,
	})
	chain, err := admission.Default(admission.Config{
		ServiceCIDR: c.ServiceCIDR, NodePorts: c.NodePorts, Newest: c.Store.Snapshot, TaintNodes: c.TaintNodes,
		SettingsFile: c.AdmissionConfig, Provision: s.provision, Now: c.Now,
		Registry: c.Registry, Enable: c.EnablePlugins, Disable: c.DisablePlugins,
		Authorizer: c.Authorizer, Rules: s.rules, Follow: c.Store.SnapshotAndWatch,
		Extensions: []admission.Plugin{extension.Expressions(), s.policies.Mutating(), hooks.Mutating(), s.policies.Validating(), hooks.Validating()},
	})
	if err != nil {
		return nil, fmt.Errorf("apiserver: %w", err)
	}
	s.endpoint = &endpoint.Endpoint{
		Store: c.Store, Registry: c.Registry, Fields: fields,
		Tokens: c.Tokens, Reviewer: c.Reviewer, Authorizer: c.Authorizer, Now: c.Now,
		Rules: s.rules, IncompleteRules: c.IncompleteRules,
		Admission: chain,
	}
	s.custom = custom.New(custom.Config{
		Store: c.Store, Registry: c.Registry, Client: s.Client(auth.System("system:kube-apiserver")), Remover: s.bootstrapper(), Pool: s.callout, Now: c.Now, Log: c.Log,
	})
	if err := s.custom.Load(context.Background()); err != nil {
		return nil, err
	}
	s.aggregate = aggregate.New(aggregate.Config{
		Store: c.Store, Registry: c.Registry, Client: s.Client(auth.System("system:kube-aggregator")), Pool: s.callout, Log: c.Log, Now: c.Now,
	})
	s.metrics.registry.MustRegister(stored{s}, s.aggregate)
	return s, nil
}

// rules yields what RBAC grants a user in a namespace now.
func (s *Server) rules(u auth.User, namespace string) iter.Seq2[rbacv1.PolicyRule, string] {
	return rbac.RulesFor(view{s.cfg.Store.Snapshot()}, u, namespace)
}

// NewCodec is the storage encoding: protobuf for built-in kinds, JSON for custom
// resources.
func NewCodec(r *api.Registry) store.Codec { return codec.Storage{Registry: r} }

// Client reads and writes in process as the user. Authorisation is skipped;
// everything else is the path of any request.
func (s *Server) Client(u auth.User) client.Client { return newLocal(s.endpoint, u) }

// Ready is closed when Run has created what every cluster has: from then on
// /readyz says so.
func (s *Server) Ready() <-chan struct{} { return s.complete }

// Handler serves requests.
func (s *Server) Handler() http.Handler { return http.HandlerFunc(s.serve) }

// Run creates what every cluster has, keeps the Service default/kubernetes
// current and removes old Events, until ctx ends.
func (s *Server) Run(ctx context.Context) error {
	defer s.callout.Close()
	defer s.stopping.Store(true)
	if err := s.bootstrapped(ctx); err != nil {
		if ctx.Err() != nil {
			return nil // asked to stop; a request that was cut short says so in its own way
		}
		return err
	}
	s.ready.Store(true)
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		select {
		case <-s.aggregate.Registered():
			close(s.complete)
		case <-ctx.Done():
		}
		return nil
	})
	group.Go(func() error { return s.keep(ctx) })
	if s.cfg.Peer != "" {
		group.Go(func() error { return s.renew(ctx) })
	}
	group.Go(func() error { return s.expireEvents(ctx) })
	group.Go(func() error { return s.limits.fair.Run(ctx, s.Client(auth.System("system:apiserver"))) })
	group.Go(func() error { return s.custom.Run(ctx) })
	group.Go(func() error { return s.aggregate.Run(ctx) })
	group.Go(func() error {
		return s.policies.Run(ctx, s.Client(auth.System("system:serviceaccount:kube-system:validatingadmissionpolicy-status-controller")))
	})
	return group.Wait()
}
