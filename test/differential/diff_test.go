package differential

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand"
	"os"
	"reflect"
	"regexp"
	"slices"
	"sort"
	"strconv"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/diff"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation/field"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	"sigs.k8s.io/randfill"
	"sigs.k8s.io/yaml"

	"proa/api"
)

func corpus(t *testing.T) map[string][]api.Object {
	out := map[string][]api.Object{}
	for _, f := range []string{"../../api/testdata/groups.yaml", "testdata/core.yaml"} {
		data, err := os.ReadFile(f)
		if err != nil {
			continue
		}
		for _, doc := range strings.Split(string(data), "\n---\n") {
			var id metav1.TypeMeta
			if err := yaml.Unmarshal([]byte(doc), &id); err != nil {
				t.Fatal(f, err)
			}
			s, ok := api.Builtin().ByGVK(schema.FromAPIVersionAndKind(id.APIVersion, id.Kind))
			if !ok || s.As != nil {
				continue
			}
			obj := s.New()
			if err := yaml.UnmarshalStrict([]byte(doc), obj); err != nil {
				t.Fatal(f, err)
			}
			out[s.Key()] = append(out[s.Key()], obj)
		}
	}
	return out
}

func ctxOf(r *api.Resource, sub string, verb string, obj api.Object) context.Context {
	ctx := genericapirequest.WithNamespace(context.Background(), obj.GetNamespace())
	return genericapirequest.WithRequestInfo(ctx, &genericapirequest.RequestInfo{IsResourceRequest: true, Verb: verb,
		APIGroup: r.Group, APIVersion: r.Version, Resource: r.Plural, Subresource: sub, Namespace: obj.GetNamespace(), Name: obj.GetName()})
}

var now = metav1.NewTime(time.Unix(1700000000, 0))

func sys(obj api.Object) {
	obj.SetUID("11111111-2222-3333-4444-555555555555")
	obj.SetCreationTimestamp(now)
	obj.GetObjectKind().SetGroupVersionKind(schema.GroupVersionKind{})
}

func internal(obj runtime.Object, r *api.Resource) (runtime.Object, error) {
	legacyscheme.Scheme.Default(obj)
	return legacyscheme.Scheme.UnsafeConvertToVersion(obj, schema.GroupVersion{Group: r.Group, Version: runtime.APIVersionInternal})
}

func external(obj runtime.Object, r *api.Resource) (runtime.Object, error) {
	return legacyscheme.Scheme.ConvertToVersion(obj.DeepCopyObject(), schema.GroupVersion{Group: r.Group, Version: r.Version})
}

type verdict struct {
	obj  runtime.Object
	errs []string
}

func causes(err error) []string {
	if err == nil {
		return nil
	}
	st, ok := err.(apierrors.APIStatus)
	if !ok {
		return []string{"? " + err.Error()}
	}
	var out []string
	if d := st.Status().Details; d != nil {
		for _, c := range d.Causes {
			out = append(out, line(c.Field, string(c.Type), c.Message))
		}
	}
	if len(out) == 0 {
		out = append(out, "! "+err.Error())
	}
	sort.Strings(out)
	return slices.Compact(out)
}

func line(f, typ, msg string) string {
	if os.Getenv("MESSAGES") != "" {
		return f + ": " + typ + ": " + msg
	}
	return f + ": " + typ
}

func list(errs field.ErrorList) []string {
	var out []string
	for _, e := range errs {
		out = append(out, line(e.Field, string(e.Type), e.ErrorBody()))
	}
	sort.Strings(out)
	return slices.Compact(out)
}

func theirsCreate(r *api.Resource, s strategy, obj api.Object) (v verdict) {
	defer func() {
		if p := recover(); p != nil {
			v.errs = []string{fmt.Sprint("PANIC theirs ", p)}
		}
	}()
	in, err := internal(obj, r)
	if err != nil {
		return verdict{errs: []string{"convert " + err.Error()}}
	}
	err = rest.BeforeCreate(s.main, ctxOf(r, "", "create", obj), in)
	out, _ := external(in, r)
	return verdict{out, causes(err)}
}

