package store

import "context"

// Engine makes transactions durable and brings them back. The store serialises
// Commit calls by itself (group commit: one call carries many transactions).
//
// Two implementations pass one conformance suite (store/enginetest): the
// embedded one (store/pebble) and etcd.
type Engine interface {
	// Load calls emit once a live key, in key order, and returns the revision
	// of the newest write ever committed, deletes included. It fails, naming
	// the record or file and what to do, when what it reads was not what was
	// written. Entry.Value may be kept.
	Load(ctx context.Context, emit func(Entry) error) (revision uint64, err error)
	// Commit makes all entries durable, all or none of them, before it returns.
	// An error that wraps ErrNoSpace means none, and leaves the engine usable;
	// after any other error the outcome is unknown until the engine was opened
	// again, and the store commits no more. Freeing tells that these entries
	// make room (deletes, and steps toward one), so they may use the space that
	// the engine keeps back for them.
	Commit(ctx context.Context, entries []Entry, freeing bool) error
	// Stat is for metrics and for doctor.
	Stat() Stat
	Close() error
}

// Entry is one key's state as written at Revision; nil Value deletes.
type Entry struct {
	Key      Key
	Revision uint64
	Value    []byte
}

// Seal names what sealed a value: 0 is nothing, the rest are numbers that a
// Sealer gives out and that mean something as long as the process lives.
type Seal uint32

// Sealer turns values into what the engine keeps, and back; encryption at rest
// is one. The memory holds values, the engine only what Seal returned. All
// methods may be called from many goroutines.
type Sealer interface {
	// Seal may return the value itself.
	Seal(k Key, value []byte) (kept []byte, by Seal, err error)
	// Open fails, naming the key that is missing or the record that is
	// damaged.
	Open(k Key, kept []byte) (value []byte, by Seal, err error)
	// Current is what a value of the resource would be sealed by now.
	Current(resource string) Seal
}

// Stat describes an engine's use of the disk, in bytes. FreeBytes is -1 where
// that cannot be known.
type Stat struct {
	DiskBytes, LogBytes, FreeBytes int64
}
