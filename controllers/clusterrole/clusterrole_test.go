package clusterrole

import (
	"context"
	"fmt"
	"testing"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"proa/client"
	"proa/controllers/simulation"
)

func role(name string, resources ...string) *rbacv1.ClusterRole {
	r := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"to": "all"}}}
	for _, res := range resources {
		r.Rules = append(r.Rules, rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{res}, Verbs: []string{"get"}})
	}
	return r
}

func TestRulesFollowTheMatchedRoles(t *testing.T) {
	simulation.Run(t, nil, func(ctx context.Context, c *simulation.Cluster) {
		all := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "all", Labels: map[string]string{"to": "all"}},
			AggregationRule: &rbacv1.AggregationRule{ClusterRoleSelectors: []metav1.LabelSelector{{MatchLabels: map[string]string{"to": "all"}}}}}
		for _, r := range []*rbacv1.ClusterRole{all, role("b", "pods", "secrets"), role("a", "pods", "nodes")} {
			if _, err := c.Create(ctx, r); err != nil {
				t.Fatal(err)
			}
		}
		check := func(want string) {
			t.Helper()
			time.Sleep(time.Second)
			var got []string
			for _, r := range client.Get[rbacv1.ClusterRole](c.View(), "", "all").Rules {
				got = append(got, r.Resources...)
			}
			if fmt.Sprint(got) != want {
				t.Errorf("rules for %v, want %s", got, want)
			}
		}
		check("[pods nodes secrets]")
		if err := c.Delete(ctx, client.Row[rbacv1.ClusterRole](), client.Key{Name: "a"}, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		check("[pods secrets]")
	}, Controller())
}

// Rules that a person wrote stay while no role is selected; those that were
// gathered go with the last role.
func TestNoRoleIsSelected(t *testing.T) {
	simulation.Run(t, nil, func(ctx context.Context, c *simulation.Cluster) {
		all := role("all", "pods")
		all.AggregationRule = &rbacv1.AggregationRule{ClusterRoleSelectors: []metav1.LabelSelector{{MatchLabels: map[string]string{"to": "nobody"}}}}
		gathered := all.DeepCopy()
		gathered.Name = "gathered"
		gathered.ManagedFields = []metav1.ManagedFieldsEntry{{Manager: "kube-controller-manager", Operation: metav1.ManagedFieldsOperationUpdate,
			APIVersion: "rbac.authorization.k8s.io/v1", FieldsType: "FieldsV1", FieldsV1: &metav1.FieldsV1{Raw: []byte(`{"f:rules":{}}`)}}}
		for _, r := range []*rbacv1.ClusterRole{all, gathered} {
			if _, err := c.Create(ctx, r); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(time.Second)
		for name, want := range map[string]int{"all": 1, "gathered": 0} {
			if n := len(client.Get[rbacv1.ClusterRole](c.View(), "", name).Rules); n != want {
				t.Errorf("%s has %d rules, want %d", name, n, want)
			}
		}
	}, Controller())
}
