package codec

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"slices"
	"strconv"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	kjson "sigs.k8s.io/json"

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
	if s.Served.Custom != nil {
		return s.Served.NewList().GetObjectKind().GroupVersionKind() // definitions choose its name
	}
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
		name += ":meta"
	}
	if c := s.Served.Custom; c != nil {
		return name + ":" + c.Edition
	}
	if s.Meta {
		return name
	}
	if s.Served.As != nil {
		return name + ":" + s.Served.As.Group + "/" + s.Served.As.Version
	}
	return name
}

// Shown is a record's object as requests for the resource see it: of the storage
// version for built-in kinds, of the row's for custom resources. It may be
// shared, and must not be changed.
func Shown(ctx context.Context, served api.Served, rec *store.Record) (api.Object, error) {
	obj, err := rec.Object()
	if err != nil || served.Custom == nil {
		return obj, err
	}
	if !foreign(served, obj) {
		return show(ctx, served, obj)
	}
	plain := Shape{Served: served, Format: JSON}
	if err := plain.Prepare(ctx, rec); err != nil {
		return nil, err
	}
	part, err := plain.Record(rec)
	if err != nil {
		return nil, err
	}
	out := served.New()
	return out, kjson.UnmarshalCaseSensitivePreserveInts(part.Body, out)
}

// foreign tells whether it takes a webhook to show the object.
func foreign(served api.Served, obj api.Object) bool {
	c := served.Custom
	return c != nil && c.Relabels && obj.GetObjectKind().GroupVersionKind() != served.GVK()
}

func show(ctx context.Context, served api.Served, obj api.Object) (api.Object, error) {
	out, err := served.Custom.Show(ctx, []api.Object{obj})
	if err != nil {
		return nil, err
	}
	return out[0], nil
}

// convertBatch is how many objects one call of a conversion webhook gets.
const convertBatch = 100

// Prepare has the webhook of a custom resource convert together what will be
// shown, while nobody waits for it but the caller; other resources need nothing.
func (s Shape) Prepare(ctx context.Context, records ...*store.Record) error {
	if s.Served.Custom == nil || !s.Served.Custom.Relabels {
		return nil
	}
	plain := Shape{Served: s.Served, Format: JSON}
	var foreigners []*store.Record
	for _, rec := range records {
		obj, err := rec.Object()
		if err != nil {
			return err
		}
		if foreign(s.Served, obj) && !rec.HasForm(plain.formName()) {
			foreigners = append(foreigners, rec)
		}
	}
	for part := range slices.Chunk(foreigners, convertBatch) {
		if err := plain.convertAll(ctx, part); err != nil {
			return err
		}
	}
	return nil
}

func (s Shape) convertAll(ctx context.Context, records []*store.Record) error {
	objs := make([]api.Object, len(records))
	for i, rec := range records {
		obj, err := rec.Object()
		if err != nil {
			return err
		}
		objs[i] = obj
	}
	shown, err := s.Served.Custom.Show(ctx, objs)
	if err != nil {
		return err
	}
	for i, rec := range records {
		if _, err := rec.Form(s.formName(), func() ([]byte, error) { return json.Marshal(shown[i]) }); err != nil {
			return err
		}
	}
	return nil
}

// Convert shows an object that Shown gave in this shape, unencoded.
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
		obj, err := s.source(rec)
		if err != nil {
			return nil, err
		}
		return s.encode(obj)
	})
	return Part{Body: body}, err
}

// source is Shown, but for the form that Shown itself may read. What a webhook
// has to do Prepare has done, unless that was forgotten since.
func (s Shape) source(rec *store.Record) (api.Object, error) {
	if s.Served.Custom != nil && s.Format == JSON && !s.Meta {
		obj, err := rec.Object()
		if err != nil {
			return nil, err
		}
		return show(context.Background(), s.Served, obj)
	}
	return Shown(context.Background(), s.Served, rec)
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
		obj, err := Shown(context.Background(), s.Served, prev)
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
