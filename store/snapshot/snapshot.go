// Package snapshot is the file that a whole cluster's state is saved in: every
// object at one revision, and the files that make up its identity.
//
// It promises that what Read has told to the end is what Write was given: a file
// that is cut off, changed or not one of these is refused with a sentence that
// says so. Values are as the engine keeps them, so what was encrypted stays so.
//
// The file is a zstd stream of
//
//	"proa snapshot 1\n"
//	frames: kind (1 byte), length (uvarint), bytes
//	the SHA-256 of all that
//
// The first frame is the Header in JSON, the last one says how many frames of
// each kind came before it.
package snapshot

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"time"

	"github.com/klauspost/compress/zstd"

	"proa/store"
)

const (
	magic = "proa snapshot "
	line  = magic + "1\n"

	kindHeader = 'h'
	kindFile   = 'f'
	kindObject = 'o'
	kindEnd    = 'z'

	// maxFrame bounds what a damaged length can ask for.
	maxFrame = 64 << 20
)

// Header says what a snapshot is of.
type Header struct {
	Created  time.Time `json:"created"`
	Revision uint64    `json:"revision"`
	Version  string    `json:"version"` // of proa
	Server   string    `json:"server,omitempty"`
}

// File is one of the identity's files; Name is relative to the data directory.
type File struct {
	Name string      `json:"name"`
	Mode fs.FileMode `json:"mode"`
	Data []byte      `json:"data"`
}

type counts struct {
	Files   int `json:"files"`
	Objects int `json:"objects"`
}

// Writer writes a snapshot: the header, files, objects, Close.
type Writer struct {
	zip  *zstd.Encoder
	out  io.Writer // zip and sum
	sum  hash.Hash
	seen counts
}

// NewWriter begins a snapshot.
func NewWriter(w io.Writer, h Header) (*Writer, error) {
	zip, err := zstd.NewWriter(w, zstd.WithEncoderConcurrency(1))
	if err != nil {
		return nil, err
	}
	out := &Writer{zip: zip, sum: sha256.New()}
	out.out = io.MultiWriter(zip, out.sum)
	if _, err := io.WriteString(out.out, line); err != nil {
		return nil, err
	}
	return out, out.json(kindHeader, h)
}

func (w *Writer) json(kind byte, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return w.frame(kind, data)
}

func (w *Writer) frame(kind byte, data []byte) error {
	head := binary.AppendUvarint([]byte{kind}, uint64(len(data)))
	if _, err := w.out.Write(head); err != nil {
		return err
	}
	_, err := w.out.Write(data)
	return err
}

// File adds a file.
func (w *Writer) File(f File) error {
	w.seen.Files++
	return w.json(kindFile, f)
}

// Object adds an object.
func (w *Writer) Object(e store.Entry) error {
	w.seen.Objects++
	data := binary.AppendUvarint(nil, e.Revision)
	for _, s := range []string{e.Key.Resource, e.Key.Namespace, e.Key.Name} {
		data = append(binary.AppendUvarint(data, uint64(len(s))), s...)
	}
	return w.frame(kindObject, append(data, e.Value...))
}

// Close ends the snapshot, which is none before. It does not close what is
// written to.
func (w *Writer) Close() error {
	if err := w.json(kindEnd, w.seen); err != nil {
		return err
	}
	if _, err := w.zip.Write(w.sum.Sum(nil)); err != nil {
		return err
	}
	return w.zip.Close()
}

// Handler is told what a snapshot holds, in order. Nil functions want nothing.
type Handler struct {
	Header func(Header) error
	File   func(File) error
	Object func(store.Entry) error
}

// ErrDamaged is in what Read says of a file that is not what Write wrote.
var ErrDamaged = errors.New("the snapshot cannot be used")

func damaged(format string, args ...any) error {
	return fmt.Errorf("%w: %w", ErrDamaged, fmt.Errorf(format, args...))
}

// Read tells a snapshot to the handler. Only a nil error says that what was told
// is right and complete.
func Read(r io.Reader, h Handler) error {
	zip, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(64<<20))
	if err != nil {
		return damaged("%w", err)
	}
	defer zip.Close()
	in := &reader{in: bufio.NewReader(zip), sum: sha256.New()}
	if err := in.begin(); err != nil {
		return err
	}
	for {
		done, err := in.next(h)
		if err != nil {
			return err
		}
		if done {
			return in.end()
		}
	}
}

type reader struct {
	in   *bufio.Reader
	sum  hash.Hash
	seen counts
}

// begin checks that it is a snapshot of a version that is known.
func (r *reader) begin() error {
	first := make([]byte, len(line))
	if _, err := io.ReadFull(r.in, first); err != nil || !bytes.HasPrefix(first, []byte(magic)) {
		return damaged("it is no snapshot of proa")
	}
	if string(first) != line {
		return damaged("a newer version of proa wrote it: use that one")
	}
	r.sum.Write(first)
	return nil
}

func (r *reader) next(h Handler) (done bool, err error) {
	kind, data, err := r.frame()
	if err != nil {
		return false, damaged("it is cut off or damaged (%w)", err)
	}
	switch kind {
	case kindHeader:
		return false, told(data, h.Header)
	case kindFile:
		r.seen.Files++
		return false, told(data, h.File)
	case kindObject:
		r.seen.Objects++
		e, err := object(data)
		if err != nil || h.Object == nil {
			return false, err
		}
		return false, h.Object(e)
	case kindEnd:
		var c counts
		if err := json.Unmarshal(data, &c); err != nil || c != r.seen {
			return false, damaged("parts of it are missing")
		}
		return true, nil
	}
	return false, damaged("it holds something unknown (%q)", kind)
}

func told[T any](data []byte, tell func(T) error) error {
	var v T
	if err := json.Unmarshal(data, &v); err != nil {
		return damaged("%w", err)
	}
	if tell == nil {
		return nil
	}
	return tell(v)
}

func (r *reader) frame() (kind byte, data []byte, err error) {
	if kind, err = r.in.ReadByte(); err != nil {
		return 0, nil, io.ErrUnexpectedEOF
	}
	n, err := binary.ReadUvarint(r.in)
	if err != nil || n > maxFrame {
		return 0, nil, io.ErrUnexpectedEOF
	}
	var buf bytes.Buffer // grows with what is there, not with what is said
	if _, err := io.CopyN(&buf, r.in, int64(n)); err != nil {
		return 0, nil, io.ErrUnexpectedEOF
	}
	r.sum.Write(binary.AppendUvarint([]byte{kind}, n))
	r.sum.Write(buf.Bytes())
	return kind, buf.Bytes(), nil
}

func object(data []byte) (e store.Entry, err error) {
	var n int
	if e.Revision, n = binary.Uvarint(data); n <= 0 {
		return e, damaged("an object has no revision")
	}
	data = data[n:]
	for _, s := range []*string{&e.Key.Resource, &e.Key.Namespace, &e.Key.Name} {
		size, n := binary.Uvarint(data)
		if n <= 0 || size > uint64(len(data)-n) {
			return e, damaged("an object has no key")
		}
		*s, data = string(data[n:n+int(size)]), data[n+int(size):]
	}
	e.Value = data
	return e, nil
}

// end compares the checksum.
func (r *reader) end() error {
	want := make([]byte, sha256.Size)
	if _, err := io.ReadFull(r.in, want); err != nil {
		return damaged("it is cut off")
	}
	if !bytes.Equal(want, r.sum.Sum(nil)) {
		return damaged("its checksum does not match")
	}
	if _, err := r.in.ReadByte(); err != io.EOF {
		return damaged("something follows its end")
	}
	return nil
}
