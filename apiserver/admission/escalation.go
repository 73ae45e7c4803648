package admission

import (
	"context"
	"errors"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"proa/api"
	"proa/auth"
	"proa/auth/rbac"
	"proa/store"
)

// roleEscalation keeps who may write roles and bindings from giving away more
// than they hold, unless they may "escalate" the role or "bind" it (see
// https://kubernetes.io/docs/reference/access-authn-authz/rbac/#privilege-escalation-prevention-and-bootstrapping).
func roleEscalation(c Config) Plugin {
	e := escalation{c}
	return Plugin{Name: "RoleEscalation", Validate: func(ctx context.Context, r *Request) error {
		if r.Resource.Group != rbacv1.GroupName || r.Op != Create && r.Op != Update || r.User.In(auth.GroupMasters) || c.Rules == nil {
			return nil
		}
		if r.Op == Update && onlyCollected(r.Object, r.Old) {
			return nil
		}
		switch obj := r.Object.(type) {
		case *rbacv1.ClusterRole:
			return e.clusterRole(ctx, r, obj)
		case *rbacv1.Role:
			return e.role(ctx, r, obj.Rules)
		case *rbacv1.ClusterRoleBinding:
			return e.binding(ctx, r, obj.RoleRef)
		case *rbacv1.RoleBinding:
			return e.binding(ctx, r, obj.RoleRef)
		}
		return nil
	}}
}

type escalation struct{ c Config }

// may asks whether the user is explicitly allowed to hand out the role.
func (e escalation) may(ctx context.Context, r *Request, verb, resource, name string) bool {
	if e.c.Authorizer == nil {
		return false
	}
	d, _, _ := e.c.Authorizer.Authorize(ctx, auth.Attributes{
		User: r.User, Verb: verb, Group: rbacv1.GroupName, Version: "*", Resource: resource,
		Namespace: r.Namespace, Name: name, ResourceRequest: true,
	})
	return d == auth.Allow
}

func (e escalation) holds(r *Request, given []rbacv1.PolicyRule) error {
	var held []rbacv1.PolicyRule
	for rule := range e.c.Rules(r.User, r.Namespace) {
		held = append(held, rule)
	}
	if err := rbac.Escalation(r.User, held, given); err != nil {
		return r.Forbidden(err)
	}
	return nil
}

func (e escalation) role(ctx context.Context, r *Request, rules []rbacv1.PolicyRule) error {
	if e.may(ctx, r, "escalate", r.Resource.Plural, r.Name) {
		return nil
	}
	return e.holds(r, rules)
}

// everything is what an aggregated role may come to hold.
var everything = []rbacv1.PolicyRule{
	{Verbs: []string{"*"}, APIGroups: []string{"*"}, Resources: []string{"*"}},
	{Verbs: []string{"*"}, NonResourceURLs: []string{"*"}},
}

func (e escalation) clusterRole(ctx context.Context, r *Request, role *rbacv1.ClusterRole) error {
	if e.may(ctx, r, "escalate", r.Resource.Plural, r.Name) {
		return nil
	}
	if err := e.holds(r, role.Rules); err != nil {
		return err
	}
	old, _ := r.Old.(*rbacv1.ClusterRole)
	if (aggregates(role) || aggregates(old)) && e.holds(r, everything) != nil {
		return r.Forbidden(errors.New("must have cluster-admin privileges to use the aggregationRule"))
	}
	return nil
}

func aggregates(r *rbacv1.ClusterRole) bool {
	return r != nil && r.AggregationRule != nil && len(r.AggregationRule.ClusterRoleSelectors) > 0
}

func (e escalation) binding(ctx context.Context, r *Request, ref rbacv1.RoleRef) error {
	resource, namespace := "clusterroles", ""
	if ref.Kind == "Role" {
		resource, namespace = "roles", r.Namespace
	}
	if e.may(ctx, r, "bind", resource, ref.Name) {
		return nil
	}
	rules, found := rulesOf(r.World, resource, namespace, ref.Name)
	if !found {
		return apierrors.NewNotFound(rbacv1.Resource(resource), ref.Name)
	}
	return e.holds(r, rules)
}

func rulesOf(world store.Snapshot, resource, namespace, name string) (rules []rbacv1.PolicyRule, found bool) {
	switch role := lookup[api.Object](world, rbacv1.GroupName+"/"+resource, namespace, name).(type) {
	case *rbacv1.ClusterRole:
		return role.Rules, true
	case *rbacv1.Role:
		return role.Rules, true
	}
	return nil, false
}

// onlyCollected tells an update that touches nothing but what the garbage
// collector needs to touch.
func onlyCollected(now, old api.Object) bool {
	a := now.DeepCopyObject().(api.Object)
	a.SetOwnerReferences(old.GetOwnerReferences())
	a.SetFinalizers(old.GetFinalizers())
	a.SetManagedFields(old.GetManagedFields())
	a.SetSelfLink(old.GetSelfLink())
	return equality.Semantic.DeepEqual(a, old)
}
