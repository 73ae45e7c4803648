package apiserver_test

import (
	"net/http"
	"strings"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// TestImpersonation goes through the ways to act as somebody else.
func TestImpersonation(t *testing.T) {
	h := start(t, withRBAC)
	ctx, root := t.Context(), h.as(t, "root")
	const authn = "authentication.k8s.io"
	rule := func(verb, group string, resources ...string) rbacv1.PolicyRule {
		return rbacv1.PolicyRule{Verbs: []string{verb}, APIGroups: []string{group}, Resources: resources}
	}
	whoami := rule("create", authn, "selfsubjectreviews")
	grant(t, root, "old", rule("impersonate", "", "users", "groups", "serviceaccounts"), rule("impersonate", authn, "uids", "userextras/team.example/x"))
	grant(t, root, "new", rule("impersonate:user-info", authn, "users", "groups"), rule("impersonate-on:user-info:create", authn, "selfsubjectreviews"),
		rule("impersonate:arbitrary-node", authn, "nodes"), rule("impersonate-on:arbitrary-node:create", authn, "selfsubjectreviews"),
		rule("impersonate:serviceaccount", authn, "serviceaccounts"), rule("impersonate-on:serviceaccount:create", authn, "selfsubjectreviews"))
	grant(t, root, "system:node:n1", whoami)
	for _, c := range []struct {
		name, as string
		to       rest.ImpersonationConfig
		groups   string
		refused  string
	}{
		{"the old way", "old", rest.ImpersonationConfig{UserName: "ann", Groups: []string{"dev"}, UID: "7", Extra: map[string][]string{"team.example/x": {"y"}}}, "dev,system:authenticated", ""},
		{"an account", "old", rest.ImpersonationConfig{UserName: "system:serviceaccount:a:b"}, "system:serviceaccounts,system:serviceaccounts:a,system:authenticated", ""},
		{"an extra that may not be", "old", rest.ImpersonationConfig{UserName: "ann", Extra: map[string][]string{"other.example/x": {"y"}}}, "", "cannot impersonate-on:user-info:create resource"},
		{"a constrained user", "new", rest.ImpersonationConfig{UserName: "ann", Groups: []string{"dev"}}, "dev,system:authenticated", ""},
		{"masters", "new", rest.ImpersonationConfig{UserName: "ann", Groups: []string{"system:masters"}}, "", "impersonating the system:masters group is not allowed"},
		{"masters, the old way", "old", rest.ImpersonationConfig{UserName: "ann", Groups: []string{"system:masters"}}, "system:masters,system:authenticated", ""},
		{"a node", "new", rest.ImpersonationConfig{UserName: "system:node:n1"}, "system:nodes,system:authenticated", ""},
		{"a constrained account", "new", rest.ImpersonationConfig{UserName: "system:serviceaccount:a:b"}, "system:serviceaccounts,system:serviceaccounts:a,system:authenticated", ""},
		{"nobody may", "ann", rest.ImpersonationConfig{UserName: "root"}, "", `cannot impersonate-on:user-info:create resource "selfsubjectreviews"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg := h.config(c.as)
			cfg.Impersonate = c.to
			cs, err := kubernetes.NewForConfig(cfg)
			must(t, err)
			got, err := cs.AuthenticationV1().SelfSubjectReviews().Create(ctx, &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
			if c.refused != "" {
				if !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), c.refused) {
					t.Errorf("%v", err)
				}
				return
			}
			must(t, err)
			u := got.Status.UserInfo
			if u.Username != c.to.UserName || strings.Join(u.Groups, ",") != c.groups || u.UID != c.to.UID || len(u.Extra) != len(c.to.Extra) {
				t.Errorf("is %+v", u)
			}
		})
	}
	cfg := h.config("new") // what is granted is the one action, not the identity
	cfg.Impersonate = rest.ImpersonationConfig{UserName: "root", Groups: []string{"dev"}}
	cs, err := kubernetes.NewForConfig(cfg)
	must(t, err)
	if _, err := cs.CoreV1().Secrets("default").List(ctx, metav1.ListOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("another action than the granted one: %v", err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, h.http.URL+"/api/v1/pods", nil)
	must(t, err)
	req.Header = http.Header{"Authorization": {"Bearer root"}, "Impersonate-Group": {"dev"}}
	resp, err := h.http.Client().Do(req)
	must(t, err)
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusBadRequest {
		t.Errorf("a group without a user: %s", resp.Status)
	}
}
