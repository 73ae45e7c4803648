package api

import (
	"net"
	"regexp"
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
		errs = append(errs, validateISCSI(s, at.Child("iscsi"))...)
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
		if r := s.SecretRef; r != nil {
			errs = append(errs, need(at.Child("cinder", "secretRef"), "name", r.Name)...)
		}
	}
	if s := v.StorageOS; s != nil {
		errs = append(errs, validateStorageOS(s.VolumeName, s.VolumeNamespace, at.Child("storageos"))...)
		if r := s.SecretRef; r != nil {
			errs = append(errs, need(at.Child("storageos", "secretRef"), "name", r.Name)...)
		}
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
		if r := s.NodePublishSecretRef; r != nil && r.Name == "" {
			errs = append(errs, field.Required(at.Child("csi", "nodePublishSecretRef", "name"), ""))
		} else if r != nil {
			errs = append(errs, invalidEach(r.Name, at.Child("csi", "name"), dnsName(r.Name))...) // published so
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
		errs = append(errs, need(at.Child("persistentDisk"), "pdName", s.PDName)...)
		errs = append(errs, validatePartition(s.Partition, at.Child("persistentDisk", "partition"))...)
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
	if s := v.Flocker; s != nil {
		errs = append(errs, validateFlocker(s, at.Child("flocker"))...)
	}
	if s := v.VsphereVolume; s != nil {
		errs = append(errs, need(at.Child("vsphereVolume"), "volumePath", s.VolumePath)...)
	}
	if s := v.Quobyte; s != nil {
		errs = append(errs, validateQuobyte(s, at.Child("quobyte"))...)
	}
	if s := v.AzureDisk; s != nil {
		errs = append(errs, validateAzureDisk(s, at.Child("azureDisk"))...)
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
	if !strings.HasPrefix(s.Path, "/") {
		errs = append(errs, field.Invalid(at.Child("path"), s.Path, "must be an absolute path"))
	}
	return errs
}

// maxTargetName is the most bytes of a volume's and a target's name together.
const maxTargetName = 64

var qualifiedNames = map[string]*regexp.Regexp{
	"iqn": regexp.MustCompile(`iqn\.\d{4}-\d{2}\.([[:alnum:]-.]+)(:[^,;*&$|\s]+)$`),
	"eui": regexp.MustCompile(`^eui.[[:alnum:]]{16}$`),
	"naa": regexp.MustCompile(`^naa.[[:alnum:]]{32}$`),
}

// validateISCSI judges what pods and volumes have in common.
func validateISCSI(s *corev1.ISCSIVolumeSource, at *field.Path) field.ErrorList {
	errs := need(at, "targetPortal", s.TargetPortal, "iqn", s.IQN)
	if s.IQN != "" {
		errs = append(errs, validateQualifiedName(s.IQN, at.Child("iqn"))...)
	}
	errs = append(errs, validatePartition(s.Lun, at.Child("lun"))...)
	if (s.DiscoveryCHAPAuth || s.SessionCHAPAuth) && s.SecretRef == nil {
		errs = append(errs, field.Required(at.Child("secretRef"), ""))
	}
	if s.InitiatorName != nil {
		errs = append(errs, validateQualifiedName(*s.InitiatorName, at.Child("initiatorname"))...)
	}
	return errs
}

// validateQualifiedName follows RFC 3721.
func validateQualifiedName(name string, at *field.Path) field.ErrorList {
	form, ok := qualifiedNames[name[:min(3, len(name))]]
	if !ok {
		return field.ErrorList{field.Invalid(at, name, "must be valid format starting with iqn, eui, or naa")}
	}
	if !form.MatchString(name) {
		return field.ErrorList{field.Invalid(at, name, "must be valid format")}
	}
	return nil
}

func validateFlocker(s *corev1.FlockerVolumeSource, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if s.DatasetName == "" && s.DatasetUUID == "" {
		errs = append(errs, field.Required(at, "one of datasetName and datasetUUID is required"))
	}
	if s.DatasetName != "" && s.DatasetUUID != "" {
		errs = append(errs, field.Invalid(at, "resource", "datasetName and datasetUUID can not be specified simultaneously"))
	}
	if strings.Contains(s.DatasetName, "/") {
		errs = append(errs, field.Invalid(at.Child("datasetName"), s.DatasetName, "must not contain '/'"))
	}
	return errs
}

func validateQuobyte(s *corev1.QuobyteVolumeSource, at *field.Path) field.ErrorList {
	const maxTenant = 64
	const form = "must be a host:port pair or multiple pairs separated by commas"
	var errs field.ErrorList
	switch {
	case s.Registry == "":
		errs = append(errs, field.Required(at.Child("registry"), form))
	case len(s.Tenant) > maxTenant:
		errs = append(errs, field.Required(at.Child("tenant"), "must be a UUID and may not exceed a length of 64 characters"))
	default:
		for _, pair := range strings.Split(s.Registry, ",") {
			if _, _, err := net.SplitHostPort(pair); err != nil {
				errs = append(errs, field.Invalid(at.Child("registry"), s.Registry, form))
			}
		}
	}
	return append(errs, need(at, "volume", s.Volume)...)
}

func validateAzureDisk(s *corev1.AzureDiskVolumeSource, at *field.Path) field.ErrorList {
	errs := need(at, "diskName", s.DiskName, "diskURI", s.DataDiskURI)
	if m := s.CachingMode; m != nil {
		errs = append(errs, oneOf(*m, at.Child("cachingMode"), corev1.AzureDataDiskCachingNone, corev1.AzureDataDiskCachingReadOnly, corev1.AzureDataDiskCachingReadWrite)...)
	}
	if s.Kind == nil {
		return errs
	}
	errs = append(errs, oneOf(*s.Kind, at.Child("kind"), corev1.AzureDedicatedBlobDisk, corev1.AzureManagedDisk, corev1.AzureSharedBlobDisk)...)
	prefix, form := "https://", "https://{account-name}.blob.core.windows.net/{container-name}/{disk-name}.vhd"
	if *s.Kind == corev1.AzureManagedDisk {
		prefix, form = "/subscriptions/", "/subscriptions/{sub-id}/resourcegroups/{group-name}/providers/microsoft.compute/disks/{disk-id}"
	}
	if !strings.HasPrefix(s.DataDiskURI, prefix) {
		errs = append(errs, field.NotSupported(at.Child("diskURI"), s.DataDiskURI, []string{form}))
	}
	return errs
}

func validateStorageOS(name, namespace string, at *field.Path) field.ErrorList {
	return append(named(name, dnsLabel, at.Child("volumeName")), optionally(namespace, validation.IsDNS1123Label, at.Child("volumeNamespace"))...)
}

func validateFC(s *corev1.FCVolumeSource, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if len(s.TargetWWNs) == 0 && len(s.WWIDs) == 0 {
		errs = append(errs, field.Required(at.Child("targetWWNs"), "must specify either targetWWNs or wwids, but not both"))
	}
	if len(s.TargetWWNs) > 0 && len(s.WWIDs) > 0 {
		errs = append(errs, field.Invalid(at.Child("targetWWNs"), s.TargetWWNs, "targetWWNs and wwids can not be specified simultaneously"))
	}
	switch {
	case len(s.TargetWWNs) == 0:
	case s.Lun == nil:
		errs = append(errs, field.Required(at.Child("lun"), "lun is required if targetWWNs is specified"))
	default:
		errs = append(errs, validatePartition(*s.Lun, at.Child("lun"))...)
	}
	return errs
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
		domain, _, _ := strings.Cut(key, "/")
		if domain = "." + strings.ToLower(domain); strings.HasSuffix(domain, ".kubernetes.io") || strings.HasSuffix(domain, ".k8s.io") {
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
	var errs field.ErrorList
	if len(name) > maxDriverName {
		errs = append(errs, field.TooLong(at, name, maxDriverName))
	}
	return append(errs, invalidEach(name, at, validation.IsDNS1123Subdomain(strings.ToLower(name)))...)
}
