//go:build cgo

package shim

import (
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// waitReadable parks until a read would not block, without a buffer in hand.
func waitReadable(raw syscall.RawConn) error {
	return raw.Read(func(fd uintptr) bool {
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(fds, 0)
		return n > 0 || (err != nil && err != unix.EINTR)
	})
}

// pollable replaces received files by ones that never block a thread.
func pollable(files []*os.File) error {
	for i, f := range files {
		if f == nil {
			continue
		}
		fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			return err
		}
		f.Close()
		if err := unix.SetNonblock(fd, true); err != nil {
			return err
		}
		files[i] = os.NewFile(uintptr(fd), "stream")
	}
	return nil
}

// blocking makes received files what programs expect of their streams.
func blocking(files []*os.File) error {
	for _, f := range files {
		if f == nil {
			continue
		}
		if err := unix.SetNonblock(int(f.Fd()), false); err != nil {
			return err
		}
	}
	return nil
}
