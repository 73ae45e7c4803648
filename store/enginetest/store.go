package enginetest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"proa/store"
)

// OpenStore opens a store on a directory, or what stands for one.
type OpenStore func(t *testing.T, dir string) *store.Store

// RunStore is what a store promises whatever is beneath it.
func RunStore(t *testing.T, open OpenStore) {
	for name, test := range map[string]func(*testing.T, OpenStore){
		"preconditions":                          preconditions,
		"a transaction is whole or not":          wholeTransactions,
		"deleting":                               deleting,
		"records and objects after reopening":    reopenedStore,
		"a watch sees all once and in order":     watchOrder,
		"a watch goes on from any kept revision": watchResumes,
		"the past":                               thePast,
		"indexes":                                indexes,
		"one of many wins":                       oneWins,
		"a caller who gives up":                  givesUp,
		"closing":                                closing,
	} {
		t.Run(name, func(t *testing.T) { test(t, open) })
	}
}

func configMap(name, value string, expect uint64) store.Write {
	return store.Write{Key: key("configmaps", "ns", name), Object: ConfigMap("ns", name, value), Expect: expect}
}

func opened(t *testing.T, open OpenStore) *store.Store {
	t.Helper()
	s := open(t, t.TempDir())
	t.Cleanup(func() { s.Close() })
	return s
}

func must(t *testing.T, s *store.Store, writes ...store.Write) []*store.Record {
	t.Helper()
	records, err := s.Commit(t.Context(), writes...)
	if err != nil {
		t.Fatal(err)
	}
	return records
}

func value(t *testing.T, r *store.Record) string {
	t.Helper()
	if r == nil {
		return ""
	}
	obj, err := r.Object()
	if err != nil {
		t.Fatal(err)
	}
	if rv := obj.GetResourceVersion(); rv != fmt.Sprint(r.Revision()) {
		t.Errorf("%s at %d says that it is at %s", r.Key(), r.Revision(), rv)
	}
	return obj.(*corev1.ConfigMap).Data["value"]
}

func preconditions(t *testing.T, open OpenStore) {
	s := opened(t, open)
	a := must(t, s, configMap("a", "1", 0))[0]
	for _, w := range []store.Write{
		configMap("a", "2", 0), configMap("a", "2", a.Revision()-1), configMap("a", "2", a.Revision()+1), configMap("none", "2", a.Revision()),
		{Key: a.Key(), Expect: 0}, {Key: a.Key(), Expect: a.Revision() + 1},
	} {
		_, err := s.Commit(t.Context(), w)
		var c *store.ConflictError
		if !errors.As(err, &c) || !errors.Is(err, store.ErrConflict) {
			t.Errorf("%s expecting %d: %v", w.Key, w.Expect, err)
			continue
		}
		want := a.Revision()
		if w.Key.Name == "none" {
			want = 0
		}
		if c.Key != w.Key || c.Expected != w.Expect || c.Actual != want {
			t.Errorf("%s expecting %d: %+v", w.Key, w.Expect, c)
		}
	}
	b := must(t, s, configMap("a", "2", a.Revision()))[0]
	c := must(t, s, configMap("a", "3", store.AnyRevision))[0]
	if b.Revision() <= a.Revision() || c.Revision() <= b.Revision() {
		t.Errorf("revisions %d, %d, %d", a.Revision(), b.Revision(), c.Revision())
	}
	if got := s.Snapshot().Get(a.Key()); got != c || value(t, got) != "3" {
		t.Errorf("holds %q at %d", value(t, got), got.Revision())
	}
}

func wholeTransactions(t *testing.T, open OpenStore) {
	s := opened(t, open)
	must(t, s, configMap("a", "1", 0), configMap("b", "1", 0))
	before := s.Snapshot().Revision()
	if _, err := s.Commit(t.Context(), configMap("c", "1", 0), configMap("a", "2", 0)); !errors.Is(err, store.ErrConflict) {
		t.Fatal(err)
	}
	if s.Snapshot().Get(key("configmaps", "ns", "c")) != nil {
		t.Error("half of a transaction is there")
	}
	w, err := s.Watch(before, store.Scope{Resource: "configmaps"})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	records := must(t, s, configMap("c", "1", 0), configMap("a", "3", store.AnyRevision), store.Write{Key: key("configmaps", "ns", "b"), Expect: store.AnyRevision})
	if len(records) != 3 || value(t, records[1]) != "3" {
		t.Errorf("%d records", len(records))
	}
	if got := Collect(t, w, 3); got != "+c ~a -b" {
		t.Errorf("watched %s", got)
	}
	if _, err := s.Commit(t.Context(), configMap("d", "1", 0), configMap("d", "2", 0)); err == nil {
		t.Error("a transaction wrote a key twice")
	}
}

