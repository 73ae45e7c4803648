// Package own is what all controllers of dependents share: which objects a
// controller owns through its controllerRef, which orphans it adopts because
// its selector matches them, and which it lets go because they match no more.
package own

import (
	"iter"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"proa/api"
	"proa/client"
	"proa/reconcile"
)

// Ref is the ownerReference that makes owner the controller of an object.
func Ref(row *api.Resource, owner client.Object) *metav1.OwnerReference {
	return metav1.NewControllerRef(owner, row.GVK())
}

// IsController tells whether the object's controllerRef names owner.
func IsController(owner, obj client.Object) bool {
	ref := metav1.GetControllerOfNoCopy(obj)
	return ref != nil && ref.UID == owner.GetUID()
}

// Of yields the objects of one kind that owner controls.
func Of[P client.Object](v client.View, row *api.Resource, owner client.Object) []P {
	var out []P
	for obj := range v.Index(row, "ownerUID", string(owner.GetUID())) {
		if p, ok := obj.(P); ok && p.GetNamespace() == owner.GetNamespace() && IsController(owner, p) {
			out = append(out, p)
		}
	}
	return out
}

// orphans yields the objects of a namespace that nobody controls. Kinds of which
// there are many have an index of them.
func orphans(v client.View, row *api.Resource, namespace string) iter.Seq[client.Object] {
	return func(yield func(client.Object) bool) {
		if row.Indexes["orphan"] != nil {
			v.Index(row, "orphan", namespace)(yield)
			return
		}
		for obj := range v.List(row, namespace) {
			if metav1.GetControllerOfNoCopy(obj) == nil && !yield(obj) {
				return
			}
		}
	}
}

// Claim finds the objects of a kind that owner controls, and the writes that
// make it so: orphans that match its selector are adopted, owned ones that do
// not match are released. Where there are writes the decision should make only
// them: it is called again with what they bring.
//
// An owner that is being deleted adopts nothing; an object that is being
// deleted is neither adopted nor released.
func Claim[P client.Object](v client.View, row, ownerRow *api.Resource, owner client.Object, sel labels.Selector) ([]P, []reconcile.Write) {
	var writes []reconcile.Write
	mine := slices.DeleteFunc(Of[P](v, row, owner), func(p P) bool {
		if sel.Matches(labels.Set(p.GetLabels())) {
			return false
		}
		if p.GetDeletionTimestamp() == nil && owner.GetDeletionTimestamp() == nil {
			writes = append(writes, release(owner, p))
		}
		return true
	})
	if owner.GetDeletionTimestamp() != nil {
		return mine, writes
	}
	for obj := range orphans(v, row, owner.GetNamespace()) {
		if obj.GetDeletionTimestamp() == nil && sel.Matches(labels.Set(obj.GetLabels())) {
			writes = append(writes, adopt(ownerRow, owner, obj))
		}
	}
	return mine, writes
}

func adopt(row *api.Resource, owner, obj client.Object) reconcile.Write {
	obj = obj.DeepCopyObject().(client.Object)
	refs := slices.DeleteFunc(obj.GetOwnerReferences(), func(r metav1.OwnerReference) bool { return r.UID == owner.GetUID() })
	obj.SetOwnerReferences(append(refs, *Ref(row, owner)))
	return reconcile.Write{Op: reconcile.Update, Object: obj}
}

func release(owner, obj client.Object) reconcile.Write {
	obj = obj.DeepCopyObject().(client.Object)
	obj.SetOwnerReferences(slices.DeleteFunc(obj.GetOwnerReferences(), func(r metav1.OwnerReference) bool { return r.UID == owner.GetUID() }))
	return reconcile.Write{Op: reconcile.Update, Object: obj}
}

// Wake says which owners a changed dependent wakes: those of the given kind
// that its controllerRef names, before and after the change, and for an orphan
// all in its namespace that select it.
func Wake(ownerRow *api.Resource, selects func(owner client.Object) labels.Selector) func(client.View, client.Event) []client.Key {
	return func(v client.View, e client.Event) []client.Key {
		var keys []client.Key
		for _, obj := range []client.Object{e.Old, e.New} {
			if obj == nil {
				continue
			}
			if ref := metav1.GetControllerOfNoCopy(obj); ref != nil {
				keys = append(keys, named(ownerRow, obj, ref)...)
			}
		}
		if e.New != nil && metav1.GetControllerOfNoCopy(e.New) == nil {
			keys = append(keys, Selecting(v, ownerRow, e.New, selects)...)
		}
		slices.SortFunc(keys, func(a, b client.Key) int { return strings.Compare(a.String(), b.String()) })
		return slices.Compact(keys)
	}
}

func named(ownerRow *api.Resource, obj client.Object, ref *metav1.OwnerReference) []client.Key {
	gv, err := schema.ParseGroupVersion(ref.APIVersion)
	if err != nil || ref.Kind != ownerRow.Kind || gv.Group != ownerRow.Group {
		return nil
	}
	return []client.Key{{Namespace: obj.GetNamespace(), Name: ref.Name}}
}

// Selecting are the keys of the owners whose selector matches an object.
func Selecting(v client.View, ownerRow *api.Resource, obj client.Object, selects func(client.Object) labels.Selector) []client.Key {
	var keys []client.Key
	for owner := range v.List(ownerRow, obj.GetNamespace()) {
		if sel := selects(owner); sel != nil && !sel.Empty() && sel.Matches(labels.Set(obj.GetLabels())) {
			keys = append(keys, client.KeyOf(owner))
		}
	}
	return keys
}

// Selector makes a selector of a label selector; one that is not valid, which
// validation does not let in, selects nothing.
func Selector(s *metav1.LabelSelector) labels.Selector {
	sel, err := metav1.LabelSelectorAsSelector(s)
	if err != nil {
		return labels.Nothing()
	}
	return sel
}
