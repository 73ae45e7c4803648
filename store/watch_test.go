package store_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand"
	"strings"
	"sync"
	"testing"
	"time"

	"proa/store"
)

func render(events []store.Event) string {
	var out []string
	for _, e := range events {
		out = append(out, fmt.Sprintf("%c%s", " +~-"[e.Type], e.Record.Key().Name))
	}
	return strings.Join(out, " ")
}

// next reads what is there within a short time.
func next(t *testing.T, w store.Watcher) (string, uint64) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	events, revision, err := w.Next(ctx)
	if err != nil && !errors.Is(err, context.DeadlineExceeded) {
		t.Fatal(err)
	}
	return render(events), revision
}

func TestWatchScopes(t *testing.T) {
	s := open(t)
	must(t, s, cm("before", "", 0))
	from := s.Snapshot().Revision()
	watch := func(scopes ...store.Scope) store.Watcher {
		w, err := s.Watch(from, scopes...)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(w.Close)
		return w
	}
	all := watch(store.Scope{Resource: "configmaps"})
	one := watch(store.Scope{Resource: "configmaps", Namespace: "ns", Name: "b"})
	named := watch(store.Scope{Resource: "configmaps", Name: "b"})
	both := watch(store.Scope{Resource: "pods", Namespace: "x"}, store.Scope{Resource: "configmaps", Namespace: "ns"})
	pods := watch(store.Scope{Resource: "pods"})
	must(t, s, cm("a", "", 0), cm("b", "", 0))
	must(t, s, pod("x", "p", ""), pod("y", "q", ""))
	must(t, s, cm("b", "2", store.AnyRevision))
	must(t, s, store.Write{Key: cmKey("ns", "a"), Expect: store.AnyRevision})
	for _, c := range []struct {
		w    store.Watcher
		want string
	}{{all, "+a +b ~b -a"}, {one, "+b ~b"}, {named, "+b ~b"}, {both, "+a +b +p ~b -a"}, {pods, "+p +q"}} {
		if got, revision := next(t, c.w); got != c.want || revision != s.Snapshot().Revision() {
			t.Errorf("got %q at %d, want %q at %d", got, revision, c.want, s.Snapshot().Revision())
		}
	}
	// Idle watchers keep up, which bookmarks rely on.
	must(t, s, cm("c", "", 0))
	if got, revision := next(t, pods); got != "" || revision != s.Snapshot().Revision() {
		t.Errorf("idle: %q at %d, want nothing at %d", got, revision, s.Snapshot().Revision())
	}
}

func TestWatchErrors(t *testing.T) {
	s := open(t, func(c *store.Config) { c.HistoryEvents = 5 })
	from := s.Snapshot().Revision()
	if _, err := s.Watch(from+1, store.Scope{Resource: "pods"}); !errors.Is(err, store.ErrFuture) {
		t.Errorf("future: %v", err)
	}
	_, slow := s.SnapshotAndWatch(store.Scope{Resource: "configmaps"})
	_, quiet := s.SnapshotAndWatch(store.Scope{Resource: "configmaps", Namespace: "ns", Name: "quiet"})
	for i := range 20 {
		must(t, s, cm(fmt.Sprint(i), "", 0))
	}
	if _, _, err := slow.Next(t.Context()); !errors.Is(err, store.ErrExpired) {
		t.Errorf("slow watcher: %v", err)
	}
	if _, err := s.Watch(from, store.Scope{Resource: "configmaps"}); !errors.Is(err, store.ErrExpired) {
		t.Errorf("old revision: %v", err)
	}
	if _, err := s.Watch(from, store.Scope{Resource: "pods"}); err != nil {
		t.Errorf("old revision of a quiet resource: %v", err)
	}
	// A watcher that missed nothing is not expired by others' events.
	if _, err := readOnce(quiet); err != nil {
		t.Errorf("quiet watcher: %v", err)
	}
	for i := range 20 {
		must(t, s, cm(fmt.Sprint("x", i), "", 0))
	}
	must(t, s, cm("quiet", "", 0))
	if got, _ := next(t, quiet); got != "+quiet" {
		t.Errorf("quiet watcher got %q", got)
	}
	quiet.Close()
	if _, _, err := quiet.Next(t.Context()); !errors.Is(err, store.ErrClosed) {
		t.Errorf("closed watcher: %v", err)
	}
	_, w := s.SnapshotAndWatch(store.Scope{Resource: "pods"})
	time.AfterFunc(time.Millisecond, func() { s.Close() })
	if _, _, err := w.Next(t.Context()); !errors.Is(err, store.ErrClosed) {
		t.Errorf("closed store: %v", err)
	}
}

