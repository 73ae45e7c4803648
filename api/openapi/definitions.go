package openapi

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	_ "embed"
	"fmt"
	"io"
	"maps"
	"reflect"
	"slices"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/version"
	"k8s.io/client-go/kubernetes/scheme"

	"proa/api"
)

// packed holds a line for each definition: its name, a tab, its OpenAPI v3
// schema as JSON and, where v2 has another, a tab and that.
//
//go:embed definitions.txt.gz
var packed []byte

var packedHash = sync.OnceValue(func() [sha256.Size]byte { return sha256.Sum256(packed) })

// definition is the JSON of one schema, in v3 and (if it differs) in v2.
type definition struct{ v3, v2 string }

// unpack reads all definitions. They take 1 MB, so nobody keeps them.
func unpack() (map[string]definition, error) {
	z, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		return nil, fmt.Errorf("openapi: the embedded definitions: %w", err)
	}
	var text strings.Builder
	text.Grow(8 * len(packed))
	if _, err := io.Copy(&text, z); err != nil {
		return nil, fmt.Errorf("openapi: the embedded definitions: %w", err)
	}
	all := map[string]definition{}
	for line := range strings.Lines(text.String()) {
		parts := append(strings.Split(strings.TrimSuffix(line, "\n"), "\t"), "", "")
		all[parts[0]] = definition{parts[1], parts[2]}
	}
	return all, nil
}

const refPrefix = `"$ref":"#/components/schemas/`

// Reachable lists the given definitions and all that their schemas refer to,
// sorted.
func Reachable(roots []string, schema func(name string) string) []string {
	seen := map[string]bool{}
	for todo := slices.Clone(roots); len(todo) > 0; {
		name := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if seen[name] {
			continue
		}
		seen[name] = true
		for rest := schema(name); ; {
			_, after, found := strings.Cut(rest, refPrefix)
			if !found {
				break
			}
			ref, tail, _ := strings.Cut(after, `"`)
			todo, rest = append(todo, ref), tail
		}
	}
	return slices.Sorted(maps.Keys(seen))
}

// ModelName is the name of a Go type's definition ("io.k8s.api.core.v1.Pod"),
// empty where the type has none.
func ModelName(obj any) string {
	if m, ok := obj.(interface{ OpenAPIModelName() string }); ok {
		return m.OpenAPIModelName()
	}
	return ""
}

// shared are the types that every group version speaks of.
var shared = []any{
	&metav1.Status{}, &metav1.WatchEvent{}, &metav1.Patch{}, &metav1.DeleteOptions{}, &metav1.CreateOptions{}, &metav1.UpdateOptions{},
	&metav1.PatchOptions{}, &metav1.ListOptions{}, &metav1.APIResourceList{}, &metav1.APIGroup{}, &metav1.APIGroupList{}, &metav1.APIVersions{}, &version.Info{},
	&corev1.PodLogOptions{}, &corev1.PodExecOptions{}, &corev1.PodAttachOptions{}, &corev1.PodPortForwardOptions{},
	&corev1.PodProxyOptions{}, &corev1.NodeProxyOptions{}, &corev1.ServiceProxyOptions{},
}

// Types lists the Go types that the definitions are made of: those of served
// kinds, their lists and their subresources, and the shared ones.
func Types(reg *api.Registry) []reflect.Type {
	var out []reflect.Type
	add := func(obj any) {
		if obj != nil && ModelName(obj) != "" {
			out = append(out, reflect.TypeOf(obj).Elem())
		}
	}
	for _, obj := range shared {
		add(obj)
	}
	for _, list := range reg.Groups() {
		for _, s := range list {
			add(newObject(s))
			add(newList(s))
			for _, sub := range s.Subresources {
				if obj, err := scheme.Scheme.New(sub.Kind); err == nil {
					add(obj)
				}
			}
		}
	}
	return out
}

// newObject and newList make empty values of a served version; newList gives
// nil for a kind that is not listed.
func newObject(s api.Served) any {
	if s.As != nil {
		return s.As.New()
	}
	return s.New()
}

func newList(s api.Served) any {
	switch {
	case s.As != nil && s.As.NewList != nil:
		return s.As.NewList()
	case s.As == nil && s.NewList != nil:
		return s.NewList()
	}
	return nil
}

// kinds maps the names of definitions to the kinds that they are the schema of.
func kinds(reg *api.Registry) map[string][]schema.GroupVersionKind {
	out := map[string][]schema.GroupVersionKind{}
	add := func(name string, gvk schema.GroupVersionKind) {
		if name != "" && !slices.Contains(out[name], gvk) {
			out[name] = append(out[name], gvk)
		}
	}
	groups := reg.Groups()
	for _, gv := range slices.SortedFunc(maps.Keys(groups), compareVersions) {
		for _, s := range groups[gv] {
			gvk := s.GVK()
			add(nameOf(s), gvk)
			add(listNameOf(s), gv.WithKind(gvk.Kind+"List"))
			for _, sub := range s.Subresources {
				if obj, err := scheme.Scheme.New(sub.Kind); err == nil {
					add(ModelName(obj), sub.Kind)
				}
			}
		}
		add(ModelName(&metav1.DeleteOptions{}), gv.WithKind("DeleteOptions"))
		add(ModelName(&metav1.WatchEvent{}), gv.WithKind("WatchEvent"))
	}
	for _, obj := range []any{&metav1.Status{}, &metav1.APIResourceList{}, &metav1.APIGroup{}, &metav1.APIGroupList{}, &metav1.APIVersions{}} {
		add(ModelName(obj), corev1.SchemeGroupVersion.WithKind(reflect.TypeOf(obj).Elem().Name()))
	}
	return out
}

func compareVersions(a, b schema.GroupVersion) int { return strings.Compare(a.String(), b.String()) }

// nameOf and listNameOf name the definitions of a served version. A custom
// resource's name is its group reversed, as in Java packages.
func nameOf(s api.Served) string {
	if name := ModelName(newObject(s)); name != "" {
		return name
	}
	parts := strings.Split(s.GVK().Group, ".")
	slices.Reverse(parts)
	return strings.Join(append(parts, s.GVK().Version, s.GVK().Kind), ".")
}

func listNameOf(s api.Served) string {
	list := newList(s)
	if list == nil {
		return ""
	}
	if name := ModelName(list); name != "" {
		return name
	}
	return nameOf(s) + "List"
}
