package rbac

import (
	"slices"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"proa/api"
	"proa/auth"
)

// Verbs of the roles below.
var (
	readVerbs  = []string{"get", "list", "watch"}
	writeVerbs = []string{"create", "delete", "deletecollection", "patch", "update"}
	allVerbs   = []string{"*"}
)

func rule(verbs []string, groups []string, resources ...string) rbacv1.PolicyRule {
	return rbacv1.PolicyRule{Verbs: verbs, APIGroups: groups, Resources: resources}
}

func paths(p ...string) rbacv1.PolicyRule {
	return rbacv1.PolicyRule{Verbs: []string{"get"}, NonResourceURLs: p}
}

func v(verbs ...string) []string  { return verbs }
func g(groups ...string) []string { return groups }

// clusterRole is one row of the table of default roles.
type clusterRole struct {
	name string
	// aggregateTo lists the roles that this one is part of; aggregated marks one
	// that collects such parts.
	aggregateTo []string
	aggregated  bool
	rules       []rbacv1.PolicyRule
	// to lists the subjects of a binding of the same name, if there is one.
	to []rbacv1.Subject
}

// Bootstrap returns the roles and bindings that every cluster has
// (https://kubernetes.io/docs/reference/access-authn-authz/rbac/#default-roles-and-role-bindings).
func Bootstrap() []api.Object {
	var out []api.Object
	for _, r := range slices.Concat(userRoles(), discoveryRoles(), componentRoles()) {
		out = append(out, r.role())
		if len(r.to) > 0 {
			out = append(out, r.binding())
		}
	}
	return append(out, namespaced()...)
}

func meta(name, namespace string) metav1.ObjectMeta {
	return metav1.ObjectMeta{
		Name: name, Namespace: namespace,
		Labels:      map[string]string{"kubernetes.io/bootstrapping": "rbac-defaults"},
		Annotations: map[string]string{rbacv1.AutoUpdateAnnotationKey: "true"},
	}
}

func (r clusterRole) role() *rbacv1.ClusterRole {
	out := &rbacv1.ClusterRole{ObjectMeta: meta(r.name, ""), Rules: r.rules}
	for _, to := range r.aggregateTo {
		out.Labels[aggregateLabel(to)] = "true"
	}
	if r.aggregated {
		out.AggregationRule = &rbacv1.AggregationRule{ClusterRoleSelectors: []metav1.LabelSelector{
			{MatchLabels: map[string]string{aggregateLabel(r.name): "true"}}}}
	}
	return out
}

func aggregateLabel(role string) string {
	return "rbac.authorization.k8s.io/aggregate-to-" + role
}

func (r clusterRole) binding() *rbacv1.ClusterRoleBinding {
	return &rbacv1.ClusterRoleBinding{ObjectMeta: meta(r.name, ""), Subjects: r.to,
		RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: r.name}}
}

func group(names ...string) []rbacv1.Subject { return subjects(rbacv1.GroupKind, names) }
func userNamed(names ...string) []rbacv1.Subject {
	return subjects(rbacv1.UserKind, names)
}

func subjects(kind string, names []string) (out []rbacv1.Subject) {
	for _, n := range names {
		out = append(out, rbacv1.Subject{Kind: kind, APIGroup: rbacv1.GroupName, Name: n})
	}
	return out
}

// userRoles are for people: cluster-admin, and admin, edit and view, each made
// of the parts that aggregate into it.
func userRoles() []clusterRole {
	everything := []rbacv1.PolicyRule{
		{Verbs: allVerbs, APIGroups: g("*"), Resources: []string{"*"}},
		{Verbs: allVerbs, NonResourceURLs: []string{"*"}},
	}
	return []clusterRole{
		{name: "cluster-admin", rules: everything, to: group(auth.GroupMasters)},
		{name: "admin", aggregated: true},
		{name: "edit", aggregated: true, aggregateTo: v("admin")},
		{name: "view", aggregated: true, aggregateTo: v("edit")},
		{name: "system:aggregate-to-admin", aggregateTo: v("admin"), rules: []rbacv1.PolicyRule{
			rule(v("create"), g("authorization.k8s.io"), "localsubjectaccessreviews"),
			rule(slices.Concat(writeVerbs, readVerbs), g(rbacv1.GroupName), "roles", "rolebindings"),
		}},
		{name: "system:aggregate-to-edit", aggregateTo: v("edit"), rules: editRules()},
		{name: "system:aggregate-to-view", aggregateTo: v("view"), rules: viewRules()},
	}
}

