// Package aggregate puts other API servers behind this one: it is what an
// APIService (apiregistration.k8s.io/v1) does.
//
// What it promises:
//   - Every group version that this server serves itself, custom resources
//     included, has an APIService, with Kubernetes' own priorities.
//   - A group version whose APIService names a Service is that Service's: requests
//     for it are passed on with the caller's identity in X-Remote headers over a
//     connection that shows the front-proxy certificate, and with none of the
//     caller's credentials. While it is not Available the answer is 503.
//   - Availability is looked at when the APIService, its Service or its
//     endpoints change, and every half minute besides, for each APIService by
//     itself: one that hangs delays no other. Without remote APIServices nothing
//     wakes up.
//   - Discovery and OpenAPI show local and remote group versions as one.
package aggregate

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/runtime/schema"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"

	"proa/api"
	"proa/apiserver/callout"
	"proa/apiserver/discovery"
	"proa/client"
	"proa/store"
)

// Config is what an Aggregator is made of.
type Config struct {
	Store    store.Interface
	Registry *api.Registry
	// Client writes APIServices and their status.
	Client client.Client
	// Pool reaches the Services.
	Pool *callout.Pool
	Log  *slog.Logger
	// Now is the clock; nil is time.Now.
	Now func() time.Time
}

// Aggregator serves APIServices. Its answers follow the store at once; Run does
// the registering and the looking after.
type Aggregator struct {
	cfg        Config
	registered chan struct{} // closed once all local group versions are
	once       sync.Once

	mu   sync.Mutex
	told map[schema.GroupVersion]told // what remote servers said of themselves

	documents documents
}

// New makes an Aggregator.
func New(c Config) *Aggregator {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	return &Aggregator{cfg: c, told: map[schema.GroupVersion]told{}, registered: make(chan struct{})}
}

// resource is the store's name for APIServices.
const resource = "apiregistration.k8s.io/apiservices"

// Run registers what is served here, and looks after what is not, until ctx ends.
func (a *Aggregator) Run(ctx context.Context) error {
	if a.cfg.Registry.ByKey(resource) == nil {
		close(a.registered)
		<-ctx.Done()
		return nil
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return a.register(ctx) })
	group.Go(func() error { return a.watch(ctx) })
	return group.Wait()
}

// Registered is closed once every group version that this server has from the
// start has its APIService; Complete tells whether it is.
func (a *Aggregator) Registered() <-chan struct{} { return a.registered }

func (a *Aggregator) Complete() bool {
	select {
	case <-a.registered:
		return true
	default:
		return false
	}
}

// Find returns the APIService of the group version that a path is in, if another
// server serves that, else nil.
func (a *Aggregator) Find(path string) *apiregistrationv1.APIService {
	gv, ok := groupVersion(path)
	if !ok {
		return nil
	}
	rec := a.cfg.Store.Snapshot().Get(store.Key{Resource: resource, Name: nameOf(gv)})
	if s := serviceOf(rec); s != nil && s.Spec.Service != nil {
		return s
	}
	return nil
}

// nameOf is the name of a group version's APIService ("v1.apps", "v1.").
func nameOf(gv schema.GroupVersion) string { return gv.Version + "." + gv.Group }

func gvOf(s *apiregistrationv1.APIService) schema.GroupVersion {
	return schema.GroupVersion{Group: s.Spec.Group, Version: s.Spec.Version}
}

// pathOf is where a group version is served.
func pathOf(gv schema.GroupVersion) string {
	if gv.Group == "" {
		return "/api/" + gv.Version
	}
	return "/apis/" + gv.Group + "/" + gv.Version
}

// groupVersion reads /api/VERSION/... and /apis/GROUP/VERSION/...
func groupVersion(path string) (gv schema.GroupVersion, ok bool) {
	rest, named := strings.CutPrefix(path, "/apis/")
	if named {
		gv.Group, rest, _ = strings.Cut(rest, "/")
	} else if rest, ok = strings.CutPrefix(path, "/api/"); !ok {
		return gv, false
	}
	gv.Version, _, _ = strings.Cut(rest, "/")
	return gv, gv.Version != ""
}

// serviceOf is the record's APIService, or nil.
func serviceOf(rec *store.Record) *apiregistrationv1.APIService {
	if rec == nil {
		return nil
	}
	obj, err := rec.Object()
	if err != nil {
		return nil
	}
	s, _ := obj.(*apiregistrationv1.APIService)
	return s
}

// services lists all APIServices.
func services(world store.Snapshot) (out []*apiregistrationv1.APIService) {
	for rec := range world.List(store.Scope{Resource: resource}, store.Key{}) {
		if s := serviceOf(rec); s != nil {
			out = append(out, s)
		}
	}
	return out
}

// Discovery is what is served, here and behind here, now.
func (a *Aggregator) Discovery() discovery.Set {
	out := discovery.Set{Registry: a.cfg.Registry, Priorities: map[schema.GroupVersion]discovery.Priority{}}
	for _, s := range services(a.cfg.Store.Snapshot()) {
		gv := gvOf(s)
		out.Priorities[gv] = discovery.Priority{Group: s.Spec.GroupPriorityMinimum, Version: s.Spec.VersionPriority}
		if s.Spec.Service != nil {
			out.Remote = append(out.Remote, discovery.Remote{GroupVersion: gv, Doc: a.tells(gv)})
		}
	}
	return out
}
