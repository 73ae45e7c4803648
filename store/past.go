package store

import (
	"cmp"
	"context"
	"slices"
	"time"
)

// Past is what changed before a store was opened, as far as its engine knows.
type Past struct {
	// Start is the revision that nothing here goes back before.
	Start uint64
	// Floors are the revisions from which on a resource's changes are all here,
	// where that is not Start.
	Floors map[string]uint64
	// Changes are in the order of their revisions.
	Changes []Change
	// Saved tells that the next start would find all this again.
	Saved bool
}

// Change is an entry and what its key held before: nil for nothing, or where an
// earlier change of the same key tells.
type Change struct {
	Entry
	Before *Entry
}

// Historian is an Engine that brings the past back, so that clients go on with
// their watches over a restart.
type Historian interface {
	// Past tells what led to the revision that Load returned. It is empty, with
	// a Start of 0, where nothing is known.
	Past(ctx context.Context, newest uint64) (Past, error)
	// Remember has Past tell this at the next start, if no write follows. Its
	// values are as the engine keeps them.
	Remember(Past) error
}

// remember hands the histories to the engine. Failing means that clients list
// again after the next start, which is no reason to fail.
func (s *Store) remember() {
	h, ok := s.engine.(Historian)
	if !ok || s.Err() != nil {
		return
	}
	past, err := s.past()
	if err == nil {
		err = h.Remember(past)
	}
	if err != nil {
		s.log.Warn("the history of changes is lost over the restart: clients list again", "error", err)
	}
}

// past is what all histories hold.
func (s *Store) past() (p Past, err error) {
	w := s.world.Load()
	p = Past{Start: s.start.Load(), Floors: map[string]uint64{}}
	w.trees.Scan(func(resource string, t *tree) bool {
		if t.history.floor != p.Start {
			p.Floors[resource] = t.history.floor
		}
		err = s.changes(t, &p)
		return err == nil
	})
	sortChanges(p.Changes)
	return p, err
}

func (s *Store) changes(t *tree, p *Past) error {
	seen := map[Key]bool{}
	for i := range t.history.events {
		ev := &t.history.events[i]
		c := Change{Entry: Entry{Key: ev.Record.key, Revision: ev.Revision}}
		var err error
		if ev.Type != Deleted {
			if c.Value, err = s.shared.keep(ev.Record); err != nil {
				return err
			}
		}
		if ev.Prev != nil && !seen[c.Key] {
			c.Before = &Entry{Key: c.Key, Revision: ev.Prev.revision}
			if c.Before.Value, err = s.shared.keep(ev.Prev); err != nil {
				return err
			}
		}
		seen[c.Key] = true
		p.Changes = append(p.Changes, c)
	}
	return nil
}

// keep is a record's data as the engine keeps it.
func (s *shared) keep(r *Record) (data []byte, err error) {
	if data = r.data; s.sealer != nil {
		data, _, err = s.sealer.Seal(r.key, r.data)
	}
	return data, err
}

// recall makes histories of the past that the engine knows. A resource whose
// past cannot be read, because its key is gone say, begins with what is there.
func (s *Store) recall(trees map[string]*tree, newest uint64) (saved bool, err error) {
	h, ok := s.engine.(Historian)
	if !ok {
		return true, nil
	}
	p, err := h.Past(context.Background(), newest)
	if err != nil || p.Start == 0 {
		return true, err
	}
	s.start.Store(p.Start)
	for resource, t := range trees {
		t.history.floor = p.floor(resource)
	}
	now, last := time.Now(), map[Key]*Record{}
	for i := range p.Changes {
		c := &p.Changes[i]
		t := trees[c.Key.Resource]
		if t == nil {
			t = newTree(s.registry.ByKey(c.Key.Resource), p.floor(c.Key.Resource))
			trees[c.Key.Resource] = t
		}
		if e, ok := s.recalled(t, c, last); ok {
			t.history.append(e, now)
		} else {
			t.history = history{floor: c.Revision}
		}
	}
	for _, t := range trees {
		t.history.trim(s.limits, now)
	}
	return p.Saved, nil
}

func (p *Past) floor(resource string) uint64 {
	if f, ok := p.Floors[resource]; ok {
		return f
	}
	return p.Start
}

// recalled makes the event of a change. last holds what each key held after the
// changes so far.
func (s *Store) recalled(t *tree, c *Change, last map[Key]*Record) (Event, bool) {
	prev, ok := last[c.Key]
	if !ok && c.Before != nil {
		r, err := s.shared.open(*c.Before)
		if err != nil {
			return Event{}, false
		}
		prev = r
	}
	e := Event{Type: Modified, Revision: c.Revision, Prev: prev}
	switch now := t.get(c.Key); {
	case c.Value == nil && prev == nil:
		return Event{}, false
	case c.Value == nil:
		e.Type, e.Record = Deleted, &Record{key: c.Key, revision: c.Revision, data: prev.data, by: prev.by, shared: s.shared}
		last[c.Key] = nil
		return e, true
	case now != nil && now.revision == c.Revision:
		e.Record = now
	default:
		r, err := s.shared.open(c.Entry)
		if err != nil {
			return Event{}, false
		}
		e.Record = r
	}
	if prev == nil {
		e.Type = Added
	}
	last[c.Key] = e.Record
	return e, true
}

func sortChanges(changes []Change) {
	slices.SortFunc(changes, func(a, b Change) int { return cmp.Compare(a.Revision, b.Revision) })
}