func editRules() []rbacv1.PolicyRule {
	return []rbacv1.PolicyRule{
		rule(readVerbs, g(""), "pods/attach", "pods/proxy", "pods/exec", "pods/portforward", "secrets", "services/proxy"),
		rule(v("impersonate"), g(""), "serviceaccounts"),
		rule(writeVerbs, g(""), "pods", "pods/attach", "pods/proxy", "pods/exec", "pods/portforward"),
		rule(v("create"), g(""), "pods/eviction"),
		rule(writeVerbs, g(""), "configmaps", "persistentvolumeclaims", "replicationcontrollers", "replicationcontrollers/scale",
			"secrets", "serviceaccounts", "services", "services/proxy", "events"),
		rule(v("create"), g(""), "serviceaccounts/token"),
		rule(writeVerbs, g("apps"), "daemonsets", "deployments", "deployments/rollback", "deployments/scale", "replicasets",
			"replicasets/scale", "statefulsets", "statefulsets/scale"),
		rule(writeVerbs, g("autoscaling"), "horizontalpodautoscalers"),
		rule(writeVerbs, g("batch"), "cronjobs", "jobs"),
		rule(writeVerbs, g("policy"), "poddisruptionbudgets"),
		rule(writeVerbs, g("networking.k8s.io"), "ingresses", "networkpolicies"),
		rule(slices.Concat(writeVerbs, readVerbs), g("coordination.k8s.io"), "leases"),
		rule(writeVerbs, g("resource.k8s.io"), "resourceclaims", "resourceclaimtemplates"),
	}
}

func viewRules() []rbacv1.PolicyRule {
	return []rbacv1.PolicyRule{
		rule(readVerbs, g(""), "configmaps", "endpoints", "persistentvolumeclaims", "persistentvolumeclaims/status", "pods",
			"replicationcontrollers", "replicationcontrollers/scale", "serviceaccounts", "services", "services/status"),
		rule(readVerbs, g(""), "bindings", "events", "limitranges", "namespaces/status", "pods/log", "pods/status",
			"replicationcontrollers/status", "resourcequotas", "resourcequotas/status", "namespaces"),
		rule(readVerbs, g("discovery.k8s.io"), "endpointslices"),
		rule(readVerbs, g("apps"), "controllerrevisions", "daemonsets", "daemonsets/status", "deployments", "deployments/scale",
			"deployments/status", "replicasets", "replicasets/scale", "replicasets/status", "statefulsets", "statefulsets/scale",
			"statefulsets/status"),
		rule(readVerbs, g("autoscaling"), "horizontalpodautoscalers", "horizontalpodautoscalers/status"),
		rule(readVerbs, g("batch"), "cronjobs", "cronjobs/status", "jobs", "jobs/status"),
		rule(readVerbs, g("policy"), "poddisruptionbudgets", "poddisruptionbudgets/status"),
		rule(readVerbs, g("networking.k8s.io"), "ingresses", "ingresses/status", "networkpolicies"),
		rule(readVerbs, g("resource.k8s.io"), "resourceclaims", "resourceclaims/status", "resourceclaimtemplates"),
	}
}

