package logs

import (
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// decode reads one inotify event's head.
func decode(b []byte) unix.InotifyEvent {
	return unix.InotifyEvent{
		Wd:   int32(binary.NativeEndian.Uint32(b)),
		Mask: binary.NativeEndian.Uint32(b[4:]),
		Len:  binary.NativeEndian.Uint32(b[12:]),
	}
}
