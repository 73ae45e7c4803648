package endpoint

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/mergepatch"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	kjson "sigs.k8s.io/json"
	"sigs.k8s.io/yaml"

	"proa/api"
	"proa/apiserver/codec"
	"proa/apiserver/fieldmanager"
	"proa/apiserver/jsonpatch"
)

// Patch is a patch as the client sent it. For apply, Data is YAML or JSON.
type Patch struct {
	Type  types.PatchType
	Data  []byte
	Force bool
	// Named says that the client chose the field manager itself.
	Named bool
}

// Patch changes an object, or a part of it through a subresource. Apply makes it
// where there is none.
func (e *Endpoint) Patch(ctx context.Context, q Request, p Patch) (Result, error) {
	if err := validatePatchOptions(q, p); err != nil {
		return Result{}, err
	}
	if sub := q.Served.Subresource(q.Subresource); sub != nil && sub.Scale != nil {
		return e.patchScale(ctx, q, p)
	}
	switch p.Type {
	case types.ApplyYAMLPatchType, types.ApplyCBORPatchType:
		return e.apply(ctx, q, p)
	}
	if !json.Valid(p.Data) {
		return Result{}, apierrors.NewBadRequest("invalid JSON patch")
	}
	return e.modify(ctx, q, func(old api.Object) (api.Object, error) {
		shown, err := codec.FromStorage(q.Served, old) // live has done it for custom resources
		if err != nil {
			return nil, apierrors.NewInternalError(err)
		}
		next, err := patchObject(q, shown, p)
		if err != nil {
			return nil, err
		}
		if n := next.GetName(); n != q.Name {
			return nil, otherName(q, n)
		}
		return toStorage(q, next)
	})
}

func toStorage(q Request, obj api.Object) (api.Object, error) {
	out, err := codec.ToStorage(q.Served, obj)
	if err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	if q.Served.Default != nil {
		q.Served.Default(out)
	}
	return out, nil
}

func validatePatchOptions(q Request, p Patch) error {
	opts := &metav1.PatchOptions{FieldValidation: q.Validation}
	if p.Named {
		opts.FieldManager = q.Manager
	}
	if p.Force {
		opts.Force = &p.Force
	}
	if errs := metavalidation.ValidatePatchOptions(opts, p.Type); len(errs) > 0 {
		return apierrors.NewInvalid(schema.GroupKind{Group: metav1.GroupName, Kind: "PatchOptions"}, "", errs)
	}
	return nil
}

// patchObject applies a JSON, merge or strategic merge patch to an object of the
// served version and returns a new one.
func patchObject(q Request, old api.Object, p Patch) (api.Object, error) {
	before, err := json.Marshal(old)
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	after, err := patchJSON(before, old, p)
	if err != nil {
		return nil, err
	}
	next := newLike(q, old)
	strict, err := codec.Decode(codec.JSON, after, next, old.GetObjectKind().GroupVersionKind(), q.Validation != metav1.FieldValidationIgnore)
	if err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	unknown, err := coerce(q, next)
	if err != nil {
		return nil, err
	}
	strict = append(append(duplicates(p), strict...), unknown...)
	return next, judgeStrict(q, old.GetObjectKind().GroupVersionKind(), strict)
}

// coerce brings a custom resource's object into its schema's form; what was
// unknown is for judgeStrict.
func coerce(q Request, obj api.Object) ([]error, error) {
	if _, own := obj.(*unstructured.Unstructured); !own || q.Served.Custom == nil {
		return nil, nil
	}
	unknown, err := q.Served.Custom.Coerce(obj, q.Validation != metav1.FieldValidationIgnore)
	if err != nil {
		return nil, apierrors.NewBadRequest(codec.NotOfKind(q.Served.GVK(), err).Error())
	}
	return unknown, nil
}

func newLike(q Request, old api.Object) api.Object {
	if q.Served.As != nil && old.GetObjectKind().GroupVersionKind() == q.Served.GVK() {
		return q.Served.As.New()
	}
	if old.GetObjectKind().GroupVersionKind() == q.Served.Resource.GVK() {
		return q.Served.Resource.New()
	}
	return zeroOf(old)
}

// judgeStrict answers duplicate and unknown fields as field validation says.
func judgeStrict(q Request, gvk schema.GroupVersionKind, strict []error) error {
	if len(strict) == 0 || q.Validation == metav1.FieldValidationIgnore {
		return nil
	}
	if q.Validation == metav1.FieldValidationStrict {
		return apierrors.NewBadRequest(codec.StrictError(gvk, strict).Error())
	}
	for _, err := range strict {
		q.warn(err.Error())
	}
	return nil
}

