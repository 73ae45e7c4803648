package kubelet

import (
	"fmt"
	"net/http"
	"strings"

	"proa/auth"
)

// Guard lets requests through to the kubelet's server whose sender is known and
// may do what they ask for with the node
// (https://kubernetes.io/docs/reference/access-authn-authz/kubelet-authn-authz/).
// There is no anonymous access.
func Guard(h http.Handler, node string, who auth.Authenticator, may auth.Authorizer) http.Handler {
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		user, ok, err := who.Authenticate(r)
		r.Header.Del("Authorization")
		if err != nil || !ok {
			http.Error(rw, "Unauthorized", http.StatusUnauthorized)
			return
		}
		asked := accesses(r, node, user)
		for _, a := range asked {
			if d, _, err := may.Authorize(r.Context(), a); err == nil && d == auth.Allow {
				h.ServeHTTP(rw, r)
				return
			}
		}
		var subs []string
		for _, a := range asked {
			subs = append(subs, a.Subresource)
		}
		http.Error(rw, fmt.Sprintf("Forbidden (user=%s, verb=%s, resource=nodes, subresource(s)=%v)", user.Name, asked[0].Verb, subs), http.StatusForbidden)
	})
}

// fine are the paths that have a subresource of their own (KEP-2862); who may
// use the node's proxy may use these, too.
var fine = map[string]string{"stats": "stats", "metrics": "metrics", "logs": "log", "checkpoint": "checkpoint",
	"pods": "pods", "runningpods": "pods", "healthz": "healthz", "configz": "configz"}

// alone are the subresources that the proxy's permission does not cover.
var alone = map[string]bool{"stats": true, "metrics": true, "log": true, "checkpoint": true}

// accesses are the permissions of which one is enough.
func accesses(r *http.Request, node string, u auth.User) []auth.Attributes {
	verb, ok := map[string]string{http.MethodPost: "create", http.MethodGet: "get", http.MethodHead: "get",
		http.MethodPut: "update", http.MethodPatch: "patch", http.MethodDelete: "delete"}[r.Method]
	if !ok {
		verb = strings.ToLower(r.Method)
	}
	a := auth.Attributes{User: u, Verb: verb, Version: "v1", Resource: "nodes", Name: node, ResourceRequest: true}
	first, _, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	var out []auth.Attributes
	if a.Subresource = fine[first]; a.Subresource != "" {
		out = append(out, a)
	}
	if !alone[a.Subresource] {
		a.Subresource = "proxy"
		out = append(out, a)
	}
	return out
}
