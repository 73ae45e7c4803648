package clienttest

import (
	"iter"
	"slices"

	"github.com/tidwall/btree"

	"proa/api"
	"proa/client"
)

// view is all objects at one revision. It is never changed once it is shown.
type view struct {
	revision uint64
	objects  map[string]*btree.Map[string, client.Object] // by Resource.Key
}

// sep sorts below every character that names may hold, so that keys order by
// namespace and then name.
const sep = "\x00"

func (v *view) Revision() uint64 { return v.revision }

func (v *view) Get(r *api.Resource, namespace, name string) client.Object {
	tree := v.objects[r.Key()]
	if tree == nil {
		return nil
	}
	obj, _ := tree.Get(namespace + sep + name)
	return obj
}

func (v *view) List(r *api.Resource, namespace string) iter.Seq[client.Object] {
	return func(yield func(client.Object) bool) {
		tree := v.objects[r.Key()]
		if tree == nil {
			return
		}
		from := ""
		if namespace != "" {
			from = namespace + sep
		}
		tree.Ascend(from, func(_ string, obj client.Object) bool {
			if namespace != "" && obj.GetNamespace() != namespace {
				return false
			}
			return yield(obj)
		})
	}
}

func (v *view) Index(r *api.Resource, index, value string) iter.Seq[client.Object] {
	values := r.Indexes[index]
	if values == nil {
		panic("clienttest: " + r.Key() + " has no index " + index)
	}
	return func(yield func(client.Object) bool) {
		for obj := range v.List(r, "") {
			if slices.Contains(values(obj), value) && !yield(obj) {
				return
			}
		}
	}
}

// with is the view after one write; a nil obj deletes.
func (v *view) with(row *api.Resource, key client.Key, obj client.Object) *view {
	next := &view{revision: v.revision + 1, objects: make(map[string]*btree.Map[string, client.Object], len(v.objects)+1)}
	for k, tree := range v.objects {
		next.objects[k] = tree
	}
	tree := &btree.Map[string, client.Object]{}
	if old := v.objects[row.Key()]; old != nil {
		tree = old.Copy()
	}
	if obj == nil {
		tree.Delete(key.Namespace + sep + key.Name)
	} else {
		tree.Set(key.Namespace+sep+key.Name, obj)
	}
	next.objects[row.Key()] = tree
	return next
}

// World is a view of the given objects as they are, for tests of pure
// decisions. Nothing is defaulted; an object without a resourceVersion gets "1".
func World(objs ...client.Object) client.View {
	v := &view{revision: 1}
	for _, obj := range objs {
		if obj.GetResourceVersion() == "" {
			obj.SetResourceVersion("1")
		}
		v = v.with(mustRow(api.Builtin(), obj), client.KeyOf(obj), obj)
	}
	return v
}

func mustRow(reg *api.Registry, obj client.Object) *api.Resource {
	row := reg.Of(obj)
	if row == nil {
		panic("clienttest: no such kind: " + obj.GetObjectKind().GroupVersionKind().String())
	}
	return row
}
