package rbac

import (
	_ "embed"
	"fmt"
	"slices"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"proa/api"
)

//go:embed roles.txt
var defaults string

// Names that the table of defaults gives a meaning.
const (
	controllerPrefix = "system:controller:"
	aggregatePrefix  = "rbac.authorization.k8s.io/aggregate-to-"
)

var verbSets = map[string][]string{
	"read":      {"get", "list", "watch"},
	"write":     {"create", "delete", "deletecollection", "patch", "update"},
	"readwrite": {"create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"},
}

// Bootstrap returns the roles and bindings that every cluster has. They are
// upstream's; the table beside this file holds them.
func Bootstrap() []api.Object {
	objs, err := parseRoles(defaults)
	if err != nil {
		panic(err) // the table is a part of the program
	}
	return objs
}

// parseRoles reads the notation that the table explains.
func parseRoles(text string) (objs []api.Object, err error) {
	var rules *[]rbacv1.PolicyRule
	for n, line := range strings.Split(text, "\n") {
		words := strings.Fields(line)
		switch {
		case len(words) == 0 || strings.HasPrefix(line, "#"):
			continue
		case line[0] == '\t' && rules != nil && (len(words) == 2 || len(words) == 3 || len(words) == 5):
			*rules = append(*rules, parseRule(words))
			continue
		case len(words) >= 5 && words[2] == "=":
			objs, rules = append(objs, parseBinding(words)), nil
			continue
		case line[0] == '\t' || len(words)%2 != 0:
			return nil, fmt.Errorf("line %d of the default roles: %q", n+1, line)
		}
		var obj api.Object
		obj, rules = parseRole(words)
		objs = append(objs, obj)
		if account, ok := strings.CutPrefix(obj.GetName(), controllerPrefix); ok && obj.GetNamespace() == "" {
			objs = append(objs, parseBinding([]string{"ClusterRoleBinding", obj.GetName(), "=", "ClusterRole", obj.GetName() + ":", "account", metav1.NamespaceSystem + "/" + account}))
		}
	}
	return objs, nil
}

func parseRule(words []string) rbacv1.PolicyRule {
	r := rbacv1.PolicyRule{Verbs: verbSets[words[0]]}
	if r.Verbs == nil {
		r.Verbs = strings.Split(words[0], ",")
	}
	if len(words) == 2 {
		r.NonResourceURLs = strings.Split(words[1], ",")
		return r
	}
	r.APIGroups, r.Resources = strings.Split(words[1], ","), strings.Split(words[2], ",")
	if i := slices.Index(r.APIGroups, "core"); i >= 0 {
		r.APIGroups[i] = ""
	}
	if len(words) == 5 {
		r.ResourceNames = strings.Split(words[4], ",")
	}
	return r
}

// parseRole returns the role, and where its rules go.
func parseRole(words []string) (api.Object, *[]rbacv1.PolicyRule) {
	m := defaultMeta(words[1])
	if words[0] == "Role" {
		r := &rbacv1.Role{ObjectMeta: m}
		return r, &r.Rules
	}
	r := &rbacv1.ClusterRole{ObjectMeta: m}
	for i := 2; i+1 < len(words); i += 2 {
		if label := aggregatePrefix + words[i+1]; words[i] == "partof" {
			r.Labels[label] = "true"
		} else {
			r.AggregationRule = &rbacv1.AggregationRule{ClusterRoleSelectors: []metav1.LabelSelector{{MatchLabels: map[string]string{label: "true"}}}}
		}
	}
	return r, &r.Rules
}

func parseBinding(words []string) api.Object {
	ref := rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: words[3], Name: strings.TrimSuffix(words[4], ":")}
	var to []rbacv1.Subject
	for i := 5; i+1 < len(words); i += 2 {
		to = append(to, subject(words[i], strings.TrimSuffix(words[i+1], ",")))
	}
	if words[0] == "RoleBinding" {
		return &rbacv1.RoleBinding{ObjectMeta: defaultMeta(words[1]), RoleRef: ref, Subjects: to}
	}
	return &rbacv1.ClusterRoleBinding{ObjectMeta: defaultMeta(words[1]), RoleRef: ref, Subjects: to}
}

func subject(kind, name string) rbacv1.Subject {
	switch kind {
	case "user":
		return rbacv1.Subject{Kind: rbacv1.UserKind, APIGroup: rbacv1.GroupName, Name: name}
	case "group":
		return rbacv1.Subject{Kind: rbacv1.GroupKind, APIGroup: rbacv1.GroupName, Name: name}
	}
	namespace, name, _ := strings.Cut(name, "/")
	return rbacv1.Subject{Kind: rbacv1.ServiceAccountKind, Namespace: namespace, Name: name}
}

func defaultMeta(name string) metav1.ObjectMeta {
	namespace, rest, ok := strings.Cut(name, "/")
	if !ok {
		namespace, rest = "", name
	}
	return metav1.ObjectMeta{
		Name: rest, Namespace: namespace,
		Labels:      map[string]string{"kubernetes.io/bootstrapping": "rbac-defaults"},
		Annotations: map[string]string{rbacv1.AutoUpdateAnnotationKey: "true"},
	}
}
