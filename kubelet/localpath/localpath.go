// Package localpath makes volumes of directories on its node: the provisioner of
// the storage class that a cluster begins with.
//
// A claim of the class gets a volume when the scheduler has chosen this node for
// the pod that uses it; the volume can be used on this node only, and its size is
// a wish, not a limit, so it grows as soon as its claim does. When the claim is gone and the volume says Delete, the
// directory goes with everything in it, and then the volume.
package localpath

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	volumehelper "k8s.io/component-helpers/storage/volume"

	"proa/client"
	"proa/reconcile"
)

// Name is the provisioner's name, ClassName its class's.
const (
	Name      = "proa/local-path"
	ClassName = "local-path"
)

// again is how long after a failure a directory is removed again.
const again = time.Minute

// Class is the storage class of claims that name none.
func Class() *storagev1.StorageClass {
	wait, policy, grows := storagev1.VolumeBindingWaitForFirstConsumer, corev1.PersistentVolumeReclaimDelete, true
	return &storagev1.StorageClass{
		ObjectMeta:  metav1.ObjectMeta{Name: ClassName, Annotations: map[string]string{"storageclass.kubernetes.io/is-default-class": "true"}},
		Provisioner: Name, VolumeBindingMode: &wait, ReclaimPolicy: &policy, AllowVolumeExpansion: &grows,
	}
}

// Config is what Run needs.
type Config struct {
	Client   client.Client
	NodeName string
	// Dir is where the volumes' directories are made.
	Dir string
	Log *slog.Logger
}

// Run serves the claims and volumes of this node until ctx ends.
func Run(ctx context.Context, c Config) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return reconcile.Run(ctx, c.Client, c.Log, c.provisioner()) })
	group.Go(func() error { return c.reclaim(ctx) })
	return group.Wait()
}

// provisioner decides which claims get a volume here.
func (c Config) provisioner() reconcile.Controller {
	return reconcile.Controller{
		Name:    Name,
		Watches: []reconcile.Watch{{Resource: client.Row[corev1.PersistentVolumeClaim]()}, {Resource: client.Row[corev1.PersistentVolume](), Keys: claimOf}},
		Decide: func(v client.View, _ time.Time, key client.Key) reconcile.Plan {
			claim := client.Get[corev1.PersistentVolumeClaim](v, key.Namespace, key.Name)
			switch {
			case claim == nil || claim.DeletionTimestamp != nil:
				return reconcile.Plan{}
			case claim.Spec.VolumeName != "":
				return c.grow(v, claim)
			case claim.Annotations[volumehelper.AnnStorageProvisioner] != Name || claim.Annotations[volumehelper.AnnSelectedNode] != c.NodeName:
				return reconcile.Plan{}
			}
			class := client.Get[storagev1.StorageClass](v, "", volumehelper.GetPersistentVolumeClaimClass(claim))
			if class == nil || client.Get[corev1.PersistentVolume](v, "", nameFor(claim)) != nil {
				return reconcile.Plan{}
			}
			return c.decide(claim, class)
		},
	}
}

// claimOf wakes the claim of a volume.
func claimOf(_ client.View, e client.Event) []client.Key {
	pv, _ := e.New.(*corev1.PersistentVolume)
	if pv == nil || pv.Spec.ClaimRef == nil {
		return nil
	}
	return []client.Key{{Namespace: pv.Spec.ClaimRef.Namespace, Name: pv.Spec.ClaimRef.Name}}
}

func nameFor(claim *corev1.PersistentVolumeClaim) string { return "pvc-" + string(claim.UID) }

func (c Config) decide(claim *corev1.PersistentVolumeClaim, class *storagev1.StorageClass) reconcile.Plan {
	if m := claim.Spec.VolumeMode; m != nil && *m == corev1.PersistentVolumeBlock {
		return reconcile.Plan{Events: []reconcile.Event{reconcile.Warning(claim, "ProvisioningFailed", "a directory cannot be a block volume")}}
	}
	pv := c.volume(claim, class)
	return reconcile.Plan{Writes: []reconcile.Write{{
		Op: reconcile.Create, Object: pv,
		OnDone: func(client.Object) []reconcile.Event {
			return []reconcile.Event{reconcile.Normal(claim, "ProvisioningSucceeded", "Successfully provisioned volume "+pv.Name)}
		},
		OnError: func(err error) reconcile.Plan {
			return reconcile.Plan{Events: []reconcile.Event{reconcile.Warning(claim, "ProvisioningFailed", err.Error())}}
		},
	}}}
}

