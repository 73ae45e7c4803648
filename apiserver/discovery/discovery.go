// Package discovery makes the documents by which clients learn what is served:
// the classic ones (/api, /apis, /apis/GROUP, /apis/GROUP/VERSION) and the
// aggregated one (KEP-3352). They are functions of the registry's rows.
package discovery

import (
	"cmp"
	"slices"
	"strings"

	apidiscoveryv2 "k8s.io/api/apidiscovery/v2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/version"

	"proa/api"
)

// priority orders the built-in groups as upstream lists them, which decides what
// a bare resource name means to kubectl. Other groups follow by name.
var priority = []string{
	"", "apiregistration.k8s.io", "apps", "events.k8s.io", "authentication.k8s.io", "authorization.k8s.io",
	"autoscaling", "batch", "certificates.k8s.io", "networking.k8s.io", "policy", "rbac.authorization.k8s.io",
	"storage.k8s.io", "admissionregistration.k8s.io", "apiextensions.k8s.io", "scheduling.k8s.io",
	"coordination.k8s.io", "node.k8s.io", "discovery.k8s.io", "resource.k8s.io", "flowcontrol.apiserver.k8s.io",
	"internal.apiserver.k8s.io", "storagemigration.k8s.io",
}

// group is one API group with its versions, preferred first.
type group struct {
	name     string
	versions []string
	rows     map[string][]api.Served
}

func groups(r *api.Registry) []group {
	byName := map[string]*group{}
	for gv, served := range r.Groups() {
		g := byName[gv.Group]
		if g == nil {
			g = &group{name: gv.Group, rows: map[string][]api.Served{}}
			byName[gv.Group] = g
		}
		g.versions = append(g.versions, gv.Version)
		g.rows[gv.Version] = served
	}
	out := make([]group, 0, len(byName))
	for _, g := range byName {
		slices.SortFunc(g.versions, func(a, b string) int { return version.CompareKubeAwareVersionStrings(b, a) })
		out = append(out, *g)
	}
	slices.SortFunc(out, compareGroups)
	return out
}

func compareGroups(a, b group) int {
	rank := func(g group) int {
		if i := slices.Index(priority, g.name); i >= 0 {
			return i
		}
		return len(priority)
	}
	return cmp.Or(cmp.Compare(rank(a), rank(b)), strings.Compare(a.name, b.name))
}

// Versions is /api.
func Versions(r *api.Registry, address string) *metav1.APIVersions {
	out := &metav1.APIVersions{ServerAddressByClientCIDRs: []metav1.ServerAddressByClientCIDR{{ClientCIDR: "0.0.0.0/0", ServerAddress: address}}}
	out.Kind = "APIVersions"
	for _, g := range groups(r) {
		if g.name == "" {
			out.Versions = g.versions
		}
	}
	return out
}

// GroupList is /apis.
func GroupList(r *api.Registry) *metav1.APIGroupList {
	out := &metav1.APIGroupList{Groups: []metav1.APIGroup{}}
	out.Kind, out.APIVersion = "APIGroupList", "v1"
	for _, g := range groups(r) {
		if g.name != "" {
			out.Groups = append(out.Groups, g.document())
		}
	}
	return out
}

// Group is /apis/GROUP, or nil.
func Group(r *api.Registry, name string) *metav1.APIGroup {
	for _, g := range groups(r) {
		if g.name == name && name != "" {
			doc := g.document()
			doc.Kind, doc.APIVersion = "APIGroup", "v1"
			return &doc
		}
	}
	return nil
}

func (g group) document() metav1.APIGroup {
	out := metav1.APIGroup{Name: g.name}
	for _, v := range g.versions {
		out.Versions = append(out.Versions, metav1.GroupVersionForDiscovery{GroupVersion: g.name + "/" + v, Version: v})
	}
	out.PreferredVersion = out.Versions[0]
	return out
}

