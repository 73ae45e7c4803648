package node

import (
	"iter"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"proa/client"
)

// ownPods yields the node's pods in a namespace ("" for all) that may lead to
// other objects. Those that the node made itself lead nowhere.
func (q request) ownPods(namespace string) iter.Seq[*corev1.Pod] {
	return func(yield func(*corev1.Pod) bool) {
		for p := range client.Index[corev1.Pod](q.view, "nodeName", q.node) {
			if _, mirror := p.Annotations[corev1.MirrorPodAnnotationKey]; mirror || namespace != "" && p.Namespace != namespace {
				continue
			}
			if !yield(p) {
				return
			}
		}
	}
}

func (q request) anyPod(refers func(*corev1.Pod) bool) bool {
	for p := range q.ownPods(q.Namespace) {
		if refers(p) {
			return true
		}
	}
	return false
}

func (q request) account() bool {
	return q.anyPod(func(p *corev1.Pod) bool { return p.Spec.ServiceAccountName == q.Name })
}

func (q request) configMap() bool {
	return q.anyPod(func(p *corev1.Pod) bool { return contains(ConfigMaps(p), q.Name) })
}

func (q request) secret() bool {
	return q.anyPod(func(p *corev1.Pod) bool { return contains(Secrets(p), q.Name) }) || q.volumeSecret()
}

func (q request) claim() bool {
	return q.anyPod(func(p *corev1.Pod) bool { return contains(claims(p), q.Name) })
}

func (q request) resourceClaim() bool {
	return q.anyPod(func(p *corev1.Pod) bool { return contains(resourceClaims(p), q.Name) })
}

// volume: a pod's claim is bound to it.
func (q request) volume() bool {
	pv := client.Get[corev1.PersistentVolume](q.view, "", q.Name)
	if pv == nil || pv.Spec.ClaimRef == nil {
		return false
	}
	for p := range q.ownPods(pv.Spec.ClaimRef.Namespace) {
		if contains(claims(p), pv.Spec.ClaimRef.Name) {
			return true
		}
	}
	return false
}

// volumeSecret: a volume that a pod's claim is bound to names the secret for the
// node's use.
func (q request) volumeSecret() bool {
	for p := range q.ownPods("") {
		for name := range claims(p) {
			claim := client.Get[corev1.PersistentVolumeClaim](q.view, p.Namespace, name)
			if claim == nil || claim.Spec.VolumeName == "" {
				continue
			}
			pv := client.Get[corev1.PersistentVolume](q.view, "", claim.Spec.VolumeName)
			if pv == nil || pv.Spec.ClaimRef == nil || pv.Spec.ClaimRef.Name != name || pv.Spec.ClaimRef.Namespace != p.Namespace {
				continue
			}
			if slices.Contains(volumeSecrets(pv), client.Key{Namespace: q.Namespace, Name: q.Name}) {
				return true
			}
		}
	}
	return false
}

func contains(names iter.Seq[string], want string) bool {
	for n := range names {
		if n == want && n != "" {
			return true
		}
	}
	return false
}

// containers yields all containers of a pod, of every kind.
func containers(p *corev1.Pod) iter.Seq[*corev1.Container] {
	return func(yield func(*corev1.Container) bool) {
		for _, list := range [][]corev1.Container{p.Spec.InitContainers, p.Spec.Containers} {
			for i := range list {
				if !yield(&list[i]) {
					return
				}
			}
		}
		for i := range p.Spec.EphemeralContainers {
			c := corev1.Container(p.Spec.EphemeralContainers[i].EphemeralContainerCommon)
			if !yield(&c) {
				return
			}
		}
	}
}

// Secrets yields the names of the secrets that a pod refers to.
func Secrets(p *corev1.Pod) iter.Seq[string] {
	var out []string
	for _, r := range p.Spec.ImagePullSecrets {
		out = append(out, r.Name)
	}
	for c := range containers(p) {
		for _, from := range c.EnvFrom {
			if from.SecretRef != nil {
				out = append(out, from.SecretRef.Name)
			}
		}
		for _, env := range c.Env {
			if env.ValueFrom != nil && env.ValueFrom.SecretKeyRef != nil {
				out = append(out, env.ValueFrom.SecretKeyRef.Name)
			}
		}
	}
	for i := range p.Spec.Volumes {
		out = append(out, sourceSecrets(&p.Spec.Volumes[i].VolumeSource)...)
	}
	return slices.Values(out)
}

func sourceSecrets(v *corev1.VolumeSource) (out []string) {
	switch {
	case v.Secret != nil:
		return []string{v.Secret.SecretName}
	case v.AzureFile != nil:
		return []string{v.AzureFile.SecretName}
	case v.Projected != nil:
		for _, s := range v.Projected.Sources {
			if s.Secret != nil {
				out = append(out, s.Secret.Name)
			}
		}
		return out
	}
	for _, ref := range driverSecrets(v) {
		if ref != nil {
			out = append(out, ref.Name)
		}
	}
	return out
}

