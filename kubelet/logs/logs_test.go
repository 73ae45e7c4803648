package logs

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

const sample = `2026-01-01T00:00:00.000000001Z stdout F one
2026-01-01T00:00:01.000000001Z stderr F err
2026-01-01T00:00:02.000000001Z stdout P two
2026-01-01T00:00:02.000000002Z stdout F  halves
2026-01-01T00:00:03.000000001Z stdout F 
torn
2026-01-01T00:00:04.000000001Z stdout F last
`

func file(t *testing.T, text string) string {
	path := filepath.Join(t.TempDir(), "0.log")
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestRead(t *testing.T) {
	path := file(t, sample)
	at := func(s int) time.Time { return time.Date(2026, 1, 1, 0, 0, s, 0, time.UTC) }
	for name, tc := range map[string]struct {
		o    Options
		want string
	}{
		"all":        {Options{Tail: -1, Limit: -1}, "one\nerr\ntwo halves\n\nlast\n"},
		"tail":       {Options{Tail: 1, Limit: -1}, "last\n"},
		"tail 0":     {Options{Tail: 0, Limit: -1}, ""},
		"tail many":  {Options{Tail: 100, Limit: -1}, "one\nerr\ntwo halves\n\nlast\n"},
		"limit":      {Options{Tail: -1, Limit: 5}, "one\ne"},
		"limit line": {Options{Tail: -1, Limit: 4}, "one\n"},
		"since":      {Options{Tail: -1, Limit: -1, Since: at(3)}, "\nlast\n"},
		"timestamps": {Options{Tail: 4, Limit: -1, Timestamps: true}, "2026-01-01T00:00:02.000000002Z  halves\n2026-01-01T00:00:03.000000001Z \n2026-01-01T00:00:04.000000001Z last\n"},
	} {
		var b strings.Builder
		tc.o.Stdout, tc.o.Stderr = &b, &b
		if err := Read(t.Context(), path, tc.o); err != nil || b.String() != tc.want {
			t.Errorf("%s: %q %v, want %q", name, b.String(), err, tc.want)
		}
	}
	var out strings.Builder
	if err := Read(t.Context(), path, Options{Tail: -1, Limit: -1, Stderr: &out}); err != nil || out.String() != "err\n" {
		t.Errorf("stderr only: %q %v", out.String(), err)
	}
	if got := Tail(path, 2, 3); got != "st\n" {
		t.Errorf("Tail is %q", got)
	}
}

func TestTailOffsetOverBlocks(t *testing.T) {
	var b strings.Builder
	for i := range 5000 {
		fmt.Fprintf(&b, "2026-01-01T00:00:00Z stdout F line %d\n", i)
	}
	path := file(t, b.String())
	var out strings.Builder
	if err := Read(t.Context(), path, Options{Tail: 1234, Limit: -1, Stdout: &out}); err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(out.String(), "\n"); n != 1234 || !strings.HasPrefix(out.String(), "line 3766\n") {
		t.Errorf("%d lines, from %.20q", n, out.String())
	}
}

func TestRotatedPartsAreRead(t *testing.T) {
	path := file(t, "2026-01-01T00:00:05Z stdout F e\n")
	for name, text := range map[string]string{".20260101-000001": "2026-01-01T00:00:01Z stdout F a\n2026-01-01T00:00:02Z stdout F b\n", ".20260101-000002": "2026-01-01T00:00:03Z stdout F c\n2026-01-01T00:00:04Z stdout P d\n"} {
		if err := os.WriteFile(path+name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for n, want := range map[int64]string{-1: "a\nb\nc\nde\n", 0: "", 1: "e\n", 2: "de\n", 3: "c\nde\n", 4: "b\nc\nde\n", 9: "a\nb\nc\nde\n"} {
		var out strings.Builder
		if err := Read(t.Context(), path, Options{Tail: n, Limit: -1, Stdout: &out}); err != nil || out.String() != want {
			t.Errorf("last %d lines: %q %v, want %q", n, out.String(), err, want)
		}
	}
}

// buffer may be read while it is written.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) await(t *testing.T, want string) {
	t.Helper()
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(time.Millisecond) {
		b.mu.Lock()
		got := b.b.String()
		b.mu.Unlock()
		if got == want {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("got %q, want %q", got, want)
		}
	}
}

func TestFollowThroughRotation(t *testing.T) {
	path := file(t, "2026-01-01T00:00:00Z stdout F a\n")
	add := func(text string) {
		f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY|os.O_CREATE, 0o644)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		_, _ = f.WriteString(text)
	}
	var out buffer
	ended := make(chan struct{})
	done := make(chan error, 1)
	go func() {
		done <- Read(context.Background(), path, Options{Follow: true, Tail: -1, Limit: -1, Stdout: &out, Ended: ended})
	}()
	out.await(t, "a\n")
	add("2026-01-01T00:00:01Z stdout F b")
	add("c\n")
	out.await(t, "a\nbc\n")
	if err := os.Rename(path, path+".1"); err != nil {
		t.Fatal(err)
	}
	add("2026-01-01T00:00:02Z stdout F d\n")
	out.await(t, "a\nbc\nd\n")
	add("2026-01-01T00:00:03Z stdout F e\n")
	close(ended)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	out.await(t, "a\nbc\nd\ne\n")
}

func TestFollowEndsWithItsContext(t *testing.T) {
	path := file(t, "")
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(20*time.Millisecond, cancel)
	if err := Read(ctx, path, Options{Follow: true, Tail: -1, Limit: -1, Ended: make(chan struct{})}); err != nil {
		t.Error(err)
	}
}

func TestSizesTellEachWriteOnce(t *testing.T) {
	s, err := NewSizes()
	if err != nil {
		t.Fatal(err)
	}
	path := file(t, "")
	if err := s.Watch(path); err != nil {
		t.Fatal(err)
	}
	told := make(chan string, 10)
	go func() {
		defer close(told)
		for {
			paths, err := s.Next()
			if err != nil {
				return
			}
			for _, p := range paths {
				told <- p
			}
		}
	}()
	for range 3 {
		if err := os.WriteFile(path, []byte("x"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if got := <-told; got != path {
		t.Error(got)
	}
	time.Sleep(20 * time.Millisecond)
	if len(told) != 0 {
		t.Error("told more than once without being asked")
	}
	s.Close()
	for range told {
	}
}

func FuzzParse(f *testing.F) {
	for line := range strings.Lines(sample) {
		f.Add([]byte(line))
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		e, err := parse(line)
		if err == nil && strings.Contains(e.at+e.stream, " ") {
			t.Errorf("%q gives %+v", line, e)
		}
	})
}
