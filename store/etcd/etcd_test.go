package etcd

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"proa/store"
	"proa/store/enginetest"
	"proa/store/etcd/etcdtest"
)

// prefixOf lets a directory's name stand for a place in etcd.
func prefixOf(dir string) string {
	sum := sha256.Sum256([]byte(dir))
	return "/test/" + hex.EncodeToString(sum[:6])
}

func engine(t *testing.T, c Config) *Engine {
	t.Helper()
	e, err := Open(c)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func storeOn(t *testing.T, c Config) *store.Store {
	t.Helper()
	s, err := store.New(store.Config{Remote: engine(t, c), Codec: enginetest.Codec{}, Registry: enginetest.Registry()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func TestEngine(t *testing.T) {
	server := etcdtest.Start(t)
	enginetest.Run(t, func(t *testing.T, dir string) enginetest.Engine {
		return enginetest.Shared(engine(t, Config{Endpoints: []string{server.URL}, Prefix: prefixOf(dir)}))
	})
}

func TestStore(t *testing.T) {
	server := etcdtest.Start(t)
	enginetest.RunStore(t, func(t *testing.T, dir string) *store.Store {
		return storeOn(t, Config{Endpoints: []string{server.URL}, Prefix: prefixOf(dir)})
	})
}

func cmKey(name string) store.Key {
	return store.Key{Resource: "configmaps", Namespace: "ns", Name: name}
}

func cm(name, value string, expect uint64) store.Write {
	return store.Write{Key: cmKey(name), Object: enginetest.ConfigMap("ns", name, value), Expect: expect}
}

func must(t *testing.T, s *store.Store, writes ...store.Write) []*store.Record {
	t.Helper()
	r, err := s.Commit(t.Context(), writes...)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

var all = store.Scope{Resource: "configmaps"}

// Two servers: what one acknowledged, the other's Latest shows, watches of both
// tell the same, and one of two writes on the same condition loses.
func TestTwoServers(t *testing.T) {
	server := etcdtest.Start(t)
	c := Config{Endpoints: []string{server.URL}}
	a, b := storeOn(t, c), storeOn(t, c)
	_, wa := a.SnapshotAndWatch(all)
	_, wb := b.SnapshotAndWatch(all)
	defer wa.Close()
	defer wb.Close()
	var want []string
	for i := range 50 {
		one, other := a, b
		if i%2 == 1 {
			one, other = b, a
		}
		name := fmt.Sprint(i)
		rec := must(t, one, cm(name, "1", 0))[0]
		snap, err := other.Latest(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if got := snap.Get(cmKey(name)); got == nil || got.Revision() != rec.Revision() {
			t.Fatalf("the other server shows %v, want revision %d", got, rec.Revision())
		}
		if _, err := other.Commit(t.Context(), cm(name, "2", 0)); !errors.Is(err, store.ErrConflict) {
			t.Fatalf("created twice: %v", err)
		}
		want = append(want, "+"+name)
	}
	for _, w := range []store.Watcher{wa, wb} {
		if got := enginetest.Collect(t, w, 50); got != strings.Join(want, " ") {
			t.Errorf("watched %s", got)
		}
	}
}

// Latest waits for revisions that no object of ours has.
func TestOthersWriteToo(t *testing.T) {
	server := etcdtest.Start(t)
	s := storeOn(t, Config{Endpoints: []string{server.URL}})
	other := server.Client(t)
	for i := range 20 {
		put, err := other.Put(t.Context(), "elsewhere", fmt.Sprint(i))
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		snap, err := s.Latest(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if snap.Revision() < uint64(put.Header.Revision) {
			t.Fatalf("the latest world is at %d, etcd at %d", snap.Revision(), put.Header.Revision)
		}
		if d := time.Since(began); d > 5*time.Second {
			t.Errorf("it took %s", d)
		}
	}
}

// A store that lost etcd says so within the caller's time, and goes on by itself
// when etcd is back: after a crash and after a hang.
func TestComesBack(t *testing.T) {
	server := etcdtest.Start(t, "--unsafe-no-fsync=false")
	s := storeOn(t, Config{Endpoints: []string{server.URL}})
	_, w := s.SnapshotAndWatch(all)
	defer w.Close()
	for i, fault := range []struct {
		name        string
		break_, end func(testing.TB)
	}{
		{"crash", server.Kill, server.Run},
		{"hang", server.Freeze, server.Thaw},
	} {
		before := must(t, s, cm("before"+fmt.Sprint(i), "1", 0))[0]
		fault.break_(t)
		ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		_, err := s.Latest(ctx)
		if !errors.Is(err, store.ErrUnavailable) {
			t.Errorf("%s: reading: %v", fault.name, err)
		}
		if err := s.Healthy(ctx); err == nil {
			t.Errorf("%s: it says that it is well", fault.name)
		}
		cancel()
		ctx, cancel = context.WithTimeout(t.Context(), 500*time.Millisecond)
		_, err = s.Commit(ctx, cm("during"+fmt.Sprint(i), "1", 0))
		if !errors.Is(err, store.ErrUnconfirmed) && !errors.Is(err, store.ErrUnavailable) {
			t.Errorf("%s: writing: %v", fault.name, err)
		}
		cancel()
		if got := s.Snapshot().Get(before.Key()); got == nil {
			t.Errorf("%s: old state cannot be read", fault.name)
		}
		fault.end(t)
		ctx, cancel = context.WithTimeout(t.Context(), 30*time.Second)
		for s.Healthy(ctx) != nil && ctx.Err() == nil {
			time.Sleep(50 * time.Millisecond)
		}
		cancel()
		must(t, s, cm("after"+fmt.Sprint(i), "1", 0))
	}
	got := enginetest.Collect(t, w, 4)
	for _, name := range []string{"+before0", "+after0", "+before1", "+after1"} {
		if !strings.Contains(got, name) {
			got += " " + enginetest.Collect(t, w, 1)
		}
		if !strings.Contains(got, name) {
			t.Errorf("watched %s, without %s", got, name)
		}
	}
}

// What etcd has forgotten while a store was cut off ends that store's watches,
// and the store itself reads everything anew.
func TestCompactedMeanwhile(t *testing.T) {
	server := etcdtest.Start(t)
	cut := newProxy(t, server.URL)
	s := storeOn(t, Config{Endpoints: []string{cut.url}})
	other := storeOn(t, Config{Endpoints: []string{server.URL}})
	kept := must(t, s, cm("kept", "1", 0))[0]
	must(t, s, cm("gone", "1", 0))
	_, w := s.SnapshotAndWatch(all)
	defer w.Close()
	cut.close()
	must(t, other, store.Write{Key: cmKey("gone"), Expect: store.AnyRevision})
	must(t, other, cm("new", "1", 0))
	server.CompactNow(t)
	cut.open(t)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	var err error
	for err == nil {
		_, _, err = w.Next(ctx)
	}
	if !errors.Is(err, store.ErrExpired) {
		t.Fatalf("the watch: %v", err)
	}
	snap, err := s.Latest(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if snap.Get(cmKey("gone")) != nil || snap.Get(cmKey("new")) == nil || snap.Get(cmKey("kept")) == nil {
		t.Error("the world is not what etcd holds")
	}
	if snap.Get(cmKey("kept")).Revision() != kept.Revision() {
		t.Error("an object that nobody changed has another revision")
	}
	if _, err := s.Watch(kept.Revision(), all); !errors.Is(err, store.ErrExpired) {
		t.Errorf("watching from before: %v", err)
	}
	must(t, s, cm("on", "1", 0))
}

// A store that starts knows what happened before, as far as etcd does: clients
// go on with their watches.
func TestHistoryOverRestart(t *testing.T) {
	server := etcdtest.Start(t)
	c := Config{Endpoints: []string{server.URL}}
	s := storeOn(t, c)
	a := must(t, s, cm("a", "1", 0))[0]
	must(t, s, cm("a", "2", a.Revision()))
	must(t, s, cm("b", "1", 0))
	must(t, s, store.Write{Key: cmKey("a"), Expect: store.AnyRevision})
	s.Close()
	s = storeOn(t, c)
	w, err := s.Watch(a.Revision(), all)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if got := enginetest.Collect(t, w, 3); got != "~a +b -a" {
		t.Errorf("watched %s", got)
	}
	past, err := s.SnapshotAt(a.Revision())
	if err != nil || past.Count(all) != 1 {
		t.Errorf("the past: %v", err)
	}
	server.CompactNow(t)
	s.Close()
	s = storeOn(t, c)
	if _, err := s.Watch(a.Revision(), all); !errors.Is(err, store.ErrExpired) {
		t.Errorf("watching from what is compacted: %v", err)
	}
	if s.Snapshot().Get(cmKey("b")) == nil {
		t.Error("b is gone")
	}
}

// Servers take turns at compacting, and what is younger than a turn stays.
func TestCompaction(t *testing.T) {
	server := etcdtest.Start(t)
	c := Config{Endpoints: []string{server.URL}, CompactEvery: 300 * time.Millisecond}
	a, b := storeOn(t, c), storeOn(t, c)
	client := server.Client(t)
	first := must(t, a, cm("x", "0", 0))[0].Revision()
	var last uint64
	began := time.Now()
	for i := 0; ; i++ {
		last = must(t, []*store.Store{a, b}[i%2], cm("x", fmt.Sprint(i), store.AnyRevision))[0].Revision()
		if _, err := client.Get(t.Context(), "x", withRev(first)); err != nil {
			break
		}
		if time.Since(began) > 30*time.Second {
			t.Fatal("nobody compacted")
		}
		time.Sleep(10 * time.Millisecond)
	}
	if _, err := client.Get(t.Context(), "x", withRev(last)); err != nil {
		t.Errorf("what was written just now is compacted: %v", err)
	}
}

// A full etcd refuses what grows with an error that says so, takes deletes, and
// is brought back into use by itself.
func TestFull(t *testing.T) {
	server := etcdtest.Start(t, "--quota-backend-bytes=4194304")
	s := storeOn(t, Config{Endpoints: []string{server.URL}})
	big := strings.Repeat("x", 500<<10)
	var err error
	n := 0
	for ; err == nil && n < 100; n++ {
		_, err = s.Commit(t.Context(), cm(fmt.Sprint(n), big, 0))
	}
	if !errors.Is(err, store.ErrNoSpace) {
		t.Fatalf("after %d objects: %v", n, err)
	}
	for i := range n - 1 {
		must(t, s, store.Write{Key: cmKey(fmt.Sprint(i)), Expect: store.AnyRevision})
	}
	deadline := time.Now().Add(2 * time.Minute)
	for {
		if _, err = s.Commit(t.Context(), cm("small", "1", store.AnyRevision)); err == nil {
			break
		}
		if !errors.Is(err, store.ErrNoSpace) && !errors.Is(err, store.ErrUnconfirmed) || time.Now().After(deadline) {
			t.Fatalf("after deleting: %v", err)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

func TestTooLarge(t *testing.T) {
	server := etcdtest.Start(t)
	s := storeOn(t, Config{Endpoints: []string{server.URL}})
	for _, size := range []int{3 << 20, 20 << 20} {
		if _, err := s.Commit(t.Context(), cm("a", strings.Repeat("x", size), 0)); !errors.Is(err, store.ErrTooLarge) {
			t.Errorf("%d bytes: %v", size, err)
		}
	}
	must(t, s, cm("a", "1", 0))
}

// Many readers and writers on two servers, while connections break.
func TestUnderCuts(t *testing.T) {
	server := etcdtest.Start(t)
	cut := newProxy(t, server.URL)
	stores := []*store.Store{storeOn(t, Config{Endpoints: []string{cut.url}}), storeOn(t, Config{Endpoints: []string{server.URL}})}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	var wg sync.WaitGroup
	wg.Go(func() {
		for ctx.Err() == nil {
			time.Sleep(300 * time.Millisecond)
			cut.close()
			time.Sleep(50 * time.Millisecond)
			cut.open(t)
		}
	})
	acked := make([]map[string]uint64, 8)
	for i := range acked {
		acked[i] = map[string]uint64{}
		wg.Go(func() {
			s := stores[i%2]
			for n := 0; ctx.Err() == nil; n++ {
				name := fmt.Sprintf("%d-%d", i, n)
				if r, err := s.Commit(ctx, cm(name, "1", store.AnyRevision)); err == nil {
					acked[i][name] = r[0].Revision()
				}
			}
		})
	}
	wg.Wait()
	for _, s := range stores {
		snap, err := s.Latest(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		total := 0
		for _, names := range acked {
			for name, revision := range names {
				total++
				if got := snap.Get(cmKey(name)); got == nil || got.Revision() != revision {
					t.Fatalf("%s was acknowledged at %d and is %v", name, revision, got)
				}
			}
		}
		if total < 20 {
			t.Errorf("only %d writes were acknowledged", total)
		}
	}
}

func TestConfig(t *testing.T) {
	for want, c := range map[string]Config{
		"no endpoint is given":                {},
		"must begin with https:// or http://": {Endpoints: []string{"localhost:2379"}},
		"nothing would be encrypted":          {Endpoints: []string{"http://localhost:2379"}, CA: "ca.crt"},
		"use one for all":                     {Endpoints: []string{"http://a:2379", "https://b:2379"}},
		"reading the authority":               {Endpoints: []string{"https://a:2379"}, CA: "/nowhere"},
		"one of them is missing":              {Endpoints: []string{"https://a:2379"}, Cert: "/nowhere"},
		"the client certificate":              {Endpoints: []string{"https://a:2379"}, Cert: "/nowhere", Key: "/nowhere"},
		"holds no certificate in PEM":         {Endpoints: []string{"https://a:2379"}, CA: "/etc/hostname"},
	} {
		if _, err := Open(c); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want %q", c, err, want)
		}
	}
}

func TestClaim(t *testing.T) {
	server := etcdtest.Start(t)
	for _, c := range []struct {
		prefix, identity, keys string
		fine                   bool
	}{{"/a", "one", "", true}, {"/a", "one", "k", true}, {"/a", "two", "k", false}, {"/b", "two", "l", true}, {"/a", "one", "l", false}, {"/a", "one", "", true}, {"/a", "one", "k", true}} {
		e := engine(t, Config{Endpoints: []string{server.URL}, Prefix: c.prefix})
		if err := e.Claim(t.Context(), c.identity, c.keys); (err == nil) != c.fine {
			t.Errorf("%s with %s under %s: %v", c.identity, c.keys, c.prefix, err)
		}
		e.Close()
	}
}
