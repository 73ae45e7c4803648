package api

import (
	"fmt"
	"reflect"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"
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
		if v.Ephemeral != nil {
			errs = append(errs, validateEphemeral(v.Ephemeral, at.Child("ephemeral"))...)
		}
		c.volumes[v.Name] = v
		return errs
	})
}

// sources lists the members of a struct of alternatives that are set, by
// their JSON names, in the struct's order.
func sources(union any) []string {
	var out []string
	v := reflect.ValueOf(union)
	for i := range v.NumField() {
		if v.Field(i).Kind() == reflect.Pointer && !v.Field(i).IsNil() {
			name, _, _ := strings.Cut(v.Type().Field(i).Tag.Get("json"), ",")
			out = append(out, name)
		}
	}
	return out
}

// exactlyOne judges a struct of alternatives; what names one in messages.
func exactlyOne(union any, what string, at *field.Path) field.ErrorList {
	set := sources(union)
	if len(set) == 0 {
		return field.ErrorList{field.Required(at, "must specify a "+what)}
	}
	var errs field.ErrorList
	for _, name := range set[1:] {
		errs = append(errs, field.Forbidden(at.Child(name), "may not specify more than 1 "+what))
	}
	return errs
}

func validateVolumeSource(v *corev1.VolumeSource, at *field.Path) field.ErrorList {
	return slices.Concat(exactlyOne(*v, "volume type", at), validateFileSource(v, at), validateNetworkSource(v, at))
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
		errs = append(errs, each(s.Items, at, validateDownwardFile)...)
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

func validateDownwardFile(f *corev1.DownwardAPIVolumeFile, at *field.Path) field.ErrorList {
	errs := append(validateFilePath(f.Path, at.Child("path")), validateMode(f.Mode, at.Child("mode"))...)
	switch {
	case f.FieldRef != nil && f.ResourceFieldRef != nil:
		return append(errs, field.Invalid(at, "resource", "fieldRef and resourceFieldRef can not be specified simultaneously"))
	case f.FieldRef != nil:
		return append(errs, validateFieldRef(f.FieldRef, fileFields, at.Child("fieldRef"))...)
	case f.ResourceFieldRef != nil:
		return append(errs, validateResourceFieldRef(f.ResourceFieldRef, true, at.Child("resourceFieldRef"))...)
	}
	return append(errs, field.Required(at, "one of fieldRef and resourceFieldRef is required"))
}

func validateProjected(s *corev1.ProjectedVolumeSource, at *field.Path) field.ErrorList {
	paths := sets.New[string]()
	errs := validateMode(s.DefaultMode, at.Child("defaultMode"))
	return append(errs, each(s.Sources, at.Child("sources"), func(p *corev1.VolumeProjection, at *field.Path) field.ErrorList {
		errs := exactlyOne(*p, "volume type", at)
		errs = append(errs, validateProjection(p, at)...)
		for _, path := range projectedPaths(p) {
			if path != "" && paths.Has(path) {
				errs = append(errs, field.Invalid(at, path, "conflicting duplicate paths"))
			}
			paths.Insert(path)
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
	if p.ServiceAccountToken != nil {
		out = append(out, p.ServiceAccountToken.Path)
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
	switch {
	case p.Secret != nil:
		at := at.Child("secret")
		return append(required(p.Secret.Name, at.Child("name")), each(p.Secret.Items, at.Child("items"), validateKeyToPath)...)
	case p.ConfigMap != nil:
		at := at.Child("configMap")
		return append(required(p.ConfigMap.Name, at.Child("name")), each(p.ConfigMap.Items, at.Child("items"), validateKeyToPath)...)
	case p.DownwardAPI != nil:
		return each(p.DownwardAPI.Items, at.Child("downwardAPI"), validateDownwardFile)
	case p.ServiceAccountToken != nil:
		return validateTokenProjection(p.ServiceAccountToken, at.Child("serviceAccountToken"))
	case p.ClusterTrustBundle != nil:
		return validateBundleProjection(p.ClusterTrustBundle, at.Child("clusterTrustBundle"))
	case p.PodCertificate != nil:
		return validatePodCertificate(p.PodCertificate, at.Child("podCertificate"))
	}
	return nil
}

// The bounds of a projected token's life, in seconds.
const minTokenSeconds, maxTokenSeconds = 10 * 60, 1 << 32

func validateTokenProjection(t *corev1.ServiceAccountTokenProjection, at *field.Path) field.ErrorList {
	errs := validateFilePath(t.Path, at.Child("path"))
	switch s := t.ExpirationSeconds; {
	case s == nil:
		errs = append(errs, field.Required(at.Child("expirationSeconds"), ""))
	case *s < minTokenSeconds:
		errs = append(errs, field.Invalid(at.Child("expirationSeconds"), *s, "may not specify a duration less than 10 minutes"))
	case *s > maxTokenSeconds:
		errs = append(errs, field.Invalid(at.Child("expirationSeconds"), *s, "may not specify a duration larger than 2^32 seconds"))
	}
	return errs
}

func validateBundleProjection(b *corev1.ClusterTrustBundleProjection, at *field.Path) field.ErrorList {
	errs := validateFilePath(b.Path, at.Child("path"))
	switch {
	case b.Name != nil && b.SignerName != nil:
		errs = append(errs, field.Invalid(at, "", "only one of name and signerName may be used"))
	case b.Name != nil:
		errs = append(errs, required(*b.Name, at.Child("name"))...)
		if b.LabelSelector != nil {
			errs = append(errs, field.Invalid(at.Child("labelSelector"), b.LabelSelector, "labelSelector must be unset if name is specified"))
		}
	case b.SignerName != nil:
		errs = append(errs, required(*b.SignerName, at.Child("signerName"))...)
		errs = append(errs, checkSelector(b.LabelSelector, at.Child("labelSelector"))...)
	default:
		errs = append(errs, field.Required(at, "either name or signerName must be specified"))
	}
	return errs
}

var podCertificateKeys = []string{"RSA3072", "RSA4096", "ECDSAP256", "ECDSAP384", "ECDSAP521", "ED25519"}

// The bounds of a pod certificate's life, in seconds.
const minCertificateSeconds, maxCertificateSeconds = 60 * 60, 91 * 24 * 60 * 60

func validatePodCertificate(c *corev1.PodCertificateProjection, at *field.Path) field.ErrorList {
	errs := required(c.SignerName, at.Child("signerName"))
	errs = append(errs, requiredOneOf(c.KeyType, at.Child("keyType"), podCertificateKeys...)...)
	errs = append(errs, validateCertificateLife(c.MaxExpirationSeconds, at.Child("maxExpirationSeconds"))...)
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

func validateCertificateLife(seconds *int32, at *field.Path) field.ErrorList {
	switch {
	case seconds == nil:
	case *seconds < minCertificateSeconds:
		return field.ErrorList{field.Invalid(at, *seconds, fmt.Sprintf("if provided, maxExpirationSeconds must be >= %d", minCertificateSeconds))}
	case *seconds > maxCertificateSeconds:
		return field.ErrorList{field.Invalid(at, *seconds, fmt.Sprintf("if provided, maxExpirationSeconds must be <= %d", maxCertificateSeconds))}
	}
	return nil
}

func validateEphemeral(e *corev1.EphemeralVolumeSource, at *field.Path) field.ErrorList {
	at = at.Child("volumeClaimTemplate")
	if e.VolumeClaimTemplate == nil {
		return field.ErrorList{field.Required(at, "")}
	}
	errs := validateTemplateMeta(&e.VolumeClaimTemplate.ObjectMeta, at.Child("metadata"))
	return append(errs, validateClaimSpec(&e.VolumeClaimTemplate.Spec, at.Child("spec"))...)
}
