// Package logs reads container logs in the CRI format, what was rotated away
// included, follows them while they grow and are rotated, and watches their size.
//
// A line is a time (RFC 3339 with nanoseconds), the stream, a tag and the text:
//
//	2026-10-06T00:17:09.669794202Z stdout F The content
//
// with tag P for a part that the next line of the same stream continues.
package logs

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Options say which part of a log is wanted.
type Options struct {
	Follow     bool
	Tail       int64 // lines from the end; negative: all
	Limit      int64 // bytes; negative: no limit
	Since      time.Time
	Timestamps bool
	// Stdout, Stderr receive the streams; nil leaves one out. Both may be the same.
	Stdout, Stderr io.Writer
	// Ended is closed once the container will write no more; nil means that it
	// has ended already.
	Ended <-chan struct{}
}

// entry is one parsed line; text aliases the line.
type entry struct {
	at      string
	stream  string
	partial bool
	text    []byte // with its newline unless partial
}

var errFormat = errors.New("not in the CRI log format")

func parse(line []byte) (entry, error) {
	at, rest, ok1 := bytes.Cut(line, []byte{' '})
	stream, rest, ok2 := bytes.Cut(rest, []byte{' '})
	tags, text, ok3 := bytes.Cut(rest, []byte{' '})
	if !ok3 { // an empty text may come without its blank
		tags, text = bytes.TrimSuffix(rest, []byte{'\n'}), []byte{'\n'}
	}
	if !ok1 || !ok2 {
		return entry{}, errFormat
	}
	tag, _, _ := bytes.Cut(tags, []byte{':'})
	e := entry{at: string(at), stream: string(stream), partial: string(tag) == "P", text: text}
	if e.partial {
		e.text = bytes.TrimSuffix(text, []byte{'\n'})
	}
	return e, nil
}

// errLimit ends reading at Options.Limit.
var errLimit = errors.New("limit reached")

// writer sends entries where they belong.
type writer struct {
	o       *Options
	left    int64
	partial map[string]bool // streams whose last entry was a part
}

func (w *writer) write(line []byte) error {
	e, err := parse(line)
	if err != nil {
		return nil // a torn line of a crash; the next one is whole again
	}
	out := w.o.Stdout
	if e.stream == "stderr" {
		out = w.o.Stderr
	}
	continued := w.partial[e.stream]
	w.partial[e.stream] = e.partial
	if out == nil || !w.o.Since.IsZero() && w.before(e.at) {
		return nil
	}
	text := e.text
	if w.o.Timestamps && !continued {
		text = append([]byte(e.at+" "), text...)
	}
	if w.left >= 0 && int64(len(text)) >= w.left {
		text = text[:w.left]
		_, err = out.Write(text)
		return errors.Join(err, errLimit)
	}
	if w.left >= 0 {
		w.left -= int64(len(text))
	}
	_, err = out.Write(text)
	return err
}

func (w *writer) before(at string) bool {
	t, err := time.Parse(time.RFC3339Nano, at)
	return err == nil && t.Before(w.o.Since)
}

// Read writes a log out. When following it returns once the container has ended
// and all is read, or ctx ends (which is no error).
func Read(ctx context.Context, path string, o Options) error {
	err := read(ctx, path, &o)
	if errors.Is(err, errLimit) || ctx.Err() != nil {
		return nil
	}
	return err
}

func read(ctx context.Context, path string, o *Options) error {
	var w *watch
	if o.Follow {
		var err error
		if w, err = newWatch(path); err != nil {
			return err
		}
		defer w.close()
	}
	parts, at, err := begin(path, o.Tail)
	if err != nil {
		return err
	}
	out := &writer{o: o, left: o.Limit, partial: map[string]bool{}}
	lines := &lines{r: bufio.NewReaderSize(nil, 16<<10)}
	for len(parts) > 1 {
		if err := lines.whole(parts[0], at, out); err != nil {
			return err
		}
		parts, at = parts[1:], 0
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { f.Close() }()
	if _, err := f.Seek(at, io.SeekStart); err != nil {
		return err
	}
	lines.r.Reset(f)
	for {
		if err := lines.copy(out); err != nil {
			return err
		}
		if !o.Follow {
			return nil
		}
		ended := o.Ended == nil || closed(o.Ended) // asked before the last look
		if next := w.rotated(f); next != nil {
			if err := lines.copy(out); err != nil { // what came in before the rotation
				next.Close()
				return err
			}
			f.Close()
			f = next
			lines.r.Reset(f)
			continue
		}
		if ended {
			return lines.copy(out)
		}
		if err := w.wait(ctx, o.Ended); err != nil {
			return err
		}
	}
}

func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// lines hands whole lines on and keeps the beginning of one that is still being
// written.
type lines struct {
	r    *bufio.Reader
	part []byte
}

func (l *lines) copy(out *writer) error {
	for {
		chunk, err := l.r.ReadSlice('\n')
		if err == nil && len(l.part) == 0 {
			if err := out.write(chunk); err != nil {
				return err
			}
			continue
		}
		l.part = append(l.part, chunk...)
		switch {
		case err == nil:
			if err := out.write(l.part); err != nil {
				return err
			}
			l.part = l.part[:0]
		case errors.Is(err, bufio.ErrBufferFull):
		case errors.Is(err, io.EOF):
			return nil
		default:
			return err
		}
	}
}

// whole copies a part that was rotated away; one that is gone meanwhile is passed
// over.
func (l *lines) whole(path string, at int64, out *writer) error {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.Seek(at, io.SeekStart); err != nil {
		return err
	}
	l.r.Reset(f)
	return l.copy(out)
}

// begin finds where to start for the last n lines: the parts to read, the current
// file last, and the offset in the first of them.
func begin(path string, n int64) (parts []string, at int64, err error) {
	old, _ := filepath.Glob(path + ".*")
	slices.Sort(old) // their names end in the time of their rotation
	parts = append(old, path)
	if n < 0 {
		return parts, 0, nil
	}
	for i := len(parts) - 1; i >= 0; i-- {
		f, err := os.Open(parts[i])
		if err != nil {
			return nil, 0, err
		}
		at, found, err := tailOffset(f, n)
		f.Close()
		if err != nil || found >= n {
			return parts[i:], at, err
		}
		n -= found
	}
	return parts, 0, nil
}

// tailOffset is where the last n lines begin, or 0 and how many there are.
func tailOffset(f *os.File, n int64) (at, lines int64, err error) {
	end, err := f.Seek(0, io.SeekEnd)
	if err != nil || n == 0 || end == 0 {
		return end, 0, err
	}
	buf := make([]byte, 16<<10)
	found := int64(-1) // the newline at the very end does not begin a line
	for at := end; at > 0; {
		size := min(at, int64(len(buf)))
		at -= size
		if _, err := f.ReadAt(buf[:size], at); err != nil && !errors.Is(err, io.EOF) {
			return 0, 0, err
		}
		for i := size - 1; i >= 0; i-- {
			if buf[i] != '\n' {
				continue
			}
			if found++; found == n {
				return at + i + 1, n, nil
			}
		}
	}
	return 0, found + 1, nil
}

// Tail is the text of the last lines of a log, at most limit bytes of it.
func Tail(path string, rows, limit int64) string {
	var b strings.Builder
	if err := Read(context.Background(), path, Options{Tail: rows, Limit: -1, Stdout: &b, Stderr: &b}); err != nil {
		return ""
	}
	s := b.String()
	return s[max(0, int64(len(s))-limit):]
}
