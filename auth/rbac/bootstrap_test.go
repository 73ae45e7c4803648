package rbac

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/yaml"

	"proa/api"
)

// published is where upstream's source has the same objects as YAML.
const published = "k8s.io/kubernetes@v1.37.2/plugin/pkg/auth/authorizer/rbac/bootstrappolicy/testdata"

// TestDefaultsAreUpstreams compares every default with what upstream publishes.
func TestDefaultsAreUpstreams(t *testing.T) {
	cache, err := exec.Command("go", "env", "GOMODCACHE").Output()
	if err != nil {
		t.Skipf("there is no go command to ask for the module cache: %v", err)
	}
	dir := filepath.Join(strings.TrimSpace(string(cache)), published)
	if _, err := os.Stat(dir); err != nil {
		t.Skipf("upstream's source is not in the module cache: %v", err)
	}
	ours := map[string]api.Object{}
	for _, o := range Bootstrap() {
		ours[id(o)] = o
	}
	for _, file := range []string{"cluster-roles", "cluster-role-bindings", "namespace-roles", "namespace-role-bindings", "controller-roles", "controller-role-bindings"} {
		data, err := os.ReadFile(filepath.Join(dir, file+".yaml"))
		if err != nil {
			t.Fatal(err)
		}
		var list unstructured.UnstructuredList
		if err := yaml.Unmarshal(data, &list); err != nil {
			t.Fatal(err)
		}
		for _, item := range list.Items {
			compare(t, item, ours)
		}
	}
	for name := range ours {
		t.Errorf("%s is no default of upstream's", name)
	}
}

func id(o api.Object) string {
	kind := api.Builtin().ByType(o).Kind
	return kind + " " + o.GetNamespace() + "/" + o.GetName()
}

func compare(t *testing.T, theirs unstructured.Unstructured, ours map[string]api.Object) {
	t.Helper()
	typed := map[string]api.Object{"ClusterRole": &rbacv1.ClusterRole{}, "ClusterRoleBinding": &rbacv1.ClusterRoleBinding{},
		"Role": &rbacv1.Role{}, "RoleBinding": &rbacv1.RoleBinding{}}[theirs.GetKind()]
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(theirs.Object, typed); err != nil {
		t.Fatal(err)
	}
	typed.GetObjectKind().SetGroupVersionKind(schema.GroupVersionKind{})
	name := id(typed)
	have := ours[name]
	if have == nil {
		t.Errorf("%s is missing", name)
		return
	}
	delete(ours, name)
	have.GetObjectKind().SetGroupVersionKind(schema.GroupVersionKind{})
	if !equality.Semantic.DeepEqual(have, typed) {
		t.Errorf("%s differs\nours:   %+v\nthe published: %+v", name, have, typed)
	}
}

func TestATableThatIsNoTable(t *testing.T) {
	for _, text := range []string{"ClusterRole", "\tget core pods", "ClusterRole a\n\tget core pods named", "ClusterRole a partof"} {
		if _, err := parseRoles(text); err == nil {
			t.Errorf("%q was taken", text)
		}
	}
}