// grow makes a volume of this node as large as its claim asks for by now, and then
// says so in the claim.
func (c Config) grow(v client.View, claim *corev1.PersistentVolumeClaim) reconcile.Plan {
	pv := client.Get[corev1.PersistentVolume](v, "", claim.Spec.VolumeName)
	if pv == nil || claim.Status.Phase != corev1.ClaimBound || !c.ours(pv) || !volumehelper.IsVolumeBoundToClaim(pv, claim) {
		return reconcile.Plan{}
	}
	want, has, told := claim.Spec.Resources.Requests[corev1.ResourceStorage], pv.Spec.Capacity[corev1.ResourceStorage], claim.Status.Capacity[corev1.ResourceStorage]
	switch {
	case want.Cmp(told) <= 0:
		return reconcile.Plan{}
	case want.Cmp(has) > 0:
		next := pv.DeepCopy()
		next.Spec.Capacity[corev1.ResourceStorage] = want
		return reconcile.Plan{Writes: []reconcile.Write{{Op: reconcile.Update, Object: next}}}
	}
	next := claim.DeepCopy()
	next.Status.Capacity[corev1.ResourceStorage] = want
	next.Status.AllocatedResources = corev1.ResourceList{corev1.ResourceStorage: want}
	return reconcile.Plan{
		Writes: []reconcile.Write{{Op: reconcile.Update, Object: next, Subresource: "status"}},
		Events: []reconcile.Event{reconcile.Normal(claim, "VolumeResizeSuccessful", "Resize volume succeeded")},
	}
}

func (c Config) volume(claim *corev1.PersistentVolumeClaim, class *storagev1.StorageClass) *corev1.PersistentVolume {
	policy := corev1.PersistentVolumeReclaimDelete
	if class.ReclaimPolicy != nil {
		policy = *class.ReclaimPolicy
	}
	make := corev1.HostPathDirectoryOrCreate
	return &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: nameFor(claim), Annotations: map[string]string{volumehelper.AnnDynamicallyProvisioned: Name}},
		Spec: corev1.PersistentVolumeSpec{
			AccessModes: claim.Spec.AccessModes, StorageClassName: class.Name, PersistentVolumeReclaimPolicy: policy, MountOptions: class.MountOptions,
			Capacity: corev1.ResourceList{corev1.ResourceStorage: claim.Spec.Resources.Requests[corev1.ResourceStorage]},
			ClaimRef: &corev1.ObjectReference{Kind: "PersistentVolumeClaim", APIVersion: "v1", Namespace: claim.Namespace, Name: claim.Name, UID: claim.UID},
			NodeAffinity: &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
				MatchExpressions: []corev1.NodeSelectorRequirement{{Key: corev1.LabelHostname, Operator: corev1.NodeSelectorOpIn, Values: []string{c.NodeName}}}}}}},
			PersistentVolumeSource: corev1.PersistentVolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: filepath.Join(c.Dir, nameFor(claim)), Type: &make}},
		},
	}
}

// reclaim removes the directories of volumes that are released.
func (c Config) reclaim(ctx context.Context) error {
	view, stream, err := c.Client.Watch(ctx, client.All[corev1.PersistentVolume]())
	if err != nil {
		return err
	}
	defer stream.Close()
	for ctx.Err() == nil {
		wait, done := ctx, context.CancelFunc(func() {})
		if c.sweep(ctx, view) {
			wait, done = context.WithTimeout(ctx, again)
		}
		_, next, err := stream.Next(wait)
		late := errors.Is(wait.Err(), context.DeadlineExceeded)
		done()
		switch {
		case err == nil:
			view = next
		case ctx.Err() == nil && !late:
			return err
		}
	}
	return nil
}

// sweep looks at every volume and tells whether some could not be removed.
func (c Config) sweep(ctx context.Context, view client.View) (failed bool) {
	for pv := range client.List[corev1.PersistentVolume](view, "") {
		if !c.released(pv) {
			continue
		}
		if err := c.remove(ctx, pv); err != nil && ctx.Err() == nil {
			c.Log.Warn("a released volume stays", "volume", pv.Name, "error", err)
			failed = true
		}
	}
	return failed
}

// released tells a volume of this node whose directory is to go. Only what this
// package has made, under its own name in its own directory, is ever removed.
func (c Config) released(pv *corev1.PersistentVolume) bool {
	return pv.Status.Phase == corev1.VolumeReleased && pv.Spec.PersistentVolumeReclaimPolicy == corev1.PersistentVolumeReclaimDelete && c.ours(pv)
}

// ours tells a volume that this package has made on this node.
func (c Config) ours(pv *corev1.PersistentVolume) bool {
	return pv.Annotations[volumehelper.AnnDynamicallyProvisioned] == Name &&
		pv.Spec.HostPath != nil && filepath.Base(pv.Name) == pv.Name && pv.Spec.HostPath.Path == filepath.Join(c.Dir, pv.Name)
}

func (c Config) remove(ctx context.Context, pv *corev1.PersistentVolume) error {
	if err := os.RemoveAll(pv.Spec.HostPath.Path); err != nil {
		return fmt.Errorf("removing the directory: %w", err)
	}
	uid := pv.UID
	return c.Client.Delete(ctx, client.Row[corev1.PersistentVolume](), client.KeyOf(pv), metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &uid}})
}
