package volume

import (
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/resource"
	volumehelper "k8s.io/component-helpers/storage/volume"

	"proa/api"
	"proa/client"
	"proa/reconcile"
)

// Claims finds a volume for a claim, or has one made.
func Claims() reconcile.Controller {
	return reconcile.Controller{
		Name:    "persistentvolume-binder",
		Source:  "persistentvolume-controller",
		Workers: 4,
		Watches: []reconcile.Watch{
			{Resource: client.Row[corev1.PersistentVolumeClaim]()},
			{Resource: client.Row[corev1.PersistentVolume](), Keys: claimsOf},
			{Resource: client.Row[storagev1.StorageClass](), Keys: claimsOfClass},
		},
		Decide: decideClaim,
	}
}

// claimsOf wakes the claim that a volume names, those that name the volume, and,
// when the volume is there for anybody, all that wait.
func claimsOf(v client.View, e client.Event) []client.Key {
	var keys []client.Key
	for _, obj := range []client.Object{e.Old, e.New} {
		if obj == nil {
			continue
		}
		pv := obj.(*corev1.PersistentVolume)
		if ref := pv.Spec.ClaimRef; ref != nil {
			keys = append(keys, client.Key{Namespace: ref.Namespace, Name: ref.Name})
		}
		for claim := range client.Index[corev1.PersistentVolumeClaim](v, "volume", pv.Name) {
			keys = append(keys, client.KeyOf(claim))
		}
	}
	if pv, there := e.New.(*corev1.PersistentVolume); there && pv.Spec.ClaimRef == nil && pv.Status.Phase == corev1.VolumeAvailable {
		for claim := range client.Index[corev1.PersistentVolumeClaim](v, "volume", "") {
			keys = append(keys, client.KeyOf(claim))
		}
	}
	return keys
}

// claimsOfClass wakes the claims that wait: for the class, or for a default.
func claimsOfClass(v client.View, e client.Event) []client.Key {
	var keys []client.Key
	for claim := range client.Index[corev1.PersistentVolumeClaim](v, "volume", "") {
		if class := volumehelper.GetPersistentVolumeClaimClass(claim); class == "" || class == e.Object().GetName() {
			keys = append(keys, client.KeyOf(claim))
		}
	}
	return keys
}

func decideClaim(v client.View, _ time.Time, key client.Key) reconcile.Plan {
	claim := client.Get[corev1.PersistentVolumeClaim](v, key.Namespace, key.Name)
	switch {
	case claim == nil:
		return reconcile.Plan{}
	case claim.Annotations[volumehelper.AnnBindCompleted] != "":
		return keep(v, claim)
	case claim.DeletionTimestamp != nil:
		return reconcile.Plan{} // nothing is bound that is about to go
	case claim.Spec.VolumeName != "":
		return asked(v, claim)
	}
	if next := withDefaultClass(v, claim); next != nil {
		return reconcile.Plan{Writes: []reconcile.Write{{Op: reconcile.Update, Object: next}}}
	}
	return search(v, claim)
}

// keep looks after a claim that was bound once.
func keep(v client.View, claim *corev1.PersistentVolumeClaim) reconcile.Plan {
	if claim.Spec.VolumeName == "" {
		return claimLost(claim, "ClaimLost", "Bound claim has lost reference to PersistentVolume. Data on the volume is lost!")
	}
	pv := client.Get[corev1.PersistentVolume](v, "", claim.Spec.VolumeName)
	switch {
	case pv == nil:
		return claimLost(claim, "ClaimLost", "Bound claim has lost its PersistentVolume. Data on the volume is lost!")
	case pv.Spec.ClaimRef == nil || pv.Spec.ClaimRef.UID == claim.UID:
		return bind(pv, claim)
	}
	return claimLost(claim, "ClaimMisbound", "Two claims are bound to the same volume, this one is bound incorrectly")
}

func claimLost(claim *corev1.PersistentVolumeClaim, reason, message string) reconcile.Plan {
	if claim.Status.Phase == corev1.ClaimLost {
		return reconcile.Plan{}
	}
	next := claim.DeepCopy()
	next.Status = corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimLost}
	return reconcile.Plan{
		Writes: []reconcile.Write{{Op: reconcile.Update, Object: next, Subresource: "status"}},
		Events: []reconcile.Event{reconcile.Warning(claim, reason, message)},
	}
}

