package api

import (
	"cmp"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

func defaultVolume(v *corev1.Volume) {
	if v.VolumeSource == (corev1.VolumeSource{}) {
		v.EmptyDir = &corev1.EmptyDirVolumeSource{}
	}
	defaultFileVolume(&v.VolumeSource)
	defaultNetworkVolume(&v.VolumeSource)
	if v.Ephemeral != nil && v.Ephemeral.VolumeClaimTemplate != nil {
		unset(&v.Ephemeral.VolumeClaimTemplate.Spec.VolumeMode, corev1.PersistentVolumeFilesystem)
	}
	if v.Image != nil {
		v.Image.PullPolicy = cmp.Or(v.Image.PullPolicy, pullPolicyOf(v.Image.Reference))
	}
}

// defaultFileVolume: the volumes that are files of the API's or the host's.
func defaultFileVolume(v *corev1.VolumeSource) {
	if v.HostPath != nil {
		unset(&v.HostPath.Type, corev1.HostPathUnset)
	}
	if v.Secret != nil {
		unset(&v.Secret.DefaultMode, corev1.SecretVolumeSourceDefaultMode)
	}
	if v.ConfigMap != nil {
		unset(&v.ConfigMap.DefaultMode, corev1.ConfigMapVolumeSourceDefaultMode)
	}
	if v.DownwardAPI != nil {
		unset(&v.DownwardAPI.DefaultMode, corev1.DownwardAPIVolumeSourceDefaultMode)
		defaultDownwardItems(v.DownwardAPI.Items)
	}
	if v.EmptyDir != nil && v.EmptyDir.SizeLimit != nil {
		v.EmptyDir.SizeLimit.RoundUp(resource.Milli)
	}
	if v.Projected == nil {
		return
	}
	unset(&v.Projected.DefaultMode, corev1.ProjectedVolumeSourceDefaultMode)
	for _, s := range v.Projected.Sources {
		if s.ServiceAccountToken != nil {
			unset(&s.ServiceAccountToken.ExpirationSeconds, int64(60*60))
		}
		if s.DownwardAPI != nil {
			defaultDownwardItems(s.DownwardAPI.Items)
		}
		if s.PodCertificate != nil {
			unset(&s.PodCertificate.MaxExpirationSeconds, int32(24*60*60))
		}
	}
}

func defaultDownwardItems(items []corev1.DownwardAPIVolumeFile) {
	for i := range items {
		defaultFieldRef(items[i].FieldRef)
	}
}

// defaultNetworkVolume: the in-tree sources of network storage, all of them
// deprecated; their fields are kept and answered as documented.
func defaultNetworkVolume(v *corev1.VolumeSource) {
	if v.ISCSI != nil {
		v.ISCSI.ISCSIInterface = cmp.Or(v.ISCSI.ISCSIInterface, "default")
	}
	if v.RBD != nil {
		v.RBD.RBDPool = cmp.Or(v.RBD.RBDPool, "rbd")
		v.RBD.RadosUser = cmp.Or(v.RBD.RadosUser, "admin")
		v.RBD.Keyring = cmp.Or(v.RBD.Keyring, "/etc/ceph/keyring")
	}
	if v.AzureDisk != nil {
		defaultAzureDisk(v.AzureDisk)
	}
	if v.ScaleIO != nil {
		v.ScaleIO.StorageMode = cmp.Or(v.ScaleIO.StorageMode, "ThinProvisioned")
		v.ScaleIO.FSType = cmp.Or(v.ScaleIO.FSType, "xfs")
	}
}

func defaultAzureDisk(d *corev1.AzureDiskVolumeSource) {
	unset(&d.CachingMode, corev1.AzureDataDiskCachingReadWrite)
	unset(&d.Kind, corev1.AzureSharedBlobDisk)
	unset(&d.FSType, "ext4")
	unset(&d.ReadOnly, false)
}
