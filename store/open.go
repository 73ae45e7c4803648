package store

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tidwall/btree"

	"proa/api"
)

// Config of a Store. Zero limits take the defaults in New.
type Config struct {
	// Engine or Remote is where the data is.
	Engine Engine
	Remote Remote
	Codec  Codec
	// Sealer stands between the values and the engine; nil for nobody.
	Sealer   Sealer
	Registry *api.Registry
	Log      *slog.Logger

	// HistoryAge, HistoryEvents and HistoryBytes bound the events that are kept
	// of each resource: 10 minutes, 16,384 and 4 MiB. HistoryTotal bounds the
	// bytes of all together: 16 MiB.
	HistoryAge    time.Duration
	HistoryEvents int
	HistoryBytes  int
	HistoryTotal  int
	// FormBytes is the memory that encoded forms may take: 8 MiB.
	FormBytes int
}

// Store is the world. It implements Interface.
type Store struct {
	engine   Engine
	registry *api.Registry
	log      *slog.Logger
	shared   *shared
	limits   limits
	total    int           // limit of all histories together
	start    atomic.Uint64 // the oldest revision that anything here goes back to
	remote   *remote       // nil on an engine

	world    atomic.Pointer[world]
	notified atomic.Uint64 // every watcher knows of the events up to here

	mu      sync.Mutex // guards queue, closing, broken, waiters
	queue   []*job
	closing bool
	broken  error
	waiters []waiter

	work    chan struct{} // tells the committer that the queue has something
	closed  chan struct{} // closed once the committer has ended
	watched registrations
}

type waiter struct {
	revision uint64
	done     chan struct{}
}

var _ Interface = (*Store)(nil)

// New loads the engine's data and starts the committer, which Close ends. The
// Store owns the engine from then on. It fails with what Engine.Load says, or
// when a record of a known kind cannot be decoded.
func New(c Config) (*Store, error) {
	setDefault(&c.HistoryAge, 10*time.Minute)
	setDefault(&c.HistoryEvents, 16384)
	setDefault(&c.HistoryBytes, 4<<20)
	setDefault(&c.HistoryTotal, 16<<20)
	setDefault(&c.FormBytes, 8<<20)
	s := &Store{
		engine:   c.Engine,
		registry: c.Registry,
		log:      c.Log,
		shared:   &shared{codec: c.Codec, sealer: c.Sealer, forms: formCache{budget: c.FormBytes}},
		limits:   limits{age: c.HistoryAge, events: c.HistoryEvents, bytes: c.HistoryBytes},
		total:    c.HistoryTotal,
		work:     make(chan struct{}, 1),
		closed:   make(chan struct{}),
		watched:  registrations{byScope: map[Scope]map[*watcher]struct{}{}},
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if c.Remote != nil {
		if err := s.attach(c.Remote); err != nil {
			return nil, errors.Join(err, c.Remote.Close())
		}
		return s, nil
	}
	if err := s.load(c.Engine.Load); err != nil {
		return nil, errors.Join(err, c.Engine.Close())
	}
	go s.run()
	return s, nil
}

func setDefault[T comparable](v *T, d T) {
	var zero T
	if *v == zero {
		*v = d
	}
}

// load builds the first world.
func (s *Store) load(from func(context.Context, func(Entry) error) (uint64, error)) error {
	l := &loading{store: s, trees: map[string]*tree{}, names: map[string]string{}}
	revision, err := from(context.Background(), l.add)
	if err == nil {
		err = l.flush()
	}
	if err != nil {
		return err
	}
	trees := l.trees
	// Clients read revision 0 as "any", so the first world is at 1.
	start := max(revision, 1)
	s.start.Store(start)
	for _, t := range trees {
		t.history.floor = start
	}
	saved, err := s.recall(trees, revision)
	if err != nil {
		return err
	}
	all := &btree.Map[string, *tree]{}
	for resource, t := range trees {
		all.Set(resource, t)
	}
	s.world.Store(newWorld(start, all))
	s.notified.Store(start)
	if !saved {
		s.remember() // a crash may follow the crash
	}
	return nil
}

// loading is the first world while it is read. Records are decoded some at a
// time, by all processors.
type loading struct {
	store *Store
	trees map[string]*tree
	names map[string]string
	chunk []Entry
}

const loadChunk = 1024

func (l *loading) add(e Entry) error {
	l.chunk = append(l.chunk, intern(e, l.names))
	if len(l.chunk) < loadChunk {
		return nil
	}
	return l.flush()
}

// flush files what was read since.
func (l *loading) flush() error {
	rows := make([]*api.Resource, len(l.chunk))
	for i, e := range l.chunk {
		t := l.trees[e.Key.Resource]
		if t == nil {
			t = newTree(l.store.registry.ByKey(e.Key.Resource), 0)
			l.trees[e.Key.Resource] = t
		}
		rows[i] = t.row
	}
	records, err := l.decode(rows)
	if err != nil {
		return err
	}
	for _, r := range records {
		l.trees[r.key.Resource].put(r)
		r.object.Store(nil) // most are never asked for again
	}
	l.chunk = l.chunk[:0]
	return nil
}

// decode makes the records of a chunk. The error is that of the first record
// that has one.
func (l *loading) decode(rows []*api.Resource) ([]*Record, error) {
	records, errs := make([]*Record, len(rows)), make([]error, len(rows))
	var wg sync.WaitGroup
	workers := runtime.GOMAXPROCS(0)
	for w := range workers {
		wg.Go(func() {
			for i := w; i < len(rows); i += workers {
				records[i], errs[i] = l.store.shared.loaded(l.chunk[i], rows[i])
			}
		})
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return nil, err
		}
	}
	return records, nil
}

