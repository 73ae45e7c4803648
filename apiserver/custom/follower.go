package custom

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"proa/api"
	"proa/apiserver/callout"
	"proa/client"
	"proa/store"
)

// crdKey is the resource of definitions.
const crdKey = "apiextensions.k8s.io/customresourcedefinitions"

// retryAfter is when a definition whose status could not be written is looked at
// again.
const retryAfter = 2 * time.Second

// Config is what a Follower works with.
type Config struct {
	Store    store.Interface
	Registry *api.Registry
	// Client writes statuses. Remover deletes the instances of a definition that
	// goes; nobody's webhook can keep it from that.
	Client, Remover client.Client
	// Pool reaches conversion webhooks.
	Pool *callout.Pool
	Now  func() time.Time
	Log  *slog.Logger
}

// Follower keeps the registry and the statuses of definitions as the stored
// definitions say. One goroutine, that of Run, works on it; before Run, Load
// does.
type Follower struct {
	cfg   Config
	known map[string]*served // by name of the definition
	again map[string]time.Time
	tasks *errgroup.Group
	// opening is there while a definition's first Established is being written:
	// it is closed when what the definition defines is served, or will not be.
	opening atomic.Pointer[chan struct{}]
}

// served is what the follower did about one definition.
type served struct {
	crd    *apiextensionsv1.CustomResourceDefinition
	row    *api.Resource                             // nil while it is not served
	made   *apiextensionsv1.CustomResourceDefinition // that row is made of
	retire context.CancelFunc
	ending bool // a goroutine takes the instances away
}

// New makes a Follower; nothing runs yet.
func New(c Config) *Follower {
	return &Follower{cfg: c, known: map[string]*served{}, again: map[string]time.Time{}}
}

// Load makes the rows of the definitions that are served already, so that a
// server which starts knows them with its first request.
func (f *Follower) Load(ctx context.Context) error {
	for rec := range f.cfg.Store.Snapshot().List(store.Scope{Resource: crdKey}, store.Key{}) {
		crd, err := definitionOf(rec)
		if err != nil {
			return err
		}
		s := &served{crd: crd}
		f.known[crd.Name] = s
		f.serve(ctx, s)
	}
	return nil
}

func definitionOf(rec *store.Record) (*apiextensionsv1.CustomResourceDefinition, error) {
	obj, err := rec.Object()
	if err != nil {
		return nil, err
	}
	crd, ok := obj.(*apiextensionsv1.CustomResourceDefinition)
	if !ok {
		return nil, fmt.Errorf("%s holds a %T", rec.Key(), obj)
	}
	return crd, nil
}

// Run follows the definitions until ctx ends.
func (f *Follower) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	f.tasks = group
	group.Go(func() error { return f.follow(ctx) })
	return group.Wait()
}

func (f *Follower) follow(ctx context.Context) error {
	for ctx.Err() == nil {
		world, w := f.cfg.Store.SnapshotAndWatch(store.Scope{Resource: crdKey})
		err := f.catchUp(ctx, world)
		for err == nil {
			err = f.step(ctx, w)
		}
		w.Close()
		if ctx.Err() == nil && !errors.Is(err, store.ErrExpired) {
			return err
		}
	}
	return nil
}

// catchUp brings the follower from what it knew to a whole world.
func (f *Follower) catchUp(ctx context.Context, world store.Snapshot) error {
	for name := range f.known {
		if world.Get(store.Key{Resource: crdKey, Name: name}) == nil {
			f.forget(ctx, name)
		}
	}
	for rec := range world.List(store.Scope{Resource: crdKey}, store.Key{}) {
		crd, err := definitionOf(rec)
		if err != nil {
			return err
		}
		f.see(ctx, crd)
	}
	return nil
}

// step waits for changes, or for the time that something is to be tried again.
func (f *Follower) step(ctx context.Context, w store.Watcher) error {
	wait, cancel := ctx, context.CancelFunc(func() {})
	if at, ok := f.nextTry(); ok {
		wait, cancel = context.WithDeadline(ctx, at)
	}
	events, _, err := w.Next(wait)
	cancel()
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		f.tryAgain(ctx)
		return nil
	}
	if err != nil {
		return err
	}
	for _, ev := range events {
		if ev.Type == store.Deleted {
			f.forget(ctx, ev.Record.Key().Name)
			continue
		}
		crd, err := definitionOf(ev.Record)
		if err != nil {
			return err
		}
		f.see(ctx, crd)
	}
	return nil
}

func (f *Follower) nextTry() (first time.Time, ok bool) {
	for _, at := range f.again {
		if !ok || at.Before(first) {
			first, ok = at, true
		}
	}
	return first, ok
}

func (f *Follower) tryAgain(ctx context.Context) {
	now := time.Now()
	for name, at := range f.again {
		if s := f.known[name]; s != nil && !at.After(now) {
			f.see(ctx, s.crd)
		} else if s == nil {
			delete(f.again, name)
		}
	}
}

