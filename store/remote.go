package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/tidwall/btree"
)

// remote is the side of a Store that works on a Remote: a follower makes the
// worlds from what everybody writes, and a writer waits until its own write has
// come back that way.
type remote struct {
	Remote
	stop   context.CancelFunc
	newest question

	// making is held by whoever makes the next world.
	making sync.Mutex

	mu      sync.Mutex
	offered map[Key][]*Write // submitted here and not seen in a report yet
}

const (
	// submitWait bounds the wait for a write's outcome, askWait that for the
	// newest revision, for callers without a deadline of their own.
	submitWait = 20 * time.Second
	askWait    = 10 * time.Second
	// nudgeAfter is how long a waiter trusts that the revision it waits for
	// comes by itself, as it does when it is one of ours; nudgeAgain is the time
	// between further nudges.
	nudgeAfter = 2 * time.Millisecond
	nudgeAgain = 100 * time.Millisecond
)

// attach starts the follower and waits for a world that is up to date.
func (s *Store) attach(r Remote) error {
	ctx, stop := context.WithCancel(context.Background())
	s.remote = &remote{Remote: r, stop: stop, offered: map[Key][]*Write{}}
	s.remote.newest.ask = s.askNewest
	if err := s.load(r.Load); err != nil {
		stop()
		return err
	}
	go s.follow(ctx)
	_, err := s.Latest(ctx)
	if err != nil {
		stop()
		<-s.closed
	}
	return err
}

// follow makes worlds until the store closes. When too much was missed it
// begins anew from what there is now.
func (s *Store) follow(ctx context.Context) {
	defer close(s.closed)
	for ctx.Err() == nil {
		err := s.remote.Follow(ctx, s.world.Load().revision, s.observe)
		if !errors.Is(err, ErrExpired) {
			continue
		}
		s.log.Warn("too long without the datastore: what changed meanwhile is read anew, and watches begin again")
		if err := s.reload(ctx); err != nil && ctx.Err() == nil {
			s.log.Error("cannot read the datastore", "error", err)
			pause(ctx, time.Second)
		}
	}
}

func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// observe makes the next world of what the datastore reports.
func (s *Store) observe(entries []Entry, revision uint64) {
	s.remote.making.Lock()
	defer s.remote.making.Unlock()
	base := s.world.Load()
	if revision <= base.revision {
		return
	}
	st := &stage{base: base, revision: revision, touched: map[string]*tree{}, registry: s.registry, floor: s.start.Load()}
	for _, e := range entries {
		st.set(e.Key, e.Revision, s.incoming(e))
	}
	s.publish(st)
}

// incoming is the record of a reported entry; nil for a deletion. What cannot be
// opened is kept as it is: whoever reads it is told.
func (s *Store) incoming(e Entry) *Record {
	if e.Value == nil {
		return nil
	}
	if w := s.remote.adopt(e); w != nil {
		return newRecord(w, e.Revision, s.shared)
	}
	r, err := s.shared.open(e)
	if err != nil {
		s.log.Error("a record cannot be read", "key", e.Key.String(), "revision", e.Revision, "error", err)
		r = &Record{key: e.Key, revision: e.Revision, data: e.Value, shared: s.shared}
	}
	return r
}

// reindexHere is Reindex: it changes nothing that others would have to know.
func (s *Store) reindexHere(resource string) error {
	s.remote.making.Lock()
	defer s.remote.making.Unlock()
	base := s.world.Load()
	st := &stage{base: base, revision: base.revision, touched: map[string]*tree{}, registry: s.registry, floor: s.start.Load()}
	st.reindex(resource)
	s.publish(st)
	return nil
}

// adopt finds the write of this store that came back, so that its object is not
// decoded again and its data not kept twice.
func (r *remote) adopt(e Entry) *Write {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i, w := range r.offered[e.Key] {
		if w.Object != nil && bytes.Equal(w.kept, e.Value) {
			r.offered[e.Key] = slices.Delete(r.offered[e.Key], i, i+1)
			return w
		}
	}
	return nil
}

func (r *remote) offer(writes []Write) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range writes {
		r.offered[writes[i].Key] = append(r.offered[writes[i].Key], &writes[i])
	}
}

// withdraw ends an offer, taken or not. What was not taken belongs to the
// caller again.
func (r *remote) withdraw(writes []Write) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range writes {
		k := writes[i].Key
		left := slices.DeleteFunc(r.offered[k], func(w *Write) bool { return w == &writes[i] })
		if r.offered[k] = left; len(left) == 0 {
			delete(r.offered, k)
		}
	}
}

// submitRemote is Commit on a Remote.
func (s *Store) submitRemote(ctx context.Context, writes []Write) ([]*Record, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := s.refusal(); err != nil {
		return nil, err
	}
	for i := range writes {
		if err := s.shared.reseal(&writes[i]); err != nil {
			return nil, err
		}
	}
	s.remote.offer(writes)
	defer s.remote.withdraw(writes)
	ctx, cancel := context.WithTimeout(ctx, submitWait)
	defer cancel()
	revision, changed, err := s.remote.Submit(ctx, writes)
	if err != nil {
		return nil, err
	}
	if err := s.WaitFor(ctx, revision); err != nil {
		return nil, fmt.Errorf("%w: it was written, but did not come back (%w)", ErrUnconfirmed, err)
	}
	records := make([]*Record, len(writes))
	for i := range writes {
		if !changed[i] {
			continue
		}
		records[i] = s.written(&writes[i], revision)
		if writes[i].Object != nil && records[i].Stale() { // sealed anew while this was on its way: see Rewrite
			_ = s.again(ctx, records[i]) // losing against another write is as good
		}
	}
	return records, nil
}

