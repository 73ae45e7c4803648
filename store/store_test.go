package store_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"proa/api"
	"proa/store"
	"proa/store/enginetest"
	"proa/store/pebble"
)

func open(t testing.TB, change ...func(*store.Config)) *store.Store {
	t.Helper()
	return openOn(t, vfs.NewMem(), change...)
}

func openOn(t testing.TB, fs vfs.FS, change ...func(*store.Config)) *store.Store {
	t.Helper()
	e, err := pebble.Open(pebble.Config{Dir: "data", FS: fs})
	if err != nil {
		t.Fatal(err)
	}
	c := store.Config{Engine: e, Codec: enginetest.Codec{}, Registry: enginetest.Registry()}
	for _, f := range change {
		f(&c)
	}
	s, err := store.New(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func cmKey(namespace, name string) store.Key {
	return store.Key{Resource: "configmaps", Namespace: namespace, Name: name}
}

func podKey(namespace, name string) store.Key {
	return store.Key{Resource: "pods", Namespace: namespace, Name: name}
}

func cm(name, value string, expect uint64) store.Write {
	return store.Write{Key: cmKey("ns", name), Object: enginetest.ConfigMap("ns", name, value), Expect: expect}
}

func pod(namespace, name, node string) store.Write {
	return store.Write{Key: podKey(namespace, name), Object: enginetest.Pod(namespace, name, node), Expect: store.AnyRevision}
}

func must(t testing.TB, s *store.Store, writes ...store.Write) []*store.Record {
	t.Helper()
	r, err := s.Commit(context.Background(), writes...)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func names(seq iter.Seq[*store.Record]) string {
	var out []string
	for r := range seq {
		out = append(out, strings.TrimPrefix(r.Key().Namespace+"/"+r.Key().Name, "/"))
	}
	return strings.Join(out, " ")
}

func value(t testing.TB, r *store.Record) string {
	t.Helper()
	if r == nil {
		return "none"
	}
	obj, err := r.Object()
	if err != nil {
		t.Fatal(err)
	}
	if want := strconv.FormatUint(r.Revision(), 10); obj.GetResourceVersion() != want {
		t.Errorf("resourceVersion %s of a record at %s", obj.GetResourceVersion(), want)
	}
	return obj.(*corev1.ConfigMap).Data["value"]
}

func TestCommitAndRead(t *testing.T) {
	s := open(t)
	first := must(t, s, cm("a", "1", 0))[0]
	before := s.Snapshot()
	second := must(t, s, cm("a", "2", first.Revision()))[0]
	if second.Revision() != first.Revision()+1 {
		t.Errorf("revisions %d, %d", first.Revision(), second.Revision())
	}
	if v := value(t, before.Get(cmKey("ns", "a"))); v != "1" {
		t.Errorf("a snapshot changed: %s", v)
	}
	if v := value(t, s.Snapshot().Get(cmKey("ns", "a"))); v != "2" {
		t.Errorf("got %s", v)
	}
	gone := must(t, s, store.Write{Key: cmKey("ns", "a"), Expect: second.Revision()})[0]
	if v := value(t, gone); v != "2" || gone.Revision() != second.Revision()+1 {
		t.Errorf("deleted state %s at %d", v, gone.Revision())
	}
	if r := s.Snapshot().Get(cmKey("ns", "a")); r != nil {
		t.Error("still there after the delete")
	}
	if r := must(t, s, store.Write{Key: cmKey("ns", "a"), Expect: store.AnyRevision}); r[0] != nil || s.Snapshot().Revision() != gone.Revision() {
		t.Error("deleting nothing changed something")
	}
}

func TestPreconditions(t *testing.T) {
	s := open(t)
	at := must(t, s, cm("a", "1", 0))[0].Revision()
	for _, c := range []struct {
		w      store.Write
		actual uint64
		says   string
	}{
		{cm("a", "x", 0), at, "configmaps ns/a exists already, at revision 2"},
		{cm("a", "x", at+7), at, "configmaps ns/a is at revision 2, not 9"},
		{cm("b", "x", 3), 0, "configmaps ns/b does not exist"},
		{store.Write{Key: cmKey("ns", "b"), Expect: 3}, 0, "configmaps ns/b does not exist"},
	} {
		// The good write beside it must not happen either.
		_, err := s.Commit(t.Context(), cm("other", "y", 0), c.w)
		var conflict *store.ConflictError
		if !errors.Is(err, store.ErrConflict) || !errors.As(err, &conflict) || conflict.Actual != c.actual || err.Error() != c.says {
			t.Errorf("%+v: %v", c.w.Key, err)
		}
	}
	if got := names(s.Snapshot().List(store.Scope{Resource: "configmaps"}, store.Key{})); got != "ns/a" {
		t.Errorf("after failed transactions: %s", got)
	}
}

func TestBadWrites(t *testing.T) {
	s := open(t)
	for name, w := range map[string][]store.Write{
		"no name":   {{Key: cmKey("ns", ""), Object: enginetest.ConfigMap("", "", "")}},
		"NUL":       {{Key: cmKey("n\x00s", "a"), Object: enginetest.ConfigMap("", "", "")}},
		"twice":     {cm("a", "1", 0), cm("a", "2", 0)},
		"no encode": {{Key: store.Key{Resource: "nodes", Name: "n"}, Object: &unstructured.Unstructured{}}},
	} {
		if _, err := s.Commit(t.Context(), w...); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestListCountIndex(t *testing.T) {
	s := open(t)
	must(t, s, pod("a", "x", "n1"), pod("a", "y", "n2"), pod("ab", "x", "n1"), pod("b", "x", ""), pod("b", "z", "n1"))
	snap := s.Snapshot()
	for _, c := range []struct {
		scope store.Scope
		after store.Key
		want  string
	}{
		{store.Scope{}, store.Key{}, "a/x a/y ab/x b/x b/z"},
		{store.Scope{}, podKey("a", "y"), "ab/x b/x b/z"},
		{store.Scope{}, podKey("a", "yy"), "ab/x b/x b/z"},
		{store.Scope{Namespace: "a"}, store.Key{}, "a/x a/y"},
		{store.Scope{Namespace: "a"}, podKey("a", "x"), "a/y"},
		{store.Scope{Namespace: "b"}, podKey("a", "y"), "b/x b/z"},
		{store.Scope{Name: "x"}, store.Key{}, "a/x ab/x b/x"},
		{store.Scope{Name: "x"}, podKey("a", "x"), "ab/x b/x"},
		{store.Scope{Namespace: "b", Name: "x"}, store.Key{}, "b/x"},
		{store.Scope{Namespace: "b", Name: "y"}, store.Key{}, ""},
		{store.Scope{Namespace: "c"}, store.Key{}, ""},
	} {
		c.scope.Resource = "pods"
		if got := names(snap.List(c.scope, c.after)); got != c.want {
			t.Errorf("List(%v, %v) = %q, want %q", c.scope, c.after, got, c.want)
		}
		if n := snap.Count(c.scope); c.after == (store.Key{}) && n != len(strings.Fields(c.want)) {
			t.Errorf("Count(%v) = %d, want %q", c.scope, n, c.want)
		}
	}
	index := func(snap store.Snapshot, node string) string { return names(snap.Index("pods", "nodeName", node)) }
	if got := index(snap, "n1"); got != "a/x ab/x b/z" {
		t.Errorf("on n1: %q", got)
	}
	must(t, s, pod("a", "x", "n2"), store.Write{Key: podKey("b", "z"), Expect: store.AnyRevision}, pod("b", "x", "n1"))
	if got := index(s.Snapshot(), "n1"); got != "ab/x b/x" {
		t.Errorf("on n1 later: %q", got)
	}
	if got := index(snap, "n1"); got != "a/x ab/x b/z" {
		t.Errorf("the old snapshot's index changed: %q", got)
	}
	past, err := s.SnapshotAt(snap.Revision(), "pods")
	if err != nil {
		t.Fatal(err)
	}
	if got := index(past, "n1"); got != "a/x ab/x b/z" {
		t.Errorf("on n1 in the past: %q", got)
	}
	if n := s.Snapshot().Count(store.Scope{Resource: "pods", Namespace: "b"}); n != 1 {
		t.Errorf("count after the delete: %d", n)
	}
}

func TestReopen(t *testing.T) {
	fs := vfs.NewMem()
	s := openOn(t, fs)
	must(t, s, pod("a", "x", "n1"), cm("c", "v", 0), cm("d", "w", 0))
	must(t, s, store.Write{Key: store.Key{Resource: "example.com/widgets", Name: "w"}, Object: enginetest.ConfigMap("", "w", ""), Data: []byte("raw"), Expect: 0})
	revision := must(t, s, store.Write{Key: cmKey("ns", "d"), Expect: store.AnyRevision})[0].Revision()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = openOn(t, fs)
	snap := s.Snapshot()
	if snap.Revision() != revision {
		t.Errorf("revision %d, want %d", snap.Revision(), revision)
	}
	if v := value(t, snap.Get(cmKey("ns", "c"))); v != "v" {
		t.Errorf("got %s", v)
	}
	if got := names(snap.Index("pods", "nodeName", "n1")); got != "a/x" {
		t.Errorf("index after reopening: %q", got)
	}
	unknown := snap.Get(store.Key{Resource: "example.com/widgets", Name: "w"})
	if unknown == nil || string(unknown.Data()) != "raw" {
		t.Fatal("data of an unknown resource was not kept")
	}
	if _, err := unknown.Object(); err == nil {
		t.Error("data of an unknown resource was decoded")
	}
	if past, err := s.SnapshotAt(revision - 1); err != nil || past.Get(cmKey("ns", "d")) == nil || past.Get(cmKey("ns", "c")) == nil {
		t.Errorf("one revision ago: %v", err)
	}
	if _, err := s.SnapshotAt(0); !errors.Is(err, store.ErrExpired) {
		t.Errorf("before the start: %v", err)
	}
	if r := must(t, s, cm("e", "", 0))[0]; r.Revision() != revision+1 {
		t.Errorf("next revision %d", r.Revision())
	}
}

func TestReindexFollowsTheRegistry(t *testing.T) {
	registry := enginetest.Registry()
	s := open(t, func(c *store.Config) { c.Registry = registry })
	old := registry.ByKey("configmaps")
	must(t, s, cm("a", "red", 0), cm("b", "blue", 0), cm("c", "red", 0))
	changed := *old
	changed.Indexes = map[string]func(api.Object) []string{"colour": func(o api.Object) []string {
		return []string{o.(*corev1.ConfigMap).Data["value"]}
	}}
	if err := registry.Replace([]*api.Resource{old}, []*api.Resource{&changed}); err != nil {
		t.Fatal(err)
	}
	if err := s.Reindex(t.Context(), "configmaps"); err != nil {
		t.Fatal(err)
	}
	must(t, s, cm("d", "red", 0))
	if got := names(s.Snapshot().Index("configmaps", "colour", "red")); got != "ns/a ns/c ns/d" {
		t.Errorf("got %q", got)
	}
}

func TestSnapshotAt(t *testing.T) {
	s := open(t, func(c *store.Config) { c.HistoryEvents = 40 })
	var want []string
	var at []uint64
	for i := range 60 {
		w := cm(fmt.Sprint(i%7), fmt.Sprint(i), store.AnyRevision)
		if i%5 == 4 {
			w.Object = nil
		}
		if r := must(t, s, w)[0]; r == nil {
			continue
		}
		at = append(at, s.Snapshot().Revision())
		want = append(want, dump(t, s.Snapshot()))
	}
	start := len(at) - 40
	for i := range at {
		past, err := s.SnapshotAt(at[i], "configmaps")
		switch {
		case i < start-1:
			if !errors.Is(err, store.ErrExpired) {
				t.Errorf("revision %d: %v, want expired", at[i], err)
			}
		case err != nil:
			t.Errorf("revision %d: %v", at[i], err)
		case dump(t, past) != want[i] || past.Revision() != at[i]:
			t.Errorf("at %d: %s, want %s", at[i], dump(t, past), want[i])
		case past.Count(store.Scope{Resource: "configmaps"}) != len(strings.Fields(want[i])):
			t.Errorf("count at %d", at[i])
		}
	}
	if _, err := s.SnapshotAt(s.Snapshot().Revision() + 1); !errors.Is(err, store.ErrFuture) {
		t.Errorf("the future: %v", err)
	}
	// The noise of one resource does not age another.
	if _, err := s.SnapshotAt(at[0], "pods"); err != nil {
		t.Errorf("pods at the start: %v", err)
	}
}

func dump(t *testing.T, snap store.Snapshot) string {
	var b strings.Builder
	for r := range snap.List(store.Scope{Resource: "configmaps"}, store.Key{}) {
		fmt.Fprintf(&b, "%s=%s@%d ", r.Key().Name, value(t, r), r.Revision())
	}
	return b.String()
}

func TestWaitFor(t *testing.T) {
	s := open(t)
	next := s.Snapshot().Revision() + 2
	done := make(chan error)
	go func() { done <- s.WaitFor(context.Background(), next) }()
	must(t, s, cm("a", "1", 0))
	select {
	case err := <-done:
		t.Fatalf("came back before the revision: %v", err)
	case <-time.After(20 * time.Millisecond):
	}
	must(t, s, cm("b", "1", 0))
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if err := s.WaitFor(ctx, next+100); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
	go func() { done <- s.WaitFor(context.Background(), next+100) }()
	time.Sleep(time.Millisecond)
	s.Close()
	if err := <-done; !errors.Is(err, store.ErrClosed) {
		t.Error(err)
	}
	if _, err := s.Commit(t.Context(), cm("c", "1", 0)); !errors.Is(err, store.ErrClosed) {
		t.Error(err)
	}
}

func TestFormsAreMadeOnceAndBounded(t *testing.T) {
	s := open(t, func(c *store.Config) { c.FormBytes = 10_000 })
	r := must(t, s, cm("a", "1", 0))[0]
	made := 0
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			data, err := r.Form("json", func() ([]byte, error) { made++; time.Sleep(time.Millisecond); return []byte("{}"), nil })
			if err != nil || string(data) != "{}" {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if made != 1 {
		t.Errorf("made %d times", made)
	}
	if _, err := r.Form("bad", func() ([]byte, error) { return nil, errors.New("no") }); err == nil {
		t.Error("no error")
	}
	hits := 0
	for range 2 {
		for i := range 100 {
			hit := true
			_, _ = must(t, s, cm(fmt.Sprint("k", i), "v", store.AnyRevision))[0].Form("json", func() ([]byte, error) { hit = false; return make([]byte, 1000), nil })
			if hit {
				hits++
			}
		}
	}
	held := 0
	for rec := range s.Snapshot().List(store.Scope{Resource: "configmaps"}, store.Key{}) {
		_, err := rec.Form("json", func() ([]byte, error) { return nil, errors.New("not held") })
		if err == nil {
			held++
		}
	}
	if held == 0 || held > 11 {
		t.Errorf("%d forms of 1,000 bytes are held by a budget of 10,000", held)
	}
}

func TestCommitGivesUpBeforeItBegan(t *testing.T) {
	s := open(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Commit(ctx, cm("a", "1", 0)); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if s.Snapshot().Get(cmKey("ns", "a")) != nil {
		t.Error("written all the same")
	}
}

func TestConcurrentCounters(t *testing.T) {
	s := open(t)
	must(t, s, cm("n", "0", 0))
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for done := 0; done < 50; {
				r := s.Snapshot().Get(cmKey("ns", "n"))
				n, _ := strconv.Atoi(value(t, r))
				_, err := s.Commit(context.Background(), cm("n", strconv.Itoa(n+1), r.Revision()))
				switch {
				case err == nil:
					done++
				case !errors.Is(err, store.ErrConflict):
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	if v := value(t, s.Snapshot().Get(cmKey("ns", "n"))); v != "400" {
		t.Errorf("400 increments gave %s", v)
	}
}

func TestDeletionTimestampCountsAsFreeing(t *testing.T) {
	// see store/pebble for the disk; here only what the store calls freeing
	e := &fullEngine{}
	s, err := store.New(store.Config{Engine: e, Codec: enginetest.Codec{}, Registry: enginetest.Registry()})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	must(t, s, cm("a", "1", 0), cm("b", "1", 0))
	e.full = true
	if _, err := s.Commit(t.Context(), cm("c", "1", 0)); !errors.Is(err, store.ErrNoSpace) {
		t.Errorf("create: %v", err)
	}
	dying := cm("a", "1", store.AnyRevision)
	now := metav1.Now()
	dying.Object.SetDeletionTimestamp(&now)
	must(t, s, dying)
	must(t, s, store.Write{Key: cmKey("ns", "b"), Expect: store.AnyRevision})
	e.full = false
	must(t, s, cm("c", "1", 0))
	e.broken = errors.New("I/O error")
	if _, err := s.Commit(t.Context(), cm("d", "1", 0)); !errors.Is(err, store.ErrClosed) || !strings.Contains(err.Error(), "I/O error") {
		t.Errorf("broken engine: %v", err)
	}
	e.broken = nil
	if _, err := s.Commit(t.Context(), cm("d", "1", 0)); !errors.Is(err, store.ErrClosed) || s.Err() == nil {
		t.Errorf("after a failed sync nobody knows what is on disk, yet: %v", err)
	}
	if got := names(s.Snapshot().List(store.Scope{Resource: "configmaps"}, store.Key{})); got != "ns/a ns/c" {
		t.Errorf("world: %s", got)
	}
}

// fullEngine forgets everything and fails on demand.
type fullEngine struct {
	full   bool
	broken error
}

func (e *fullEngine) Load(context.Context, func(store.Entry) error) (uint64, error) { return 0, nil }
func (e *fullEngine) Stat() store.Stat                                              { return store.Stat{} }
func (e *fullEngine) Close() error                                                  { return nil }
func (e *fullEngine) Commit(_ context.Context, _ []store.Entry, freeing bool) error {
	if e.full && !freeing {
		return fmt.Errorf("%w: no room", store.ErrNoSpace)
	}
	return e.broken
}
