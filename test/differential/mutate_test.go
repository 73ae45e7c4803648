package differential

import (
	"fmt"
	"iter"
	"reflect"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"

	"proa/api"
)

var born = metav1.NewTime(time.Unix(1700000000, 0))

// variant is an object of the corpus with one thing changed.
type variant struct {
	obj  api.Object
	what string // the path and the change
}

// place is a value inside an object: the steps that lead to it are the indexes
// of fields and items.
type place struct {
	path  string
	steps []int
}

// whole are the structs that are one value to whoever writes an object.
var whole = map[reflect.Type][]any{
	reflect.TypeFor[resource.Quantity](): {resource.MustParse("0"), resource.MustParse("-1"), resource.MustParse("1"), resource.MustParse("1500m"), resource.MustParse("3Gi")},
	reflect.TypeFor[metav1.Time]():       {metav1.Time{}, metav1.Unix(1800000000, 0)},
	reflect.TypeFor[metav1.MicroTime]():  {metav1.MicroTime{}, metav1.NewMicroTime(time.Unix(1800000000, 0))},
	reflect.TypeFor[intstr.IntOrString](): {intstr.FromInt32(-1), intstr.FromInt32(0), intstr.FromInt32(1), intstr.FromInt32(70000), intstr.FromString(""), intstr.FromString("50%"),
		intstr.FromString("150%"), intstr.FromString("-5%"), intstr.FromString("http"), intstr.FromString("Not a port!")},
	reflect.TypeFor[runtime.RawExtension](): {runtime.RawExtension{}, runtime.RawExtension{Raw: []byte(`{"a":1}`)}, runtime.RawExtension{Raw: []byte(`[`)}},
}

var words = []string{"", "a", "A_b", "foo.example.com/bar", "-bad-", "not valid!", "10.0.0.1", "010.0.0.1", "fe80::1", "::ffff:1.2.3.4", "10.0.0.0/8", "10.0.0.1/8", "/abs/path", "../x", "*",
	"kubernetes.io/x", strings.Repeat("x", 64), strings.Repeat("y", 260)}

var numbers = []int64{-1, 0, 1, 2, 101, 65536, 1 << 30}

// untouched are fields that the request path owns, not the kinds.
var untouched = []string{"TypeMeta", "ObjectMeta.ManagedFields", "ObjectMeta.ResourceVersion", "ObjectMeta.UID", "ObjectMeta.CreationTimestamp", "ObjectMeta.SelfLink",
	"ObjectMeta.DeletionTimestamp", "ObjectMeta.DeletionGracePeriodSeconds", "ObjectMeta.Generation", "ObjectMeta.GenerateName", "ObjectMeta.Namespace", "ObjectMeta.OwnerReferences"}

// mutator makes the variants of a kind's objects.
type mutator struct {
	pool map[reflect.Type][]string // values seen of each named string type
	skip func(path string) bool
}

func newMutator(objs []api.Object) *mutator {
	m := &mutator{pool: map[reflect.Type][]string{}}
	for _, o := range objs {
		for _, p := range m.places(o, "") {
			v := at(o, p.steps)
			if v.Kind() == reflect.String && v.Type() != reflect.TypeFor[string]() && !slices.Contains(m.pool[v.Type()], v.String()) {
				m.pool[v.Type()] = append(m.pool[v.Type()], v.String())
			}
		}
	}
	return m
}

// variants changes every place of an object in every way, and what is filled
// into its empty places likewise, to the given depth.
func (m *mutator) variants(base api.Object, under string, depth int) iter.Seq[variant] {
	return func(yield func(variant) bool) {
		for _, p := range m.places(base, under) {
			for _, c := range m.changes(at(base, p.steps)) {
				v := variant{base.DeepCopyObject().(api.Object), strings.TrimPrefix(p.path, ".") + " " + c.what}
				c.do(at(v.obj, p.steps))
				if !yield(v) {
					return
				}
				if !c.fills || depth == 0 {
					continue
				}
				for inner := range m.variants(v.obj, p.path, depth-1) {
					inner.what = v.what + "; " + inner.what
					if !yield(inner) {
						return
					}
				}
			}
		}
	}
}

