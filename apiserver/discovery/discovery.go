// Package discovery makes the documents by which clients learn what is served:
// the classic ones (/api, /apis, /apis/GROUP, /apis/GROUP/VERSION) and the
// aggregated one (KEP-3352). They are functions of the registry's rows.
package discovery

import (
	"cmp"
	"crypto/sha256"
	"encoding/base64"
	"slices"
	"strings"

	apidiscoveryv2 "k8s.io/api/apidiscovery/v2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	apiversion "k8s.io/apimachinery/pkg/version"

	"proa/api"
)

// Set is everything that discovery tells: what the registry serves, and what
// other servers serve behind this one.
type Set struct {
	Registry *api.Registry
	// Remote are the group versions of other servers; one that the registry
	// has too is theirs.
	Remote []Remote
	// Priorities hold where an APIService says otherwise than DefaultPriority.
	Priorities map[schema.GroupVersion]Priority
}

// Remote is a group version of another server. Doc is what that one told last;
// it has no resources where it never did.
type Remote struct {
	schema.GroupVersion
	Doc apidiscoveryv2.APIVersionDiscovery
}

// group is one API group with its versions, preferred first.
type group struct {
	name     string
	priority int32
	versions []version
}

type version struct {
	name     string
	priority int32
	rows     []api.Served
	remote   *Remote
}

func (s Set) groups() []group {
	byName := map[string]*group{}
	add := func(gv schema.GroupVersion, v version) {
		g := byName[gv.Group]
		if g == nil {
			g = &group{name: gv.Group}
			byName[gv.Group] = g
		}
		p := s.priority(gv)
		v.name, v.priority, g.priority = gv.Version, p.Version, max(g.priority, p.Group)
		g.versions = append(g.versions, v)
	}
	theirs := map[schema.GroupVersion]bool{}
	for i := range s.Remote {
		r := &s.Remote[i]
		theirs[r.GroupVersion] = true
		add(r.GroupVersion, version{remote: r})
	}
	for gv, served := range s.Registry.Groups() {
		if !theirs[gv] {
			add(gv, version{rows: served})
		}
	}
	out := make([]group, 0, len(byName))
	for _, g := range byName {
		slices.SortFunc(g.versions, compareVersions)
		out = append(out, *g)
	}
	slices.SortFunc(out, func(a, b group) int {
		return cmp.Or(cmp.Compare(b.priority, a.priority), strings.Compare(a.name, b.name))
	})
	return out
}

func compareVersions(a, b version) int {
	return cmp.Or(cmp.Compare(b.priority, a.priority), apiversion.CompareKubeAwareVersionStrings(b.name, a.name))
}

func (s Set) priority(gv schema.GroupVersion) Priority {
	if p, ok := s.Priorities[gv]; ok {
		return p
	}
	p, _ := DefaultPriority(gv)
	return p
}

// Versions is /api.
func (s Set) Versions(address string) *metav1.APIVersions {
	out := &metav1.APIVersions{ServerAddressByClientCIDRs: []metav1.ServerAddressByClientCIDR{{ClientCIDR: "0.0.0.0/0", ServerAddress: address}}}
	out.Kind = "APIVersions"
	for _, g := range s.groups() {
		if g.name == "" {
			for _, v := range g.versions {
				out.Versions = append(out.Versions, v.name)
			}
		}
	}
	return out
}

// GroupList is /apis.
func (s Set) GroupList() *metav1.APIGroupList {
	out := &metav1.APIGroupList{Groups: []metav1.APIGroup{}}
	out.Kind, out.APIVersion = "APIGroupList", "v1"
	for _, g := range s.groups() {
		if g.name != "" {
			out.Groups = append(out.Groups, g.document())
		}
	}
	return out
}

// Group is /apis/GROUP, or nil.
func (s Set) Group(name string) *metav1.APIGroup {
	for _, g := range s.groups() {
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
		out.Versions = append(out.Versions, metav1.GroupVersionForDiscovery{GroupVersion: g.name + "/" + v.name, Version: v.name})
	}
	out.PreferredVersion = out.Versions[0]
	return out
}

