package pebble

import (
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"proa/store"
)

// space keeps the engine out of a full disk. Growing writes stop while there is
// still room for the log and for compactions; deletes go on into that room, and
// beyond it into the reserve file, which is removed then and made again once
// there is space. When others have taken that too, nothing is admitted, and what
// was under way waits.
type space struct {
	fs   vfs.FS
	dir  string
	path string
	log  *slog.Logger
	size int64 // of the reserve, and of the room below which growth stops

	patient  atomic.Bool   // set once the engine is open: who opens it is told at once
	patience chan struct{} // closed when nobody may wait any more

	mu      sync.Mutex
	held    bool // the reserve file exists
	full    bool // said so in the log
	waiting int  // for space
}

const maxReserve = 32 << 20

// Reserve is what an engine keeps back of a file system of some bytes: below
// that much free space growing writes are refused.
func Reserve(total int64) int64 { return min(maxReserve, total/64) }

// last is the free space below which deletes are refused, too, once the reserve
// is gone: their log must find room.
func (s *space) last() int64 { return s.size / 8 }

func newSpace(fs vfs.FS, dir string, size int64, log *slog.Logger) (*space, error) {
	s := &space{fs: fs, dir: dir, path: fs.PathJoin(dir, "reserve"), log: log, size: size, patience: make(chan struct{})}
	usage, err := fs.GetDiskUsage(dir)
	if err != nil {
		s.size = 0 // a file system that cannot tell is taken as endless
		return s, nil
	}
	if s.size == 0 {
		s.size = Reserve(int64(usage.TotalBytes))
	}
	s.held = s.kept()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.restore(int64(usage.AvailBytes))
	return s, nil
}

// kept tells whether the reserve file takes its room. Its length does not say:
// space is set aside without growing the file.
func (s *space) kept() bool {
	info, err := s.fs.Stat(s.path)
	if err != nil {
		return false
	}
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		return stat.Blocks*512 >= s.size
	}
	return info.Size() >= s.size
}

// free is the space that is left to everybody, or -1.
func (s *space) free() int64 {
	all, _ := s.left()
	return all
}

// left is the space that is left to everybody, and that to us: file systems keep
// some for root, and a little for themselves. -1 where that cannot be known.
func (s *space) left() (all, ours int64) {
	usage, err := s.fs.GetDiskUsage(s.dir)
	if err != nil {
		return -1, -1
	}
	all = int64(usage.AvailBytes)
	if ours = all; os.Geteuid() == 0 {
		total := int64(usage.TotalBytes)
		ours = max(all, total-int64(usage.UsedBytes)-min(total/50, 16<<20))
	}
	return all, ours
}

// room tells why growing writes are refused now, or nil.
func (s *space) room() error {
	if free := s.free(); s.size > 0 && free >= 0 && free < s.size {
		return s.refusal(free, 0)
	}
	return nil
}

func (s *space) refusal(free int64, bytes int) error {
	return fmt.Errorf("%w: %d MiB are left for %s, which needs %d: free some space; deletes are still accepted",
		store.ErrNoSpace, free>>20, s.dir, (s.size+int64(bytes))>>20+1)
}

// opening refuses what would find no room to read the log back into tables.
func (s *space) opening() error {
	if _, ours := s.left(); s.size == 0 || ours < 0 || ours > 2*memTable {
		return nil
	}
	s.release()
	if _, ours := s.left(); ours < 2*memTable {
		return syscall.ENOSPC
	}
	return nil
}

// admit decides about a write of some bytes.
func (s *space) admit(bytes int, freeing bool) error {
	if s.size == 0 {
		return nil
	}
	free, own := s.left()
	if free < 0 {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	room, ours := free-int64(bytes), own-int64(bytes)
	switch {
	case s.waiting > 0:
		return s.nothingLeft()
	case room >= s.size:
		s.restore(room)
		if s.full && s.held {
			s.full = false
			s.log.Info("there is space on the disk again; writes are accepted")
		}
		return nil
	case !freeing:
		s.say()
		return s.refusal(free, bytes)
	case !s.held && ours < s.last():
		return s.nothingLeft()
	case ours < s.size/2:
		s.drop()
	}
	return nil
}

func (s *space) nothingLeft() error {
	s.say()
	return fmt.Errorf("%w to the last byte, so that not even deletes find room: free some space on the file system of %s", store.ErrNoSpace, s.dir)
}

// say logs once that the disk is full.
func (s *space) say() {
	if !s.full {
		s.full = true
		s.log.Error("the disk is full: writes are refused, deletes accepted", "dir", s.dir, "free", s.free())
	}
}

// lookAgain is how often a write that found no space is tried again.
const lookAgain = time.Second

// patiently does again what found no space, with the reserve given up, and then
// for as long as it takes, until hurry.
func (s *space) patiently(do func() error) error {
	err := do()
	if !noSpace(err) {
		return err
	}
	if s.release(); !s.patient.Load() {
		return do()
	}
	s.wait(1)
	defer s.wait(-1)
	t := time.NewTicker(lookAgain)
	defer t.Stop()
	for {
		if err = do(); !noSpace(err) {
			return err
		}
		select {
		case <-t.C:
		case <-s.patience:
			return err
		}
	}
}

func (s *space) wait(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.waiting += n
	s.say()
}

// release gives the reserve up.
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