// at walks to a place.
func at(obj api.Object, steps []int) reflect.Value {
	v := reflect.ValueOf(obj).Elem()
	for _, s := range steps {
		for v.Kind() == reflect.Pointer {
			v = v.Elem()
		}
		if v.Kind() == reflect.Struct {
			v = v.Field(s)
		} else {
			v = v.Index(s)
		}
	}
	return v
}

func (m *mutator) places(obj api.Object, under string) []place {
	var out []place
	m.walk(reflect.ValueOf(obj).Elem(), place{}, func(p place) {
		if p.path != under && strings.HasPrefix(p.path, under) && (m.skip == nil || !m.skip(p.path)) {
			out = append(out, p)
		}
	})
	return out
}

func (m *mutator) walk(v reflect.Value, p place, visit func(place)) {
	if v.Kind() == reflect.Pointer && !v.IsNil() {
		visit(p)
		m.walk(v.Elem(), p, visit)
		return
	}
	_, one := whole[v.Type()]
	switch {
	case v.Kind() == reflect.Struct && !one:
		for i := range v.NumField() {
			f := v.Type().Field(i)
			path := p.path + "." + f.Name
			if f.IsExported() && !slices.Contains(untouched, strings.TrimPrefix(path, ".")) {
				m.walk(v.Field(i), place{path, append(slices.Clone(p.steps), i)}, visit)
			}
		}
		return
	case v.Kind() == reflect.Slice && v.Type().Elem().Kind() != reflect.Uint8:
		for i := range v.Len() {
			m.walk(v.Index(i), place{fmt.Sprintf("%s[%d]", p.path, i), append(slices.Clone(p.steps), i)}, visit)
		}
	}
	visit(p)
}

// change is something done to a place.
type change struct {
	what  string
	do    func(v reflect.Value)
	fills bool // puts something where nothing was
}

func (m *mutator) changes(v reflect.Value) []change {
	if values, ok := whole[v.Type()]; ok {
		return assign(values, func(v reflect.Value, x any) { v.Set(reflect.ValueOf(x)) })
	}
	switch v.Kind() {
	case reflect.String:
		list := words
		if v.Type() != reflect.TypeFor[string]() {
			list = append([]string{"", "Bad", "10.0.0.1"}, m.pool[v.Type()]...)
		}
		return assign(list, func(v reflect.Value, s string) { v.SetString(s) })
	case reflect.Bool:
		return []change{{what: "flipped", do: func(v reflect.Value) { v.SetBool(!v.Bool()) }}}
	case reflect.Int32, reflect.Int64, reflect.Int:
		return assign(numbers, func(v reflect.Value, n int64) { v.SetInt(n) })
	case reflect.Pointer, reflect.Slice, reflect.Map:
		if v.IsZero() {
			return m.fillings(v)
		}
		return append(m.edits(v), change{what: "removed", do: func(v reflect.Value) { v.SetZero() }})
	}
	return nil
}

// assign makes a change of each value.
func assign[T any](values []T, set func(reflect.Value, T)) []change {
	var out []change
	for _, x := range values {
		out = append(out, change{what: fmt.Sprintf("= %.40v", x), do: func(v reflect.Value) { set(v, x) }})
	}
	return out
}

// edits are what can be done to a list or a map that has something.
func (m *mutator) edits(v reflect.Value) []change {
	switch v.Kind() {
	case reflect.Slice:
		if v.Type().Elem().Kind() == reflect.Uint8 {
			return assign([]string{"", "junk"}, func(v reflect.Value, s string) { v.SetBytes([]byte(s)) })
		}
		return []change{
			{what: "emptied", do: func(v reflect.Value) { v.Set(reflect.MakeSlice(v.Type(), 0, 0)) }},
			{what: "first twice", do: func(v reflect.Value) { v.Set(reflect.Append(v, v.Index(0))) }},
			{what: "one more", do: func(v reflect.Value) {
				x := reflect.New(v.Type().Elem()).Elem()
				m.fill(x, 0, -1)
				v.Set(reflect.Append(v, x))
			}},
		}
	case reflect.Map:
		return m.mapEdits(v)
	}
	return nil
}