func duplicates(p Patch) []error {
	if p.Type == types.JSONPatchType {
		return nil
	}
	var content map[string]any
	strict, err := kjson.UnmarshalStrict(p.Data, &content, kjson.DisallowDuplicateFields)
	if err != nil {
		return nil
	}
	return strict
}

func patchJSON(before []byte, old api.Object, p Patch) ([]byte, error) {
	switch p.Type {
	case types.JSONPatchType:
		return applyJSONPatch(before, p.Data)
	case types.MergePatchType:
		after, err := jsonpatch.Merge(before, p.Data)
		return after, badPatch(err)
	case types.StrategicMergePatchType:
		if _, custom := old.(*unstructured.Unstructured); custom {
			break
		}
		return applyStrategicPatch(before, old, p.Data)
	}
	return nil, unsupportedPatch(p.Type)
}

func unsupportedPatch(t types.PatchType) error {
	err := apierrors.NewGenericServerResponse(http.StatusUnsupportedMediaType, "patch", schema.GroupResource{}, "",
		fmt.Sprintf("the body of the request was in an unknown format - %s is not a patch type of this resource", t), 0, false)
	err.ErrStatus.Reason = metav1.StatusReasonUnsupportedMediaType
	return err
}

func applyJSONPatch(before, data []byte) ([]byte, error) {
	patch, err := jsonpatch.Decode(data)
	if err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	after, err := patch.Apply(before)
	switch {
	case errors.Is(err, jsonpatch.ErrTooLarge):
		return nil, apierrors.NewRequestEntityTooLargeError(err.Error())
	case err != nil:
		return nil, apierrors.NewGenericServerResponse(http.StatusUnprocessableEntity, "", schema.GroupResource{}, "", err.Error(), 0, false)
	}
	return after, nil
}

// wideFrom is the size in bytes from which a strategic merge patch may have lists
// so long that merging them takes too long.
const wideFrom = 64 << 10

func applyStrategicPatch(before []byte, old api.Object, data []byte) ([]byte, error) {
	if len(data) >= wideFrom {
		var content map[string]any
		if err := kjson.UnmarshalCaseSensitivePreserveInts(data, &content); err != nil {
			return nil, apierrors.NewBadRequest(err.Error())
		}
		if fieldmanager.TooWide(content) {
			return nil, apierrors.NewRequestEntityTooLargeError("the lists of a strategic merge patch may have some 10000 entries")
		}
	}
	after, err := strategicpatch.StrategicMergePatch(before, data, old)
	return after, badStrategicPatch(err)
}

func badPatch(err error) error {
	if err == nil {
		return nil
	}
	return apierrors.NewBadRequest(err.Error())
}

func badStrategicPatch(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, mergepatch.ErrBadJSONDoc), errors.Is(err, mergepatch.ErrBadPatchFormatForPrimitiveList),
		errors.Is(err, mergepatch.ErrBadPatchFormatForRetainKeys), errors.Is(err, mergepatch.ErrBadPatchFormatForSetElementOrderList),
		errors.Is(err, mergepatch.ErrUnsupportedStrategicMergePatchFormat):
		return apierrors.NewBadRequest(err.Error())
	case errors.Is(err, mergepatch.ErrNoListOfLists):
		return apierrors.NewGenericServerResponse(http.StatusUnprocessableEntity, "", schema.GroupResource{}, "", err.Error(), 0, false)
	}
	return apierrors.NewBadRequest(err.Error())
}

// apply merges what the manager intends (KEP-555).
func (e *Endpoint) apply(ctx context.Context, q Request, p Patch) (Result, error) {
	intent, err := decodeIntent(q, p)
	if err != nil {
		return Result{}, err
	}
	for {
		res, err := e.applyOnce(ctx, q, p, intent)
		// Somebody made it or removed it between the look and the write.
		lost := apierrors.IsNotFound(err) && q.Subresource == "" || apierrors.IsAlreadyExists(err)
		if !lost || ctx.Err() != nil {
			return res, err
		}
		if world := e.Store.Snapshot(); apierrors.IsNotFound(err) && world.Get(q.key()) == nil && !e.canCreate(q, err) {
			return res, err
		}
	}
}

