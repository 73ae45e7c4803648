package api

import (
	"fmt"
	"strings"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func validatingPolicyRow() *Resource {
	return kind[*admissionv1.ValidatingAdmissionPolicy]{
		GroupVersion: admissionv1.SchemeGroupVersion, Plural: "validatingadmissionpolicies", Categories: extensionCategory,
		List:           &admissionv1.ValidatingAdmissionPolicyList{},
		FreeFinalizers: true,
		Status:         true, Generation: true,
		Default: func(p *admissionv1.ValidatingAdmissionPolicy) {
			unset(&p.Spec.FailurePolicy, admissionv1.Fail)
			defaultMatch(p.Spec.MatchConstraints)
		},
		Validate: validateValidatingPolicy,
		Columns: columns(nameColumn,
			column("Validations", "integer", "Validations indicates the number of validation rules defined in this configuration"),
			column("ParamKind", "string", "ParamKind specifies the kind of resources used to parameterize this policy"),
			ageColumn),
		Cells: func(p *admissionv1.ValidatingAdmissionPolicy, now time.Time) []any {
			return []any{p.Name, int64(len(p.Spec.Validations)), paramKindCell(p.Spec.ParamKind), age(p, now)}
		},
	}.row()
}

func paramKindCell(k *admissionv1.ParamKind) string {
	if k == nil {
		return "<unset>"
	}
	return k.APIVersion + "/" + k.Kind
}

func defaultMatch(m *admissionv1.MatchResources) {
	if m == nil {
		return
	}
	unset(&m.MatchPolicy, admissionv1.Equivalent)
	unset(&m.NamespaceSelector, metav1.LabelSelector{})
	unset(&m.ObjectSelector, metav1.LabelSelector{})
	for _, rules := range [][]admissionv1.NamedRuleWithOperations{m.ResourceRules, m.ExcludeResourceRules} {
		for i := range rules {
			unset(&rules[i].Scope, admissionv1.AllScopes)
		}
	}
}

const (
	maxAuditAnnotations    = 20
	maxAnnotationValueRule = 5 << 10 // bytes of the expression
)

func validateValidatingPolicy(p *admissionv1.ValidatingAdmissionPolicy) field.ErrorList {
	s := &p.Spec
	errs := validatePolicyShared(s.ParamKind, s.MatchConstraints, s.FailurePolicy, s.MatchConditions)
	errs = append(errs, each(s.Variables, specPath.Child("variables"), validatePolicyVariable)...)
	if len(s.Validations) == 0 && len(s.AuditAnnotations) == 0 {
		errs = append(errs, field.Required(specPath.Child("validations"), "validations or auditAnnotations must contain at least one item"))
		return append(errs, field.Required(specPath.Child("auditAnnotations"), "validations or auditAnnotations must contain at least one item"))
	}
	errs = append(errs, each(s.Validations, specPath.Child("validations"), validatePolicyValidation)...)
	annotations := specPath.Child("auditAnnotations")
	if len(s.AuditAnnotations) > maxAuditAnnotations {
		errs = append(errs, field.Invalid(annotations, s.AuditAnnotations, fmt.Sprintf("must not have more than %d auditAnnotations", maxAuditAnnotations)))
	}
	seen := sets.New[string]()
	return append(errs, each(s.AuditAnnotations, annotations, func(a *admissionv1.AuditAnnotation, at *field.Path) field.ErrorList {
		return append(validateAuditAnnotation(p.Name, a, at), unique(seen, a.Key, at.Child("key"))...)
	})...)
}

// validateAuditAnnotation: with the policy's name the key makes the annotation's.
func validateAuditAnnotation(policy string, a *admissionv1.AuditAnnotation, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if key := at.Child("key"); policy == "" {
		errs = append(errs, field.Invalid(key, a.Key, "requires metadata.name be non-empty"))
	} else {
		errs = append(errs, invalidEach(policy+"/"+a.Key, key, validation.IsQualifiedName(policy+"/"+a.Key))...)
	}
	value, text := at.Child("valueExpression"), strings.TrimSpace(a.ValueExpression)
	switch {
	case text == "":
		return append(errs, field.Required(value, "valueExpression is not specified"))
	case len(text) > maxAnnotationValueRule:
		return append(errs, field.Required(value, fmt.Sprintf("must not exceed %d bytes in length", maxAnnotationValueRule)))
	}
	return errs
}

func validatePolicyVariable(v *admissionv1.Variable, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if strings.TrimSpace(v.Name) == "" {
		errs = append(errs, field.Required(at.Child("name"), "name is not specified"))
	}
	if strings.TrimSpace(v.Expression) == "" {
		errs = append(errs, field.Required(at.Child("expression"), "expression is not specified"))
	}
	return errs
}

func validatePolicyValidation(v *admissionv1.Validation, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if strings.TrimSpace(v.Expression) == "" {
		errs = append(errs, field.Required(at.Child("expression"), "expression is not specified"))
	}
	if text := at.Child("messageExpression"); v.MessageExpression != "" && strings.TrimSpace(v.MessageExpression) == "" {
		errs = append(errs, field.Invalid(text, v.MessageExpression, "must be non-empty if specified"))
	}
	message := strings.TrimSpace(v.Message)
	switch {
	case v.Message != "" && message == "":
		errs = append(errs, field.Invalid(at.Child("message"), v.Message, "must be non-empty if specified"))
	case strings.ContainsAny(message, "\n"):
		errs = append(errs, field.Invalid(at.Child("message"), v.Message, "must not contain line breaks"))
	}
	if r := v.Reason; r != nil {
		errs = append(errs, oneOf(*r, at.Child("reason"), metav1.StatusReasonForbidden, metav1.StatusReasonInvalid,
			metav1.StatusReasonRequestEntityTooLarge, metav1.StatusReasonUnauthorized)...)
	}
	return errs
}

func validatePolicyShared(k *admissionv1.ParamKind, m *admissionv1.MatchResources, fail *admissionv1.FailurePolicyType, conditions []admissionv1.MatchCondition) field.ErrorList {
	var errs field.ErrorList
	if fail != nil {
		errs = append(errs, oneOf(*fail, specPath.Child("failurePolicy"), admissionv1.Fail, admissionv1.Ignore)...)
	}
	if k != nil {
		errs = append(errs, validateParamKind(k, specPath.Child("paramKind"))...)
	}
	at := specPath.Child("matchConstraints")
	if m == nil {
		errs = append(errs, field.Required(at, ""))
	} else {
		errs = append(errs, validateMatch(m, at)...)
		if len(m.ResourceRules) == 0 {
			errs = append(errs, field.Required(at.Child("resourceRules"), ""))
		}
	}
	return append(errs, validateMatchConditions(conditions, specPath.Child("matchConditions"))...)
}

func validateParamKind(k *admissionv1.ParamKind, at *field.Path) field.ErrorList {
	errs := validateParamVersion(k.APIVersion, at.Child("apiVersion"))
	if k.Kind == "" {
		return append(errs, field.Required(at.Child("kind"), ""))
	}
	if bad := validation.IsDNS1035Label(strings.ToLower(k.Kind)); len(bad) > 0 {
		errs = append(errs, field.Invalid(at.Child("kind"), k.Kind, "may have mixed case, but should otherwise match: "+strings.Join(bad, ",")))
	}
	return errs
}

func validateParamVersion(text string, at *field.Path) field.ErrorList {
	if text == "" {
		return field.ErrorList{field.Required(at, "")}
	}
	group, version, both := strings.Cut(text, "/")
	if !both {
		group, version = "", text
	}
	if strings.Contains(version, "/") {
		return field.ErrorList{field.Invalid(at, text, "unexpected GroupVersion string: "+text)}
	}
	var errs field.ErrorList
	if bad := validation.IsDNS1123Subdomain(group); group != "" && len(bad) > 0 {
		errs = append(errs, field.Invalid(at, group, strings.Join(bad, ",")))
	}
	if version == "" {
		errs = append(errs, field.Invalid(at, text, "version must be specified"))
	} else if bad := validation.IsDNS1035Label(version); len(bad) > 0 {
		errs = append(errs, field.Invalid(at, version, strings.Join(bad, ",")))
	}
	return errs
}

func validateMatch(m *admissionv1.MatchResources, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if m.MatchPolicy == nil {
		errs = append(errs, field.Required(at.Child("matchPolicy"), ""))
	} else {
		errs = append(errs, oneOf(*m.MatchPolicy, at.Child("matchPolicy"), admissionv1.Equivalent, admissionv1.Exact)...)
	}
	errs = append(errs, requiredSelector(m.NamespaceSelector, at.Child("namespaceSelector"))...)
	errs = append(errs, requiredSelector(m.ObjectSelector, at.Child("objectSelector"))...)
	rule := func(r *admissionv1.NamedRuleWithOperations, at *field.Path) field.ErrorList {
		seen := sets.New[string]()
		names := each(r.ResourceNames, at.Child("resourceNames"), func(n *string, at *field.Path) field.ErrorList {
			return append(invalidEach(*n, at, pathSegment(*n, false)), unique(seen, *n, at)...)
		})
		return append(names, validateWebhookRule(&r.RuleWithOperations, at)...)
	}
	errs = append(errs, each(m.ResourceRules, at.Child("resourceRules"), rule)...)
	return append(errs, each(m.ExcludeResourceRules, at.Child("excludeResourceRules"), rule)...)
}

func requiredSelector(s *metav1.LabelSelector, at *field.Path) field.ErrorList {
	if s == nil {
		return field.ErrorList{field.Required(at, "")}
	}
	return checkSelector(s, at)
}

func validatingPolicyBindingRow() *Resource {
	return kind[*admissionv1.ValidatingAdmissionPolicyBinding]{
		GroupVersion: admissionv1.SchemeGroupVersion, Plural: "validatingadmissionpolicybindings", Categories: extensionCategory,
		List:           &admissionv1.ValidatingAdmissionPolicyBindingList{},
		FreeFinalizers: true,
		Generation:     true,
		Indexes: map[string]func(*admissionv1.ValidatingAdmissionPolicyBinding) []string{
			"policy": func(b *admissionv1.ValidatingAdmissionPolicyBinding) []string { return []string{b.Spec.PolicyName} },
		},
		Default: func(b *admissionv1.ValidatingAdmissionPolicyBinding) {
			defaultMatch(b.Spec.MatchResources)
			defaultParamRef(b.Spec.ParamRef)
		},
		Validate: func(b *admissionv1.ValidatingAdmissionPolicyBinding) field.ErrorList {
			// Upstream's spelling of the path.
			errs := validatePolicyBinding(b.Spec.PolicyName, b.Spec.ParamRef, b.Spec.MatchResources, specPath.Child("matchResources"))
			return append(errs, validateActions(b.Spec.ValidationActions, specPath.Child("validationActions"))...)
		},
		Columns: bindingPolicyColumns(),
		Cells: func(b *admissionv1.ValidatingAdmissionPolicyBinding, now time.Time) []any {
			return []any{b.Name, b.Spec.PolicyName, paramRefCell(b.Spec.ParamRef), age(b, now)}
		},
	}.row()
}

func bindingPolicyColumns() []metav1.TableColumnDefinition {
	return columns(nameColumn,
		column("PolicyName", "string", "PolicyName indicates the policy definition which the policy binding binded to"),
		column("ParamRef", "string", "ParamRef indicates the param resource which sets the configration param"),
		ageColumn)
}

func paramRefCell(r *admissionv1.ParamRef) string {
	switch {
	case r == nil:
		return "<unset>"
	case r.Name != "":
		return orElse(r.Namespace, "*") + "/" + r.Name
	case r.Selector != nil:
		return r.Selector.String()
	}
	return "<unset>"
}

func defaultParamRef(r *admissionv1.ParamRef) {
	if r != nil {
		unset(&r.ParameterNotFoundAction, admissionv1.DenyAction)
	}
}

func validatePolicyBinding(policy string, ref *admissionv1.ParamRef, m *admissionv1.MatchResources, match *field.Path) field.ErrorList {
	errs := named(policy, subdomain, specPath.Child("policyName"))
	if ref != nil {
		errs = append(errs, validateParamRef(ref, specPath.Child("paramRef"))...)
	}
	if m != nil {
		errs = append(errs, validateMatch(m, match)...)
	}
	return errs
}

func validateParamRef(r *admissionv1.ParamRef, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if r.Name != "" {
		errs = append(errs, invalidEach(r.Name, at.Child("name"), pathSegment(r.Name, false))...)
	}
	if r.Selector != nil {
		errs = append(errs, checkSelector(r.Selector, at.Child("selector"))...)
	}
	switch {
	case r.Name != "" && r.Selector != nil:
		errs = append(errs, field.Forbidden(at.Child("name"), "name and selector are mutually exclusive"),
			field.Forbidden(at.Child("selector"), "name and selector are mutually exclusive"))
	case r.Name == "" && r.Selector == nil:
		errs = append(errs, field.Required(at, "one of name or selector must be specified"))
	}
	return append(errs, requiredOneOf(deref(r.ParameterNotFoundAction, ""), at.Child("parameterNotFoundAction"), admissionv1.AllowAction, admissionv1.DenyAction)...)
}

// onlyMutable: there is something to mutate in creates and updates alone.
func onlyMutable(m *admissionv1.MatchResources, at *field.Path) field.ErrorList {
	if m == nil {
		return nil
	}
	var errs field.ErrorList
	for _, rule := range m.ResourceRules {
		for _, op := range rule.Operations {
			errs = append(errs, oneOf(op, at.Child("resourceRules", "operations"), admissionv1.OperationAll, admissionv1.Create, admissionv1.Update)...)
		}
	}
	return errs
}

func validateActions(actions []admissionv1.ValidationAction, at *field.Path) field.ErrorList {
	if len(actions) == 0 {
		return field.ErrorList{field.Required(at, "at least one validation action is required")}
	}
	seen := sets.New[admissionv1.ValidationAction]()
	var errs field.ErrorList
	for i, a := range actions {
		errs = append(errs, oneOf(a, at.Index(i), admissionv1.Audit, admissionv1.Deny, admissionv1.Warn)...)
		errs = append(errs, unique(seen, a, at.Index(i))...)
	}
	if seen.HasAll(admissionv1.Deny, admissionv1.Warn) {
		errs = append(errs, field.Invalid(at, actions, "must not contain both Deny and Warn (repeating the same validation failure information in the API response and headers serves no purpose)"))
	}
	return errs
}

func mutatingPolicyRow() *Resource {
	return kind[*admissionv1.MutatingAdmissionPolicy]{
		GroupVersion: admissionv1.SchemeGroupVersion, Plural: "mutatingadmissionpolicies", Categories: extensionCategory,
		List:           &admissionv1.MutatingAdmissionPolicyList{},
		FreeFinalizers: true,
		Generation:     true,
		Default: func(p *admissionv1.MutatingAdmissionPolicy) {
			unset(&p.Spec.FailurePolicy, admissionv1.Fail)
			defaultMatch(p.Spec.MatchConstraints)
		},
		Validate: validateMutatingPolicy,
		Columns: columns(nameColumn,
			column("Mutations", "integer", "Mutations indicates the number of mutations rules defined in this configuration"),
			column("ParamKind", "string", "ParamKind specifies the kind of resources used to parameterize this policy"),
			ageColumn),
		Cells: func(p *admissionv1.MutatingAdmissionPolicy, now time.Time) []any {
			return []any{p.Name, int64(len(p.Spec.Mutations)), paramKindCell(p.Spec.ParamKind), age(p, now)}
		},
	}.row()
}

func validateMutatingPolicy(p *admissionv1.MutatingAdmissionPolicy) field.ErrorList {
	s := &p.Spec
	errs := validatePolicyShared(s.ParamKind, s.MatchConstraints, s.FailurePolicy, s.MatchConditions)
	errs = append(errs, onlyMutable(s.MatchConstraints, specPath.Child("matchConstraints"))...)
	errs = append(errs, each(s.Variables, specPath.Child("variables"), validatePolicyVariable)...)
	if len(s.Mutations) == 0 {
		errs = append(errs, field.Required(specPath.Child("mutations"), "mutations must contain at least one item"))
	}
	errs = append(errs, each(s.Mutations, specPath.Child("mutations"), validateMutation)...)
	return append(errs, requiredOneOf(s.ReinvocationPolicy, specPath.Child("reinvocationPolicy"),
		admissionv1.IfNeededReinvocationPolicy, admissionv1.NeverReinvocationPolicy)...)
}

func validateMutation(m *admissionv1.Mutation, at *field.Path) field.ErrorList {
	apply, json := at.Child("applyConfiguration"), at.Child("jsonPatch")
	var errs field.ErrorList
	switch m.PatchType {
	case admissionv1.PatchTypeApplyConfiguration:
		if m.ApplyConfiguration == nil {
			errs = append(errs, field.Required(apply, "must be specified when patchType is ApplyConfiguration"))
		} else {
			errs = append(errs, validatePatchExpression(m.ApplyConfiguration.Expression, apply.Child("expression"))...)
		}
		if m.JSONPatch != nil {
			errs = append(errs, field.Invalid(json, "{jsonPatch}", "must not be specified when patchType is ApplyConfiguration"))
		}
	case admissionv1.PatchTypeJSONPatch:
		if m.JSONPatch == nil {
			errs = append(errs, field.Required(json, "must be specified when patchType is JSONPatch"))
		} else {
			errs = append(errs, validatePatchExpression(m.JSONPatch.Expression, json.Child("expression"))...)
		}
		if m.ApplyConfiguration != nil {
			errs = append(errs, field.Invalid(apply, "{applyConfiguration}", "must not be specified when patchType is JSONPatch"))
		}
	default:
		return requiredOneOf(m.PatchType, at.Child("patchType"), admissionv1.PatchTypeApplyConfiguration, admissionv1.PatchTypeJSONPatch)
	}
	return errs
}

func validatePatchExpression(text string, at *field.Path) field.ErrorList {
	return required(strings.TrimSpace(text), at)
}

func mutatingPolicyBindingRow() *Resource {
	return kind[*admissionv1.MutatingAdmissionPolicyBinding]{
		GroupVersion: admissionv1.SchemeGroupVersion, Plural: "mutatingadmissionpolicybindings", Categories: extensionCategory,
		List:           &admissionv1.MutatingAdmissionPolicyBindingList{},
		FreeFinalizers: true,
		Generation:     true,
		Indexes: map[string]func(*admissionv1.MutatingAdmissionPolicyBinding) []string{
			"policy": func(b *admissionv1.MutatingAdmissionPolicyBinding) []string { return []string{b.Spec.PolicyName} },
		},
		Default: func(b *admissionv1.MutatingAdmissionPolicyBinding) {
			defaultMatch(b.Spec.MatchResources)
			defaultParamRef(b.Spec.ParamRef)
		},
		Validate: func(b *admissionv1.MutatingAdmissionPolicyBinding) field.ErrorList {
			at := specPath.Child("matchResources")
			errs := validatePolicyBinding(b.Spec.PolicyName, b.Spec.ParamRef, b.Spec.MatchResources, at)
			return append(errs, onlyMutable(b.Spec.MatchResources, at)...)
		},
		Columns: bindingPolicyColumns(),
		Cells: func(b *admissionv1.MutatingAdmissionPolicyBinding, now time.Time) []any {
			return []any{b.Name, b.Spec.PolicyName, paramRefCell(b.Spec.ParamRef), age(b, now)}
		},
	}.row()
}
