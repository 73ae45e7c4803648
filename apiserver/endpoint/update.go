package endpoint

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"proa/api"
	"proa/apiserver/admission"
	"proa/store"
)

// successor makes the wished state from the stored one, which it must not
// change. It is called again when the stored one has moved on meanwhile.
type successor func(old api.Object) (api.Object, error)

// Update replaces an object, or a part of it through a subresource. The object is
// given away. With a resourceVersion it fails when the stored one differs.
func (e *Endpoint) Update(ctx context.Context, q Request, obj api.Object) (Result, error) {
	if err := checkNames(&q, obj); err != nil {
		return Result{}, err
	}
	next := func(api.Object) (api.Object, error) {
		if rv := obj.GetResourceVersion(); q.Served.Conditional && q.Subresource != "scale" && (rv == "" || rv == "0") {
			return nil, unconditional(q)
		}
		next := obj.DeepCopyObject().(api.Object)
		if q.Served.Default != nil {
			q.Served.Default(next)
		}
		return next, nil
	}
	res, err := e.modify(ctx, q, next)
	if apierrors.IsNotFound(err) && q.Subresource == "" && q.Served.AllowCreateOnUpdate && e.Store.Snapshot().Get(q.key()) == nil {
		if rv := obj.GetResourceVersion(); rv != "" && rv != "0" {
			return res, err
		}
		obj.SetResourceVersion("")
		return e.Create(ctx, q, obj)
	}
	return res, err
}

// unconditional refuses an update that does not say what it was made from.
func unconditional(q Request) error {
	at := field.NewPath("metadata", "resourceVersion")
	errs := field.ErrorList{field.Invalid(at, uint64(0), "must be specified for an update")}
	return apierrors.NewInvalid(schema.GroupKind{Group: q.Served.Group, Kind: q.Served.Plural}, q.Name, errs)
}

func checkNames(q *Request, obj api.Object) error {
	if err := checkNamespace(q, obj); err != nil {
		return err
	}
	if obj.GetName() == "" && q.Name != "" && q.Subresource != "" {
		obj.SetName(q.Name)
	}
	if obj.GetName() != q.Name {
		return apierrors.NewBadRequest(fmt.Sprintf("the name of the object (%s based on URL) was undeterminable or does not match: %s", q.Name, obj.GetName()))
	}
	return nil
}

// modify is the loop that every change of a stored object goes through.
func (e *Endpoint) modify(ctx context.Context, q Request, next successor) (Result, error) {
	for {
		res, err := e.modifyOnce(ctx, q, next)
		if !errors.Is(err, store.ErrConflict) {
			return res, err
		}
		if ctx.Err() != nil {
			return res, storeError(q, ctx.Err())
		}
	}
}

func (e *Endpoint) modifyOnce(ctx context.Context, q Request, next successor) (Result, error) {
	world, err := e.latest(ctx)
	if err != nil {
		return Result{}, err
	}
	rec, old, err := live(ctx, world, q)
	if err != nil {
		return Result{}, err
	}
	obj, err := next(old)
	if err != nil {
		return Result{}, err
	}
	if err := inherit(q, obj, old); err != nil {
		return Result{}, err
	}
	if obj, err = e.own(q, obj, old); err != nil {
		return Result{}, err
	}
	ar := e.admissionRequest(q, admission.Update, obj, old, world)
	if err := e.admitUpdate(ctx, q, ar); err != nil {
		return Result{}, err
	}
	defer ar.Done()
	return e.replace(ctx, q, rec, ar)
}

// inherit gives the new state what only the system writes, and refuses one that
// was made for another state.
func inherit(q Request, obj, old api.Object) error {
	if rv := obj.GetResourceVersion(); rv == "" || rv == "0" {
		obj.SetResourceVersion(old.GetResourceVersion())
	} else if rv != old.GetResourceVersion() {
		return q.modified()
	}
	if uid := obj.GetUID(); uid == "" {
		obj.SetUID(old.GetUID())
	} else if uid != old.GetUID() {
		return q.conflict("Precondition failed: UID in precondition: %v, UID in object meta: %v", uid, old.GetUID())
	}
	obj.SetCreationTimestamp(old.GetCreationTimestamp())
	obj.SetSelfLink("")
	if old.GetDeletionTimestamp() != nil {
		obj.SetDeletionTimestamp(old.GetDeletionTimestamp())
	}
	if obj.GetDeletionGracePeriodSeconds() == nil {
		obj.SetDeletionGracePeriodSeconds(old.GetDeletionGracePeriodSeconds())
	}
	obj.GetObjectKind().SetGroupVersionKind(q.Served.Resource.GVK())
	return nil
}

// own lets the endpoint take what it does not write from the old state, and notes
// in managedFields what the request's manager changed.
func (e *Endpoint) own(q Request, obj, old api.Object) (api.Object, error) {
	prepare, err := preparer(q)
	if err != nil {
		return nil, err
	}
	if prepare != nil {
		prepare(obj, old)
	}
	if q.applied {
		return obj, nil
	}
	if q.Manager == "" {
		obj.SetManagedFields(old.GetManagedFields())
		return obj, nil
	}
	obj, err = e.Fields.Update(q.Served, q.Subresource, old, obj, q.Manager)
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	return obj, nil
}

func preparer(q Request) (func(obj, old api.Object), error) {
	if q.Subresource == "" || q.Subresource == "scale" {
		return q.Served.PrepareUpdate, nil
	}
	sub := q.Served.Subresource(q.Subresource)
	if sub == nil {
		return nil, apierrors.NewNotFound(q.Served.GR(), q.Name)
	}
	return sub.PrepareUpdate, nil
}

