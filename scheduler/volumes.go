package scheduler

import (
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	corev1helpers "k8s.io/component-helpers/scheduling/corev1"
	volumehelper "k8s.io/component-helpers/storage/volume"

	"proa/client"
)

// podVolumes is what a pod's claims ask of a node.
type podVolumes struct {
	bound []*corev1.PersistentVolume
	gone  bool // a claim is bound to a volume that does not exist
	// waiting claims are bound or provisioned for once the node is chosen.
	waiting []*corev1.PersistentVolumeClaim
	classes map[string]*storagev1.StorageClass
	free    []*corev1.PersistentVolume // that waiting claims may take
	// exclusive claims (ReadWriteOncePod) and who else uses them.
	exclusive []client.Key
	others    int
}

const noProvisioner = "kubernetes.io/no-provisioner"

// volumesOf works out what the pod's claims ask. before is what rules out
// every node.
func (c *cluster) volumesOf(p *podInfo) (before string, v *podVolumes) {
	if len(p.claims) == 0 {
		return "", nil
	}
	v = &podVolumes{classes: map[string]*storagev1.StorageClass{}}
	for _, key := range p.claims {
		claim := client.Get[corev1.PersistentVolumeClaim](c.view, key.Namespace, key.Name)
		if before := c.unusable(p, key, claim); before != "" {
			return before, nil
		}
		if slices.Contains(claim.Spec.AccessModes, corev1.ReadWriteOncePod) {
			v.exclusive = append(v.exclusive, key)
			v.others += c.claimUsers[key]
		}
		if before := v.sort(c, claim); before != "" {
			return before, nil
		}
	}
	if len(v.waiting) > 0 {
		for pv := range client.List[corev1.PersistentVolume](c.view, "") {
			v.free = append(v.free, pv)
		}
	}
	return "", v
}

func (c *cluster) unusable(p *podInfo, key client.Key, claim *corev1.PersistentVolumeClaim) string {
	ephemeral := slices.ContainsFunc(p.pod.Spec.Volumes, func(v corev1.Volume) bool {
		return v.Ephemeral != nil && p.pod.Name+"-"+v.Name == key.Name
	})
	switch {
	case claim == nil && ephemeral:
		return fmt.Sprintf("waiting for ephemeral volume controller to create the persistentvolumeclaim %q", key.Name)
	case claim == nil:
		return fmt.Sprintf("persistentvolumeclaim %q not found", key.Name)
	case claim.Status.Phase == corev1.ClaimLost:
		return fmt.Sprintf("persistentvolumeclaim %q bound to non-existent persistentvolume %q", key.Name, claim.Spec.VolumeName)
	case claim.DeletionTimestamp != nil:
		return fmt.Sprintf("persistentvolumeclaim %q is being deleted", key.Name)
	case ephemeral && !ownedBy(claim, p.pod):
		return fmt.Sprintf("PVC %s was not created for pod %s (pod is not owner)", key, p.key)
	}
	return ""
}

func ownedBy(claim *corev1.PersistentVolumeClaim, p *corev1.Pod) bool {
	for _, ref := range claim.OwnerReferences {
		if ref.UID == p.UID {
			return true
		}
	}
	return false
}

// sort files a claim under bound or waiting.
func (v *podVolumes) sort(c *cluster, claim *corev1.PersistentVolumeClaim) string {
	if isBound(claim) {
		pv := client.Get[corev1.PersistentVolume](c.view, "", claim.Spec.VolumeName)
		if pv == nil {
			v.gone = true
		} else {
			v.bound = append(v.bound, pv)
		}
		return ""
	}
	name := volumehelper.GetPersistentVolumeClaimClass(claim)
	class := client.Get[storagev1.StorageClass](c.view, "", name)
	if class == nil || class.VolumeBindingMode == nil || *class.VolumeBindingMode != storagev1.VolumeBindingWaitForFirstConsumer || claim.Spec.VolumeName != "" {
		return "pod has unbound immediate PersistentVolumeClaims"
	}
	v.waiting = append(v.waiting, claim)
	v.classes[name] = class
	return ""
}

func isBound(claim *corev1.PersistentVolumeClaim) bool {
	_, complete := claim.Annotations[volumehelper.AnnBindCompleted]
	return claim.Spec.VolumeName != "" && (complete || claim.Status.Phase == corev1.ClaimBound)
}

func (v *podVolumes) check(n *node) verdict {
	if v.others > 0 {
		return only(claimInUse, false)
	}
	if v.gone {
		return only(volumeGone, true)
	}
	for _, pv := range v.bound {
		if volumehelper.CheckNodeAffinity(pv, n.obj.Labels) != nil {
			return only(volumeElsewhere, true)
		}
	}
	if _, ok := v.plan(n.obj); !ok {
		return only(noVolume, true)
	}
	return verdict{}
}

// claimPlan is how a waiting claim gets its volume: an existing one, or, with
// none, one made for the node.
type claimPlan struct {
	claim  *corev1.PersistentVolumeClaim
	volume *corev1.PersistentVolume
}

// plan finds a volume for each waiting claim on a node.
func (v *podVolumes) plan(n *corev1.Node) ([]claimPlan, bool) {
	var out []claimPlan
	taken := map[string]*corev1.PersistentVolume{}
	for _, claim := range v.waiting {
		pv, err := volumehelper.FindMatchingVolume(claim, v.free, n, taken, true, true)
		if err != nil {
			return nil, false
		}
		if pv == nil && !provisionable(v.classes[volumehelper.GetPersistentVolumeClaimClass(claim)], n) {
			return nil, false
		}
		if pv != nil {
			taken[pv.Name] = pv
		}
		out = append(out, claimPlan{claim, pv})
	}
	return out, true
}

// provisionable tells whether a volume of the class can be made for the node.
func provisionable(class *storagev1.StorageClass, n *corev1.Node) bool {
	if class == nil || class.Provisioner == noProvisioner {
		return false
	}
	if len(class.AllowedTopologies) == 0 {
		return true
	}
	selector := &corev1.NodeSelector{}
	for _, t := range class.AllowedTopologies {
		var term corev1.NodeSelectorTerm
		for _, e := range t.MatchLabelExpressions {
			term.MatchExpressions = append(term.MatchExpressions, corev1.NodeSelectorRequirement{Key: e.Key, Operator: corev1.NodeSelectorOpIn, Values: e.Values})
		}
		selector.NodeSelectorTerms = append(selector.NodeSelectorTerms, term)
	}
	ok, err := corev1helpers.MatchNodeSelectorTerms(n, selector)
	return err == nil && ok
}

func (v *podVolumes) shift(p *podInfo, sign int) {
	for _, claim := range p.claims {
		if slices.Contains(v.exclusive, claim) {
			v.others += sign
		}
	}
}