func oursCreate(r *api.Resource, obj api.Object) verdict {
	obj.SetDeletionTimestamp(nil)
	obj.SetDeletionGracePeriodSeconds(nil)
	if r.PrepareCreate != nil {
		r.PrepareCreate(obj)
	}
	if r.Default != nil {
		r.Default(obj)
	}
	if r.Settle != nil {
		r.Settle(obj)
	}
	var errs field.ErrorList
	if r.Validate != nil {
		errs = r.Validate(obj)
	}
	return verdict{obj, list(errs)}
}

func theirsUpdate(r *api.Resource, s rest.RESTUpdateStrategy, sub string, obj, old api.Object) (v verdict) {
	defer func() {
		if p := recover(); p != nil {
			v.errs = []string{fmt.Sprint("PANIC theirs ", p)}
		}
	}()
	in, err := internal(obj, r)
	if err != nil {
		return verdict{errs: []string{"convert " + err.Error()}}
	}
	was, err := internal(old, r)
	if err != nil {
		return verdict{errs: []string{"convert " + err.Error()}}
	}
	err = rest.BeforeUpdate(s, ctxOf(r, sub, "update", obj), in, was)
	out, _ := external(in, r)
	return verdict{out, causes(err)}
}

func oursUpdate(r *api.Resource, sub string, obj, old api.Object) verdict {
	if r.Default != nil {
		r.Default(obj)
	}
	var errs field.ErrorList
	if sub == "" {
		if r.PrepareUpdate != nil {
			r.PrepareUpdate(obj, old)
		}
		if r.Validate != nil {
			errs = append(errs, r.Validate(obj)...)
		}
		if r.ValidateUpdate != nil {
			errs = append(errs, r.ValidateUpdate(obj, old)...)
		}
	} else {
		s := r.Subresource(sub)
		if s.PrepareUpdate != nil {
			s.PrepareUpdate(obj, old)
		}
		if s.ValidateUpdate != nil {
			errs = append(errs, s.ValidateUpdate(obj, old)...)
		}
	}
	return verdict{obj, list(errs)}
}

func blank(o runtime.Object) runtime.Object {
	if o == nil {
		return nil
	}
	o.GetObjectKind().SetGroupVersionKind(schema.GroupVersionKind{})
	return o
}

var fillFuncs = []any{
	func(q *resource.Quantity, c randfill.Continue) {
		*q = *resource.NewMilliQuantity(c.Int63n(5000)-500, resource.DecimalSI)
	},
	func(t *metav1.Time, c randfill.Continue) { *t = metav1.Unix(c.Int63n(1<<31), 0) },
	func(t *metav1.MicroTime, c randfill.Continue) {
		*t = metav1.NewMicroTime(metav1.Unix(c.Int63n(1<<31), 0).Time)
	},
	func(p *intstr.IntOrString, c randfill.Continue) {
		*p = intstr.FromInt32(c.Int31n(200) - 10)
		if c.Bool() {
			*p = intstr.FromString(strconv.Itoa(c.Intn(120)) + "%")
		}
	},
	func(f *metav1.FieldsV1, _ randfill.Continue) { f.Raw = []byte("{}") },
	func(e *runtime.RawExtension, _ randfill.Continue) {
		e.Raw, _ = json.Marshal(map[string]string{"kind": "X"})
	},
}

// ---- mutation

type place struct {
	path string
	v    reflect.Value
	set  func(reflect.Value)
}

