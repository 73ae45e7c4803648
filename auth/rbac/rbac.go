// Package rbac decides by roles and bindings (rbac.authorization.k8s.io/v1).
// The decision is pure: a view of the world and the attributes of a request go
// in, allow or no opinion comes out. It also holds the roles and bindings that
// every cluster starts with.
package rbac

import (
	"context"
	"fmt"
	"iter"
	"slices"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"

	"proa/auth"
	"proa/client"
)

// Authorizer decides on the newest view.
type Authorizer struct{ View func() client.View }

// Authorize allows what a rule allows, and has no opinion on the rest.
func (z Authorizer) Authorize(_ context.Context, a auth.Attributes) (auth.Decision, string, error) {
	for rule, why := range RulesFor(z.View(), a.User, a.Namespace) {
		if Allows(rule, a) {
			return auth.Allow, "RBAC: allowed by " + why, nil
		}
	}
	return auth.NoOpinion, "", nil
}

// RulesFor yields every rule that holds for the user in the namespace ("" for
// cluster-wide rules only), each with the binding that grants it. A binding to a
// role that does not exist grants nothing.
func RulesFor(v client.View, u auth.User, namespace string) iter.Seq2[rbacv1.PolicyRule, string] {
	return func(yield func(rbacv1.PolicyRule, string) bool) {
		for b := range client.List[rbacv1.ClusterRoleBinding](v, "") {
			s := subjectFor(u, b.Subjects, "")
			if s == nil {
				continue
			}
			why := fmt.Sprintf("ClusterRoleBinding %q of %s %q to %s", b.Name, b.RoleRef.Kind, b.RoleRef.Name, describe(*s))
			if !each(rulesOf(v, b.RoleRef, ""), why, yield) {
				return
			}
		}
		if namespace == "" {
			return
		}
		for b := range client.List[rbacv1.RoleBinding](v, namespace) {
			s := subjectFor(u, b.Subjects, namespace)
			if s == nil {
				continue
			}
			why := fmt.Sprintf("RoleBinding %q of %s %q to %s", b.Name+"/"+namespace, b.RoleRef.Kind, b.RoleRef.Name, describe(*s))
			if !each(rulesOf(v, b.RoleRef, namespace), why, yield) {
				return
			}
		}
	}
}

func each(rules []rbacv1.PolicyRule, why string, yield func(rbacv1.PolicyRule, string) bool) bool {
	for _, r := range rules {
		if !yield(r, why) {
			return false
		}
	}
	return true
}

func rulesOf(v client.View, ref rbacv1.RoleRef, namespace string) []rbacv1.PolicyRule {
	switch ref.Kind {
	case "ClusterRole":
		if r := client.Get[rbacv1.ClusterRole](v, "", ref.Name); r != nil {
			return r.Rules
		}
	case "Role":
		if r := client.Get[rbacv1.Role](v, namespace, ref.Name); r != nil && namespace != "" {
			return r.Rules
		}
	}
	return nil
}

// subjectFor finds the subject that the user is. A service account without a
// namespace is one of the binding's namespace.
func subjectFor(u auth.User, subjects []rbacv1.Subject, namespace string) *rbacv1.Subject {
	for i, s := range subjects {
		if is(u, s, namespace) {
			return &subjects[i]
		}
	}
	return nil
}

func is(u auth.User, s rbacv1.Subject, namespace string) bool {
	switch s.Kind {
	case rbacv1.UserKind:
		return u.Name == s.Name
	case rbacv1.GroupKind:
		return u.In(s.Name)
	case rbacv1.ServiceAccountKind:
		if s.Namespace != "" {
			namespace = s.Namespace
		}
		return namespace != "" && u.Name == auth.ServiceAccountPrefix+namespace+":"+s.Name
	}
	return false
}

func describe(s rbacv1.Subject) string {
	if s.Kind == rbacv1.ServiceAccountKind {
		return fmt.Sprintf("%s %q", s.Kind, s.Name+"/"+s.Namespace)
	}
	return fmt.Sprintf("%s %q", s.Kind, s.Name)
}

// Allows tells whether a rule covers a request.
func Allows(r rbacv1.PolicyRule, a auth.Attributes) bool {
	if !has(r.Verbs, a.Verb) {
		return false
	}
	if !a.ResourceRequest {
		return slices.ContainsFunc(r.NonResourceURLs, func(u string) bool { return coversPath(u, a.Path) })
	}
	return has(r.APIGroups, a.Group) && coversResource(r.Resources, a.Resource, a.Subresource) &&
		(len(r.ResourceNames) == 0 || slices.Contains(r.ResourceNames, a.Name))
}

func has(list []string, want string) bool {
	return slices.Contains(list, "*") || slices.Contains(list, want)
}

// coversResource knows "*" for all, "pods" for the resource itself, "pods/log"
// for a subresource and "*/scale" for that of any resource.
func coversResource(list []string, resource, sub string) bool {
	if sub == "" {
		return has(list, resource)
	}
	return has(list, resource+"/"+sub) || slices.Contains(list, "*/"+sub)
}

func coversPath(pattern, path string) bool {
	if prefix, ok := strings.CutSuffix(pattern, "*"); ok {
		return strings.HasPrefix(path, prefix)
	}
	return pattern == path
}
