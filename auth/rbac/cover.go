package rbac

import (
	"fmt"
	"iter"
	"slices"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"

	"proa/auth"
)

// Uncovered returns the parts of the asked rules that none of the held ones
// allows, those of one resource put together.
func Uncovered(held, asked []rbacv1.PolicyRule) []rbacv1.PolicyRule {
	var missing []rbacv1.PolicyRule
	for _, rule := range asked {
		for part := range single(rule) {
			if !slices.ContainsFunc(held, func(h rbacv1.PolicyRule) bool { return covers(h, part) }) {
				missing = merge(missing, part)
			}
		}
	}
	return missing
}

// single yields a rule's smallest parts: one verb on one thing each.
func single(r rbacv1.PolicyRule) iter.Seq[rbacv1.PolicyRule] {
	return func(yield func(rbacv1.PolicyRule) bool) {
		for _, verb := range r.Verbs {
			for part := range things(r) {
				part.Verbs = []string{verb}
				if !yield(part) {
					return
				}
			}
		}
	}
}

func things(r rbacv1.PolicyRule) iter.Seq[rbacv1.PolicyRule] {
	return func(yield func(rbacv1.PolicyRule) bool) {
		for _, path := range r.NonResourceURLs {
			if !yield(rbacv1.PolicyRule{NonResourceURLs: []string{path}}) {
				return
			}
		}
		for _, group := range r.APIGroups {
			for _, resource := range r.Resources {
				for _, names := range eachName(r.ResourceNames) {
					if !yield(rbacv1.PolicyRule{APIGroups: []string{group}, Resources: []string{resource}, ResourceNames: names}) {
						return
					}
				}
			}
		}
	}
}

// eachName has one entry that names nothing when all objects are meant.
func eachName(names []string) (out [][]string) {
	if len(names) == 0 {
		return [][]string{nil}
	}
	for _, n := range names {
		out = append(out, []string{n})
	}
	return out
}

// covers tells whether a held rule allows everything that a single part does.
func covers(held, part rbacv1.PolicyRule) bool {
	if !has(held.Verbs, part.Verbs[0]) {
		return false
	}
	if len(part.NonResourceURLs) == 1 {
		return slices.ContainsFunc(held.NonResourceURLs, func(p string) bool { return coversPath(p, part.NonResourceURLs[0]) })
	}
	resource, sub, _ := strings.Cut(part.Resources[0], "/")
	return has(held.APIGroups, part.APIGroups[0]) && coversResource(held.Resources, resource, sub) &&
		(len(held.ResourceNames) == 0 || len(part.ResourceNames) == 1 && slices.Contains(held.ResourceNames, part.ResourceNames[0]))
}

// merge adds a part, as another verb of the same thing if that is there.
func merge(list []rbacv1.PolicyRule, part rbacv1.PolicyRule) []rbacv1.PolicyRule {
	for i := range list {
		l := &list[i]
		if slices.Equal(l.APIGroups, part.APIGroups) && slices.Equal(l.Resources, part.Resources) &&
			slices.Equal(l.ResourceNames, part.ResourceNames) && slices.Equal(l.NonResourceURLs, part.NonResourceURLs) {
			if !slices.Contains(l.Verbs, part.Verbs[0]) {
				l.Verbs = append(l.Verbs, part.Verbs[0])
			}
			return list
		}
	}
	return append(list, part)
}

// Describe writes a rule as upstream's refusals do.
func Describe(r rbacv1.PolicyRule) string {
	var parts []string
	for _, p := range []struct {
		name string
		list []string
	}{{"APIGroups", r.APIGroups}, {"Resources", r.Resources}, {"NonResourceURLs", r.NonResourceURLs},
		{"ResourceNames", r.ResourceNames}, {"Verbs", r.Verbs}} {
		if len(p.list) > 0 {
			parts = append(parts, fmt.Sprintf("%s:%q", p.name, p.list))
		}
	}
	return "{" + strings.Join(parts, ", ") + "}"
}

// Escalation is the error of a user who would give away more than they hold, or
// nil.
func Escalation(u auth.User, held, given []rbacv1.PolicyRule) error {
	missing := Uncovered(held, given)
	if len(missing) == 0 {
		return nil
	}
	var lines []string
	for _, m := range missing {
		lines = append(lines, Describe(m))
	}
	slices.Sort(lines)
	return fmt.Errorf("user %q (groups=%q) is attempting to grant RBAC permissions not currently held:\n%s",
		u.Name, u.Groups, strings.Join(slices.Compact(lines), "\n"))
}
