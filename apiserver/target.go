package apiserver

import (
	"net/http"
	"net/url"
	"strings"

	"k8s.io/apimachinery/pkg/fields"
)

// target is what a request's method and URL ask for.
type target struct {
	// Resource tells a request for API objects from one for a path.
	Resource bool
	Verb     string
	Path     string
	// Head says that the method is HEAD: it is authorised as a get, and only
	// proxies answer it.
	Head bool

	Group, Version, Plural string
	Namespace, Name        string
	Subresource            string
	// Rest is the path below the subresource, for proxies.
	Rest string
}

// methodVerbs are what methods ask for; others ask for nothing that has a name.
var methodVerbs = map[string]string{
	http.MethodPost: "create", http.MethodGet: "get", http.MethodHead: "get",
	http.MethodPut: "update", http.MethodPatch: "patch", http.MethodDelete: "delete",
}

// parseTarget reads a request by the rules of the API's URLs:
// /api/v1/... and /apis/GROUP/VERSION/..., then [namespaces/NS/]RESOURCE[/NAME[/SUB[/...]]].
func parseTarget(method string, u *url.URL) target {
	t := target{Path: u.Path, Verb: strings.ToLower(method), Head: method == http.MethodHead}
	parts := strings.Split(strings.Trim(u.Path, "/"), "/")
	switch {
	case len(parts) >= 3 && parts[0] == "api":
		t.Version, parts = parts[1], parts[2:]
	case len(parts) >= 4 && parts[0] == "apis":
		t.Group, t.Version, parts = parts[1], parts[2], parts[3:]
	default:
		return t
	}
	t.Resource, t.Verb = true, methodVerbs[method]
	if parts[0] == "watch" && len(parts) > 1 {
		t.Verb, parts = "watch", parts[1:]
	}
	t.object(parts, u.Query())
	return t
}

func (t *target) object(parts []string, query url.Values) {
	if parts[0] == "namespaces" && len(parts) > 1 {
		t.Namespace = parts[1]
		if len(parts) > 2 && parts[2] != "status" && parts[2] != "finalize" {
			parts = parts[2:]
		}
	}
	at := func(i int) string {
		if i < len(parts) {
			return parts[i]
		}
		return ""
	}
	t.Plural, t.Name, t.Subresource = at(0), at(1), at(2)
	if len(parts) > 3 {
		t.Rest = strings.Join(parts[3:], "/")
	}
	if t.Name != "" {
		return
	}
	switch t.Verb {
	case "get":
		t.Verb = "list"
		if isTrue(query.Get("watch")) {
			t.Verb = "watch"
		}
	case "delete":
		t.Verb = "deletecollection"
	}
	if t.Verb != "create" {
		t.Name = exactName(query.Get("fieldSelector"))
	}
}

// exactName is the object that a selector on metadata.name limits a list to: who
// may get it may list it so.
func exactName(selector string) string {
	if selector == "" {
		return ""
	}
	s, err := fields.ParseSelector(selector)
	if err != nil {
		return ""
	}
	name, _ := s.RequiresExactMatch("metadata.name")
	return name
}

func isTrue(v string) bool { return v == "true" || v == "1" }

// collection tells verbs that are about many objects; Name, if set, came from a
// selector.
func (t target) collection() bool {
	switch t.Verb {
	case "list", "watch", "deletecollection":
		return true
	}
	return false
}

// long tells requests that have no deadline of their own: watches and streams.
func (t target) long(query url.Values) bool {
	if t.Verb == "watch" || t.Verb == "connect" || strings.HasPrefix(t.Path, debugPprof) {
		return true
	}
	switch t.Subresource {
	case "exec", "attach", "portforward", "proxy", "log":
		return true
	}
	return false
}

func (t target) mutates() bool {
	switch t.Verb {
	case "get", "list", "watch", "head":
		return false
	}
	return true
}
