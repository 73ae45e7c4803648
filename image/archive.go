package image

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// files are the parts of an archive by their name in it.
type files interface {
	open(name string) (io.ReadCloser, error) // fs.ErrNotExist
	size(name string) (int64, error)
}

// Import reads an OCI layout or a docker archive as a tar stream, plain or
// compressed with gzip or zstd, and keeps all images in it. Name is for an
// archive that names none, or with one image for another name; it may be empty.
// Nothing is kept when anything is wrong.
func (s *Store) Import(ctx context.Context, r io.Reader, name string, progress func(Progress)) ([]Image, error) {
	dir, err := os.MkdirTemp(s.path("tmp"), "import-")
	if err != nil {
		return nil, diskError(err)
	}
	defer os.RemoveAll(dir)
	parts, err := spool(ctx, r, dir)
	if err != nil {
		return nil, fmt.Errorf("cannot read the image archive: %w", diskError(damaged(err)))
	}
	return s.importFiles(ctx, parts, name, progress)
}

// ImportDir is Import for an OCI layout that is a directory.
func (s *Store) ImportDir(ctx context.Context, dir, name string, progress func(Progress)) ([]Image, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	return s.importFiles(ctx, directory{root}, name, progress)
}

func (s *Store) importFiles(ctx context.Context, parts files, name string, progress func(Progress)) ([]Image, error) {
	ctx, end := s.begin(ctx)
	defer end()
	found, err := contents(parts)
	if err != nil {
		return nil, fmt.Errorf("cannot import the image archive: %w", err)
	}
	if err := giveNames(found, name); err != nil {
		return nil, err
	}
	var entries []*entry
	for _, f := range found {
		e, err := s.ingest(ctx, f, f.root, named(progress, strings.Join(f.names, " ")))
		if err != nil {
			return nil, fmt.Errorf("cannot import the image archive: %s: %w", strings.Join(f.names, " "), err)
		}
		for _, n := range f.names {
			t, err := parseTarget(n)
			if err != nil {
				return nil, err
			}
			names, digests := t.names(f.root.Digest)
			e.Names, e.Digests = union(e.Names, names), union(e.Digests, digests)
		}
		entries = append(entries, e)
	}
	return s.register(entries...)
}

func named(f func(Progress), ref string) func(Progress) {
	if f == nil {
		return nil
	}
	return func(p Progress) { p.Ref = ref; f(p) }
}

// giveNames normalises the names that the archive gives, and applies the
// caller's.
func giveNames(found []*archived, name string) error {
	if name != "" && len(found) != 1 {
		return fmt.Errorf("the archive holds %d images, so one name cannot be given to it: %w", len(found), ErrName)
	}
	for _, f := range found {
		if name != "" {
			f.names = []string{name}
		}
		if len(f.names) == 0 {
			return fmt.Errorf("the archive does not say what its image is called: give it a name: %w", ErrName)
		}
		for i, n := range f.names {
			full, err := normalize(n)
			if err != nil {
				return err
			}
			f.names[i] = full
		}
	}
	return nil
}

// archived is one image in an archive, as a source.
type archived struct {
	parts files
	root  v1.Descriptor
	names []string
	// made is a manifest that the archive does not have (docker archives), and
	// paths say where its content is.
	made  []byte
	paths map[digest.Digest]string
}

func (a *archived) manifest(ctx context.Context, desc v1.Descriptor) ([]byte, error) {
	if a.made != nil {
		return a.made, nil
	}
	return readBlob(ctx, a, desc, maxManifest)
}

func (a *archived) blob(_ context.Context, desc v1.Descriptor) (io.ReadCloser, error) {
	name, ok := a.paths[desc.Digest]
	if !ok {
		name = blobName(desc.Digest)
	}
	r, err := a.parts.open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s is missing: the archive is truncated or was made for another platform, save it again", name)
	}
	return r, err
}

func blobName(d digest.Digest) string { return "blobs/sha256/" + d.Encoded() }

