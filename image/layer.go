package image

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/containerd/containerd/v2/pkg/archive"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
)

// chainIDs returns the chain ID of each layer (OCI image-spec, config.md).
func chainIDs(diffs []digest.Digest) []digest.Digest {
	out := make([]digest.Digest, len(diffs))
	for i, d := range diffs {
		if out[i] = d; i > 0 {
			out[i] = digest.FromString(out[i-1].String() + " " + d.String())
		}
	}
	return out
}

// layerJob is one layer to be unpacked: desc as it is transported, diff and
// chain as the configuration says.
type layerJob struct {
	desc        v1.Descriptor
	diff, chain digest.Digest
	parents     []digest.Digest // chain IDs below, lowest first
	open        func(context.Context) (io.ReadCloser, error)
	progress    func(Progress)
}

// unpack makes the layer's directory, unless it is there.
func (s *Store) unpack(ctx context.Context, j layerJob) error {
	unlock, err := s.keyed.lock(ctx, "unpack "+j.chain.String())
	if err != nil {
		return err
	}
	defer unlock()
	s.mu.Lock()
	_, have := s.layers[j.chain]
	s.mu.Unlock()
	if have {
		return nil
	}
	tmp, err := os.MkdirTemp(s.path("tmp"), "layer-")
	if err != nil {
		return diskError(err)
	}
	defer os.RemoveAll(tmp)
	if err := os.Chmod(tmp, 0o755); err != nil {
		return err
	}
	size, err := s.extract(ctx, j, tmp)
	if err != nil {
		return fmt.Errorf("layer %s: %w", short(j.desc.Digest), diskError(err))
	}
	return s.keepLayer(j.chain, tmp, size)
}

// keepLayer moves an unpacked layer to its place. It becomes durable with the
// image (register).
func (s *Store) keepLayer(chain digest.Digest, tmp string, size int64) error {
	s.mu.Lock()
	s.next++
	l := layer{Dir: strconv.FormatInt(int64(s.next), 36), Size: size}
	s.mu.Unlock()
	if err := os.Rename(tmp, s.path("l", l.Dir)); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.layers[chain] = l
	return nil
}

// extract unpacks into dir, checking both digests, and returns the size of the
// files.
func (s *Store) extract(ctx context.Context, j layerJob, dir string) (int64, error) {
	blob, err := j.open(ctx)
	if err != nil {
		return 0, err
	}
	defer blob.Close()
	outer := newVerifier(blob, j.desc.Digest, j.desc.Size)
	report := &reporter{r: outer, f: j.progress, p: Progress{Layer: j.desc.Digest, Stage: "unpack", Total: j.desc.Size}}
	plain, err := decompress(report)
	if err != nil {
		return 0, err
	}
	defer plain.Close()
	inner := newVerifier(&guard{r: plain, dir: dir}, j.diff, -1)
	size, err := archive.Apply(ctx, dir, inner, archive.WithFilter(func(h *tar.Header) (bool, error) { return true, admit(h, dir) }),
		archive.WithConvertWhiteout(archive.OverlayConvertWhiteout), archive.WithParents(s.dirs(j.parents)))
	if err != nil {
		return 0, damaged(err)
	}
	// Both streams may go on behind the end of the archive, and count.
	if err := inner.finish(); err != nil {
		return 0, damaged(err)
	}
	return size, damaged(outer.finish())
}

// damaged says in words what the readers' errors for a cut or broken file mean.
func damaged(err error) error {
	switch {
	case errors.Is(err, io.ErrUnexpectedEOF):
		return errors.New("the data ends too early: the file is truncated, fetch or save it again")
	case errors.Is(err, tar.ErrHeader), errors.Is(err, gzip.ErrHeader), errors.Is(err, gzip.ErrChecksum), errors.Is(err, zstd.ErrMagicMismatch):
		return fmt.Errorf("the data is damaged (%w): fetch or save it again", err)
	}
	return err
}

// dirs returns the directories of chain IDs, the topmost first.
func (s *Store) dirs(chain []digest.Digest) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]string, 0, len(chain))
	for i := len(chain) - 1; i >= 0; i-- {
		out = append(out, s.path("l", s.layers[chain[i]].Dir))
	}
	return out
}

