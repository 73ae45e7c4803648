package store

import (
	"iter"
	"slices"
	"strings"

	"github.com/tidwall/btree"

	"proa/api"
)

// tree is one resource: its records in key order, the number of them in each
// namespace, its indexes, and the events that led here. A published tree never
// changes; the committer forks it, changes the fork and publishes that.
type tree struct {
	row     *api.Resource // nil while nobody serves the resource
	records *btree.BTreeG[*Record]
	counts  *btree.Map[string, int]
	indexes []index
	history history
}

// index files records under the values that a row's function gives. In a past
// world, which is seldom asked by index, entries is nil and find scans.
type index struct {
	name    string
	values  func(api.Object) []string
	entries *btree.BTreeG[indexed]
}

type indexed struct {
	value  string
	record *Record
}

func newTree(row *api.Resource, floor uint64) *tree {
	t := &tree{row: row, counts: &btree.Map[string, int]{}, history: history{floor: floor}}
	t.records = btree.NewBTreeGOptions(func(a, b *Record) bool { return a.key.Compare(b.key) < 0 }, btree.Options{NoLocks: true})
	t.indexes = emptyIndexes(row)
	return t
}

func emptyIndexes(row *api.Resource) []index {
	if row == nil {
		return nil
	}
	var out []index
	for name, values := range row.Indexes {
		out = append(out, index{name: name, values: values,
			entries: btree.NewBTreeGOptions(indexed.less, btree.Options{NoLocks: true})})
	}
	return out
}

func (a indexed) less(b indexed) bool {
	if c := strings.Compare(a.value, b.value); c != 0 {
		return c < 0
	}
	return a.record.key.Compare(b.record.key) < 0
}

// fork returns a copy that may be changed without t noticing. It only reads t:
// btree's own Copy would mark the original, which readers share.
func (t *tree) fork() *tree {
	n := *t
	records, counts := *t.records, *t.counts
	n.records, n.counts = records.IsoCopy(), counts.IsoCopy()
	n.indexes = make([]index, len(t.indexes))
	for i, x := range t.indexes {
		entries := *x.entries
		n.indexes[i] = index{x.name, x.values, entries.IsoCopy()}
	}
	return &n
}

func (t *tree) get(k Key) *Record {
	r, _ := t.records.Get(&Record{key: k})
	return r
}

// put replaces the record of r's key and returns the one before.
func (t *tree) put(r *Record) *Record {
	prev, replaced := t.records.Set(r)
	if !replaced {
		prev = nil
		n, _ := t.counts.Get(r.key.Namespace)
		t.counts.Set(r.key.Namespace, n+1)
	}
	t.reindex(prev, r)
	return prev
}

func (t *tree) remove(k Key) *Record {
	prev, found := t.records.Delete(&Record{key: k})
	if !found {
		return nil
	}
	if n, _ := t.counts.Get(k.Namespace); n > 1 {
		t.counts.Set(k.Namespace, n-1)
	} else {
		t.counts.Delete(k.Namespace)
	}
	t.reindex(prev, nil)
	return prev
}

// reindex moves a key from where prev was filed to where next belongs; either
// may be nil.
func (t *tree) reindex(prev, next *Record) {
	if len(t.indexes) == 0 || t.indexes[0].entries == nil {
		return
	}
	before, after := indexable(prev), indexable(next)
	for i := range t.indexes {
		x := &t.indexes[i]
		if before != nil {
			for _, v := range x.values(before) {
				x.entries.Delete(indexed{v, prev})
			}
		}
		if after != nil {
			for _, v := range x.values(after) {
				x.entries.Set(indexed{v, next})
			}
		}
	}
}

// indexable decodes without keeping what it decoded: at start most objects are
// never asked for again. What cannot be decoded is in no index.
func indexable(r *Record) api.Object {
	if r == nil {
		return nil
	}
	if p := r.object.Load(); p != nil {
		return *p
	}
	obj, err := r.decode()
	if err != nil {
		return nil
	}
	return obj
}

// list yields the records of a scope that come after a key.
func (t *tree) list(s Scope, after Key) iter.Seq[*Record] {
	return func(yield func(*Record) bool) {
		from := Key{Resource: s.Resource, Namespace: s.Namespace, Name: s.Name}
		if s.Namespace == "" {
			from.Name = ""
		}
		after.Resource = s.Resource
		skip := after.Namespace != "" || after.Name != ""
		if skip && after.Compare(from) > 0 {
			from = after
		}
		t.records.Ascend(&Record{key: from}, func(r *Record) bool {
			switch {
			case s.Namespace != "" && r.key.Namespace != s.Namespace:
				return false
			case s.Namespace != "" && s.Name != "" && r.key.Name != s.Name:
				return false
			case s.Name != "" && r.key.Name != s.Name, skip && r.key.Compare(after) <= 0:
				return true
			}
			return yield(r)
		})
	}
}

func (t *tree) count(s Scope) int {
	switch {
	case s.Name != "":
		n := 0
		for range t.list(s, Key{}) {
			n++
		}
		return n
	case s.Namespace != "":
		n, _ := t.counts.Get(s.Namespace)
		return n
	}
	return t.records.Len()
}

func (t *tree) find(name, value string) iter.Seq[*Record] {
	return func(yield func(*Record) bool) {
		for _, x := range t.indexes {
			switch {
			case x.name != name:
			case x.entries == nil:
				t.records.Scan(func(r *Record) bool {
					obj := indexable(r)
					return obj == nil || !slices.Contains(x.values(obj), value) || yield(r)
				})
			default:
				x.entries.Ascend(indexed{value, &Record{}}, func(e indexed) bool {
					return e.value == value && yield(e.record)
				})
			}
		}
	}
}

// withoutIndexes returns a fork whose indexes are answered by scanning.
func (t *tree) withoutIndexes() *tree {
	n := t.fork()
	for i := range n.indexes {
		n.indexes[i].entries = nil
	}
	return n
}
