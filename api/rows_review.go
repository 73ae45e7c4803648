package api

import (
	"fmt"
	"reflect"
	"strings"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Reviews are questions: an answer is made while the client waits, and nothing
// is stored. That a row takes no verb but create says so.

func authenticationRows() []*Resource {
	gv := authenticationv1.SchemeGroupVersion
	return []*Resource{
		review[*authenticationv1.SelfSubjectReview](gv, "selfsubjectreviews", false, nil),
		review[*authenticationv1.TokenReview](gv, "tokenreviews", false, nil),
	}
}

func authorizationRows() []*Resource {
	gv := authorizationv1.SchemeGroupVersion
	return []*Resource{
		review(gv, "localsubjectaccessreviews", true, validateLocalSubjectAccessReview),
		review(gv, "selfsubjectaccessreviews", false, validateSelfSubjectAccessReview),
		review[*authorizationv1.SelfSubjectRulesReview](gv, "selfsubjectrulesreviews", false, nil),
		review(gv, "subjectaccessreviews", false, validateSubjectAccessReview),
	}
}

func review[P Object](gv schema.GroupVersion, plural string, namespaced bool, validate func(P) field.ErrorList) *Resource {
	typ := reflect.TypeFor[P]().Elem()
	r := &Resource{
		Group: gv.Group, Version: gv.Version, Kind: typ.Name(),
		Plural: plural, Singular: strings.ToLower(typ.Name()), Namespaced: namespaced,
		Verbs: []string{"create"},
		New:   func() Object { return reflect.New(typ).Interface().(Object) },
	}
	if validate != nil {
		r.Validate = func(obj Object) field.ErrorList { return validate(obj.(P)) }
	}
	return r
}

func validateSubjectAccessReview(r *authorizationv1.SubjectAccessReview) field.ErrorList {
	return append(validateSubjectAccess(&r.Spec), metadataMustBe(r.ObjectMeta, metav1.ObjectMeta{}, "must be empty")...)
}

func validateSelfSubjectAccessReview(r *authorizationv1.SelfSubjectAccessReview) field.ErrorList {
	errs := validateAttributes(r.Spec.ResourceAttributes, r.Spec.NonResourceAttributes)
	return append(errs, metadataMustBe(r.ObjectMeta, metav1.ObjectMeta{}, "must be empty")...)
}

func validateLocalSubjectAccessReview(r *authorizationv1.LocalSubjectAccessReview) field.ErrorList {
	errs := validateSubjectAccess(&r.Spec)
	errs = append(errs, metadataMustBe(r.ObjectMeta, metav1.ObjectMeta{Namespace: r.Namespace}, "must be empty except for namespace")...)
	if a := r.Spec.ResourceAttributes; a != nil && a.Namespace != r.Namespace {
		errs = append(errs, field.Invalid(specPath.Child("resourceAttributes", "namespace"), a.Namespace, "must match metadata.namespace"))
	}
	if a := r.Spec.NonResourceAttributes; a != nil {
		errs = append(errs, field.Invalid(specPath.Child("nonResourceAttributes"), a, "disallowed on this kind of request"))
	}
	return errs
}

// metadataMustBe refuses metadata that a review has no use for. What the
// server itself fills in on the way is not looked at.
func metadataMustBe(have, want metav1.ObjectMeta, message string) field.ErrorList {
	kept := have
	kept.ManagedFields, kept.CreationTimestamp, kept.UID = nil, metav1.Time{}, ""
	if reflect.DeepEqual(kept, want) {
		return nil
	}
	return field.ErrorList{field.Invalid(metaPath, have, message)}
}

func validateSubjectAccess(s *authorizationv1.SubjectAccessReviewSpec) field.ErrorList {
	errs := validateAttributes(s.ResourceAttributes, s.NonResourceAttributes)
	if s.User == "" && len(s.Groups) == 0 {
		errs = append(errs, field.Invalid(specPath.Child("user"), s.User, "at least one of user or group must be specified"))
	}
	return errs
}

func validateAttributes(res *authorizationv1.ResourceAttributes, other *authorizationv1.NonResourceAttributes) field.ErrorList {
	var errs field.ErrorList
	switch {
	case res != nil && other != nil:
		errs = append(errs, field.Invalid(specPath.Child("nonResourceAttributes"), other, "cannot be specified in combination with resourceAttributes"))
	case res == nil && other == nil:
		errs = append(errs, field.Invalid(specPath.Child("resourceAttributes"), other, "exactly one of nonResourceAttributes or resourceAttributes must be specified"))
	}
	if res == nil {
		return errs
	}
	at := specPath.Child("resourceAttributes")
	if s := res.FieldSelector; s != nil {
		errs = append(errs, validateSelectorForm(s.RawSelector, len(s.Requirements), at.Child("fieldSelector"))...)
		for i, q := range s.Requirements {
			opts := metavalidation.FieldSelectorValidationOptions{AllowUnknownOperatorInRequirement: true}
			errs = append(errs, metavalidation.ValidateFieldSelectorRequirement(q, opts, at.Child("fieldSelector", "requirements").Index(i))...)
		}
	}
	if s := res.LabelSelector; s != nil {
		errs = append(errs, validateSelectorForm(s.RawSelector, len(s.Requirements), at.Child("labelSelector"))...)
		for i, q := range s.Requirements {
			opts := metavalidation.LabelSelectorValidationOptions{AllowUnknownOperatorInRequirement: true}
			errs = append(errs, metavalidation.ValidateLabelSelectorRequirement(q, opts, at.Child("labelSelector", "requirements").Index(i))...)
		}
	}
	return errs
}

// validateSelectorForm: a selector is given raw or as requirements.
func validateSelectorForm(raw string, requirements int, at *field.Path) field.ErrorList {
	switch {
	case raw != "" && requirements > 0:
		return field.ErrorList{field.Invalid(at.Child("rawSelector"), raw, "may not specified at the same time as requirements")}
	case raw == "" && requirements == 0:
		return field.ErrorList{field.Required(at.Child("requirements"), fmt.Sprintf("when %s is specified, requirements or rawSelector is required", at))}
	}
	return nil
}
