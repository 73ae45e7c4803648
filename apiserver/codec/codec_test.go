package codec

import (
	"bytes"
	"encoding/binary"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"k8s.io/apimachinery/pkg/api/meta"

	"proa/api"
)

func sample(row *api.Resource) api.Object {
	obj := row.New()
	obj.GetObjectKind().SetGroupVersionKind(row.GVK())
	obj.SetName("x")
	obj.SetLabels(map[string]string{"b": "2", "a": "1"})
	obj.SetCreationTimestamp(metav1.NewTime(time.Unix(1700000000, 0)))
	return obj
}

// TestSplicing checks for every kind what the answers rely on: that metadata is
// field 1 of the object and items field 2 of the list, and that a reader merges
// the appended resourceVersion.
func TestSplicing(t *testing.T) {
	s := Storage{api.Builtin()}
	for _, row := range api.Builtin().All() {
		if _, ok := row.New().(message); !ok || row.NewList == nil {
			continue
		}
		data, err := s.Encode(row.Key(), sample(row))
		if err != nil {
			t.Fatalf("%s: %v", row.Key(), err)
		}
		raw, err := rawOf(data)
		if err != nil {
			t.Fatalf("%s: %v", row.Key(), err)
		}
		item := appendVersionField(bytes.Clone(raw), 1234567)
		obj, err := decodeRaw(api.Served{Resource: row}, item)
		if err != nil || obj.GetResourceVersion() != "1234567" || obj.GetName() != "x" || obj.GetLabels()["b"] != "2" {
			t.Errorf("%s: %v %+v", row.Key(), err, obj)
		}
		list := row.NewList()
		body := append(binary.AppendUvarint([]byte{tagItems}, uint64(len(item))), item...)
		if err := list.(unmarshaler).Unmarshal(body); err != nil {
			t.Errorf("%s: %v", row.Key(), err)
			continue
		}
		items, err := meta.ExtractList(list)
		if err != nil || len(items) != 1 {
			t.Errorf("%s: %d items, %v", row.Key(), len(items), err)
			continue
		}
		if acc, err := meta.Accessor(items[0]); err != nil || acc.GetResourceVersion() != "1234567" {
			t.Errorf("%s: an item of a list: %v", row.Key(), err)
		}
	}
}

// TestStorageRoundTrip checks that storage loses nothing and is deterministic,
// which is what tells an update that changes nothing.
func TestStorageRoundTrip(t *testing.T) {
	s := Storage{api.Builtin()}
	for _, row := range api.Builtin().All() {
		if row.NewList == nil {
			continue
		}
		obj := sample(row)
		obj.SetResourceVersion("7")
		first, err := s.Encode(row.Key(), obj)
		if err != nil {
			t.Fatalf("%s: %v", row.Key(), err)
		}
		if obj.GetResourceVersion() != "7" {
			t.Errorf("%s: Encode left the object changed", row.Key())
		}
		back, err := s.Decode(row.Key(), first)
		if err != nil {
			t.Fatalf("%s: %v", row.Key(), err)
		}
		if back.GetResourceVersion() != "" || back.GetObjectKind().GroupVersionKind() != row.GVK() {
			t.Errorf("%s: decoded as %s at %q", row.Key(), back.GetObjectKind().GroupVersionKind(), back.GetResourceVersion())
		}
		second, err := s.Encode(row.Key(), back)
		if err != nil || !bytes.Equal(first, second) {
			t.Errorf("%s: encoded twice, it differs (%v)", row.Key(), err)
		}
	}
}

// TestDamagedEnvelopes feeds cut and bent envelopes to the readers.
func TestDamagedEnvelopes(t *testing.T) {
	good, err := Storage{api.Builtin()}.Encode("configmaps", sample(api.Builtin().ByKey("configmaps")))
	if err != nil {
		t.Fatal(err)
	}
	for i := range good {
		_, _ = rawOf(good[:i]) // must not panic
		bent := bytes.Clone(good)
		bent[i] ^= 0xff
		_, _ = rawOf(bent)
		_, _, _ = splitEnvelope(bent)
	}
	if _, err := rawOf([]byte(`{"kind":"ConfigMap"}`)); err == nil {
		t.Error("JSON was taken for an envelope")
	}
}

func TestEnvelopeIsWhatTheLibraryReads(t *testing.T) {
	st := &metav1.Status{Status: "Failure", Message: "no"}
	gvk := schema.GroupVersionKind{Version: "v1", Kind: "Status"}
	st.SetGroupVersionKind(gvk)
	data, err := Marshal(Protobuf, st)
	if err != nil {
		t.Fatal(err)
	}
	var u runtime.Unknown
	if err := u.Unmarshal(data[len(magic):]); err != nil || u.GroupVersionKind() != gvk {
		t.Fatalf("%v %+v", err, u)
	}
	var back metav1.Status
	if err := back.Unmarshal(u.Raw); err != nil || back.Message != "no" {
		t.Fatalf("%v %+v", err, back)
	}
}
