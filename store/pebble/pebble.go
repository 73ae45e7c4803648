// Package pebble is the embedded engine of the store: one directory, one
// process, on an embedded log-structured merge tree.
//
// What it promises beyond store.Engine: a commit is one atomic batch and one
// sync of the log; every value carries a checksum over key, revision and data;
// space of deleted data returns to the file system by compaction while running;
// idle it wakes for nothing; on a full disk it refuses what grows before the
// log notices, keeps a reserve so that deletes go on, and when others take even
// that waits for space instead of failing.
package pebble

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"proa/store"
)

// Config of an Engine.
type Config struct {
	// Dir is made if it is missing. Nothing else may write there.
	Dir string
	Log *slog.Logger
	// FS is the file system; nil is the machine's.
	FS vfs.FS
	// Reserve is the size in bytes of the file that is given up when the disk
	// is full, and also the free space below which growing writes are refused;
	// 0 chooses by the size of the file system: a sixty-fourth, at most 32 MiB.
	Reserve int64
}

// Engine implements store.Engine.
type Engine struct {
	db     *pebble.DB
	lock   *pebble.Lock
	space  *space
	seal   *seal
	fs     vfs.FS
	dir    string
	log    *slog.Logger
	logged *logged // until Past was asked for
	broken atomic.Pointer[error]
	closed sync.Once
	hurry  sync.Once
}

var (
	_ store.Engine    = (*Engine)(nil)
	_ store.Historian = (*Engine)(nil)
)

// format is the version of the layout below; a directory of a newer one is
// refused.
//
//	"f"                                        format
//	"r"                                        newest revision, with checksum
//	"o" resource NUL namespace NUL name        checksum, revision, data
const format = 1

