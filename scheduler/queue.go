package scheduler

import (
	"container/heap"
	"time"

	"proa/client"
)

// How long a pod waits after an attempt that found no node, at least: doubled
// each time.
const (
	firstBackOff   = time.Second
	longestBackOff = 10 * time.Second
)

// entry is a pod that has no node yet.
type entry struct {
	info     *podInfo
	queued   time.Time // when it last became ready: first come, first served
	attempts int
	ready    time.Time    // end of the back-off
	why      *Explanation // of the last attempt
	local    *cycle       // to hold changed nodes against, made on demand
	state    entryState
	index    int // in its heap
}

type entryState byte

const (
	waiting  entryState = iota // until something changes that may help
	active                     // to be decided
	backing                    // to be decided once its back-off is over
	gated                      // until its scheduling gates are gone
	deciding                   // taken out to be decided
)

// queue holds the pods without a node. It has one owner and no locks.
type queue struct {
	entries map[client.Key]*entry
	active  entryHeap // by priority, then by time
	backing entryHeap // by the end of the back-off
}

func newQueue() *queue {
	return &queue{
		entries: map[client.Key]*entry{},
		active: entryHeap{less: func(a, b *entry) bool {
			if a.info.priority != b.info.priority {
				return a.info.priority > b.info.priority
			}
			return a.queued.Before(b.queued)
		}},
		backing: entryHeap{less: func(a, b *entry) bool { return a.ready.Before(b.ready) }},
	}
}

// put adds a pod or takes over its new state. A pod that changed in what it
// asks is tried again.
func (q *queue) put(p *podInfo, now time.Time) {
	e := q.entries[p.key]
	if e != nil && e.info.pod.UID != p.pod.UID {
		q.drop(p.key)
		e = nil
	}
	if e == nil {
		e = &entry{info: p}
		q.entries[p.key] = e
		q.ready(e, now)
		return
	}
	changed := asksOtherwise(e.info.pod, p.pod)
	e.info = p
	switch {
	case e.state == deciding:
	case e.state == gated || changed:
		e.local = nil
		q.ready(e, now)
	case e.state == active:
		heap.Fix(&q.active, e.index) // the priority may be another
	}
}

// ready makes a pod one to be decided, at once or after its back-off.
func (q *queue) ready(e *entry, now time.Time) {
	q.leave(e)
	switch {
	case len(e.info.pod.Spec.SchedulingGates) > 0:
		e.state = gated
	case e.ready.After(now):
		e.state = backing
		heap.Push(&q.backing, e)
	default:
		e.state, e.queued = active, now
		heap.Push(&q.active, e)
	}
}

// leave takes an entry out of the heap that it is in.
func (q *queue) leave(e *entry) {
	switch e.state {
	case active:
		heap.Remove(&q.active, e.index)
	case backing:
		heap.Remove(&q.backing, e.index)
	}
	e.state = waiting
}

func (q *queue) drop(key client.Key) *entry {
	e := q.entries[key]
	if e != nil {
		q.leave(e)
		delete(q.entries, key)
	}
	return e
}

// pop takes out the pod to be decided next, or nil. Whoever takes it drops it
// or gives it back with failed.
func (q *queue) pop() *entry {
	if q.active.Len() == 0 {
		return nil
	}
	e := heap.Pop(&q.active).(*entry)
	e.state = deciding
	e.attempts++
	return e
}

// failed lets a pod wait for a change; its back-off begins.
func (q *queue) failed(e *entry, why *Explanation, now time.Time) {
	e.state, e.why, e.local = waiting, why, nil
	e.ready = now.Add(backOff(e.attempts))
}

func backOff(attempts int) time.Duration {
	d := firstBackOff
	for i := 1; i < attempts && d < longestBackOff; i++ {
		d *= 2
	}
	return min(d, longestBackOff)
}

// due makes those pods active whose back-off is over and tells when the next
// one's will be; zero when there is none.
func (q *queue) due(now time.Time) time.Time {
	for q.backing.Len() > 0 {
		e := q.backing.list[0]
		if e.ready.After(now) {
			return e.ready
		}
		q.ready(e, now)
	}
	return time.Time{}
}

// wake makes those waiting pods ready that a change may help.
func (q *queue) wake(helps func(e *entry) bool, now time.Time) {
	for _, e := range q.entries {
		if e.state == waiting && helps(e) {
			q.ready(e, now)
		}
	}
}

// entryHeap implements heap.Interface.
type entryHeap struct {
	list []*entry
	less func(a, b *entry) bool
}

func (h *entryHeap) Len() int           { return len(h.list) }
func (h *entryHeap) Less(i, j int) bool { return h.less(h.list[i], h.list[j]) }
func (h *entryHeap) Swap(i, j int) {
	h.list[i], h.list[j] = h.list[j], h.list[i]
	h.list[i].index, h.list[j].index = i, j
}

func (h *entryHeap) Push(x any) {
	e := x.(*entry)
	e.index = len(h.list)
	h.list = append(h.list, e)
}

func (h *entryHeap) Pop() any {
	last := len(h.list) - 1
	e := h.list[last]
	h.list[last] = nil
	h.list = h.list[:last]
	return e
}
