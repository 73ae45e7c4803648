package network

import (
	"errors"
	"time"

	"github.com/vishvananda/netlink"
)

// Dump takes a list from the kernel, and takes it again while the kernel says that
// what it lists has changed under way: the list may then be short of entries that
// were there all along. After a hundred tries it returns the last list's error.
func Dump[T any](list func() ([]T, error)) (all []T, err error) {
	for range 100 {
		if all, err = list(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
		time.Sleep(time.Millisecond)
	}
	return all, err
}
