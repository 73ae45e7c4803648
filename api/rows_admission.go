package api

import (
	"fmt"
	"net/url"
	"strings"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// extensionCategory is where kubectl finds what changes the API itself.
var extensionCategory = []string{"api-extensions"}

func admissionRows() []*Resource {
	return []*Resource{
		mutatingPolicyRow(), mutatingPolicyBindingRow(), mutatingWebhookRow(),
		validatingPolicyRow(), validatingPolicyBindingRow(), validatingWebhookRow(),
	}
}

func validatingWebhookRow() *Resource {
	return kind[*admissionv1.ValidatingWebhookConfiguration]{
		GroupVersion: admissionv1.SchemeGroupVersion, Plural: "validatingwebhookconfigurations", Categories: extensionCategory,
		List:           &admissionv1.ValidatingWebhookConfigurationList{},
		FreeFinalizers: true,
		Generation:     true,
		Default: func(c *admissionv1.ValidatingWebhookConfiguration) {
			for i := range c.Webhooks {
				w := &c.Webhooks[i]
				defaultWebhook(validatingHook(w))
			}
		},
		Validate: func(c *admissionv1.ValidatingWebhookConfiguration) field.ErrorList {
			seen := sets.New[string]()
			return each(c.Webhooks, field.NewPath("webhooks"), func(w *admissionv1.ValidatingWebhook, at *field.Path) field.ErrorList {
				return append(unique(seen, w.Name, at.Child("name")), validateWebhook(validatingHook(w), at)...)
			})
		},
		Columns: columns(nameColumn,
			column("Webhooks", "integer", "Webhooks indicates the number of webhooks registered in this configuration"),
			ageColumn),
		Cells: func(c *admissionv1.ValidatingWebhookConfiguration, now time.Time) []any {
			return []any{c.Name, int64(len(c.Webhooks)), age(c, now)}
		},
	}.row()
}

func mutatingWebhookRow() *Resource {
	return kind[*admissionv1.MutatingWebhookConfiguration]{
		GroupVersion: admissionv1.SchemeGroupVersion, Plural: "mutatingwebhookconfigurations", Categories: extensionCategory,
		List:           &admissionv1.MutatingWebhookConfigurationList{},
		FreeFinalizers: true,
		Generation:     true,
		Default: func(c *admissionv1.MutatingWebhookConfiguration) {
			for i := range c.Webhooks {
				w := &c.Webhooks[i]
				unset(&w.ReinvocationPolicy, admissionv1.NeverReinvocationPolicy)
				defaultWebhook(mutatingHook(w))
			}
		},
		Validate: func(c *admissionv1.MutatingWebhookConfiguration) field.ErrorList {
			seen := sets.New[string]()
			return each(c.Webhooks, field.NewPath("webhooks"), func(w *admissionv1.MutatingWebhook, at *field.Path) field.ErrorList {
				errs := append(unique(seen, w.Name, at.Child("name")), validateWebhook(mutatingHook(w), at)...)
				if p := w.ReinvocationPolicy; p != nil {
					errs = append(errs, oneOf(*p, at.Child("reinvocationPolicy"), admissionv1.IfNeededReinvocationPolicy, admissionv1.NeverReinvocationPolicy)...)
				}
				return errs
			})
		},
		Columns: columns(nameColumn,
			column("Webhooks", "integer", "Webhooks indicates the number of webhooks registered in this configuration"),
			ageColumn),
		Cells: func(c *admissionv1.MutatingWebhookConfiguration, now time.Time) []any {
			return []any{c.Name, int64(len(c.Webhooks)), age(c, now)}
		},
	}.row()
}

// webhook is what the two kinds of webhooks have in common.
type webhook struct {
	name              *string
	client            *admissionv1.WebhookClientConfig
	rules             *[]admissionv1.RuleWithOperations
	failurePolicy     **admissionv1.FailurePolicyType
	matchPolicy       **admissionv1.MatchPolicyType
	namespaceSelector **metav1.LabelSelector
	objectSelector    **metav1.LabelSelector
	sideEffects       **admissionv1.SideEffectClass
	timeout           **int32
	versions          *[]string
	conditions        *[]admissionv1.MatchCondition
}

func validatingHook(w *admissionv1.ValidatingWebhook) webhook {
	return webhook{&w.Name, &w.ClientConfig, &w.Rules, &w.FailurePolicy, &w.MatchPolicy, &w.NamespaceSelector, &w.ObjectSelector,
		&w.SideEffects, &w.TimeoutSeconds, &w.AdmissionReviewVersions, &w.MatchConditions}
}

func mutatingHook(w *admissionv1.MutatingWebhook) webhook {
	return webhook{&w.Name, &w.ClientConfig, &w.Rules, &w.FailurePolicy, &w.MatchPolicy, &w.NamespaceSelector, &w.ObjectSelector,
		&w.SideEffects, &w.TimeoutSeconds, &w.AdmissionReviewVersions, &w.MatchConditions}
}

func defaultWebhook(w webhook) {
	unset(w.failurePolicy, admissionv1.Fail)
	unset(w.matchPolicy, admissionv1.Equivalent)
	unset(w.namespaceSelector, metav1.LabelSelector{})
	unset(w.objectSelector, metav1.LabelSelector{})
	unset(w.timeout, 10)
	if s := w.client.Service; s != nil {
		unset(&s.Port, 443)
	}
	for i := range *w.rules {
		unset(&(*w.rules)[i].Scope, admissionv1.AllScopes)
	}
}

func validateWebhook(w webhook, at *field.Path) field.ErrorList {
	errs := validation.IsFullyQualifiedName(at.Child("name"), *w.name)
	errs = append(errs, each(*w.rules, at.Child("rules"), validateWebhookRule)...)
	if p := *w.failurePolicy; p != nil {
		errs = append(errs, oneOf(*p, at.Child("failurePolicy"), admissionv1.Fail, admissionv1.Ignore)...)
	}
	if p := *w.matchPolicy; p != nil {
		errs = append(errs, oneOf(*p, at.Child("matchPolicy"), admissionv1.Equivalent, admissionv1.Exact)...)
	}
	if *w.sideEffects == nil {
		errs = append(errs, field.Required(at.Child("sideEffects"), "must specify one of None, NoneOnDryRun"))
	} else {
		errs = append(errs, oneOf(**w.sideEffects, at.Child("sideEffects"), admissionv1.SideEffectClassNone, admissionv1.SideEffectClassNoneOnDryRun)...)
	}
	if t := *w.timeout; t != nil && (*t < 1 || *t > 30) {
		errs = append(errs, field.Invalid(at.Child("timeoutSeconds"), *t, "the timeout value must be between 1 and 30 seconds"))
	}
	if s := *w.namespaceSelector; s != nil {
		errs = append(errs, checkSelector(s, at.Child("namespaceSelector"))...)
	}
	if s := *w.objectSelector; s != nil {
		errs = append(errs, checkSelector(s, at.Child("objectSelector"))...)
	}
	errs = append(errs, validateReviewVersions(*w.versions, at.Child("admissionReviewVersions"))...)
	errs = append(errs, validateWebhookClient(w.client, at.Child("clientConfig"))...)
	return append(errs, validateMatchConditions(*w.conditions, at.Child("matchConditions"))...)
}

func validateReviewVersions(versions []string, at *field.Path) field.ErrorList {
	if len(versions) == 0 {
		return field.ErrorList{field.Required(at, "must specify one of v1, v1beta1")}
	}
	var errs field.ErrorList
	seen, known := sets.New[string](), false
	for i, v := range versions {
		if seen.Has(v) {
			errs = append(errs, field.Invalid(at.Index(i), v, "duplicate version"))
			continue
		}
		seen.Insert(v)
		errs = append(errs, invalidEach(v, at.Index(i), validation.IsDNS1035Label(v))...)
		known = known || v == "v1" || v == "v1beta1"
	}
	if !known {
		errs = append(errs, field.Invalid(at, versions, "must include at least one of v1, v1beta1"))
	}
	return errs
}

func validateWebhookClient(c *admissionv1.WebhookClientConfig, at *field.Path) field.ErrorList {
	switch {
	case (c.URL == nil) == (c.Service == nil):
		return field.ErrorList{field.Required(at, "exactly one of url or service is required")}
	case c.URL != nil:
		return validateWebhookURL(*c.URL, at.Child("url"))
	}
	s := c.Service
	errs := required(s.Name, at.Child("service", "name"))
	errs = append(errs, required(s.Namespace, at.Child("service", "namespace"))...)
	if s.Port != nil {
		errs = append(errs, invalidEach(*s.Port, at.Child("service", "port"), validation.IsValidPortNum(int(*s.Port)))...)
	}
	if s.Path != nil && *s.Path != "" && !strings.HasPrefix(*s.Path, "/") {
		errs = append(errs, field.Invalid(at.Child("service", "path"), *s.Path, "must start with a '/'"))
	}
	return errs
}

func validateWebhookURL(text string, at *field.Path) field.ErrorList {
	const form = "; desired format: https://host[/path]"
	u, err := url.Parse(text)
	if err != nil {
		return field.ErrorList{field.Required(at, "url must be a valid URL: "+err.Error()+form)}
	}
	var errs field.ErrorList
	refuse := func(bad bool, value any, message string) {
		if bad {
			errs = append(errs, field.Invalid(at, value, message))
		}
	}
	refuse(u.Scheme != "https", u.Scheme, "'https' is the only allowed URL scheme"+form)
	refuse(u.Host == "", u.Host, "host must be specified"+form)
	refuse(u.User != nil, u.User.String(), "user information is not permitted in the URL")
	refuse(u.Fragment != "", u.Fragment, "fragments are not permitted in the URL")
	refuse(u.RawQuery != "", u.RawQuery, "query parameters are not permitted in the URL")
	return errs
}

func validateWebhookRule(r *admissionv1.RuleWithOperations, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if len(r.Operations) == 0 {
		errs = append(errs, field.Required(at.Child("operations"), ""))
	}
	for i, o := range r.Operations {
		if o == admissionv1.OperationAll && len(r.Operations) > 1 {
			errs = append(errs, field.Invalid(at.Child("operations"), r.Operations, "if '*' is present, must not specify other operations"))
		}
		errs = append(errs, oneOf(o, at.Child("operations").Index(i), admissionv1.OperationAll, admissionv1.Connect,
			admissionv1.Create, admissionv1.Delete, admissionv1.Update)...)
	}
	return append(errs, validateRule(&r.Rule, true, at)...)
}

func validateRule(r *admissionv1.Rule, subresources bool, at *field.Path) field.ErrorList {
	errs := validateStarList(r.APIGroups, true, "API groups", at.Child("apiGroups"))
	errs = append(errs, validateStarList(r.APIVersions, false, "API versions", at.Child("apiVersions"))...)
	errs = append(errs, validateRuleResources(r.Resources, subresources, at.Child("resources"))...)
	if r.Scope != nil {
		errs = append(errs, oneOf(*r.Scope, at.Child("scope"), admissionv1.AllScopes, admissionv1.ClusterScope, admissionv1.NamespacedScope)...)
	}
	return errs
}

// validateStarList: "*" stands alone.
func validateStarList(list []string, emptyOK bool, what string, at *field.Path) field.ErrorList {
	if len(list) == 0 {
		return field.ErrorList{field.Required(at, "")}
	}
	var errs field.ErrorList
	for i, v := range list {
		if v == "*" && len(list) > 1 {
			errs = append(errs, field.Invalid(at, list, "if '*' is present, must not specify other "+what))
		}
		if v == "" && !emptyOK {
			errs = append(errs, field.Required(at.Index(i), ""))
		}
	}
	return errs
}

func validateRuleResources(list []string, subresources bool, at *field.Path) field.ErrorList {
	if len(list) == 0 {
		return field.ErrorList{field.Required(at, "")}
	}
	var errs field.ErrorList
	all := map[string]bool{}
	for _, v := range list {
		all[v] = true
	}
	for i, v := range list {
		res, sub, hasSub := strings.Cut(v, "/")
		switch {
		case v == "":
			errs = append(errs, field.Required(at.Index(i), ""))
		case hasSub && !subresources:
			errs = append(errs, field.Invalid(at.Index(i), v, "subresources are not permitted"))
		case hasSub && res != "*" && sub != "*" && (all[res+"/*"] || all["*/"+sub]):
			errs = append(errs, field.Invalid(at.Index(i), v, fmt.Sprintf("if '%s/*' or '*/%s' is present, must not specify %s", res, sub, v)))
		}
	}
	switch {
	case all["*/*"] && len(list) > 1:
		errs = append(errs, field.Invalid(at, list, "if '*/*' is present, must not specify other resources"))
	case all["*"]:
		for _, v := range list {
			if v != "*" && !strings.Contains(v, "/") {
				errs = append(errs, field.Invalid(at, list, "if '*' is present, must not specify other resources without subresources"))
				break
			}
		}
	}
	return errs
}

// validateMatchConditions: what the expressions say is judged where they are
// compiled, in admission.
func validateMatchConditions(list []admissionv1.MatchCondition, at *field.Path) field.ErrorList {
	const max = 64
	var errs field.ErrorList
	if len(list) > max {
		errs = append(errs, field.TooMany(at, len(list), max))
	}
	seen := sets.New[string]()
	return append(errs, each(list, at, func(c *admissionv1.MatchCondition, at *field.Path) field.ErrorList {
		var errs field.ErrorList
		if strings.TrimSpace(c.Expression) == "" {
			errs = append(errs, field.Required(at.Child("expression"), ""))
		}
		if c.Name == "" {
			return append(errs, field.Required(at.Child("name"), ""))
		}
		errs = append(errs, invalidEach(c.Name, at.Child("name"), validation.IsQualifiedName(c.Name))...)
		return append(errs, unique(seen, c.Name, at.Child("name"))...)
	})...)
}
