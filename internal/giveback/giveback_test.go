package giveback

import (
	"context"
	"runtime"
	"testing"
	"testing/synctest"
	"time"
)

// TestQuiet: memory is returned once after the last collection that left some
// to return, and never while collections go on.
func TestQuiet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		collected, freed, left := make(chan struct{}), 0, uint64(Worth+1)
		done := make(chan error)
		go func() {
			done <- run(ctx, collected, func() uint64 { return left }, func() { freed++; left = 0 })
		}()
		for range 20 {
			collected <- struct{}{}
			time.Sleep(Quiet - time.Millisecond)
		}
		if freed != 0 {
			t.Errorf("freed %d times while collections went on", freed)
		}
		time.Sleep(time.Second)
		collected <- struct{}{} // by the freeing itself
		time.Sleep(time.Hour)
		if freed != 1 {
			t.Errorf("freed %d times, want once", freed)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// TestWatch: each collection is noticed.
func TestWatch(t *testing.T) {
	collected := make(chan struct{}, 1)
	watch(t.Context(), collected)
	for i := range 3 {
		runtime.GC()
		select {
		case <-collected:
		case <-time.After(10 * time.Second):
			t.Fatalf("collection %d was not noticed", i+1)
		}
	}
}

// TestSpare: what is let go counts until it is returned.
func TestSpare(t *testing.T) {
	block := make([]byte, 4*Worth)
	runtime.GC()
	before := spare()
	runtime.KeepAlive(block)
	block = nil
	runtime.GC()
	if after := spare(); after < before+2*Worth {
		t.Errorf("%d bytes to spare after %d were let go, %d before", after, 4*Worth, before)
	}
}
