package pebble

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"syscall"

	"github.com/cockroachdb/pebble/v2"
	"golang.org/x/sys/unix"
)

// logger passes on what an operator must know: errors. The library's running
// commentary is dropped.
type logger struct{ log *slog.Logger }

func (l *logger) Infof(string, ...any) {}

func (l *logger) Errorf(format string, args ...any) {
	l.log.Error("datastore: " + fmt.Sprintf(format, args...))
}

// fatal is the panic that stands for "the library cannot go on".
type fatal struct{ error }

// Fatalf must not return: the library relies on the process ending. A commit
// recovers the panic and turns it into its error; in the library's background
// work, where nothing more can be promised, it ends the process, and the log
// brings everything acknowledged back.
func (l *logger) Fatalf(format string, args ...any) {
	err := fatal{fmt.Errorf(format, args...)}
	l.log.Error("datastore cannot go on: " + err.Error())
	panic(err)
}

// corruption logs which file is damaged; the read that met it fails as well.
func (l *logger) corruption(info pebble.DataCorruptionInfo) {
	l.log.Error("datastore: damaged file", "file", info.Path, "error", info.Details.Error())
}

// background logs the error's text alone: the library's errors print their
// stack traces otherwise.
func (l *logger) background(err error) {
	l.log.Error("datastore: background work failed, trying again", "error", err.Error())
}

// lockError says who holds the directory.
func lockError(dir string, err error) error {
	if !errors.Is(err, syscall.EAGAIN) && !errors.Is(err, syscall.EACCES) {
		return fmt.Errorf("cannot lock the data directory %s: %w", dir, err)
	}
	holder := "another process"
	if pid := lockHolder(filepath.Join(dir, "LOCK")); pid > 0 {
		holder = fmt.Sprintf("process %d", pid)
	}
	return fmt.Errorf("the data directory %s is in use by %s: stop that one with `proa down`, or choose another directory", dir, holder)
}

// lockHolder asks the kernel which process locked the file, 0 if it cannot tell.
func lockHolder(path string) int {
	f, err := os.Open(path)
	if err != nil {
		return 0
	}
	defer f.Close()
	l := unix.Flock_t{Type: unix.F_WRLCK, Whence: io.SeekStart}
	if unix.FcntlFlock(f.Fd(), unix.F_GETLK, &l) != nil || l.Type == unix.F_UNLCK {
		return 0
	}
	return int(l.Pid)
}
