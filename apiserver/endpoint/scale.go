package endpoint

import (
	"context"
	"fmt"
	"math"
	"reflect"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"proa/api"
	"proa/apiserver/admission"
	"proa/apiserver/codec"
)

// ScaleKind is what the endpoint "scale" of every kind takes and gives.
var ScaleKind = autoscalingv1.SchemeGroupVersion.WithKind("Scale")

// GetScale reads the scale of an object.
func (e *Endpoint) GetScale(ctx context.Context, q Request) (*autoscalingv1.Scale, error) {
	rec, err := e.Get(ctx, q, "")
	if err != nil {
		return nil, err
	}
	obj, err := codec.Shown(ctx, q.Served, rec)
	if err != nil {
		return nil, internal(err)
	}
	if sub := q.Served.Subresource("scale"); sub != nil && sub.Scale != nil && sub.Scale.Check != nil {
		if _, err := sub.Scale.Check(obj); err != nil {
			return nil, internal(err)
		}
	}
	return scaleOf(q, obj)
}

// unnamed stands in a patch's source for replicas that the object does not
// name, so that a patch which does not name them either is known.
const unnamed = math.MinInt32

func scaleOf(q Request, obj api.Object) (*autoscalingv1.Scale, error) {
	sub := q.Served.Subresource("scale")
	if sub == nil || sub.Scale == nil {
		return nil, apierrors.NewNotFound(q.Served.GR(), q.Name)
	}
	spec, status, selector := sub.Scale.Get(obj)
	out := &autoscalingv1.Scale{
		ObjectMeta: metav1.ObjectMeta{
			Name: obj.GetName(), Namespace: obj.GetNamespace(), UID: obj.GetUID(),
			ResourceVersion: obj.GetResourceVersion(), CreationTimestamp: obj.GetCreationTimestamp(),
		},
		Spec:   autoscalingv1.ScaleSpec{Replicas: spec},
		Status: autoscalingv1.ScaleStatus{Replicas: status, Selector: selector},
	}
	out.SetGroupVersionKind(ScaleKind)
	return out, nil
}

// UpdateScale writes an object's replicas.
func (e *Endpoint) UpdateScale(ctx context.Context, q Request, s *autoscalingv1.Scale) (Result, error) {
	if s.Name != "" && s.Name != q.Name {
		return Result{}, apierrors.NewBadRequest("the name of the object does not match the name on the URL")
	}
	return e.changeScale(ctx, q, func(*autoscalingv1.Scale) (*autoscalingv1.Scale, error) { return s, nil })
}

func (e *Endpoint) patchScale(ctx context.Context, q Request, p Patch) (Result, error) {
	if p.Type == types.ApplyYAMLPatchType || p.Type == types.ApplyCBORPatchType {
		p.Type = types.MergePatchType
		intent, err := decodeIntent(Request{Served: scaleServed, Name: q.Name, Namespace: q.Namespace}, p)
		if err != nil {
			return Result{}, err
		}
		if p.Data, err = intent.MarshalJSON(); err != nil {
			return Result{}, apierrors.NewInternalError(err)
		}
	}
	return e.changeScale(ctx, q, func(old *autoscalingv1.Scale) (*autoscalingv1.Scale, error) {
		out, err := patchObject(q, old, p)
		if err != nil {
			return nil, err
		}
		return out.(*autoscalingv1.Scale), nil
	})
}

var scaleServed = api.Served{Resource: &api.Resource{
	Group: ScaleKind.Group, Version: ScaleKind.Version, Kind: ScaleKind.Kind, Plural: "scales",
	New: func() api.Object { return &autoscalingv1.Scale{} },
}}

func (e *Endpoint) changeScale(ctx context.Context, q Request, change func(*autoscalingv1.Scale) (*autoscalingv1.Scale, error)) (Result, error) {
	admitted := q
	admitted.admitted = true
	res, err := e.modify(ctx, admitted, func(old api.Object) (api.Object, error) {
		was, err := scaleOf(q, old)
		if err != nil {
			return nil, err
		}
		paths := q.Served.Subresource("scale").Scale
		if paths.Check != nil {
			if named, err := paths.Check(old); err != nil && named {
				return nil, internal(err)
			} else if !named {
				was.Spec.Replicas = unnamed
			}
		}
		next, err := change(was)
		if err != nil {
			return nil, err
		}
		if next.Spec.Replicas == unnamed {
			return nil, apierrors.NewBadRequest(fmt.Sprintf("the spec replicas field %q cannot be empty", paths.Path))
		}
		if next, err = e.admitScale(ctx, q, next, was); err != nil {
			return nil, err
		}
		if next.Spec.Replicas < 0 {
			errs := field.ErrorList{field.Invalid(field.NewPath("spec", "replicas"), next.Spec.Replicas, "must be greater than or equal to 0")}
			return nil, apierrors.NewInvalid(ScaleKind.GroupKind(), q.Name, errs)
		}
		obj := old.DeepCopyObject().(api.Object)
		obj.SetResourceVersion(next.ResourceVersion)
		if next.UID != "" {
			obj.SetUID(next.UID)
		}
		paths.Set(obj, next.Spec.Replicas)
		return obj, nil
	})
	if err != nil {
		return res, err
	}
	obj, err := res.Object()
	if err != nil {
		return res, apierrors.NewInternalError(err)
	}
	scale, err := scaleOf(q, obj)
	return Result{object: scale}, err
}

// admitScale runs admission over a Scale, as which webhooks and policies see it.
func (e *Endpoint) admitScale(ctx context.Context, q Request, next, was *autoscalingv1.Scale) (*autoscalingv1.Scale, error) {
	next = next.DeepCopy()
	next.SetGroupVersionKind(ScaleKind)
	next.Name, next.Namespace = q.Name, q.Namespace
	out, err := e.admit(ctx, q, admission.Update, next, was)
	if err != nil {
		return nil, err
	}
	return out.(*autoscalingv1.Scale), nil
}

func zeroOf(obj api.Object) api.Object {
	return reflect.New(reflect.TypeOf(obj).Elem()).Interface().(api.Object)
}
