package pebble

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"proa/store"
)

var configMaps = store.Scope{Resource: "configmaps"}

// told is all that a watch from a revision says at once, in short.
func told(t *testing.T, s *store.Store, from uint64) (out []string) {
	t.Helper()
	w, err := s.Watch(from, configMaps)
	if err != nil {
		t.Fatalf("from %d: %v", from, err)
	}
	defer w.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for at, end := from, s.Snapshot().Revision(); at < end; {
		var events []store.Event
		if events, at, err = w.Next(ctx); err != nil {
			t.Fatal(err)
		}
		for _, e := range events {
			out = append(out, fmt.Sprintf("%d %d %s %s<-%s", e.Revision, e.Type, e.Record.Key().Name, valueOf(t, e.Record), valueOf(t, e.Prev)))
		}
	}
	return out
}

func valueOf(t *testing.T, r *store.Record) string {
	if r == nil {
		return ""
	}
	obj, err := r.Object()
	if err != nil {
		t.Fatal(err)
	}
	return obj.(*corev1.ConfigMap).Data["value"]
}

// change makes some changes, at random.
func someChanges(t *testing.T, s *store.Store, rng *rand.Rand, n int) {
	t.Helper()
	for range n {
		w := cm(fmt.Sprint(rng.IntN(8)), fmt.Sprint(rng.Uint32()))
		if rng.IntN(4) == 0 {
			w.Object = nil
		}
		if _, err := s.Commit(t.Context(), w, cm("other", fmt.Sprint(rng.Uint32()))); err != nil {
			t.Fatal(err)
		}
	}
}

// A watch goes on over restarts, proper ones and crashes, one after the other:
// it says what it would have said without.
func TestPastOverRestarts(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	dir := t.TempDir()
	s := newStore(t, Config{Dir: dir})
	someChanges(t, s, rng, 20)
	from := s.Snapshot().Revision()
	for round, crash := range []bool{false, false, true, true, false, true} {
		someChanges(t, s, rng, 30)
		want := told(t, s, from)
		past, err := s.SnapshotAt(from)
		if err != nil {
			t.Fatal(err)
		}
		left := s
		if crash {
			dir = copied(t, dir)
			t.Cleanup(func() { left.Close() })
		} else if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		s = newStore(t, Config{Dir: dir})
		if got := told(t, s, from); strings.Join(got, "\n") != strings.Join(want, "\n") {
			t.Fatalf("round %d (crash: %v): told\n%s\nwant\n%s", round, crash, strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
		again, err := s.SnapshotAt(from)
		if err != nil {
			t.Fatal(err)
		}
		if got, want := list(t, again), list(t, past); got != want {
			t.Fatalf("round %d: at %d there was %s, now it says %s", round, from, want, got)
		}
	}
	s.Close()
}

func list(t *testing.T, s store.Snapshot) (out string) {
	for r := range s.List(configMaps, store.Key{}) {
		out += fmt.Sprintf("%s=%s@%d ", r.Key().Name, valueOf(t, r), r.Revision())
	}
	return out
}

// copied is the directory as a crash of the process would leave it now.
func copied(t *testing.T, dir string) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "data")
	if err := os.CopyFS(to, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	return to
}

// checkPast: the history that a crash left leads to what is there.
func checkPast(t *testing.T, s *store.Store) {
	t.Helper()
	from := s.Snapshot().Revision()
	for at := from; at > 0; at-- {
		w, err := s.Watch(at, configMaps)
		if err != nil {
			break
		}
		w.Close()
		from = at
	}
	last := map[string]string{}
	for _, line := range told(t, s, from) {
		var revision, typ int
		var name string
		fmt.Sscan(line, &revision, &typ, &name)
		_, values, _ := strings.Cut(line, name+" ")
		now, before, _ := strings.Cut(values, "<-")
		if known, ok := last[name]; ok && known != before {
			t.Errorf("at %d %s was not what it had become", revision, name)
		}
		last[name] = now
	}
	for name, value := range last {
		if got := valueOf(t, s.Snapshot().Get(cmKey(name))); got != value {
			t.Errorf("the history ends with another %s", name)
		}
	}
}

// Without a past, or with one that is damaged or of another state, clients are
// told to list again.
func TestNoPast(t *testing.T) {
	for name, spoil := range map[string]func(dir string) error{
		"missing": func(dir string) error { return os.Remove(filepath.Join(dir, pastName)) },
		"damaged": func(dir string) error {
			path := filepath.Join(dir, pastName)
			text, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			text[len(text)/2] ^= 1
			return os.WriteFile(path, text, 0o600)
		},
	} {
		dir := t.TempDir()
		s := newStore(t, Config{Dir: dir})
		someChanges(t, s, rand.New(rand.NewPCG(1, 2)), 10)
		from := s.Snapshot().Revision()
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if err := spoil(dir); err != nil {
			t.Fatal(err)
		}
		s = newStore(t, Config{Dir: dir})
		if _, err := s.Watch(from-1, configMaps); err != store.ErrExpired {
			t.Errorf("%s: %v", name, err)
		}
		if got := told(t, s, from); len(got) != 0 {
			t.Errorf("%s: told %v", name, got)
		}
		s.Close()
	}
}

// What was sealed anew is nowhere else any more, the history included.
func TestCompactForgetsThePast(t *testing.T) {
	dir := t.TempDir()
	s := newStore(t, Config{Dir: dir})
	someChanges(t, s, rand.New(rand.NewPCG(1, 2)), 10)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	e := openDir(t, dir)
	defer e.Close()
	if err := e.Compact(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, pastName)); !os.IsNotExist(err) {
		t.Errorf("the history is there still: %v", err)
	}
}
