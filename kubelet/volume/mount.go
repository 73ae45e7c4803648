package volume

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
)

// mountTmpfs puts a tmpfs on dir unless one is there. A size of 0 is the kernel's
// default, half of the memory.
func mountTmpfs(dir string, size int64) error {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return &os.PathError{Op: "statfs", Path: dir, Err: err}
	}
	if st.Type == unix.TMPFS_MAGIC && isMount(dir) {
		return nil
	}
	options := ""
	if size > 0 {
		options = fmt.Sprintf("size=%d", size)
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, options); err != nil {
		return &os.PathError{Op: "mount tmpfs", Path: dir, Err: err}
	}
	return nil
}

func isMount(dir string) bool {
	var a, b unix.Stat_t
	return unix.Stat(dir, &a) == nil && unix.Stat(filepath.Dir(dir), &b) == nil && a.Dev != b.Dev
}

// unmountBelow takes off every mount below dir, the deepest first.
func unmountBelow(dir string) error {
	if _, err := os.Lstat(dir); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	dir, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return err
	}
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	points := mountsBelow(string(text), dir)
	for _, p := range slices.Backward(points) {
		if err := unix.Unmount(p, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil && !errors.Is(err, unix.EINVAL) {
			return &os.PathError{Op: "unmount", Path: p, Err: err}
		}
	}
	return nil
}

// unescape undoes the octal escapes of mountinfo.
var unescape = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)

// mountsBelow lists mount points below dir in the order in which they were mounted.
func mountsBelow(mountinfo, dir string) []string {
	var out []string
	for line := range strings.Lines(mountinfo) {
		if f := strings.Fields(line); len(f) > 4 {
			if p := unescape.Replace(f[4]); strings.HasPrefix(p, dir+"/") {
				out = append(out, p)
			}
		}
	}
	return out
}

// checkHostPath makes or checks what the volume's type says.
func checkHostPath(v *corev1.HostPathVolumeSource) error {
	if v.Type == nil || *v.Type == corev1.HostPathUnset {
		return nil
	}
	switch *v.Type {
	case corev1.HostPathDirectoryOrCreate:
		if err := os.MkdirAll(v.Path, 0o755); err != nil {
			return err
		}
	case corev1.HostPathFileOrCreate:
		f, err := os.OpenFile(v.Path, os.O_CREATE, 0o644)
		if err != nil {
			return err
		}
		f.Close()
	}
	info, err := os.Stat(v.Path)
	if err == nil && hasType(info.Mode(), *v.Type) {
		return nil
	}
	return fmt.Errorf("hostPath type check failed: %s is not a %s", v.Path, typeNames[*v.Type])
}

var typeNames = map[corev1.HostPathType]string{
	corev1.HostPathDirectoryOrCreate: "directory", corev1.HostPathDirectory: "directory",
	corev1.HostPathFileOrCreate: "file", corev1.HostPathFile: "file",
	corev1.HostPathSocket: "socket file", corev1.HostPathCharDev: "character device", corev1.HostPathBlockDev: "block device",
}

func hasType(m fs.FileMode, t corev1.HostPathType) bool {
	switch t {
	case corev1.HostPathDirectoryOrCreate, corev1.HostPathDirectory:
		return m.IsDir()
	case corev1.HostPathFileOrCreate, corev1.HostPathFile:
		return m.IsRegular()
	case corev1.HostPathSocket:
		return m&fs.ModeSocket != 0
	case corev1.HostPathCharDev:
		return m&fs.ModeCharDevice != 0
	case corev1.HostPathBlockDev:
		return m&fs.ModeDevice != 0 && m&fs.ModeCharDevice == 0
	}
	return false
}