var (
	formatKey   = []byte("f")
	revisionKey = []byte("r")
	objectsFrom = []byte("o")
	objectsTo   = []byte("p")
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Open opens or makes the directory. It fails when another process has it open,
// naming that process.
func Open(c Config) (*Engine, error) {
	if c.FS == nil {
		c.FS = vfs.Default
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if err := c.FS.MkdirAll(c.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("cannot make the data directory: %w", err)
	}
	lock, err := pebble.LockDirectory(c.Dir, c.FS)
	if err != nil {
		return nil, lockError(c.Dir, err)
	}
	e := &Engine{lock: lock, fs: c.FS, dir: c.Dir, log: c.Log, seal: newSeal(c.FS, c.Dir, c.Log)}
	if err := e.open(c); err != nil {
		return nil, errors.Join(err, e.closeDB(), lock.Close())
	}
	e.space.patient.Store(true)
	go e.seal.run()
	e.seal.touch()
	return e, nil
}

func (e *Engine) open(c Config) (err error) {
	if err := errors.Join(e.seal.check(), checkLogs(c.FS, c.Dir)); err != nil {
		return damaged(c.Dir, err)
	}
	if e.space, err = newSpace(c.FS, c.Dir, c.Reserve, c.Log); err != nil {
		return err
	}
	if err := e.space.opening(); err != nil {
		return damaged(c.Dir, err)
	}
	e.logged = e.readLogs(c)
	if e.db, err = pebble.Open(c.Dir, e.options(c)); err != nil {
		return damaged(c.Dir, err)
	}
	return e.checkFormat()
}

const memTable = 2 << 20

func (e *Engine) options(c Config) *pebble.Options {
	l := &logger{log: c.Log}
	opts := &pebble.Options{
		// Without the default wrapper, which measures every operation's time
		// with a ticker.
		FS:     &patientFS{c.FS, e.space},
		Lock:   e.lock,
		Logger: l,
		EventListener: &pebble.EventListener{BackgroundError: l.background, DataCorruption: l.corruption,
			FlushEnd:      func(pebble.FlushInfo) { e.seal.touch() },
			CompactionEnd: func(pebble.CompactionInfo) { e.seal.touch() }},
		FormatMajorVersion:          pebble.FormatNewest,
		MemTableSize:                memTable, // also the size of each log, of which a few are kept to write over
		MemTableStopWritesThreshold: 3,
		CacheSize:                   512 << 10, // objects are read once, at start
		MaxOpenFiles:                128,
		CompactionConcurrencyRange:  func() (int, int) { return 1, 1 },
	}
	opts.Experimental.CompactionScheduler = &oneByOne{}
	return opts
}

// damage is data on disk that is not what was written.
type damage struct {
	dir string
	err error
}

// damaged says what reading met. A full disk is no damage: opening writes.
func damaged(dir string, err error) error {
	if noSpace(err) {
		return fmt.Errorf("%w to the last byte, so that %s cannot be opened: free some space there", store.ErrNoSpace, dir)
	}
	return &damage{dir, err}
}

func (d *damage) Error() string {
	// The library's messages may have further lines for its own developers.
	what, _, _ := strings.Cut(d.err.Error(), "\n")
	return fmt.Sprintf("the data in %s cannot be read: %s: check the disk, and restore the directory from a snapshot", d.dir, what)
}

func (d *damage) Unwrap() error { return d.err }

// checkFormat marks a new directory and refuses one of a newer program. The
// library begins a new directory with a log of its oldest format, in which
// damage in the middle passes for the end; flushing starts one of the newest.
func (e *Engine) checkFormat() error {
	value, closer, err := e.db.Get(formatKey)
	if errors.Is(err, pebble.ErrNotFound) {
		if err := e.db.Set(formatKey, []byte{format}, pebble.NoSync); err != nil {
			return err
		}
		return e.db.Flush()
	}
	if err != nil {
		return damaged(e.dir, err)
	}
	defer closer.Close()
	if len(value) != 1 || value[0] > format {
		return fmt.Errorf("%s was written by a newer proa (data format %v, this one knows %d): start that version", e.dir, value, format)
	}
	return nil
}

func (e *Engine) Load(ctx context.Context, emit func(store.Entry) error) (uint64, error) {
	revision, err := e.revision()
	if err != nil {
		return 0, err
	}
	it, err := e.db.NewIterWithContext(ctx, &pebble.IterOptions{LowerBound: objectsFrom, UpperBound: objectsTo})
	if err != nil {
		return 0, damaged(e.dir, err)
	}
	defer it.Close()
	for ok := it.First(); ok; ok = it.Next() {
		value, err := it.ValueAndErr()
		if err != nil {
			return 0, damaged(e.dir, err)
		}
		entry, err := decode(it.Key(), value)
		if err != nil {
			return 0, damaged(e.dir, err)
		}
		if err := emit(entry); err != nil {
			return 0, err
		}
	}
	if err := it.Error(); err != nil {
		return 0, damaged(e.dir, err)
	}
	return revision, nil
}

func (e *Engine) revision() (uint64, error) {
	value, closer, err := e.db.Get(revisionKey)
	if errors.Is(err, pebble.ErrNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, damaged(e.dir, err)
	}
	defer closer.Close()
	revision, _, err := unstamp(revisionKey, value)
	if err != nil {
		return 0, damaged(e.dir, fmt.Errorf("the record of the newest revision: %w", err))
	}
	return revision, nil
}

func (e *Engine) Commit(_ context.Context, entries []store.Entry, freeing bool) (err error) {
	if p := e.broken.Load(); p != nil {
		return *p
	}
	size := 0
	for i := range entries {
		size += len(entries[i].Value) + 64
	}
	if err := e.space.admit(size, freeing); err != nil {
		return err
	}
	b := e.db.NewBatchWithSize(size + 256)
	defer b.Close()
	for i := range entries {
		if err := put(b, &entries[i]); err != nil {
			return err
		}
	}
	newest := entries[len(entries)-1].Revision
	if err := b.Set(revisionKey, stamp(nil, revisionKey, newest, nil), nil); err != nil {
		return err
	}
	return e.sync(b)
}

// sync commits the batch. The library reports a log that cannot be written
// through its logger's Fatalf, which panics here.
func (e *Engine) sync(b *pebble.Batch) (err error) {
	defer func() {
		if f, ok := recover().(fatal); ok {
			err = f.error
		}
		if err != nil {
			e.broken.Store(&err)
		}
	}()
	return b.Commit(pebble.Sync)
}

func put(b *pebble.Batch, e *store.Entry) error {
	key := appendKey(make([]byte, 0, 96), e.Key)
	if e.Value == nil {
		return b.Delete(key, nil)
	}
	op := b.SetDeferred(len(key), header+len(e.Value))
	copy(op.Key, key)
	stamp(op.Value[:0], key, e.Revision, e.Value)
	return op.Finish()
}

func appendKey(to []byte, k store.Key) []byte {
	to = append(to, objectsFrom...)
	to = append(append(to, k.Resource...), 0)
	to = append(append(to, k.Namespace...), 0)
	return append(to, k.Name...)
}

const header = 4 + 8 // checksum, revision

// stamp appends checksum, revision and data.
func stamp(to, key []byte, revision uint64, data []byte) []byte {
	at := len(to)
	to = append(to, 0, 0, 0, 0)
	to = binary.BigEndian.AppendUint64(to, revision)
	to = append(to, data...)
	binary.BigEndian.PutUint32(to[at:], checksum(key, to[at+4:]))
	return to
}

func checksum(key, rest []byte) uint32 {
	return crc32.Update(crc32.Checksum(key, castagnoli), castagnoli, rest)
}

// unstamp checks a value; data refers to it.
func unstamp(key, value []byte) (revision uint64, data []byte, err error) {
	if len(value) < header || binary.BigEndian.Uint32(value) != checksum(key, value[4:]) {
		return 0, nil, errors.New("its checksum does not match")
	}
	return binary.BigEndian.Uint64(value[4:]), value[header:], nil
}

func decode(key, value []byte) (store.Entry, error) {
	k, err := parseKey(key)
	if err != nil {
		return store.Entry{}, err
	}
	revision, data, err := unstamp(key, value)
	if err != nil {
		return store.Entry{}, fmt.Errorf("the record of %s is damaged: %w", k, err)
	}
	return store.Entry{Key: k, Revision: revision, Value: slices.Clone(data)}, nil
}

func parseKey(key []byte) (store.Key, error) {
	parts := strings.SplitN(string(key[min(len(key), 1):]), "\x00", 3)
	if len(parts) != 3 {
		return store.Key{}, fmt.Errorf("%q is no record's key", key)
	}
	return store.Key{Resource: parts[0], Namespace: parts[1], Name: parts[2]}, nil
}

// Checkpoint makes a consistent copy of everything committed so far in dir,
// which must not exist. Files are hard links where the file system allows.
func (e *Engine) Checkpoint(dir string) error {
	return e.db.Checkpoint(dir, pebble.WithFlushedWAL())
}

// Compact rewrites everything, giving all space of deleted data back; nothing is
// left of what was overwritten.
func (e *Engine) Compact(ctx context.Context) error {
	if err := e.forgetPast(); err != nil {
		return err
	}
	return e.db.Compact(ctx, []byte{0}, []byte{0xff}, false)
}

func (e *Engine) Stat() store.Stat {
	m := e.db.Metrics()
	return store.Stat{DiskBytes: int64(m.DiskSpaceUsage()), LogBytes: int64(m.WAL.PhysicalSize), FreeBytes: e.space.free()}
}

// Room tells why growing writes are refused now, or nil.
func (e *Engine) Room() error { return e.space.room() }

// Hurry ends all waiting for a full disk; what waited fails.
func (e *Engine) Hurry() { e.hurry.Do(func() { close(e.space.patience) }) }

// Close releases the directory; once is enough. It flushes first, since tables
// tell damage from an abrupt end everywhere, a log not at its very end. On a full
// disk the log has to do.
func (e *Engine) Close() (err error) {
	e.closed.Do(func() { err = e.shut() })
	return err
}

func (e *Engine) shut() (err error) {
	e.Hurry()
	if _, ours := e.space.left(); e.broken.Load() == nil && (ours < 0 || ours > 2*memTable) {
		err = e.db.Flush()
	}
	err = errors.Join(err, e.closeDB())
	e.seal.stop()
	return errors.Join(err, e.lock.Close())
}

func (e *Engine) closeDB() (err error) {
	defer func() {
		if f, ok := recover().(fatal); ok {
			err = f.error
		}
	}()
	if e.db == nil {
		return nil
	}
	return e.db.Close()
}
