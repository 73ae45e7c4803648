package image

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sort"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// index is images.json.
type index struct {
	Version int                     `json:"version"`
	Next    int                     `json:"next"`
	Images  []*entry                `json:"images"`
	Layers  map[digest.Digest]layer `json:"layers"`
}

const indexVersion = 1

// load reads images.json and what it refers to. An image that lost a part is
// left out, with a line in the log.
func (s *Store) load() error {
	path := s.path("images.json")
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return s.loadContainers()
	}
	var x index
	if err == nil {
		err = json.Unmarshal(data, &x)
	}
	if err != nil {
		return fmt.Errorf("the list of images %s cannot be read: %w: remove it and import or pull the images again", path, err)
	}
	if x.Version > indexVersion {
		return fmt.Errorf("%s was written by a newer proa (version %d): start that version", path, x.Version)
	}
	s.next = x.Next
	for chain, l := range x.Layers {
		if info, err := os.Stat(s.path("l", l.Dir)); err == nil && info.IsDir() {
			s.layers[chain] = l
		}
	}
	for _, e := range x.Images {
		if err := s.complete(e); err != nil {
			s.log.Error("an image is damaged and was left out; import or pull it again", "image", e.ID, "names", e.Names, "error", err)
			continue
		}
		s.images[e.ID.String()] = e
	}
	return s.loadContainers()
}

// complete reads the configuration of an entry and checks that it has its layers.
func (s *Store) complete(e *entry) error {
	if len(e.Manifests) == 0 || e.ID.Validate() != nil {
		return errors.New("its record is not whole")
	}
	data, err := os.ReadFile(s.blobPath(e.ID))
	if err != nil {
		return err
	}
	if digest.FromBytes(data) != e.ID {
		return errors.New("its configuration does not match its digest")
	}
	for _, c := range e.Chain {
		if _, ok := s.layers[c]; !ok {
			return fmt.Errorf("layer %s is missing", c)
		}
	}
	return json.Unmarshal(data, &e.config)
}

// save writes images.json as things are now. It is called without mu.
func (s *Store) save() error {
	s.saving.Lock()
	defer s.saving.Unlock()
	s.mu.Lock()
	// Only what an image or container needs is known to be on disk (register).
	x := index{Version: indexVersion, Next: s.next, Layers: maps.Clone(s.layers)}
	needed, _ := s.referenced()
	maps.DeleteFunc(x.Layers, func(chain digest.Digest, _ layer) bool { return !needed[chain] })
	for _, e := range s.images {
		c := *e
		c.Names, c.Digests, c.Manifests = slices.Clone(e.Names), slices.Clone(e.Digests), slices.Clone(e.Manifests)
		x.Images = append(x.Images, &c)
	}
	s.mu.Unlock()
	sort.Slice(x.Images, func(i, j int) bool { return x.Images[i].ID < x.Images[j].ID })
	data, err := json.MarshalIndent(x, "", "\t")
	if err != nil {
		return err
	}
	if err := writeFile(s.path("images.json"), data); err != nil {
		return fmt.Errorf("cannot keep the list of images: %w", diskError(err))
	}
	return nil
}

// writeFile replaces a file: afterwards, and after a power cut, it is there
// whole with the new content, or as it was.
func writeFile(path string, data []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name())
		return err
	}
	return syncDir(filepath.Dir(path))
}

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// syncTree makes everything below a directory durable, in one call for however
// many files.
func syncTree(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	defer d.Close()
	return unix.Syncfs(int(d.Fd()))
}

// diskError marks an error of a full disk.
func diskError(err error) error {
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return fmt.Errorf("%w: %w: remove images or free some space", ErrNoSpace, err)
	}
	return err
}

// putBlob keeps a small blob under its digest.
func (s *Store) putBlob(data []byte) (digest.Digest, error) {
	d := digest.FromBytes(data)
	if info, err := os.Stat(s.blobPath(d)); err == nil && info.Size() == int64(len(data)) {
		return d, nil
	}
	if err := writeFile(s.blobPath(d), data); err != nil {
		return "", fmt.Errorf("cannot keep %s: %w", d, diskError(err))
	}
	return d, nil
}