// contents lists the images of an archive. Archives of newer docker versions
// are both kinds at once; the OCI side is the better description.
func contents(parts files) ([]*archived, error) {
	names := dockerNames(parts)
	var x v1.Index
	err := readJSON(parts, "index.json", &x)
	if err == nil {
		found := ociContents(parts, x, names)
		if len(found) > 0 {
			return found, nil
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	found, err := dockerContents(parts)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errors.New("it has neither index.json nor manifest.json: this is not an OCI layout or docker archive")
	}
	return found, err
}

// ociContents merges the index's entries by digest: an image with two names has
// two entries.
func ociContents(parts files, x v1.Index, fallback map[string][]string) (found []*archived) {
	for _, d := range x.Manifests {
		if checkDescriptors(d) != nil || d.MediaType != "" && !slices.Contains(manifestTypes, d.MediaType) {
			continue
		}
		if _, err := parts.size(blobName(d.Digest)); err != nil && len(fallback) > 0 {
			continue // only the docker side is whole
		}
		i := slices.IndexFunc(found, func(a *archived) bool { return a.root.Digest == d.Digest })
		if i < 0 {
			i = len(found)
			found = append(found, &archived{parts: parts, root: d})
		}
		if n := annotatedName(d.Annotations); n != "" {
			found[i].names = union(found[i].names, []string{n})
		}
	}
	if len(found) == 1 && len(found[0].names) == 0 {
		for _, names := range fallback {
			found[0].names = union(found[0].names, names)
		}
	}
	return found
}

// annotatedName is the name that the writers of layouts leave: docker and
// containerd the full one, others only a tag or a reference of their own.
func annotatedName(a map[string]string) string {
	if n := a["io.containerd.image.name"]; n != "" {
		return n
	}
	if n := a[v1.AnnotationRefName]; strings.ContainsAny(n, ":/") {
		return n
	}
	return ""
}

// saved is an entry of a docker archive's manifest.json.
type saved struct {
	Config   string
	RepoTags []string
	Layers   []string
}

func dockerNames(parts files) map[string][]string {
	var all []saved
	if readJSON(parts, "manifest.json", &all) != nil {
		return nil
	}
	names := map[string][]string{}
	for _, i := range all {
		names[i.Config] = i.RepoTags
	}
	return names
}

func dockerContents(parts files) ([]*archived, error) {
	var all []saved
	if err := readJSON(parts, "manifest.json", &all); err != nil {
		return nil, err
	}
	var found []*archived
	for _, i := range all {
		a, err := dockerImage(parts, i)
		if err != nil {
			return nil, err
		}
		found = append(found, a)
	}
	if len(found) == 0 {
		return nil, errors.New("it holds no image")
	}
	return found, nil
}

// dockerImage makes the manifest that a docker archive lacks. Its layers are
// described as they lie in the archive.
func dockerImage(parts files, i saved) (*archived, error) {
	a := &archived{parts: parts, names: i.RepoTags, paths: map[digest.Digest]string{}}
	m := v1.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageManifest}
	var err error
	if m.Config, err = a.describe(i.Config, v1.MediaTypeImageConfig); err != nil {
		return nil, err
	}
	for _, l := range i.Layers {
		d, err := a.describe(l, v1.MediaTypeImageLayer)
		if err != nil {
			return nil, err
		}
		m.Layers = append(m.Layers, d)
	}
	if a.made, err = json.Marshal(m); err != nil {
		return nil, err
	}
	a.root = v1.Descriptor{MediaType: m.MediaType, Digest: digest.FromBytes(a.made), Size: int64(len(a.made))}
	return a, nil
}

// describe computes a part's descriptor.
func (a *archived) describe(name, mediaType string) (v1.Descriptor, error) {
	r, err := a.parts.open(name)
	if err != nil {
		return v1.Descriptor{}, fmt.Errorf("manifest.json names %q, which is missing: the archive is truncated, save it again", name)
	}
	defer r.Close()
	h := digest.SHA256.Digester()
	n, err := io.Copy(h.Hash(), r)
	a.paths[h.Digest()] = name
	return v1.Descriptor{MediaType: mediaType, Digest: h.Digest(), Size: n}, err
}

func readJSON(parts files, name string, into any) error {
	r, err := parts.open(name)
	if err != nil {
		return err
	}
	defer r.Close()
	data, err := io.ReadAll(io.LimitReader(r, maxManifest+1))
	if err != nil {
		return err
	}
	if len(data) > maxManifest {
		return fmt.Errorf("%s is too large", name)
	}
	if err := json.Unmarshal(data, into); err != nil {
		return fmt.Errorf("%s is damaged: %w: save the archive again", name, err)
	}
	return nil
}

// directory is a layout in a directory. os.Root keeps links inside.
type directory struct{ root *os.Root }

func (d directory) open(name string) (io.ReadCloser, error) { return d.root.Open(filepath.Clean(name)) }

func (d directory) size(name string) (int64, error) {
	info, err := d.root.Stat(filepath.Clean(name))
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

// spooled is an archive's parts as numbered files: what an archive calls them
// never becomes a path.
type spooled map[string]string

func (s spooled) open(name string) (io.ReadCloser, error) {
	file, ok := s[path.Clean(name)]
	if !ok {
		return nil, fs.ErrNotExist
	}
	return os.Open(file)
}

func (s spooled) size(name string) (int64, error) {
	file, ok := s[path.Clean(name)]
	if !ok {
		return 0, fs.ErrNotExist
	}
	info, err := os.Stat(file)
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

// maxParts bounds the number of files in an archive; real ones have tens.
const maxParts = 20_000

// spool writes an archive's parts to files.
func spool(ctx context.Context, r io.Reader, dir string) (spooled, error) {
	plain, err := decompress(r)
	if err != nil {
		return nil, err
	}
	defer plain.Close()
	in := tar.NewReader(&guard{r: &interruptible{ctx, plain}, dir: dir})
	parts := spooled{}
	links := map[string]string{}
	for {
		h, err := in.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, err
		}
		if len(parts)+len(links) > maxParts {
			return nil, fmt.Errorf("it has more than %d parts", maxParts)
		}
		if err := admit(h, dir); err != nil {
			return nil, err
		}
		name := path.Clean(strings.TrimLeft(h.Name, "/"))
		switch h.Typeflag {
		case tar.TypeReg:
			file := filepath.Join(dir, strconv.Itoa(len(parts)))
			if err := writeSpool(file, in); err != nil {
				return nil, err
			}
			parts[name] = file
		case tar.TypeSymlink: // old docker versions write a repeated layer once
			links[name] = path.Join(path.Dir(name), h.Linkname)
		case tar.TypeLink:
			links[name] = path.Clean(h.Linkname)
		}
	}
	if len(parts) == 0 {
		return nil, errors.New("it is empty, or no tar archive")
	}
	for name, to := range links {
		if file, ok := parts[to]; ok {
			parts[name] = file
		}
	}
	return parts, nil
}

func writeSpool(file string, r io.Reader) error {
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, r)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	return err
}

// interruptible ends a stream with its context.
type interruptible struct {
	ctx context.Context
	r   io.Reader
}

func (i *interruptible) Read(p []byte) (int, error) {
	if err := i.ctx.Err(); err != nil {
		return 0, err
	}
	return i.r.Read(p)
}
