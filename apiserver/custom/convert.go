package custom

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"proa/api"
)

// converter turns objects of other versions of one kind into the given one. It
// may change what it gets, and gives back as many in the same order.
type converter func(ctx context.Context, objs []*unstructured.Unstructured, to schema.GroupVersion) ([]*unstructured.Unstructured, error)

// rename is the conversion "None": versions differ in name only.
func rename(_ context.Context, objs []*unstructured.Unstructured, to schema.GroupVersion) ([]*unstructured.Unstructured, error) {
	for _, u := range objs {
		u.SetAPIVersion(to.String())
	}
	return objs, nil
}

// show makes objects of the version of stored ones.
func (v *version) show(ctx context.Context, stored []api.Object) ([]api.Object, error) {
	objs := make([]*unstructured.Unstructured, len(stored))
	for i, obj := range stored {
		u, ok := obj.(*unstructured.Unstructured)
		if !ok {
			return nil, refuse(fmt.Errorf("%s holds a %T", v.def.name, obj))
		}
		u = u.DeepCopy()
		from, err := v.def.versionOf(u)
		if err == nil {
			_, err = from.coerce(u, leniency{stored: true})
		}
		if err == nil {
			err = from.fill(u)
		}
		if err != nil {
			return nil, refuse(err)
		}
		objs[i] = u
	}
	if err := v.receive(ctx, objs); err != nil {
		return nil, refuse(err)
	}
	out := make([]api.Object, len(objs))
	for i, u := range objs {
		out[i] = u
	}
	return out, nil
}

// receive converts in place those objects that are of another version, and
// coerces them.
func (v *version) receive(ctx context.Context, objs []*unstructured.Unstructured) error {
	var foreign []*unstructured.Unstructured
	var at []int
	for i, u := range objs {
		if u.GetAPIVersion() != v.gv().String() {
			foreign, at = append(foreign, u), append(at, i)
		}
	}
	if len(foreign) == 0 {
		return nil
	}
	converted, err := v.def.convert(ctx, foreign, v.gv())
	if err != nil {
		return err
	}
	for i, u := range converted {
		if _, err := v.coerce(u, leniency{}); err != nil {
			return err
		}
		objs[at[i]] = u
	}
	return nil
}

// keep makes the form to store of an object of the version.
func (v *version) keep(ctx context.Context, obj api.Object) (api.Object, error) {
	u, ok := obj.(*unstructured.Unstructured)
	if !ok {
		return nil, refuse(fmt.Errorf("%s cannot hold a %T", v.def.name, obj))
	}
	one := []*unstructured.Unstructured{u}
	if v.name == v.def.storage {
		_, err := v.coerce(u, leniency{})
		return u, refuse(err)
	}
	one[0] = u.DeepCopy()
	err := v.def.versions[v.def.storage].receive(ctx, one)
	return one[0], refuse(err)
}

// convertTo makes a copy of an object in another version, for managed fields.
func (d *definition) convertTo(obj api.Object, name string) (api.Object, error) {
	u, ok := obj.(*unstructured.Unstructured)
	if !ok {
		return nil, refuse(fmt.Errorf("%s cannot hold a %T", d.name, obj))
	}
	to, ok := d.versions[name]
	if !ok {
		return nil, fmt.Errorf("request to convert CR to an invalid group/version: %s", schema.GroupVersion{Group: d.group, Version: name})
	}
	u = u.DeepCopy()
	if u.GetAPIVersion() == to.gv().String() {
		return u, nil
	}
	if _, err := d.versionOf(u); err != nil {
		return nil, err
	}
	one := []*unstructured.Unstructured{u}
	if err := to.receive(context.Background(), one); err != nil {
		return nil, refuse(err)
	}
	return one[0], nil
}

func (d *definition) versionOf(u *unstructured.Unstructured) (*version, error) {
	gv := u.GroupVersionKind().GroupVersion()
	if v := d.versions[gv.Version]; v != nil && gv.Group == d.group {
		return v, nil
	}
	return nil, fmt.Errorf("request to convert CR from an invalid group/version: %s", gv)
}

// refuse is the answer to a request whose object cannot be brought into form:
// an internal error whose text is the cause alone, as upstream has it.
func refuse(err error) error {
	if err == nil {
		return nil
	}
	var known apierrors.APIStatus
	if errors.As(err, &known) {
		return err
	}
	if errors.Is(err, errOutOfTime) {
		return apierrors.NewTimeoutError("request did not complete within the requested timeout: "+err.Error(), 0)
	}
	return &apierrors.StatusError{ErrStatus: metav1.Status{
		Status: metav1.StatusFailure, Code: http.StatusInternalServerError, Message: err.Error(),
	}}
}
