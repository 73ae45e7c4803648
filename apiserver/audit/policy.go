package audit

import (
	"fmt"
	"os"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation/field"
	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"
	"sigs.k8s.io/yaml"

	"proa/auth"
)

// Policy says what is recorded of which request.
type Policy struct {
	rules []rule
}

type rule struct {
	auditv1.PolicyRule
	omit        map[auditv1.Stage]bool
	omitManaged bool
}

// LoadPolicy reads a policy (audit.k8s.io/v1) from a file. Errors name the file
// and the field.
func LoadPolicy(path string) (*Policy, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("the audit policy: %w", err)
	}
	p, err := ParsePolicy(data)
	if err != nil {
		return nil, fmt.Errorf("the audit policy %s: %w", path, err)
	}
	return p, nil
}

// ParsePolicy reads a policy.
func ParsePolicy(data []byte) (*Policy, error) {
	var doc auditv1.Policy
	if err := yaml.UnmarshalStrict(data, &doc); err != nil {
		return nil, err
	}
	if doc.Kind != "Policy" || doc.APIVersion != auditv1.SchemeGroupVersion.String() {
		return nil, fmt.Errorf("it is a %q of %q, not a Policy of %s", doc.Kind, doc.APIVersion, auditv1.SchemeGroupVersion)
	}
	if len(doc.Rules) == 0 {
		return nil, field.Required(field.NewPath("rules"), "a policy without rules records nothing")
	}
	p := &Policy{}
	errs := badStages(doc.OmitStages, field.NewPath("omitStages"))
	for i, r := range doc.Rules {
		errs = append(errs, badRule(&r, field.NewPath("rules").Index(i))...)
		out := rule{PolicyRule: r, omit: map[auditv1.Stage]bool{}, omitManaged: doc.OmitManagedFields}
		for _, s := range slices.Concat(doc.OmitStages, r.OmitStages) {
			out.omit[s] = true
		}
		if r.OmitManagedFields != nil {
			out.omitManaged = *r.OmitManagedFields
		}
		p.rules = append(p.rules, out)
	}
	return p, errs.ToAggregate()
}

var (
	levels = []auditv1.Level{auditv1.LevelNone, auditv1.LevelMetadata, auditv1.LevelRequest, auditv1.LevelRequestResponse}
	stages = []auditv1.Stage{auditv1.StageRequestReceived, auditv1.StageResponseStarted, auditv1.StageResponseComplete, auditv1.StagePanic}
)

func badStages(list []auditv1.Stage, at *field.Path) (errs field.ErrorList) {
	for i, s := range list {
		if !slices.Contains(stages, s) {
			errs = append(errs, field.NotSupported(at.Index(i), s, stages))
		}
	}
	return errs
}

func badRule(r *auditv1.PolicyRule, at *field.Path) field.ErrorList {
	errs := badStages(r.OmitStages, at.Child("omitStages"))
	if !slices.Contains(levels, r.Level) {
		errs = append(errs, field.NotSupported(at.Child("level"), r.Level, levels))
	}
	if len(r.NonResourceURLs) > 0 && (len(r.Resources) > 0 || len(r.Namespaces) > 0) {
		errs = append(errs, field.Invalid(at.Child("nonResourceURLs"), r.NonResourceURLs, "rules cannot apply to both regular resources and non-resource URLs"))
	}
	for i, u := range r.NonResourceURLs {
		if u != "*" && !strings.HasPrefix(u, "/") {
			errs = append(errs, field.Invalid(at.Child("nonResourceURLs").Index(i), u, "non-resource URL rules must begin with a '/' character"))
		} else if strings.Contains(strings.TrimSuffix(u, "*"), "*") {
			errs = append(errs, field.Invalid(at.Child("nonResourceURLs").Index(i), u, "non-resource URL wildcards '*' must be the final character of the rule"))
		}
	}
	for i, g := range r.Resources {
		if len(g.ResourceNames) > 0 && len(g.Resources) == 0 {
			errs = append(errs, field.Invalid(at.Child("resources").Index(i).Child("resourceNames"), g.ResourceNames, "using resourceNames requires at least one resource"))
		}
	}
	return errs
}

// find is the first rule that the request matches, or nil.
func (p *Policy) find(a *auth.Attributes) *rule {
	for i := range p.rules {
		if p.rules[i].matches(a) {
			return &p.rules[i]
		}
	}
	return nil
}

func (r *rule) matches(a *auth.Attributes) bool {
	if len(r.Users) > 0 && !slices.Contains(r.Users, a.User.Name) ||
		len(r.UserGroups) > 0 && !slices.ContainsFunc(r.UserGroups, a.User.In) ||
		len(r.Verbs) > 0 && !slices.Contains(r.Verbs, a.Verb) {
		return false
	}
	switch {
	case len(r.Namespaces) > 0 || len(r.Resources) > 0:
		return a.ResourceRequest && r.matchesResource(a)
	case len(r.NonResourceURLs) > 0:
		return !a.ResourceRequest && slices.ContainsFunc(r.NonResourceURLs, func(p string) bool { return pathMatches(p, a.Path) })
	}
	return true
}

func pathMatches(pattern, path string) bool {
	if prefix, open := strings.CutSuffix(pattern, "*"); open {
		return strings.HasPrefix(path, prefix)
	}
	return pattern == path
}

func (r *rule) matchesResource(a *auth.Attributes) bool {
	if len(r.Namespaces) > 0 && !slices.Contains(r.Namespaces, a.Namespace) {
		return false
	}
	if len(r.Resources) == 0 {
		return true
	}
	return slices.ContainsFunc(r.Resources, func(g auditv1.GroupResources) bool {
		if g.Group != a.Group {
			return false
		}
		return len(g.Resources) == 0 || slices.ContainsFunc(g.Resources, func(name string) bool {
			return resourceMatches(name, a) && (len(g.ResourceNames) == 0 || slices.Contains(g.ResourceNames, a.Name))
		})
	})
}

// resourceMatches reads the forms that a policy names resources in: "pods",
// "pods/log", "*", "pods/*", "*/scale".
func resourceMatches(name string, a *auth.Attributes) bool {
	plural, sub, below := strings.Cut(name, "/")
	switch {
	case name == "*":
		return true
	case !below:
		return a.Subresource == "" && plural == a.Resource
	}
	return a.Subresource != "" && (plural == "*" || plural == a.Resource) && (sub == "*" || sub == a.Subresource)
}