func (e *Endpoint) admitUpdate(ctx context.Context, q Request, ar *admission.Request) error {
	if err := e.mutateNext(ctx, q, ar); err != nil {
		return err
	}
	if err := validateUpdate(q, ar.Object, ar.Old); err != nil {
		return err
	}
	if !q.admitted {
		if err := e.Admission.Validate(ctx, ar); err != nil {
			return err
		}
	}
	if !e.Admission.Finishes(ar) {
		return nil
	}
	if err := e.Admission.Finish(ctx, ar); err != nil {
		ar.Done()
		return err
	}
	return nil
}

// mutateNext lets admission change the new state. Where a webhook or a policy made
// another one of it, what this endpoint does not write is taken back again.
func (e *Endpoint) mutateNext(ctx context.Context, q Request, ar *admission.Request) error {
	if q.admitted {
		return nil
	}
	owners := ar.Object.GetManagedFields()
	if err := e.Admission.Mutate(ctx, ar); err != nil || !ar.Changed() {
		return err
	}
	obj := ar.Object
	if obj.GetNamespace() != ar.Old.GetNamespace() {
		return apierrors.NewBadRequest("the namespace of the provided object does not match the namespace sent on the request")
	}
	if obj.GetName() != ar.Old.GetName() {
		return invalid(q, obj, field.ErrorList{field.Invalid(field.NewPath("metadata", "name"), obj.GetName(), apivalidation.FieldImmutableErrorMsg)})
	}
	if err := inherit(q, obj, ar.Old); err != nil {
		return err
	}
	prepare, err := preparer(q)
	if err != nil {
		return err
	}
	if prepare != nil {
		prepare(obj, ar.Old)
	}
	obj.SetManagedFields(owners)
	return nil
}

func validateUpdate(q Request, obj, old api.Object) error {
	if err := tooMany(q, obj); err != nil {
		return err
	}
	whole := q.Subresource == "" || q.Subresource == "scale"
	if as := q.Served.As; whole && as != nil && as.Strict != nil {
		if errs := as.Strict(obj, old); len(errs) > 0 {
			return invalid(q, obj, errs)
		}
	}
	judge := q.Served.ValidateUpdate
	if sub := q.Served.Subresource(q.Subresource); sub != nil && !whole {
		judge = sub.ValidateUpdate
	}
	if c := q.Served.Custom; c != nil && c.Judge != nil {
		judge = func(obj, old api.Object) field.ErrorList { return c.Judge(obj, old, !whole, q.warn) }
	}
	if whole && q.Served.Validate != nil && !q.Served.Ratchets {
		errs := q.Served.Validate(obj)
		if judge != nil {
			errs = append(errs, judge(obj, old)...)
		}
		if len(errs) > 0 {
			return invalid(q, obj, errs)
		}
	} else if judge != nil {
		if errs := judge(obj, old); len(errs) > 0 {
			return invalid(q, obj, errs)
		}
	}
	if whole && q.Served.Warnings != nil {
		q.warn(q.Served.Warnings(obj, old)...)
	}
	return nil
}

// replace commits the new state. An update that changes nothing is not written;
// one that takes the last finalizer from a dying object removes it.
func (e *Endpoint) replace(ctx context.Context, q Request, rec *store.Record, ar *admission.Request) (Result, error) {
	if dies(ar.Object) {
		return e.remove(ctx, q, rec, ar.Object, ar.World)
	}
	obj, err := stored(ctx, q, ar.Object)
	if err != nil {
		return Result{}, internal(err)
	}
	data, err := e.encode(obj, q.key())
	if err != nil {
		return Result{}, apierrors.NewInternalError(err)
	}
	if len(ar.Writes()) == 0 && !rec.Stale() && (bytes.Equal(data, rec.Data()) || e.onlyTimes(obj, ar.Old, q.key(), rec)) {
		return q.result(rec, ar.Old), nil
	}
	if q.DryRun {
		return Result{object: ar.Object}, nil
	}
	write := store.Write{Key: q.key(), Object: obj, Expect: rec.Revision(), Data: data}
	records, err := e.Store.Commit(ctx, append([]store.Write{write}, ar.Writes()...)...)
	if errors.Is(err, store.ErrConflict) {
		return Result{}, err
	}
	if err != nil {
		return Result{}, storeError(q, err)
	}
	return q.result(records[0], ar.Object), nil
}

// onlyTimes tells whether nothing but the times in managedFields differs: such an
// update is not written either.
func (e *Endpoint) onlyTimes(obj, old api.Object, key store.Key, rec *store.Record) bool {
	now, was := obj.GetManagedFields(), old.GetManagedFields()
	if len(now) == 0 || !sameOwners(now, was) {
		return false
	}
	obj.SetManagedFields(was)
	defer obj.SetManagedFields(now)
	data, err := e.encode(obj, key)
	return err == nil && bytes.Equal(data, rec.Data())
}

// dies tells whether nothing holds a deleted object any more.
func dies(obj api.Object) bool {
	if obj.GetDeletionTimestamp() == nil || held(obj) {
		return false
	}
	grace := obj.GetDeletionGracePeriodSeconds()
	return grace == nil || *grace == 0
}

// held tells whether finalizers keep the object. A namespace has those of its
// spec besides.
func held(obj api.Object) bool {
	if ns, ok := obj.(*corev1.Namespace); ok && len(ns.Spec.Finalizers) > 0 {
		return true
	}
	return len(obj.GetFinalizers()) > 0
}
