package openapi

import (
	"encoding/json"
	"strings"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/kube-openapi/pkg/validation/spec"

	"proa/api"
)

// Schemas reads single schemas of the kinds that a registry serves. It holds all
// definitions as text, 1 MB, so nobody keeps one for long.
type Schemas struct {
	reg  *api.Registry
	defs map[string]definition
	read map[string]*spec.Schema
}

// ReadSchemas unpacks the definitions.
func ReadSchemas(reg *api.Registry) (*Schemas, error) {
	defs, err := unpack()
	return &Schemas{reg, defs, map[string]*spec.Schema{}}, err
}

// Ref is the reference to a served kind's schema; false where there is none.
func (s *Schemas) Ref(gvk schema.GroupVersionKind) (string, bool) {
	served, ok := s.reg.ByGVK(gvk)
	if !ok {
		return "", false
	}
	name := nameOf(served)
	if served.Schema != nil {
		own, err := customSchema(served.Schema(gvk.Version))
		if err != nil {
			return "", false
		}
		s.defs[name] = own
	}
	_, ok = s.defs[name]
	return refTo + name, ok
}

const refTo = "#/components/schemas/"

// Of reads the schema that a reference names; what it refers to is still named by
// references.
func (s *Schemas) Of(ref string) (*spec.Schema, bool) {
	name := strings.TrimPrefix(ref, refTo)
	if out, ok := s.read[name]; ok {
		return out, true
	}
	def, ok := s.defs[name]
	if !ok {
		return nil, false
	}
	out := &spec.Schema{}
	if err := json.Unmarshal([]byte(def.v3), out); err != nil {
		return nil, false
	}
	s.read[name] = out
	return out, true
}
