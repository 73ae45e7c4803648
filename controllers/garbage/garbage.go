// Package garbage deletes what its owners have left behind: the dependents of
// an object that is gone, or that is being deleted in the foreground; and lets
// go those of one that orphans them. It follows every resource that is served,
// those of CustomResourceDefinitions too.
//
// An owner is looked for by kind, name and UID in the dependent's own
// namespace, or at cluster scope. A dependent is deleted when all its owners are
// gone. What names an owner of a kind that is not served, or a cluster-scoped
// dependent that names a namespaced owner, is left alone.
package garbage

import (
	"iter"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"proa/api"
	"proa/client"
	"proa/reconcile"
)

// unknownKind is how often an owner of a kind that is not served is looked for.
const unknownKind = 10 * time.Minute

// collector knows the kinds.
type collector struct{ registry *api.Registry }

// Controller is the garbage collector.
func Controller(registry *api.Registry) reconcile.Controller {
	c := &collector{registry}
	return reconcile.Controller{
		Name:    "garbage-collector-controller",
		Workers: 20,
		Watches: []reconcile.Watch{{Keys: c.keys}},
		Decide:  c.decide,
	}
}

// keyOf names an object of any resource. Names never hold a slash.
func keyOf(row *api.Resource, obj client.Object) client.Key {
	return client.Key{Namespace: obj.GetNamespace(), Name: row.Key() + "/" + obj.GetName()}
}

func (c *collector) find(v client.View, key client.Key) (*api.Resource, client.Object) {
	i := strings.LastIndexByte(key.Name, '/')
	row := c.registry.ByKey(key.Name[:i])
	if row == nil {
		return nil, nil
	}
	return row, v.Get(row, key.Namespace, key.Name[i+1:])
}

// keys: an object that is gone wakes its dependents and its owners; one that is
// to be looked at wakes itself, and its dependents when it begins to wait for
// them.
func (c *collector) keys(v client.View, e client.Event) []client.Key {
	if e.Resource.Key() == "events" {
		return nil // nobody owns them and they own nothing
	}
	if e.Old != nil && e.New != nil && !matters(e.Old, e.New) {
		return nil
	}
	var keys []client.Key
	if e.New == nil || waits(e.New) {
		for d := range c.dependents(v, e.Object()) {
			keys = append(keys, keyOf(d.row, d.Object))
		}
	}
	if e.New != nil && (len(e.New.GetOwnerReferences()) > 0 || e.New.GetDeletionTimestamp() != nil) {
		keys = append(keys, keyOf(e.Resource, e.New))
	}
	if e.Old != nil {
		keys = append(keys, c.owners(v, e.Old)...)
	}
	return keys
}

func matters(old, obj client.Object) bool {
	return (old.GetDeletionTimestamp() == nil) != (obj.GetDeletionTimestamp() == nil) || old.GetUID() != obj.GetUID() ||
		!slices.Equal(old.GetFinalizers(), obj.GetFinalizers()) ||
		!equality.Semantic.DeepEqual(old.GetOwnerReferences(), obj.GetOwnerReferences())
}

// owners are the keys of owners that wait for this dependent.
func (c *collector) owners(v client.View, obj client.Object) []client.Key {
	var keys []client.Key
	for _, ref := range obj.GetOwnerReferences() {
		if row, owner, _ := c.owner(v, obj, ref); owner != nil && (waits(owner) || orphans(owner)) {
			keys = append(keys, keyOf(row, owner))
		}
	}
	return keys
}

// waits tells whether an object is being deleted in the foreground.
func waits(obj client.Object) bool {
	return obj.GetDeletionTimestamp() != nil && slices.Contains(obj.GetFinalizers(), metav1.FinalizerDeleteDependents)
}

// orphans tells whether an object is being deleted without its dependents.
func orphans(obj client.Object) bool {
	return obj.GetDeletionTimestamp() != nil && slices.Contains(obj.GetFinalizers(), metav1.FinalizerOrphanDependents)
}

// owner finds what a reference names; nil where it is gone. served is false
// where that cannot be told.
func (c *collector) owner(v client.View, obj client.Object, ref metav1.OwnerReference) (row *api.Resource, owner client.Object, served bool) {
	gv, err := schema.ParseGroupVersion(ref.APIVersion)
	if err != nil {
		return nil, nil, false
	}
	s, ok := c.registry.ByGVK(gv.WithKind(ref.Kind))
	if !ok || s.Namespaced && obj.GetNamespace() == "" {
		return nil, nil, false
	}
	namespace := ""
	if s.Namespaced {
		namespace = obj.GetNamespace()
	}
	owner = v.Get(s.Resource, namespace, ref.Name)
	if owner != nil && owner.GetUID() != ref.UID {
		owner = nil
	}
	return s.Resource, owner, true
}

// dependent is an object with its resource.
type dependent struct {
	row *api.Resource
	client.Object
}

// dependents are the objects of all kinds that name this owner where they may.
func (c *collector) dependents(v client.View, owner client.Object) iter.Seq[dependent] {
	return func(yield func(dependent) bool) {
		for _, row := range c.registry.All() {
			if row.NewList == nil || row.Key() == "events" {
				continue
			}
			for obj := range v.Index(row, "ownerUID", string(owner.GetUID())) {
				if (owner.GetNamespace() == "" || owner.GetNamespace() == obj.GetNamespace()) && !yield(dependent{row, obj}) {
					return
				}
			}
		}
	}
}

func (c *collector) decide(v client.View, _ time.Time, key client.Key) reconcile.Plan {
	row, obj := c.find(v, key)
	switch {
	case obj == nil:
		return reconcile.Plan{}
	case obj.GetDeletionTimestamp() == nil:
		return c.judge(v, row, obj)
	case orphans(obj):
		return c.orphan(v, obj)
	case waits(obj):
		return c.release(v, obj)
	}
	return reconcile.Plan{}
}

// orphan takes the owner out of its dependents, and when there are none any more
// lets it go: the last of them wakes it again.
func (c *collector) orphan(v client.View, owner client.Object) reconcile.Plan {
	plan := reconcile.Plan{Parallel: true}
	for d := range c.dependents(v, owner) {
		plan.Writes = append(plan.Writes, without(d.Object, owner.GetUID()))
	}
	if len(plan.Writes) == 0 {
		plan.Writes = []reconcile.Write{unfinalize(owner, metav1.FinalizerOrphanDependents)}
	}
	return plan
}

// release lets an owner go when none of its dependents blocks that any more.
// The dependents are deleted by their own keys.
func (c *collector) release(v client.View, owner client.Object) reconcile.Plan {
	for d := range c.dependents(v, owner) {
		for _, ref := range d.GetOwnerReferences() {
			if ref.UID == owner.GetUID() && ref.BlockOwnerDeletion != nil && *ref.BlockOwnerDeletion {
				return reconcile.Plan{}
			}
		}
	}
	return reconcile.Plan{Writes: []reconcile.Write{unfinalize(owner, metav1.FinalizerDeleteDependents)}}
}

func unfinalize(obj client.Object, finalizer string) reconcile.Write {
	obj = obj.DeepCopyObject().(client.Object)
	obj.SetFinalizers(slices.DeleteFunc(obj.GetFinalizers(), func(f string) bool { return f == finalizer }))
	return reconcile.Write{Op: reconcile.Update, Object: obj}
}
