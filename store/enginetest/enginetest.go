// Package enginetest is the suite that every store.Engine must pass, and the
// small set of kinds that tests of the store work with.
package enginetest

import (
	"bytes"
	"context"
	"fmt"
	"math/rand"
	"slices"
	"testing"

	"proa/store"
)

// Open opens the engine on a directory; the suite opens the same one again
// after closing it.
type Open func(t *testing.T, dir string) store.Engine

// Run runs the suite.
func Run(t *testing.T, open Open) {
	for name, test := range map[string]func(*testing.T, Open){
		"an empty engine is at revision 0":          empty,
		"what was committed comes back":             comesBack,
		"the newest revision survives its delete":   newestRevision,
		"keys come in order and are taken as is":    oddKeys,
		"values of all sizes":                       sizes,
		"a long history equals a map":               model,
		"reopening without commits changes nothing": reopen,
		"emit can end the load":                     emitError,
	} {
		t.Run(name, func(t *testing.T) { test(t, open) })
	}
}

func key(resource, namespace, name string) store.Key {
	return store.Key{Resource: resource, Namespace: namespace, Name: name}
}

func load(t *testing.T, e store.Engine) ([]store.Entry, uint64) {
	t.Helper()
	var all []store.Entry
	revision, err := e.Load(t.Context(), func(e store.Entry) error {
		all = append(all, e)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all, revision
}

func commit(t *testing.T, e store.Engine, entries ...store.Entry) {
	t.Helper()
	if err := e.Commit(context.Background(), entries, false); err != nil {
		t.Fatal(err)
	}
}

func closed(t *testing.T, e store.Engine) {
	t.Helper()
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
}

func expect(t *testing.T, e store.Engine, revision uint64, want ...store.Entry) {
	t.Helper()
	got, r := load(t, e)
	if r != revision {
		t.Errorf("revision %d, want %d", r, revision)
	}
	if !slices.EqualFunc(got, want, equal) {
		t.Errorf("loaded %v, want %v", brief(got), brief(want))
	}
}

func equal(a, b store.Entry) bool {
	return a.Key == b.Key && a.Revision == b.Revision && bytes.Equal(a.Value, b.Value)
}

func brief(entries []store.Entry) (out []string) {
	for _, e := range entries {
		out = append(out, fmt.Sprintf("%s@%d(%d)", e.Key, e.Revision, len(e.Value)))
	}
	return out
}

func empty(t *testing.T, open Open) {
	e := open(t, t.TempDir())
	defer closed(t, e)
	expect(t, e, 0)
}

func comesBack(t *testing.T, open Open) {
	dir := t.TempDir()
	e := open(t, dir)
	a := store.Entry{Key: key("pods", "ns", "a"), Revision: 2, Value: []byte("1")}
	b := store.Entry{Key: key("pods", "ns", "b"), Revision: 3, Value: []byte("2")}
	a2 := store.Entry{Key: a.Key, Revision: 4, Value: []byte("3")}
	commit(t, e, a, b)
	commit(t, e, a2)
	expect(t, e, 4, a2, b)
	closed(t, e)
	e = open(t, dir)
	defer closed(t, e)
	expect(t, e, 4, a2, b)
	if s := e.Stat(); s.DiskBytes <= 0 {
		t.Errorf("stat says that nothing is on disk: %+v", s)
	}
}

func newestRevision(t *testing.T, open Open) {
	dir := t.TempDir()
	e := open(t, dir)
	k := key("configmaps", "ns", "a")
	commit(t, e, store.Entry{Key: k, Revision: 5, Value: []byte("x")}, store.Entry{Key: k, Revision: 6})
	closed(t, e)
	e = open(t, dir)
	defer closed(t, e)
	expect(t, e, 6)
}

func oddKeys(t *testing.T, open Open) {
	dir := t.TempDir()
	e := open(t, dir)
	keys := []store.Key{
		key("apps/deployments", "a", "x"), key("apps/deployments", "a-b", "x"), key("apps/deployments", "ab", "a"),
		key("namespaces", "", "a"), key("namespaces", "", "ö.example.com:x"),
		key("pods", "a", "b"), key("pods", "a", "b.c"), key("pods", "a", "b0"),
	}
	var want []store.Entry
	for i, k := range keys {
		want = append(want, store.Entry{Key: k, Revision: uint64(100 - i), Value: []byte{byte(i)}})
	}
	shuffled := slices.Clone(want)
	rand.Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
	commit(t, e, shuffled...)
	closed(t, e)
	e = open(t, dir)
	defer closed(t, e)
	got, _ := load(t, e)
	if !slices.EqualFunc(got, want, equal) {
		t.Errorf("loaded %v, want %v", brief(got), brief(want))
	}
}

func sizes(t *testing.T, open Open) {
	dir := t.TempDir()
	e := open(t, dir)
	var want []store.Entry
	for i, n := range []int{0, 1, 255, 4096, 70_000, 1_500_000} {
		v := make([]byte, n)
		rand.New(rand.NewSource(int64(n))).Read(v)
		want = append(want, store.Entry{Key: key("secrets", "ns", fmt.Sprint(i)), Revision: uint64(i + 2), Value: v})
	}
	commit(t, e, want...)
	closed(t, e)
	e = open(t, dir)
	defer closed(t, e)
	expect(t, e, 7, want...)
}

// model commits random batches and compares with a map after each reopening.
func model(t *testing.T, open Open) {
	dir := t.TempDir()
	rng := rand.New(rand.NewSource(1))
	want := map[store.Key]store.Entry{}
	revision := uint64(1)
	for round := range 5 {
		e := open(t, dir)
		for range 40 {
			var batch []store.Entry
			for range 1 + rng.Intn(20) {
				revision++
				en := store.Entry{Key: key("pods", fmt.Sprint(rng.Intn(3)), fmt.Sprint(rng.Intn(50))), Revision: revision}
				if rng.Intn(3) > 0 {
					en.Value = fmt.Appendf(nil, "%d-%0*d", round, rng.Intn(2000), revision)
				}
				batch = append(batch, en)
			}
			commit(t, e, batch...)
			for _, en := range batch {
				if want[en.Key] = en; en.Value == nil {
					delete(want, en.Key)
				}
			}
		}
		closed(t, e)
		e = open(t, dir)
		var all []store.Entry
		for _, en := range want {
			all = append(all, en)
		}
		slices.SortFunc(all, func(a, b store.Entry) int { return a.Key.Compare(b.Key) })
		expect(t, e, revision, all...)
		closed(t, e)
	}
}

func reopen(t *testing.T, open Open) {
	dir := t.TempDir()
	e := open(t, dir)
	a := store.Entry{Key: key("pods", "ns", "a"), Revision: 2, Value: []byte("1")}
	commit(t, e, a)
	closed(t, e)
	for range 5 {
		e = open(t, dir)
		expect(t, e, 2, a)
		closed(t, e)
	}
}

func emitError(t *testing.T, open Open) {
	e := open(t, t.TempDir())
	defer closed(t, e)
	commit(t, e, store.Entry{Key: key("pods", "ns", "a"), Revision: 2, Value: []byte("1")},
		store.Entry{Key: key("pods", "ns", "b"), Revision: 3, Value: []byte("1")})
	n := 0
	_, err := e.Load(t.Context(), func(store.Entry) error { n++; return context.Canceled })
	if err != context.Canceled || n != 1 {
		t.Errorf("after an error of emit: %v, %d calls", err, n)
	}
}
