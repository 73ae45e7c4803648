package store

import "context"

// Engine makes a transaction durable and brings it back. The store serialises
// Commit calls by itself (group commit: one call carries many transactions).
//
// Two implementations pass one conformance suite (store/enginetest): the
// embedded one (store/pebble) and etcd.
type Engine interface {
	// Load calls emit once a live key, in any order, and returns the revision
	// of the newest write ever committed. It fails, naming the record, when
	// what it reads was not what was written.
	Load(ctx context.Context, emit func(Entry) error) (revision uint64, err error)
	// Commit makes all entries durable, in order, before it returns. An error
	// that wraps ErrNoSpace leaves the engine usable.
	Commit(ctx context.Context, entries []Entry) error
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

// Stat describes an engine's use of the disk, in bytes.
type Stat struct {
	DiskBytes, LogBytes, FreeBytes int64
}
