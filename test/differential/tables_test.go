package differential

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	"k8s.io/kubernetes/pkg/printers"
	printersinternal "k8s.io/kubernetes/pkg/printers/internalversion"
	"sigs.k8s.io/yaml"

	"proa/api"
)

// filled is the object of a kind that the published API is tested with: every
// field has a value, valid or not. It is nil for kinds that have none.
func filled(t *testing.T, r *api.Resource) api.Object {
	t.Helper()
	group := r.Group
	if group == "" {
		group = "core"
	}
	data, err := os.ReadFile(filepath.Join(published(t), fmt.Sprintf("%s.%s.%s.yaml", group, r.Version, r.Kind)))
	if err != nil {
		return nil
	}
	obj := r.New()
	if err := yaml.Unmarshal(data, obj); err != nil {
		t.Fatal(err)
	}
	obj.SetDeletionTimestamp(nil)
	obj.GetObjectKind().SetGroupVersionKind(schema.GroupVersionKind{})
	return obj
}

var publishedDir string

func published(t *testing.T) string {
	if publishedDir == "" {
		dir, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "k8s.io/api").Output()
		if err != nil {
			t.Fatal(err)
		}
		publishedDir = filepath.Join(strings.TrimSpace(string(dir)), "testdata", "HEAD")
	}
	return publishedDir
}

// TestTables prints every variant of every object as both do.
func TestTables(t *testing.T) {
	list, all := loadAccepted(t), corpus(t)
	generator := printers.NewTableGenerator().With(printersinternal.AddHandlers)
	for _, r := range chosen() {
		in, err := legacyscheme.Scheme.New(schema.GroupVersionKind{Group: r.Group, Version: runtime.APIVersionInternal, Kind: r.Kind})
		if err != nil {
			continue
		}
		if _, err := generator.GenerateTable(in, printers.GenerateOptions{Wide: true}); err != nil {
			continue
		}
		t.Run(strings.ReplaceAll(r.Key(), "/", "_"), func(t *testing.T) {
			rep := newReport("tables", r.Key(), list)
			defer rep.show(t)
			bases := all[r.Key()]
			if f := filled(t, r); f != nil {
				bases = append(bases, f)
			}
			for _, base := range bases {
				for v := range everyVariant(bases, base) {
					tables(rep, r, generator, v)
				}
			}
		})
	}
}

func tables(rep *report, r *api.Resource, g *printers.HumanReadableGenerator, v variant) {
	in, err := internal(fresh(v.obj), r)
	if err != nil {
		return
	}
	theirs, err := generate(g, in)
	if err != nil {
		rep.add(v.what, "- "+err.Error())
		return
	}
	obj := fresh(v.obj)
	legacyscheme.Scheme.Default(obj)
	if what := headers(r.Columns, theirs.ColumnDefinitions); what != "" {
		rep.add(v.what, what)
		return
	}
	cells := r.Cells(obj, time.Now())
	for i, c := range theirs.Rows[0].Cells {
		a, b := text(cells[i]), text(c)
		if a != b {
			rep.add(v.what+fmt.Sprintf(": %s and %s", a, b), "cell "+r.Columns[i].Name+sameTypes(cells[i], c))
		}
	}
}

// generate survives what upstream's printers do not.
func generate(g *printers.HumanReadableGenerator, in runtime.Object) (table *metav1.Table, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("PANIC: %v", p)
		}
	}()
	return g.GenerateTable(in, printers.GenerateOptions{Wide: true})
}

func headers(ours, theirs []metav1.TableColumnDefinition) string {
	form := func(cs []metav1.TableColumnDefinition) string {
		var out []string
		for _, c := range cs {
			out = append(out, fmt.Sprintf("%s/%s/%s/%d", c.Name, c.Type, c.Format, c.Priority))
		}
		return strings.Join(out, ", ")
	}
	if a, b := form(ours), form(theirs); a != b {
		return "columns + " + a + " - " + b
	}
	return ""
}

func text(cell any) string {
	data, err := json.Marshal(cell)
	if err != nil {
		return err.Error()
	}
	return string(data)
}

func sameTypes(a, b any) string {
	if isNumber(text(a)) != isNumber(text(b)) {
		return " (of another type)"
	}
	return ""
}

func isNumber(s string) bool { return !strings.HasPrefix(s, `"`) }
