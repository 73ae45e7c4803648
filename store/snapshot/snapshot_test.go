package snapshot

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"
	"time"

	"proa/store"
)

func sample(t testing.TB) ([]byte, Header, []File, []store.Entry) {
	t.Helper()
	h := Header{Created: time.Unix(1e9, 0).UTC(), Revision: 77, Version: "dev"}
	files := []File{{Name: "pki/ca.key", Mode: 0o600, Data: []byte("secret")}}
	var objects []store.Entry
	for i := range 500 {
		value := bytes.Repeat([]byte{byte(i)}, rand.IntN(2000))
		objects = append(objects, store.Entry{Key: store.Key{Resource: "pods", Namespace: "ns", Name: fmt.Sprint(i)}, Revision: uint64(i) * 1e9, Value: append([]byte{}, value...)})
	}
	var out bytes.Buffer
	w, err := NewWriter(&out, h)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		err = errors.Join(err, w.File(f))
	}
	for _, e := range objects {
		err = errors.Join(err, w.Object(e))
	}
	if err := errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	return out.Bytes(), h, files, objects
}

func TestRoundTrip(t *testing.T) {
	data, h, files, objects := sample(t)
	var gotHeader Header
	var gotFiles []File
	var gotObjects []store.Entry
	err := Read(bytes.NewReader(data), Handler{
		Header: func(h Header) error { gotHeader = h; return nil },
		File:   func(f File) error { gotFiles = append(gotFiles, f); return nil },
		Object: func(e store.Entry) error { gotObjects = append(gotObjects, e); return nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(gotHeader, h) || !reflect.DeepEqual(gotFiles, files) || !reflect.DeepEqual(gotObjects, objects) {
		t.Error("what was read is not what was written")
	}
}

// Every cut is noticed, and every flipped bit that changes what is read.
func TestDamage(t *testing.T) {
	data, _, _, objects := sample(t)
	for range 40 {
		cut := data[:rand.IntN(len(data))]
		if err := Read(bytes.NewReader(cut), Handler{}); !errors.Is(err, ErrDamaged) {
			t.Fatalf("cut to %d of %d bytes: %v", len(cut), len(data), err)
		}
		flipped := bytes.Clone(data)
		at := rand.IntN(len(data))
		flipped[at] ^= 1 << rand.IntN(8)
		var got []store.Entry
		err := Read(bytes.NewReader(flipped), Handler{Object: func(e store.Entry) error { got = append(got, e); return nil }})
		if err == nil && !reflect.DeepEqual(got, objects) { // some bits of the compression say nothing
			t.Fatalf("a bit of byte %d of %d is flipped, and nobody noticed", at, len(data))
		}
	}
	for _, other := range []string{"", "hello", strings.Repeat("x", 1<<20)} {
		if err := Read(strings.NewReader(other), Handler{}); !errors.Is(err, ErrDamaged) {
			t.Errorf("%.10q: %v", other, err)
		}
	}
}

func FuzzRead(f *testing.F) {
	data, _, _, _ := sample(f)
	f.Add(data)
	f.Add([]byte("proa"))
	f.Fuzz(func(t *testing.T, data []byte) { _ = Read(bytes.NewReader(data), Handler{}) })
}
