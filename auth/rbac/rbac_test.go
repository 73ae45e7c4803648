package rbac

import (
	"context"
	"iter"
	"strings"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"proa/api"
	"proa/auth"
	"proa/client"
)

// world is a view of a few objects.
type world []api.Object

func (w world) Revision() uint64 { return 1 }

func (w world) Get(r *api.Resource, namespace, name string) client.Object {
	for o := range w.List(r, namespace) {
		if o.GetName() == name && o.GetNamespace() == namespace {
			return o
		}
	}
	return nil
}

func (w world) List(r *api.Resource, namespace string) iter.Seq[client.Object] {
	return func(yield func(client.Object) bool) {
		for _, o := range w {
			if api.Builtin().ByType(o) == r && (namespace == "" || o.GetNamespace() == namespace) && !yield(o) {
				return
			}
		}
	}
}

func (w world) Index(*api.Resource, string, string) iter.Seq[client.Object] { return nil }

func roleRef(kind, name string) rbacv1.RoleRef {
	return rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: kind, Name: name}
}

var cluster = append(world(Bootstrap()),
	&rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "reader"}, Rules: []rbacv1.PolicyRule{
		{Verbs: []string{"get"}, APIGroups: []string{""}, Resources: []string{"configmaps"}, ResourceNames: []string{"prices"}},
		{Verbs: []string{"*"}, APIGroups: []string{"*"}, Resources: []string{"pods/log", "*/scale"}},
	}},
	&rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "reader"}, RoleRef: roleRef("Role", "reader"),
		Subjects: []rbacv1.Subject{{Kind: "ServiceAccount", Name: "till"}, {Kind: "User", Name: "ann"}}},
	&rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "absent"}, RoleRef: roleRef("Role", "no-such"),
		Subjects: []rbacv1.Subject{{Kind: "User", Name: "ben"}}},
)

func TestAuthorize(t *testing.T) {
	till := auth.User{Name: "system:serviceaccount:shop:till", Groups: []string{auth.GroupServiceAccounts, auth.GroupAuthenticated}}
	ann, ben := auth.User{Name: "ann", Groups: []string{auth.GroupAuthenticated}}, auth.User{Name: "ben"}
	admin := auth.User{Name: "root", Groups: []string{auth.GroupMasters}}
	for _, c := range []struct {
		name string
		user auth.User
		verb string
		res  string // resource[/subresource], or a path
		ns   string
		obj  string
		want auth.Decision
	}{
		{"named object", till, "get", "configmaps", "shop", "prices", auth.Allow},
		{"another object", till, "get", "configmaps", "shop", "secrets", auth.NoOpinion},
		{"another namespace", till, "get", "configmaps", "default", "prices", auth.NoOpinion},
		{"list is not get", ann, "list", "configmaps", "shop", "", auth.NoOpinion},
		{"subresource", ann, "get", "pods/log", "shop", "a", auth.Allow},
		{"the resource of a subresource", ann, "get", "pods", "shop", "a", auth.NoOpinion},
		{"scale of anything", ann, "update", "deployments/scale", "shop", "a", auth.Allow},
		{"a role that is absent", ben, "get", "configmaps", "shop", "prices", auth.NoOpinion},
		{"account without a namespace elsewhere", auth.User{Name: "system:serviceaccount:default:till"}, "get", "configmaps", "shop", "prices", auth.NoOpinion},
		{"masters", admin, "delete", "nodes", "", "a", auth.Allow},
		{"masters and paths", admin, "get", "/metrics", "", "", auth.Allow},
		{"discovery", ann, "get", "/apis/apps/v1", "", "", auth.Allow},
		{"version for anybody", auth.Anonymous(), "get", "/version", "", "", auth.Allow},
		{"metrics not for anybody", auth.Anonymous(), "get", "/metrics", "", "", auth.NoOpinion},
		{"what may I do", ann, "create", "selfsubjectaccessreviews", "", "", auth.Allow},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := auth.Attributes{User: c.user, Verb: c.verb, Namespace: c.ns, Name: c.obj}
			if c.res[0] == '/' {
				a.Path = c.res
			} else {
				a.ResourceRequest = true
				a.Resource, a.Subresource, _ = strings.Cut(c.res, "/")
				if a.Resource == "selfsubjectaccessreviews" {
					a.Group = "authorization.k8s.io"
				}
			}
			got, why, err := Authorizer{View: func() client.View { return cluster }}.Authorize(context.Background(), a)
			if err != nil || got != c.want {
				t.Errorf("got %v (%s) %v, want %v", got, why, err, c.want)
			}
			if (got == auth.Allow) != (why != "") {
				t.Errorf("allowed without a reason, or a reason without permission: %q", why)
			}
		})
	}
}
