package volume

import (
	"time"

	corev1 "k8s.io/api/core/v1"
	volumehelper "k8s.io/component-helpers/storage/volume"

	"proa/client"
	"proa/reconcile"
)

// Expander tells who waits for a larger volume that somebody else has to make it
// so: whoever provisioned the volume. There is no kind of volume that the control
// plane could make larger itself.
func Expander() reconcile.Controller {
	return reconcile.Controller{
		Name:    "persistentvolume-expander-controller",
		Source:  "volume_expand",
		Watches: []reconcile.Watch{{Resource: client.Row[corev1.PersistentVolumeClaim](), Keys: grown}},
		Decide:  decideExpansion,
	}
}

// grown wakes a claim that asks for more than it did.
func grown(_ client.View, e client.Event) []client.Key {
	was, _ := e.Old.(*corev1.PersistentVolumeClaim)
	is, _ := e.New.(*corev1.PersistentVolumeClaim)
	if is == nil || was != nil && requested(is).Cmp(*requested(was)) <= 0 {
		return nil
	}
	return []client.Key{client.KeyOf(is)}
}

func decideExpansion(v client.View, _ time.Time, key client.Key) reconcile.Plan {
	claim := client.Get[corev1.PersistentVolumeClaim](v, key.Namespace, key.Name)
	if claim == nil || claim.DeletionTimestamp != nil || claim.Status.Phase != corev1.ClaimBound {
		return reconcile.Plan{}
	}
	pv := client.Get[corev1.PersistentVolume](v, "", claim.Spec.VolumeName)
	has := claim.Status.Capacity[corev1.ResourceStorage]
	if pv == nil || !volumehelper.IsVolumeBoundToClaim(pv, claim) || requested(claim).Cmp(has) <= 0 {
		return reconcile.Plan{}
	}
	return reconcile.Plan{Events: []reconcile.Event{
		reconcile.Normal(claim, "ExternalExpanding", "waiting for an external controller to expand this PVC")}}
}
