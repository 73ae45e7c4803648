// Package protection keeps volumes and their claims while they are in use: a
// finalizer holds what is deleted until no pod uses the claim, no claim the
// volume, and neither a claim nor a volume an attributes class.
package protection

import (
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"

	"proa/api"
	"proa/api/usage"
	"proa/client"
	"proa/controllers/pods"
	"proa/reconcile"
)

// The finalizers, as published.
const (
	claimFinalizer  = "kubernetes.io/pvc-protection"
	volumeFinalizer = "kubernetes.io/pv-protection"
	classFinalizer  = "kubernetes.io/vac-protection"
)

// Claims protects claims that pods use.
func Claims() reconcile.Controller {
	row := client.Row[corev1.PersistentVolumeClaim]()
	return reconcile.Controller{
		Name: "persistentvolumeclaim-protection-controller",
		Watches: []reconcile.Watch{
			{Resource: row},
			{Resource: client.Row[corev1.Pod](), Keys: claimsOf},
		},
		Decide: func(v client.View, _ time.Time, key client.Key) reconcile.Plan {
			claim := client.Get[corev1.PersistentVolumeClaim](v, key.Namespace, key.Name)
			if claim == nil {
				return reconcile.Plan{}
			}
			return protect(claim, claimFinalizer, func() bool { return used(v, claim) })
		},
	}
}

// Volumes protects volumes that claims are bound to.
func Volumes() reconcile.Controller {
	return reconcile.Controller{
		Name:    "persistentvolume-protection-controller",
		Watches: []reconcile.Watch{{Resource: client.Row[corev1.PersistentVolume]()}},
		Decide: func(v client.View, _ time.Time, key client.Key) reconcile.Plan {
			volume := client.Get[corev1.PersistentVolume](v, "", key.Name)
			if volume == nil {
				return reconcile.Plan{}
			}
			return protect(volume, volumeFinalizer, func() bool { return volume.Status.Phase == corev1.VolumeBound })
		},
	}
}

// Classes protects attributes classes that claims or volumes name (KEP-3751).
func Classes() reconcile.Controller {
	return reconcile.Controller{
		Name: "volumeattributesclass-protection-controller",
		Watches: []reconcile.Watch{
			{Resource: client.Row[storagev1.VolumeAttributesClass]()},
			{Resource: client.Row[corev1.PersistentVolumeClaim](), Keys: classesLeft},
			{Resource: client.Row[corev1.PersistentVolume](), Keys: classesLeft},
		},
		Decide: func(v client.View, _ time.Time, key client.Key) reconcile.Plan {
			class := client.Get[storagev1.VolumeAttributesClass](v, "", key.Name)
			if class == nil {
				return reconcile.Plan{}
			}
			return protect(class, classFinalizer, func() bool { return named(v, class.Name) })
		},
	}
}

// classesLeft wakes the classes that a claim or volume does not name any more.
func classesLeft(_ client.View, e client.Event) (keys []client.Key) {
	if e.Old == nil {
		return nil
	}
	for _, name := range classesOf(e.Old) {
		if e.New == nil || !slices.Contains(classesOf(e.New), name) {
			keys = append(keys, client.Key{Name: name})
		}
	}
	return keys
}

// classesOf are the attributes classes that a claim or a volume names.
func classesOf(obj client.Object) []string {
	switch o := obj.(type) {
	case *corev1.PersistentVolume:
		if name := o.Spec.VolumeAttributesClassName; name != nil {
			return []string{*name}
		}
	case *corev1.PersistentVolumeClaim:
		return usage.AttributesClasses(o)
	}
	return nil
}

func named(v client.View, class string) bool {
	for _, row := range []*api.Resource{client.Row[corev1.PersistentVolume](), client.Row[corev1.PersistentVolumeClaim]()} {
		for obj := range v.List(row, "") {
			if slices.Contains(classesOf(obj), class) {
				return true
			}
		}
	}
	return false
}

// claimsOf wakes the claims of a pod that ends or goes; the others were looked
// at already or will be when they are deleted.
func claimsOf(_ client.View, e client.Event) []client.Key {
	p := e.Object().(*corev1.Pod)
	if e.New != nil && !pods.Finished(p) {
		return nil
	}
	var keys []client.Key
	for _, name := range claimNames(p) {
		keys = append(keys, client.Key{Namespace: p.Namespace, Name: name})
	}
	return keys
}

// claimNames are the claims that a pod's volumes name, those of its ephemeral
// volumes among them.
func claimNames(p *corev1.Pod) []string {
	var out []string
	for _, vol := range p.Spec.Volumes {
		switch {
		case vol.PersistentVolumeClaim != nil:
			out = append(out, vol.PersistentVolumeClaim.ClaimName)
		case vol.Ephemeral != nil:
			out = append(out, p.Name+"-"+vol.Name)
		}
	}
	return out
}

// used tells whether a pod that is on a node and has not ended uses the claim.
func used(v client.View, claim *corev1.PersistentVolumeClaim) bool {
	for p := range client.List[corev1.Pod](v, claim.Namespace) {
		if p.Spec.NodeName != "" && !pods.Finished(p) && slices.Contains(claimNames(p), claim.Name) {
			return true
		}
	}
	return false
}

// protect puts the finalizer on what lives, and takes it from what is deleted
// and not in use.
func protect(obj client.Object, finalizer string, inUse func() bool) reconcile.Plan {
	has, leaving := slices.Contains(obj.GetFinalizers(), finalizer), obj.GetDeletionTimestamp() != nil
	next := obj.DeepCopyObject().(client.Object)
	switch {
	case !leaving && !has:
		next.SetFinalizers(append(next.GetFinalizers(), finalizer))
	case leaving && has && !inUse():
		next.SetFinalizers(slices.DeleteFunc(next.GetFinalizers(), func(f string) bool { return f == finalizer }))
	default:
		return reconcile.Plan{}
	}
	return reconcile.Plan{Writes: []reconcile.Write{{Op: reconcile.Update, Object: next}}}
}
