package store

import "context"

// Engine makes transactions durable and brings them back. The store serialises
// Commit calls by itself (group commit: one call carries many transactions).
//
// It belongs to one process. Remote is what several share; both pass one
// conformance suite (store/enginetest).
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

// Patient is an Engine that may wait for a full disk within Commit.
type Patient interface {
	// Room tells why growing writes are refused now, or nil.
	Room() error
	// Hurry ends all waiting, of now and of later; what waited fails.
	Hurry()
}

// Remote is a datastore outside this process that several stores write to at
// once. It gives the revisions itself and tells of everybody's writes; a store
// builds its world from what Follow reports, and from nothing else.
//
// All methods may be called at any time, from many goroutines, until Close.
type Remote interface {
	// Load calls emit once a live key, in any order, as of one revision, which
	// it returns. That may be a past one, as long as Follow can go on from it.
	Load(ctx context.Context, emit func(Entry) error) (revision uint64, err error)
	// Submit makes all writes durable or none, and returns the revision that
	// they have in common, and which of them changed anything (a delete may
	// find nothing). Errors: *ConflictError, ErrNoSpace, ErrTooLarge and
	// ErrUnavailable mean none; ErrUnconfirmed that nobody knows.
	Submit(ctx context.Context, writes []Write) (revision uint64, changed []bool, err error)
	// Follow reports every change after a revision, in order, a revision never
	// in two parts, and at times, with no entries, how far it has come. It waits
	// out whatever can pass by itself. It returns when ctx ends; or with
	// ErrExpired, when what changed since is not known any more.
	Follow(ctx context.Context, after uint64, report func(entries []Entry, revision uint64)) error
	// Newest is a revision not before that of any write that was acknowledged
	// to anybody before the call. ErrUnavailable.
	Newest(ctx context.Context) (uint64, error)
	// Room tells why writes that grow are refused, as far as the newest of them
	// says, or nil: ErrNoSpace.
	Room() error
	// Nudge has Follow tell soon how far it has come.
	Nudge(ctx context.Context)
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
