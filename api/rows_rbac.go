package api

import (
	"strings"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/api/validation/path"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func rbacRows() []*Resource {
	return []*Resource{clusterRoleRow(), clusterRoleBindingRow(), roleRow(), roleBindingRow()}
}

// createdAtColumn is what kinds show whose tables tell a point in time in
// place of an age.
var createdAtColumn = metav1.TableColumnDefinition{Name: "Created At", Type: "date", Description: metaDoc["creationTimestamp"]}

func createdAtCells(obj metav1.Object) []any {
	return []any{obj.GetName(), obj.GetCreationTimestamp().UTC().Format(time.RFC3339)}
}

func roleRow() *Resource {
	return kind[*rbacv1.Role]{
		GroupVersion: rbacv1.SchemeGroupVersion, Plural: "roles", Namespaced: true,
		List: &rbacv1.RoleList{}, Name: path.ValidatePathSegmentName,
		Validate: func(r *rbacv1.Role) field.ErrorList { return validatePolicyRules(r.Rules, true) },
		Columns:  columns(nameColumn, createdAtColumn),
		Cells:    func(r *rbacv1.Role, _ time.Time) []any { return createdAtCells(r) },
	}.row()
}

func clusterRoleRow() *Resource {
	return kind[*rbacv1.ClusterRole]{
		GroupVersion: rbacv1.SchemeGroupVersion, Plural: "clusterroles",
		List: &rbacv1.ClusterRoleList{}, Name: path.ValidatePathSegmentName,
		Validate: validateClusterRole,
		Columns:  columns(nameColumn, createdAtColumn),
		Cells:    func(r *rbacv1.ClusterRole, _ time.Time) []any { return createdAtCells(r) },
	}.row()
}

func roleBindingRow() *Resource {
	doc := rbacv1.RoleBinding{}.SwaggerDoc()
	return kind[*rbacv1.RoleBinding]{
		GroupVersion: rbacv1.SchemeGroupVersion, Plural: "rolebindings", Namespaced: true,
		List: &rbacv1.RoleBindingList{}, Name: path.ValidatePathSegmentName,
		Default:  func(b *rbacv1.RoleBinding) { defaultBinding(&b.RoleRef, b.Subjects) },
		Validate: func(b *rbacv1.RoleBinding) field.ErrorList { return validateBinding(b.RoleRef, b.Subjects, true) },
		ValidateUpdate: func(b, old *rbacv1.RoleBinding) field.ErrorList {
			return validateRoleRefUpdate(b.RoleRef, old.RoleRef)
		},
		Columns: bindingColumns(doc["roleRef"]),
		Cells: func(b *rbacv1.RoleBinding, now time.Time) []any {
			return bindingCells(b, b.RoleRef, b.Subjects, now)
		},
	}.row()
}

func clusterRoleBindingRow() *Resource {
	doc := rbacv1.ClusterRoleBinding{}.SwaggerDoc()
	return kind[*rbacv1.ClusterRoleBinding]{
		GroupVersion: rbacv1.SchemeGroupVersion, Plural: "clusterrolebindings",
		List: &rbacv1.ClusterRoleBindingList{}, Name: path.ValidatePathSegmentName,
		Default: func(b *rbacv1.ClusterRoleBinding) { defaultBinding(&b.RoleRef, b.Subjects) },
		Validate: func(b *rbacv1.ClusterRoleBinding) field.ErrorList {
			return validateBinding(b.RoleRef, b.Subjects, false)
		},
		ValidateUpdate: func(b, old *rbacv1.ClusterRoleBinding) field.ErrorList {
			return validateRoleRefUpdate(b.RoleRef, old.RoleRef)
		},
		Columns: bindingColumns(doc["roleRef"]),
		Cells: func(b *rbacv1.ClusterRoleBinding, now time.Time) []any {
			return bindingCells(b, b.RoleRef, b.Subjects, now)
		},
	}.row()
}

func bindingColumns(roleDoc string) []metav1.TableColumnDefinition {
	return columns(nameColumn,
		column("Role", "string", roleDoc),
		ageColumn,
		wideColumn("Users", "string", "Users in the binding"),
		wideColumn("Groups", "string", "Groups in the binding"),
		wideColumn("ServiceAccounts", "string", "ServiceAccounts in the binding"))
}

func bindingCells(obj metav1.Object, ref rbacv1.RoleRef, subjects []rbacv1.Subject, now time.Time) []any {
	var users, groups, accounts []string
	for _, s := range subjects {
		switch s.Kind {
		case rbacv1.ServiceAccountKind:
			accounts = append(accounts, s.Namespace+"/"+s.Name)
		case rbacv1.UserKind:
			users = append(users, s.Name)
		case rbacv1.GroupKind:
			groups = append(groups, s.Name)
		}
	}
	return []any{obj.GetName(), ref.Kind + "/" + ref.Name, age(obj, now),
		strings.Join(users, ", "), strings.Join(groups, ", "), strings.Join(accounts, ", ")}
}