func walk(v reflect.Value, path string, depth int, out *[]place) {
	if depth > 14 {
		return
	}
	switch v.Kind() {
	case reflect.Pointer:
		if v.CanSet() {
			*out = append(*out, place{path: path, v: v})
		}
		if !v.IsNil() {
			walk(v.Elem(), path, depth+1, out)
		}
	case reflect.Struct:
		t := v.Type()
		name := t.PkgPath() + "." + t.Name()
		if strings.HasSuffix(name, "resource.Quantity") || strings.HasSuffix(name, "v1.Time") || strings.HasSuffix(name, "v1.MicroTime") || strings.HasSuffix(name, "intstr.IntOrString") || strings.HasSuffix(name, "runtime.RawExtension") {
			*out = append(*out, place{path: path, v: v})
			return
		}
		for i := range v.NumField() {
			f := t.Field(i)
			if !f.IsExported() || f.Name == "TypeMeta" || f.Name == "ManagedFields" || f.Name == "ResourceVersion" || f.Name == "UID" && path == ".ObjectMeta" || f.Name == "CreationTimestamp" || f.Name == "SelfLink" || f.Name == "DeletionTimestamp" || f.Name == "DeletionGracePeriodSeconds" || f.Name == "Generation" || f.Name == "GenerateName" {
				continue
			}
			if path == ".ObjectMeta" && (f.Name == "Namespace" || f.Name == "OwnerReferences") {
				continue
			}
			walk(v.Field(i), path+"."+f.Name, depth+1, out)
		}
	case reflect.Slice:
		*out = append(*out, place{path: path, v: v})
		if v.Type().Elem().Kind() == reflect.Uint8 {
			return
		}
		for i := range v.Len() {
			walk(v.Index(i), fmt.Sprintf("%s[%d]", path, i), depth+1, out)
		}
	default:
		if v.CanSet() {
			*out = append(*out, place{path: path, v: v})
		}
	}
}

var strs = []string{"", "a", "A_b", "foo.example.com/bar", "-bad-", "not valid!", "10.0.0.1", "fe80::1", "example.com", "TCP", "UDP", "http", "kubernetes.io/x", "always", "Always", "Never", "10.0.0.0/8", "/abs/path", "../x", "In", "Exists", "*", strings.Repeat("x", 70), strings.Repeat("y", 260), "a/b/c"}

func mutate(f *randfill.Filler, rnd *rand.Rand, p place, pool map[reflect.Type][]reflect.Value) {
	v := p.v
	switch v.Kind() {
	case reflect.String:
		if same := pool[v.Type()]; v.Type().Name() != "string" && len(same) > 0 && rnd.Intn(2) == 0 {
			v.SetString(same[rnd.Intn(len(same))].String())
			return
		}
		v.SetString(strs[rnd.Intn(len(strs))])
	case reflect.Bool:
		v.SetBool(!v.Bool())
	case reflect.Int32, reflect.Int64, reflect.Int:
		v.SetInt([]int64{-1, 0, 1, 2, 3, 80, 65536, 1 << 30}[rnd.Intn(8)])
	case reflect.Pointer, reflect.Slice, reflect.Map:
		if v.Kind() == reflect.Slice && v.Len() > 0 && rnd.Intn(3) == 0 {
			// duplicate the first
			v.Set(reflect.Append(v, v.Index(0)))
			return
		}
		if !v.IsZero() && rnd.Intn(2) == 0 {
			v.SetZero()
			return
		}
		f.Fill(v.Addr().Interface())
	default:
		f.Fill(v.Addr().Interface())
	}
}

func TestDiff(t *testing.T) {
	only := os.Getenv("ONLY")
	n := 300
	fmt.Sscan(os.Getenv("N"), &n)
	skip := strings.Split(os.Getenv("SKIP"), ",")
	all := corpus(t)
	for _, r := range api.Builtin().All() {
		if only != "" && !slices.Contains(strings.Split(only, ","), r.Key()) || slices.Contains(skip, r.Key()) {
			continue
		}
		s, ok := strategies[r.Key()]
		if !ok {
			continue
		}
		t.Run(strings.ReplaceAll(r.Key(), "/", "_"), func(t *testing.T) {
			bases := all[r.Key()]
			if len(bases) == 0 {
				t.Error("no corpus")
			}
			seen := map[string]int{}
			example := map[string]string{}
			report := func(what, path, ours, theirs string) {
				key := what + "  " + ours + theirs
				key = index.ReplaceAllString(key, "[*]")
				seen[key]++
				if seen[key] == 1 {
					example[key] = path
				}
			}
			defer func() {
				var keys []string
				for k := range seen {
					keys = append(keys, k)
				}
				sort.Strings(keys)
				for _, k := range keys {
					t.Errorf("%4d %s   (%s)", seen[k], k, example[k])
				}
			}()
			rnd := rand.New(rand.NewSource(1))
			fill := randfill.NewWithSeed(1).NilChance(.4).NumElements(1, 2).MaxDepth(8).Funcs(fillFuncs...).Funcs(
				func(s *string, c randfill.Continue) { *s = strs[rnd.Intn(len(strs))] },
			)
			for _, base := range bases {
				for i := range n {
					obj := base.DeepCopyObject().(api.Object)
					sys(obj)
					var places []place
					what := "same"
					if i > 0 {
						what = ""
						for range 1 + rnd.Intn(4)/3 {
							places = nil
							walk(reflect.ValueOf(obj).Elem(), "", 0, &places)
							p := places[rnd.Intn(len(places))]
							mutate(fill, rnd, p, nil)
							what += p.path + " "
						}
					}
					one(t, r, s, base, obj, what, report)
				}
			}
		})
	}
}

