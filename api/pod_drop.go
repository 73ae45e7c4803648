package api

import corev1 "k8s.io/api/core/v1"

// dropUnserved clears the fields of a pod or a template whose feature is off in
// Kubernetes 1.37 unless somebody switches it on: clients may send them, and
// they are not kept.
func dropUnserved(s *corev1.PodSpec) {
	s.EvictionResponders = nil // EvictionRequestAPI
	s.SchedulingGroup = nil    // GenericWorkload
	for i := range s.Volumes {
		dropFileOwners(&s.Volumes[i].VolumeSource)
	}
	for c := range containers(s) {
		dropUnservedIn((*corev1.EphemeralContainerCommon)(c))
	}
	for i := range s.EphemeralContainers {
		dropUnservedIn(&s.EphemeralContainers[i].EphemeralContainerCommon)
	}
}

// dropUnservedIn: GRPCContainerProbeTLS, H2CContainerProbe, ContainerStopSignals
// and VolumeBindMountOptions.
func dropUnservedIn(c *corev1.EphemeralContainerCommon) {
	for _, p := range []*corev1.Probe{c.LivenessProbe, c.ReadinessProbe, c.StartupProbe} {
		if p != nil && p.GRPC != nil {
			p.GRPC.Mode = nil
		}
		if p != nil && p.HTTPGet != nil {
			p.HTTPGet.Protocol = nil
		}
	}
	if l := c.Lifecycle; l != nil {
		l.StopSignal = nil
		for _, h := range []*corev1.LifecycleHandler{l.PostStart, l.PreStop} {
			if h != nil && h.HTTPGet != nil {
				h.HTTPGet.Protocol = nil
			}
		}
	}
	for i := range c.VolumeMounts {
		c.VolumeMounts[i].BindMountOptions = nil
	}
}

// dropFileOwners: AtomicWriteVolumeUserFields, and the mode of an emptyDir.
func dropFileOwners(v *corev1.VolumeSource) {
	if v.EmptyDir != nil {
		v.EmptyDir.Mode = nil
	}
	if v.Secret != nil {
		v.Secret.DefaultUser = nil
		dropKeyOwners(v.Secret.Items)
	}
	if v.ConfigMap != nil {
		v.ConfigMap.DefaultUser = nil
		dropKeyOwners(v.ConfigMap.Items)
	}
	if v.DownwardAPI != nil {
		v.DownwardAPI.DefaultUser = nil
		dropDownwardOwners(v.DownwardAPI.Items)
	}
	if v.Projected == nil {
		return
	}
	v.Projected.DefaultUser = nil
	for i := range v.Projected.Sources {
		dropProjectedOwners(&v.Projected.Sources[i])
	}
}

func dropProjectedOwners(p *corev1.VolumeProjection) {
	if p.Secret != nil {
		dropKeyOwners(p.Secret.Items)
	}
	if p.ConfigMap != nil {
		dropKeyOwners(p.ConfigMap.Items)
	}
	if p.DownwardAPI != nil {
		dropDownwardOwners(p.DownwardAPI.Items)
	}
	if p.ServiceAccountToken != nil {
		p.ServiceAccountToken.User = nil
	}
	if p.ClusterTrustBundle != nil {
		p.ClusterTrustBundle.User = nil
	}
	if p.PodCertificate != nil {
		p.PodCertificate.User = nil
	}
}

func dropKeyOwners(items []corev1.KeyToPath) {
	for i := range items {
		items[i].User = nil
	}
}

func dropDownwardOwners(items []corev1.DownwardAPIVolumeFile) {
	for i := range items {
		items[i].User = nil
	}
}
