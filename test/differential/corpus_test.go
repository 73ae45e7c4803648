package differential

import (
	"os"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/yaml"

	"proa/api"
)

// corpus reads the objects that everything starts from, by resource key. Each
// is valid; together they should use every field that a valid object can.
func corpus(t *testing.T) map[string][]api.Object {
	t.Helper()
	out := map[string][]api.Object{}
	for _, f := range []string{"../../api/testdata/groups.yaml", "testdata/core.yaml", "testdata/groups.yaml"} {
		data, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		for _, doc := range strings.Split(string(data), "\n---\n") {
			key, obj := parse(t, f, doc)
			if obj != nil {
				out[key] = append(out[key], obj)
			}
		}
	}
	return out
}

func parse(t *testing.T, file, doc string) (string, api.Object) {
	t.Helper()
	var id metav1.TypeMeta
	if err := yaml.Unmarshal([]byte(doc), &id); err != nil {
		t.Fatal(file, err)
	}
	s, ok := api.Builtin().ByGVK(schema.FromAPIVersionAndKind(id.APIVersion, id.Kind))
	if !ok {
		t.Fatalf("%s: no kind %s %s", file, id.APIVersion, id.Kind)
	}
	if s.As != nil { // of another version than the stored one
		return "", nil
	}
	obj := s.New()
	if err := yaml.UnmarshalStrict([]byte(doc), obj); err != nil {
		t.Fatal(file, id.Kind, err)
	}
	obj.SetUID("11111111-2222-3333-4444-555555555555")
	obj.SetCreationTimestamp(born)
	obj.GetObjectKind().SetGroupVersionKind(schema.GroupVersionKind{})
	return s.Key(), obj
}
