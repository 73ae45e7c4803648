package pebble

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"slices"
	"strings"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/batchrepr"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/wal"

	"proa/store"
)

// The past costs no write anything. Closing leaves it in a file; after a crash
// the log, which is replayed anyway, tells what changed since the tables were
// written, and the tables what was there before. Where the two meet, both count.

const (
	pastName = "history"
	pastLine = "proa history 1\n"
)

// logged is what the log that a crash left says beyond the tables.
type logged struct {
	base    uint64 // newest revision in the tables
	newest  uint64
	changes []store.Change
}

// readLogs reads the past from the logs, before the library replays them. What
// is not as expected there means that there is no past, nothing worse.
func (e *Engine) readLogs(c Config) *logged {
	l, err := e.replay(c)
	if err != nil {
		c.Log.Debug("the log tells no history", "error", err)
		return &logged{}
	}
	return l
}

func (e *Engine) replay(c Config) (l *logged, err error) {
	defer func() {
		if f, ok := recover().(fatal); ok {
			err = f.error
		}
	}()
	names, err := c.FS.List(c.Dir)
	if err != nil || !slices.Contains(names, sealName) {
		return &logged{}, err // a new directory
	}
	logs, err := wal.Scan(wal.Dir{FS: c.FS, Dirname: c.Dir})
	if err != nil {
		return nil, err
	}
	opts := e.options(c)
	opts.FS, opts.ReadOnly = withoutLogs{c.FS}, true
	before, err := pebble.Open(c.Dir, opts)
	if err != nil {
		return nil, err
	}
	defer before.Close()
	tables := &Engine{db: before, dir: c.Dir}
	l = &logged{}
	if l.base, err = tables.revision(); err != nil {
		return nil, err
	}
	l.newest = max(l.base, 1) // the first world's
	for _, log := range logs {
		if err := l.read(log.OpenForRead()); err != nil {
			return nil, err
		}
	}
	return l, l.before(before)
}

// withoutLogs is a directory in which the logs were forgotten.
type withoutLogs struct{ vfs.FS }

func (f withoutLogs) List(dir string) ([]string, error) {
	names, err := f.FS.List(dir)
	return slices.DeleteFunc(names, func(n string) bool { return strings.HasSuffix(n, ".log") }), err
}

// read adds a log's batches. Where its end is torn, so is the library's reading.
func (l *logged) read(r wal.Reader) error {
	defer r.Close()
	for {
		record, _, err := r.NextRecord()
		if err != nil {
			return nil //nolint:nilerr // the end, torn or not: Past compares what was read with what the library read
		}
		data, err := io.ReadAll(record)
		if err != nil {
			return nil //nolint:nilerr // likewise
		}
		if err := l.batch(batchrepr.Read(data)); err != nil {
			return err
		}
	}
}

// batch adds one commit: entries of consecutive revisions, the last of which
// stands behind them.
func (l *logged) batch(r batchrepr.Reader) error {
	var changes []store.Change
	for {
		kind, key, value, ok, err := r.Next()
		switch {
		case err != nil:
			return err
		case !ok:
			return nil // not one of Commit's
		case bytes.Equal(key, revisionKey):
			newest, _, err := unstamp(revisionKey, value)
			if err != nil {
				return err
			}
			return l.add(changes, newest)
		case bytes.Equal(key, formatKey):
			continue
		}
		c, err := change(kind == pebble.InternalKeyKindDelete, key, value)
		if err != nil {
			return err
		}
		changes = append(changes, c)
	}
}

func change(deleted bool, key, value []byte) (c store.Change, err error) {
	if !deleted {
		c.Entry, err = decode(key, value)
		return c, err
	}
	c.Key, err = parseKey(key)
	return c, err
}

var errGap = errors.New("revisions are missing")

func (l *logged) add(changes []store.Change, newest uint64) error {
	if newest <= l.newest {
		return nil // in the tables already
	}
	first := newest - uint64(len(changes)) + 1
	if first != l.newest+1 {
		return errGap
	}
	for i := range changes {
		c := &changes[i]
		if c.Value != nil && c.Revision != first+uint64(i) {
			return errGap
		}
		c.Revision = first + uint64(i)
	}
	l.changes, l.newest = append(l.changes, changes...), newest
	return nil
}

// before finds in the tables what keys held that the log changed.
func (l *logged) before(tables *pebble.DB) error {
	seen := map[store.Key]bool{}
	for i := range l.changes {
		c := &l.changes[i]
		if seen[c.Key] {
			continue
		}
		seen[c.Key] = true
		key := appendKey(nil, c.Key)
		value, closer, err := tables.Get(key)
		if errors.Is(err, pebble.ErrNotFound) {
			continue
		}
		if err != nil {
			return err
		}
		e, err := decode(key, value)
		closer.Close()
		if err != nil {
			return err
		}
		c.Before = &e
	}
	return nil
}

