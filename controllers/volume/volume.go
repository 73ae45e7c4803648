// Package volume binds claims to volumes, and says what becomes of a volume
// whose claim is gone.
//
// A binding is two references: the volume's claimRef, written first, so that two
// claims cannot have one volume, and the claim's volumeName. Each decision makes
// the next write of those that are missing; whoever writes one of them first (a
// user, the scheduler, a provisioner) finds the rest done here.
package volume

import (
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	volumehelper "k8s.io/component-helpers/storage/volume"

	"proa/client"
	"proa/reconcile"
)

// Volumes says what phase a volume is in, and reclaims those that are released.
func Volumes() reconcile.Controller {
	return reconcile.Controller{
		Name:    "persistentvolume-controller",
		Workers: 2,
		Watches: []reconcile.Watch{
			{Resource: client.Row[corev1.PersistentVolume]()},
			{Resource: client.Row[corev1.PersistentVolumeClaim](), Keys: volumesOf},
		},
		Decide: decideVolume,
	}
}

// volumesOf wakes the volumes that name a claim or that a claim names.
func volumesOf(v client.View, e client.Event) []client.Key {
	claim := e.Object().(*corev1.PersistentVolumeClaim)
	var keys []client.Key
	for pv := range client.Index[corev1.PersistentVolume](v, "claim", claim.Namespace+"/"+claim.Name) {
		keys = append(keys, client.KeyOf(pv))
	}
	if name := claim.Spec.VolumeName; name != "" {
		keys = append(keys, client.Key{Name: name})
	}
	return keys
}

func decideVolume(v client.View, _ time.Time, key client.Key) reconcile.Plan {
	pv := client.Get[corev1.PersistentVolume](v, "", key.Name)
	if pv == nil {
		return reconcile.Plan{}
	}
	ref := pv.Spec.ClaimRef
	if ref == nil || ref.UID == "" { // free, or kept by a user for a claim to come
		return phase(pv, corev1.VolumeAvailable, "", nil)
	}
	claim := client.Get[corev1.PersistentVolumeClaim](v, ref.Namespace, ref.Name)
	if claim != nil && claim.UID != ref.UID {
		claim = nil
	}
	switch {
	case claim == nil:
		return release(pv)
	case claim.Spec.VolumeName == pv.Name:
		return phase(pv, corev1.VolumeBound, "", nil)
	case claim.Spec.VolumeName != "":
		return lost(pv)
	case volumehelper.CheckVolumeModeMismatches(&claim.Spec, &pv.Spec):
		message := fmt.Sprintf("Cannot bind PersistentVolume to requested PersistentVolumeClaim %q due to incompatible volumeMode.", claim.Name)
		return reconcile.Plan{Events: []reconcile.Event{reconcile.Warning(pv, "VolumeMismatch", message), reconcile.Warning(claim, "VolumeMismatch", message)}}
	}
	return reconcile.Plan{} // the claim's decision comes next
}

// phase writes a volume's phase where it differs; event is recorded then.
func phase(pv *corev1.PersistentVolume, to corev1.PersistentVolumePhase, message string, event *reconcile.Event) reconcile.Plan {
	if pv.Status.Phase == to && pv.Status.Message == message {
		return reconcile.Plan{}
	}
	next := pv.DeepCopy()
	next.Status.Phase, next.Status.Message = to, message
	plan := reconcile.Plan{Writes: []reconcile.Write{{Op: reconcile.Update, Object: next, Subresource: "status"}}}
	if event != nil {
		plan.Events = []reconcile.Event{*event}
	}
	return plan
}

// release is for a volume whose claim is gone. What was made by an external
// provisioner is deleted by it, when it sees the phase.
func release(pv *corev1.PersistentVolume) reconcile.Plan {
	if pv.Status.Phase != corev1.VolumeReleased && pv.Status.Phase != corev1.VolumeFailed {
		return phase(pv, corev1.VolumeReleased, "", nil)
	}
	if pv.DeletionTimestamp != nil {
		return reconcile.Plan{}
	}
	switch pv.Spec.PersistentVolumeReclaimPolicy {
	case corev1.PersistentVolumeReclaimRecycle:
		const message = "No recycler plugin found for the volume!"
		event := reconcile.Warning(pv, "VolumeFailedRecycle", message)
		return phase(pv, corev1.VolumeFailed, message, &event)
	case corev1.PersistentVolumeReclaimDelete:
		if pv.Annotations[volumehelper.AnnDynamicallyProvisioned] != "" || pv.Spec.CSI != nil {
			return reconcile.Plan{}
		}
		message := fmt.Sprintf("error getting deleter volume plugin for volume %q: no deletable volume plugin matched", pv.Name)
		event := reconcile.Warning(pv, "VolumeFailedDelete", message)
		return phase(pv, corev1.VolumeFailed, message, &event)
	}
	return reconcile.Plan{}
}

// lost is for a volume that waits for a claim which was bound to another volume
// meanwhile: what was provisioned for it goes, what was found for it is free
// again, what a user reserved stays reserved.
func lost(pv *corev1.PersistentVolume) reconcile.Plan {
	if pv.Annotations[volumehelper.AnnDynamicallyProvisioned] != "" && pv.Spec.PersistentVolumeReclaimPolicy == corev1.PersistentVolumeReclaimDelete {
		return release(pv)
	}
	next := pv.DeepCopy()
	if _, ours := pv.Annotations[volumehelper.AnnBoundByController]; ours {
		next.Spec.ClaimRef = nil
		delete(next.Annotations, volumehelper.AnnBoundByController)
	} else {
		next.Spec.ClaimRef.UID = ""
	}
	return reconcile.Plan{Writes: []reconcile.Write{{Op: reconcile.Update, Object: next}}}
}
