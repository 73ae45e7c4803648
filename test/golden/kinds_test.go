package golden

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/yaml"

	"proa/api"
)

// kinds are every command that works on all kinds, with an object of each kind
// in testdata/objects.yaml.
func kinds(t *testing.T) (out []transcript) {
	seen := map[string]bool{}
	for _, s := range samples(t) {
		seen[s.row.Key()] = true
		out = append(out, s.transcript())
	}
	for _, row := range api.Builtin().All() {
		made := row.NewList != nil && (row.Verbs == nil || slices.Contains(row.Verbs, "create"))
		if made && !seen[row.Key()] {
			t.Errorf("testdata/objects.yaml has no %s", row.Kind)
		}
	}
	return out
}

type sample struct {
	row  *api.Resource
	obj  *unstructured.Unstructured
	file string
}

// name is the kind's, plural and with its group.
func (s sample) name() string { return s.row.Plural + "." + s.row.Group }

// samples are the objects, each in a file of its own.
func samples(t *testing.T) (out []sample) {
	t.Helper()
	text, err := os.ReadFile("testdata/objects.yaml")
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "objects")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	for i, doc := range strings.Split(string(text), "\n---\n") {
		s := sample{obj: &unstructured.Unstructured{}, file: filepath.Join(dir, fmt.Sprintf("%02d.yaml", i))}
		doc += "\n" // which a text at its end keeps
		if err := yaml.Unmarshal([]byte(doc), &s.obj.Object); err != nil {
			t.Fatalf("document %d: %v", i, err)
		}
		gvk := schema.FromAPIVersionAndKind(s.obj.GetAPIVersion(), s.obj.GetKind())
		served, ok := api.Builtin().ByGVK(gvk)
		if !ok {
			t.Fatalf("document %d: %v is not served", i, gvk)
		}
		s.row = served.Resource
		if err := os.WriteFile(s.file, []byte(doc), 0o600); err != nil {
			t.Fatal(err)
		}
		out = append(out, s)
	}
	return out
}

// perKind are the commands; <file>, <type> and <name> stand for the object's.
var perKind = []string{
	"explain <type>",
	"create -f <file>",
	"create -f <file>",
	"get <type> <name>",
	"get <type> <name> -o wide --show-labels",
	"get <type> <name> -o yaml",
	"label <type> <name> colour=blue",
	"patch <type> <name> --type=merge -p '{\"metadata\":{\"labels\":{\"merged\":\"yes\"}}}'",
	"patch <type> <name> --type=json -p '[{\"op\":\"remove\",\"path\":\"/metadata/labels/merged\"}]'",
	"diff -f <file> --server-side",
	"apply -f <file>",
	"apply -f <file> --server-side --force-conflicts",
	"get <type> <name> -o json --show-managed-fields",
	"replace -f <file>",
	"describe <type> <name>",
	"delete <type> <name>",
}

// short are those of them that show most of what differs between kinds; the rest
// is for -full. The object is made and removed without kubectl, which reads the
// whole OpenAPI document of a group before it sends one.
var short = perKind[3:6]

// brief tells whether kinds are shown by the short commands.
func brief() bool { return !*full && *record == "" && !*differ }

func (s sample) transcript() transcript {
	typ := strings.TrimSuffix(s.name(), ".")
	fill := strings.NewReplacer("<type>", typ, "<name>", s.obj.GetName())
	path := filepath.Join("testdata/kinds", typ+".txt")
	known := map[string][]entry{}
	if text, err := os.ReadFile(path); err == nil { // there is none before the first recording
		for _, e := range parse(string(text)) {
			known[e.command] = append(known[e.command], e)
		}
	}
	tr := transcript{name: s.name(), path: path, alone: slices.Contains(alone, s.name())}
	commands := perKind
	if brief() {
		commands, tr.sample = short, &s
	}
	for _, c := range commands {
		e := entry{command: "kubectl " + fill.Replace(c)}
		if k := known[e.command]; len(k) > 0 {
			e, known[e.command] = k[0], k[1:]
		}
		e.file = s.file
		tr.entries = append(tr.entries, e)
	}
	return tr
}

// make makes the sample until the test ends. One that is refused is not found by
// the commands after it, which is what is compared.
func (s sample) make(t *testing.T, p *plane, namespace string) {
	if !s.row.Namespaced {
		namespace = ""
	}
	at := p.objects.Resource(s.row.GVK().GroupVersion().WithResource(s.row.Plural)).Namespace(namespace)
	_, err := at.Create(t.Context(), s.obj, metav1.CreateOptions{FieldManager: "kubectl-create"})
	if err != nil {
		t.Log("not made: ", err)
		return
	}
	t.Cleanup(func() {
		if err := at.Delete(context.Background(), s.obj.GetName(), metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
			t.Error(err)
		}
	})
}