func (m *mutator) mapEdits(v reflect.Value) []change {
	out := []change{
		{what: "emptied", do: func(v reflect.Value) { v.Set(reflect.MakeMap(v.Type())) }},
	}
	for _, word := range []string{"", "a", "not valid!", "cpu", "foo.example.com/bar", "hugepages-2Mi", "requests.cpu", "kubernetes.io/x"} {
		out = append(out, change{what: "with key " + word, do: func(v reflect.Value) {
			x := reflect.New(v.Type().Elem()).Elem()
			m.fill(x, 0, -1)
			v.SetMapIndex(reflect.ValueOf(word).Convert(v.Type().Key()), x)
		}})
	}
	for _, k := range v.MapKeys() {
		for _, c := range m.changes(v.MapIndex(k)) {
			out = append(out, change{what: fmt.Sprintf("[%v] %s", k, c.what), do: func(v reflect.Value) {
				x := reflect.New(v.Type().Elem()).Elem()
				x.Set(v.MapIndex(k))
				c.do(x)
				v.SetMapIndex(k, x)
			}})
		}
	}
	return out
}

// fillings put something into a place that has nothing: once for each member
// where the type is a union.
func (m *mutator) fillings(v reflect.Value) []change {
	members := 1
	if u := unionIn(v.Type()); u != nil {
		members = u.NumField()
	}
	var out []change
	for i := range members {
		out = append(out, change{what: fmt.Sprintf("filled (%d)", i), fills: true, do: func(v reflect.Value) { m.fill(v, 0, i) }})
	}
	if v.Kind() == reflect.Slice {
		out = append(out, change{what: "emptied", do: func(v reflect.Value) { v.Set(reflect.MakeSlice(v.Type(), 0, 0)) }})
	}
	return out
}

// isUnion tells structs of which one member is meant to be set.
func isUnion(t reflect.Type) bool {
	if t.Kind() != reflect.Struct || t.NumField() < 2 {
		return false
	}
	for i := range t.NumField() {
		if t.Field(i).Type.Kind() != reflect.Pointer || t.Field(i).Type.Elem().Kind() != reflect.Struct {
			return false
		}
	}
	return true
}

// unionIn is the union that a type points to, lists or has embedded.
func unionIn(t reflect.Type) reflect.Type {
	for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice {
		t = t.Elem()
	}
	if isUnion(t) {
		return t
	}
	if t.Kind() == reflect.Struct {
		for i := range t.NumField() {
			if f := t.Field(i); f.Anonymous && isUnion(f.Type) {
				return f.Type
			}
		}
	}
	return nil
}

const deepest = 7

// fill gives a value of something plausible everywhere; of a union one member:
// the given one at the first union that is met, then the first.
func (m *mutator) fill(v reflect.Value, depth, member int) {
	if values, ok := whole[v.Type()]; ok {
		v.Set(reflect.ValueOf(values[min(2, len(values)-1)]))
		return
	}
	if depth > deepest {
		return
	}
	switch v.Kind() {
	case reflect.String:
		v.SetString("a")
		if p := m.pool[v.Type()]; len(p) > 0 && v.Type() != reflect.TypeFor[string]() {
			v.SetString(p[0])
		}
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int32, reflect.Int64, reflect.Int:
		v.SetInt(1)
	case reflect.Uint8:
		v.SetUint('a')
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		m.fill(v.Elem(), depth, member)
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		m.fill(v.Index(0), depth+1, member)
	case reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		k, x := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
		m.fill(k, depth+1, member)
		m.fill(x, depth+1, member)
		v.SetMapIndex(k, x)
	case reflect.Struct:
		m.fillStruct(v, depth, member)
	}
}

func (m *mutator) fillStruct(v reflect.Value, depth, member int) {
	if isUnion(v.Type()) {
		if f := v.Field(max(member, 0)); f.CanSet() {
			m.fill(f, depth+1, -1)
		}
		return
	}
	for i := range v.NumField() {
		if f := v.Type().Field(i); f.IsExported() && f.Name != "TypeMeta" {
			m.fill(v.Field(i), depth+1, member)
		}
	}
}
