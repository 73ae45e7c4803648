package pebble

import (
	"fmt"
	"log/slog"
	"sync"

	"github.com/cockroachdb/pebble/v2/vfs"

	"proa/store"
)

// space keeps the engine out of a full disk. Growing writes stop while there is
// still room for the log and for compactions; deletes go on into that room, and
// beyond it into the reserve file, which is removed then and made again once
// there is space.
type space struct {
	fs   vfs.FS
	dir  string
	path string
	log  *slog.Logger
	size int64 // of the reserve, and of the room below which growth stops

	mu   sync.Mutex
	held bool // the reserve file exists
	full bool // said so in the log
}

const maxReserve = 32 << 20

func newSpace(fs vfs.FS, dir string, size int64, log *slog.Logger) (*space, error) {
	s := &space{fs: fs, dir: dir, path: fs.PathJoin(dir, "reserve"), log: log, size: size}
	usage, err := fs.GetDiskUsage(dir)
	if err != nil {
		s.size = 0 // a file system that cannot tell is taken as endless
		return s, nil
	}
	if s.size == 0 {
		s.size = min(maxReserve, int64(usage.TotalBytes/64))
	}
	info, err := fs.Stat(s.path)
	s.held = err == nil && info.Size() >= s.size
	s.mu.Lock()
	defer s.mu.Unlock()
	s.restore(int64(usage.AvailBytes))
	return s, nil
}

// free is the space that is left, or -1.
func (s *space) free() int64 {
	usage, err := s.fs.GetDiskUsage(s.dir)
	if err != nil {
		return -1
	}
	return int64(usage.AvailBytes)
}

// admit decides about a write of some bytes.
func (s *space) admit(bytes int, freeing bool) error {
	if s.size == 0 {
		return nil
	}
	free := s.free()
	if free < 0 {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	room := free - int64(bytes)
	switch {
	case room >= s.size:
		s.restore(room)
		if s.full && s.held {
			s.full = false
			s.log.Info("there is space on the disk again; writes are accepted")
		}
		return nil
	case !freeing:
		if !s.full {
			s.full = true
			s.log.Error("the disk is full: writes are refused, deletes accepted", "dir", s.dir, "free", free)
		}
		return fmt.Errorf("%w: %d MiB are left for %s, which needs %d: free some space; deletes are still accepted",
			store.ErrNoSpace, free>>20, s.dir, (s.size+int64(bytes))>>20+1)
	case room < s.size/2:
		s.drop()
	}
	return nil
}

// release gives the reserve up; the file system calls it when a write found no
// space, and then tries that write again.
func (s *space) release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.drop()
}

func (s *space) drop() {
	if !s.held {
		return
	}
	s.held = false
	s.log.Warn("the disk is full: using the reserved space", "file", s.path)
	if err := s.fs.Remove(s.path); err != nil {
		s.log.Error("cannot remove the reserve file", "error", err)
	}
}

// restore makes the reserve file where that leaves room enough.
func (s *space) restore(free int64) {
	if s.held || free < 3*s.size {
		return
	}
	f, err := s.fs.Create(s.path, vfs.WriteCategoryUnspecified)
	if err != nil {
		return // tried again with the next write
	}
	err = f.Preallocate(0, s.size)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		_ = s.fs.Remove(s.path)
		return
	}
	s.held = true
}
