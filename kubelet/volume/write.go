package volume

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// The names by which a volume's files change all at once: each set is in a
// directory of its own, ..data leads to the newest, and what containers see are
// links through ..data.
const (
	dataLink    = "..data"
	dataLinkNew = "..data_tmp"
)

// write makes a directory show exactly the files. Nothing is touched when it does
// already; otherwise a reader sees all old or all new ones.
func write(dir string, files map[string]file, gid *int64) error {
	old, _ := os.Readlink(filepath.Join(dir, dataLink))
	if old != "" && same(filepath.Join(dir, old), files) {
		return link(dir, files)
	}
	set, err := writeSet(dir, files, gid)
	if err != nil {
		return err
	}
	next := filepath.Join(dir, dataLinkNew)
	os.Remove(next)
	if err := os.Symlink(filepath.Base(set), next); err != nil {
		return err
	}
	if err := os.Rename(next, filepath.Join(dir, dataLink)); err != nil {
		return err
	}
	if err := link(dir, files); err != nil {
		return err
	}
	return sweep(dir, filepath.Base(set), files)
}

// same compares a written set with the files that should be in it.
func same(set string, files map[string]file) bool {
	found := 0
	err := filepath.WalkDir(set, func(p string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		name, _ := filepath.Rel(set, p)
		want, ok := files[name]
		if !ok {
			return fs.ErrInvalid
		}
		data, err := os.ReadFile(p)
		if err != nil || !bytes.Equal(data, want.data) {
			return fs.ErrInvalid
		}
		found++
		return nil
	})
	return err == nil && found == len(files)
}

// writeSet writes all files below a new directory.
func writeSet(dir string, files map[string]file, gid *int64) (string, error) {
	set, err := os.MkdirTemp(dir, time.Now().UTC().Format("..2006_01_02_15_04_05."))
	if err != nil {
		return "", err
	}
	if err := os.Chmod(set, 0o755); err != nil {
		return "", err
	}
	for name, f := range files {
		if err := writeFile(filepath.Join(set, name), f, gid != nil); err != nil {
			return "", err
		}
	}
	if gid != nil {
		return set, own(set, int(*gid), 0o440)
	}
	return set, nil
}

func writeFile(path string, f file, grouped bool) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(path, f.data, f.mode); err != nil {
		return err
	}
	if err := os.Chmod(path, f.mode); err != nil { // the umask does not count
		return err
	}
	if f.uid >= 0 && !grouped {
		return os.Chown(path, f.uid, -1)
	}
	return nil
}

// link shows each first element of the files' paths.
func link(dir string, files map[string]file) error {
	for name := range files {
		top, _, _ := strings.Cut(filepath.Clean(name), "/")
		err := os.Symlink(filepath.Join(dataLink, top), filepath.Join(dir, top))
		if err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	return nil
}

// sweep removes older sets and links to files that are no more.
func sweep(dir, keep string, files map[string]file) error {
	tops := map[string]bool{keep: true, dataLink: true}
	for name := range files {
		top, _, _ := strings.Cut(filepath.Clean(name), "/")
		tops[top] = true
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !tops[e.Name()] {
			if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}