// Collect waits for n events of a watch and tells them in short.
func Collect(t *testing.T, w store.Watcher, n int) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	var out []string
	for len(out) < n {
		events, _, err := w.Next(ctx)
		if err != nil {
			t.Fatalf("after %s: %v", strings.Join(out, " "), err)
		}
		for _, e := range events {
			out = append(out, []string{"", "+", "~", "-"}[e.Type]+e.Record.Key().Name)
		}
	}
	return strings.Join(out, " ")
}

func deleting(t *testing.T, open OpenStore) {
	s := opened(t, open)
	a := must(t, s, configMap("a", "1", 0))[0]
	if got := must(t, s, store.Write{Key: key("configmaps", "ns", "none"), Expect: store.AnyRevision}); got[0] != nil {
		t.Errorf("deleting nothing gave %v", got)
	}
	gone := must(t, s, store.Write{Key: a.Key(), Expect: a.Revision()})[0]
	if gone == nil || gone.Revision() <= a.Revision() || value(t, gone) != "1" {
		t.Errorf("the deleted state is %v", gone)
	}
	if s.Snapshot().Get(a.Key()) != nil || s.Snapshot().Count(store.Scope{Resource: "configmaps"}) != 0 {
		t.Error("it is there still")
	}
	again := must(t, s, configMap("a", "2", 0))[0]
	if again.Revision() <= gone.Revision() {
		t.Errorf("made again at %d, after %d", again.Revision(), gone.Revision())
	}
}

func reopenedStore(t *testing.T, open OpenStore) {
	dir := t.TempDir()
	s := open(t, dir)
	must(t, s, configMap("a", "1", 0), configMap("b", "1", 0))
	must(t, s, configMap("a", "2", store.AnyRevision), store.Write{Key: key("pods", "ns", "p"), Object: Pod("ns", "p", "n1"), Expect: 0})
	revision := must(t, s, store.Write{Key: key("configmaps", "ns", "b"), Expect: store.AnyRevision})[0].Revision()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, dir)
	defer s.Close()
	snap := s.Snapshot()
	if snap.Revision() != revision || snap.Count(store.Scope{Resource: "configmaps"}) != 1 || value(t, snap.Get(key("configmaps", "ns", "a"))) != "2" {
		t.Errorf("at %d, want %d; %d objects", snap.Revision(), revision, snap.Count(store.Scope{Resource: "configmaps"}))
	}
	if snap.Get(key("pods", "ns", "p")) == nil {
		t.Error("a pod is missing")
	}
	if next := must(t, s, configMap("c", "1", 0))[0].Revision(); next <= revision {
		t.Errorf("revision %d after %d", next, revision)
	}
}

