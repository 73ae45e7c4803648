package openapi

import (
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/version"
	"k8s.io/client-go/kubernetes/scheme"

	"proa/api"
)

// operation is one method of one path, told so that both versions of OpenAPI
// can be written from it.
type operation struct {
	gv           schema.GroupVersion
	path, method string
	id, text     string // operationId, description
	action       string // x-kubernetes-action
	gvk          schema.GroupVersionKind
	options      []any  // the structs whose fields are the query parameters
	body         string // definition of the request's body, if it has one
	patch        bool   // the body is a patch
	result       string // definition of the answer; empty is plain text
	codes        []string
	watches      bool // the answer can be a stream of events
	inPath       []string
	tag          string // groups operations; empty is the group version's
	custom       bool   // of a custom resource
}

// document tells operations that answer with a document about the server rather
// than with an object: they take no parameters.
func (o operation) document() bool { return o.action == "" }

var codeText = map[string]string{"200": "OK", "201": "Created", "202": "Accepted", "401": "Unauthorized"}

// pathText says what path parameters mean.
var pathText = map[string]string{
	"namespace": "object name and auth scope, such as for teams and projects",
	"path":      "path to the resource",
}

// prefix is where a group version is served.
func prefix(gv schema.GroupVersion) string {
	if gv.Group == "" {
		return "/api/" + gv.Version
	}
	return "/apis/" + gv.Group + "/" + gv.Version
}

// operations lists everything that a group version answers.
func operations(gv schema.GroupVersion, served []api.Served) []operation {
	ops := []operation{{
		path: prefix(gv) + "/", method: "get", id: "get" + camel(gv) + "APIResources", text: "get available resources",
		result: ModelName(&metav1.APIResourceList{}), codes: []string{"200"},
	}}
	for _, s := range served {
		r := newResource(gv, s)
		ops = append(ops, r.objects()...)
		ops = append(ops, r.watches()...)
		for i := range s.Subresources {
			ops = append(ops, r.subresource(&s.Subresources[i])...)
		}
	}
	for i := range ops {
		ops[i].gv = gv
	}
	return ops
}

// rootOperations are the documents that belong to no group version: which versions,
// groups and keys there are.
func rootOperations(groups map[schema.GroupVersion][]api.Served) []operation {
	add := func(path, id, text, tag, result string) operation {
		return operation{path: path, method: "get", id: id, text: text, tag: tag, result: result, codes: []string{"200"}}
	}
	ops := []operation{
		add("/api/", "getCoreAPIVersions", "get available API versions", "core", ModelName(&metav1.APIVersions{})),
		add("/apis/", "getAPIVersions", "get available API versions", "apis", ModelName(&metav1.APIGroupList{})),
		add("/version/", "getCodeVersion", "get the version of this server", "version", ModelName(&version.Info{})),
		add("/openid/v1/jwks/", "getServiceAccountIssuerOpenIDKeyset", "get the public keys that verify tokens of service accounts, as a JSON Web Key Set", "openid", ""),
		add("/.well-known/openid-configuration/", "getServiceAccountIssuerOpenIDConfiguration", "get the OpenID configuration of the issuer of service accounts' tokens", "WellKnown", ""),
	}
	seen := map[string]bool{"": true}
	for _, gv := range slices.SortedFunc(maps.Keys(groups), compareVersions) {
		if seen[gv.Group] {
			continue
		}
		seen[gv.Group] = true
		name := strings.TrimSuffix(camel(gv), title(gv.Version))
		ops = append(ops, add("/apis/"+gv.Group+"/", "get"+name+"APIGroup", "get information of a group", strings.ToLower(name[:1])+name[1:], ModelName(&metav1.APIGroup{})))
	}
	return ops
}

// camel is a group version as a part of operation IDs: "AppsV1",
// "RbacAuthorizationV1", "CoreV1".
func camel(gv schema.GroupVersion) string {
	group := strings.TrimSuffix(gv.Group, ".k8s.io")
	if group == "" {
		group = "core"
	}
	var out strings.Builder
	for _, word := range strings.FieldsFunc(group+"."+gv.Version, func(r rune) bool { return r == '.' || r == '-' }) {
		out.WriteString(title(word))
	}
	return out.String()
}

// tag groups a group version's operations: "apps_v1", "rbacAuthorization_v1".
func tag(gv schema.GroupVersion) string {
	group := strings.TrimSuffix(camel(gv), title(gv.Version))
	return strings.ToLower(group[:1]) + group[1:] + "_" + gv.Version
}

func title(s string) string {
	if s == "" {
		return s
	}
	return strings.ToUpper(s[:1]) + s[1:]
}

