package endpoint

import (
	"context"
	"errors"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"proa/api"
	"proa/apiserver/admission"
	"proa/store"
)

// deleteWorkers is how many objects of a collection are deleted at once; the
// store commits them together.
const deleteWorkers = 32

// Delete removes an object, or marks it where a grace period or finalizers hold
// it.
func (e *Endpoint) Delete(ctx context.Context, q Request, opts metav1.DeleteOptions) (Result, error) {
	if errs := metavalidation.ValidateDeleteOptions(&opts); len(errs) > 0 {
		return Result{}, apierrors.NewInvalid(schema.GroupKind{Group: metav1.GroupName, Kind: "DeleteOptions"}, "", errs)
	}
	for {
		res, err := e.deleteOnce(ctx, q, opts)
		if !errors.Is(err, store.ErrConflict) {
			return res, err
		}
		if ctx.Err() != nil {
			return res, storeError(q, ctx.Err())
		}
	}
}

func (e *Endpoint) deleteOnce(ctx context.Context, q Request, opts metav1.DeleteOptions) (Result, error) {
	world, err := e.latest(ctx)
	if err != nil {
		return Result{}, err
	}
	rec, old, err := live(ctx, world, q)
	if err != nil {
		return Result{}, err
	}
	if err := checkPreconditions(q, old, opts.Preconditions); err != nil {
		return Result{}, err
	}
	ar := e.admissionRequest(q, admission.Delete, nil, old, world)
	if !q.admitted {
		opts.TypeMeta = metav1.TypeMeta{APIVersion: "meta.k8s.io/v1", Kind: "DeleteOptions"}
		ar.Options = &opts
		if err := e.Admission.Mutate(ctx, ar); err != nil {
			return Result{}, err
		}
		if err := e.Admission.Validate(ctx, ar); err != nil {
			return Result{}, err
		}
	}
	obj := markDeleted(q.Served.Resource, old, opts, e.Now())
	if obj == nil {
		return Result{Record: rec}, nil
	}
	if dies(obj) {
		return e.remove(ctx, q, rec, obj, world)
	}
	ar = e.admissionRequest(q, admission.Update, obj, old, world)
	return e.replace(ctx, q, rec, ar)
}

func checkPreconditions(q Request, obj api.Object, p *metav1.Preconditions) error {
	if p == nil {
		return nil
	}
	if p.UID != nil && *p.UID != obj.GetUID() {
		return q.conflict("Precondition failed: UID in precondition: %v, UID in object meta: %v", *p.UID, obj.GetUID())
	}
	if p.ResourceVersion != nil && *p.ResourceVersion != obj.GetResourceVersion() {
		return q.conflict("Precondition failed: ResourceVersion in precondition: %v, ResourceVersion in object meta: %v", *p.ResourceVersion, obj.GetResourceVersion())
	}
	return nil
}

// markDeleted decides what a delete makes of an object: its state on the way out
// (see dies for whether anything still holds it), or nil where it is already on
// the way out and this request asks for nothing sooner.
func markDeleted(row *api.Resource, old api.Object, opts metav1.DeleteOptions, now time.Time) api.Object {
	obj := old.DeepCopyObject().(api.Object)
	obj.SetFinalizers(deletionFinalizers(row, old, opts))
	grace, stays := int64(0), false
	if row.Graceful != nil {
		grace, stays = row.Graceful(old, opts.GracePeriodSeconds)
	}
	if !stays {
		grace = 0
	}
	if was := old.GetDeletionTimestamp(); was != nil {
		left := old.GetDeletionGracePeriodSeconds()
		if left == nil || grace >= *left {
			if slices.Equal(obj.GetFinalizers(), old.GetFinalizers()) && (stays || held(obj)) {
				return nil
			}
			grace = min(grace, deref(left))
		}
		at := metav1.NewTime(was.Add(-time.Duration(deref(left)-grace) * time.Second))
		obj.SetDeletionTimestamp(&at)
		obj.SetDeletionGracePeriodSeconds(&grace)
		return obj
	}
	at := metav1.NewTime(now.Add(time.Duration(grace) * time.Second)).Rfc3339Copy()
	obj.SetDeletionTimestamp(&at)
	obj.SetDeletionGracePeriodSeconds(&grace)
	if obj.GetGeneration() > 0 {
		obj.SetGeneration(obj.GetGeneration() + 1)
	}
	if row.Deleting != nil {
		row.Deleting(obj)
	}
	return obj
}

func deref(p *int64) int64 {
	if p == nil {
		return 0
	}
	return *p
}

// deletionFinalizers are the object's finalizers with those of the propagation
// policy that holds: the request's, else what the finalizers already say, else
// the kind's.
func deletionFinalizers(row *api.Resource, obj api.Object, opts metav1.DeleteOptions) []string {
	out := slices.Clone(obj.GetFinalizers())
	has := func(f string) bool { return slices.Contains(obj.GetFinalizers(), f) }
	policy := metav1.DeletionPropagation("")
	switch {
	case opts.PropagationPolicy != nil:
		policy = *opts.PropagationPolicy
	case opts.OrphanDependents != nil && *opts.OrphanDependents:
		policy = metav1.DeletePropagationOrphan
	case opts.OrphanDependents != nil:
		policy = metav1.DeletePropagationBackground
	case has(metav1.FinalizerOrphanDependents), has(metav1.FinalizerDeleteDependents):
		return out
	default:
		policy = row.DefaultPropagation
	}
	out = slices.DeleteFunc(out, func(f string) bool {
		return f == metav1.FinalizerOrphanDependents || f == metav1.FinalizerDeleteDependents
	})
	switch policy {
	case metav1.DeletePropagationOrphan:
		out = append(out, metav1.FinalizerOrphanDependents)
	case metav1.DeletePropagationForeground:
		out = append(out, metav1.FinalizerDeleteDependents)
	}
	return out
}

// remove takes the object out of the store. last is what it was in the end.
func (e *Endpoint) remove(ctx context.Context, q Request, rec *store.Record, last api.Object, world store.Snapshot) (Result, error) {
	if q.DryRun {
		return Result{object: last, Deleted: true}, nil
	}
	ar := e.admissionRequest(q, admission.Delete, nil, last, world)
	ar.Subresource = ""
	defer ar.Done()
	if e.Admission.Finishes(ar) {
		if err := e.Admission.Finish(ctx, ar); err != nil {
			return Result{}, err
		}
	}
	writes := append([]store.Write{{Key: q.key(), Expect: rec.Revision()}}, ar.Writes()...)
	_, err := e.Store.Commit(ctx, writes...)
	if errors.Is(err, store.ErrConflict) {
		return Result{}, err
	}
	if err != nil {
		return Result{}, storeError(q, err)
	}
	return Result{object: last, Deleted: true}, nil
}

// DeleteCollection deletes what a list would show and returns the list as it was.
func (e *Endpoint) DeleteCollection(ctx context.Context, q Request, list ListOptions, opts metav1.DeleteOptions) (List, error) {
	found, err := e.List(ctx, q, list)
	if err != nil {
		return List{}, err
	}
	group, gctx := errgroup.WithContext(ctx)
	group.SetLimit(deleteWorkers)
	for _, rec := range found.Records {
		if gctx.Err() != nil {
			break // the client went, its time is up, or one could not be deleted
		}
		one := q
		one.Namespace, one.Name = rec.Key().Namespace, rec.Key().Name
		group.Go(func() error {
			_, err := e.Delete(gctx, one, *opts.DeepCopy())
			if apierrors.IsNotFound(err) {
				return nil
			}
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return found, err
	}
	return found, storeError(q, ctx.Err())
}
