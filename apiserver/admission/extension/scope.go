package extension

import (
	"slices"
	"strings"

	admissionregv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"proa/api"
	"proa/apiserver/admission"
)

// Scope is which requests a webhook, a policy or a binding concerns.
type Scope struct {
	// Rules of which one must match; Exclude of which none may. Without Rules all
	// that is not excluded matches.
	Rules, Exclude []admissionregv1.NamedRuleWithOperations
	// Equivalent lets a rule match a request for another version of what it names.
	Equivalent bool
	// Namespaces and Objects select by labels; err is why they cannot.
	Namespaces, Objects labels.Selector
	err                 error
}

// ScopeOf compiles the match constraints of a policy or a binding; nil matches
// everything.
func ScopeOf(m *admissionregv1.MatchResources) Scope {
	if m == nil {
		return Scope{Namespaces: labels.Everything(), Objects: labels.Everything()}
	}
	return newScope(m.ResourceRules, m.ExcludeResourceRules, m.MatchPolicy, m.NamespaceSelector, m.ObjectSelector)
}

// WebhookScope compiles what a webhook says of the requests it wants.
func WebhookScope(rules []admissionregv1.RuleWithOperations, policy *admissionregv1.MatchPolicyType, namespaces, objects *metav1.LabelSelector) Scope {
	named := make([]admissionregv1.NamedRuleWithOperations, len(rules))
	for i := range rules {
		named[i].RuleWithOperations = rules[i]
	}
	return newScope(named, nil, policy, namespaces, objects)
}

func newScope(rules, exclude []admissionregv1.NamedRuleWithOperations, policy *admissionregv1.MatchPolicyType, namespaces, objects *metav1.LabelSelector) Scope {
	s := Scope{Rules: rules, Exclude: exclude, Equivalent: policy == nil || *policy == admissionregv1.Equivalent}
	var err error
	if s.Namespaces, err = selector(namespaces); err != nil {
		s.err = err
	}
	if s.Objects, err = selector(objects); err != nil {
		s.err = err
	}
	return s
}

func selector(s *metav1.LabelSelector) (labels.Selector, error) {
	if s == nil {
		return labels.Everything(), nil
	}
	return metav1.LabelSelectorAsSelector(s)
}

// Matches tells whether the scope concerns the request and as what. An error is
// one of the configuration or a namespace that is not there, of a request whose
// resource matches.
func (v *View) Matches(s *Scope) (Match, bool, error) {
	if _, excluded := v.anyRule(s.Exclude, s.Equivalent); excluded && len(s.Exclude) > 0 {
		return Match{}, false, nil
	}
	m, ok := v.asked(), true
	if len(s.Rules) > 0 {
		m, ok = v.anyRule(s.Rules, s.Equivalent)
	}
	if !ok || s.err != nil {
		return m, false, orNil(ok, s.err)
	}
	if !v.objectMatches(s.Objects) {
		return m, false, nil
	}
	ok, err := v.namespaceMatches(s.Namespaces)
	return m, ok, err
}

func orNil(ok bool, err error) error {
	if !ok {
		return nil
	}
	return err
}

// anyRule finds the first rule that matches the resource as the client named it,
// and after that, where versions are equivalent, as any other.
func (v *View) anyRule(rules []admissionregv1.NamedRuleWithOperations, equivalent bool) (Match, bool) {
	asked := v.asked()
	for i := range rules {
		if v.matches(&rules[i], asked.Resource) {
			return asked, true
		}
	}
	if !equivalent || len(v.Resource.Versions) == 0 && v.Resource.Custom == nil {
		return asked, false
	}
	all := v.versions()
	for i := range rules {
		for _, m := range all {
			if v.matches(&rules[i], m.Resource) {
				return m, true
			}
		}
	}
	return asked, false
}

func (v *View) matches(r *admissionregv1.NamedRuleWithOperations, gvr schema.GroupVersionResource) bool {
	return v.inScope(r.Scope) && has(r.APIGroups, gvr.Group) && has(r.APIVersions, gvr.Version) &&
		(slices.Contains(r.Operations, admissionregv1.OperationAll) || slices.Contains(r.Operations, admissionregv1.OperationType(v.Op))) &&
		slices.ContainsFunc(r.Resources, func(res string) bool { return v.names(res, gvr.Resource) }) &&
		(len(r.ResourceNames) == 0 || slices.Contains(r.ResourceNames, v.Name))
}

func has(list []string, s string) bool { return slices.Contains(list, "*") || slices.Contains(list, s) }

// names tells whether "resource/subresource" of a rule, in which either may be
// "*", is the request's.
func (v *View) names(rule, plural string) bool {
	res, sub, _ := strings.Cut(rule, "/")
	return (res == "*" || res == plural) && (sub == "*" || sub == v.Subresource)
}

func (v *View) inScope(s *admissionregv1.ScopeType) bool {
	switch {
	case s == nil || *s == admissionregv1.AllScopes:
		return true
	case *s == admissionregv1.NamespacedScope:
		return v.Resource.Namespaced
	}
	return !v.Resource.Namespaced
}

// objectMatches looks at the new state and at the old one; a stream has no labels.
func (v *View) objectMatches(s labels.Selector) bool {
	if s.Empty() {
		return true
	}
	matches := func(obj api.Object) bool { return obj != nil && s.Matches(labels.Set(obj.GetLabels())) }
	return matches(v.Object) || matches(v.Old)
}

// namespaceMatches looks at the labels of the request's namespace: of the new
// state of a Namespace that is being written, else of the stored one.
func (v *View) namespaceMatches(s labels.Selector) (bool, error) {
	name := v.space()
	if s.Empty() || name == "" {
		return true, nil
	}
	if v.Resource.Key() == "namespaces" && v.Subresource == "" && v.Op != admission.Delete && v.Object != nil {
		return s.Matches(labels.Set(v.Object.GetLabels())), nil
	}
	ns, err := v.namespace(name)
	if err != nil {
		return false, err
	}
	return s.Matches(labels.Set(ns.Labels)), nil
}
