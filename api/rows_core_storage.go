package api

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

var accessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadOnlyMany, corev1.ReadWriteMany, corev1.ReadWriteOnce, corev1.ReadWriteOncePod}

func validateAccessModes(modes []corev1.PersistentVolumeAccessMode, at *field.Path) field.ErrorList {
	if len(modes) == 0 {
		return field.ErrorList{field.Required(at, "at least 1 access mode is required")}
	}
	errs := each(modes, at, func(m *corev1.PersistentVolumeAccessMode, at *field.Path) field.ErrorList {
		return oneOf(*m, at, accessModes...)
	})
	if len(sets.New(modes...)) > 1 && slices.Contains(modes, corev1.ReadWriteOncePod) {
		errs = append(errs, field.Forbidden(at, "may not use ReadWriteOncePod with other access modes"))
	}
	return errs
}

// validateClaimSpec judges the spec of a claim, also of a claim template.
func validateClaimSpec(s *corev1.PersistentVolumeClaimSpec, at *field.Path) field.ErrorList {
	errs := slices.Concat(
		validateAccessModes(s.AccessModes, at.Child("accessModes")),
		checkSelector(s.Selector, at.Child("selector")),
	)
	storage, asked := s.Resources.Requests[corev1.ResourceStorage]
	request := at.Child("resources").Key(string(corev1.ResourceStorage))
	if !asked {
		errs = append(errs, field.Required(request, ""))
	} else if storage.Sign() <= 0 {
		errs = append(errs, field.Invalid(request, storage.String(), "must be greater than zero"))
	}
	if n := s.StorageClassName; n != nil && *n != "" {
		errs = append(errs, invalidEach(*n, at.Child("storageClassName"), dnsName(*n))...)
	}
	if n := s.VolumeAttributesClassName; n != nil && *n != "" {
		errs = append(errs, invalidEach(*n, at.Child("volumeAttributesClassName"), dnsName(*n))...)
	}
	if m := s.VolumeMode; m != nil {
		errs = append(errs, oneOf(*m, at.Child("volumeMode"), corev1.PersistentVolumeBlock, corev1.PersistentVolumeFilesystem)...)
	}
	return append(errs, validateDataSources(s, at)...)
}

func validateDataSources(s *corev1.PersistentVolumeClaimSpec, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if d := s.DataSource; d != nil {
		errs = append(errs, validateDataSource(d.APIGroup, d.Kind, d.Name, at.Child("dataSource"))...)
	}
	r := s.DataSourceRef
	if r == nil {
		return errs
	}
	errs = append(errs, validateDataSource(r.APIGroup, r.Kind, r.Name, at.Child("dataSourceRef"))...)
	if d := s.DataSource; d != nil && r.Namespace == nil && (d.Kind != r.Kind || d.Name != r.Name || deref(d.APIGroup, "") != deref(r.APIGroup, "")) {
		errs = append(errs, field.Invalid(at, at.Child("dataSource").String(), "must match dataSourceRef"))
	}
	return errs
}

func validateDataSource(group *string, kind, name string, at *field.Path) field.ErrorList {
	errs := need(at, "name", name, "kind", kind)
	if deref(group, "") == "" && kind != "" && kind != "PersistentVolumeClaim" {
		errs = append(errs, field.Invalid(at, kind, "must be 'PersistentVolumeClaim' when referencing the default apiGroup"))
	}
	return errs
}
