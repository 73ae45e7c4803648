package garbage

import (
	"fmt"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"proa/api"
	"proa/client"
	"proa/reconcile"
)

// claims sorts the references of a dependent by what has become of the owners.
type claims struct {
	solid, waiting, gone []types.UID
	unknown              bool // at least one cannot be told
	crossed              bool // a namespaced owner at cluster scope
}

func (c *collector) claims(v client.View, obj client.Object) claims {
	var out claims
	for _, ref := range obj.GetOwnerReferences() {
		row, owner, served := c.owner(v, obj, ref)
		switch {
		case !served:
			out.unknown = true
			out.crossed = out.crossed || c.crosses(obj, ref)
		case owner == nil:
			out.gone = append(out.gone, ref.UID)
		case waits(owner) && row != nil:
			out.waiting = append(out.waiting, ref.UID)
		default:
			out.solid = append(out.solid, ref.UID)
		}
	}
	return out
}

func (c *collector) crosses(obj client.Object, ref metav1.OwnerReference) bool {
	gvk := (&metav1.TypeMeta{APIVersion: ref.APIVersion, Kind: ref.Kind}).GroupVersionKind()
	s, ok := c.registry.ByGVK(gvk)
	return ok && s.Namespaced && obj.GetNamespace() == ""
}

// judge decides whether a dependent stays.
func (c *collector) judge(v client.View, row *api.Resource, obj client.Object) reconcile.Plan {
	if len(obj.GetOwnerReferences()) == 0 {
		return reconcile.Plan{}
	}
	found := c.claims(v, obj)
	lost := slices.Concat(found.gone, found.waiting)
	switch {
	case found.crossed:
		message := fmt.Sprintf("ownerRef of the cluster-scoped %s %q names a namespaced kind", row.Kind, obj.GetName())
		return reconcile.Plan{Events: []reconcile.Event{reconcile.Warning(obj, "OwnerRefInvalidNamespace", message)}}
	case found.unknown:
		return reconcile.Plan{After: unknownKind}
	case len(lost) == 0:
		return reconcile.Plan{}
	case len(found.solid) > 0:
		return reconcile.Plan{Writes: []reconcile.Write{without(obj, lost...)}}
	case len(found.waiting) > 0 && c.hasDependents(v, obj):
		return c.deleteForeground(v, obj)
	}
	return reconcile.Plan{Writes: []reconcile.Write{deletion(obj, policyOf(obj))}}
}

// deleteForeground deletes a dependent that has dependents of its own and whose
// owner waits. Where one of them waits already, the owners go round in a
// circle: the dependent stops blocking its owner first.
func (c *collector) deleteForeground(v client.View, obj client.Object) reconcile.Plan {
	var plan reconcile.Plan
	for d := range c.dependents(v, obj) {
		if waits(d.Object) && blocks(obj) {
			return reconcile.Plan{Writes: []reconcile.Write{unblock(obj)}}
		}
	}
	plan.Writes = append(plan.Writes, deletion(obj, metav1.DeletePropagationForeground))
	return plan
}

func (c *collector) hasDependents(v client.View, obj client.Object) bool {
	for range c.dependents(v, obj) {
		return true
	}
	return false
}

func blocks(obj client.Object) bool {
	return slices.ContainsFunc(obj.GetOwnerReferences(), func(r metav1.OwnerReference) bool {
		return r.BlockOwnerDeletion != nil && *r.BlockOwnerDeletion
	})
}

func unblock(obj client.Object) reconcile.Write {
	obj = obj.DeepCopyObject().(client.Object)
	refs := obj.GetOwnerReferences()
	for i := range refs {
		no := false
		refs[i].BlockOwnerDeletion = &no
	}
	obj.SetOwnerReferences(refs)
	return reconcile.Write{Op: reconcile.Update, Object: obj}
}

// policyOf is how a dependent is deleted: as its finalizers say, else in the
// background.
func policyOf(obj client.Object) metav1.DeletionPropagation {
	switch f := obj.GetFinalizers(); {
	case slices.Contains(f, metav1.FinalizerOrphanDependents):
		return metav1.DeletePropagationOrphan
	case slices.Contains(f, metav1.FinalizerDeleteDependents):
		return metav1.DeletePropagationForeground
	}
	return metav1.DeletePropagationBackground
}

// deletion deletes the very state that was judged: an owner that was added
// since makes it a conflict.
func deletion(obj client.Object, policy metav1.DeletionPropagation) reconcile.Write {
	uid, version := obj.GetUID(), obj.GetResourceVersion()
	return reconcile.Write{Op: reconcile.Delete, Object: obj, Delete: metav1.DeleteOptions{
		PropagationPolicy: &policy,
		Preconditions:     &metav1.Preconditions{UID: &uid, ResourceVersion: &version},
	}}
}

func without(obj client.Object, owners ...types.UID) reconcile.Write {
	obj = obj.DeepCopyObject().(client.Object)
	obj.SetOwnerReferences(slices.DeleteFunc(obj.GetOwnerReferences(), func(r metav1.OwnerReference) bool {
		return slices.Contains(owners, r.UID)
	}))
	return reconcile.Write{Op: reconcile.Update, Object: obj}
}
