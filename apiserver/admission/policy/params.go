package policy

import (
	"context"
	"errors"
	"fmt"

	admissionregv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"proa/api"
	"proa/apiserver/admission/extension"
	"proa/apiserver/codec"
	"proa/store"
)

// params are the objects that a binding hands to its policy: one that is nil
// where the policy or the binding wants none, and none at all where the binding
// lets a missing one pass.
func (p *Policies) params(v *extension.View, kind *admissionregv1.ParamKind, ref *admissionregv1.ParamRef) ([]api.Object, error) {
	if kind == nil || ref == nil {
		return []api.Object{nil}, nil
	}
	served, err := p.paramKind(kind)
	if err != nil {
		return nil, err
	}
	scope := store.Scope{Resource: served.Key()}
	switch {
	case served.Namespaced:
		if scope.Namespace = v.Namespace; ref.Namespace != "" {
			scope.Namespace = ref.Namespace
		}
		if v.Resource.Key() == "namespaces" && ref.Namespace == "" {
			scope.Namespace = v.Name
		}
		if scope.Namespace == "" {
			return nil, errors.New("cannot use namespaced paramRef in policy binding that matches cluster-scoped resources")
		}
	case ref.Namespace != "":
		return nil, errors.New("paramRef.namespace must not be provided for a cluster-scoped `paramKind`")
	}
	found, err := p.find(v.World, served, scope, ref)
	if err != nil {
		return nil, err
	}
	if len(found) == 0 && ref.ParameterNotFoundAction != nil && *ref.ParameterNotFoundAction == admissionregv1.DenyAction {
		return nil, errors.New("no params found for policy binding with `Deny` parameterNotFoundAction")
	}
	return found, nil
}

func (p *Policies) paramKind(kind *admissionregv1.ParamKind) (api.Served, error) {
	gv, err := schema.ParseGroupVersion(kind.APIVersion)
	if err != nil {
		return api.Served{}, err
	}
	served, ok := p.cfg.Registry.ByGVK(gv.WithKind(kind.Kind))
	if !ok {
		return served, fmt.Errorf("paramKind kind `%v` not known", kind.String())
	}
	return served, nil
}

func (p *Policies) find(world store.Snapshot, served api.Served, scope store.Scope, ref *admissionregv1.ParamRef) (out []api.Object, err error) {
	if ref.Name != "" {
		rec := world.Get(store.Key{Resource: scope.Resource, Namespace: scope.Namespace, Name: ref.Name})
		if rec == nil {
			return nil, nil
		}
		obj, err := shown(served, rec)
		return []api.Object{obj}, err
	}
	selector, err := metav1.LabelSelectorAsSelector(ref.Selector)
	if err != nil {
		return nil, err
	}
	for rec := range world.List(scope, store.Key{}) {
		obj, err := shown(served, rec)
		if err != nil {
			return nil, err
		}
		if selector.Matches(labels.Set(obj.GetLabels())) {
			out = append(out, obj)
		}
	}
	return out, nil
}

// shown is a stored object in the version of a param kind.
func shown(served api.Served, rec *store.Record) (api.Object, error) {
	obj, err := codec.Shown(context.Background(), served, rec)
	if err != nil || served.Custom != nil {
		return obj, err
	}
	return codec.FromStorage(served, obj)
}

// param is what expressions see: a nil object is null.
func param(obj api.Object) runtime.Object {
	if obj == nil {
		return nil
	}
	return obj
}
