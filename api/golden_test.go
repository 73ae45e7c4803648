package api

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"sigs.k8s.io/yaml"
)

var rewrite = flag.Bool("rewrite", false, "write what comes out into testdata as what should")

// now is the clock of the golden tests.
var now = time.Date(2026, 7, 1, 12, 0, 0, 0, time.UTC)

// Files in testdata are blocks of a command, its input in YAML, "----" and the
// output:
//
//	create   defaults, prepares and judges an object: errors, or "ok"
//	default  the object as it is after that, without metadata
//	update   judges the second document as successor of the first
//	after    the second document as successor of the first
//	status   likewise, through the status endpoint; any endpoint's name will do
//	warn     the warnings about the object, or about the second document as
//	         successor of the first
//	table    the cells of each document
func TestGolden(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatal("no testdata: ", err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) { runGolden(t, file) })
	}
}

func runGolden(t *testing.T, file string) {
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, block := range strings.Split(strings.TrimSpace(string(text)), "\n\n\n") {
		in, want, _ := strings.Cut(block, "\n----\n")
		command, input, _ := strings.Cut(in, "\n")
		got := or(strings.TrimSpace(golden(t, command, input)), "nothing")
		if !*rewrite && got != strings.TrimSpace(want) {
			t.Errorf("%s\n---- got\n%s\n---- want\n%s", in, got, want)
		}
		out = append(out, in+"\n----\n"+got)
	}
	if *rewrite {
		if err := os.WriteFile(file, []byte(strings.Join(out, "\n\n\n")+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func golden(t *testing.T, command, input string) string {
	var docs []Object
	var row *Resource
	for _, doc := range strings.Split(input, "\n---\n") {
		var obj Object
		row, obj = decodeYAML(t, doc)
		docs = append(docs, obj)
	}
	obj := docs[len(docs)-1]
	switch command, _, _ = strings.Cut(command, " "); command {
	case "create":
		return errorText(created(row, obj))
	case "default":
		created(row, obj)
		return yamlText(t, obj)
	case "warn":
		return warnings(row, docs)
	case "table":
		return tableText(row, docs)
	case "after":
		created(row, docs[0])
		row.Default(obj)
		row.PrepareUpdate(obj, docs[0])
		return yamlText(t, obj)
	case "update":
		created(row, docs[0])
		row.Default(obj)
		row.PrepareUpdate(obj, docs[0])
		return errorText(append(row.Validate(obj), row.ValidateUpdate(obj, docs[0])...))
	}
	sub := row.Subresource(command)
	if sub == nil {
		t.Fatalf("no command %q", command)
	}
	created(row, docs[0])
	row.Default(obj)
	sub.PrepareUpdate(obj, docs[0])
	return errorText(sub.ValidateUpdate(obj, docs[0]))
}

func warnings(row *Resource, docs []Object) string {
	created(row, docs[0])
	if len(docs) == 1 {
		return strings.Join(row.Warnings(docs[0], nil), "\n")
	}
	row.Default(docs[1])
	row.PrepareUpdate(docs[1], docs[0])
	return strings.Join(row.Warnings(docs[1], docs[0]), "\n")
}

func created(row *Resource, obj Object) field.ErrorList {
	row.PrepareCreate(obj)
	row.Default(obj)
	if row.Settle != nil {
		row.Settle(obj)
	}
	return row.Validate(obj)
}

func decodeYAML(t *testing.T, doc string) (*Resource, Object) {
	t.Helper()
	var tm metav1.TypeMeta
	if err := yaml.Unmarshal([]byte(doc), &tm); err != nil {
		t.Fatal(err)
	}
	served, ok := Builtin().ByGVK(schema.FromAPIVersionAndKind(tm.APIVersion, tm.Kind))
	if !ok {
		t.Fatalf("%s %s is not served", tm.APIVersion, tm.Kind)
	}
	obj := served.New()
	if err := yaml.UnmarshalStrict([]byte(doc), obj); err != nil {
		t.Fatal(err)
	}
	if served.Namespaced && obj.GetNamespace() == "" {
		obj.SetNamespace("default")
	}
	obj.SetResourceVersion("1")
	obj.SetUID(types.UID("u"))
	return served.Resource, obj
}

func errorText(errs field.ErrorList) string {
	if len(errs) == 0 {
		return "ok"
	}
	var b strings.Builder
	for _, e := range errs {
		fmt.Fprintf(&b, "%s\n", strings.ReplaceAll(e.Error(), "\u00a0", " "))
	}
	return b.String()
}

func yamlText(t *testing.T, obj Object) string {
	t.Helper()
	obj.SetResourceVersion("")
	obj.SetUID("")
	data, err := yaml.Marshal(obj)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func tableText(row *Resource, docs []Object) string {
	var heads []string
	for _, c := range row.Columns {
		name := strings.ToUpper(c.Name)
		if c.Priority > 0 {
			name = "(" + name + ")"
		}
		heads = append(heads, name)
	}
	lines := []string{strings.Join(heads, " | ")}
	for _, obj := range docs {
		var cells []string
		for _, c := range row.Cells(obj, now) {
			cells = append(cells, fmt.Sprint(c))
		}
		lines = append(lines, strings.Join(cells, " | "))
	}
	return strings.Join(lines, "\n")
}
