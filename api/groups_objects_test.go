package api

import (
	"os"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/api/equality"
)

// What people write is taken: one object of each kind, created, written again
// unchanged, and its status written. Every kind beside core must be there.
func TestOrdinaryObjectsAreTaken(t *testing.T) {
	text, err := os.ReadFile("testdata/groups.yaml")
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, doc := range strings.Split(string(text), "\n---\n") {
		r, obj := read(t, doc)
		seen[r.Key()] = true
		t.Run(r.Key(), func(t *testing.T) { takes(t, r, obj) })
	}
	for _, r := range Builtin().All() {
		if reviewed := len(r.Verbs) == 1; r.Group != "" && !reviewed && !seen[r.Key()] {
			t.Errorf("testdata/groups.yaml has no object of %s", r.Key())
		}
	}
}

func takes(t *testing.T, r *Resource, obj Object) {
	if errs := r.Validate(obj); len(errs) > 0 {
		t.Fatalf("create: %v", errs.ToAggregate())
	}
	obj.SetResourceVersion("1")
	again := obj.DeepCopyObject().(Object)
	r.PrepareUpdate(again, obj)
	if errs := append(r.Validate(again), r.ValidateUpdate(again, obj)...); len(errs) > 0 {
		t.Errorf("update: %v", errs.ToAggregate())
	}
	if !equality.Semantic.DeepEqual(again, obj) {
		t.Errorf("an update that changes nothing changes something:\n%v\n%v", obj, again)
	}
	for _, s := range r.Subresources {
		if s.PrepareUpdate == nil {
			continue
		}
		again := obj.DeepCopyObject().(Object)
		s.PrepareUpdate(again, obj)
		if errs := s.ValidateUpdate(again, obj); len(errs) > 0 {
			t.Errorf("%s: %v", s.Name, errs.ToAggregate())
		}
	}
}
