// Package fieldmanager keeps metadata.managedFields, which say who set what, and
// merges server-side apply requests by them (KEP-555). It joins the registry's
// rows to apimachinery's managedfields library.
package fieldmanager

import (
	"context"
	"fmt"
	"sync"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"
	"sigs.k8s.io/structured-merge-diff/v6/typed"

	"proa/api"
	"proa/apiserver/codec"
)

// Managers hands out the field manager of each endpoint, made on first use.
type Managers struct {
	registry    *api.Registry
	cache       sync.Map // key → *managedfields.FieldManager
	customTypes sync.Map // *api.Resource → func that makes its managedfields.TypeConverter, once
}

// New returns the managers of a registry's rows.
func New(r *api.Registry) *Managers { return &Managers{registry: r} }

type key struct {
	row         *api.Resource
	gvk         schema.GroupVersionKind
	subresource string
}

// Update notes in obj's managedFields what manager changed since live. obj is
// changed; live, an empty object on create, is not. Where there are too many
// fields to note, none has an owner.
func (m *Managers) Update(served api.Served, subresource string, live, obj api.Object, manager string) (api.Object, error) {
	if Wide(obj) || Wide(live) {
		return disown(obj), nil
	}
	fm, err := m.of(served, subresource)
	if err != nil {
		return nil, err
	}
	return asObject(fm.UpdateNoErrors(live, obj, manager))
}

// Apply merges what manager intends into live. It returns nil where the merge
// changes nothing. A conflict is a Status error.
func (m *Managers) Apply(served api.Served, subresource string, live api.Object, intent *unstructured.Unstructured, manager string, force bool) (api.Object, error) {
	if Wide(intent) || Wide(live) {
		return nil, errTooWide()
	}
	fm, err := m.of(served, subresource)
	if err != nil {
		return nil, err
	}
	out, err := fm.Apply(live, intent, manager, force)
	if err != nil || out == nil {
		return nil, err
	}
	return asObject(out)
}

func asObject(o runtime.Object) (api.Object, error) {
	obj, ok := o.(api.Object)
	if !ok {
		return nil, fmt.Errorf("fieldmanager: %T has no metadata", o)
	}
	return obj, nil
}

func (m *Managers) of(served api.Served, subresource string) (*managedfields.FieldManager, error) {
	k := key{served.Resource, served.GVK(), subresource}
	if fm, ok := m.cache.Load(k); ok {
		return fm.(*managedfields.FieldManager), nil
	}
	if served.Custom != nil {
		return m.custom(k)
	}
	make := managedfields.NewDefaultFieldManager
	if codec.IsCustom(served.Resource) {
		make = managedfields.NewDefaultCRDFieldManager
	}
	hub := schema.GroupVersion{Group: served.Resource.Group, Version: served.Resource.Version}
	conv := converter{m.registry, served.Resource}
	tc, err := types(served)
	if err != nil {
		return nil, err
	}
	fm, err := make(tc, conv, conv, conv, k.gvk, hub, subresource, resetFields(served, subresource))
	if err == nil {
		m.cache.Store(k, fm)
	}
	return fm, err
}

// custom makes the manager of a custom resource, which is kept for as long as
// the row is served.
func (m *Managers) custom(k key) (*managedfields.FieldManager, error) {
	tc, err := m.customTypesOf(k.row)
	if err != nil {
		return nil, err
	}
	conv := customConverter{k.row}
	fm, err := managedfields.NewDefaultCRDFieldManager(tc, conv, conv, conv, k.gvk, k.gvk.GroupVersion(), k.subresource, customResets(k.row, k.subresource))
	if err != nil {
		return nil, err
	}
	m.cache.Store(k, fm)
	context.AfterFunc(k.row.Custom.Life, func() { m.cache.Delete(k) })
	return fm, nil
}

// Types is what merges objects of a kind by its schema.
func (m *Managers) Types(served api.Served) (managedfields.TypeConverter, error) {
	if served.Custom == nil {
		return types(served)
	}
	return m.customTypesOf(served.Resource)
}

func (m *Managers) customTypesOf(row *api.Resource) (managedfields.TypeConverter, error) {
	make, known := m.customTypes.LoadOrStore(row, sync.OnceValues(func() (managedfields.TypeConverter, error) { return newCustomTypes(row) }))
	if !known {
		context.AfterFunc(row.Custom.Life, func() { m.customTypes.Delete(row) })
	}
	return make.(func() (managedfields.TypeConverter, error))()
}

func types(served api.Served) (managedfields.TypeConverter, error) {
	if codec.IsCustom(served.Resource) {
		return managedfields.NewDeducedTypeConverter(), nil
	}
	return builtinTypes()
}

// builtinConverter knows kinds by the scheme that they are in; the last one has no
// scheme and deduces the types of kinds without a published schema.
type builtinConverter []struct {
	scheme *runtime.Scheme
	types  managedfields.TypeConverter
}

func (c builtinConverter) ObjectToTyped(o runtime.Object, opts ...typed.ValidationOptions) (*typed.TypedValue, error) {
	gvk := o.GetObjectKind().GroupVersionKind()
	for _, known := range c {
		if known.scheme == nil || known.scheme.Recognizes(gvk) {
			return known.types.ObjectToTyped(o, opts...)
		}
	}
	return nil, runtime.NewNotRegisteredErrForKind("fieldmanager", gvk)
}

func (c builtinConverter) TypedToObject(v *typed.TypedValue) (runtime.Object, error) {
	return c[0].types.TypedToObject(v)
}

// resetFields are those that an endpoint takes from the old object whatever the
// client says, so that nobody owns them through it.
func resetFields(served api.Served, subresource string) map[fieldpath.APIVersion]fieldpath.Filter {
	var set *fieldpath.Set
	switch {
	case subresource == "status":
		set = fieldpath.NewSet(fieldpath.MakePathOrDie("spec"))
	case subresource == "" && served.Subresource("status") != nil:
		set = fieldpath.NewSet(fieldpath.MakePathOrDie("status"))
	default:
		return nil
	}
	version := fieldpath.APIVersion(served.GVK().GroupVersion().String())
	return map[fieldpath.APIVersion]fieldpath.Filter{version: fieldpath.NewExcludeSetFilter(set)}
}
