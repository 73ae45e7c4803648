package apiserver

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"

	authenticationv1 "k8s.io/api/authentication/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"proa/api"
	"proa/apiserver/codec"
	"proa/apiserver/endpoint"
	"proa/auth"
	"proa/client"
	"proa/store"
)

// local is the client in process: reads are the store's own snapshots and
// events, nothing is copied; writes are endpoint calls.
type local struct {
	e       *endpoint.Endpoint
	user    auth.User
	manager string
	bare    bool // no webhook or policy sees its writes
}

func newLocal(e *endpoint.Endpoint, u auth.User) client.Client {
	return &local{e: e, user: u, manager: localManager(u.Name)}
}

// bootstrapper is the client that makes what the server needs to run. A webhook
// that is down must not keep a cluster from starting.
func (s *Server) bootstrapper() client.Client {
	l := newLocal(s.endpoint, auth.System("system:apiserver")).(*local)
	l.bare = true
	return l
}

// localManager is the field manager of a component: the last part of its user's
// name ("system:kube-scheduler", "system:serviceaccount:kube-system:job-controller").
func localManager(user string) string {
	if name := user[strings.LastIndexByte(user, ':')+1:]; name != "" {
		return name
	}
	return "proa"
}

func (l *local) Registry() *api.Registry { return l.e.Registry }

func (l *local) View() client.View { return view{l.e.Store.Snapshot()} }

// View shows a snapshot as components see the world.
func View(s store.Snapshot) client.View { return view{s} }

// view is a snapshot as client.View.
type view struct{ s store.Snapshot }

func (v view) Revision() uint64 { return v.s.Revision() }

func (v view) Get(r *api.Resource, namespace, name string) client.Object {
	return objectOf(v.s.Get(store.Key{Resource: r.Key(), Namespace: namespace, Name: name}))
}

func (v view) List(r *api.Resource, namespace string) iter.Seq[client.Object] {
	return objects(v.s.List(store.Scope{Resource: r.Key(), Namespace: namespace}, store.Key{}))
}

func (v view) Index(r *api.Resource, index, value string) iter.Seq[client.Object] {
	return objects(v.s.Index(r.Key(), index, value))
}

// objectOf is the record's object, or nil. The store decodes every record of a
// known kind when it opens, so that an error here is one that it has reported.
func objectOf(rec *store.Record) client.Object {
	if rec == nil {
		return nil
	}
	obj, err := rec.Object()
	if err != nil {
		return nil
	}
	return obj
}

func objects(seq iter.Seq[*store.Record]) iter.Seq[client.Object] {
	return func(yield func(client.Object) bool) {
		for rec := range seq {
			if obj := objectOf(rec); obj != nil && !yield(obj) {
				return
			}
		}
	}
}

func (l *local) Watch(_ context.Context, scopes ...client.Scope) (client.View, client.Stream, error) {
	filters := make(map[string][]client.Scope)
	wanted := make([]store.Scope, 0, len(scopes))
	for _, s := range scopes {
		key := s.Resource.Key()
		filters[key] = append(filters[key], s)
		wanted = append(wanted, store.Scope{Resource: key, Namespace: s.Namespace, Name: s.Name})
	}
	snap, w := l.e.Store.SnapshotAndWatch(wanted...)
	s := &localStream{w: w, filters: filters, scopes: wanted, resources: slices.Collect(maps.Keys(filters)), store: l.e.Store}
	s.last = snap.Only(s.resources...)
	return view{snap}, s, nil
}

// localStream is a store's watcher as client.Stream.
type localStream struct {
	w         store.Watcher
	store     store.Interface
	scopes    []store.Scope
	resources []string
	filters   map[string][]client.Scope
	// last is a world that the consumer has seen all events up to. It costs
	// nothing while its resources do not change.
	last store.Snapshot
}

func (s *localStream) Close() { s.w.Close() }

// Next returns a view that is at least as new as the events.
func (s *localStream) Next(ctx context.Context) ([]client.Event, client.View, error) {
	for {
		events, rev, err := s.w.Next(ctx)
		if errors.Is(err, store.ErrExpired) {
			if out, v := s.again(); len(out) > 0 {
				return out, v, nil
			}
			continue
		}
		if err != nil {
			return nil, nil, err
		}
		now := s.store.Snapshot()
		if now.Revision() == rev {
			s.last = now.Only(s.resources...)
		}
		out := make([]client.Event, 0, len(events))
		for _, ev := range events {
			if e, ok := s.event(ev); ok {
				out = append(out, e)
			}
		}
		if len(out) > 0 {
			return out, view{now}, nil
		}
	}
}

// event is what a store's event is to the stream's scopes; false where it
// concerns none of them.
func (s *localStream) event(ev store.Event) (client.Event, bool) {
	row, old, now := s.sides(ev)
	if old == nil && now == nil {
		return client.Event{}, false
	}
	return client.Event{Resource: row, Old: old, New: now, Revision: ev.Revision}, true
}

// sides are the states before and after, as far as a scope shows them.
func (s *localStream) sides(ev store.Event) (row *api.Resource, old, now client.Object) {
	key := ev.Record.Key()
	was := objectOf(ev.Prev)
	var is client.Object
	if ev.Type == store.Deleted {
		if was == nil {
			was = objectOf(ev.Record)
		}
	} else {
		is = objectOf(ev.Record)
	}
	for _, f := range s.filters[key.Resource] {
		row = f.Resource
		if old == nil && shows(f, key, was) {
			old = was
		}
		if now == nil && shows(f, key, is) {
			now = is
		}
	}
	return row, old, now
}