func readOnce(w store.Watcher) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
	defer cancel()
	events, _, err := w.Next(ctx)
	if errors.Is(err, context.DeadlineExceeded) {
		err = nil
	}
	return render(events), err
}

// TestWatchersSeeEverything runs writers beside watchers that come and go, and
// checks that a snapshot with the events after it always makes the world.
func TestWatchersSeeEverything(t *testing.T) {
	s := open(t)
	stop := make(chan struct{})
	var writers, watchers sync.WaitGroup
	for n := range 4 {
		writers.Go(func() {
			rng := rand.New(rand.NewSource(int64(n)))
			for i := range 400 {
				w := cm(fmt.Sprint(rng.Intn(30)), fmt.Sprint(n, i), store.AnyRevision)
				if rng.Intn(4) == 0 {
					w.Object = nil
				}
				if _, err := s.Commit(context.Background(), w, pod("x", fmt.Sprint(n), "")); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for range 6 {
		watchers.Go(func() { follow(t, s, stop) })
	}
	writers.Wait()
	close(stop)
	watchers.Wait()
}

func follow(t *testing.T, s *store.Store, stop chan struct{}) {
	for {
		snap, w := s.SnapshotAndWatch(store.Scope{Resource: "configmaps"})
		seen := map[string]uint64{}
		for r := range snap.List(store.Scope{Resource: "configmaps"}, store.Key{}) {
			seen[r.Key().Name] = r.Revision()
		}
		last := snap.Revision()
		for range 20 {
			ctx, cancel := context.WithTimeout(context.Background(), 5*time.Millisecond)
			events, revision, err := w.Next(ctx)
			cancel()
			if err != nil && !errors.Is(err, context.DeadlineExceeded) {
				t.Error(err)
				return
			}
			for _, e := range events {
				if e.Revision <= last {
					t.Errorf("event %d after %d", e.Revision, last)
				}
				last = e.Revision
				fold(t, seen, e)
			}
			if revision < last {
				t.Errorf("stream at %d after event %d", revision, last)
			}
			compare(t, s, seen, revision)
		}
		w.Close()
		select {
		case <-stop:
			return
		default:
		}
	}
}

// fold applies an event, checking that its Prev is what was there.
func fold(t *testing.T, seen map[string]uint64, e store.Event) {
	name := e.Record.Key().Name
	var prev uint64
	if e.Prev != nil {
		prev = e.Prev.Revision()
	}
	if seen[name] != prev || (prev == 0) != (e.Type == store.Added) {
		t.Errorf("event %d of %s: previous state %d, seen %d", e.Revision, name, prev, seen[name])
	}
	if e.Type == store.Deleted {
		delete(seen, name)
	} else {
		seen[name] = e.Revision
	}
}

func compare(t *testing.T, s *store.Store, seen map[string]uint64, revision uint64) {
	snap, err := s.SnapshotAt(revision, "configmaps")
	if err != nil {
		t.Error(err)
		return
	}
	n := 0
	for r := range snap.List(store.Scope{Resource: "configmaps"}, store.Key{}) {
		n++
		if seen[r.Key().Name] != r.Revision() {
			t.Errorf("at %d: %s is at %d, the watcher has %d", revision, r.Key().Name, r.Revision(), seen[r.Key().Name])
		}
	}
	if n != len(seen) {
		t.Errorf("at %d: %d objects, the watcher has %d", revision, n, len(seen))
	}
}
