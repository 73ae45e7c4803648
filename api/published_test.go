package api

import (
	"os"
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/runtime/schema"
)

// The rows serve what Kubernetes serves by default: every resource and
// subresource of every stable version, with its verbs, names and categories, and
// none that it does not know.
func TestRowsMatchPublishedDiscovery(t *testing.T) {
	data, err := os.ReadFile("testdata/discovery.list")
	if err != nil {
		t.Fatal(err)
	}
	want := strings.Split(strings.TrimRight(string(data), "\n"), "\n")
	var got []string
	for gv, rows := range Builtin().Groups() {
		for _, s := range rows {
			got = append(got, discoveryLines(gv, s)...)
		}
	}
	for _, line := range want {
		if !slices.Contains(got, line) {
			t.Errorf("not served: %s", line)
		}
	}
	for _, line := range got {
		if !slices.Contains(want, line) {
			t.Errorf("not published: %s", line)
		}
	}
}

// discoveryLines writes a row and its subresources as testdata/discovery.list does.
func discoveryLines(gv schema.GroupVersion, s Served) []string {
	verbs := s.Verbs
	if verbs == nil {
		verbs = StandardVerbs
	}
	lines := []string{discoveryLine(gv, s, s.Plural, s.Singular, s.Kind, verbs, s.Short, s.Categories)}
	for _, sub := range s.Subresources {
		kind := s.Kind
		if !sub.Kind.Empty() {
			kind = sub.Kind.Kind
			if sub.Kind.GroupVersion() != gv {
				kind = sub.Kind.GroupVersion().String() + "/" + kind
			}
		}
		lines = append(lines, discoveryLine(gv, s, s.Plural+"/"+sub.Name, "", kind, sub.Verbs, nil, nil))
	}
	return lines
}

func discoveryLine(gv schema.GroupVersion, s Served, plural, singular, kind string, verbs, short, categories []string) string {
	scope := "cluster"
	if s.Namespaced {
		scope = "namespaced"
	}
	return strings.Join([]string{gv.String(), plural, singular, kind, scope, strings.Join(slices.Sorted(slices.Values(verbs)), ","),
		strings.Join(short, ","), strings.Join(categories, ",")}, " | ")
}
