package custom

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"proa/api"
	"proa/client"
	"proa/store"
)

const (
	// deleteWorkers is how many instances are deleted at once.
	deleteWorkers = 32
	// patience is how long instances may take to go before the definition says
	// that it waits for them.
	patience = time.Minute
)

// end takes a definition's instances away, and then the finalizer that holds it.
// It tries until it is done or ctx ends.
func (f *Follower) end(ctx context.Context, crd *apiextensionsv1.CustomResourceDefinition) error {
	for delay := time.Second; ctx.Err() == nil; delay = min(2*delay, time.Minute) {
		err := f.endOnce(ctx, crd)
		if err == nil {
			return nil
		}
		if ctx.Err() == nil {
			f.cfg.Log.Warn("a CustomResourceDefinition's instances could not be removed yet", "name", crd.Name, "err", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(delay):
		}
	}
	return nil
}

func (f *Follower) endOnce(ctx context.Context, crd *apiextensionsv1.CustomResourceDefinition) error {
	err := f.terminating(ctx, crd, apiextensionsv1.ConditionTrue, "InstanceDeletionInProgress", "CustomResource deletion is in progress", false)
	if err != nil {
		return gone(err)
	}
	reason, message := "NeverEstablished", "resource was never established"
	if isTrue(&crd.Status, apiextensionsv1.Established) {
		if err := f.deleteInstances(ctx, crd); err != nil {
			return err
		}
		reason, message = "InstanceDeletionCompleted", "removed all instances"
	}
	return gone(f.terminating(ctx, crd, apiextensionsv1.ConditionFalse, reason, message, true))
}

// gone is nil where the definition is not there any more.
func gone(err error) error {
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// terminating writes how far the removal is, on whatever the definition says
// meanwhile; done takes the finalizer away.
func (f *Follower) terminating(ctx context.Context, crd *apiextensionsv1.CustomResourceDefinition, status apiextensionsv1.ConditionStatus, reason, message string, done bool) error {
	row := f.cfg.Registry.ByKey(crdKey)
	for {
		obj, err := f.cfg.Client.Get(ctx, row, client.Key{Name: crd.Name})
		if err != nil {
			return err
		}
		next, ok := obj.DeepCopyObject().(*apiextensionsv1.CustomResourceDefinition)
		if !ok || next.UID != crd.UID {
			return apierrors.NewNotFound(row.GR(), crd.Name)
		}
		setCondition(&next.Status, crdCondition{Type: apiextensionsv1.Terminating, Status: status, Reason: reason, Message: message}, f.cfg.Now())
		if done {
			next.Finalizers = slices.DeleteFunc(next.Finalizers, func(s string) bool { return s == apiextensionsv1.CustomResourceCleanupFinalizer })
		}
		_, err = f.cfg.Client.Update(ctx, next, "status")
		if !apierrors.IsConflict(err) {
			return err
		}
	}
}

// deleteInstances deletes all there are and waits until none is left.
func (f *Follower) deleteInstances(ctx context.Context, crd *apiextensionsv1.CustomResourceDefinition) error {
	row := f.cfg.Registry.ByKey(crd.Spec.Group + "/" + crd.Status.AcceptedNames.Plural)
	if row == nil || row.Custom == nil {
		return errors.New("the resource is not served")
	}
	scope := store.Scope{Resource: row.Key()}
	world, w := f.cfg.Store.SnapshotAndWatch(scope)
	defer w.Close()
	if err := f.deleteAll(ctx, row, world); err != nil {
		_ = f.terminating(ctx, crd, apiextensionsv1.ConditionTrue, "InstanceDeletionFailed", fmt.Sprintf("could not issue all deletes: %v", err), false) // the deletes are tried again either way
		return err
	}
	timely, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for f.cfg.Store.Snapshot().Count(scope) > 0 {
		if _, _, err := w.Next(timely); errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
			text := "could not confirm zero CustomResources remaining: timed out waiting for the condition"
			_ = f.terminating(ctx, crd, apiextensionsv1.ConditionTrue, "InstanceDeletionCheck", text, false) // as above
			timely = ctx
		} else if err != nil {
			return err
		}
	}
	return nil
}

func (f *Follower) deleteAll(ctx context.Context, row *api.Resource, world store.Snapshot) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(deleteWorkers)
	for rec := range world.List(store.Scope{Resource: row.Key()}, store.Key{}) {
		key := client.Key{Namespace: rec.Key().Namespace, Name: rec.Key().Name}
		group.Go(func() error { return gone(f.cfg.Remover.Delete(ctx, row, key, metav1.DeleteOptions{})) })
	}
	return group.Wait()
}