func defaultBinding(ref *rbacv1.RoleRef, subjects []rbacv1.Subject) {
	empty(&ref.APIGroup, rbacv1.GroupName)
	for i := range subjects {
		if k := subjects[i].Kind; k == rbacv1.UserKind || k == rbacv1.GroupKind {
			empty(&subjects[i].APIGroup, rbacv1.GroupName)
		}
	}
}

func validateClusterRole(r *rbacv1.ClusterRole) field.ErrorList {
	errs := validatePolicyRules(r.Rules, false)
	if r.AggregationRule == nil {
		return errs
	}
	at := field.NewPath("aggregationRule").Child("clusterRoleSelectors")
	if len(r.AggregationRule.ClusterRoleSelectors) == 0 {
		errs = append(errs, field.Required(at, "at least one clusterRoleSelector required if aggregationRule is non-nil"))
	}
	for i := range r.AggregationRule.ClusterRoleSelectors {
		s := &r.AggregationRule.ClusterRoleSelectors[i]
		errs = append(errs, checkSelector(s, at.Index(i))...)
		if _, err := metav1.LabelSelectorAsSelector(s); err != nil {
			errs = append(errs, field.Invalid(at.Index(i), *s, "invalid label selector."))
		}
	}
	return errs
}

func validatePolicyRules(rules []rbacv1.PolicyRule, namespaced bool) field.ErrorList {
	var errs field.ErrorList
	for i := range rules {
		errs = append(errs, validatePolicyRule(&rules[i], namespaced, field.NewPath("rules").Index(i))...)
	}
	return errs
}

func validatePolicyRule(r *rbacv1.PolicyRule, namespaced bool, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if len(r.Verbs) == 0 {
		errs = append(errs, field.Required(at.Child("verbs"), "verbs must contain at least one value"))
	}
	if len(r.NonResourceURLs) > 0 {
		urls := at.Child("nonResourceURLs")
		if namespaced {
			errs = append(errs, field.Invalid(urls, r.NonResourceURLs, "namespaced rules cannot apply to non-resource URLs"))
		}
		if len(r.APIGroups)+len(r.Resources)+len(r.ResourceNames) > 0 {
			errs = append(errs, field.Invalid(urls, r.NonResourceURLs, "rules cannot apply to both regular resources and non-resource URLs"))
		}
		return errs
	}
	if len(r.APIGroups) == 0 {
		errs = append(errs, field.Required(at.Child("apiGroups"), "resource rules must supply at least one api group"))
	}
	if len(r.Resources) == 0 {
		errs = append(errs, field.Required(at.Child("resources"), "resource rules must supply at least one resource"))
	}
	return errs
}

func validateBinding(ref rbacv1.RoleRef, subjects []rbacv1.Subject, namespaced bool) field.ErrorList {
	at := field.NewPath("roleRef")
	errs := oneOf(ref.APIGroup, at.Child("apiGroup"), rbacv1.GroupName)
	kinds := []string{"ClusterRole"}
	if namespaced {
		kinds = []string{"Role", "ClusterRole"}
	}
	errs = append(errs, oneOf(ref.Kind, at.Child("kind"), kinds...)...)
	if ref.Name == "" {
		errs = append(errs, field.Required(at.Child("name"), ""))
	} else {
		errs = append(errs, invalidEach(ref.Name, at.Child("name"), path.ValidatePathSegmentName(ref.Name, false))...)
	}
	for i := range subjects {
		errs = append(errs, validateSubject(&subjects[i], namespaced, field.NewPath("subjects").Index(i))...)
	}
	return errs
}

func validateSubject(s *rbacv1.Subject, namespaced bool, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if s.Name == "" {
		errs = append(errs, field.Required(at.Child("name"), ""))
	}
	switch s.Kind {
	case rbacv1.ServiceAccountKind:
		if s.Name != "" {
			errs = append(errs, invalidEach(s.Name, at.Child("name"), apivalidation.ValidateServiceAccountName(s.Name, false))...)
		}
		errs = append(errs, oneOf(s.APIGroup, at.Child("apiGroup"), "")...)
		if !namespaced && s.Namespace == "" {
			errs = append(errs, field.Required(at.Child("namespace"), ""))
		}
	case rbacv1.UserKind, rbacv1.GroupKind:
		errs = append(errs, oneOf(s.APIGroup, at.Child("apiGroup"), rbacv1.GroupName)...)
	default:
		errs = append(errs, field.NotSupported(at.Child("kind"), s.Kind,
			[]string{rbacv1.ServiceAccountKind, rbacv1.UserKind, rbacv1.GroupKind}))
	}
	return errs
}

func validateRoleRefUpdate(now, before rbacv1.RoleRef) field.ErrorList {
	if now == before {
		return nil
	}
	return field.ErrorList{field.Invalid(field.NewPath("roleRef"), now, "cannot change roleRef")}
}
