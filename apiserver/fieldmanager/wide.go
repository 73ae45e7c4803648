package fieldmanager

import (
	"fmt"
	"reflect"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"proa/api"
)

const (
	// maxEffort bounds the sum of the squares of the lengths of an object's maps and
	// lists. The library keeps what it compares in sorted slices, in which it inserts
	// one by one: a map of a hundred thousand keys, which fits into an object, takes
	// it tens of seconds. 10,000 keys take a few tenths of one.
	maxEffort = 10_000 * 10_000
	// narrow is the size in bytes below which no object can exceed that.
	narrow = 64 << 10
)

// Wide tells whether an object has so many entries in its maps or lists that noting
// the owners of its fields, or comparing each entry with each, would take too long.
func Wide(obj api.Object) bool {
	if u, ok := obj.(*unstructured.Unstructured); ok {
		return effortOf(u.Object) > maxEffort
	}
	if m, ok := obj.(interface{ Size() int }); ok && m.Size() < narrow {
		return false
	}
	return effort(reflect.ValueOf(obj)) > maxEffort
}

// TooWide tells whether merging a document by the keys of its lists would take too
// long, which takes as many comparisons.
func TooWide(document map[string]any) bool { return effortOf(document) > maxEffort }

func effortOf(v any) (n int) {
	switch v := v.(type) {
	case map[string]any:
		n = len(v) * len(v)
		for _, e := range v {
			n += effortOf(e)
		}
	case []any:
		n = len(v) * len(v)
		for _, e := range v {
			n += effortOf(e)
		}
	}
	return n
}

func effort(v reflect.Value) (n int) {
	switch v.Kind() {
	case reflect.Pointer, reflect.Interface:
		if !v.IsNil() {
			n = effort(v.Elem())
		}
	case reflect.Struct:
		for i := range v.NumField() {
			n += effort(v.Field(i))
		}
	case reflect.Map:
		n = v.Len() * v.Len()
		if composed(v.Type().Elem()) {
			for it := v.MapRange(); it.Next(); {
				n += effort(it.Value())
			}
		}
	case reflect.Slice:
		if v.Type().Elem().Kind() == reflect.Uint8 {
			return 0
		}
		n = v.Len() * v.Len()
		if composed(v.Type().Elem()) {
			for i := range v.Len() {
				n += effort(v.Index(i))
			}
		}
	}
	return n
}

// composed tells types whose values may hold maps and lists.
func composed(t reflect.Type) bool {
	switch t.Kind() {
	case reflect.Pointer, reflect.Interface, reflect.Struct, reflect.Map, reflect.Slice:
		return true
	}
	return false
}

// disown takes the owners of an object's fields away: they are not kept for an
// object that has too many.
func disown(obj api.Object) api.Object {
	obj.SetManagedFields(nil)
	return obj
}

func errTooWide() error {
	return apierrors.NewRequestEntityTooLargeError(fmt.Sprintf("an object whose maps or lists have more than some %d entries cannot be applied, only created, updated and patched", 10_000))
}
