package fieldmanager

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"sigs.k8s.io/structured-merge-diff/v6/schema"

	"proa/api"
	"proa/apiserver/fieldmanager/published"
)

// TestSchemasAreCurrent compares the packed schemas with those of the modules
// that are linked; go generate makes them anew.
func TestSchemasAreCurrent(t *testing.T) {
	want, err := published.Types()
	if err != nil {
		t.Fatal(err)
	}
	types, err := unpack(packed)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, types, cmpopts.IgnoreUnexported(schema.Map{})); diff != "" {
		t.Error(diff, "schema.gob.gz is not that of the linked modules: run go generate ./apiserver/fieldmanager")
	}
}

// TestEveryStoredKindHasASchema finds kinds whose fields would be owned by guess.
func TestEveryStoredKindHasASchema(t *testing.T) {
	for _, row := range api.Builtin().All() {
		if row.NewList == nil {
			continue
		}
		obj := row.New()
		obj.GetObjectKind().SetGroupVersionKind(row.GVK())
		tc, err := builtinTypes()
		if err != nil {
			t.Fatal(err)
		}
		typed, err := tc.ObjectToTyped(obj)
		if err != nil {
			t.Errorf("%s: %v", row.Key(), err)
		} else if name := typed.TypeRef().NamedType; name == nil || *name == "__untyped_deduced_" {
			t.Errorf("%s: its type is deduced", row.Key())
		}
	}
}

func BenchmarkUnpack(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		if _, err := unpack(packed); err != nil {
			b.Fatal(err)
		}
	}
}