func watchOrder(t *testing.T, open OpenStore) {
	s := opened(t, open)
	scope := store.Scope{Resource: "configmaps"}
	snap, w := s.SnapshotAndWatch(scope)
	defer w.Close()
	const writers, each = 8, 40
	var wg sync.WaitGroup
	for i := range writers {
		wg.Go(func() {
			for n := range each {
				if _, err := s.Commit(context.Background(), configMap(fmt.Sprint(i), fmt.Sprint(n), store.AnyRevision)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	defer wg.Wait()
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	last, next := snap.Revision(), map[string]int{}
	for seen := 0; seen < writers*each; {
		events, revision, err := w.Next(ctx)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range events {
			if e.Revision <= last {
				t.Fatalf("revision %d after %d", e.Revision, last)
			}
			last = e.Revision
			name := e.Record.Key().Name
			if got := value(t, e.Record); got != fmt.Sprint(next[name]) {
				t.Fatalf("%s became %s, want %d", name, got, next[name])
			}
			if (e.Prev == nil) != (next[name] == 0) || e.Prev != nil && value(t, e.Prev) != fmt.Sprint(next[name]-1) {
				t.Fatalf("%s %s has the wrong state before", name, value(t, e.Record))
			}
			next[name]++
			seen++
		}
		if revision < last {
			t.Fatalf("the stream is at %d, behind its event at %d", revision, last)
		}
	}
}

func watchResumes(t *testing.T, open OpenStore) {
	s := opened(t, open)
	a := must(t, s, configMap("a", "1", 0))[0]
	for i := range 10 {
		must(t, s, configMap(fmt.Sprint(i), "1", 0))
	}
	w, err := s.Watch(a.Revision(), store.Scope{Resource: "configmaps", Namespace: "ns"})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if got := Collect(t, w, 10); got != "+0 +1 +2 +3 +4 +5 +6 +7 +8 +9" {
		t.Errorf("watched %s", got)
	}
	if _, err := s.Watch(s.Snapshot().Revision()+1000, store.Scope{Resource: "configmaps"}); !errors.Is(err, store.ErrFuture) {
		t.Errorf("the future: %v", err)
	}
	if _, err := s.Watch(0, store.Scope{Resource: "configmaps"}); !errors.Is(err, store.ErrExpired) {
		t.Errorf("before the first revision: %v", err)
	}
}

func thePast(t *testing.T, open OpenStore) {
	s := opened(t, open)
	must(t, s, configMap("a", "1", 0), configMap("b", "1", 0))
	then := s.Snapshot().Revision()
	must(t, s, configMap("a", "2", store.AnyRevision))
	must(t, s, store.Write{Key: key("configmaps", "ns", "b"), Expect: store.AnyRevision})
	must(t, s, configMap("c", "1", 0))
	past, err := s.SnapshotAt(then, "configmaps")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for r := range past.List(store.Scope{Resource: "configmaps"}, store.Key{}) {
		got = append(got, r.Key().Name+value(t, r))
	}
	if !slices.Equal(got, []string{"a1", "b1"}) || past.Revision() != then {
		t.Errorf("at %d there was %v", past.Revision(), got)
	}
	if _, err := s.SnapshotAt(then + 1000); !errors.Is(err, store.ErrFuture) {
		t.Errorf("the future: %v", err)
	}
}

func indexes(t *testing.T, open OpenStore) {
	s := opened(t, open)
	pod := func(name, node string) store.Write {
		return store.Write{Key: key("pods", "ns", name), Object: Pod("ns", name, node), Expect: store.AnyRevision}
	}
	must(t, s, pod("a", "n1"), pod("b", "n1"), pod("c", "n2"), pod("d", ""))
	must(t, s, pod("b", "n2"))
	find := func() (out string) {
		for r := range s.Snapshot().Index("pods", "nodeName", "n2") {
			out += r.Key().Name
		}
		return out
	}
	if got := find(); got != "bc" {
		t.Errorf("on n2 there are %q", got)
	}
	if err := s.Reindex(t.Context(), "pods"); err != nil {
		t.Fatal(err)
	}
	if got := find(); got != "bc" {
		t.Errorf("indexed anew, on n2 there are %q", got)
	}
}

// oneWins has many change one object on the same condition.
func oneWins(t *testing.T, open OpenStore) {
	s := opened(t, open)
	at := must(t, s, configMap("a", "0", 0))[0].Revision()
	for range 10 {
		var wg sync.WaitGroup
		var mu sync.Mutex
		var winners []uint64
		for i := range 8 {
			wg.Go(func() {
				records, err := s.Commit(context.Background(), configMap("a", fmt.Sprint(i), at))
				mu.Lock()
				defer mu.Unlock()
				if err == nil {
					winners = append(winners, records[0].Revision())
				} else if !errors.Is(err, store.ErrConflict) {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if len(winners) != 1 || s.Snapshot().Get(key("configmaps", "ns", "a")).Revision() != winners[0] {
			t.Fatalf("winners: %v", winners)
		}
		at = winners[0]
	}
}

func givesUp(t *testing.T, open OpenStore) {
	s := opened(t, open)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := s.Commit(ctx, configMap("a", "1", 0)); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if s.Snapshot().Get(key("configmaps", "ns", "a")) != nil {
		t.Error("it was written")
	}
	ctx, cancel = context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if err := s.WaitFor(ctx, s.Snapshot().Revision()+1000); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("waiting for the future: %v", err)
	}
}

func closing(t *testing.T, open OpenStore) {
	s := open(t, t.TempDir())
	_, w := s.SnapshotAndWatch(store.Scope{Resource: "pods"})
	ended := make(chan error, 1)
	go func() {
		_, _, err := w.Next(context.Background())
		ended <- err
	}()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; !errors.Is(err, store.ErrClosed) {
		t.Errorf("the watch ended with %v", err)
	}
	if _, err := s.Commit(context.Background(), configMap("a", "1", 0)); !errors.Is(err, store.ErrClosed) {
		t.Errorf("a write after closing: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Errorf("closing again: %v", err)
	}
}