func one(t *testing.T, r *api.Resource, s strategy, base, obj api.Object, what string, report func(what, path, ours, theirs string)) {
	compare := func(kind string, a, b verdict) {
		if !slices.Equal(a.errs, b.errs) {
			extra, missing := minus(a.errs, b.errs), minus(b.errs, a.errs)
			for _, e := range extra {
				report(kind, what, "+ "+e, "")
			}
			for _, e := range missing {
				report(kind, what, "", "- "+e)
			}
			return
		}
		if len(a.errs) > 0 {
			return
		}
		if a.obj != nil && b.obj != nil && !equality.Semantic.DeepEqual(blank(a.obj), blank(b.obj)) {
			d := diff.Diff(a.obj, b.obj)
			report(kind+" object", what, "", short(d))
		}
	}
	if os.Getenv("VERBS") == "" || strings.Contains(os.Getenv("VERBS"), "create") {
		a := oursCreate(r, obj.DeepCopyObject().(api.Object))
		b := theirsCreate(r, s, obj.DeepCopyObject().(api.Object))
		compare("create", a, b)
	}
	old := base.DeepCopyObject().(api.Object)
	sys(old)
	if v := oursCreate(r, old); len(v.errs) > 0 {
		return
	}
	if old.GetGeneration() == 0 {
	}
	old.SetResourceVersion("5")
	if os.Getenv("VERBS") == "" || strings.Contains(os.Getenv("VERBS"), "update") {
		next := obj.DeepCopyObject().(api.Object)
		next.SetResourceVersion("5")
		next.SetName(old.GetName())
		next.SetGeneration(old.GetGeneration())
		next2 := next.DeepCopyObject().(api.Object)
		a := oursUpdate(r, "", next, old.DeepCopyObject().(api.Object))
		b := theirsUpdate(r, s.main, "", next2, old.DeepCopyObject().(api.Object))
		compare("update", a, b)
	}
	for sub, ss := range s.subs {
		if os.Getenv("VERBS") != "" && !strings.Contains(os.Getenv("VERBS"), sub) || !strings.Contains(what, ".Status") && sub == "status" {
			continue
		}
		next := obj.DeepCopyObject().(api.Object)
		next.SetResourceVersion("5")
		next.SetName(old.GetName())
		next.SetGeneration(old.GetGeneration())
		next2 := next.DeepCopyObject().(api.Object)
		a := oursUpdate(r, sub, next, old.DeepCopyObject().(api.Object))
		b := theirsUpdate(r, ss, sub, next2, old.DeepCopyObject().(api.Object))
		compare(sub, a, b)
	}
}

var index = regexp.MustCompile(`\[[0-9]+\]`)

func minus(a, b []string) []string {
	var out []string
	for _, x := range a {
		if !slices.Contains(b, x) {
			out = append(out, x)
		}
	}
	return out
}

func short(d string) string {
	var out []string
	for _, l := range strings.Split(d, "\n") {
		if strings.HasPrefix(l, "+") || strings.HasPrefix(l, "-") {
			out = append(out, strings.Join(strings.Fields(l), " "))
		}
	}
	s := strings.Join(out, "\n          ")
	if len(s) > 900 {
		s = s[:900]
	}
	return s
}
