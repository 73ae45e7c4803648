package rbac

import (
	"maps"
	"slices"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"proa/api"
)

// Complete returns the stored default with what the wanted one has besides: rules,
// subjects, selectors, labels and annotations are added, never taken away. It is
// nil where nothing is missing, or where the object's owner switched this off by
// the annotation rbac.authorization.kubernetes.io/autoupdate.
func Complete(have, want api.Object) api.Object {
	if have.GetAnnotations()[rbacv1.AutoUpdateAnnotationKey] == "false" {
		return nil
	}
	next := have.DeepCopyObject().(api.Object)
	switch n := next.(type) {
	case *rbacv1.ClusterRole:
		w := want.(*rbacv1.ClusterRole)
		n.AggregationRule = completeAggregation(n.AggregationRule, w.AggregationRule)
		if w.AggregationRule == nil {
			n.Rules = append(n.Rules, Uncovered(n.Rules, w.Rules)...)
		}
	case *rbacv1.Role:
		n.Rules = append(n.Rules, Uncovered(n.Rules, want.(*rbacv1.Role).Rules)...)
	case *rbacv1.ClusterRoleBinding:
		n.Subjects = union(n.Subjects, want.(*rbacv1.ClusterRoleBinding).Subjects)
	case *rbacv1.RoleBinding:
		n.Subjects = union(n.Subjects, want.(*rbacv1.RoleBinding).Subjects)
	default:
		return nil
	}
	next.SetLabels(with(next.GetLabels(), want.GetLabels()))
	next.SetAnnotations(with(next.GetAnnotations(), want.GetAnnotations()))
	if equality.Semantic.DeepEqual(next, have) {
		return nil
	}
	return next
}

// Replaces tells whether the stored binding is one to another role, which cannot
// be changed: it has to be made anew.
func Replaces(have, want api.Object) bool {
	if have.GetAnnotations()[rbacv1.AutoUpdateAnnotationKey] == "false" {
		return false
	}
	switch w := want.(type) {
	case *rbacv1.ClusterRoleBinding:
		return have.(*rbacv1.ClusterRoleBinding).RoleRef != w.RoleRef
	case *rbacv1.RoleBinding:
		return have.(*rbacv1.RoleBinding).RoleRef != w.RoleRef
	}
	return false
}

func completeAggregation(have, want *rbacv1.AggregationRule) *rbacv1.AggregationRule {
	if want == nil {
		return have
	}
	out := &rbacv1.AggregationRule{}
	if have != nil {
		out = have.DeepCopy()
	}
	for _, w := range want.ClusterRoleSelectors {
		if !slices.ContainsFunc(out.ClusterRoleSelectors, func(h metav1.LabelSelector) bool { return equality.Semantic.DeepEqual(h, w) }) {
			out.ClusterRoleSelectors = append(out.ClusterRoleSelectors, w)
		}
	}
	return out
}

func union[T comparable](have, want []T) []T {
	for _, w := range want {
		if !slices.Contains(have, w) {
			have = append(have, w)
		}
	}
	return have
}

// with adds what is missing; a value that is there stays.
func with(have, want map[string]string) map[string]string {
	out := maps.Clone(have)
	for k, v := range want {
		if _, ok := out[k]; !ok {
			if out == nil {
				out = map[string]string{}
			}
			out[k] = v
		}
	}
	return out
}
