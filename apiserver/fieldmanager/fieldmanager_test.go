package fieldmanager

import (
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/applyconfigurations"
	"k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/structured-merge-diff/v6/schema"

	"proa/api"
)

// TestSchemasAreCurrent compares the packed schemas with those of the client-go
// that is linked; go generate makes them anew.
func TestSchemasAreCurrent(t *testing.T) {
	v, err := applyconfigurations.NewTypeConverter(scheme.Scheme).ObjectToTyped(
		&corev1.ConfigMap{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "ConfigMap"}})
	if err != nil {
		t.Fatal(err)
	}
	types, err := unpack(packed)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(v.Schema().Types, types, cmpopts.IgnoreUnexported(schema.Map{})); diff != "" {
		t.Error(diff, "schema.gob.gz is not that of this client-go: run go generate ./apiserver/fieldmanager")
	}
}

// TestEveryStoredKindHasASchema finds kinds whose fields would be owned by guess.
func TestEveryStoredKindHasASchema(t *testing.T) {
	for _, row := range api.Builtin().All() {
		if row.NewList == nil {
			continue
		}
		obj := row.New()
		if reflect.TypeOf(obj).Elem().Name() == "Unstructured" || strings.Contains(row.Group, "apiextensions") || strings.Contains(row.Group, "apiregistration") {
			continue // not among client-go's kinds
		}
		obj.GetObjectKind().SetGroupVersionKind(row.GVK())
		tc, err := builtinTypes()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := tc.(fallback).known.ObjectToTyped(obj); err != nil {
			t.Errorf("%s: %v", row.Key(), err)
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
