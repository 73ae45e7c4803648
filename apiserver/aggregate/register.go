package aggregate

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"

	"proa/apiserver/discovery"
	"proa/client"
	"proa/store"
)

// The label of the APIServices that are made here, and what it says: those of the
// server's own groups are seen to once at the start, and their owner may do with
// them as he likes; those of custom resources are kept as long as these are
// served.
const (
	managedLabel = "kube-aggregator.kubernetes.io/automanaged"
	onStart      = "onstart"
	always       = "true"
)

const (
	definitions = "apiextensions.k8s.io/customresourcedefinitions"
	// retryRegistering is the time after which writes that failed are tried again.
	retryRegistering = time.Second
)

// register keeps the APIServices of local group versions.
func (a *Aggregator) register(ctx context.Context) error {
	for {
		world, w := a.cfg.Store.SnapshotAndWatch(store.Scope{Resource: resource}, store.Scope{Resource: definitions})
		err := a.registerOn(ctx, world, w)
		w.Close()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil && !errors.Is(err, store.ErrExpired) {
			return err
		}
	}
}

// registerOn writes what is missing now and after each change.
func (a *Aggregator) registerOn(ctx context.Context, world store.Snapshot, w store.Watcher) error {
	for {
		wait, cancel := ctx, context.CancelFunc(func() {})
		plan := plan(a.builtin(), world, !a.Complete())
		if err := a.write(ctx, plan); err != nil {
			a.cfg.Log.Warn("an APIService of a local group version could not be written", "err", err)
			wait, cancel = context.WithTimeout(ctx, retryRegistering)
		} else {
			a.once.Do(func() { close(a.registered) })
		}
		_, _, err := w.Next(wait)
		cancel()
		if err != nil && (ctx.Err() != nil || !errors.Is(err, context.DeadlineExceeded)) {
			return err
		}
		world = a.cfg.Store.Snapshot()
	}
}

// builtin are the group versions that the server has from the start.
func (a *Aggregator) builtin() []schema.GroupVersion {
	var out []schema.GroupVersion
	for gv := range a.cfg.Registry.Groups() {
		if _, own := discovery.DefaultPriority(gv); own && gv.Group != discovery.RegistrationGroup {
			out = append(out, gv)
		}
	}
	return out
}

// customVersions are the group versions that definitions say are served.
func customVersions(world store.Snapshot) []schema.GroupVersion {
	out := map[schema.GroupVersion]bool{}
	for rec := range world.List(store.Scope{Resource: definitions}, store.Key{}) {
		obj, err := rec.Object()
		crd, ok := obj.(*apiextensionsv1.CustomResourceDefinition)
		if err != nil || !ok {
			continue
		}
		for _, v := range crd.Spec.Versions {
			if v.Served {
				out[schema.GroupVersion{Group: crd.Spec.Group, Version: v.Name}] = true
			}
		}
	}
	return slices.Collect(maps.Keys(out))
}

// change is one write: a create without have, a delete without want.
type change struct{ have, want *apiregistrationv1.APIService }

// plan decides what to write: builtin group versions at the start only, custom
// ones always; what carries no label is its owner's.
func plan(builtin []schema.GroupVersion, world store.Snapshot, starting bool) []change {
	want := map[string]*apiregistrationv1.APIService{}
	for _, gv := range customVersions(world) {
		want[nameOf(gv)] = local(gv, always)
	}
	for _, gv := range builtin {
		want[nameOf(gv)] = local(gv, onStart)
	}
	var out []change
	for _, have := range services(world) {
		w := want[have.Name]
		delete(want, have.Name)
		mode := have.Labels[managedLabel]
		late := !starting && (mode == onStart || w != nil && w.Labels[managedLabel] == onStart)
		switch {
		case mode != onStart && mode != always, late:
		case w == nil:
			out = append(out, change{have: have})
		case !sameSpec(have, w):
			out = append(out, change{have, w})
		}
	}
	for _, w := range want {
		if starting || w.Labels[managedLabel] == always {
			out = append(out, change{want: w})
		}
	}
	return out
}

func local(gv schema.GroupVersion, mode string) *apiregistrationv1.APIService {
	p, _ := discovery.DefaultPriority(gv)
	return &apiregistrationv1.APIService{
		ObjectMeta: metav1.ObjectMeta{Name: nameOf(gv), Labels: map[string]string{managedLabel: mode}},
		Spec: apiregistrationv1.APIServiceSpec{
			Group: gv.Group, Version: gv.Version, GroupPriorityMinimum: p.Group, VersionPriority: p.Version,
		},
	}
}

func sameSpec(a, b *apiregistrationv1.APIService) bool {
	return a.Spec.Service == nil && b.Spec.Service == nil && a.Spec.Group == b.Spec.Group && a.Spec.Version == b.Spec.Version &&
		a.Spec.GroupPriorityMinimum == b.Spec.GroupPriorityMinimum && a.Spec.VersionPriority == b.Spec.VersionPriority
}

// write makes the changes at once, so that the store commits them together. What
// somebody else changed meanwhile comes again with that change.
func (a *Aggregator) write(ctx context.Context, changes []change) error {
	var group errgroup.Group
	group.SetLimit(64)
	for _, c := range changes {
		group.Go(func() error {
			err := a.writeOne(ctx, c)
			if apierrors.IsConflict(err) || apierrors.IsNotFound(err) || apierrors.IsAlreadyExists(err) {
				return nil
			}
			return err
		})
	}
	return group.Wait()
}

func (a *Aggregator) writeOne(ctx context.Context, c change) error {
	row := a.cfg.Registry.ByKey(resource)
	switch {
	case c.have == nil:
		_, err := a.cfg.Client.Create(ctx, c.want)
		return err
	case c.want == nil:
		uid := c.have.UID
		return a.cfg.Client.Delete(ctx, row, client.KeyOf(c.have), metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &uid}})
	}
	next := c.have.DeepCopy()
	next.Spec = c.want.Spec
	_, err := a.cfg.Client.Update(ctx, next, "")
	return err
}
