package store

import (
	"iter"
	"sync"

	"github.com/tidwall/btree"

	"proa/api"
)

// world is everything at one revision. Published worlds never change.
type world struct {
	view
	trees *btree.Map[string, *tree]
}

// view reads trees at one revision; it is the Snapshot of a world and of a past.
type view struct {
	revision uint64
	tree     func(resource string) *tree // nil where there is none
}

func newWorld(revision uint64, trees *btree.Map[string, *tree]) *world {
	w := &world{trees: trees}
	w.view = view{revision: revision, tree: func(resource string) *tree {
		t, _ := trees.Get(resource)
		return t
	}}
	return w
}

func (v *view) Revision() uint64 { return v.revision }

func (v *view) Get(k Key) *Record {
	if t := v.tree(k.Resource); t != nil {
		return t.get(k)
	}
	return nil
}

func (v *view) List(s Scope, after Key) iter.Seq[*Record] {
	if t := v.tree(s.Resource); t != nil {
		return t.list(s, after)
	}
	return nothing
}

func (v *view) Count(s Scope) int {
	if t := v.tree(s.Resource); t != nil {
		return t.count(s)
	}
	return 0
}

func (v *view) Index(resource, index, value string) iter.Seq[*Record] {
	if t := v.tree(resource); t != nil {
		return t.find(index, value)
	}
	return nothing
}

func (v *view) Only(resources ...string) Snapshot {
	kept := make(map[string]*tree, len(resources))
	for _, r := range resources {
		kept[r] = v.tree(r)
	}
	return &view{revision: v.revision, tree: func(resource string) *tree { return kept[resource] }}
}

func nothing(func(*Record) bool) {}

// stage is the next world while it is made: forks of the trees that the batch
// touches, what the engine must write, and what watchers will see.
type stage struct {
	base     *world
	revision uint64
	touched  map[string]*tree
	registry *api.Registry
	floor    uint64 // history of a resource that is new starts here
	entries  []Entry
	events   []Event
	bytes    int
}

func (s *stage) get(k Key) *Record {
	if t := s.touched[k.Resource]; t != nil {
		return t.get(k)
	}
	return s.base.Get(k)
}

// own returns a tree that may be changed.
func (s *stage) own(resource string) *tree {
	t := s.touched[resource]
	if t == nil {
		if old := s.base.tree(resource); old != nil {
			t = old.fork()
		} else {
			t = newTree(s.registry.ByKey(resource), s.floor)
		}
		s.touched[resource] = t
	}
	return t
}

// world returns the finished stage.
func (s *stage) world() *world {
	trees := *s.base.trees
	next := trees.IsoCopy()
	for resource, t := range s.touched {
		next.Set(resource, t)
	}
	return newWorld(s.revision, next)
}

// newPast is the world as it was at a revision: the trees of base with the
// events after it undone, each when it is first asked for.
func newPast(base *world, revision uint64, allowed func(resource string) bool) *view {
	var mu sync.Mutex
	undone := map[string]*tree{}
	return &view{revision: revision, tree: func(resource string) *tree {
		t := base.tree(resource)
		if t == nil || !allowed(resource) {
			return nil
		}
		mu.Lock()
		defer mu.Unlock()
		if undone[resource] == nil {
			undone[resource] = t.history.undo(t, revision)
		}
		return undone[resource]
	}}
}