// intern lets all records share the strings of their keys.
func intern(e Entry, seen map[string]string) Entry {
	for _, p := range []*string{&e.Key.Resource, &e.Key.Namespace} {
		if v, ok := seen[*p]; ok {
			*p = v
		} else {
			seen[*p] = *p
		}
	}
	return e
}

// loaded makes a record from disk. Decoding it here finds damage before anything
// relies on the object, which stays with the record if it is needed to file it.
func (s *shared) loaded(e Entry, row *api.Resource) (*Record, error) {
	r, err := s.open(e)
	if err != nil {
		return nil, fmt.Errorf("store: cannot open %s (revision %d on disk): %w", e.Key, e.Revision, err)
	}
	if row == nil {
		return r, nil
	}
	obj, err := r.decode()
	if err != nil {
		return nil, fmt.Errorf("%w (revision %d on disk): restore the data directory from a snapshot, or start with the version of proa that wrote it", err, e.Revision)
	}
	if len(row.Indexes) > 0 {
		r.object.Store(&obj)
	}
	return r, nil
}

// Close waits for the transactions that were accepted, ends all watchers and
// closes the engine.
func (s *Store) Close() error {
	s.mu.Lock()
	again := s.closing
	s.closing = true
	s.mu.Unlock()
	if s.remote != nil {
		s.remote.stop()
	}
	if p, ok := s.engine.(Patient); ok {
		p.Hurry()
	}
	s.wakeCommitter()
	<-s.closed
	switch {
	case again:
		return nil
	case s.remote != nil:
		return s.remote.Close()
	}
	s.remember()
	return s.engine.Close()
}

// Err tells why the store commits no more, or nil: ErrClosed with the engine's
// error. Reads go on.
func (s *Store) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.broken
}

// Stat is the engine's.
func (s *Store) Stat() Stat {
	if s.remote != nil {
		return s.remote.Stat()
	}
	return s.engine.Stat()
}

func (s *Store) Snapshot() Snapshot { return &s.world.Load().view }

func (s *Store) SnapshotAt(revision uint64, resources ...string) (Snapshot, error) {
	w := s.world.Load()
	if revision > w.revision {
		return nil, ErrFuture
	}
	if revision < s.start.Load() {
		return nil, ErrExpired
	}
	if revision == w.revision {
		return &w.view, nil
	}
	named := map[string]bool{}
	for _, resource := range resources {
		named[resource] = true
	}
	allowed := func(resource string) bool { return len(named) == 0 || named[resource] }
	expired := false
	w.trees.Scan(func(resource string, t *tree) bool {
		expired = allowed(resource) && revision < t.history.floor
		return !expired
	})
	if expired {
		return nil, ErrExpired
	}
	return newPast(w, revision, allowed), nil
}

func (s *Store) WaitFor(ctx context.Context, revision uint64) error {
	s.mu.Lock()
	if s.world.Load().revision >= revision {
		s.mu.Unlock()
		return nil
	}
	w := waiter{revision, make(chan struct{})}
	s.waiters = append(s.waiters, w)
	s.mu.Unlock()
	if s.remote != nil {
		return s.nudged(ctx, w)
	}
	select {
	case <-w.done:
		return nil
	case <-s.closed:
		return ErrClosed
	case <-ctx.Done():
		s.forget(w)
		return ctx.Err()
	}
}

func (s *Store) forget(w waiter) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range s.waiters {
		if s.waiters[i].done == w.done {
			s.waiters = append(s.waiters[:i], s.waiters[i+1:]...)
			return
		}
	}
}
