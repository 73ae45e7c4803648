package api

import (
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// The sources of network storage that pods and persistent volumes name alike.
// Most have left the tree in favour of CSI drivers; the API still takes them,
// so what they need is still asked for.

// need asks for strings by name: need(at, "path", s.Path, "server", s.Server).
func need(at *field.Path, pairs ...string) field.ErrorList {
	var errs field.ErrorList
	for pair := range slices.Chunk(pairs, 2) {
		errs = append(errs, required(pair[1], at.Child(pair[0]))...)
	}
	return errs
}

func validateNetworkSource(v *corev1.VolumeSource, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if s := v.GitRepo; s != nil {
		errs = append(errs, need(at.Child("gitRepo"), "repository", s.Repository)...)
		errs = append(errs, inside(s.Directory, at.Child("gitRepo", "directory"))...)
	}
	if s := v.ISCSI; s != nil {
		errs = append(errs, validateISCSI(s.TargetPortal, s.IQN, s.Lun, at.Child("iscsi"))...)
	}
	if s := v.Glusterfs; s != nil {
		errs = append(errs, need(at.Child("glusterfs"), "endpoints", s.EndpointsName, "path", s.Path)...)
	}
	if s := v.RBD; s != nil {
		errs = append(errs, validateRBD(s.CephMonitors, s.RBDImage, at.Child("rbd"))...)
	}
	if s := v.FlexVolume; s != nil {
		errs = append(errs, validateFlex(s.Driver, s.Options, at.Child("flexVolume"))...)
	}
	if s := v.Cinder; s != nil {
		errs = append(errs, need(at.Child("cinder"), "volumeID", s.VolumeID)...)
	}
	if s := v.CephFS; s != nil && len(s.Monitors) == 0 {
		errs = append(errs, field.Required(at.Child("cephfs", "monitors"), ""))
	}
	if s := v.AzureFile; s != nil {
		errs = append(errs, need(at.Child("azureFile"), "secretName", s.SecretName, "shareName", s.ShareName)...)
	}
	if s := v.ScaleIO; s != nil {
		errs = append(errs, need(at.Child("scaleIO"), "gateway", s.Gateway, "system", s.System, "volumeName", s.VolumeName)...)
	}
	if s := v.CSI; s != nil {
		errs = append(errs, validateDriverName(s.Driver, at.Child("csi", "driver"))...)
		if r := s.NodePublishSecretRef; r != nil {
			errs = append(errs, required(r.Name, at.Child("csi", "nodePublishSecretRef", "name"))...)
		}
	}
	return append(errs, validateCommonSource(&corev1.PersistentVolumeSource{
		GCEPersistentDisk: v.GCEPersistentDisk, AWSElasticBlockStore: v.AWSElasticBlockStore, NFS: v.NFS, FC: v.FC, Flocker: v.Flocker,
		VsphereVolume: v.VsphereVolume, Quobyte: v.Quobyte, AzureDisk: v.AzureDisk, PhotonPersistentDisk: v.PhotonPersistentDisk,
		PortworxVolume: v.PortworxVolume,
	}, at)...)
}

// validateCommonSource: the sources whose type pods and volumes share.
func validateCommonSource(v *corev1.PersistentVolumeSource, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if s := v.GCEPersistentDisk; s != nil {
		errs = append(errs, need(at.Child("gcePersistentDisk"), "pdName", s.PDName)...)
		errs = append(errs, validatePartition(s.Partition, at.Child("gcePersistentDisk", "partition"))...)
	}
	if s := v.AWSElasticBlockStore; s != nil {
		errs = append(errs, need(at.Child("awsElasticBlockStore"), "volumeID", s.VolumeID)...)
		errs = append(errs, validatePartition(s.Partition, at.Child("awsElasticBlockStore", "partition"))...)
	}
	if s := v.NFS; s != nil {
		errs = append(errs, validateNFS(s, at.Child("nfs"))...)
	}
	if s := v.FC; s != nil {
		errs = append(errs, validateFC(s, at.Child("fc"))...)
	}
	if s := v.Flocker; s != nil && (s.DatasetName == "") == (s.DatasetUUID == "") {
		errs = append(errs, field.Required(at.Child("flocker"), "exactly one of datasetUUID and datasetName is required"))
	}
	if s := v.VsphereVolume; s != nil {
		errs = append(errs, need(at.Child("vsphereVolume"), "volumePath", s.VolumePath)...)
	}
	if s := v.Quobyte; s != nil {
		errs = append(errs, need(at.Child("quobyte"), "registry", s.Registry, "volume", s.Volume)...)
	}
	if s := v.AzureDisk; s != nil {
		errs = append(errs, need(at.Child("azureDisk"), "diskName", s.DiskName, "diskURI", s.DataDiskURI)...)
	}
	if s := v.PhotonPersistentDisk; s != nil {
		errs = append(errs, need(at.Child("photonPersistentDisk"), "pdID", s.PdID)...)
	}
	if s := v.PortworxVolume; s != nil {
		errs = append(errs, need(at.Child("portworxVolume"), "volumeID", s.VolumeID)...)
	}
	return errs
}

func validatePartition(n int32, at *field.Path) field.ErrorList {
	if n < 0 || n > 255 {
		return field.ErrorList{field.Invalid(at, n, validation.InclusiveRangeError(0, 255))}
	}
	return nil
}

func validateNFS(s *corev1.NFSVolumeSource, at *field.Path) field.ErrorList {
	errs := need(at, "server", s.Server, "path", s.Path)
	if s.Path != "" && !strings.HasPrefix(s.Path, "/") {
		errs = append(errs, field.Invalid(at.Child("path"), s.Path, "must be an absolute path"))
	}
	return errs
}

func validateISCSI(portal, iqn string, lun int32, at *field.Path) field.ErrorList {
	errs := need(at, "targetPortal", portal, "iqn", iqn)
	if iqn != "" && !strings.HasPrefix(iqn, "iqn") && !strings.HasPrefix(iqn, "eui") && !strings.HasPrefix(iqn, "naa") {
		errs = append(errs, field.Invalid(at.Child("iqn"), iqn, "must be valid format starting with iqn, eui, or naa"))
	}
	return append(errs, validatePartition(lun, at.Child("lun"))...)
}

func validateFC(s *corev1.FCVolumeSource, at *field.Path) field.ErrorList {
	switch {
	case len(s.TargetWWNs) == 0 && len(s.WWIDs) == 0:
		return field.ErrorList{field.Required(at.Child("targetWWNs"), "must specify either targetWWNs or wwids, but not both")}
	case len(s.TargetWWNs) > 0 && len(s.WWIDs) > 0:
		return field.ErrorList{field.Invalid(at.Child("targetWWNs"), s.TargetWWNs, "targetWWNs and wwids can not be specified simultaneously")}
	case len(s.TargetWWNs) > 0 && s.Lun == nil:
		return field.ErrorList{field.Required(at.Child("lun"), "lun is required if targetWWNs is specified")}
	case len(s.TargetWWNs) > 0:
		return validatePartition(*s.Lun, at.Child("lun"))
	}
	return nil
}

func validateRBD(monitors []string, image string, at *field.Path) field.ErrorList {
	errs := need(at, "image", image)
	if len(monitors) == 0 {
		errs = append(errs, field.Required(at.Child("monitors"), ""))
	}
	return errs
}

// validateFlex: options below kubernetes.io are the kubelet's to set.
func validateFlex(driver string, options map[string]string, at *field.Path) field.ErrorList {
	errs := need(at, "driver", driver)
	for key := range options {
		if domain, _, ok := strings.Cut(key, "/"); ok && (domain == "kubernetes.io" || strings.HasSuffix(domain, ".kubernetes.io") || domain == "k8s.io" || strings.HasSuffix(domain, ".k8s.io")) {
			errs = append(errs, field.Invalid(at.Child("options").Key(key), key, "kubernetes.io and k8s.io namespaces are reserved"))
		}
	}
	return errs
}

const maxDriverName = 63

// validateDriverName follows the CSI specification: a domain of at most 63
// letters.
func validateDriverName(name string, at *field.Path) field.ErrorList {
	if name == "" {
		return field.ErrorList{field.Required(at, "")}
	}
	if len(name) > maxDriverName {
		return field.ErrorList{field.TooLong(at, name, maxDriverName)}
	}
	return invalidEach(name, at, validation.IsDNS1123Subdomain(strings.ToLower(name)))
}