// driverSecrets are what volumes of outside storage name for logging in.
func driverSecrets(v *corev1.VolumeSource) []*corev1.LocalObjectReference {
	switch {
	case v.CSI != nil:
		return []*corev1.LocalObjectReference{v.CSI.NodePublishSecretRef}
	case v.CephFS != nil:
		return []*corev1.LocalObjectReference{v.CephFS.SecretRef}
	case v.Cinder != nil:
		return []*corev1.LocalObjectReference{v.Cinder.SecretRef}
	case v.FlexVolume != nil:
		return []*corev1.LocalObjectReference{v.FlexVolume.SecretRef}
	case v.RBD != nil:
		return []*corev1.LocalObjectReference{v.RBD.SecretRef}
	case v.ScaleIO != nil:
		return []*corev1.LocalObjectReference{v.ScaleIO.SecretRef}
	case v.ISCSI != nil:
		return []*corev1.LocalObjectReference{v.ISCSI.SecretRef}
	case v.StorageOS != nil:
		return []*corev1.LocalObjectReference{v.StorageOS.SecretRef}
	}
	return nil
}

// ConfigMaps yields the names of the config maps that a pod refers to.
func ConfigMaps(p *corev1.Pod) iter.Seq[string] {
	var out []string
	for c := range containers(p) {
		for _, from := range c.EnvFrom {
			if from.ConfigMapRef != nil {
				out = append(out, from.ConfigMapRef.Name)
			}
		}
		for _, env := range c.Env {
			if env.ValueFrom != nil && env.ValueFrom.ConfigMapKeyRef != nil {
				out = append(out, env.ValueFrom.ConfigMapKeyRef.Name)
			}
		}
	}
	for _, v := range p.Spec.Volumes {
		switch {
		case v.ConfigMap != nil:
			out = append(out, v.ConfigMap.Name)
		case v.Projected != nil:
			for _, s := range v.Projected.Sources {
				if s.ConfigMap != nil {
					out = append(out, s.ConfigMap.Name)
				}
			}
		}
	}
	return slices.Values(out)
}

func claims(p *corev1.Pod) iter.Seq[string] {
	var out []string
	for _, v := range p.Spec.Volumes {
		switch {
		case v.PersistentVolumeClaim != nil:
			out = append(out, v.PersistentVolumeClaim.ClaimName)
		case v.Ephemeral != nil:
			out = append(out, p.Name+"-"+v.Name)
		}
	}
	return slices.Values(out)
}

func resourceClaims(p *corev1.Pod) iter.Seq[string] {
	var out []string
	for _, c := range p.Spec.ResourceClaims {
		if c.ResourceClaimName != nil {
			out = append(out, *c.ResourceClaimName)
		}
	}
	for _, s := range p.Status.ResourceClaimStatuses {
		if s.ResourceClaimName != nil {
			out = append(out, *s.ResourceClaimName)
		}
	}
	if s := p.Status.ExtendedResourceClaimStatus; s != nil {
		out = append(out, s.ResourceClaimName)
	}
	return slices.Values(out)
}

// volumeSecrets are those of a persistent volume that the kubelet uses; what only
// a controller uses is not among them.
func volumeSecrets(pv *corev1.PersistentVolume) (out []client.Key) {
	add := func(refs ...*corev1.SecretReference) {
		for _, r := range refs {
			if r == nil {
				continue
			}
			ns := r.Namespace
			if ns == "" {
				ns = pv.Spec.ClaimRef.Namespace
			}
			out = append(out, client.Key{Namespace: ns, Name: r.Name})
		}
	}
	switch s := &pv.Spec.PersistentVolumeSource; {
	case s.CSI != nil:
		add(s.CSI.NodePublishSecretRef, s.CSI.NodeStageSecretRef, s.CSI.NodeExpandSecretRef)
	case s.AzureFile != nil:
		ref := &corev1.SecretReference{Name: s.AzureFile.SecretName}
		if s.AzureFile.SecretNamespace != nil {
			ref.Namespace = *s.AzureFile.SecretNamespace
		}
		add(ref)
	case s.CephFS != nil:
		add(s.CephFS.SecretRef)
	case s.Cinder != nil:
		add(s.Cinder.SecretRef)
	case s.FlexVolume != nil:
		add(s.FlexVolume.SecretRef)
	case s.RBD != nil:
		add(s.RBD.SecretRef)
	case s.ScaleIO != nil:
		add(s.ScaleIO.SecretRef)
	case s.ISCSI != nil:
		add(s.ISCSI.SecretRef)
	}
	return out
}
