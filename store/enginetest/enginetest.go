// Package enginetest is the suite that every store.Engine must pass, and the
// small set of kinds that tests of the store work with.
package enginetest

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"math/rand"
	"slices"
	"testing"

	"proa/store"
)

// Engine is what the suite asks of an engine. Embedded and Shared make one of
// each kind.
type Engine interface {
	// Load is store.Engine's: all live keys in order, and the newest revision.
	Load(ctx context.Context, emit func(store.Entry) error) (revision uint64, err error)
	// Write commits all entries or none and returns them with their revisions.
	Write(ctx context.Context, entries ...store.Entry) ([]store.Entry, error)
	Stat() store.Stat
	Close() error
}

// Open opens the engine on a directory, or what stands for one; the suite opens
// the same one again after closing it.
type Open func(t *testing.T, dir string) Engine

// Run runs the suite.
func Run(t *testing.T, open Open) {
	for name, test := range map[string]func(*testing.T, Open){
		"an empty engine holds nothing":             empty,
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

func put(k store.Key, value string) store.Entry { return store.Entry{Key: k, Value: []byte(value)} }

func load(t *testing.T, e Engine) ([]store.Entry, uint64) {
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

func commit(t *testing.T, e Engine, entries ...store.Entry) []store.Entry {
	t.Helper()
	done, err := e.Write(context.Background(), entries...)
	if err != nil {
		t.Fatal(err)
	}
	return done
}

func closed(t *testing.T, e Engine) {
	t.Helper()
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
}

// expect compares what is there; revision is the newest that was written.
func expect(t *testing.T, e Engine, revision uint64, want ...store.Entry) {
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
	if got, _ := load(t, e); len(got) > 0 {
		t.Errorf("loaded %v", brief(got))
	}
}

func comesBack(t *testing.T, open Open) {
	dir := t.TempDir()
	e := open(t, dir)
	ab := commit(t, e, put(key("pods", "ns", "a"), "1"), put(key("pods", "ns", "b"), "2"))
	a2 := commit(t, e, put(key("pods", "ns", "a"), "3"))[0]
	if a2.Revision <= ab[1].Revision {
		t.Errorf("revision %d came after %d", a2.Revision, ab[1].Revision)
	}
	expect(t, e, a2.Revision, a2, ab[1])
	closed(t, e)
	e = open(t, dir)
	defer closed(t, e)
	expect(t, e, a2.Revision, a2, ab[1])
	if s := e.Stat(); s.DiskBytes <= 0 {
		t.Errorf("stat says that nothing is on disk: %+v", s)
	}
}

func newestRevision(t *testing.T, open Open) {
	dir := t.TempDir()
	e := open(t, dir)
	k := key("configmaps", "ns", "a")
	commit(t, e, put(k, "x"))
	gone := commit(t, e, store.Entry{Key: k})[0]
	closed(t, e)
	e = open(t, dir)
	defer closed(t, e)
	expect(t, e, gone.Revision)
}

func oddKeys(t *testing.T, open Open) {
	dir := t.TempDir()
	e := open(t, dir)
	var want []store.Entry
	for i, k := range []store.Key{
		key("apps/deployments", "a", "x"), key("apps/deployments", "a-b", "x"), key("apps/deployments", "ab", "a"),
		key("example.com/things", "", "a.b"), key("namespaces", "", "a"), key("namespaces", "", "ö.example.com:x"),
		key("pods", "a", "b"), key("pods", "a", "b.c"), key("pods", "a", "b0"),
	} {
		want = append(want, store.Entry{Key: k, Value: []byte{byte(i)}})
	}
	shuffled := slices.Clone(want)
	rand.Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
	want = commit(t, e, shuffled...)
	slices.SortFunc(want, func(a, b store.Entry) int { return a.Key.Compare(b.Key) })
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
		want = append(want, commit(t, e, store.Entry{Key: key("secrets", "ns", fmt.Sprint(i)), Value: v})...)
	}
	closed(t, e)
	e = open(t, dir)
	defer closed(t, e)
	expect(t, e, want[len(want)-1].Revision, want...)
}

// model commits random batches and compares with a map after each reopening.
func model(t *testing.T, open Open) {
	dir := t.TempDir()
	rng := rand.New(rand.NewSource(1))
	want := map[store.Key]store.Entry{}
	revision := uint64(0)
	for round := range 5 {
		e := open(t, dir)
		for range 40 {
			for _, en := range commit(t, e, randomBatch(rng, round)...) {
				revision = en.Revision
				if want[en.Key] = en; en.Value == nil {
					delete(want, en.Key)
				}
			}
		}
		closed(t, e)
		e = open(t, dir)
		all := slices.SortedFunc(maps.Values(want), func(a, b store.Entry) int { return a.Key.Compare(b.Key) })
		expect(t, e, revision, all...)
		closed(t, e)
	}
}

// randomBatch writes no key twice, and always something.
func randomBatch(rng *rand.Rand, round int) []store.Entry {
	batch := []store.Entry{put(key("pods", "0", "always"), fmt.Sprint(rng.Int()))}
	for n := range 1 + rng.Intn(20) {
		en := store.Entry{Key: key("pods", fmt.Sprint(rng.Intn(3)), fmt.Sprint(rng.Intn(50)))}
		if slices.ContainsFunc(batch, func(b store.Entry) bool { return b.Key == en.Key }) {
			continue
		}
		if rng.Intn(3) > 0 {
			en.Value = fmt.Appendf(nil, "%d-%0*d", round, rng.Intn(2000), n)
		}
		batch = append(batch, en)
	}
	return batch
}

func reopen(t *testing.T, open Open) {
	dir := t.TempDir()
	e := open(t, dir)
	a := commit(t, e, put(key("pods", "ns", "a"), "1"))[0]
	closed(t, e)
	for range 5 {
		e = open(t, dir)
		expect(t, e, a.Revision, a)
		closed(t, e)
	}
}

func emitError(t *testing.T, open Open) {
	e := open(t, t.TempDir())
	defer closed(t, e)
	commit(t, e, put(key("pods", "ns", "a"), "1"), put(key("pods", "ns", "b"), "1"))
	n := 0
	_, err := e.Load(t.Context(), func(store.Entry) error { n++; return context.Canceled })
	if err != context.Canceled || n != 1 {
		t.Errorf("after an error of emit: %v, %d calls", err, n)
	}
}
