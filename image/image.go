// Package image keeps container images: it imports archives, pulls from
// registries, unpacks layers into overlayfs lower directories and hands out
// writable layers for containers.
//
// What it promises:
//   - What a name, digest or ID finds is whole and was verified against its
//     digests; an import or pull that failed or was killed leaves nothing that
//     can be found, and its remains are swept away.
//   - An image that Import or Pull returned survives a power cut.
//   - A layer is fetched and unpacked once, however many ask for it at the same
//     time, and is kept for as long as an image or a container needs it.
//   - No archive, however made, writes outside its layer's directory or fills
//     the disk.
//
// Names are normalised as docker does: "flask-app" is
// "docker.io/library/flask-app:latest".
package image

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

var (
	// ErrNotFound: no such image, here or in the registry.
	ErrNotFound = errors.New("not found")
	// ErrUnauthorized: the registry wants other credentials.
	ErrUnauthorized = errors.New("unauthorized")
	// ErrInUse: a container uses the image.
	ErrInUse = errors.New("in use")
	// ErrNoSpace: unpacking would fill the disk.
	ErrNoSpace = errors.New("not enough space on the disk")
	// ErrName: what was given is not a name of an image.
	ErrName = errors.New("invalid image name")
)

// Image is one image of this machine's platform.
type Image struct {
	// ID is the digest of the configuration, "sha256:...".
	ID string
	// Names are repository:tag, normalised; Digests are repository@digest.
	Names   []string
	Digests []string
	// Size in bytes of the files in all layers.
	Size    int64
	Config  v1.ImageConfig
	Created time.Time
	// Pinned images are not removed to make space.
	Pinned   bool
	Manifest digest.Digest
	// Layers are the digests of the uncompressed layers, lowest first.
	Layers []digest.Digest
}

// Progress tells how far an import or pull is. Total is 0 where it is unknown.
type Progress struct {
	Ref         string
	Layer       digest.Digest // empty for the image as a whole
	Stage       string        // "resolve", "download", "unpack", "done"
	Done, Total int64         // bytes
}

// Store is a directory of images, their layers and containers' writable layers.
//
//	images.json         what is known; replaced atomically
//	blobs/sha256/HEX    manifests and configurations
//	l/N/                unpacked layers (short, because overlayfs takes all of
//	                    them in one mount option)
//	containers/KEY/     writable layers
//	ingest/HEX          downloads, resumed by the next attempt
//	tmp/                emptied when the store is opened
type Store struct {
	dir   string
	log   *slog.Logger
	hosts []string // directories of registry configuration

	mu         sync.Mutex
	images     map[string]*entry // by ID
	layers     map[digest.Digest]layer
	containers map[string]container
	next       int // number of the next layer directory
	active     int // operations whose layers and blobs nothing refers to yet

	saving sync.Mutex // orders writes of images.json
	keyed  keyedLocks
	closed chan struct{}
	once   sync.Once
}

// entry is an image as images.json keeps it.
type entry struct {
	ID        digest.Digest   `json:"id"`
	Manifests []digest.Digest `json:"manifests"`
	Names     []string        `json:"names,omitempty"`
	Digests   []string        `json:"digests,omitempty"`
	Chain     []digest.Digest `json:"chain"`
	Pinned    bool            `json:"pinned,omitempty"`
	config    v1.Image
}

// layer is an unpacked layer, by chain ID: the digest of all layers up to it.
type layer struct {
	Dir  string `json:"dir"`
	Size int64  `json:"size"`
}

// Open opens or makes the directory and sweeps what an interrupted operation
// left behind.
func Open(dir string, log *slog.Logger) (*Store, error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	s := &Store{dir: dir, log: log, hosts: []string{"/etc/proa/certs.d", "/etc/containerd/certs.d"},
		images: map[string]*entry{}, layers: map[digest.Digest]layer{}, containers: map[string]container{}, closed: make(chan struct{})}
	if err := os.RemoveAll(s.path("tmp")); err != nil {
		return nil, fmt.Errorf("cannot open the image store: %w", err)
	}
	for _, sub := range []string{"blobs/sha256", "l", "containers", "ingest", "tmp"} {
		if err := os.MkdirAll(s.path(sub), 0o711); err != nil {
			return nil, fmt.Errorf("cannot open the image store: %w", err)
		}
	}
	if err := s.load(); err != nil {
		return nil, err
	}
	s.sweep()
	return s, nil
}

// SetHosts names the directories in which registries are configured (see
// hosts.go); it is to be called before the first Pull.
func (s *Store) SetHosts(dirs ...string) { s.hosts = dirs }

// Close ends what runs. The store must not be used after it.
func (s *Store) Close() error {
	s.once.Do(func() { close(s.closed) })
	return nil
}

func (s *Store) path(parts ...string) string {
	return filepath.Join(append([]string{s.dir}, parts...)...)
}

func (s *Store) blobPath(d digest.Digest) string { return s.path("blobs", "sha256", d.Encoded()) }

// begin marks an operation: nothing is swept until its end was called. The
// context also ends when the store closes.
func (s *Store) begin(ctx context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancel(ctx)
	stop := make(chan struct{})
	go func() {
		select {
		case <-s.closed:
			cancel()
		case <-stop:
		}
	}()
	s.mu.Lock()
	s.active++
	s.mu.Unlock()
	return ctx, func() {
		close(stop)
		cancel()
		s.mu.Lock()
		s.active--
		s.mu.Unlock()
		s.sweep()
	}
}

// Get finds an image by name, tag, digest, ID or the beginning of an ID. A name
// goes before an ID that looks like it.
func (s *Store) Get(ref string) (Image, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.find(ref)
	if e == nil {
		return Image{}, false
	}
	return s.image(e), true
}

// find is Get for holders of mu.
func (s *Store) find(ref string) *entry {
	if e := s.images[ref]; e != nil {
		return e
	}
	if name, err := normalize(ref); err == nil {
		for _, e := range s.images {
			if slices.Contains(e.Names, name) || slices.Contains(e.Digests, name) {
				return e
			}
		}
	}
	return s.findID(strings.TrimPrefix(ref, "sha256:"))
}

// findID finds by the beginning of an ID, if that is unambiguous.
func (s *Store) findID(hex string) (found *entry) {
	if len(hex) < 4 || strings.Trim(hex, "0123456789abcdef") != "" {
		return nil
	}
	for _, e := range s.images {
		if strings.HasPrefix(e.ID.Encoded(), hex) {
			if found != nil {
				return nil
			}
			found = e
		}
	}
	return found
}

// List returns all images, those with names first, in order.
func (s *Store) List() []Image {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []Image
	for _, e := range s.images {
		all = append(all, s.image(e))
	}
	slices.SortFunc(all, func(a, b Image) int {
		if c := slices.Compare(a.Names, b.Names); c != 0 && len(a.Names) > 0 && len(b.Names) > 0 {
			return c
		} else if len(a.Names) != len(b.Names) {
			return len(b.Names) - len(a.Names)
		}
		return strings.Compare(a.ID, b.ID)
	})
	return all
}

// image is the public form of an entry; mu is held.
func (s *Store) image(e *entry) Image {
	img := Image{ID: e.ID.String(), Names: slices.Clone(e.Names), Digests: slices.Clone(e.Digests), Config: e.config.Config,
		Pinned: e.Pinned, Manifest: e.Manifests[0], Layers: slices.Clone(e.config.RootFS.DiffIDs)}
	if e.config.Created != nil {
		img.Created = *e.config.Created
	}
	for _, c := range e.Chain {
		img.Size += s.layers[c].Size
	}
	return img
}
