package apiserver_test

import (
	"strings"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"proa/apiserver"
	"proa/auth"
	"proa/auth/rbac"
	"proa/client"
)

// withRBAC has requests of users other than root decided by roles and bindings.
func withRBAC(c *apiserver.Config) {
	view := func() client.View { return apiserver.View(c.Store.Snapshot()) }
	c.Authorizer = auth.Authorizers{auth.Masters{}, rbac.Authorizer{View: view}}
	c.Bootstrap = append(c.Bootstrap, rbac.Bootstrap()...)
}

// as is a clientset of a user.
func (h *harness) as(t testing.TB, user string) *kubernetes.Clientset {
	t.Helper()
	cs, err := kubernetes.NewForConfig(h.config(user))
	must(t, err)
	return cs
}

func named1(name string) metav1.ObjectMeta { return metav1.ObjectMeta{Name: name} }

func grant(t *testing.T, root *kubernetes.Clientset, user string, rules ...rbacv1.PolicyRule) {
	t.Helper()
	_, err := root.RbacV1().ClusterRoles().Create(t.Context(), &rbacv1.ClusterRole{ObjectMeta: named1(user), Rules: rules}, metav1.CreateOptions{})
	must(t, err)
	_, err = root.RbacV1().ClusterRoleBindings().Create(t.Context(), &rbacv1.ClusterRoleBinding{ObjectMeta: named1(user),
		RoleRef:  rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: user},
		Subjects: []rbacv1.Subject{{Kind: "User", APIGroup: rbacv1.GroupName, Name: user}}}, metav1.CreateOptions{})
	must(t, err)
}

// TestNobodyHandsOutMoreThanTheyHold is upstream's protection of roles and
// bindings, in all the ways that they can be written.
func TestNobodyHandsOutMoreThanTheyHold(t *testing.T) {
	h := start(t, withRBAC)
	ctx, root, ann := t.Context(), h.as(t, "root"), h.as(t, "ann")
	writeRoles := rbacv1.PolicyRule{Verbs: []string{"get", "create", "update", "patch"}, APIGroups: []string{rbacv1.GroupName},
		Resources: []string{"roles", "clusterroles", "rolebindings", "clusterrolebindings"}}
	readPods := rbacv1.PolicyRule{Verbs: []string{"get", "list"}, APIGroups: []string{""}, Resources: []string{"pods"}}
	secrets := rbacv1.PolicyRule{Verbs: []string{"get"}, APIGroups: []string{""}, Resources: []string{"secrets"}}
	grant(t, root, "ann", writeRoles, readPods)
	refused := func(what string, err error, text string) {
		t.Helper()
		if !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), text) {
			t.Errorf("%s: %v", what, err)
		}
	}
	roles, missing := ann.RbacV1().Roles("default"), `not currently held:`+"\n"+`{APIGroups:[""], Resources:["secrets"], Verbs:["get"]}`
	_, err := roles.Create(ctx, &rbacv1.Role{ObjectMeta: named1("a"), Rules: []rbacv1.PolicyRule{secrets}}, metav1.CreateOptions{})
	refused("a role with more", err, missing)
	_, err = roles.Create(ctx, &rbacv1.Role{ObjectMeta: named1("a"), Rules: []rbacv1.PolicyRule{readPods}}, metav1.CreateOptions{})
	must(t, err)
	_, err = roles.Patch(ctx, "a", types.JSONPatchType, []byte(`[{"op":"replace","path":"/rules/0/resources/0","value":"secrets"}]`), metav1.PatchOptions{})
	refused("a patch to more", err, `Resources:["secrets"]`)
	_, err = roles.Patch(ctx, "a", types.MergePatchType, []byte(`{"metadata":{"finalizers":["x.example/y"]}}`), metav1.PatchOptions{})
	must(t, err)
	_, err = ann.RbacV1().ClusterRoles().Create(ctx, &rbacv1.ClusterRole{ObjectMeta: named1("agg"), AggregationRule: &rbacv1.AggregationRule{
		ClusterRoleSelectors: []metav1.LabelSelector{{MatchLabels: map[string]string{"a": "b"}}}}}, metav1.CreateOptions{})
	refused("an aggregated role", err, "must have cluster-admin privileges to use the aggregationRule")

	bind := func(kind, name string) error {
		_, err := ann.RbacV1().RoleBindings("default").Create(ctx, &rbacv1.RoleBinding{ObjectMeta: named1("b-" + name),
			RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: kind, Name: name}}, metav1.CreateOptions{})
		return err
	}
	refused("a binding to more", bind("ClusterRole", "cluster-admin"), `is attempting to grant RBAC permissions not currently held`)
	if err := bind("Role", "none"); !apierrors.IsNotFound(err) {
		t.Errorf("a binding to a role that is not there: %v", err)
	}
	must(t, bind("Role", "a"))

	grant(t, root, "ben", writeRoles, rbacv1.PolicyRule{Verbs: []string{"bind", "escalate"}, APIGroups: []string{rbacv1.GroupName},
		Resources: []string{"clusterroles"}, ResourceNames: []string{"cluster-admin", "big"}})
	ben := h.as(t, "ben")
	_, err = ben.RbacV1().ClusterRoles().Create(ctx, &rbacv1.ClusterRole{ObjectMeta: named1("big"), Rules: []rbacv1.PolicyRule{secrets}}, metav1.CreateOptions{})
	must(t, err)
	_, err = ben.RbacV1().ClusterRoles().Create(ctx, &rbacv1.ClusterRole{ObjectMeta: named1("other"), Rules: []rbacv1.PolicyRule{secrets}}, metav1.CreateOptions{})
	refused("another role than the one that may be escalated", err, missing)
	_, err = ben.RbacV1().ClusterRoleBindings().Create(ctx, &rbacv1.ClusterRoleBinding{ObjectMeta: named1("own"),
		RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "cluster-admin"}}, metav1.CreateOptions{})
	must(t, err)
}
