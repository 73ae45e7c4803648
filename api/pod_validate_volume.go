package api

import (
	"cmp"
	"fmt"
	"reflect"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func (c *podCheck) volumeList(at *field.Path) field.ErrorList {
	names := sets.New[string]()
	return each(c.spec.Volumes, at, func(v *corev1.Volume, at *field.Path) field.ErrorList {
		errs := named(v.Name, dnsLabel, at.Child("name"))
		if len(errs) == 0 {
			errs = unique(names, v.Name, at.Child("name"))
		}
		errs = append(errs, validateVolumeSource(&v.VolumeSource, at)...)
		if s := v.ISCSI; s != nil && s.InitiatorName != nil && len(v.Name)+1+len(s.TargetPortal) > maxTargetName {
			errs = append(errs, field.Invalid(at.Child("name"), v.Name, "Total length of <volume name>:<iscsi.targetPortal> must be under 64 characters if iscsi.initiatorName is specified."))
		}
		if len(errs) == 0 { // what names a volume that is wrong finds none
			c.volumes[v.Name] = v
		}
		return errs
	})
}

// sources lists the members of a struct of alternatives that are set, by
// their JSON names: those in order first, then the others as they stand in the
// struct.
func sources(union any, order []string) []string {
	var out []string
	v := reflect.ValueOf(union)
	for i := range v.NumField() {
		if v.Field(i).Kind() == reflect.Pointer && !v.Field(i).IsNil() {
			out = append(out, memberName(v.Type().Field(i)))
		}
	}
	place := func(name string) int {
		if i := slices.Index(order, name); i >= 0 {
			return i
		}
		return len(order)
	}
	slices.SortStableFunc(out, func(a, b string) int { return cmp.Compare(place(a), place(b)) })
	return out
}

func memberName(f reflect.StructField) string {
	name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
	return name
}

// exactlyOne judges a struct of alternatives; what names one in messages. Of
// several the first is meant, and the others refused: it leaves the first alone
// in the struct, for it alone is judged further.
func exactlyOne[T any](union *T, order []string, what string, at *field.Path) field.ErrorList {
	set := sources(*union, order)
	if len(set) == 0 {
		return field.ErrorList{field.Required(at, "must specify a "+what)}
	}
	var errs field.ErrorList
	for _, name := range set[1:] {
		errs = append(errs, field.Forbidden(at.Child(or(publishedNames[name], name)), "may not specify more than 1 "+what))
	}
	v := reflect.ValueOf(union).Elem()
	for i := range v.NumField() {
		if slices.Contains(set[1:], memberName(v.Type().Field(i))) {
			v.Field(i).SetZero()
		}
	}
	return errs
}

// publishedNames are the members that Kubernetes' errors call otherwise.
var publishedNames = map[string]string{"cephfs": "cephFS", "downwardAPI": "downwarAPI"}

// The order in which Kubernetes looks at the sources of a volume.
var (
	volumeOrder = strings.Fields(`emptyDir hostPath gitRepo gcePersistentDisk awsElasticBlockStore secret nfs iscsi glusterfs flocker
		persistentVolumeClaim rbd cinder cephfs quobyte downwardAPI fc flexVolume configMap azureFile vsphereVolume photonPersistentDisk
		portworxVolume azureDisk storageos projected scaleIO csi ephemeral image`)
	persistentOrder = strings.Fields(`hostPath gcePersistentDisk awsElasticBlockStore glusterfs flocker nfs rbd quobyte cephfs iscsi cinder fc
		flexVolume azureFile vsphereVolume photonPersistentDisk portworxVolume azureDisk scaleIO local storageos csi`)
)

func validateVolumeSource(given *corev1.VolumeSource, at *field.Path) field.ErrorList {
	v := *given
	errs := exactlyOne(&v, volumeOrder, "volume type", at)
	errs = slices.Concat(errs, validateFileSource(&v, at), validateNetworkSource(&v, at))
	if v.Ephemeral != nil {
		errs = append(errs, validateEphemeral(v.Ephemeral, at.Child("ephemeral"))...)
	}
	return errs
}

// validateFileSource: the sources that are files of the API's or the host's.
func validateFileSource(v *corev1.VolumeSource, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if s := v.EmptyDir; s != nil && s.SizeLimit != nil && s.SizeLimit.Sign() < 0 {
		errs = append(errs, field.Forbidden(at.Child("emptyDir", "sizeLimit"), "SizeLimit field must be a valid resource quantity"))
	}
	if s := v.HostPath; s != nil {
		errs = append(errs, validateHostPath(s, at.Child("hostPath"))...)
	}
	if s := v.Secret; s != nil {
		at := at.Child("secret")
		errs = append(errs, required(s.SecretName, at.Child("secretName"))...)
		errs = append(errs, validateItems(s.Items, s.DefaultMode, at)...)
	}
	if s := v.ConfigMap; s != nil {
		at := at.Child("configMap")
		errs = append(errs, required(s.Name, at.Child("name"))...)
		errs = append(errs, validateItems(s.Items, s.DefaultMode, at)...)
	}
	if s := v.DownwardAPI; s != nil {
		at := at.Child("downwardAPI")
		errs = append(errs, validateMode(s.DefaultMode, at.Child("defaultMode"))...)
		errs = append(errs, validateDownwardFiles(s.Items, at)...)
	}
	if s := v.Projected; s != nil {
		errs = append(errs, validateProjected(s, at.Child("projected"))...)
	}
	if s := v.PersistentVolumeClaim; s != nil {
		errs = append(errs, required(s.ClaimName, at.Child("persistentVolumeClaim", "claimName"))...)
	}
	if s := v.Image; s != nil {
		at := at.Child("image")
		errs = append(errs, required(s.Reference, at.Child("reference"))...)
		errs = append(errs, requiredOneOf(s.PullPolicy, at.Child("pullPolicy"), corev1.PullAlways, corev1.PullIfNotPresent, corev1.PullNever)...)
	}
	return errs
}

var hostPathTypes = []corev1.HostPathType{corev1.HostPathUnset, corev1.HostPathBlockDev, corev1.HostPathCharDev, corev1.HostPathDirectory,
	corev1.HostPathDirectoryOrCreate, corev1.HostPathFile, corev1.HostPathFileOrCreate, corev1.HostPathSocket}

func validateHostPath(s *corev1.HostPathVolumeSource, at *field.Path) field.ErrorList {
	if s.Path == "" {
		return field.ErrorList{field.Required(at.Child("path"), "")}
	}
	errs := noBacksteps(s.Path, at.Child("path"))
	if s.Type != nil {
		errs = append(errs, oneOf(*s.Type, at.Child("type"), hostPathTypes...)...)
	}
	return errs
}

func validateMode(mode *int32, at *field.Path) field.ErrorList {
	if mode != nil && (*mode < 0 || *mode > 0o777) {
		return field.ErrorList{field.Invalid(at, *mode, "must be a number between 0 and 0777 (octal), both inclusive")}
	}
	return nil
}

func validateItems(items []corev1.KeyToPath, mode *int32, at *field.Path) field.ErrorList {
	return append(validateMode(mode, at.Child("defaultMode")), each(items, at.Child("items"), validateKeyToPath)...)
}

func validateKeyToPath(k *corev1.KeyToPath, at *field.Path) field.ErrorList {
	return slices.Concat(required(k.Key, at.Child("key")), validateFilePath(k.Path, at.Child("path")), validateMode(k.Mode, at.Child("mode")))
}

// validateFilePath judges a file's place in a volume. Names that begin with
// ".." belong to the mechanism that swaps the files atomically.
func validateFilePath(path string, at *field.Path) field.ErrorList {
	if path == "" {
		return field.ErrorList{field.Required(at, "")}
	}
	errs := inside(path, at)
	if strings.HasPrefix(path, "..") && !strings.HasPrefix(path, "../") && path != ".." {
		errs = append(errs, field.Invalid(at, path, "must not start with '..'"))
	}
	return errs
}

// validateDownwardFiles: the errors are published without the items' indexes.
func validateDownwardFiles(list []corev1.DownwardAPIVolumeFile, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i := range list {
		errs = append(errs, validateDownwardFile(&list[i], at)...)
	}
	return errs
}

func validateDownwardFile(f *corev1.DownwardAPIVolumeFile, at *field.Path) field.ErrorList {
	errs := append(validateFilePath(f.Path, at.Child("path")), validateMode(f.Mode, at.Child("mode"))...)
	switch {
	case f.FieldRef != nil:
		errs = append(errs, validateFieldRef(f.FieldRef, fileFields, at.Child("fieldRef"))...)
		if f.ResourceFieldRef != nil {
			errs = append(errs, field.Invalid(at, "resource", "fieldRef and resourceFieldRef can not be specified simultaneously"))
		}
		return errs
	case f.ResourceFieldRef != nil:
		return append(errs, validateResourceFieldRef(f.ResourceFieldRef, true, at.Child("resourceFieldRef"))...)
	}
	return append(errs, field.Required(at, "one of fieldRef and resourceFieldRef is required"))
}

func validateProjected(s *corev1.ProjectedVolumeSource, list *field.Path) field.ErrorList {
	paths := sets.New[string]()
	errs := validateMode(s.DefaultMode, list.Child("defaultMode"))
	return append(errs, each(s.Sources, list.Child("sources"), func(p *corev1.VolumeProjection, at *field.Path) field.ErrorList {
		errs := validateProjection(p, at)
		if t := p.ServiceAccountToken; t != nil { // published without the source
			errs = append(errs, validateFilePath(t.Path, list.Child("path"))...)
		}
		for _, path := range projectedPaths(p) {
			if path != "" && paths.Has(path) {
				errs = append(errs, field.Invalid(list, path, "conflicting duplicate paths"))
			}
			paths.Insert(path)
		}
		if len(sources(*p, nil)) > 1 {
			errs = append(errs, field.Forbidden(at, "may not specify more than 1 volume type per source"))
		}
		return errs
	})...)
}

// projectedPaths lists the files that a projection is known to make.
func projectedPaths(p *corev1.VolumeProjection) []string {
	var out []string
	items := []corev1.KeyToPath{}
	if p.Secret != nil {
		items = append(items, p.Secret.Items...)
	}
	if p.ConfigMap != nil {
		items = append(items, p.ConfigMap.Items...)
	}
	for _, i := range items {
		out = append(out, i.Path)
	}
	if p.DownwardAPI != nil {
		for _, i := range p.DownwardAPI.Items {
			out = append(out, i.Path)
		}
	}
	if p.ClusterTrustBundle != nil {
		out = append(out, p.ClusterTrustBundle.Path)
	}
	if c := p.PodCertificate; c != nil {
		out = append(out, c.CredentialBundlePath, c.KeyPath, c.CertificateChainPath)
	}
	return out
}

func validateProjection(p *corev1.VolumeProjection, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if s := p.Secret; s != nil {
		at := at.Child("secret")
		errs = append(errs, required(s.Name, at.Child("name"))...)
		errs = append(errs, each(s.Items, at.Child("items"), validateKeyToPath)...)
	}
	if s := p.ConfigMap; s != nil {
		at := at.Child("configMap")
		errs = append(errs, required(s.Name, at.Child("name"))...)
		errs = append(errs, each(s.Items, at.Child("items"), validateKeyToPath)...)
	}
	if s := p.DownwardAPI; s != nil {
		errs = append(errs, validateDownwardFiles(s.Items, at.Child("downwardAPI"))...)
	}
	if s := p.ServiceAccountToken; s != nil {
		errs = append(errs, validateTokenLife(s.ExpirationSeconds, at.Child("serviceAccountToken", "expirationSeconds"))...)
	}
	if s := p.ClusterTrustBundle; s != nil {
		errs = append(errs, validateBundleProjection(s, at.Child("clusterTrustBundle"))...)
	}
	if s := p.PodCertificate; s != nil {
		errs = append(errs, validatePodCertificate(s, at.Child("podCertificate"))...)
	}
	return errs
}

// The bounds of a projected token's life, in seconds.
const minTokenSeconds, maxTokenSeconds = 10 * 60, 1 << 32

func validateTokenLife(seconds *int64, at *field.Path) field.ErrorList {
	switch {
	case seconds == nil:
		return field.ErrorList{field.Required(at, "")}
	case *seconds < minTokenSeconds:
		return field.ErrorList{field.Invalid(at, *seconds, "may not specify a duration less than 10 minutes")}
	case *seconds > maxTokenSeconds:
		return field.ErrorList{field.Invalid(at, *seconds, "may not specify a duration larger than 2^32 seconds")}
	}
	return nil
}

func validateBundleProjection(b *corev1.ClusterTrustBundleProjection, at *field.Path) field.ErrorList {
	errs := validateFilePath(b.Path, at.Child("path"))
	switch {
	case b.Name != nil && b.SignerName != nil:
		errs = append(errs, field.Invalid(at, "", "only one of name and signerName may be used"))
	case b.Name != nil:
		errs = append(errs, validateBundleName(*b.Name, at.Child("name"))...)
		if b.LabelSelector != nil {
			errs = append(errs, field.Invalid(at.Child("labelSelector"), b.LabelSelector, "labelSelector must be unset if name is specified"))
		}
	case b.SignerName != nil:
		errs = append(errs, validateSignerName(*b.SignerName, at.Child("signerName"))...)
		errs = append(errs, checkSelector(b.LabelSelector, at.Child("labelSelector"))...)
	default:
		errs = append(errs, field.Required(at, "either name or signerName must be specified"))
	}
	return errs
}

// validateBundleName: the name of a signer's bundle begins with the signer's.
func validateBundleName(name string, at *field.Path) field.ErrorList {
	if name == "" {
		return field.ErrorList{field.Required(at, "must be a valid object name")}
	}
	if i := strings.LastIndex(name, ":"); i >= 0 {
		name = name[i+1:]
	}
	var errs field.ErrorList
	for _, bad := range subdomain(name, false) {
		errs = append(errs, field.Invalid(at, name, "not a valid clustertrustbundlename: "+bad))
	}
	return errs
}

var podCertificateKeys = []string{"RSA3072", "RSA4096", "ECDSAP256", "ECDSAP384", "ECDSAP521", "ED25519"}

// The bounds of a pod certificate's life, in seconds.
const minCertificateSeconds, maxCertificateSeconds, maxOwnCertificateSeconds = 60 * 60, 91 * 24 * 60 * 60, 24 * 60 * 60

func validatePodCertificate(c *corev1.PodCertificateProjection, at *field.Path) field.ErrorList {
	errs := validateSignerName(c.SignerName, at.Child("signerName"))
	for key := range inOrder(c.UserAnnotations) {
		errs = append(errs, validation.IsDomainPrefixedKey(at.Child("userAnnotations"), strings.ToLower(key))...)
	}
	errs = append(errs, oneOf(c.KeyType, at.Child("keyType"), podCertificateKeys...)...)
	most := int32(maxCertificateSeconds)
	if domain, _, _ := strings.Cut(c.SignerName, "/"); domain == "kubernetes.io" || strings.HasSuffix(domain, ".kubernetes.io") {
		most = maxOwnCertificateSeconds
	}
	errs = append(errs, validateCertificateLife(c.MaxExpirationSeconds, most, at.Child("maxExpirationSeconds"))...)
	if c.CredentialBundlePath+c.KeyPath+c.CertificateChainPath == "" {
		return append(errs, field.Required(at, "specify at least one of credentialBundlePath, keyPath, and certificateChainPath"))
	}
	for name, path := range inOrder(map[string]string{"credentialBundlePath": c.CredentialBundlePath, "keyPath": c.KeyPath, "certificateChainPath": c.CertificateChainPath}) {
		if path != "" {
			errs = append(errs, validateFilePath(path, at.Child(name))...)
		}
	}
	return errs
}

func validateCertificateLife(seconds *int32, most int32, at *field.Path) field.ErrorList {
	switch {
	case seconds == nil:
	case *seconds < minCertificateSeconds:
		return field.ErrorList{field.Invalid(at, *seconds, fmt.Sprintf("if provided, maxExpirationSeconds must be >= %d", minCertificateSeconds))}
	case *seconds > most:
		return field.ErrorList{field.Invalid(at, *seconds, fmt.Sprintf("if provided, maxExpirationSeconds must be <= %d", most))}
	}
	return nil
}

func validateEphemeral(e *corev1.EphemeralVolumeSource, at *field.Path) field.ErrorList {
	at = at.Child("volumeClaimTemplate")
	if e.VolumeClaimTemplate == nil {
		return field.ErrorList{field.Required(at, "")}
	}
	errs := validateBareMeta(&e.VolumeClaimTemplate.ObjectMeta, at.Child("metadata"))
	return append(errs, validateClaimSpec(&e.VolumeClaimTemplate.Spec, at.Child("spec"))...)
}
