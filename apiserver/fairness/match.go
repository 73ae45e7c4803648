package fairness

import (
	"cmp"
	"hash/maphash"
	"slices"
	"strings"
	"sync/atomic"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"

	"proa/auth"
)

// schema is a FlowSchema ready for matching.
type schema struct {
	name, uid  string
	levelName  string
	levelUID   string
	level      *level
	precedence int32
	byUser     bool
	byNS       bool
	rules      []flowcontrolv1.PolicyRulesWithSubjects
	flows      maphash.Seed
	dispatched atomic.Uint64
	handles    atomic.Pointer[handles]
}

// order sorts schemas as they are to be tried.
func order(schemas []*schema) {
	slices.SortFunc(schemas, func(a, b *schema) int {
		return cmp.Or(cmp.Compare(a.precedence, b.precedence), cmp.Compare(a.name, b.name))
	})
}

func (s *schema) matches(a *auth.Attributes) bool {
	for i := range s.rules {
		r := &s.rules[i]
		if allows(r, a) && slices.ContainsFunc(r.Subjects, func(sub flowcontrolv1.Subject) bool { return is(sub, &a.User) }) {
			return true
		}
	}
	return false
}

// flow names the flow that a request belongs to.
func (s *schema) flow(a *auth.Attributes) string {
	switch {
	case s.byUser:
		return a.User.Name
	case s.byNS:
		return a.Namespace
	}
	return ""
}

func is(s flowcontrolv1.Subject, u *auth.User) bool {
	switch {
	case s.User != nil:
		return s.User.Name == "*" || s.User.Name == u.Name
	case s.Group != nil:
		return s.Group.Name == "*" || u.In(s.Group.Name)
	case s.ServiceAccount != nil:
		rest, ok := strings.CutPrefix(u.Name, auth.ServiceAccountPrefix)
		ns, name, _ := strings.Cut(rest, ":")
		return ok && ns == s.ServiceAccount.Namespace && (s.ServiceAccount.Name == "*" || name == s.ServiceAccount.Name)
	}
	return false
}

func allows(r *flowcontrolv1.PolicyRulesWithSubjects, a *auth.Attributes) bool {
	if a.ResourceRequest {
		return slices.ContainsFunc(r.ResourceRules, func(r flowcontrolv1.ResourcePolicyRule) bool { return resourceAllows(&r, a) })
	}
	return slices.ContainsFunc(r.NonResourceRules, func(r flowcontrolv1.NonResourcePolicyRule) bool {
		return has(r.Verbs, a.Verb) && slices.ContainsFunc(r.NonResourceURLs, func(p string) bool { return pathMatches(p, a.Path) })
	})
}

func resourceAllows(r *flowcontrolv1.ResourcePolicyRule, a *auth.Attributes) bool {
	if !has(r.Verbs, a.Verb) || !has(r.APIGroups, a.Group) || !hasResource(r.Resources, a) {
		return false
	}
	if a.Namespace == "" {
		return r.ClusterScope
	}
	return has(r.Namespaces, a.Namespace)
}

func has(list []string, v string) bool {
	return len(list) == 1 && list[0] == "*" || slices.Contains(list, v)
}

func hasResource(list []string, a *auth.Attributes) bool {
	if a.Subresource == "" || len(list) == 1 && list[0] == "*" {
		return has(list, a.Resource)
	}
	return slices.Contains(list, a.Resource+"/"+a.Subresource)
}

// pathMatches compares a path with a pattern that may end in *.
func pathMatches(pattern, path string) bool {
	if prefix, open := strings.CutSuffix(pattern, "*"); open {
		return strings.HasPrefix(path, prefix)
	}
	return pattern == path
}
