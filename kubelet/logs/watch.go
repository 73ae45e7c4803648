package logs

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"
)

// watch tells when a log grows or is replaced, by inotify on its directory.
type watch struct {
	path   string
	file   *os.File
	change chan struct{}
	reader sync.WaitGroup
}

func newWatch(path string) (*watch, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, os.NewSyscallError("inotify_init1", err)
	}
	if _, err := unix.InotifyAddWatch(fd, filepath.Dir(path), unix.IN_MODIFY|unix.IN_CREATE|unix.IN_MOVED_TO|unix.IN_ONLYDIR); err != nil {
		unix.Close(fd)
		return nil, &os.PathError{Op: "watch", Path: filepath.Dir(path), Err: err}
	}
	w := &watch{path: path, file: os.NewFile(uintptr(fd), "inotify"), change: make(chan struct{}, 1)}
	w.reader.Go(w.read)
	return w, nil
}

// read turns events, whatever they are about, into "look again".
func (w *watch) read() {
	buf := make([]byte, 4096)
	for {
		if _, err := w.file.Read(buf); err != nil {
			close(w.change)
			return
		}
		select {
		case w.change <- struct{}{}:
		default:
		}
	}
}

func (w *watch) close() {
	w.file.Close()
	w.reader.Wait()
}

var errWatchLost = errors.New("the watch on the log ended")

func (w *watch) wait(ctx context.Context, ended <-chan struct{}) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-ended:
		return nil
	case _, ok := <-w.change:
		if !ok {
			return errWatchLost
		}
		return nil
	}
}

// rotated opens the file that has taken f's place, if one has.
func (w *watch) rotated(f *os.File) *os.File {
	old, err1 := f.Stat()
	now, err2 := os.Stat(w.path)
	if err1 != nil || err2 != nil || os.SameFile(old, now) {
		return nil
	}
	next, err := os.Open(w.path)
	if err != nil {
		return nil
	}
	return next
}

// Sizes watches files for growth at next to no cost: a file that was written to
// is told once and then forgotten until it is watched again.
type Sizes struct {
	file *os.File
	fd   int
	mu   sync.Mutex
	path map[int32]string
}

// NewSizes starts with no file watched.
func NewSizes() (*Sizes, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, os.NewSyscallError("inotify_init1", err)
	}
	return &Sizes{file: os.NewFile(uintptr(fd), "inotify"), fd: fd, path: map[int32]string{}}, nil
}

// Watch has the next write to the file told.
func (s *Sizes) Watch(path string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	wd, err := unix.InotifyAddWatch(s.fd, path, unix.IN_MODIFY|unix.IN_ONESHOT)
	if err != nil {
		return &os.PathError{Op: "watch", Path: path, Err: err}
	}
	s.path[int32(wd)] = path
	return nil
}

// Next waits for files that were written to. It fails once s is closed.
func (s *Sizes) Next() ([]string, error) {
	buf := make([]byte, 4096)
	for {
		n, err := s.file.Read(buf)
		if err != nil {
			return nil, err
		}
		if paths := s.take(buf[:n]); len(paths) > 0 {
			return paths, nil
		}
	}
}

func (s *Sizes) take(events []byte) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []string
	for len(events) >= unix.SizeofInotifyEvent {
		e := decode(events)
		if p, ok := s.path[e.Wd]; ok && e.Mask&unix.IN_MODIFY != 0 {
			out = append(out, p)
		}
		if e.Mask&unix.IN_IGNORED != 0 {
			delete(s.path, e.Wd)
		}
		events = events[min(unix.SizeofInotifyEvent+int(e.Len), len(events)):]
	}
	return out
}

// Close ends Next.
func (s *Sizes) Close() error { return s.file.Close() }