func shows(f client.Scope, key store.Key, obj client.Object) bool {
	scope := store.Scope{Resource: key.Resource, Namespace: f.Namespace, Name: f.Name}
	return obj != nil && scope.Covers(key) && endpoint.FieldEquals(f.Resource, f.FieldSelector, obj)
}

// again begins anew after the stream fell behind the kept history: the events are
// the differences between what the consumer saw last and now.
func (s *localStream) again() ([]client.Event, client.View) {
	s.w.Close()
	now, w := s.store.SnapshotAndWatch(s.scopes...)
	was := s.last
	s.w, s.last = w, now.Only(s.resources...)
	var out []client.Event
	add := func(ev store.Event) {
		if e, ok := s.event(ev); ok {
			out = append(out, e)
		}
	}
	for _, r := range s.resources {
		whole := store.Scope{Resource: r}
		for rec := range now.List(whole, store.Key{}) {
			old := was.Get(rec.Key())
			switch {
			case old == nil:
				add(store.Event{Type: store.Added, Revision: rec.Revision(), Record: rec})
			case old.Revision() != rec.Revision():
				add(store.Event{Type: store.Modified, Revision: rec.Revision(), Record: rec, Prev: old})
			}
		}
		for rec := range was.List(whole, store.Key{}) {
			if now.Get(rec.Key()) == nil {
				add(store.Event{Type: store.Deleted, Revision: now.Revision(), Record: rec, Prev: rec})
			}
		}
	}
	return out, view{now}
}

func (l *local) request(r *api.Resource, key client.Key, subresource string) endpoint.Request {
	return endpoint.Request{
		User: l.user, Served: api.Served{Resource: r}, Namespace: key.Namespace, Name: key.Name,
		Subresource: subresource, Manager: l.manager, Validation: metav1.FieldValidationIgnore, Bare: l.bare,
	}
}

func (l *local) row(obj client.Object) (*api.Resource, error) {
	row := l.e.Registry.Of(obj)
	if row == nil {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("no kind is registered for %T %s", obj, obj.GetObjectKind().GroupVersionKind()))
	}
	return row, nil
}

func (l *local) Get(ctx context.Context, r *api.Resource, key client.Key) (client.Object, error) {
	q := l.request(r, key, "")
	rec, err := l.e.Get(ctx, q, "")
	if err != nil {
		return nil, err
	}
	return codec.Shown(ctx, q.Served, rec)
}

// own copies what the caller hands in, since it may keep using it, and names its
// kind.
func own(row *api.Resource, obj client.Object) (client.Object, error) {
	gvk := obj.GetObjectKind().GroupVersionKind()
	if row.Custom != nil && gvk.Version != "" && gvk != row.GVK() { // a view shows what is stored
		return row.Custom.Convert(obj, row.Version)
	}
	out := obj.DeepCopyObject().(client.Object)
	out.GetObjectKind().SetGroupVersionKind(row.GVK())
	return out, nil
}

func (l *local) Create(ctx context.Context, obj client.Object) (client.Object, error) {
	row, mine, err := l.take(obj)
	if err != nil {
		return nil, err
	}
	q := l.request(row, client.KeyOf(obj), "")
	if row.NewList == nil {
		return finish(l.e.Review(ctx, q, mine))
	}
	return finish(l.e.Create(ctx, q, mine))
}

// take finds an object's row, and copies the object.
func (l *local) take(obj client.Object) (*api.Resource, client.Object, error) {
	row, err := l.row(obj)
	if err != nil {
		return nil, nil, err
	}
	mine, err := own(row, obj)
	return row, mine, err
}

func finish(res endpoint.Result, err error) (client.Object, error) {
	if err != nil {
		return nil, err
	}
	return res.Object()
}

func (l *local) Update(ctx context.Context, obj client.Object, subresource string) (client.Object, error) {
	row, mine, err := l.take(obj)
	if err != nil {
		return nil, err
	}
	return finish(l.e.Update(ctx, l.request(row, client.KeyOf(obj), subresource), mine))
}

func (l *local) Patch(ctx context.Context, r *api.Resource, key client.Key, subresource string, p client.Patch) (client.Object, error) {
	q := l.request(r, key, subresource)
	if p.FieldManager != "" {
		q.Manager = p.FieldManager
	}
	return finish(l.e.Patch(ctx, q, endpoint.Patch{Type: p.Type, Data: p.Data, Force: p.Force, Named: p.FieldManager != ""}))
}

func (l *local) Delete(ctx context.Context, r *api.Resource, key client.Key, opts metav1.DeleteOptions) error {
	q := l.request(r, key, "")
	q.DryRun = len(opts.DryRun) > 0
	_, err := l.e.Delete(ctx, q, opts)
	return err
}

func (l *local) Post(ctx context.Context, r *api.Resource, key client.Key, subresource string, body client.Object) (client.Object, error) {
	q := l.request(r, key, subresource)
	switch b := body.(type) {
	case *corev1.Binding:
		return finish(l.e.Bind(ctx, q, b))
	case *policyv1.Eviction:
		return b, l.e.Evict(ctx, q, b)
	case *authenticationv1.TokenRequest:
		return l.e.IssueToken(ctx, q, b)
	case *autoscalingv1.Scale:
		return finish(l.e.UpdateScale(ctx, q, b))
	}
	return nil, apierrors.NewMethodNotSupported(r.GR(), "create")
}
