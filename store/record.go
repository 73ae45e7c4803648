package store

import (
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"

	"proa/api"
)

// Record is one object at one revision, immutable, with its encoded forms.
//
// Only the storage encoding is always in memory. The decoded object is made
// when first asked for and stays for as long as the record is current; encoded
// forms share a budget (Config.FormBytes).
type Record struct {
	key      Key
	revision uint64
	data     []byte
	by       Seal // what sealed it on disk
	shared   *shared
	object   atomic.Pointer[api.Object]
	forms    atomic.Pointer[form]
}

// shared is what every record of a store needs to unfold itself.
type shared struct {
	codec  Codec
	sealer Sealer // nil keeps values as they are
	forms  formCache
}

func (s *shared) seal(w *Write) (err error) {
	w.kept = w.Data
	if s.sealer != nil {
		w.kept, w.by, err = s.sealer.Seal(w.Key, w.Data)
	}
	return err
}

// reseal seals again what was sealed by something that has been replaced since.
// It runs in the committer, so that nothing can be replaced unnoticed between
// this and the engine: see Store.Rewrite.
func (s *shared) reseal(w *Write) error {
	if w.Object == nil || s.sealer == nil || w.by == s.sealer.Current(w.Key.Resource) {
		return nil
	}
	return s.seal(w)
}

// open makes the record of what an engine gave back.
func (s *shared) open(e Entry) (*Record, error) {
	r := &Record{key: e.Key, revision: e.Revision, data: e.Value, shared: s}
	if s.sealer == nil {
		return r, nil
	}
	var err error
	r.data, r.by, err = s.sealer.Open(e.Key, e.Value)
	return r, err
}

// Stale tells that the record's bytes on disk are sealed by something else than
// would seal them now, so that writing it again would change them.
func (r *Record) Stale() bool {
	return r.shared.sealer != nil && r.by != r.shared.sealer.Current(r.key.Resource)
}

func (r *Record) Key() Key         { return r.key }
func (r *Record) Revision() uint64 { return r.revision }

// Object returns the decoded object with its resourceVersion set; it is shared
// and must not be changed. It decodes on first use; the error is the codec's
// (data of an unknown kind, or damaged).
func (r *Record) Object() (api.Object, error) {
	if p := r.object.Load(); p != nil {
		return *p, nil
	}
	obj, err := r.decode()
	if err != nil {
		return nil, err
	}
	if r.object.CompareAndSwap(nil, &obj) {
		return obj, nil
	}
	if p := r.object.Load(); p != nil {
		return *p, nil // another goroutine was first: one object for all
	}
	return obj, nil
}

func (r *Record) decode() (api.Object, error) {
	obj, err := r.shared.codec.Decode(r.key.Resource, r.data)
	if err != nil {
		return nil, fmt.Errorf("store: cannot decode %s: %w", r.key, err)
	}
	obj.SetResourceVersion(strconv.FormatUint(r.revision, 10))
	return obj, nil
}

// Data returns the storage encoding (without resourceVersion), as the store's
// Codec made it; it must not be changed.
func (r *Record) Data() []byte { return r.data }

// Form returns the encoded form that the name stands for ("json", "v1beta1+cbor",
// ...), making it with `make` the first time anyone asks and sharing it after.
// Readers that ask at the same time wait for the one that makes it. An error is
// not kept. The bytes must not be changed.
func (r *Record) Form(name string, make func() ([]byte, error)) ([]byte, error) {
	f := r.form(name)
	if p := f.data.Load(); p != nil {
		return *p, nil
	}
	f.making.Lock()
	defer f.making.Unlock()
	if p := f.data.Load(); p != nil {
		return *p, nil
	}
	data, err := make()
	if err != nil {
		return nil, err
	}
	f.data.Store(&data)
	r.shared.forms.add(f, len(data))
	return data, nil
}

// HasForm tells whether Form would have to make nothing, at this moment.
func (r *Record) HasForm(name string) bool {
	for f := r.forms.Load(); f != nil; f = f.next {
		if f.name == name {
			return f.data.Load() != nil
		}
	}
	return false
}

// form finds the named form's place in the record's list, or adds one.
func (r *Record) form(name string) *form {
	for {
		head := r.forms.Load()
		for f := head; f != nil; f = f.next {
			if f.name == name {
				return f
			}
		}
		f := &form{name: name, next: head, slot: -1}
		if r.forms.CompareAndSwap(head, f) {
			return f
		}
	}
}

// chill drops what can be made again. It is called once a record is neither
// current nor among the newest events.
func (r *Record) chill() {
	r.object.Store(nil)
	for f := r.forms.Swap(nil); f != nil; f = f.next {
		r.shared.forms.drop(f)
	}
}

// form is one encoded form of a record; data is nil until it is made and again
// after it was evicted.
type form struct {
	name   string
	next   *form
	making sync.Mutex
	data   atomic.Pointer[[]byte]
	slot   int // in formCache.held, -1 when not there; guarded by formCache.mu
	size   int
}

// formCache bounds the memory of all forms together. Beyond the budget it
// evicts at random, which unlike any order of age keeps a fair share of the
// hits when a list is larger than the budget.
type formCache struct {
	mu     sync.Mutex
	held   []*form
	bytes  int
	budget int
	seed   uint64
}

func (c *formCache) add(f *form, size int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if f.slot < 0 {
		f.slot, f.size = len(c.held), size
		c.held = append(c.held, f)
		c.bytes += size
	}
	for c.bytes > c.budget && len(c.held) > 0 {
		c.seed = c.seed*6364136223846793005 + 1442695040888963407 // Knuth's MMIX generator
		c.remove(c.held[(c.seed>>33)%uint64(len(c.held))])
	}
}

func (c *formCache) drop(f *form) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if f.slot >= 0 {
		c.remove(f)
	}
}

func (c *formCache) remove(f *form) {
	last := c.held[len(c.held)-1]
	c.held[f.slot], last.slot = last, f.slot
	c.held[len(c.held)-1] = nil
	c.held = c.held[:len(c.held)-1]
	c.bytes -= f.size
	f.slot = -1
	f.data.Store(nil)
}
