package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// Rootfs is what overlayfs mounts: read-only directories, the topmost first, a
// writable one, and its work directory.
type Rootfs struct {
	Lower []string
	Upper string
	Work  string
}

// container is a writable layer, kept as containers/KEY/container.json.
type container struct {
	Image digest.Digest   `json:"image"`
	Chain []digest.Digest `json:"chain"`
}

var keyForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,200}$`)

// Prepare makes a writable layer on an image for a container, or returns the
// one that was made under the key before. It keeps the image's layers until
// Release. ErrNotFound if there is no such image.
func (s *Store) Prepare(_ context.Context, imageID, key string) (Rootfs, error) {
	if !keyForm.MatchString(key) {
		return Rootfs{}, fmt.Errorf("%q cannot name a container's layer", key)
	}
	s.mu.Lock()
	c, exists := s.containers[key]
	if !exists {
		e := s.find(imageID)
		if e == nil {
			s.mu.Unlock()
			return Rootfs{}, fmt.Errorf("image %s: %w", imageID, ErrNotFound)
		}
		c = container{Image: e.ID, Chain: slices.Clone(e.Chain)}
		s.containers[key] = c // from here on its layers stay
	}
	s.mu.Unlock()
	err := s.makeContainer(key, c)
	if err == nil {
		err = s.present(c.Chain)
	}
	if err != nil {
		if !exists {
			_ = s.Release(key)
		}
		return Rootfs{}, fmt.Errorf("cannot make the writable layer of %s: %w", key, diskError(err))
	}
	lower := s.dirs(c.Chain)
	if len(lower) == 0 {
		lower = []string{s.path("containers", key, "empty")}
	}
	return Rootfs{Lower: lower, Upper: s.path("containers", key, "fs"), Work: s.path("containers", key, "work")}, nil
}

// present checks that a chain's layers are there.
func (s *Store) present(chain []digest.Digest) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range chain {
		if _, ok := s.layers[c]; !ok {
			return fmt.Errorf("layer %s: %w: pull or import the image again", short(c), ErrNotFound)
		}
	}
	return nil
}

func (s *Store) makeContainer(key string, c container) error {
	record := s.path("containers", key, "container.json")
	if _, err := os.Stat(record); err == nil {
		return nil
	}
	for _, d := range []string{"fs", "work", "empty"} {
		if err := os.MkdirAll(s.path("containers", key, d), 0o755); err != nil {
			return err
		}
	}
	data, err := json.Marshal(c)
	if err != nil {
		return err
	}
	// Not synced: after a power cut containers are made anew.
	return os.WriteFile(record, data, 0o600)
}

// loadContainers finds the writable layers again. One without a readable record
// belongs to nobody and is removed.
func (s *Store) loadContainers() error {
	entries, err := os.ReadDir(s.path("containers"))
	if err != nil {
		return err
	}
	for _, e := range entries {
		var c container
		data, err := os.ReadFile(s.path("containers", e.Name(), "container.json"))
		if err == nil {
			err = json.Unmarshal(data, &c)
		}
		if err != nil {
			s.log.Warn("removing a container's layer that has no record", "key", e.Name())
			_ = s.discard(s.path("containers", e.Name()))
			continue
		}
		s.containers[e.Name()] = c
	}
	return nil
}

// Release removes a container's writable layer, which must not be mounted any
// more. It is no error if there is none.
func (s *Store) Release(key string) error {
	if !keyForm.MatchString(key) {
		return fmt.Errorf("%q cannot name a container's layer", key)
	}
	if err := s.discard(s.path("containers", key)); err != nil {
		return fmt.Errorf("cannot remove the writable layer of %s: %w", key, err)
	}
	s.mu.Lock()
	delete(s.containers, key)
	s.mu.Unlock()
	s.sweep()
	return nil
}

// discard removes a tree in two steps, so that it is never found half removed.
func (s *Store) discard(path string) error {
	tmp, err := os.MkdirTemp(s.path("tmp"), "gone-")
	if err != nil {
		return err
	}
	err = os.Rename(path, filepath.Join(tmp, "x"))
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return errors.Join(err, os.RemoveAll(tmp))
}

// Containers returns the keys of all writable layers, so that whoever prepared
// them can find those it forgot.
func (s *Store) Containers() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	keys := make([]string, 0, len(s.containers))
	for k := range s.containers {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// Usage counts what a container wrote: bytes on disk, and files and directories.
func (s *Store) Usage(key string) (bytes, inodes int64, err error) {
	if !keyForm.MatchString(key) {
		return 0, 0, fmt.Errorf("%q cannot name a container's layer", key)
	}
	return usage(s.path("containers", key, "fs"))
}

// usage walks a tree; what vanishes meanwhile is not counted, and hard links
// once.
func usage(root string) (bytes, inodes int64, err error) {
	linked := map[uint64]bool{}
	err = filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
		var st unix.Stat_t
		if err == nil {
			err = unix.Lstat(path, &st)
		}
		if errors.Is(err, fs.ErrNotExist) && path != root {
			return nil
		}
		if err != nil {
			return err
		}
		if st.Nlink > 1 && st.Mode&unix.S_IFMT != unix.S_IFDIR {
			if linked[st.Ino] {
				return nil
			}
			linked[st.Ino] = true
		}
		bytes += st.Blocks * 512
		inodes++
		return nil
	})
	return bytes, inodes, err
}
