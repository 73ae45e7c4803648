// Package filewatch tells when a file may have another content: by inotify,
// without ever looking by itself. It follows files that are replaced by
// renaming and symbolic links that are pointed elsewhere.
package filewatch

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

const events = unix.IN_CLOSE_WRITE | unix.IN_MOVED_TO | unix.IN_CREATE | unix.IN_DELETE | unix.IN_MOVED_FROM

// Watch calls changed once it watches, for what came before, and after each
// possible change of the file at path, until ctx ends. It may call it without
// need: for other files beside it, too. No change is missed: the next watches
// stand before changed is called.
func Watch(ctx context.Context, path string, changed func()) error {
	for {
		w, err := newWatch(path)
		if err != nil {
			return fmt.Errorf("watch %s: %w", path, err)
		}
		changed()
		err = w.await(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("watch %s: %w", path, err)
		}
	}
}

// watch is good for one batch of events: it is made anew each time, since a
// link may lead elsewhere then.
type watch struct{ events *os.File }

func newWatch(path string) (*watch, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), "inotify") // non-blocking: Close ends a Read
	for _, dir := range dirs(path) {
		if _, err := unix.InotifyAddWatch(fd, dir, events); err != nil && !errors.Is(err, unix.ENOENT) {
			f.Close()
			return nil, err
		}
	}
	return &watch{f}, nil
}

// await returns after the first events, or with an error when ctx ends.
func (w *watch) await(ctx context.Context) error {
	defer w.events.Close()
	stop := context.AfterFunc(ctx, func() { w.events.Close() })
	defer stop()
	_, err := w.events.Read(make([]byte, 64<<10))
	return err
}

// dirs are the directories in which a change could matter.
func dirs(path string) []string {
	out := []string{filepath.Dir(path)}
	if real, err := filepath.EvalSymlinks(path); err == nil && real != path {
		out = append(out, filepath.Dir(real))
	}
	return out
}
