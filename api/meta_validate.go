package api

import (
	"reflect"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/api/validation/path"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// The rules that names follow; a kind that names none is a DNS subdomain.
var (
	subdomain apivalidation.ValidateNameFunc = apivalidation.NameIsDNSSubdomain
	dnsLabel  apivalidation.ValidateNameFunc = apivalidation.NameIsDNSLabel
	// dns1035Label is a label that begins with a letter.
	dns1035Label apivalidation.ValidateNameFunc = apivalidation.NameIsDNS1035Label
	// pathSegment may hold colons and capitals (RBAC).
	pathSegment apivalidation.ValidateNameFunc = path.ValidatePathSegmentName
)

// required judges a string that must be there.
func required[S ~string](s S, at *field.Path) field.ErrorList {
	if s == "" {
		return field.ErrorList{field.Required(at, "")}
	}
	return nil
}

// named judges a reference by name: it must be there and follow the rule.
func named(name string, rule apivalidation.ValidateNameFunc, at *field.Path) field.ErrorList {
	if name == "" {
		return field.ErrorList{field.Required(at, "")}
	}
	return invalidEach(name, at, rule(name, false))
}

var standardFinalizers = []string{string(corev1.FinalizerKubernetes), metav1.FinalizerOrphanDependents, metav1.FinalizerDeleteDependents}

// validateFinalizers: whoever adds a finalizer of their own says so by a domain.
func validateFinalizers(list []string, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i, f := range list {
		if !strings.Contains(f, "/") && !slices.Contains(standardFinalizers, f) {
			errs = append(errs, field.Invalid(at.Index(i), f, "name is neither a standard finalizer name nor is it fully qualified"))
		}
	}
	return errs
}

// validateBareMeta judges metadata that may have labels and annotations only.
func validateBareMeta(m *metav1.ObjectMeta, at *field.Path) field.ErrorList {
	errs := metavalidation.ValidateLabels(m.Labels, at.Child("labels"))
	errs = append(errs, apivalidation.ValidateAnnotations(m.Annotations, at.Child("annotations"))...)
	v := reflect.ValueOf(*m)
	for i := range v.NumField() {
		if name := v.Type().Field(i).Name; name != "Labels" && name != "Annotations" && !v.Field(i).IsZero() {
			errs = append(errs, field.Forbidden(at.Child(strings.ToLower(name[:1])+name[1:]), "cannot be set"))
		}
	}
	return errs
}

// validateTemplateMeta judges the metadata of a template; its name means
// nothing.
func validateTemplateMeta(m *metav1.ObjectMeta, at *field.Path) field.ErrorList {
	errs := metavalidation.ValidateLabels(m.Labels, at.Child("labels"))
	return append(errs, apivalidation.ValidateAnnotations(m.Annotations, at.Child("annotations"))...)
}