func discoveryRoles() []clusterRole {
	health := v("/healthz", "/livez", "/readyz", "/version", "/version/")
	return []clusterRole{
		{name: "system:discovery", to: group(auth.GroupAuthenticated), rules: []rbacv1.PolicyRule{
			paths("/api", "/api/*", "/apis", "/apis/*", "/healthz", "/livez", "/openapi", "/openapi/*", "/readyz", "/version", "/version/")}},
		{name: "system:public-info-viewer", to: group(auth.GroupAuthenticated, auth.GroupUnauthenticated),
			rules: []rbacv1.PolicyRule{paths(health...)}},
		{name: "system:basic-user", to: group(auth.GroupAuthenticated), rules: []rbacv1.PolicyRule{
			rule(v("create"), g("authorization.k8s.io"), "selfsubjectaccessreviews", "selfsubjectrulesreviews"),
			rule(v("create"), g("authentication.k8s.io"), "selfsubjectreviews")}},
		{name: "system:service-account-issuer-discovery", to: group(auth.GroupServiceAccounts), rules: []rbacv1.PolicyRule{
			paths("/.well-known/openid-configuration", "/.well-known/openid-configuration/", "/openid/v1/jwks", "/openid/v1/jwks/")}},
		{name: "system:monitoring", to: group("system:monitoring"), rules: []rbacv1.PolicyRule{
			paths("/healthz", "/healthz/*", "/livez", "/livez/*", "/metrics", "/metrics/slis", "/readyz", "/readyz/*")}},
	}
}

// componentRoles are what the parts of a cluster may do when they reach the API
// over the network.
func componentRoles() []clusterRole {
	events := rule(v("create", "patch", "update"), g("", "events.k8s.io"), "events")
	return []clusterRole{
		{name: "system:auth-delegator", rules: []rbacv1.PolicyRule{
			rule(v("create"), g("authentication.k8s.io"), "tokenreviews"),
			rule(v("create"), g("authorization.k8s.io"), "subjectaccessreviews")}},
		{name: "system:node-proxier", to: userNamed("system:kube-proxy"), rules: []rbacv1.PolicyRule{
			rule(v("list", "watch"), g(""), "services", "endpoints", "nodes"),
			rule(v("get"), g(""), "nodes"), events,
			rule(v("list", "watch"), g("discovery.k8s.io"), "endpointslices"),
			rule(v("list", "watch"), g("networking.k8s.io"), "servicecidrs")}},
		{name: "system:kube-dns", rules: []rbacv1.PolicyRule{
			rule(v("list", "watch"), g(""), "endpoints", "services")}},
		{name: "system:node-bootstrapper", rules: []rbacv1.PolicyRule{
			rule(v("create", "get", "list", "watch"), g("certificates.k8s.io"), "certificatesigningrequests")}},
		{name: "system:kubelet-api-admin", rules: []rbacv1.PolicyRule{
			rule(readVerbs, g(""), "nodes"), rule(v("proxy"), g(""), "nodes"),
			rule(allVerbs, g(""), "nodes/log", "nodes/metrics", "nodes/proxy", "nodes/stats", "nodes/healthz", "nodes/pods", "nodes/configz")}},
		{name: "system:persistent-volume-provisioner", rules: []rbacv1.PolicyRule{
			rule(v("create", "delete", "get", "list", "watch"), g(""), "persistentvolumes"),
			rule(v("get", "list", "update", "watch"), g(""), "persistentvolumeclaims"),
			rule(readVerbs, g("storage.k8s.io"), "storageclasses"), rule(v("watch"), g(""), "events"), events}},
	}
}

// namespaced are the roles and bindings inside namespaces.
func namespaced() []api.Object {
	reader := &rbacv1.Role{ObjectMeta: meta("extension-apiserver-authentication-reader", metav1.NamespaceSystem), Rules: []rbacv1.PolicyRule{
		{Verbs: readVerbs, APIGroups: g(""), Resources: []string{"configmaps"}, ResourceNames: []string{"extension-apiserver-authentication"}}}}
	signer := &rbacv1.Role{ObjectMeta: meta("system:controller:bootstrap-signer", metav1.NamespacePublic), Rules: []rbacv1.PolicyRule{
		rule(readVerbs, g(""), "configmaps"),
		{Verbs: v("update"), APIGroups: g(""), Resources: []string{"configmaps"}, ResourceNames: []string{"cluster-info"}},
		rule(v("create", "patch", "update"), g("", "events.k8s.io"), "events")}}
	return []api.Object{reader, signer}
}
