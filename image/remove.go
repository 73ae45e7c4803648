package image

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"
)

// Remove takes a name away, and with its last name, or asked for by ID or
// digest, the image. ErrNotFound, and ErrInUse while a container uses it.
func (s *Store) Remove(ref string) error {
	if err := s.forget(ref); err != nil {
		return err
	}
	err := s.save()
	s.sweep()
	return err
}

func (s *Store) forget(ref string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.find(ref)
	if e == nil {
		return fmt.Errorf("image %q: %w", ref, ErrNotFound)
	}
	if name, err := normalize(ref); err == nil && slices.Contains(e.Names, name) && len(e.Names) > 1 {
		e.Names = slices.DeleteFunc(e.Names, func(n string) bool { return n == name })
		return nil
	}
	for key, c := range s.containers {
		if c.Image == e.ID {
			return fmt.Errorf("image %q: %w: container %s uses it", ref, ErrInUse, key)
		}
	}
	delete(s.images, e.ID.String())
	return nil
}

// Prune removes all images that no container uses and that are not pinned.
func (s *Store) Prune(ctx context.Context) (freed int64, removed []Image, err error) {
	before := s.layerBytes()
	s.mu.Lock()
	used := map[digest.Digest]bool{}
	for _, c := range s.containers {
		used[c.Image] = true
	}
	for id, e := range s.images {
		if !used[e.ID] && !e.Pinned {
			removed = append(removed, s.image(e))
			delete(s.images, id)
		}
	}
	s.mu.Unlock()
	if err := s.save(); err != nil {
		return 0, nil, err
	}
	s.sweep()
	return before - s.layerBytes(), removed, ctx.Err()
}

// Pin protects an image from Prune, or lifts that.
func (s *Store) Pin(ref string, pinned bool) error {
	s.mu.Lock()
	e := s.find(ref)
	if e != nil {
		e.Pinned = pinned
	}
	s.mu.Unlock()
	if e == nil {
		return fmt.Errorf("image %q: %w", ref, ErrNotFound)
	}
	return s.save()
}

func (s *Store) layerBytes() (sum int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range s.layers {
		sum += l.Size
	}
	return sum
}

// sweep removes layers and blobs that nothing refers to, unless an operation
// runs, whose own are not referred to yet; the last one to end sweeps again.
// Garbage is taken out of the store's names first and removed after, so that
// nobody waits for the removing.
func (s *Store) sweep() {
	tmp, err := os.MkdirTemp(s.path("tmp"), "gone-")
	if err != nil {
		s.log.Error("cannot remove unused layers", "error", err)
		return
	}
	n := s.moveGarbage(tmp)
	if n > 0 {
		if err := s.save(); err != nil {
			s.log.Error("cannot write the list of images", "error", err)
		}
	}
	if err := os.RemoveAll(tmp); err != nil {
		s.log.Error("cannot remove unused layers", "error", err)
	}
}

// moveGarbage renames what is unused into dir. Renames are quick, so it may
// hold mu, which keeps new users out.
func (s *Store) moveGarbage(dir string) (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.active > 0 {
		return 0
	}
	layers, blobs := s.referenced()
	move := func(path string) {
		n++
		if err := os.Rename(path, filepath.Join(dir, fmt.Sprint(n))); err != nil && !os.IsNotExist(err) {
			s.log.Error("cannot remove unused data", "path", path, "error", err)
		}
	}
	known := map[string]bool{}
	for chain, l := range s.layers {
		if !layers[chain] {
			delete(s.layers, chain)
			continue
		}
		known[l.Dir] = true
	}
	each(s.path("l"), func(e fs.DirEntry) {
		if !known[e.Name()] {
			move(s.path("l", e.Name()))
		}
	})
	each(s.path("blobs", "sha256"), func(e fs.DirEntry) {
		if !blobs[e.Name()] {
			move(s.path("blobs", "sha256", e.Name()))
		}
	})
	each(s.path("ingest"), func(e fs.DirEntry) {
		if info, err := e.Info(); err == nil && time.Since(info.ModTime()) > 24*time.Hour {
			move(s.path("ingest", e.Name()))
		}
	})
	return n
}

func each(dir string, f func(fs.DirEntry)) {
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		f(e)
	}
}

// referenced returns the chain IDs and the names of blobs that images and
// containers need; mu is held.
func (s *Store) referenced() (layers map[digest.Digest]bool, blobs map[string]bool) {
	layers, blobs = map[digest.Digest]bool{}, map[string]bool{}
	for _, e := range s.images {
		for _, c := range e.Chain {
			layers[c] = true
		}
		for _, d := range append(slices.Clone(e.Manifests), e.ID) {
			blobs[d.Encoded()] = true
		}
	}
	for _, c := range s.containers {
		for _, chain := range c.Chain {
			layers[chain] = true
		}
	}
	return layers, blobs
}
