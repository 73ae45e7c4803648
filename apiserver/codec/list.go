package codec

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"reflect"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/yaml"

	"proa/api"
	"proa/store"
)

// WriteList writes a list answer. JSON and protobuf are written by copying the
// records' encoded forms, one after the other.
func (s Shape) WriteList(w io.Writer, m metav1.ListMeta, records []*store.Record) error {
	switch s.Format {
	case Protobuf:
		return s.writeProtobufList(w, m, records)
	case CBOR:
		return s.writeDecodedList(w, m, records)
	case YAML:
		var b bytes.Buffer
		if err := s.writeJSONList(&b, m, records); err != nil {
			return err
		}
		out, err := yaml.JSONToYAML(b.Bytes())
		if err == nil {
			_, err = w.Write(out)
		}
		return err
	}
	return s.writeJSONList(w, m, records)
}

func (s Shape) writeJSONList(w io.Writer, m metav1.ListMeta, records []*store.Record) error {
	gvk := s.ListGVK()
	head, err := json.Marshal(struct {
		metav1.TypeMeta `json:",inline"`
		metav1.ListMeta `json:"metadata"`
	}{metav1.TypeMeta{Kind: gvk.Kind, APIVersion: gvk.GroupVersion().String()}, m})
	if err != nil {
		return err
	}
	if _, err := w.Write(append(head[:len(head)-1], `,"items":[`...)); err != nil {
		return err
	}
	strip := s.itemPrefix()
	for i, rec := range records {
		part, err := s.Record(rec)
		if err != nil {
			return err
		}
		lead, body := item(strip, part.Body)
		if i == 0 {
			lead = lead[1:]
		}
		if err := writeAll(w, lead, body); err != nil {
			return err
		}
	}
	_, err = w.Write([]byte("]}\n"))
	return err
}

// itemPrefix is what an object's JSON begins with where the items of its list
// leave it out: lists of built-in kinds do not repeat kind and apiVersion.
func (s Shape) itemPrefix() string {
	obj := newOf(s.Served)
	if _, custom := obj.(*unstructured.Unstructured); custom || s.Meta {
		return ""
	}
	gvk := s.Served.GVK()
	return `{"kind":"` + gvk.Kind + `","apiVersion":"` + gvk.GroupVersion().String() + `",`
}

var leadWhole, leadCut = []byte(","), []byte(",{")

// item is an object as an item of its list, behind what comes before it there.
func item(strip string, body []byte) (lead, rest []byte) {
	if strip != "" && len(body) > len(strip) && string(body[:len(strip)]) == strip {
		return leadCut, body[len(strip):]
	}
	return leadWhole, body
}

// rawItem is the record's own message, without envelope.
func (s Shape) rawItem(rec *store.Record) (body, tail []byte, err error) {
	if s.stored() {
		if body, err = rawOf(rec.Data()); err == nil {
			return body, appendVersionField(nil, rec.Revision()), nil
		}
	}
	part, err := s.Record(rec)
	if err != nil {
		return nil, nil, err
	}
	body, err = rawOf(part.AppendTo(nil))
	return body, nil, err
}

func (s Shape) writeProtobufList(w io.Writer, m metav1.ListMeta, records []*store.Record) error {
	metaSize := m.Size()
	total := 1 + sizeUvarint(uint64(metaSize)) + metaSize
	for _, rec := range records {
		body, tail, err := s.rawItem(rec)
		if err != nil {
			return err
		}
		n := len(body) + len(tail)
		total += 1 + sizeUvarint(uint64(n)) + n
	}
	head := appendHead(nil, s.ListGVK())
	head = appendLength(head[:len(head)-1], tagUnknownRaw, total)
	head = appendLength(head, tagMetadata, metaSize)
	head, err := appendMessage(head, &m, metaSize)
	if err != nil {
		return err
	}
	if _, err := w.Write(head); err != nil {
		return err
	}
	var lead [16]byte
	for _, rec := range records {
		body, tail, err := s.rawItem(rec)
		if err != nil {
			return err
		}
		if err := writeAll(w, appendLength(lead[:0], tagItems, len(body)+len(tail)), body, tail); err != nil {
			return err
		}
	}
	return nil
}

func writeAll(w io.Writer, pieces ...[]byte) error {
	for _, p := range pieces {
		if len(p) == 0 {
			continue
		}
		if _, err := w.Write(p); err != nil {
			return err
		}
	}
	return nil
}

// writeDecodedList builds the list object and encodes it as a whole.
func (s Shape) writeDecodedList(w io.Writer, m metav1.ListMeta, records []*store.Record) error {
	objs := make([]runtime.Object, 0, len(records))
	for _, rec := range records {
		obj, err := Shown(context.Background(), s.Served, rec)
		if err != nil {
			return err
		}
		shown, err := s.Convert(obj)
		if err != nil {
			return err
		}
		objs = append(objs, shown)
	}
	list, err := s.List(m, objs)
	if err != nil {
		return err
	}
	data, err := Marshal(s.Format, list)
	if err == nil {
		_, err = w.Write(data)
	}
	return err
}

// List makes a list object of this shape.
func (s Shape) List(m metav1.ListMeta, objs []runtime.Object) (runtime.Object, error) {
	list := s.newList()
	list.GetObjectKind().SetGroupVersionKind(s.ListGVK())
	if err := meta.SetList(list, objs); err != nil {
		return nil, err
	}
	acc, err := meta.ListAccessor(list)
	if err != nil {
		return nil, err
	}
	acc.SetResourceVersion(m.ResourceVersion)
	acc.SetContinue(m.Continue)
	acc.SetRemainingItemCount(m.RemainingItemCount)
	return list, nil
}

func (s Shape) newList() runtime.Object {
	if s.Meta {
		return &metav1.PartialObjectMetadataList{}
	}
	if s.Served.As != nil {
		return s.Served.As.NewList()
	}
	return s.Served.NewList()
}

// IsCustom tells a custom resource's objects from those with a Go type.
func IsCustom(r *api.Resource) bool {
	return r.Custom != nil || reflect.TypeOf(r.New()) == reflect.TypeFor[*unstructured.Unstructured]()
}
