package kubelet

import (
	"testing"

	"golang.org/x/sys/unix"
)

// TestDiskPressure: little is left, of the disk and in itself.
func TestDiskPressure(t *testing.T) {
	const block, gib = 4096, 1 << 30 / 4096
	for _, c := range []struct {
		what                       string
		size, free, inodes, unused uint64
		want                       bool
	}{
		{"a small disk, half full", 4 * gib, 2 * gib, 1e6, 5e5, false},
		{"a small disk, nearly full", 4 * gib, gib / 4, 1e6, 5e5, true},
		{"a tiny disk with room", gib, gib / 2, 1e6, 5e5, false},
		{"a large disk with a twentieth left", 1000 * gib, 50 * gib, 1e8, 5e7, false},
		{"a large disk, full", 1000 * gib, gib, 1e8, 5e7, true},
		{"no inodes left", 100 * gib, 50 * gib, 1e6, 1e4, true},
		{"few inodes, of very many", 100 * gib, 50 * gib, 1e8, 1e6, false},
		{"a file system that does not count inodes", 100 * gib, 50 * gib, 0, 0, false},
	} {
		fs := unix.Statfs_t{Bsize: block, Blocks: c.size, Bavail: c.free, Files: c.inodes, Ffree: c.unused}
		if got := scarce(&fs); got != c.want {
			t.Errorf("%s: %v", c.what, got)
		}
	}
}
