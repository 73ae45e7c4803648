package fieldmanager

import (
	"fmt"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"proa/api"
	"proa/apiserver/codec"
)

// converter shows one row's objects in its served versions, as the managedfields
// library asks for them. The storage version is the hub.
type converter struct {
	registry *api.Registry
	row      *api.Resource
}

func (c converter) ConvertToVersion(in runtime.Object, target runtime.GroupVersioner) (runtime.Object, error) {
	from := in.GetObjectKind().GroupVersionKind()
	to, ok := target.KindForGroupVersionKinds(c.kinds(from))
	if !ok {
		return nil, fmt.Errorf("%s cannot be shown as %s", from, target.Identifier())
	}
	if gv, exact := target.(schema.GroupVersion); exact {
		to.Group, to.Version = gv.Group, gv.Version
	}
	obj, err := c.typed(in, from)
	if err != nil || from == to {
		return obj, err
	}
	return c.between(obj, from, to)
}

// kinds are what an object of the row can be shown as, what it is first.
func (c converter) kinds(from schema.GroupVersionKind) []schema.GroupVersionKind {
	out := []schema.GroupVersionKind{from, c.row.GVK()}
	for i := range c.row.Versions {
		out = append(out, api.Served{Resource: c.row, As: &c.row.Versions[i]}.GVK())
	}
	return out
}

func (c converter) between(obj api.Object, from, to schema.GroupVersionKind) (runtime.Object, error) {
	source, ok := c.registry.ByGVK(from)
	if !ok {
		return nil, runtime.NewNotRegisteredErrForKind("registry", from)
	}
	sink, ok := c.registry.ByGVK(to)
	if !ok {
		return nil, runtime.NewNotRegisteredErrForKind("registry", to)
	}
	hub, err := codec.ToStorage(source, obj)
	if err != nil {
		return nil, err
	}
	return codec.FromStorage(sink, hub)
}

// typed gives an object that the merge produced its Go type back.
func (c converter) typed(in runtime.Object, gvk schema.GroupVersionKind) (api.Object, error) {
	u, ok := in.(*unstructured.Unstructured)
	if !ok || codec.IsCustom(c.row) {
		return asObject(in)
	}
	obj, err := c.New(gvk)
	if err != nil {
		return nil, err
	}
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, obj); err != nil {
		return nil, err
	}
	obj.GetObjectKind().SetGroupVersionKind(gvk)
	return asObject(obj)
}

func (c converter) New(gvk schema.GroupVersionKind) (runtime.Object, error) {
	served, ok := c.registry.ByGVK(gvk)
	if !ok {
		return nil, runtime.NewNotRegisteredErrForKind("registry", gvk)
	}
	obj := served.New()
	if served.As != nil {
		obj = served.As.New()
	}
	obj.GetObjectKind().SetGroupVersionKind(gvk)
	return obj, nil
}

func (c converter) Default(in runtime.Object) {
	obj, ok := in.(api.Object)
	if !ok {
		return
	}
	served, ok := c.registry.ByGVK(in.GetObjectKind().GroupVersionKind())
	switch {
	case !ok:
	case served.As != nil && served.As.Default != nil:
		served.As.Default(obj)
	case served.As == nil && served.Default != nil:
		served.Default(obj)
	}
}

// Convert and ConvertFieldLabel complete runtime.ObjectConvertor; the library
// does not call them.
func (c converter) Convert(in, out, context any) error {
	return fmt.Errorf("fieldmanager: %T cannot be converted into a given %T", in, out)
}

func (c converter) ConvertFieldLabel(_ schema.GroupVersionKind, label, value string) (string, string, error) {
	return label, value, nil
}
