package custom

import (
	"fmt"
	"slices"
	"time"

	"k8s.io/apiextensions-apiserver/pkg/apihelpers"
	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	structuralschema "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/client-go/util/cert"
)

type (
	crdCondition = apiextensionsv1.CustomResourceDefinitionCondition
	crdNames     = apiextensionsv1.CustomResourceDefinitionNames
)

// judge decides a definition's names and conditions, given the others of its
// group. It returns the status to write, or nil where all is as it should be.
func judge(crd *apiextensionsv1.CustomResourceDefinition, others []*apiextensionsv1.CustomResourceDefinition, now time.Time) *apiextensionsv1.CustomResourceDefinitionStatus {
	next := crd.DeepCopy()
	set := func(c crdCondition) { setCondition(&next.Status, c, now) }
	if accepted := findCondition(&crd.Status, apiextensionsv1.NamesAccepted); accepted == nil || !equality.Semantic.DeepEqual(crd.Spec.Names, crd.Status.AcceptedNames) {
		names, c := acceptNames(crd, others)
		next.Status.AcceptedNames = names
		set(c)
	}
	set(established(next))
	if c := nonStructural(crd); c != nil {
		set(*c)
	} else {
		next.Status.Conditions = slices.DeleteFunc(next.Status.Conditions, func(c crdCondition) bool { return c.Type == apiextensionsv1.NonStructuralSchema })
	}
	if c := approval(crd); c != nil {
		set(*c)
	}
	if equality.Semantic.DeepEqual(crd.Status, next.Status) {
		return nil
	}
	return &next.Status
}

func findCondition(s *apiextensionsv1.CustomResourceDefinitionStatus, t apiextensionsv1.CustomResourceDefinitionConditionType) *crdCondition {
	for i := range s.Conditions {
		if s.Conditions[i].Type == t {
			return &s.Conditions[i]
		}
	}
	return nil
}

func isTrue(s *apiextensionsv1.CustomResourceDefinitionStatus, t apiextensionsv1.CustomResourceDefinitionConditionType) bool {
	c := findCondition(s, t)
	return c != nil && c.Status == apiextensionsv1.ConditionTrue
}

// setCondition puts a condition in; its time is that of the last change of its
// status.
func setCondition(s *apiextensionsv1.CustomResourceDefinitionStatus, c crdCondition, now time.Time) {
	old := findCondition(s, c.Type)
	c.LastTransitionTime = metav1.NewTime(now).Rfc3339Copy()
	if old == nil {
		s.Conditions = append(s.Conditions, c)
		return
	}
	if old.Status == c.Status && !old.LastTransitionTime.IsZero() {
		c.LastTransitionTime = old.LastTransitionTime
	}
	if c.ObservedGeneration == 0 {
		c.ObservedGeneration = old.ObservedGeneration
	}
	*old = c
}

// acceptNames takes those of the wished names that no other definition of the
// group has.
func acceptNames(crd *apiextensionsv1.CustomResourceDefinition, others []*apiextensionsv1.CustomResourceDefinition) (crdNames, crdCondition) {
	resources, kinds := map[string]bool{}, map[string]bool{}
	for _, o := range others {
		n := o.Status.AcceptedNames
		for _, name := range append([]string{n.Plural, n.Singular}, n.ShortNames...) {
			resources[name] = true
		}
		kinds[n.Kind], kinds[n.ListKind] = true, true
	}
	wish, names := crd.Spec.Names, crd.Status.AcceptedNames
	verdict := crdCondition{Type: apiextensionsv1.NamesAccepted, Status: apiextensionsv1.ConditionTrue, Reason: "NoConflicts", Message: "no conflicts found"}
	refuse := func(reason string, err error) {
		verdict.Status, verdict.Reason, verdict.Message = apiextensionsv1.ConditionFalse, reason, err.Error()
	}
	one := func(want string, have *string, used map[string]bool, reason string) {
		if want != *have && used[want] {
			refuse(reason, inUse(want))
			return
		}
		*have = want
	}
	one(wish.Plural, &names.Plural, resources, "PluralConflict")
	one(wish.Singular, &names.Singular, resources, "SingularConflict")
	if err := shortNamesInUse(wish.ShortNames, names.ShortNames, resources); err != nil {
		refuse("ShortNamesConflict", err)
	} else {
		names.ShortNames = wish.ShortNames
	}
	one(wish.Kind, &names.Kind, kinds, "KindConflict")
	one(wish.ListKind, &names.ListKind, kinds, "ListKindConflict")
	names.Categories = wish.Categories
	return names, verdict
}

func inUse(name string) error { return fmt.Errorf("%q is already in use", name) }