// resource is a served version with the words that its operations share.
type resource struct {
	api.Served
	gvk                     schema.GroupVersionKind
	root, base, item, scope string // paths; scope is "Namespaced" or empty
	name, list, id          string
	inBase, inItem          []string
	verbs                   []string
}

func newResource(gv schema.GroupVersion, s api.Served) resource {
	r := resource{Served: s, gvk: s.GVK(), root: prefix(gv), name: nameOf(s), list: listNameOf(s), id: camel(gv), verbs: s.Verbs}
	if r.verbs == nil {
		r.verbs = api.StandardVerbs
	}
	r.base = r.root + "/" + s.Plural
	if s.Namespaced {
		r.base = r.root + "/namespaces/{namespace}/" + s.Plural
		r.scope, r.inBase = "Namespaced", []string{"namespace"}
	}
	r.item = r.base + "/{name}"
	r.inItem = append([]string{"name"}, r.inBase...)
	return r
}

// listText describes a list.
func (r resource) listText() string {
	if r.can("watch") {
		return "list or watch objects of kind " + r.gvk.Kind
	}
	return "list objects of kind " + r.gvk.Kind
}

func (r resource) can(verb string) bool { return slices.Contains(r.verbs, verb) }

// objects are the operations on the collection and on one object.
func (r resource) objects() []operation {
	kind, id := r.gvk.Kind, r.id
	var ops []operation
	add := func(verb string, o operation) {
		if r.can(verb) {
			o.gvk, o.custom = r.gvk, r.Custom != nil
			ops = append(ops, o)
		}
	}
	status := ModelName(&metav1.Status{})
	deleteOptions, deleted := ModelName(&metav1.DeleteOptions{}), status
	if api.ReturnsDeleted(r.Key()) {
		deleted = r.name
	}
	add("list", operation{path: r.base, method: "get", action: "list", id: "list" + id + r.scope + kind, inPath: r.inBase,
		text: r.listText(), options: []any{&metav1.ListOptions{}}, result: r.list, codes: []string{"200"}, watches: r.can("watch")})
	if r.Namespaced {
		add("list", operation{path: r.root + "/" + r.Plural, method: "get", action: "list", id: "list" + id + kind + "ForAllNamespaces",
			text: r.listText(), options: []any{&metav1.ListOptions{}}, result: r.list, codes: []string{"200"}, watches: r.can("watch")})
	}
	add("create", operation{path: r.base, method: "post", action: "post", id: "create" + id + r.scope + kind, inPath: r.inBase,
		text: "create " + article(kind), options: []any{&metav1.CreateOptions{}}, body: r.name, result: r.name, codes: []string{"200", "201", "202"}})
	add("deletecollection", operation{path: r.base, method: "delete", action: "deletecollection", id: "delete" + id + "Collection" + r.scope + kind, inPath: r.inBase,
		text: "delete collection of " + kind, options: []any{&metav1.ListOptions{}, &metav1.DeleteOptions{}}, body: deleteOptions, result: status, codes: []string{"200"}})
	add("get", operation{path: r.item, method: "get", action: "get", id: "read" + id + r.scope + kind, inPath: r.inItem,
		text: "read the specified " + kind, result: r.name, codes: []string{"200"}})
	add("update", operation{path: r.item, method: "put", action: "put", id: "replace" + id + r.scope + kind, inPath: r.inItem,
		text: "replace the specified " + kind, options: []any{&metav1.UpdateOptions{}}, body: r.name, result: r.name, codes: []string{"200", "201"}})
	add("patch", operation{path: r.item, method: "patch", action: "patch", id: "patch" + id + r.scope + kind, inPath: r.inItem,
		text: "partially update the specified " + kind, options: []any{&metav1.PatchOptions{}}, patch: true, body: ModelName(&metav1.Patch{}), result: r.name, codes: []string{"200", "201"}})
	add("delete", operation{path: r.item, method: "delete", action: "delete", id: "delete" + id + r.scope + kind, inPath: r.inItem,
		text: "delete " + article(kind), options: []any{&metav1.DeleteOptions{}}, body: deleteOptions, result: deleted, codes: []string{"200", "202"}})
	return ops
}

func article(kind string) string {
	if strings.HasSuffix(kind, "s") && !strings.HasSuffix(kind, "ss") {
		return kind // Endpoints
	}
	if strings.ContainsAny(kind[:1], "AEIOU") {
		return "an " + kind
	}
	return "a " + kind
}