// asked is for a claim that its maker wrote a volume's name into.
func asked(v client.View, claim *corev1.PersistentVolumeClaim) reconcile.Plan {
	pv := client.Get[corev1.PersistentVolume](v, "", claim.Spec.VolumeName)
	switch {
	case pv == nil:
		return pending(claim)
	case pv.Spec.ClaimRef == nil:
		if why := unsuitable(pv, claim); why != "" {
			plan := pending(claim)
			plan.Events = []reconcile.Event{reconcile.Warning(claim, "VolumeMismatch", fmt.Sprintf("Cannot bind to requested volume %q: %s", pv.Name, why))}
			return plan
		}
		return bind(pv, claim)
	case volumehelper.IsVolumeBoundToClaim(pv, claim):
		return bind(pv, claim)
	}
	plan := pending(claim)
	plan.Events = []reconcile.Event{reconcile.Warning(claim, "FailedBinding", fmt.Sprintf("volume %q already bound to a different claim.", pv.Name))}
	return plan
}

// unsuitable tells why a volume cannot be this claim's, or nothing.
func unsuitable(pv *corev1.PersistentVolume, claim *corev1.PersistentVolumeClaim) string {
	size, want := pv.Spec.Capacity[corev1.ResourceStorage], claim.Spec.Resources.Requests[corev1.ResourceStorage]
	switch {
	case size.Cmp(want) < 0:
		return "requested PV is too small"
	case volumehelper.GetPersistentVolumeClass(pv) != volumehelper.GetPersistentVolumeClaimClass(claim):
		return "storageClassName does not match"
	case deref(pv.Spec.VolumeAttributesClassName) != deref(claim.Spec.VolumeAttributesClassName):
		return "volumeAttributesClassName does not match"
	case volumehelper.CheckVolumeModeMismatches(&claim.Spec, &pv.Spec):
		return "incompatible volumeMode"
	case !volumehelper.CheckAccessModes(claim, pv):
		return "incompatible accessMode"
	}
	return ""
}

func deref(p *string) string {
	if p == nil {
		return ""
	}
	return *p
}

// withDefaultClass is the claim with today's default class, if it has none and
// there is one (KEP-3333); else nil.
func withDefaultClass(v client.View, claim *corev1.PersistentVolumeClaim) *corev1.PersistentVolumeClaim {
	if volumehelper.PersistentVolumeClaimHasClass(claim) {
		return nil
	}
	var best *storagev1.StorageClass
	for c := range client.List[storagev1.StorageClass](v, "") {
		if api.IsDefaultStorageClass(&c.ObjectMeta) && (best == nil || best.CreationTimestamp.Before(&c.CreationTimestamp)) {
			best = c
		}
	}
	if best == nil {
		return nil
	}
	next := claim.DeepCopy()
	next.Spec.StorageClassName = &best.Name
	return next
}

// search finds a volume for a claim that names none, or says what it waits for.
func search(v client.View, claim *corev1.PersistentVolumeClaim) reconcile.Plan {
	name := volumehelper.GetPersistentVolumeClaimClass(claim)
	class := client.Get[storagev1.StorageClass](v, "", name)
	waits := class != nil && class.VolumeBindingMode != nil && *class.VolumeBindingMode == storagev1.VolumeBindingWaitForFirstConsumer
	if pv := match(v, claim, waits); pv != nil {
		return bind(pv, claim)
	}
	switch {
	case waits && claim.Annotations[volumehelper.AnnSelectedNode] == "":
		plan := pending(claim)
		plan.Events = []reconcile.Event{reconcile.Normal(claim, "WaitForFirstConsumer", "waiting for first consumer to be created before binding")}
		return plan
	case name != "":
		return provision(claim, name, class)
	}
	plan := pending(claim)
	plan.Events = []reconcile.Event{reconcile.Normal(claim, "FailedBinding", "no persistent volumes available for this claim and no storage class is set")}
	return plan
}

// match is the volume that is kept for the claim, or else, unless the scheduler
// is to choose, the smallest that will do.
func match(v client.View, claim *corev1.PersistentVolumeClaim, waits bool) *corev1.PersistentVolume {
	var candidates []*corev1.PersistentVolume
	for pv := range client.List[corev1.PersistentVolume](v, "") {
		if volumehelper.CheckAccessModes(claim, pv) {
			candidates = append(candidates, pv)
		}
	}
	pv, err := volumehelper.FindMatchingVolume(claim, candidates, nil, nil, waits, true)
	if err != nil {
		return nil // a selector that validation let through, and that matches nothing
	}
	return pv
}