func shortNamesInUse(wish, have []string, used map[string]bool) error {
	var errs []error
	for _, name := range wish {
		if used[name] && !slices.Contains(have, name) {
			errs = append(errs, inUse(name))
		}
	}
	if len(errs) == 0 {
		return nil
	}
	return utilerrors.NewAggregate(errs)
}

// established says whether a definition is served; once it is, it stays so.
func established(crd *apiextensionsv1.CustomResourceDefinition) crdCondition {
	c := crdCondition{Type: apiextensionsv1.Established, Status: apiextensionsv1.ConditionFalse}
	switch {
	case isTrue(&crd.Status, apiextensionsv1.Established):
		return *findCondition(&crd.Status, apiextensionsv1.Established)
	case !isTrue(&crd.Status, apiextensionsv1.NamesAccepted):
		c.Reason, c.Message = "NotAccepted", "not all names are accepted"
	case badBundle(crd):
		c.Reason, c.Message = "InvalidCABundle", "The conversion webhook CABundle is invalid"
	default:
		c.Status, c.Reason, c.Message = apiextensionsv1.ConditionTrue, "InitialNamesAccepted", "the initial names have been accepted"
	}
	return c
}

func badBundle(crd *apiextensionsv1.CustomResourceDefinition) bool {
	c := crd.Spec.Conversion
	if c == nil || c.Webhook == nil || c.Webhook.ClientConfig == nil || len(c.Webhook.ClientConfig.CABundle) == 0 {
		return false
	}
	_, err := cert.ParseCertsPEM(c.Webhook.ClientConfig.CABundle)
	return err != nil
}

// nonStructural tells what an old definition's schemas break of the structural
// rules; nil where they keep them.
func nonStructural(crd *apiextensionsv1.CustomResourceDefinition) *crdCondition {
	if !crd.Spec.PreserveUnknownFields && findCondition(&crd.Status, apiextensionsv1.NonStructuralSchema) == nil {
		return nil // validation has seen to it
	}
	c := &crdCondition{Type: apiextensionsv1.NonStructuralSchema, Status: apiextensionsv1.ConditionTrue, Reason: "Violations"}
	errs := field.ErrorList{}
	if crd.Spec.PreserveUnknownFields {
		errs = append(errs, field.Invalid(field.NewPath("spec", "preserveUnknownFields"), true, "must be false"))
	}
	for i := range crd.Spec.Versions {
		s, err := structuralOf(&crd.Spec.Versions[i])
		if err != nil {
			c.Status, c.Reason = apiextensionsv1.ConditionUnknown, "StructuralError"
			c.Message = fmt.Sprintf("failed to check validation schema for version %s: %v", crd.Spec.Versions[i].Name, err)
			return c
		}
		if s != nil {
			errs = append(errs, structuralschema.ValidateStructural(field.NewPath("spec", "versions").Index(i).Child("schema", "openAPIV3Schema"), s)...)
		}
	}
	if len(errs) == 0 {
		return nil
	}
	c.Message = errs.ToAggregate().Error()
	return c
}

func structuralOf(v *apiextensionsv1.CustomResourceDefinitionVersion) (*structuralschema.Structural, error) {
	if v.Schema == nil || v.Schema.OpenAPIV3Schema == nil {
		return nil, nil
	}
	in := &apiextensions.CustomResourceValidation{}
	if err := apiextensionsv1.Convert_v1_CustomResourceValidation_To_apiextensions_CustomResourceValidation(v.Schema, in, nil); err != nil {
		return nil, err
	}
	return structuralschema.NewStructural(in.OpenAPIV3Schema)
}

// approval is about groups that belong to the Kubernetes project (KEP-1111).
func approval(crd *apiextensionsv1.CustomResourceDefinition) *crdCondition {
	if !apihelpers.IsProtectedCommunityGroup(crd.Spec.Group) {
		return nil
	}
	c := &crdCondition{Type: apiextensionsv1.KubernetesAPIApprovalPolicyConformant}
	state, reason := apihelpers.GetAPIApprovalState(crd.Annotations)
	c.Message = reason
	switch state {
	case apihelpers.APIApprovalInvalid:
		c.Status, c.Reason = apiextensionsv1.ConditionFalse, "InvalidAnnotation"
	case apihelpers.APIApprovalMissing:
		c.Status, c.Reason = apiextensionsv1.ConditionFalse, "MissingAnnotation"
	case apihelpers.APIApproved:
		c.Status, c.Reason = apiextensionsv1.ConditionTrue, "ApprovedAnnotation"
	case apihelpers.APIApprovalBypassed:
		c.Status, c.Reason = apiextensionsv1.ConditionFalse, "UnapprovedAnnotation"
	default:
		c.Status, c.Reason = apiextensionsv1.ConditionUnknown, "UnknownAnnotation"
	}
	return c
}
