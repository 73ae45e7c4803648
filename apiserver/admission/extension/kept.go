package extension

import (
	"sync"

	"proa/api"
	"proa/store"
)

// Kept holds what was compiled from the configurations of one kind, for as long
// as they stay at the revision that it was compiled from.
type Kept[T any] struct {
	// Compile makes it; it is called once for a revision.
	Compile func(obj api.Object) T

	mu   sync.Mutex
	byID map[store.Key]*one[T]
}

type one[T any] struct {
	revision uint64
	once     sync.Once
	value    T
}

// Of returns what belongs to the record; false for one that cannot be read.
func (k *Kept[T]) Of(rec *store.Record) (none T, ok bool) {
	obj, err := rec.Object()
	if err != nil {
		return none, false
	}
	o := k.slot(rec)
	o.once.Do(func() { o.value = k.Compile(obj) })
	return o.value, true
}

// slot is the place of a record's revision. A reader of an older world, which may
// come after one of a newer, does not push the newer out.
func (k *Kept[T]) slot(rec *store.Record) *one[T] {
	k.mu.Lock()
	defer k.mu.Unlock()
	o := k.byID[rec.Key()]
	if o != nil && o.revision == rec.Revision() {
		return o
	}
	fresh := &one[T]{revision: rec.Revision()}
	if o == nil || o.revision < fresh.revision {
		if k.byID == nil {
			k.byID = map[store.Key]*one[T]{}
		}
		k.byID[rec.Key()] = fresh
	}
	return fresh
}

// trim forgets all when much of it is of configurations that are gone; there are
// now as many as n.
func (k *Kept[T]) trim(n int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.byID) > 2*n+16 {
		k.byID = nil
	}
}
