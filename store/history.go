package store

import (
	"slices"
	"sort"
	"time"
)

// history is the newest events of one resource, in revision order. It belongs
// to a tree and is published with it: append writes only behind the end that
// any published history can see.
type history struct {
	floor  uint64 // every event after this revision is here
	events []past
	bytes  int
}

type past struct {
	Event
	at time.Time
}

// limits bound one resource's history.
type limits struct {
	age    time.Duration
	events int
	bytes  int
}

// warm is how many of a resource's newest events keep decoded and encoded forms
// of superseded records, for watchers that are nearly up to date.
const warm = 128

// cost estimates what an event keeps alive: its record and list entry, and the
// data, which nothing else holds once the record is superseded.
func (e *past) cost() int { return 320 + len(e.Record.data) }

func (h *history) append(e Event, at time.Time) {
	p := past{e, at}
	h.events = append(h.events, p)
	h.bytes += p.cost()
	if cold := len(h.events) - warm; cold > 0 {
		h.events[cold-1].chill()
	}
}

func (e *past) chill() {
	if e.Prev != nil {
		e.Prev.chill()
	}
	if e.Type == Deleted {
		e.Record.chill()
	}
}

// trim drops the oldest events beyond the limits.
func (h *history) trim(l limits, now time.Time) {
	n := 0
	for n < len(h.events) {
		e := &h.events[n]
		if len(h.events)-n <= l.events && h.bytes <= l.bytes && now.Sub(e.at) <= l.age {
			break
		}
		h.bytes -= e.cost()
		h.floor = e.Revision
		e.chill()
		n++
	}
	h.events = h.events[n:]
	if n > 0 && cap(h.events) > 2*len(h.events)+64 {
		h.events = slices.Clone(h.events) // lets go of what the dropped ones refer to
	}
}

// after returns the events later than the revision.
func (h *history) after(revision uint64) []past {
	i := sort.Search(len(h.events), func(i int) bool { return h.events[i].Revision > revision })
	return h.events[i:]
}

// undo returns t as it was at a revision, which must not be before the floor.
func (h *history) undo(t *tree, revision uint64) *tree {
	later := h.after(revision)
	if len(later) == 0 {
		return t
	}
	t = t.withoutIndexes()
	for _, e := range slices.Backward(later) {
		if e.Type == Added {
			t.remove(e.Record.key)
		} else {
			t.put(e.Prev)
		}
	}
	return t
}