// admit refuses entries that point outside or that are larger than the disk (a
// sparse file may claim any size), and takes away what only overlayfs itself may
// say of a file.
func admit(h *tar.Header, dir string) error {
	name := strings.TrimLeft(h.Name, "/")
	if name != "" && name != "." && !filepath.IsLocal(name) {
		return fmt.Errorf("the archive has an entry outside of its root: %q", h.Name)
	}
	for key := range h.PAXRecords {
		if strings.HasPrefix(key, "SCHILY.xattr.trusted.") || strings.HasPrefix(key, "SCHILY.xattr.user.overlay.") {
			delete(h.PAXRecords, key)
		}
	}
	if h.Size < guardEvery {
		return nil
	}
	return checkFree(dir, h.Size)
}

// decompress finds out how a stream is compressed and undoes it.
func decompress(r io.Reader) (io.ReadCloser, error) {
	b := bufio.NewReaderSize(r, 64<<10)
	magic, err := b.Peek(6)
	if err != nil && err != io.EOF {
		return nil, err
	}
	switch {
	case bytes.HasPrefix(magic, []byte{0x1f, 0x8b}):
		return gzip.NewReader(b)
	case bytes.HasPrefix(magic, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		// Two decoders' worth of window each is memory; layers are read one
		// after the other anyway.
		z, err := zstd.NewReader(b, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(128<<20))
		if err != nil {
			return nil, err
		}
		return z.IOReadCloser(), nil
	case bytes.HasPrefix(magic, []byte("\xfd7zXZ")):
		return nil, errors.New("it is compressed with xz: use gzip, zstd or no compression")
	case bytes.HasPrefix(magic, []byte("BZh")):
		return nil, errors.New("it is compressed with bzip2: use gzip, zstd or no compression")
	}
	return io.NopCloser(b), nil
}

// verifier checks a stream's digest and, unless it is negative, its size.
type verifier struct {
	r      io.Reader
	hash   digest.Digester
	want   digest.Digest
	size   int64
	n      int64
	buffer []byte
}

func newVerifier(r io.Reader, want digest.Digest, size int64) *verifier {
	return &verifier{r: r, hash: digest.SHA256.Digester(), want: want, size: size}
}

func (v *verifier) Read(p []byte) (int, error) {
	n, err := v.r.Read(p)
	v.n += int64(n)
	v.hash.Hash().Write(p[:n])
	if v.size >= 0 && v.n > v.size {
		return n, fmt.Errorf("it is longer than the %d bytes that its manifest says", v.size)
	}
	return n, err
}

// finish reads to the end and judges.
func (v *verifier) finish() error {
	if _, err := io.Copy(io.Discard, v); err != nil {
		return err
	}
	if v.size >= 0 && v.n < v.size {
		return io.ErrUnexpectedEOF
	}
	if got := v.hash.Digest(); v.want != "" && got != v.want {
		return fmt.Errorf("its digest is %s, not %s: the data is damaged, fetch or save it again", got, v.want)
	}
	return nil
}

// guard ends a stream before what is made of it fills the disk.
type guard struct {
	r     io.Reader
	dir   string
	since int64
}

// A check each so many bytes; what a stream can write between two checks is
// well within what must stay free.
const (
	guardEvery = 8 << 20
	guardFree  = 64 << 20
)

func (g *guard) Read(p []byte) (int, error) {
	if g.since >= guardEvery || g.since == 0 {
		g.since = 0
		if err := checkFree(g.dir, 0); err != nil {
			return 0, err
		}
	}
	n, err := g.r.Read(p)
	g.since += int64(n)
	return n, err
}

// checkFree refuses to go on when little space, or few inodes, would be left
// after a number of bytes more.
func checkFree(dir string, bytes int64) error {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return err
	}
	free, total := int64(st.Bavail)*st.Bsize, int64(st.Blocks)*st.Bsize
	if free-bytes < min(guardFree, total/20) || st.Files > 0 && st.Ffree < st.Files/100 {
		return fmt.Errorf("%w: %d MiB and %d inodes are left in %s: remove images or free some space", ErrNoSpace, free>>20, st.Ffree, dir)
	}
	return nil
}

// reporter tells progress as it is read, once a megabyte.
type reporter struct {
	r    io.Reader
	f    func(Progress)
	p    Progress
	last int64
}

func (r *reporter) Read(b []byte) (int, error) {
	n, err := r.r.Read(b)
	r.p.Done += int64(n)
	if r.f != nil && (r.p.Done-r.last >= 1<<20 || err != nil) {
		r.last = r.p.Done
		r.f(r.p)
	}
	return n, err
}

func short(d digest.Digest) string {
	if hex := d.Encoded(); len(hex) > 12 {
		return hex[:12]
	}
	return d.String()
}
