package api

import (
	"strings"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/sets"
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

func validateValidatingPolicy(p *admissionv1.ValidatingAdmissionPolicy) field.ErrorList {
	s := &p.Spec
	errs := validatePolicyShared(s.ParamKind, s.MatchConstraints, s.FailurePolicy, s.MatchConditions)
	errs = append(errs, each(s.Variables, specPath.Child("variables"), func(v *admissionv1.Variable, at *field.Path) field.ErrorList {
		return append(required(v.Name, at.Child("name")), requiredExpression(v.Expression, at.Child("expression"))...)
	})...)
	if len(s.Validations) == 0 && len(s.AuditAnnotations) == 0 {
		errs = append(errs, field.Required(specPath.Child("validations"), "validations or auditAnnotations must be specified"))
		errs = append(errs, field.Required(specPath.Child("auditAnnotations"), "validations or auditAnnotations must be specified"))
	}
	errs = append(errs, each(s.Validations, specPath.Child("validations"), validatePolicyValidation)...)
	seen := sets.New[string]()
	return append(errs, each(s.AuditAnnotations, specPath.Child("auditAnnotations"), func(a *admissionv1.AuditAnnotation, at *field.Path) field.ErrorList {
		errs := requiredExpression(a.ValueExpression, at.Child("valueExpression"))
		if a.Key == "" {
			return append(errs, field.Required(at.Child("key"), ""))
		}
		return append(errs, unique(seen, a.Key, at.Child("key"))...)
	})...)
}

func validatePolicyValidation(v *admissionv1.Validation, at *field.Path) field.ErrorList {
	errs := requiredExpression(v.Expression, at.Child("expression"))
	switch {
	case v.Message != "" && strings.TrimSpace(v.Message) == "":
		errs = append(errs, field.Invalid(at.Child("message"), v.Message, "message must be non-empty if specified"))
	case strings.ContainsAny(v.Message, "\n"):
		errs = append(errs, field.Invalid(at.Child("message"), v.Message, "message must not contain line breaks"))
	case v.Message == "" && strings.ContainsAny(strings.TrimSpace(v.Expression), "\n"):
		errs = append(errs, field.Required(at.Child("message"), "message must be specified if expression contains line breaks"))
	}
	if r := v.Reason; r != nil {
		errs = append(errs, oneOf(*r, at.Child("reason"), metav1.StatusReasonForbidden, metav1.StatusReasonInvalid,
			metav1.StatusReasonRequestEntityTooLarge, metav1.StatusReasonUnauthorized)...)
	}
	return errs
}

func requiredExpression(e string, at *field.Path) field.ErrorList {
	if strings.TrimSpace(e) == "" {
		return field.ErrorList{field.Required(at, "expression is not specified")}
	}
	return nil
}

func validatePolicyShared(k *admissionv1.ParamKind, m *admissionv1.MatchResources, fail *admissionv1.FailurePolicyType, conditions []admissionv1.MatchCondition) field.ErrorList {
	var errs field.ErrorList
	if fail != nil {
		errs = append(errs, oneOf(*fail, specPath.Child("failurePolicy"), admissionv1.Fail, admissionv1.Ignore)...)
	}
	if k != nil {
		at := specPath.Child("paramKind")
		errs = append(errs, required(k.APIVersion, at.Child("apiVersion"))...)
		if _, err := schema.ParseGroupVersion(k.APIVersion); err != nil {
			errs = append(errs, field.Invalid(at.Child("apiVersion"), k.APIVersion, err.Error()))
		}
		errs = append(errs, required(k.Kind, at.Child("kind"))...)
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
		return validateWebhookRule(&r.RuleWithOperations, at)
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
			errs := validatePolicyBinding(b.Spec.PolicyName, b.Spec.ParamRef, b.Spec.MatchResources)
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
	case r.Name != "" && r.Namespace != "":
		return r.Namespace + "/" + r.Name
	case r.Name != "":
		return "*/" + r.Name
	}
	return orElse(r.Namespace, "*") + "/" + selectorCell(r.Selector)
}

func defaultParamRef(r *admissionv1.ParamRef) {
	if r != nil {
		unset(&r.ParameterNotFoundAction, admissionv1.DenyAction)
	}
}

func validatePolicyBinding(policy string, ref *admissionv1.ParamRef, m *admissionv1.MatchResources) field.ErrorList {
	errs := named(policy, subdomain, specPath.Child("policyName"))
	if ref != nil {
		errs = append(errs, validateParamRef(ref, specPath.Child("paramRef"))...)
	}
	if m != nil {
		errs = append(errs, validateMatch(m, specPath.Child("matchResouces"))...) // upstream's spelling
	}
	return errs
}

func validateParamRef(r *admissionv1.ParamRef, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	switch {
	case r.Name != "" && r.Selector != nil:
		errs = append(errs, field.Forbidden(at.Child("name"), "name and selector are mutually exclusive"))
	case r.Name == "" && r.Selector == nil:
		errs = append(errs, field.Required(at, "one of name or selector must be specified"))
	case r.Name != "":
		errs = append(errs, invalidEach(r.Name, at.Child("name"), pathSegment(r.Name, false))...)
	default:
		errs = append(errs, checkSelector(r.Selector, at.Child("selector"))...)
	}
	if r.ParameterNotFoundAction == nil {
		return append(errs, field.Required(at.Child("parameterNotFoundAction"), ""))
	}
	return append(errs, oneOf(*r.ParameterNotFoundAction, at.Child("parameterNotFoundAction"), admissionv1.AllowAction, admissionv1.DenyAction)...)
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
			empty(&p.Spec.ReinvocationPolicy, admissionv1.NeverReinvocationPolicy)
			defaultMatch(p.Spec.MatchConstraints)
		},
		Validate: func(p *admissionv1.MutatingAdmissionPolicy) field.ErrorList {
			s := &p.Spec
			errs := validatePolicyShared(s.ParamKind, s.MatchConstraints, s.FailurePolicy, s.MatchConditions)
			if len(s.Mutations) == 0 {
				errs = append(errs, field.Required(specPath.Child("mutations"), "mutations must contain at least one item"))
			}
			errs = append(errs, each(s.Mutations, specPath.Child("mutations"), validateMutation)...)
			return append(errs, requiredOneOf(s.ReinvocationPolicy, specPath.Child("reinvocationPolicy"),
				admissionv1.IfNeededReinvocationPolicy, admissionv1.NeverReinvocationPolicy)...)
		},
		Columns: columns(nameColumn,
			column("Mutations", "integer", "Mutations indicates the number of mutations rules defined in this configuration"),
			column("ParamKind", "string", "ParamKind specifies the kind of resources used to parameterize this policy"),
			ageColumn),
		Cells: func(p *admissionv1.MutatingAdmissionPolicy, now time.Time) []any {
			return []any{p.Name, int64(len(p.Spec.Mutations)), paramKindCell(p.Spec.ParamKind), age(p, now)}
		},
	}.row()
}

