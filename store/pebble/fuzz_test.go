package pebble

import (
	"bytes"
	"testing"

	"proa/store"
)

// FuzzValue reads made-up records: none is taken that was not written so.
func FuzzValue(f *testing.F) {
	key := appendKey(nil, store.Key{Resource: "pods", Namespace: "a", Name: "b"})
	f.Add(key, stamp(nil, key, 7, []byte("value")))
	f.Add([]byte{}, []byte{})
	f.Add([]byte("o\x00\x00"), []byte("0123456789ab"))
	f.Fuzz(func(t *testing.T, key, value []byte) {
		e, err := decode(key, value)
		if err != nil {
			return
		}
		if again := stamp(nil, key, e.Revision, e.Value); !bytes.Equal(again, value) {
			t.Errorf("%q of %q became %q", value, key, again)
		}
	})
}

// FuzzPast reads made-up histories, behind the checksum that the file has: what
// cannot be one is an error, and takes no more memory than the file.
func FuzzPast(f *testing.F) {
	key := store.Key{Resource: "pods", Namespace: "a", Name: "b"}
	entry := store.Entry{Key: key, Revision: 5, Value: []byte("five")}
	p := store.Past{Start: 3, Floors: map[string]uint64{"pods": 2}, Changes: []store.Change{{Entry: entry, Before: &store.Entry{Key: key, Revision: 4, Value: []byte("four")}},
		{Entry: store.Entry{Key: key, Revision: 6}}}}
	text := encodePast(p, 6)
	f.Add(text[len(pastLine) : len(text)-4])
	f.Add([]byte{1, 2, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f})
	f.Fuzz(func(t *testing.T, content []byte) {
		d := &pastDecoder{rest: content}
		d.number()
		got := d.past()
		if d.err == nil && len(got.Floors)+len(got.Changes) > len(content) {
			t.Errorf("%d floors and %d changes in %d bytes", len(got.Floors), len(got.Changes), len(content))
		}
	})
}

// FuzzLog looks for damage in made-up logs.
func FuzzLog(f *testing.F) {
	f.Add([]byte{}, uint32(1))
	f.Add(bytes.Repeat([]byte{1, 2, 3, 4, 11, 0, 6}, 10_000), uint32(1))
	chunk := append([]byte{0, 0, 0, 0, 4, 0, 5, 1, 0, 0, 0}, "data"...)
	f.Add(chunk, uint32(1))
	f.Fuzz(func(t *testing.T, text []byte, number uint32) {
		first := checkLog(bytes.NewReader(text), number)
		if second := checkLog(bytes.NewReader(text), number); (first == nil) != (second == nil) {
			t.Errorf("%v, then %v", first, second)
		}
	})
}