// Past implements store.Historian.
func (e *Engine) Past(_ context.Context, newest uint64) (store.Past, error) {
	l := e.logged
	e.logged = nil // it is asked for once
	if l == nil || l.newest != max(newest, 1) {
		return store.Past{}, nil
	}
	p, at, err := e.readPast()
	if err != nil {
		e.log.Warn("the history of changes cannot be read: clients list again", "error", err)
	}
	if err != nil || at != max(l.base, 1) {
		if len(l.changes) == 0 {
			return store.Past{}, nil
		}
		return store.Past{Start: max(l.base, 1), Changes: l.changes}, nil
	}
	p.Saved = len(l.changes) == 0
	p.Changes = append(p.Changes, l.changes...)
	return p, nil
}

// Remember implements store.Historian.
func (e *Engine) Remember(p store.Past) error {
	newest, err := e.revision()
	if err != nil {
		return err
	}
	text := encodePast(p, max(newest, 1))
	if err := e.space.admit(len(text), false); err != nil {
		return err
	}
	return replaceFile(e.fs, e.dir, pastName, text)
}

// forgetPast is for when nothing old may be left.
func (e *Engine) forgetPast() error {
	if err := e.fs.Remove(e.fs.PathJoin(e.dir, pastName)); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// encodePast writes a line, the newest revision, the Past, and a checksum of it
// all. Before stands in front of its change.
func encodePast(p store.Past, newest uint64) []byte {
	b := binary.AppendUvarint([]byte(pastLine), newest)
	b = binary.AppendUvarint(b, p.Start)
	b = binary.AppendUvarint(b, uint64(len(p.Floors)))
	for resource, floor := range p.Floors {
		b = binary.AppendUvarint(appendBytes(b, []byte(resource)), floor)
	}
	for i := range p.Changes {
		c := &p.Changes[i]
		key := appendKey(nil, c.Key)
		if c.Before != nil {
			b = appendBytes(appendBytes(append(b, 'b'), key), stamp(nil, key, c.Before.Revision, c.Before.Value))
		}
		kind := byte('w')
		if c.Value == nil {
			kind = 'd'
		}
		b = appendBytes(appendBytes(append(b, kind), key), stamp(nil, key, c.Revision, c.Value))
	}
	return binary.BigEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

func appendBytes(to, b []byte) []byte {
	return append(binary.AppendUvarint(to, uint64(len(b))), b...)
}

var errPast = errors.New("file " + pastName + " is damaged")

// readPast reads the file, and of which revision it is; 0 if there is none.
func (e *Engine) readPast() (p store.Past, newest uint64, err error) {
	f, err := e.fs.Open(e.fs.PathJoin(e.dir, pastName))
	if err != nil {
		return p, 0, nil //nolint:nilerr // none was written
	}
	defer f.Close()
	text, err := io.ReadAll(f)
	if err != nil {
		return p, 0, err
	}
	end := len(text) - 4
	if end < len(pastLine) || string(text[:len(pastLine)]) != pastLine || binary.BigEndian.Uint32(text[end:]) != crc32.Checksum(text[:end], castagnoli) {
		return p, 0, errPast
	}
	d := &pastDecoder{rest: text[len(pastLine):end]}
	newest, p = d.number(), d.past()
	return p, newest, d.err
}

// pastDecoder remembers its first error, as what follows one has no meaning.
type pastDecoder struct {
	rest []byte
	err  error
}

func (d *pastDecoder) number() uint64 {
	v, n := binary.Uvarint(d.rest)
	if n <= 0 {
		d.rest, d.err = nil, errPast
		return 0
	}
	d.rest = d.rest[n:]
	return v
}

func (d *pastDecoder) bytes() (b []byte) {
	n := d.number()
	if n > uint64(len(d.rest)) {
		d.rest, d.err = nil, errPast
		return nil
	}
	b, d.rest = d.rest[:n], d.rest[n:]
	return b
}

func (d *pastDecoder) past() (p store.Past) {
	p.Start, p.Floors = d.number(), map[string]uint64{}
	for n := d.number(); n > 0 && d.err == nil; n-- {
		resource := string(d.bytes())
		p.Floors[resource] = d.number()
	}
	var before *store.Entry
	for len(d.rest) > 0 && d.err == nil {
		kind := d.rest[0]
		d.rest = d.rest[1:]
		key := d.bytes()
		e, err := decode(key, d.bytes())
		if err != nil {
			d.err = fmt.Errorf("%w: %w", errPast, err)
			break
		}
		switch kind {
		case 'b':
			before = &e
			continue
		case 'd':
			e.Value = nil
		}
		p.Changes = append(p.Changes, store.Change{Entry: e, Before: before})
		before = nil
	}
	return p
}
