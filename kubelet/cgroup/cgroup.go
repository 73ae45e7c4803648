// Package cgroup keeps the cgroups of pods: one per pod, below one per quality of
// service class, on cgroup v1 (every controller that is mounted) and v2. The
// container runtime makes its containers' below them.
package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/cgroups"
	"golang.org/x/sys/unix"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Tree is the machine's cgroup file system.
type Tree struct {
	mount   string
	unified bool
	// roots are the hierarchies: one a controller on v1, the mount itself on v2.
	roots []string
}

// controllers that pods are held to. The runtime may use more of them.
var controllers = []string{"cpu", "memory", "pids"}

// Open looks at what is mounted at mount, which is /sys/fs/cgroup outside tests.
func Open(mount string) (*Tree, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(mount, &st); err != nil {
		return nil, fmt.Errorf("cgroups are not mounted at %s: %w", mount, err)
	}
	if st.Type == unix.CGROUP2_SUPER_MAGIC {
		return &Tree{mount, true, []string{mount}}, nil
	}
	t := &Tree{mount: mount}
	entries, err := os.ReadDir(mount)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		if e.IsDir() { // links like cpu → cpu,cpuacct lead to one; "unified" is v2 beside v1
			t.roots = append(t.roots, filepath.Join(mount, e.Name()))
		}
	}
	for _, c := range controllers {
		if _, err := os.Stat(filepath.Join(mount, c)); err != nil {
			return nil, fmt.Errorf("the cgroup controller %q is not mounted: %w", c, err)
		}
	}
	return t, nil
}

// Unified tells v2 from v1.
func (t *Tree) Unified() bool { return t.unified }

// Set makes the cgroup at path ("/proa/burstable/pod…") and sets its limits; 0
// is none. pids of 0 leaves the number of processes unlimited.
func (t *Tree) Set(path string, r *cri.LinuxContainerResources, pids int64) error {
	if t.unified {
		return t.set2(path, r, pids)
	}
	for _, c := range controllers {
		if err := os.MkdirAll(filepath.Join(t.mount, c, path), 0o755); err != nil {
			return err
		}
	}
	quota := r.CpuQuota
	if quota == 0 {
		quota = -1
	}
	values := []struct{ file, value string }{
		{"cpu/%s/cpu.shares", strconv.FormatInt(max(r.CpuShares, 2), 10)},
		{"cpu/%s/cpu.cfs_period_us", strconv.FormatInt(r.CpuPeriod, 10)},
		{"cpu/%s/cpu.cfs_quota_us", strconv.FormatInt(quota, 10)},
		{"memory/%s/memory.limit_in_bytes", orElse(r.MemoryLimitInBytes, "-1")},
		{"pids/%s/pids.max", orElse(pids, "max")},
	}
	for _, v := range values {
		if err := t.put(fmt.Sprintf(v.file, path), v.value); err != nil {
			return err
		}
	}
	return nil
}

func (t *Tree) set2(path string, r *cri.LinuxContainerResources, pids int64) error {
	if err := t.delegate(path); err != nil {
		return err
	}
	weight := cgroups.ConvertCPUSharesToCgroupV2Value(uint64(max(r.CpuShares, 2)))
	values := []struct{ file, value string }{
		{"cpu.weight", strconv.FormatUint(weight, 10)},
		{"cpu.max", orElse(r.CpuQuota, "max") + " " + strconv.FormatInt(r.CpuPeriod, 10)},
		{"memory.max", orElse(r.MemoryLimitInBytes, "max")},
		{"pids.max", orElse(pids, "max")},
	}
	for _, v := range values {
		if err := t.put(filepath.Join(path, v.file), v.value); err != nil {
			return err
		}
	}
	return nil
}

// delegate makes the directories on the way and hands the controllers down through
// each of them.
func (t *Tree) delegate(path string) error {
	dir := t.mount
	for name := range strings.SplitSeq(strings.Trim(path, "/"), "/") {
		if err := handDown(dir); err != nil {
			return err
		}
		dir = filepath.Join(dir, name)
		if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	return nil
}

// handDown enables what a directory has for those below it. One controller that
// refuses does not take the others with it, and is an error only if pods are held
// to it.
func handDown(dir string) error {
	have, err := os.ReadFile(filepath.Join(dir, "cgroup.controllers"))
	if err != nil {
		return err
	}
	file := filepath.Join(dir, "cgroup.subtree_control")
	on, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	available, enabled := strings.Fields(string(have)), strings.Fields(string(on))
	for _, c := range append(controllers[:len(controllers):len(controllers)], "cpuset", "io", "hugetlb") {
		if slices.Contains(enabled, c) {
			continue
		}
		needed := slices.Contains(controllers, c)
		if !slices.Contains(available, c) {
			if needed {
				return fmt.Errorf("the cgroup controller %q is not available in %s", c, dir)
			}
			continue
		}
		if err := os.WriteFile(file, []byte("+"+c), 0o644); err != nil && needed {
			return err
		}
	}
	return nil
}

func orElse(v int64, none string) string {
	if v == 0 {
		return none
	}
	return strconv.FormatInt(v, 10)
}

func (t *Tree) put(file, value string) error {
	return os.WriteFile(filepath.Join(t.mount, file), []byte(value), 0o644)
}

// Process is one of the processes in a cgroup or below it, or 0.
func (t *Tree) Process(path string) int {
	root := t.mount
	if !t.unified {
		root = filepath.Join(t.mount, controllers[0])
	}
	pid := 0
	_ = filepath.WalkDir(filepath.Join(root, path), func(p string, e fs.DirEntry, err error) error {
		if err != nil || !e.IsDir() {
			return err
		}
		text, err := os.ReadFile(filepath.Join(p, "cgroup.procs"))
		first, _, _ := strings.Cut(string(text), "\n")
		if pid, _ = strconv.Atoi(first); pid > 0 {
			return fs.SkipAll
		}
		return err
	})
	return pid
}

// Remove takes a cgroup and those below it away. A process that is just dying
// holds its cgroup for a moment, so it tries for up to a second.
func (t *Tree) Remove(path string) error {
	var first error
	for _, root := range t.roots {
		dir := filepath.Join(root, path)
		wait := time.Millisecond
		err := removeTree(dir)
		for ; errors.Is(err, unix.EBUSY) && wait < 600*time.Millisecond; wait *= 2 {
			time.Sleep(wait)
			err = removeTree(dir)
		}
		if err != nil && first == nil {
			first = err
		}
	}
	return first
}

func removeTree(dir string) error {
	err := unix.Rmdir(dir)
	if err == nil || errors.Is(err, unix.ENOENT) {
		return nil
	}
	entries, readErr := os.ReadDir(dir)
	if readErr != nil {
		return err
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := removeTree(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	if err := unix.Rmdir(dir); err != nil && !errors.Is(err, unix.ENOENT) {
		return &os.PathError{Op: "rmdir", Path: dir, Err: err}
	}
	return nil
}

// Pods lists the pods that have a cgroup below root, by UID, with their path.
func (t *Tree) Pods(root string) map[string]string {
	out := map[string]string{}
	for _, r := range t.roots {
		for _, class := range []string{"", "burstable", "besteffort"} {
			entries, _ := os.ReadDir(filepath.Join(r, root, class))
			for _, e := range entries {
				if uid, ok := strings.CutPrefix(e.Name(), "pod"); ok && e.IsDir() {
					out[uid] = filepath.Join("/", root, class, e.Name())
				}
			}
		}
	}
	return out
}