// ResourceList is /api/v1 or /apis/GROUP/VERSION, or nil.
func ResourceList(r *api.Registry, gv schema.GroupVersion) *metav1.APIResourceList {
	rows := r.Groups()[gv]
	if rows == nil {
		return nil
	}
	out := &metav1.APIResourceList{GroupVersion: gv.String(), APIResources: []metav1.APIResource{}}
	out.Kind = "APIResourceList"
	if gv.Group != "" {
		out.APIVersion = "v1"
	}
	for _, s := range rows {
		out.APIResources = append(out.APIResources, resource(s))
		for _, sub := range s.Subresources {
			out.APIResources = append(out.APIResources, subresource(s, sub))
		}
	}
	return out
}

// Verbs are those that a row is served with.
func Verbs(r *api.Resource) []string {
	if r.Verbs == nil {
		return api.StandardVerbs
	}
	return r.Verbs
}

func resource(s api.Served) metav1.APIResource {
	return metav1.APIResource{
		Name: s.Plural, SingularName: s.Singular, Namespaced: s.Namespaced, Kind: s.GVK().Kind,
		Verbs: Verbs(s.Resource), ShortNames: s.Short, Categories: s.Categories,
	}
}

func subresource(s api.Served, sub api.Subresource) metav1.APIResource {
	out := metav1.APIResource{Name: s.Plural + "/" + sub.Name, Namespaced: s.Namespaced, Kind: s.GVK().Kind, Verbs: sub.Verbs}
	if !sub.Kind.Empty() {
		out.Kind = sub.Kind.Kind
		if sub.Kind.GroupVersion() != s.GVK().GroupVersion() {
			out.Group, out.Version = sub.Kind.Group, sub.Kind.Version
		}
	}
	return out
}

// Aggregated is everything below /api (core) or /apis (the rest) in one document.
func Aggregated(r *api.Registry, core bool) *apidiscoveryv2.APIGroupDiscoveryList {
	out := &apidiscoveryv2.APIGroupDiscoveryList{Items: []apidiscoveryv2.APIGroupDiscovery{}}
	out.SetGroupVersionKind(apidiscoveryv2.SchemeGroupVersion.WithKind("APIGroupDiscoveryList"))
	for _, g := range groups(r) {
		if (g.name == "") != core {
			continue
		}
		item := apidiscoveryv2.APIGroupDiscovery{ObjectMeta: metav1.ObjectMeta{Name: g.name}}
		for _, v := range g.versions {
			item.Versions = append(item.Versions, aggregatedVersion(g.name, v, g.rows[v]))
		}
		out.Items = append(out.Items, item)
	}
	return out
}

func aggregatedVersion(groupName, v string, rows []api.Served) apidiscoveryv2.APIVersionDiscovery {
	out := apidiscoveryv2.APIVersionDiscovery{Version: v, Freshness: apidiscoveryv2.DiscoveryFreshnessCurrent}
	for _, s := range rows {
		res := apidiscoveryv2.APIResourceDiscovery{
			Resource: s.Plural, SingularResource: s.Singular, ResponseKind: responseKind(s.GVK()),
			Scope: apidiscoveryv2.ScopeCluster, Verbs: Verbs(s.Resource), ShortNames: s.Short, Categories: s.Categories,
		}
		if s.Namespaced {
			res.Scope = apidiscoveryv2.ScopeNamespace
		}
		for _, sub := range s.Subresources {
			kind := s.GVK()
			if !sub.Kind.Empty() {
				kind = sub.Kind
			}
			res.Subresources = append(res.Subresources, apidiscoveryv2.APISubresourceDiscovery{
				Subresource: sub.Name, ResponseKind: responseKind(kind), Verbs: sub.Verbs,
			})
		}
		out.Resources = append(out.Resources, res)
	}
	return out
}

func responseKind(gvk schema.GroupVersionKind) *metav1.GroupVersionKind {
	return &metav1.GroupVersionKind{Group: gvk.Group, Version: gvk.Version, Kind: gvk.Kind}
}
