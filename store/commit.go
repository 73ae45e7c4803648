package store

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// job is one transaction (or a reindexing) on its way through the committer.
type job struct {
	writes  []Write
	reindex string
	records []*Record
	err     error
	taken   atomic.Bool // by the committer, or by the caller who gave up
	done    chan struct{}
}

// batchLimit bounds what one sync carries, so that no transaction waits long
// behind others.
const (
	batchJobs  = 1024
	batchBytes = 2 << 20
)

func (s *Store) Commit(ctx context.Context, writes ...Write) ([]*Record, error) {
	if len(writes) == 0 {
		return nil, nil
	}
	if err := s.prepare(writes); err != nil {
		return nil, err
	}
	if s.remote != nil {
		return s.submitRemote(ctx, writes)
	}
	j := &job{writes: writes, done: make(chan struct{})}
	err := s.submit(ctx, j)
	return j.records, err
}

func (s *Store) Reindex(ctx context.Context, resource string) error {
	if s.remote != nil {
		return s.reindexHere(resource)
	}
	return s.submit(ctx, &job{reindex: resource, done: make(chan struct{})})
}

// prepare encodes in the caller's goroutine: the committer's time is everybody's.
func (s *Store) prepare(writes []Write) error {
	for i := range writes {
		w := &writes[i]
		if err := checkKey(w.Key); err != nil {
			return err
		}
		for _, other := range writes[:i] {
			if other.Key == w.Key {
				return fmt.Errorf("store: a transaction writes %s twice", w.Key)
			}
		}
		if w.Object == nil {
			continue
		}
		if err := s.encode(w); err != nil {
			return err
		}
	}
	return nil
}

func (s *Store) encode(w *Write) (err error) {
	if w.Data == nil {
		if w.Data, err = s.shared.codec.Encode(w.Key.Resource, w.Object); err != nil {
			return fmt.Errorf("store: cannot encode %s: %w", w.Key, err)
		}
	}
	if w.Data == nil {
		w.Data = []byte{} // nil is a delete
	}
	if err = s.shared.seal(w); err != nil {
		return fmt.Errorf("store: cannot seal %s: %w", w.Key, err)
	}
	return nil
}

func checkKey(k Key) error {
	if k.Resource == "" || k.Name == "" || strings.ContainsRune(k.Resource+k.Namespace+k.Name, 0) {
		return fmt.Errorf("store: %q is no key", k)
	}
	return nil
}

func (s *Store) submit(ctx context.Context, j *job) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s.mu.Lock()
	if err := s.refusing(); err != nil {
		s.mu.Unlock()
		return err
	}
	s.queue = append(s.queue, j)
	s.mu.Unlock()
	s.wakeCommitter()
	select {
	case <-j.done:
		return j.err
	case <-ctx.Done():
		if j.taken.CompareAndSwap(false, true) {
			return ctx.Err()
		}
		<-j.done
		return j.err
	}
}

// refusing tells why no write is taken, or nil. The caller holds mu.
func (s *Store) refusing() error {
	if s.broken == nil && s.closing {
		return ErrClosed
	}
	return s.broken
}

func (s *Store) refusal() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.refusing()
}

func (s *Store) wakeCommitter() {
	select {
	case s.work <- struct{}{}:
	default:
	}
}

// run is the committer: the only goroutine that makes worlds.
func (s *Store) run() {
	defer close(s.closed)
	for {
		batch, more := s.take()
		if len(batch) > 0 {
			s.process(batch)
			for _, j := range batch {
				close(j.done)
			}
			continue
		}
		if !more {
			return
		}
		<-s.work
	}
}

// take removes the next batch from the queue; more is false once the store is
// closing and the queue is empty.
func (s *Store) take() (batch []*job, more bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n, size := 0, 0
	for n < len(s.queue) && len(batch) < batchJobs && size < batchBytes {
		j := s.queue[n]
		n++
		if !j.taken.CompareAndSwap(false, true) {
			continue // its caller gave up
		}
		batch = append(batch, j)
		for i := range j.writes {
			size += len(j.writes[i].Data)
		}
	}
	s.queue = slices.Delete(s.queue, 0, n)
	return batch, len(s.queue) > 0 || !s.closing
}

// process decides and commits a batch. When the disk is full, what frees space
// is tried again by itself.
func (s *Store) process(batch []*job) {
	err := s.attempt(batch, false)
	if !errors.Is(err, ErrNoSpace) {
		return
	}
	freeing := slices.Collect(func(yield func(*job) bool) {
		for _, j := range batch {
			if j.frees() && !yield(j) {
				return
			}
		}
	})
	for _, j := range batch {
		j.err, j.records = err, nil
	}
	if len(freeing) > 0 {
		_ = s.attempt(freeing, true) // reported to the jobs
	}
}

// frees tells a transaction that deletes or brings a deletion forward.
func (j *job) frees() bool {
	for i := range j.writes {
		if o := j.writes[i].Object; o != nil && o.GetDeletionTimestamp() == nil {
			return false
		}
	}
	return true
}

