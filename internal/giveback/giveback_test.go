package giveback

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// TestQuiet: memory is returned once after the last collection that left some
// to return, and never while collections go on.
func TestQuiet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		collected, left := make(chan struct{}), uint64(Worth+1)
		var freed, programs atomic.Int32
		done := make(chan error)
		go func() {
			done <- run(ctx, collected, func() uint64 { return left }, func() { freed.Add(1); left = 0 }, func() error { programs.Add(1); return nil })
		}()
		for range 20 {
			collected <- struct{}{}
			time.Sleep(Quiet - time.Millisecond)
		}
		if n := freed.Load(); n != 0 {
			t.Errorf("freed %d times while collections went on", n)
		}
		time.Sleep(time.Second)
		collected <- struct{}{} // by the freeing itself
		time.Sleep(time.Hour)
		if n := freed.Load(); n != 1 {
			t.Errorf("freed %d times, want once", n)
		}
		if n := programs.Load(); n != 1 {
			t.Errorf("let go of the program %d times, want once", n)
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

// TestProgram: pages of the program leave, and it goes on.
func TestProgram(t *testing.T) {
	before := fileKB(t)
	if err := program(); err != nil {
		t.Fatal(err)
	}
	after := fileKB(t)
	const settled = 6 << 10 // of a second run in the same process there is nothing to show
	if before > settled && after >= before*3/4 {
		t.Errorf("%d kB of files in memory, %d before", after, before)
	}
	runtime.GC()
}

func fileKB(t *testing.T) (n int) {
	t.Helper()
	text, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), "RssFile:")
	if _, err := fmt.Sscan(rest, &n); err != nil {
		t.Fatal(err)
	}
	return n
}

// TestUntouched: what can be written to, was, or is of another file stays.
func TestUntouched(t *testing.T) {
	const smaps = `00400000-02000000 r-xp 00000000 fe:00 12 /bin/proa
Rss:                5000 kB
Anonymous:             0 kB
VmFlags: rd ex mr mw me
02000000-03000000 r--p 01c00000 fe:00 12 /bin/proa
Anonymous:             4 kB
03000000-04000000 r--p 02c00000 fe:00 12 /bin/proa
Anonymous:             0 kB
04000000-05000000 rw-p 03c00000 fe:00 12 /bin/proa
Anonymous:             0 kB
7f0000000000-7f0000001000 r--p 00000000 fe:00 13 /lib/other
Anonymous:             0 kB
7f0000002000-7f0000003000 r-xp 00000000 00:00 0
Anonymous:             0 kB
`
	want := []mapping{{0x400000, 0x2000000}, {0x3000000, 0x4000000}}
	if got := untouched([]byte(smaps), "/bin/proa"); !slices.Equal(got, want) {
		t.Errorf("%x, want %x", got, want)
	}
}
