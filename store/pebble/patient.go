package pebble

import (
	"errors"
	"os"
	"syscall"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// patientFS is a file system whose writes wait while the disk is full. The
// library cannot go on after a write of its log failed, and begins failed
// background work again at once; a disk that others have filled to the last byte
// would end the one and keep a processor busy with the other.
type patientFS struct {
	vfs.FS
	space *space
}

// Unwrap is how the library looks for the file system beneath.
func (fs *patientFS) Unwrap() vfs.FS { return fs.FS }

func (fs *patientFS) opened(open func() (vfs.File, error)) (vfs.File, error) {
	var f vfs.File
	err := fs.space.patiently(func() (err error) {
		f, err = open()
		return err
	})
	if err != nil {
		return nil, err
	}
	return &patientFile{File: f, space: fs.space}, nil
}

func (fs *patientFS) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	return fs.opened(func() (vfs.File, error) { return fs.FS.Create(name, c) })
}

func (fs *patientFS) OpenReadWrite(name string, c vfs.DiskWriteCategory, opts ...vfs.OpenOption) (vfs.File, error) {
	return fs.opened(func() (vfs.File, error) { return fs.FS.OpenReadWrite(name, c, opts...) })
}

func (fs *patientFS) ReuseForWrite(from, to string, c vfs.DiskWriteCategory) (vfs.File, error) {
	return fs.opened(func() (vfs.File, error) { return fs.FS.ReuseForWrite(from, to, c) })
}

func (fs *patientFS) OpenDir(name string) (vfs.File, error) {
	return fs.opened(func() (vfs.File, error) { return fs.FS.OpenDir(name) })
}

func (fs *patientFS) Link(from, to string) error {
	return fs.space.patiently(func() error { return fs.FS.Link(from, to) })
}

func (fs *patientFS) Rename(from, to string) error {
	return fs.space.patiently(func() error { return fs.FS.Rename(from, to) })
}

func (fs *patientFS) MkdirAll(dir string, perm os.FileMode) error {
	return fs.space.patiently(func() error { return fs.FS.MkdirAll(dir, perm) })
}

// patientFile waits in writing only. A sync that failed is never tried again: the
// kernel may have dropped what it could not write, and calls the next one a success.
type patientFile struct {
	vfs.File
	space *space
}

func (f *patientFile) Write(p []byte) (n int, err error) {
	err = f.space.patiently(func() error {
		part, err := f.File.Write(p[n:])
		n += part
		return err
	})
	return n, err
}

func (f *patientFile) WriteAt(p []byte, off int64) (n int, err error) {
	err = f.space.patiently(func() error {
		part, err := f.File.WriteAt(p[n:], off+int64(n))
		n += part
		return err
	})
	return n, err
}

// Preallocate may fail: the write that follows waits.
func (f *patientFile) Preallocate(off, length int64) error {
	err := f.File.Preallocate(off, length)
	if noSpace(err) {
		return nil
	}
	return err
}

// noSpace tells a full disk, or a full quota, from other errors.
func noSpace(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}