// attempt commits what of the batch meets its preconditions. The error is the
// engine's, which all jobs were given.
func (s *Store) attempt(batch []*job, freeing bool) error {
	base := s.world.Load()
	st := &stage{base: base, revision: base.revision, touched: map[string]*tree{}, registry: s.registry, floor: s.start.Load()}
	for _, j := range batch {
		j.records, j.err = nil, nil
		if j.reindex != "" {
			st.reindex(j.reindex)
		} else {
			j.records, j.err = st.apply(j.writes, s.shared)
		}
	}
	if len(st.entries) > 0 {
		if err := s.engine.Commit(context.Background(), st.entries, freeing); err != nil {
			err = s.failed(err)
			for _, j := range batch {
				j.records, j.err = nil, err
			}
			return err
		}
	}
	if len(st.touched) > 0 {
		s.publish(st)
	}
	return nil
}

// failed turns an engine's error into what callers get. After anything but a
// full disk nobody knows what is on disk, so the store takes no more writes.
func (s *Store) failed(err error) error {
	if errors.Is(err, ErrNoSpace) {
		return err
	}
	err = fmt.Errorf("%w: %w", ErrClosed, err)
	s.log.Error("the datastore failed; writes are refused until a restart", "error", err)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.broken = err
	return err
}

// publish shows a durable stage to readers, then to watchers.
func (s *Store) publish(st *stage) {
	now := time.Now()
	for _, e := range st.events {
		st.touched[e.Record.key.Resource].history.append(e, now)
	}
	for _, t := range st.touched {
		t.history.trim(s.limits, now)
	}
	w := st.world()
	s.trimTotal(w, st, now)
	s.world.Store(w)
	s.watched.notify(st.events)
	s.announce(w.revision)
}

// announce tells those who wait for a revision that it has come.
func (s *Store) announce(revision uint64) {
	s.notified.Store(revision)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.waiters = slices.DeleteFunc(s.waiters, func(wt waiter) bool {
		if wt.revision > revision {
			return false
		}
		close(wt.done)
		return true
	})
}

// trimTotal halves the largest history among those just written while all
// together are over their limit.
func (s *Store) trimTotal(w *world, st *stage, now time.Time) {
	sum := 0
	w.trees.Scan(func(_ string, t *tree) bool {
		sum += t.history.bytes
		return true
	})
	for sum > s.total {
		var largest *tree
		for _, t := range st.touched {
			if largest == nil || t.history.bytes > largest.history.bytes {
				largest = t
			}
		}
		if largest == nil || largest.history.bytes == 0 {
			return
		}
		before := largest.history.bytes
		largest.history.trim(limits{age: s.limits.age, events: s.limits.events, bytes: before / 2}, now)
		sum -= before - largest.history.bytes
	}
}

// apply stages one transaction, or nothing of it.
func (s *stage) apply(writes []Write, shared *shared) ([]*Record, error) {
	for i := range writes {
		w := &writes[i]
		var at uint64
		if r := s.get(w.Key); r != nil {
			at = r.revision
		}
		if w.Expect != AnyRevision && w.Expect != at {
			return nil, &ConflictError{Key: w.Key, Expected: w.Expect, Actual: at}
		}
	}
	for i := range writes {
		if err := shared.reseal(&writes[i]); err != nil {
			return nil, err
		}
	}
	records := make([]*Record, len(writes))
	for i := range writes {
		records[i] = s.write(&writes[i], shared)
	}
	return records, nil
}

func (s *stage) write(w *Write, shared *shared) *Record {
	e := Entry{Key: w.Key, Revision: s.revision + 1}
	var next *Record
	if w.Object != nil {
		next = newRecord(w, e.Revision, shared)
		e.Value = w.kept
	}
	r := s.set(e.Key, e.Revision, next)
	if r != nil {
		s.revision++
		s.entries = append(s.entries, e)
	}
	return r
}

// newRecord is what a write makes at a revision. It takes the object over.
func newRecord(w *Write, revision uint64, shared *shared) *Record {
	r := &Record{key: w.Key, revision: revision, data: w.Data, by: w.by, shared: shared}
	w.Object.SetResourceVersion(strconv.FormatUint(revision, 10))
	r.object.Store(&w.Object)
	return r
}

// set makes next what a key holds; nil deletes. It returns next, or for a
// deletion the state before under the new revision, or nil where there was none.
func (s *stage) set(k Key, revision uint64, next *Record) *Record {
	prev := s.get(k)
	typ := Modified
	switch {
	case next == nil && prev == nil:
		return nil
	case next == nil:
		typ, next = Deleted, &Record{key: k, revision: revision, data: prev.data, by: prev.by, shared: prev.shared}
		s.own(k.Resource).remove(k)
	case prev == nil:
		typ = Added
		fallthrough
	default:
		s.own(k.Resource).put(next)
	}
	s.events = append(s.events, Event{Type: typ, Revision: revision, Record: next, Prev: prev})
	return next
}

// reindex files a resource under its row of now.
func (s *stage) reindex(resource string) {
	t := s.own(resource)
	t.row = s.registry.ByKey(resource)
	t.indexes = emptyIndexes(t.row)
	t.records.Scan(func(r *Record) bool {
		t.reindex(nil, r)
		return true
	})
}
