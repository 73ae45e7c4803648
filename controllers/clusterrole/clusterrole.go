// Package clusterrole fills aggregated ClusterRoles with the rules of those that
// their selectors match.
package clusterrole

import (
	"slices"
	"strings"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"proa/client"
	"proa/controllers/own"
	"proa/reconcile"
)

// manager is the field manager of what the controllers write.
const manager = "kube-controller-manager"

// Controller is the aggregation controller.
func Controller() reconcile.Controller {
	return reconcile.Controller{
		Name:    "clusterrole-aggregation-controller",
		Watches: []reconcile.Watch{{Resource: client.Row[rbacv1.ClusterRole](), Keys: aggregates}},
		Decide:  Decide,
	}
}

// aggregates wakes all aggregated roles: any change may be one of theirs.
func aggregates(v client.View, e client.Event) []client.Key {
	old, _ := e.Old.(*rbacv1.ClusterRole)
	is, _ := e.New.(*rbacv1.ClusterRole)
	if old != nil && is != nil && equality.Semantic.DeepEqual(old.Rules, is.Rules) && equality.Semantic.DeepEqual(old.Labels, is.Labels) &&
		equality.Semantic.DeepEqual(old.AggregationRule, is.AggregationRule) {
		return nil
	}
	var keys []client.Key
	for r := range client.List[rbacv1.ClusterRole](v, "") {
		if r.AggregationRule != nil {
			keys = append(keys, client.KeyOf(r))
		}
	}
	return keys
}

// Decide is the controller's decision. Rules come in the order of the roles'
// names within each selector, each once.
func Decide(v client.View, _ time.Time, key client.Key) reconcile.Plan {
	role := client.Get[rbacv1.ClusterRole](v, "", key.Name)
	if role == nil || role.DeletionTimestamp != nil || role.AggregationRule == nil {
		return reconcile.Plan{}
	}
	var rules []rbacv1.PolicyRule
	for i := range role.AggregationRule.ClusterRoleSelectors {
		sel := own.Selector(&role.AggregationRule.ClusterRoleSelectors[i])
		for r := range client.List[rbacv1.ClusterRole](v, "") {
			if r.Name != role.Name && sel.Matches(labels.Set(r.Labels)) {
				rules = addNew(rules, r.Rules)
			}
		}
	}
	if equality.Semantic.DeepEqual(rules, role.Rules) || len(rules) == 0 && !filled(role) {
		return reconcile.Plan{}
	}
	next := role.DeepCopy()
	next.Rules = rules
	return reconcile.Plan{Writes: []reconcile.Write{{Op: reconcile.Update, Object: next}}}
}

// filled tells whether this controller wrote the rules. Those that somebody else
// wrote stay for as long as no role is selected.
func filled(role *rbacv1.ClusterRole) bool {
	return slices.ContainsFunc(role.ManagedFields, func(m metav1.ManagedFieldsEntry) bool {
		return m.Manager == manager && m.FieldsV1 != nil && strings.Contains(string(m.FieldsV1.Raw), `"f:rules"`)
	})
}

func addNew(rules, more []rbacv1.PolicyRule) []rbacv1.PolicyRule {
	for _, r := range more {
		if !slices.ContainsFunc(rules, func(o rbacv1.PolicyRule) bool { return equality.Semantic.DeepEqual(o, r) }) {
			rules = append(rules, r)
		}
	}
	return rules
}