// written is the record that a write became. It is in the history, unless that
// was cut since.
func (s *Store) written(w *Write, revision uint64) *Record {
	if t := s.world.Load().tree(w.Key.Resource); t != nil {
		for _, e := range t.history.after(revision - 1) {
			if e.Revision != revision {
				break
			}
			if e.Record.key == w.Key {
				return e.Record
			}
		}
	}
	return &Record{key: w.Key, revision: revision, data: w.Data, by: w.by, shared: s.shared}
}

// Latest implements Interface.
func (s *Store) Latest(ctx context.Context) (Snapshot, error) {
	if s.remote == nil {
		return s.Snapshot(), nil
	}
	revision, err := s.remote.newest.answer(ctx, s.closed)
	if err != nil {
		return nil, err
	}
	if err := s.WaitFor(ctx, revision); err != nil {
		return nil, fmt.Errorf("%w: its changes do not arrive (%w)", ErrUnavailable, err)
	}
	return s.Snapshot(), nil
}

func (s *Store) askNewest(ctx context.Context) (uint64, error) {
	seen := s.world.Load().revision
	revision, err := s.remote.Newest(ctx)
	if err == nil && revision < seen {
		err = s.wentBack(revision, seen)
	}
	return revision, err
}

// question asks for the newest revision once for all who want to know: whoever
// comes while one answer is under way shares the next.
type question struct {
	ask func(context.Context) (uint64, error)

	mu      sync.Mutex
	running bool
	next    *answer
}

type answer struct {
	done     chan struct{}
	revision uint64
	err      error
}

func (q *question) answer(ctx context.Context, closed <-chan struct{}) (uint64, error) {
	q.mu.Lock()
	if q.next == nil {
		q.next = &answer{done: make(chan struct{})}
	}
	a := q.next
	if !q.running {
		q.running = true
		go q.run() // ends by itself within askWait of the last question
	}
	q.mu.Unlock()
	select {
	case <-a.done:
		return a.revision, a.err
	case <-closed:
		return 0, ErrClosed
	case <-ctx.Done():
		return 0, fmt.Errorf("%w: %w", ErrUnavailable, ctx.Err())
	}
}

func (q *question) run() {
	for {
		q.mu.Lock()
		a := q.next
		q.next, q.running = nil, a != nil
		q.mu.Unlock()
		if a == nil {
			return
		}
		ctx, cancel := context.WithTimeout(context.Background(), askWait)
		a.revision, a.err = q.ask(ctx)
		cancel()
		close(a.done)
	}
}

// reload replaces the world by what the datastore holds now. Everybody who
// follows it begins anew.
func (s *Store) reload(ctx context.Context) error {
	fresh := map[string]*tree{}
	names := map[string]string{}
	old := s.world.Load()
	revision, err := s.remote.Load(ctx, func(e Entry) error {
		t := fresh[e.Key.Resource]
		if t == nil {
			t = newTree(s.registry.ByKey(e.Key.Resource), 0)
			fresh[e.Key.Resource] = t
		}
		if r := old.Get(e.Key); r != nil && r.revision == e.Revision {
			t.put(r)
			return nil
		}
		r, err := s.shared.loaded(intern(e, names), t.row)
		if err == nil {
			t.put(r)
			r.object.Store(nil)
		}
		return err
	})
	if err != nil {
		return err
	}
	if revision <= old.revision {
		return s.wentBack(revision, old.revision)
	}
	old.trees.Scan(func(resource string, t *tree) bool {
		if fresh[resource] == nil {
			fresh[resource] = newTree(t.row, 0)
		}
		return true
	})
	s.replace(fresh, revision)
	return nil
}

// replace publishes a world that has no history.
func (s *Store) replace(trees map[string]*tree, revision uint64) {
	s.remote.making.Lock()
	defer s.remote.making.Unlock()
	all := &btree.Map[string, *tree]{}
	for resource, t := range trees {
		t.history.floor = revision
		all.Set(resource, t)
	}
	s.start.Store(revision)
	s.world.Store(newWorld(revision, all))
	s.watched.wakeAll(revision)
	s.announce(revision)
}

// wentBack is what a datastore does that was restored under our feet. Clients
// have seen what it does not know, so nothing here can be trusted any more.
func (s *Store) wentBack(now, was uint64) error {
	return s.failed(fmt.Errorf("its revision went back from %s to %s: was it restored? start proa again, after all other servers have stopped",
		strconv.FormatUint(was, 10), strconv.FormatUint(now, 10)))
}

// nudged waits like WaitFor, and asks for what does not come by itself.
func (s *Store) nudged(ctx context.Context, w waiter) error {
	t := time.NewTimer(nudgeAfter)
	defer t.Stop()
	for {
		select {
		case <-w.done:
			return nil
		case <-s.closed:
			return ErrClosed
		case <-ctx.Done():
			s.forget(w)
			return ctx.Err()
		case <-t.C:
			asking, cancel := context.WithTimeout(ctx, nudgeAgain)
			s.remote.Nudge(asking)
			cancel()
			t.Reset(nudgeAgain)
		}
	}
}

// Room implements Interface.
func (s *Store) Room() error {
	if s.remote != nil {
		return s.remote.Room()
	}
	if p, ok := s.engine.(Patient); ok {
		return p.Room()
	}
	return nil
}

// Healthy implements Interface.
func (s *Store) Healthy(ctx context.Context) error {
	if err := s.refusal(); err != nil {
		return err
	}
	_, err := s.Latest(ctx)
	return err
}
