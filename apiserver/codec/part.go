package codec

import (
	"encoding/binary"
	"encoding/json"
	"strconv"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"proa/api"
	"proa/store"
)

// Part is an encoded object in pieces. Body is shared with other readers and
// must not be changed.
type Part struct{ Head, Body, Tail []byte }

func (p Part) Len() int { return len(p.Head) + len(p.Body) + len(p.Tail) }

// AppendTo appends the pieces.
func (p Part) AppendTo(dst []byte) []byte {
	return append(append(append(dst, p.Head...), p.Body...), p.Tail...)
}

func appendLength(dst []byte, tag byte, n int) []byte {
	return binary.AppendUvarint(append(dst, tag), uint64(n))
}

// Shape is how a client wants to see the objects of one served resource.
type Shape struct {
	Served api.Served
	Format Format
	// Meta asks for PartialObjectMetadata.
	Meta bool
}

var (
	metaKind     = metav1.SchemeGroupVersion.WithKind("PartialObjectMetadata")
	metaListKind = metav1.SchemeGroupVersion.WithKind("PartialObjectMetadataList")
)

// GVK is the kind that the client gets.
func (s Shape) GVK() schema.GroupVersionKind {
	if s.Meta {
		return metaKind
	}
	return s.Served.GVK()
}

// ListGVK is the kind of a list of them.
func (s Shape) ListGVK() schema.GroupVersionKind {
	if s.Meta {
		return metaListKind
	}
	gvk := s.Served.GVK()
	gvk.Kind += "List"
	return gvk
}

// stored tells whether the record's storage bytes are the answer's.
func (s Shape) stored() bool { return s.Format == Protobuf && !s.Meta && s.Served.As == nil }

// formName names the cached form of a record.
func (s Shape) formName() string {
	name := "json"
	switch s.Format {
	case Protobuf:
		name = "pb"
	case CBOR:
		name = "cbor"
	}
	if s.Meta {
		return name + ":meta"
	}
	if s.Served.As != nil {
		return name + ":" + s.Served.As.Group + "/" + s.Served.As.Version
	}
	return name
}

// Convert shows a storage object in this shape, unencoded.
func (s Shape) Convert(obj api.Object) (api.Object, error) {
	if s.Meta {
		return partial(obj), nil
	}
	return FromStorage(s.Served, obj)
}

func partial(obj api.Object) *metav1.PartialObjectMetadata {
	out := &metav1.PartialObjectMetadata{ObjectMeta: objectMeta(obj)}
	out.SetGroupVersionKind(metaKind)
	return out
}

func objectMeta(obj api.Object) (m metav1.ObjectMeta) {
	if acc, ok := obj.(metav1.ObjectMetaAccessor); ok {
		if om, ok := acc.GetObjectMeta().(*metav1.ObjectMeta); ok {
			return *om
		}
	}
	if u, ok := obj.(*unstructured.Unstructured); ok {
		meta, _, _ := unstructured.NestedMap(u.Object, "metadata")
		_ = runtime.DefaultUnstructuredConverter.FromUnstructured(meta, &m)
	}
	return m
}

// Record returns the encoded record as a whole answer's object.
func (s Shape) Record(rec *store.Record) (Part, error) {
	if s.stored() {
		raw, err := rawOf(rec.Data())
		if err == nil {
			return s.envelope(raw, rec.Revision()), nil
		}
	}
	body, err := rec.Form(s.formName(), func() ([]byte, error) {
		obj, err := rec.Object()
		if err != nil {
			return nil, err
		}
		return s.encode(obj)
	})
	return Part{Body: body}, err
}

func (s Shape) envelope(raw []byte, revision uint64) Part {
	tail := appendVersionField(nil, revision)
	head := binary.AppendUvarint(appendHead(make([]byte, 0, 64), s.Served.GVK()), uint64(len(raw)+len(tail)))
	return Part{Head: head, Body: raw, Tail: tail}
}

// Object returns any storage object encoded, without a cache.
func (s Shape) Object(obj api.Object) (Part, error) {
	body, err := s.encode(obj)
	return Part{Body: body}, err
}

// Left is the record's previous state at the record's revision: what a watch
// shows when an object leaves its selector. It is kept with the newer record.
func (s Shape) Left(prev, rec *store.Record) (Part, error) {
	body, err := rec.Form("left:"+s.formName(), func() ([]byte, error) {
		obj, err := prev.Object()
		if err != nil {
			return nil, err
		}
		obj = obj.DeepCopyObject().(api.Object)
		obj.SetResourceVersion(strconv.FormatUint(rec.Revision(), 10))
		return s.encode(obj)
	})
	return Part{Body: body}, err
}

func (s Shape) encode(obj api.Object) ([]byte, error) {
	shown, err := s.Convert(obj)
	if err != nil {
		return nil, err
	}
	switch s.Format {
	case Protobuf, CBOR:
		return Marshal(s.Format, shown)
	}
	return json.Marshal(shown)
}
