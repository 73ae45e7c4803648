package giveback

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// program lets go of the program's own pages: most of what is in memory of it is
// what ran once, at the start. What is used again comes back from the page cache.
// Only mappings that nobody can have written to, and nobody has, are let go of:
// theirs is nothing that the file does not hold.
func program() error {
	exe, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return err
	}
	text, err := os.ReadFile("/proc/self/smaps")
	if err != nil {
		return err
	}
	for _, m := range untouched(text, exe) {
		if _, _, errno := unix.Syscall(unix.SYS_MADVISE, m.start, m.end-m.start, unix.MADV_DONTNEED); errno != 0 {
			return fmt.Errorf("giveback: madvise: %w", errno)
		}
	}
	return nil
}

type mapping struct{ start, end uintptr }

// untouched finds, in the text of smaps, the private mappings of a file that
// cannot be written to and hold no page of their own, as relocated ones do.
func untouched(smaps []byte, file string) (found []mapping) {
	var current *mapping
	for lines := bufio.NewScanner(bytes.NewReader(smaps)); lines.Scan(); {
		var m mapping
		var mode, offset, device, inode string
		if n, _ := fmt.Sscanf(lines.Text(), "%x-%x %s %s %s %s", &m.start, &m.end, &mode, &offset, &device, &inode); n == 6 {
			current = nil
			if (mode == "r-xp" || mode == "r--p") && strings.HasSuffix(lines.Text(), " "+file) {
				current = &m
			}
			continue
		}
		if f := strings.Fields(lines.Text()); current != nil && len(f) == 3 && f[0] == "Anonymous:" && f[1] == "0" {
			found = append(found, *current)
		}
	}
	return found
}
