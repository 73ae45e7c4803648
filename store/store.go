// Package store holds the world: every object once, immutable, in ordered
// copy-on-write trees, over an engine that makes writes durable.
//
// What it promises:
//   - A write that Commit acknowledged is on disk; one that it did not
//     acknowledge is there whole or not at all.
//   - Every write gets a revision greater than all before; the revision is the
//     object's resourceVersion.
//   - A Snapshot is all objects at one revision and costs O(1).
//   - SnapshotAndWatch has no gap and no repetition between the two.
//   - A watcher sees every event of its scope in order, or ErrExpired.
//   - An object's encoded forms are made at most once and shared by all readers.
//
// The store knows nothing of kinds: rows' indexes and the codec are handed in.
package store

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strings"

	"proa/api"
)

// Key names an object. Resource is api.Resource.Key ("apps/deployments");
// Namespace is empty for cluster-scoped objects. Keys are ordered by Resource,
// Namespace, Name.
type Key struct {
	Resource, Namespace, Name string
}

func (k Key) String() string {
	if k.Namespace == "" {
		return k.Resource + " " + k.Name
	}
	return k.Resource + " " + k.Namespace + "/" + k.Name
}

// Compare orders keys.
func (k Key) Compare(o Key) int {
	if c := strings.Compare(k.Resource, o.Resource); c != 0 {
		return c
	}
	if c := strings.Compare(k.Namespace, o.Namespace); c != 0 {
		return c
	}
	return strings.Compare(k.Name, o.Name)
}

// Write is one change of a transaction.
type Write struct {
	Key Key
	// Object is the new state, or nil to delete. The store takes it over: the
	// caller must not touch it again. Its resourceVersion is set by the store.
	Object api.Object
	// Expect is the revision that the key must be at: 0 means that it must not
	// exist, AnyRevision that the caller does not care.
	Expect uint64
	// Data is the object's storage encoding where the caller already has it;
	// nil has the store make it.
	Data []byte

	kept []byte // what the engine is given, see Kept
	by   Seal   // what sealed it
}

// Kept is Data as the engine is to keep it: sealed, once the store has taken the
// write.
func (w *Write) Kept() []byte {
	if w.kept == nil {
		return w.Data
	}
	return w.kept
}

// AnyRevision in Write.Expect stands for no precondition.
const AnyRevision = ^uint64(0)

// EventType says what happened to a key.
type EventType uint8

const (
	Added EventType = iota + 1
	Modified
	Deleted
)

// Event is one change. Prev is the state before (nil for Added). For Deleted,
// Record is the last state, but carries the deletion's revision.
type Event struct {
	Type     EventType
	Revision uint64
	Record   *Record
	Prev     *Record
}

// Scope limits a watch or list. An empty Namespace or Name means all.
type Scope struct {
	Resource, Namespace, Name string
}

var (
	// ErrConflict: the key was not at the expected revision.
	ErrConflict = errors.New("the object has been modified")
	// ErrExpired: the revision is older than the history that is kept, or a
	// watcher fell behind it.
	ErrExpired = errors.New("the revision is too old")
	// ErrFuture: the revision has not been reached yet.
	ErrFuture = errors.New("the revision is too large")
	// ErrNoSpace: the disk is full; deletes are still accepted.
	ErrNoSpace = errors.New("the disk is full")
	// ErrClosed: the store is closed or its engine failed for good.
	ErrClosed = errors.New("the store is closed")
	// ErrTooLarge: the datastore takes no transaction of this size.
	ErrTooLarge = errors.New("too large for the datastore")
	// ErrUnavailable: a remote datastore does not answer, and nothing was
	// written. It may answer again by itself.
	ErrUnavailable = errors.New("the datastore does not answer")
	// ErrUnconfirmed: a remote datastore did not say whether it wrote; whoever
	// needs to know reads.
	ErrUnconfirmed = errors.New("the datastore did not confirm the write: it may or may not have happened")
)

// ConflictError says which write of a transaction found what revision.
type ConflictError struct {
	Key      Key
	Expected uint64
	Actual   uint64 // 0 when the key does not exist
}

