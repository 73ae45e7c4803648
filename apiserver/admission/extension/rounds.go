package extension

import (
	"k8s.io/apimachinery/pkg/api/equality"

	"proa/api"
	"proa/apiserver/admission"
)

// Rounds is what a mutating plugin knows of a request from its first round when
// it comes to the second. What is configured to be asked again is, if the object
// is then not as it left it (see
// https://kubernetes.io/docs/reference/access-authn-authz/extensible-admission-controllers/#reinvocation-policy).
type Rounds struct {
	asked map[string]bool // by id; those that want to be asked again
	again map[string]bool // those of asked after which the object changed
	last  api.Object      // what the plugin left
}

// RoundsOf begins a plugin's round.
func RoundsOf(r *admission.Request, plugin string) *Rounds {
	s, _ := r.Remembered(plugin).(*Rounds)
	if s == nil {
		s = &Rounds{asked: map[string]bool{}, again: map[string]bool{}}
		r.Remember(plugin, s)
	} else if !equality.Semantic.DeepEqual(s.last, r.Object) {
		s.Changed()
	}
	return s
}

// Changed is called when the object changed: whoever was asked before has not
// seen that.
func (s *Rounds) Changed() {
	for id := range s.asked {
		s.again[id] = true
	}
	clear(s.asked)
}

// Due tells whether to ask in this round.
func (s *Rounds) Due(r *admission.Request, id string) bool { return r.Round == 0 || s.again[id] }

// Asked notes that somebody was, whether that changed the object, and whether it
// wants to be asked again.
func (s *Rounds) Asked(id string, changed, reinvoke bool) {
	delete(s.again, id)
	if changed {
		s.Changed()
	}
	if reinvoke {
		s.asked[id] = true
	}
}

// Ended notes what the plugin leaves. A request that nobody changed has no second
// round.
func (s *Rounds) Ended(r *admission.Request) {
	if r.Changed() && r.Object != nil {
		s.last = r.Object.DeepCopyObject().(api.Object)
	}
}
