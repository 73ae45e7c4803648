package api

import (
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/diff"
	"k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/randfill"
)

// Every row agrees with client-go's table of types about what it is.
func TestRowsMatchScheme(t *testing.T) {
	for _, r := range Rows() {
		t.Run(r.Key(), func(t *testing.T) {
			known, err := scheme.Scheme.New(r.GVK())
			if err != nil {
				t.Skip("not in client-go's scheme: ", err)
			}
			if reflect.TypeOf(known) != reflect.TypeOf(r.New()) {
				t.Errorf("New makes %T, the scheme %T", r.New(), known)
			}
			if r.NewList == nil {
				return
			}
			list, err := scheme.Scheme.New(r.GVK().GroupVersion().WithKind(r.Kind + "List"))
			if err != nil {
				t.Fatal(err)
			}
			if reflect.TypeOf(list) != reflect.TypeOf(r.NewList()) {
				t.Errorf("NewList makes %T, the scheme %T", r.NewList(), list)
			}
			if _, err := meta.ExtractList(r.NewList()); err != nil {
				t.Error(err)
			}
		})
	}
}

// Every row is whole: names, a cell for each column, verbs that exist,
// versions that convert.
func TestRowsComplete(t *testing.T) {
	known := append(slices.Clone(StandardVerbs), "create")
	for _, r := range Builtin().All() {
		t.Run(r.Key(), func(t *testing.T) {
			if r.Plural != strings.ToLower(r.Plural) || r.Singular != strings.ToLower(r.Kind) {
				t.Errorf("names: plural %q, singular %q", r.Plural, r.Singular)
			}
			if guess, _ := meta.UnsafeGuessKindToResource(r.GVK()); guess.Resource != r.Plural && r.Kind != "Endpoints" {
				t.Errorf("plural %q is not the usual %q", r.Plural, guess.Resource)
			}
			if cells := r.Cells(r.New(), time.Now()); len(cells) != len(r.Columns) {
				t.Errorf("%d cells for %d columns", len(cells), len(r.Columns))
			}
			for _, v := range r.Verbs {
				if !slices.Contains(known, v) {
					t.Errorf("verb %q", v)
				}
			}
			for _, s := range r.Subresources {
				if len(s.Verbs) == 0 {
					t.Errorf("subresource %s has no verbs", s.Name)
				}
			}
			for _, v := range r.Versions {
				roundTrip(t, r, v)
			}
		})
	}
}

func roundTrip(t *testing.T, r *Resource, v Version) {
	if r.Plural == "horizontalpodautoscalers" {
		return // v1 has no room for random metrics that mean nothing; see its own test
	}
	fill := filler()
	for range 20 {
		obj := r.New()
		fill.Fill(obj)
		r.Default(obj)
		there, err := v.FromStorage(obj.DeepCopyObject().(Object))
		if err != nil {
			t.Fatal(err)
		}
		back, err := v.ToStorage(there)
		if err != nil {
			t.Fatal(err)
		}
		blank(obj)
		blank(back)
		if !equality.Semantic.DeepEqual(obj, back) {
			t.Fatalf("%s/%s loses something:\n%s", v.Group, v.Version, diff.Diff(obj, back))
		}
	}
}

func blank(obj runtime.Object) { obj.GetObjectKind().SetGroupVersionKind(schema.GroupVersionKind{}) }

// Defaults put in once are there for good: doing it again changes nothing.
func TestDefaultsIdempotent(t *testing.T) {
	fill := filler()
	for _, r := range Builtin().All() {
		if r.Default == nil {
			continue
		}
		t.Run(r.Key(), func(t *testing.T) {
			for range 50 {
				obj := r.New()
				fill.Fill(obj)
				r.Default(obj)
				again := obj.DeepCopyObject().(Object)
				r.Default(again)
				if !equality.Semantic.DeepEqual(obj, again) {
					t.Fatalf("defaults changed their own work:\n%s", diff.Diff(obj, again))
				}
			}
		})
	}
}

// Whatever is thrown at them, rows answer: no panic, and an update that changes
// nothing keeps the generation.
func TestRowsSurviveAnything(t *testing.T) {
	fill := filler()
	for _, r := range Builtin().All() {
		t.Run(r.Key(), func(t *testing.T) {
			for range 50 {
				obj, old := r.New(), r.New()
				fill.Fill(obj)
				fill.Fill(old)
				exercise(t, r, obj, old)
			}
		})
	}
}

func exercise(t *testing.T, r *Resource, obj, old Object) {
	t.Helper()
	if r.PrepareCreate != nil {
		r.PrepareCreate(old)
	}
	before := old.DeepCopyObject()
	r.Cells(obj, time.Now())
	if r.Validate != nil {
		r.Validate(obj)
	}
	same := old.DeepCopyObject().(Object)
	if r.PrepareUpdate != nil {
		r.PrepareUpdate(same, old)
		if same.GetGeneration() != old.GetGeneration() {
			t.Errorf("generation %d to %d without a change", old.GetGeneration(), same.GetGeneration())
		}
		r.PrepareUpdate(obj, old)
	}
	if r.ValidateUpdate != nil {
		r.ValidateUpdate(obj, old)
	}
	for _, s := range r.Subresources {
		if s.PrepareUpdate != nil {
			s.PrepareUpdate(obj, old)
		}
		if s.ValidateUpdate != nil {
			s.ValidateUpdate(obj, old)
		}
	}
	if r.Graceful != nil {
		r.Graceful(obj, nil)
	}
	if !equality.Semantic.DeepEqual(before, old) {
		t.Errorf("the stored object was changed")
	}
}

func filler() *randfill.Filler {
	return randfill.NewWithSeed(1).NilChance(.3).NumElements(0, 2).MaxDepth(12).Funcs(fillFuncs...)
}