// watches are the old paths that only watch.
func (r resource) watches() []operation {
	if !r.can("watch") {
		return nil
	}
	one := operation{
		method: "get", action: "watchlist", gvk: r.gvk, custom: r.Custom != nil, options: []any{&metav1.ListOptions{}},
		text:   "watch individual changes to a list of " + r.gvk.Kind + ". deprecated: use the 'watch' parameter with a list operation instead.",
		result: ModelName(&metav1.WatchEvent{}), codes: []string{"200"}, watches: true,
	}
	under := func(path string) string { return r.root + "/watch" + strings.TrimPrefix(path, r.root) }
	all, item := one, one
	one.path, one.inPath, one.id = under(r.base), r.inBase, "watch"+r.id+r.scope+r.gvk.Kind+"List"
	item.path, item.inPath, item.id, item.action = under(r.item), r.inItem, "watch"+r.id+r.scope+r.gvk.Kind, "watch"
	item.text = "watch changes to an object of kind " + r.gvk.Kind + ". deprecated: use the 'watch' parameter with a list operation instead, filtered to a single item with the 'fieldSelector' parameter."
	if !r.Namespaced {
		return []operation{one, item}
	}
	all.path, all.id = under(r.root+"/"+r.Plural), "watch"+r.id+r.gvk.Kind+"ListForAllNamespaces"
	return []operation{one, item, all}
}

// connected are the subresources that open a stream or answer plain text, with
// their query parameters.
var connected = map[string]any{
	"pods/exec": &corev1.PodExecOptions{}, "pods/attach": &corev1.PodAttachOptions{}, "pods/portforward": &corev1.PodPortForwardOptions{},
	"pods/proxy": &corev1.PodProxyOptions{}, "services/proxy": &corev1.ServiceProxyOptions{}, "nodes/proxy": &corev1.NodeProxyOptions{},
}

// methods of the verbs, and the words that operation IDs begin with.
var methods = map[string]struct{ method, word, text string }{
	"get":    {"get", "read", "read "},
	"update": {"put", "replace", "replace "},
	"patch":  {"patch", "patch", "partially update "},
	"create": {"post", "create", "create "},
	"delete": {"delete", "delete", "delete "},
}

func (r resource) subresource(sub *api.Subresource) []operation {
	if options, ok := connected[r.Plural+"/"+sub.Name]; ok && r.Group == "" {
		return r.connections(sub, options)
	}
	gvk, name := r.gvk, r.name
	if sub.Kind.Kind != "" {
		gvk = sub.Kind
		if obj, err := scheme.Scheme.New(sub.Kind); err == nil {
			name = ModelName(obj)
		}
	}
	var ops []operation
	for _, verb := range sub.Verbs {
		m := methods[verb]
		o := operation{
			path: r.item + "/" + sub.Name, method: m.method, action: m.method, gvk: gvk, inPath: r.inItem,
			id: m.word + r.id + r.scope + r.gvk.Kind + title(sub.Name), text: m.text + sub.Name + " of the specified " + r.gvk.Kind,
			result: name, codes: []string{"200"}, custom: r.Custom != nil,
		}
		switch verb {
		case "get":
			if sub.Name == "log" {
				o.result, o.options = "", []any{&corev1.PodLogOptions{}}
			}
		case "update":
			o.options, o.body, o.codes = []any{&metav1.UpdateOptions{}}, name, []string{"200", "201"}
		case "create":
			o.options, o.body, o.codes = []any{&metav1.CreateOptions{}}, name, []string{"200", "201", "202"}
			o.text = "create " + sub.Name + " of " + article(r.gvk.Kind)
		case "patch":
			o.options, o.body, o.patch, o.codes = []any{&metav1.PatchOptions{}}, ModelName(&metav1.Patch{}), true, []string{"200", "201"}
		}
		ops = append(ops, o)
	}
	return ops
}

func (r resource) connections(sub *api.Subresource, options any) []operation {
	var ops []operation
	var names []string
	for _, verb := range sub.Verbs {
		names = append(names, methods[verb].method)
	}
	if sub.Name == "proxy" {
		names = append(names, "head", "options")
	}
	for _, m := range names {
		o := operation{
			path: r.item + "/" + sub.Name, method: m, action: "connect", gvk: sub.Kind, inPath: r.inItem, options: []any{options}, codes: []string{"200"},
			id:   "connect" + r.id + title(m) + r.scope + r.gvk.Kind + title(sub.Name),
			text: "connect " + strings.ToUpper(m) + " requests to " + sub.Name + " of " + r.gvk.Kind,
		}
		ops = append(ops, o)
		if sub.Name == "proxy" {
			o.path, o.id, o.inPath = o.path+"/{path}", o.id+"WithPath", append(slices.Clone(r.inItem), "path")
			ops = append(ops, o)
		}
	}
	return ops
}
