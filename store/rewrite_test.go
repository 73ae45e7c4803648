package store_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"proa/store"
	"proa/store/pebble"
)

// flipper seals by flipping every bit with the number of its current key.
type flipper struct{ key atomic.Uint32 }

func (f *flipper) flip(b []byte, by byte) []byte {
	out := make([]byte, len(b))
	for i := range b {
		out[i] = b[i] ^ by
	}
	return out
}

func (f *flipper) Seal(_ store.Key, v []byte) ([]byte, store.Seal, error) {
	by := byte(f.key.Load())
	return append([]byte{by}, f.flip(v, by)...), store.Seal(by), nil
}

func (f *flipper) Open(_ store.Key, kept []byte) ([]byte, store.Seal, error) {
	if len(kept) == 0 {
		return nil, 0, errors.New("too short")
	}
	return f.flip(kept[1:], kept[0]), store.Seal(kept[0]), nil
}

func (f *flipper) Current(string) store.Seal { return store.Seal(f.key.Load()) }

// TestRewrite replaces the key again and again while others write: after each
// Rewrite nothing on disk is sealed by an older key, and nothing is lost.
func TestRewrite(t *testing.T) {
	fs, f := vfs.NewMem(), &flipper{}
	f.key.Store(0x80)
	sealed := func(c *store.Config) { c.Sealer = f }
	s := openOn(t, fs, sealed)
	for i := range 300 {
		must(t, s, cm(fmt.Sprint("c", i), "plain value", 0))
	}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				_, err := s.Commit(context.Background(), cm(fmt.Sprint("c", (i*7+w)%300), fmt.Sprint("new ", w), store.AnyRevision))
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	for key := uint32(0x81); key < 0x90; key++ {
		f.key.Store(key)
		if _, err := s.Rewrite(t.Context()); err != nil {
			t.Fatal(err)
		}
		for r := range s.Snapshot().List(store.Scope{Resource: "configmaps"}, store.Key{}) {
			if r.Stale() {
				t.Fatalf("%s is still sealed by an older key than %#x", r.Key(), key)
			}
		}
	}
	cancel()
	wg.Wait()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	e, err := pebble.Open(pebble.Config{Dir: "data", FS: fs})
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	_, err = e.Load(t.Context(), func(e store.Entry) error {
		found++
		if e.Value[0] != 0x8f || bytes.Contains(e.Value, []byte("plain")) {
			t.Errorf("%s on disk is sealed by %#x", e.Key, e.Value[0])
		}
		return nil
	})
	if err != nil || found != 300 {
		t.Fatalf("%d records, %v", found, err)
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	if n := openOn(t, fs, sealed).Snapshot().Count(store.Scope{Resource: "configmaps"}); n != 300 {
		t.Fatalf("%d after opening again", n)
	}
}