// canCreate tells a lost race from a namespace that is not there.
func (e *Endpoint) canCreate(q Request, err error) bool {
	var s apierrors.APIStatus
	return errors.As(err, &s) && s.Status().Details != nil && s.Status().Details.Kind == q.Served.Plural
}

func (e *Endpoint) applyOnce(ctx context.Context, q Request, p Patch, intent *unstructured.Unstructured) (Result, error) {
	merge := func(live api.Object) (api.Object, error) {
		out, err := e.Fields.Apply(q.Served, q.Subresource, live, intent.DeepCopy(), q.Manager, p.Force)
		if err == nil && out == nil {
			out = live.DeepCopyObject().(api.Object)
		}
		return out, err
	}
	q.applied = true
	if e.Store.Snapshot().Get(q.key()) != nil || q.Subresource != "" {
		return e.modify(ctx, q, merge)
	}
	obj, err := merge(emptyLike(q.Served))
	if err != nil {
		return Result{}, err
	}
	if obj.GetUID() != "" {
		return Result{}, q.conflict("uid mismatch: the provided object specified uid %s, and no existing object was found", obj.GetUID())
	}
	return e.Create(ctx, q, obj)
}

func decodeIntent(q Request, p Patch) (*unstructured.Unstructured, error) {
	f := codec.YAML
	if p.Type == types.ApplyCBORPatchType {
		f = codec.CBOR
	}
	if err := codec.CheckNumbers(q.Served.New(), p.Data); err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	u := &unstructured.Unstructured{}
	if f == codec.YAML {
		if err := yaml.Unmarshal(p.Data, &u.Object); err != nil {
			return nil, apierrors.NewBadRequest(fmt.Sprintf("error decoding YAML: %v", err))
		}
		if err := yaml.UnmarshalStrict(p.Data, &map[string]any{}); err != nil {
			if err := judgeStrict(q, q.Served.GVK(), []error{err}); err != nil {
				return nil, err
			}
		}
		if err := normaliseNumbers(u); err != nil {
			return nil, err
		}
	} else if _, err := codec.Decode(f, p.Data, u, q.Served.GVK(), false); err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	return u, checkIntent(q, u)
}

func otherName(q Request, name string) error {
	return apierrors.NewBadRequest(fmt.Sprintf("the name of the object (%s) does not match the name on the URL (%s)", name, q.Name))
}

// normaliseNumbers reads the document again through JSON, so that integers are
// int64 as everywhere.
func normaliseNumbers(u *unstructured.Unstructured) error {
	data, err := json.Marshal(u.Object)
	if err == nil {
		u.Object = nil
		err = kjson.UnmarshalCaseSensitivePreserveInts(data, &u.Object)
	}
	if err != nil || u.Object == nil {
		return apierrors.NewBadRequest("the applied configuration is not an object")
	}
	return nil
}

func checkIntent(q Request, u *unstructured.Unstructured) error {
	if u.GetAPIVersion() == "" || u.GetKind() == "" {
		return apierrors.NewBadRequest("invalid object type: apiVersion and kind must be set")
	}
	if k := u.GetKind(); k != q.Served.GVK().Kind {
		return apierrors.NewBadRequest(fmt.Sprintf("the kind in the data (%s) does not match the expected kind (%s)", k, q.Served.GVK().Kind))
	}
	if n := u.GetName(); n != "" && n != q.Name {
		return otherName(q, n)
	}
	u.SetName(q.Name)
	if ns := u.GetNamespace(); ns != "" && ns != q.Namespace {
		return apierrors.NewBadRequest(fmt.Sprintf("the namespace of the provided object does not match the namespace sent on the request (%s, %s)", ns, q.Namespace))
	}
	if q.Namespace != "" {
		u.SetNamespace(q.Namespace)
	}
	return nil
}

// sameOwners tells whether managedFields differ in their times at most.
func sameOwners(a, b []metav1.ManagedFieldsEntry) bool {
	return slices.EqualFunc(a, b, func(x, y metav1.ManagedFieldsEntry) bool {
		same := x.Manager == y.Manager && x.Operation == y.Operation && x.APIVersion == y.APIVersion && x.Subresource == y.Subresource
		return same && fieldsText(x) == fieldsText(y)
	})
}

func fieldsText(e metav1.ManagedFieldsEntry) string {
	if e.FieldsV1 == nil {
		return ""
	}
	return string(e.FieldsV1.Raw)
}