// ResourceList is /api/v1 or /apis/GROUP/VERSION of this server's own, or nil.
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
		for _, sub := range subresources(s) {
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

// subresources are a row's in the order that upstream lists them: by name, but
// as they are for custom resources.
func subresources(s api.Served) []api.Subresource {
	if s.Custom != nil {
		return s.Subresources
	}
	return slices.SortedFunc(slices.Values(s.Subresources), func(a, b api.Subresource) int { return strings.Compare(a.Name, b.Name) })
}

func resource(s api.Served) metav1.APIResource {
	return metav1.APIResource{
		Name: s.Plural, SingularName: s.Singular, Namespaced: s.Namespaced, Kind: s.GVK().Kind,
		Verbs: Verbs(s.Resource), ShortNames: s.Short, Categories: s.Categories, StorageVersionHash: storageHash(s.Resource),
	}
}

// storageHash changes when objects are kept in another version, which tells a
// storage migrator to rewrite them. It is empty for what is not kept.
func storageHash(r *api.Resource) string {
	if r.NewList == nil || !slices.Contains(Verbs(r), "create") {
		return ""
	}
	sum := sha256.Sum256([]byte(r.Group + "/" + r.Version + "/" + r.Kind))
	return base64.StdEncoding.EncodeToString(sum[:8])
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
func (s Set) Aggregated(core bool) *apidiscoveryv2.APIGroupDiscoveryList {
	out := &apidiscoveryv2.APIGroupDiscoveryList{Items: []apidiscoveryv2.APIGroupDiscovery{}}
	out.SetGroupVersionKind(apidiscoveryv2.SchemeGroupVersion.WithKind("APIGroupDiscoveryList"))
	for _, g := range s.groups() {
		if (g.name == "") != core {
			continue
		}
		item := apidiscoveryv2.APIGroupDiscovery{ObjectMeta: metav1.ObjectMeta{Name: g.name}}
		for _, v := range g.versions {
			item.Versions = append(item.Versions, v.document())
		}
		out.Items = append(out.Items, item)
	}
	return out
}

func (v version) document() apidiscoveryv2.APIVersionDiscovery {
	if v.remote != nil {
		doc := v.remote.Doc
		doc.Version = v.name
		if doc.Freshness == "" {
			doc.Freshness = apidiscoveryv2.DiscoveryFreshnessStale
		}
		return doc
	}
	out := apidiscoveryv2.APIVersionDiscovery{Version: v.name, Freshness: apidiscoveryv2.DiscoveryFreshnessCurrent}
	for _, s := range v.rows {
		out.Resources = append(out.Resources, aggregatedResource(s))
	}
	return out
}

func aggregatedResource(s api.Served) apidiscoveryv2.APIResourceDiscovery {
	own := s.GVK()
	base := own // what goes without saying; upstream says it of custom resources all the same
	if s.Custom != nil {
		base = schema.GroupVersionKind{}
	}
	res := apidiscoveryv2.APIResourceDiscovery{
		Resource: s.Plural, SingularResource: s.Singular, ResponseKind: responseKind(own, base),
		Scope: apidiscoveryv2.ScopeCluster, Verbs: Verbs(s.Resource), ShortNames: s.Short, Categories: s.Categories,
	}
	if s.Namespaced {
		res.Scope = apidiscoveryv2.ScopeNamespace
	}
	for _, sub := range subresources(s) {
		kind := own
		if !sub.Kind.Empty() {
			kind = sub.Kind
		}
		res.Subresources = append(res.Subresources, apidiscoveryv2.APISubresourceDiscovery{
			Subresource: sub.Name, ResponseKind: responseKind(kind, base), Verbs: sub.Verbs,
		})
	}
	return res
}

// responseKind names the group and version where they are not the document's.
func responseKind(gvk, own schema.GroupVersionKind) *metav1.GroupVersionKind {
	if gvk.GroupVersion() == own.GroupVersion() {
		return &metav1.GroupVersionKind{Kind: gvk.Kind}
	}
	return &metav1.GroupVersionKind{Group: gvk.Group, Version: gvk.Version, Kind: gvk.Kind}
}