func (e *ConflictError) Error() string {
	switch {
	case e.Actual == 0:
		return fmt.Sprintf("%s does not exist", e.Key)
	case e.Expected == 0:
		return fmt.Sprintf("%s exists already, at revision %d", e.Key, e.Actual)
	}
	return fmt.Sprintf("%s is at revision %d, not %d", e.Key, e.Actual, e.Expected)
}

// Is makes errors.Is(err, ErrConflict) true.
func (e *ConflictError) Is(target error) bool { return target == ErrConflict }

// Codec turns objects into the bytes that are kept and back. Encode leaves the
// resourceVersion out. Decode may be called from many goroutines.
type Codec interface {
	Encode(resource string, obj api.Object) ([]byte, error)
	Decode(resource string, data []byte) (api.Object, error)
}

// Snapshot is every object at one revision. It is immutable and safe for
// concurrent use; holding one keeps what it shows in memory.
type Snapshot interface {
	Revision() uint64
	// Get returns nil where there is none.
	Get(Key) *Record
	// List yields the scope's records in key order, beginning after the key
	// `after` (zero: from the start).
	List(s Scope, after Key) iter.Seq[*Record]
	// Count tells how many List would yield from the start, cheaply.
	Count(s Scope) int
	// Index yields the records that row.Indexes[index] files under value, in
	// key order.
	Index(resource, index, value string) iter.Seq[*Record]
	// Only shows the named resources and keeps nothing else in memory.
	Only(resources ...string) Snapshot
}

// Watcher yields the events of its scopes in revision order.
type Watcher interface {
	// Next waits for events and returns those that are there, at most a few
	// hundred; revision is how far the stream has come, which may be further
	// than the last event (for bookmarks). When ctx ends it returns no events,
	// the current revision and ctx.Err(). ErrExpired ends the stream.
	Next(ctx context.Context) (events []Event, revision uint64, err error)
	Close()
}

// Interface is what the store offers. New returns the only implementation.
type Interface interface {
	Snapshot() Snapshot
	// Latest is a snapshot that shows every write that was acknowledged to
	// anybody before the call. With an embedded engine any snapshot does;
	// with a remote datastore it waits for what other servers wrote:
	// ErrUnavailable, ctx.Err().
	Latest(ctx context.Context) (Snapshot, error)
	// SnapshotAt reconstructs the past at exactly this revision within kept
	// history: ErrExpired, ErrFuture. Each resource's history is kept by itself,
	// so a caller names those it will read; the snapshot shows no others. With
	// none named it shows all, and needs the history of all.
	SnapshotAt(revision uint64, resources ...string) (Snapshot, error)
	// WaitFor blocks until the world has reached the revision.
	WaitFor(ctx context.Context, revision uint64) error
	// Commit applies all writes or none, atomically and durably, and returns
	// the new records (the deleted state for deletes; nil for a delete with
	// AnyRevision that found nothing). Each write takes a revision of its own,
	// or in a remote datastore each transaction. A key may be written once in
	// a transaction. Errors: *ConflictError (errors.Is ErrConflict),
	// ErrNoSpace, ErrTooLarge, ErrClosed, ErrUnavailable, the codec's; ctx.Err()
	// if ctx ended before the write began; in all these cases nothing was
	// written. Once it began the outcome is waited for; ErrUnconfirmed says that
	// a remote datastore did not tell.
	Commit(ctx context.Context, writes ...Write) ([]*Record, error)
	// Watch follows the scopes from just after the revision.
	Watch(from uint64, scopes ...Scope) (Watcher, error)
	// SnapshotAndWatch is both, atomically.
	SnapshotAndWatch(scopes ...Scope) (Snapshot, Watcher)
	// Reindex files a resource's objects anew; it is for whoever changed the
	// resource's row in the Registry (a CustomResourceDefinition came or went).
	Reindex(ctx context.Context, resource string) error
	// Healthy tells whether writes and Latest can be expected to work: nil, or
	// why not. With a remote datastore it asks, for as long as ctx allows.
	Healthy(ctx context.Context) error
	// Room tells why writes that grow are refused though all else works, or nil:
	// ErrNoSpace.
	Room() error
	Close() error
}
