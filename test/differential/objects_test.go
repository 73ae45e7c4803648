package differential

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// same notes the fields in which two objects differ: "+" and "-" have them at
// proa or at Kubernetes only, "~" with another value.
func (r *report) same(how, what string, ours, theirs runtime.Object) {
	if theirs == nil {
		r.add(what, how+": Kubernetes refuses")
		return
	}
	a, b := blank(ours), blank(theirs)
	if equality.Semantic.DeepEqual(a, b) {
		return
	}
	have, want := leaves(a), leaves(b)
	for _, path := range slices.Sorted(maps.Keys(have)) {
		if v, ok := want[path]; !ok {
			r.add(what, how+" + "+path)
		} else if v != have[path] {
			r.add(what, how+" ~ "+path)
		}
	}
	for _, path := range slices.Sorted(maps.Keys(want)) {
		if _, ok := have[path]; !ok {
			r.add(what, how+" - "+path)
		}
	}
}

func blank(o runtime.Object) runtime.Object {
	o.GetObjectKind().SetGroupVersionKind(schema.GroupVersionKind{})
	return o
}

// leaves are an object's fields that have values, by their JSON paths.
func leaves(o runtime.Object) map[string]string {
	data, err := json.Marshal(o)
	if err != nil {
		return map[string]string{err.Error(): ""}
	}
	var tree any
	if err := json.Unmarshal(data, &tree); err != nil {
		return map[string]string{err.Error(): ""}
	}
	out := map[string]string{}
	leavesOf(tree, "", out)
	return out
}

func leavesOf(v any, path string, out map[string]string) {
	switch v := v.(type) {
	case map[string]any:
		for k, x := range v {
			leavesOf(x, path+"."+k, out)
		}
	case []any:
		for i, x := range v {
			leavesOf(x, fmt.Sprintf("%s[%d]", path, i), out)
		}
	default:
		out[path] = fmt.Sprint(v)
	}
}
