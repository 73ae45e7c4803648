package runtime

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const cgroupMount = "/sys/fs/cgroup"

// cgroupVersion is the machine's: 1 or 2. Hybrid machines, with controllers on
// version 1, count as 1.
type cgroupVersion int

func detectCgroups() cgroupVersion {
	var st unix.Statfs_t
	if unix.Statfs(cgroupMount, &st) == nil && st.Type == unix.CGROUP2_SUPER_MAGIC {
		return 2
	}
	return 1
}

// hierarchies are the mounted ones, by name; version 2 has one, "".
func (v cgroupVersion) hierarchies() []string {
	if v == 2 {
		return []string{""}
	}
	entries, _ := os.ReadDir(cgroupMount)
	var names []string
	for _, e := range entries {
		if e.IsDir() {
			names = append(names, e.Name())
		}
	}
	return names
}

// dir is a cgroup's directory in a controller's hierarchy.
func (v cgroupVersion) dir(controller, path string) string {
	if v == 2 {
		controller = ""
	}
	return filepath.Join(cgroupMount, controller, path)
}

// killCgroup kills every process in and below a cgroup and removes it from all
// hierarchies. It is for what is left when a shim is gone.
func (v cgroupVersion) killCgroup(path string) error {
	if path == "" || path == "/" {
		return errors.New("refusing to kill the root cgroup")
	}
	var errs []error
	for _, h := range v.hierarchies() {
		errs = append(errs, killBelow(filepath.Join(cgroupMount, h, path)))
	}
	for _, h := range v.hierarchies() {
		errs = append(errs, removeCgroup(filepath.Join(cgroupMount, h, path)))
	}
	return errors.Join(errs...)
}

// killBelow kills until nobody is left: a process may fork while it is looked at.
func killBelow(dir string) error {
	for range 50 {
		pids := pidsBelow(dir)
		if len(pids) == 0 {
			return nil
		}
		var waits []int
		for _, pid := range pids {
			if fd, err := unix.PidfdOpen(pid, 0); err == nil {
				_ = unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0)
				waits = append(waits, fd)
			}
		}
		for _, fd := range waits {
			awaitExit(fd)
			unix.Close(fd)
		}
	}
	return fmt.Errorf("processes in %s do not end", dir)
}

func pidsBelow(dir string) (pids []int) {
	_ = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			pids = append(pids, readPIDs(filepath.Join(path, "cgroup.procs"))...)
		}
		return nil
	})
	return pids
}

func readPIDs(path string) (pids []int) {
	data, _ := os.ReadFile(path)
	for _, f := range strings.Fields(string(data)) {
		if pid, err := strconv.Atoi(f); err == nil && pid > 0 {
			pids = append(pids, pid)
		}
	}
	return pids
}

// removeCgroup removes a cgroup and those below. The kernel says EBUSY for a
// moment after the last process has ended.
func removeCgroup(dir string) error {
	var dirs []string
	_ = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			dirs = append(dirs, path)
		}
		return nil
	})
	for i := len(dirs) - 1; i >= 0; i-- {
		err := unix.Rmdir(dirs[i])
		for wait := time.Millisecond; err == unix.EBUSY && wait < time.Second; wait *= 2 {
			time.Sleep(wait)
			err = unix.Rmdir(dirs[i])
		}
		if err != nil && err != unix.ENOENT {
			return fmt.Errorf("remove cgroup %s: %w", dirs[i], err)
		}
	}
	return nil
}

// shimCgroup is where shims are accounted: on version 2 a cgroup of their own,
// entered at birth, which costs nothing; on version 1 that of the daemon,
// because moving a process costs more than starting it. nil is the daemon's.
func (r *Runtime) shimCgroup() *os.File {
	if r.version != 2 {
		return nil
	}
	dir := r.version.dir("", filepath.Join("/", r.cfg.CgroupRoot, "shims"))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil
	}
	f, err := os.Open(dir)
	if err != nil {
		return nil
	}
	return f
}

// expedite has the kernel get ready for a process to change its cgroup, which
// waits about 10 ms for all processors to pass by unless another has done it
// just before. So the wait for a container's cgroups begins while the container
// is still being prepared. Writing one's own number into one's own cgroup moves
// nothing.
func (r *Runtime) expedite() {
	if !r.expediting.CompareAndSwap(false, true) {
		return
	}
	r.background(func() {
		defer r.expediting.Store(false)
		path, err := r.version.own()
		if err == nil {
			_ = os.WriteFile(filepath.Join(path, "cgroup.procs"), []byte(strconv.Itoa(os.Getpid())), 0)
		}
	})
}

// own is the directory of this process's cgroup: on version 1, in the hierarchy
// of pids.
func (v cgroupVersion) own() (string, error) {
	data, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(data)) {
		f := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(f) == 3 && (v == 2 && f[1] == "" || v == 1 && f[1] == "pids") {
			return v.dir("pids", f[2]), nil
		}
	}
	return "", fs.ErrNotExist
}

// keyed reads a cgroup file of "key number" lines.
func keyed(path string) (map[string]uint64, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	values := map[string]uint64{}
	for lines := bufio.NewScanner(f); lines.Scan(); {
		k, v, _ := strings.Cut(lines.Text(), " ")
		if n, err := strconv.ParseUint(v, 10, 64); err == nil {
			values[k] = n
		}
	}
	return values, nil
}

// number reads a cgroup file of one number; "max" is 0 and no limit.
func number(path string) (uint64, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	text := strings.TrimSpace(string(data))
	if text == "max" {
		return 0, nil
	}
	return strconv.ParseUint(text, 10, 64)
}