// see makes of a definition what it asks for. What is established already gets
// its rows first; what is not gets them when that is written, so that nobody
// uses a resource of whose definition the follower still has to write.
func (f *Follower) see(ctx context.Context, crd *apiextensionsv1.CustomResourceDefinition) {
	delete(f.again, crd.Name)
	s := f.known[crd.Name]
	if s != nil && s.crd.UID != crd.UID {
		f.forget(ctx, crd.Name)
		s = nil
	}
	if s == nil {
		s = &served{}
		f.known[crd.Name] = s
	}
	before := s.crd
	next := crd
	status := judge(crd, f.others(crd), f.cfg.Now())
	if status != nil {
		next = crd.DeepCopy()
		next.Status = *status
	}
	s.crd = next
	if isTrue(&crd.Status, apiextensionsv1.Established) {
		f.serve(ctx, s)
	}
	if status != nil {
		f.write(ctx, s, crd, next)
	}
	if before != nil && !equality.Semantic.DeepEqual(before.Status.AcceptedNames, next.Status.AcceptedNames) {
		f.reconsider(ctx, next)
	}
	if next.DeletionTimestamp != nil && !s.ending && slices.Contains(next.Finalizers, apiextensionsv1.CustomResourceCleanupFinalizer) {
		s.ending = true
		f.tasks.Go(func() error { return f.end(ctx, next) })
	}
}

// others are the definitions of the same group.
func (f *Follower) others(crd *apiextensionsv1.CustomResourceDefinition) []*apiextensionsv1.CustomResourceDefinition {
	var out []*apiextensionsv1.CustomResourceDefinition
	for name, s := range f.known {
		if name != crd.Name && s.crd != nil && s.crd.Spec.Group == crd.Spec.Group {
			out = append(out, s.crd)
		}
	}
	return out
}

// reconsider looks again at definitions of a group that were refused a name.
func (f *Follower) reconsider(ctx context.Context, changed *apiextensionsv1.CustomResourceDefinition) {
	for _, crd := range f.others(changed) {
		if !isTrue(&crd.Status, apiextensionsv1.NamesAccepted) {
			f.see(ctx, crd)
		}
	}
}

// write stores the status of next, which is judged of was. Who loses against
// another writer is told of the other's state next.
func (f *Follower) write(ctx context.Context, s *served, was, next *apiextensionsv1.CustomResourceDefinition) {
	if !isTrue(&was.Status, apiextensionsv1.Established) && isTrue(&next.Status, apiextensionsv1.Established) {
		defer f.open()()
	}
	obj, err := f.cfg.Client.Update(ctx, next, "status")
	if err == nil {
		if crd, ok := obj.(*apiextensionsv1.CustomResourceDefinition); ok {
			s.crd = crd
		}
		f.serve(ctx, s)
		return
	}
	s.crd = was
	if !apierrors.IsConflict(err) && !apierrors.IsNotFound(err) && ctx.Err() == nil {
		f.cfg.Log.Warn("the status of a CustomResourceDefinition could not be written", "name", next.Name, "err", err)
		f.again[next.Name] = time.Now().Add(retryAfter)
	}
}

// forget takes a definition's rows out and gives its names back.
func (f *Follower) forget(ctx context.Context, name string) {
	s := f.known[name]
	if s == nil {
		return
	}
	delete(f.known, name)
	delete(f.again, name)
	f.replace(ctx, s, nil, nil)
	if s.crd != nil {
		f.reconsider(ctx, s.crd)
	}
}

// serve makes the definition's rows where it has none, or has changed.
func (f *Follower) serve(ctx context.Context, s *served) {
	crd := s.crd
	ready := isTrue(&crd.Status, apiextensionsv1.Established)
	if s.row != nil {
		s.row.Custom.Closing.Store(crd.DeletionTimestamp != nil)
	}
	if !ready || s.row != nil && same(s.made, crd) {
		return
	}
	life, retire := context.WithCancel(context.Background()) // until replace calls it
	row, err := rowOf(crd, f.cfg.Pool, life)
	if err != nil {
		retire()
		f.cfg.Log.Error("a CustomResourceDefinition cannot be served", "name", crd.Name, "err", err)
		return
	}
	row.Custom.Closing.Store(crd.DeletionTimestamp != nil)
	f.replace(ctx, s, row, retire)
	s.made = crd
}

// same tells whether the rows made of one state of a definition are good for
// another.
func same(a, b *apiextensionsv1.CustomResourceDefinition) bool {
	if !equality.Semantic.DeepEqual(a.Status.AcceptedNames, b.Status.AcceptedNames) {
		return false
	}
	return a.Generation == b.Generation || equality.Semantic.DeepEqual(a.Spec, b.Spec)
}

// replace puts a row (or none) in the place of the one before, whose watches
// end.
func (f *Follower) replace(ctx context.Context, s *served, row *api.Resource, retire context.CancelFunc) {
	old, oldRetire := s.row, s.retire
	var out, in []*api.Resource
	if old != nil {
		out = append(out, old)
	}
	if row != nil {
		in = append(in, row)
	}
	if len(out)+len(in) == 0 {
		return
	}
	if err := f.cfg.Registry.Replace(out, in); err != nil {
		retire()
		f.cfg.Log.Error("a CustomResourceDefinition cannot be served", "name", s.crd.Name, "err", err)
		return
	}
	s.row, s.retire = row, retire
	if row != nil && old == nil {
		if err := f.cfg.Store.Reindex(ctx, row.Key()); err != nil && ctx.Err() == nil {
			f.cfg.Log.Error("custom resources could not be indexed", "name", s.crd.Name, "err", err)
		}
	}
	if oldRetire != nil {
		oldRetire()
	}
}