// provision asks whoever makes volumes of the class for one, by an annotation.
func provision(claim *corev1.PersistentVolumeClaim, name string, class *storagev1.StorageClass) reconcile.Plan {
	fail := func(message string) reconcile.Plan {
		plan := pending(claim)
		plan.Events = []reconcile.Event{reconcile.Warning(claim, "ProvisioningFailed", message)}
		return plan
	}
	switch {
	case class == nil:
		return fail(fmt.Sprintf("storageclass.storage.k8s.io %q not found", name))
	case strings.HasPrefix(class.Provisioner, "kubernetes.io/"):
		return fail("no volume plugin matched name: " + class.Provisioner)
	}
	waiting := reconcile.Normal(claim, "ExternalProvisioning", fmt.Sprintf("Waiting for a volume to be created either by the external provisioner '%s' or manually by the system administrator. "+
		"If volume creation is delayed, please verify that the provisioner is running and correctly registered.", class.Provisioner))
	if claim.Annotations[volumehelper.AnnStorageProvisioner] == class.Provisioner {
		plan := pending(claim)
		plan.Events = []reconcile.Event{waiting}
		return plan
	}
	next := claim.DeepCopy()
	note(next, volumehelper.AnnStorageProvisioner, class.Provisioner)
	note(next, volumehelper.AnnBetaStorageProvisioner, class.Provisioner)
	return reconcile.Plan{Writes: []reconcile.Write{{Op: reconcile.Update, Object: next}}}
}

func note(obj client.Object, key, value string) {
	notes := obj.GetAnnotations()
	if notes == nil {
		notes = map[string]string{}
	}
	notes[key] = value
	obj.SetAnnotations(notes)
}

func pending(claim *corev1.PersistentVolumeClaim) reconcile.Plan {
	if claim.Status.Phase == corev1.ClaimPending {
		return reconcile.Plan{}
	}
	next := claim.DeepCopy()
	next.Status.Phase = corev1.ClaimPending
	return reconcile.Plan{Writes: []reconcile.Write{{Op: reconcile.Update, Object: next, Subresource: "status"}}}
}

// bind makes the next of the writes that tie a volume and a claim together: the
// volume's claimRef, the claim's volumeName, and at last the claim's status, when
// the volume says Bound too.
func bind(pv *corev1.PersistentVolume, claim *corev1.PersistentVolumeClaim) reconcile.Plan {
	if next, dirty, err := volumehelper.GetBindVolumeToClaim(pv, claim); err != nil {
		return reconcile.Plan{Err: err}
	} else if dirty {
		return reconcile.Plan{Writes: []reconcile.Write{{Op: reconcile.Update, Object: next}}}
	}
	next := claim.DeepCopy()
	if claim.Spec.VolumeName != pv.Name {
		next.Spec.VolumeName = pv.Name
		note(next, volumehelper.AnnBoundByController, "yes")
	}
	note(next, volumehelper.AnnBindCompleted, "yes")
	if !equality.Semantic.DeepEqual(claim, next) {
		return reconcile.Plan{Writes: []reconcile.Write{{Op: reconcile.Update, Object: next}}}
	}
	if pv.Status.Phase != corev1.VolumeBound {
		return reconcile.Plan{} // which wakes this claim
	}
	next.Status = boundStatus(pv, claim)
	if equality.Semantic.DeepEqual(claim.Status, next.Status) {
		return reconcile.Plan{}
	}
	return reconcile.Plan{Writes: []reconcile.Write{{Op: reconcile.Update, Object: next, Subresource: "status"}}}
}

// boundStatus takes over what the volume is. A capacity that is there already is
// what an expansion has reached, which the volume's may run ahead of.
func boundStatus(pv *corev1.PersistentVolume, claim *corev1.PersistentVolumeClaim) corev1.PersistentVolumeClaimStatus {
	s := *claim.Status.DeepCopy()
	if s.Phase != corev1.ClaimBound || len(s.Capacity) == 0 {
		s.Capacity = corev1.ResourceList{corev1.ResourceStorage: storage(pv)}
		s.CurrentVolumeAttributesClassName = pv.Spec.VolumeAttributesClassName
	}
	s.Phase, s.AccessModes = corev1.ClaimBound, pv.Spec.AccessModes
	return s
}

// requested is the size that a claim asks for.
func requested(claim *corev1.PersistentVolumeClaim) *resource.Quantity {
	q := claim.Spec.Resources.Requests[corev1.ResourceStorage]
	return &q
}

func storage(pv *corev1.PersistentVolume) resource.Quantity {
	return pv.Spec.Capacity[corev1.ResourceStorage]
}
