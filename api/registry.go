package api

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Registry is the set of rows that are served now: the built-in ones and those
// made of CustomResourceDefinitions. Reads are lock-free; a change replaces the
// whole table, so a reader sees one consistent set.
type Registry struct {
	mu      sync.Mutex
	table   atomic.Pointer[table]
	changed chan struct{} // made by who waits, closed by the next change
}

type table struct {
	byKey  map[string]*Resource
	byGVR  map[schema.GroupVersionResource]Served
	byGVK  map[schema.GroupVersionKind]Served
	byType map[reflect.Type]*Resource
	all    []*Resource
}

// Served is a resource at one of its versions. Version is nil when that is the
// storage version.
type Served struct {
	*Resource
	As *Version
}

// GVK is the served version's.
func (s Served) GVK() schema.GroupVersionKind {
	if s.As != nil {
		return schema.GroupVersionKind{Group: s.As.Group, Version: s.As.Version, Kind: s.As.Kind}
	}
	return s.Resource.GVK()
}

// NewRegistry returns a registry of the given rows.
func NewRegistry(rows ...*Resource) (*Registry, error) {
	r := &Registry{}
	r.table.Store(&table{})
	return r, r.Replace(nil, rows)
}

// Builtin is the table of the built-in kinds, complete after package init.
func Builtin() *Registry { return builtin() }

var builtin = sync.OnceValue(func() *Registry {
	r, err := NewRegistry(Rows()...)
	if err != nil {
		panic(err) // a wrong built-in row is a programming error
	}
	return r
})

// Replace takes rows out and puts rows in, in one step.
func (r *Registry) Replace(out, in []*Resource) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	rows := slices.DeleteFunc(slices.Clone(r.table.Load().all), func(row *Resource) bool { return slices.Contains(out, row) })
	next := &table{
		byKey:  map[string]*Resource{},
		byGVR:  map[schema.GroupVersionResource]Served{},
		byGVK:  map[schema.GroupVersionKind]Served{},
		byType: map[reflect.Type]*Resource{},
	}
	for _, row := range append(rows, in...) {
		if err := next.add(row); err != nil {
			return err
		}
	}
	slices.SortFunc(next.all, func(a, b *Resource) int { return strings.Compare(a.Key(), b.Key()) })
	r.table.Store(next)
	if r.changed != nil {
		close(r.changed)
		r.changed = nil
	}
	return nil
}

// Changed returns a channel that is closed when rows are put in or taken out
// the next time. Who follows the table takes the channel first and reads then.
func (r *Registry) Changed() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.changed == nil {
		r.changed = make(chan struct{})
	}
	return r.changed
}

func (t *table) add(row *Resource) error {
	if _, dup := t.byKey[row.Key()]; dup {
		return fmt.Errorf("api: two rows named %s", row.Key())
	}
	row.complete()
	t.byKey[row.Key()] = row
	t.all = append(t.all, row)
	for _, s := range row.served() {
		gvk := s.GVK()
		t.byGVK[gvk] = s
		t.byGVR[gvk.GroupVersion().WithResource(row.Plural)] = s
	}
	if typ := reflect.TypeOf(row.New()); row.typed() {
		t.byType[typ] = row
	}
	if row.Custom != nil {
		t.addUnserved(row)
	}
	return nil
}

// addUnserved lets objects be found a row that were stored in a version which is
// not served.
func (t *table) addUnserved(row *Resource) {
	for _, v := range row.Custom.Versions {
		gvk := schema.GroupVersionKind{Group: row.Group, Version: v, Kind: row.Kind}
		if _, served := t.byGVK[gvk]; !served {
			t.byGVK[gvk] = Served{Resource: row}
		}
	}
}

// served lists what clients see of a row.
func (r *Resource) served() []Served {
	var out []Served
	if r.Custom == nil || !r.Custom.Unserved {
		out = append(out, Served{Resource: r})
	}
	for i := range r.Versions {
		out = append(out, Served{Resource: r, As: &r.Versions[i]})
	}
	if r.Custom != nil {
		for _, sibling := range r.Custom.Siblings {
			sibling.complete()
			out = append(out, Served{Resource: sibling})
		}
	}
	return out
}

// typed tells a row with a Go type of its own from one of a custom resource.
func (r *Resource) typed() bool {
	_, un := r.New().(interface{ UnstructuredContent() map[string]any })
	return !un
}

// ByKey finds a row by Resource.Key, or nil.
func (r *Registry) ByKey(key string) *Resource { return r.table.Load().byKey[key] }

// ByGVR finds a served version.
func (r *Registry) ByGVR(gvr schema.GroupVersionResource) (Served, bool) {
	s, ok := r.table.Load().byGVR[gvr]
	return s, ok
}

// ByGVK finds a served version. A custom resource's version that is not served
// leads to the row of its storage version.
func (r *Registry) ByGVK(gvk schema.GroupVersionKind) (Served, bool) {
	s, ok := r.table.Load().byGVK[gvk]
	return s, ok
}

// ByType finds the row of a Go type (of a pointer to it), or nil.
func (r *Registry) ByType(obj Object) *Resource {
	return r.table.Load().byType[reflect.TypeOf(obj)]
}

// Of finds the row of an object: by its Go type, or by apiVersion and kind for
// an unstructured one. It returns nil for a kind that is not served.
func (r *Registry) Of(obj Object) *Resource {
	if row := r.ByType(obj); row != nil {
		return row
	}
	return r.table.Load().byGVK[obj.GetObjectKind().GroupVersionKind()].Resource
}

// All returns every row, ordered by key.
func (r *Registry) All() []*Resource { return slices.Clone(r.table.Load().all) }

// Groups returns the group versions that are served, each with its resources.
func (r *Registry) Groups() map[schema.GroupVersion][]Served {
	out := map[schema.GroupVersion][]Served{}
	for _, s := range slices.Collect(maps.Values(r.table.Load().byGVR)) {
		gv := s.GVK().GroupVersion()
		out[gv] = append(out[gv], s)
	}
	for _, list := range out {
		slices.SortFunc(list, func(a, b Served) int { return strings.Compare(a.Plural, b.Plural) })
	}
	return out
}