func validateMutation(m *admissionv1.Mutation, at *field.Path) field.ErrorList {
	errs := requiredOneOf(m.PatchType, at.Child("patchType"), admissionv1.PatchTypeApplyConfiguration, admissionv1.PatchTypeJSONPatch)
	switch m.PatchType {
	case admissionv1.PatchTypeApplyConfiguration:
		if m.ApplyConfiguration == nil {
			return append(errs, field.Required(at.Child("applyConfiguration"), "must be specified when patchType is ApplyConfiguration"))
		}
		return append(errs, requiredExpression(m.ApplyConfiguration.Expression, at.Child("applyConfiguration", "expression"))...)
	case admissionv1.PatchTypeJSONPatch:
		if m.JSONPatch == nil {
			return append(errs, field.Required(at.Child("jsonPatch"), "must be specified when patchType is JSONPatch"))
		}
		return append(errs, requiredExpression(m.JSONPatch.Expression, at.Child("jsonPatch", "expression"))...)
	}
	return errs
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
			return validatePolicyBinding(b.Spec.PolicyName, b.Spec.ParamRef, b.Spec.MatchResources)
		},
		Columns: bindingPolicyColumns(),
		Cells: func(b *admissionv1.MutatingAdmissionPolicyBinding, now time.Time) []any {
			return []any{b.Name, b.Spec.PolicyName, paramRefCell(b.Spec.ParamRef), age(b, now)}
		},
	}.row()
}
