package filewatch

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"
)

// TestNoChangeIsMissed writes at every moment of the watcher's: after the last
// write it always reads the last content.
func TestNoChangeIsMissed(t *testing.T) {
	for i := range 200 {
		file := filepath.Join(t.TempDir(), "c")
		put(t, file, "before")
		var seen atomic.Value
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() {
			done <- Watch(ctx, file, func() {
				b, _ := os.ReadFile(file)
				seen.Store(string(b))
			})
		}()
		last := ""
		for n := range 1 + i%4 {
			time.Sleep(time.Duration(i*n) * time.Microsecond)
			last = fmt.Sprint(n)
			put(t, file, last)
		}
		for end := time.Now().Add(10 * time.Second); seen.Load() != last; time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("round %d: read %v, want %s", i, seen.Load(), last)
			}
		}
		cancel()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
}

// TestLinksAreFollowed points the link elsewhere, then changes what it leads to.
func TestLinksAreFollowed(t *testing.T) {
	one, two := filepath.Join(t.TempDir(), "f"), filepath.Join(t.TempDir(), "f")
	put(t, one, "one")
	put(t, two, "two")
	link := filepath.Join(t.TempDir(), "c")
	if err := os.Symlink(one, link); err != nil {
		t.Fatal(err)
	}
	read := make(chan string, 100)
	go func() {
		_ = Watch(t.Context(), link, func() {
			b, _ := os.ReadFile(link)
			read <- string(b)
		})
	}()
	await := func(want string) {
		t.Helper()
		for late := time.After(10 * time.Second); ; {
			select {
			case got := <-read:
				if got == want {
					return
				}
			case <-late:
				t.Fatalf("%q was never read", want)
			}
		}
	}
	await("one")
	if err := os.Symlink(two, link+".new"); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(link+".new", link); err != nil {
		t.Fatal(err)
	}
	await("two")
	put(t, two, "three")
	await("three")
}

// put replaces the file in one step.
func put(t *testing.T, file, content string) {
	t.Helper()
	if err := os.WriteFile(file+".tmp", []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(file+".tmp", file); err != nil {
		t.Fatal(err)
	}
}
