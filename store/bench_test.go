package store_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"golang.org/x/sys/unix"

	"proa/store"
	"proa/store/enginetest"
	"proa/store/pebble"
)

// onDisk opens a store on the machine's disk, with real syncs.
func onDisk(b *testing.B) *store.Store {
	e, err := pebble.Open(pebble.Config{Dir: b.TempDir()})
	if err != nil {
		b.Fatal(err)
	}
	s, err := store.New(store.Config{Engine: e, Codec: enginetest.Codec{}, Registry: enginetest.Registry()})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { s.Close() })
	return s
}

func BenchmarkCreate(b *testing.B) {
	for _, writers := range []int{1, 64} {
		b.Run(fmt.Sprintf("writers=%d", writers), func(b *testing.B) {
			s := onDisk(b)
			var n atomic.Int64
			var wg sync.WaitGroup
			b.ResetTimer()
			for range writers {
				wg.Go(func() {
					for {
						i := n.Add(1)
						if i > int64(b.N) {
							return
						}
						if _, err := s.Commit(context.Background(), cm(fmt.Sprint("object-", i), "value", 0)); err != nil {
							b.Error(err)
						}
					}
				})
			}
			wg.Wait()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "creates/s")
		})
	}
}

func filled(b *testing.B, n int) *store.Store {
	s := openOn(b, vfs.NewMem())
	for i := 0; i < n; i += 100 {
		var batch []store.Write
		for k := i; k < min(n, i+100); k++ {
			batch = append(batch, pod(fmt.Sprint("ns-", k%10), fmt.Sprint("pod-", k), fmt.Sprint("node-", k%100)))
		}
		must(b, s, batch...)
	}
	return s
}

func BenchmarkSnapshot(b *testing.B) {
	s := filled(b, 10_000)
	for b.Loop() {
		_ = s.Snapshot()
	}
}

func BenchmarkGet(b *testing.B) {
	s := filled(b, 10_000)
	for b.Loop() {
		if s.Snapshot().Get(podKey("ns-7", "pod-7777")) == nil {
			b.Fatal("not there")
		}
	}
}

func BenchmarkList(b *testing.B) {
	s := filled(b, 10_000)
	for b.Loop() {
		n := 0
		for range s.Snapshot().List(store.Scope{Resource: "pods"}, store.Key{}) {
			n++
		}
		if n != 10_000 {
			b.Fatal(n)
		}
	}
}

func BenchmarkIndex(b *testing.B) {
	s := filled(b, 10_000)
	for b.Loop() {
		n := 0
		for range s.Snapshot().Index("pods", "nodeName", "node-42") {
			n++
		}
		if n != 100 {
			b.Fatal(n)
		}
	}
}

func BenchmarkSnapshotAt(b *testing.B) {
	s := filled(b, 10_000)
	at := s.Snapshot().Revision()
	for i := range 1000 {
		must(b, s, pod("ns-1", fmt.Sprint("later-", i), ""))
	}
	for b.Loop() {
		past, err := s.SnapshotAt(at, "pods")
		if err != nil || past.Count(store.Scope{Resource: "pods"}) != 10_000 {
			b.Fatal(err)
		}
	}
}

// BenchmarkWatch has 100 watchers follow 64 writers.
func BenchmarkWatch(b *testing.B) {
	s := onDisk(b)
	const watchers = 100
	var got atomic.Int64
	var worst atomic.Int64
	done := make(chan struct{})
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	for range watchers {
		_, w := s.SnapshotAndWatch(store.Scope{Resource: "configmaps"})
		go func() {
			defer w.Close()
			for {
				events, _, err := w.Next(ctx)
				if err != nil {
					return
				}
				for _, e := range events {
					obj, _ := e.Record.Object()
					lag := time.Since(obj.GetCreationTimestamp().Time).Nanoseconds()
					for old := worst.Load(); lag > old && !worst.CompareAndSwap(old, lag); old = worst.Load() {
					}
				}
				if got.Add(int64(len(events))) == int64(b.N)*watchers {
					close(done)
				}
			}
		}()
	}
	var n atomic.Int64
	b.ResetTimer()
	for range 64 {
		go func() {
			for i := n.Add(1); i <= int64(b.N); i = n.Add(1) {
				w := cm(fmt.Sprint(i), "v", 0)
				obj := w.Object
				created := obj.GetCreationTimestamp()
				created.Time = time.Now()
				obj.SetCreationTimestamp(created)
				if _, err := s.Commit(context.Background(), w); err != nil {
					b.Error(err)
				}
			}
		}()
	}
	<-done
	b.ReportMetric(float64(b.N)*watchers/b.Elapsed().Seconds(), "events/s")
	b.ReportMetric(float64(worst.Load())/1e6, "worst-lag-ms")
}

// BenchmarkOpen starts a store with 10,000 pods on disk.
func BenchmarkOpen(b *testing.B) {
	for _, n := range []int{0, 10_000, 100_000} {
		b.Run(fmt.Sprintf("objects=%d", n), func(b *testing.B) {
			dir := b.TempDir()
			open := func() *store.Store {
				e, err := pebble.Open(pebble.Config{Dir: dir})
				if err != nil {
					b.Fatal(err)
				}
				s, err := store.New(store.Config{Engine: e, Codec: enginetest.Codec{}, Registry: enginetest.Registry()})
				if err != nil {
					b.Fatal(err)
				}
				return s
			}
			s := open()
			for i := range n / 100 {
				var batch []store.Write
				for k := range 100 {
					batch = append(batch, pod("ns", fmt.Sprint(i, "-", k), "node"))
				}
				must(b, s, batch...)
			}
			s.Close()
			var spent time.Duration // by all processors: what others do beside does not count
			for b.Loop() {
				before := processorTime(b)
				s := open()
				b.StopTimer()
				spent += processorTime(b) - before
				s.Close()
				b.StartTimer()
			}
			b.ReportMetric(spent.Seconds()/float64(b.N), "cpu-s/op")
		})
	}
}

// processorTime is what this process has used.
func processorTime(b *testing.B) time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
