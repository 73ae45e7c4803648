package runtime

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"proa/runtime/wire"
)

// quitShim ends the shim of a run directory, whoever knows of it, by its socket
// and, if that does not help, by force.
func (r *Runtime) quitShim(id string) {
	ctx, cancel := context.WithTimeout(context.Background(), quitTime)
	defer cancel()
	conn, end, err := r.open(ctx, id, &wire.Request{Op: wire.OpQuit})
	if err != nil {
		return
	}
	defer end()
	resp, _, err := answer(ctx, conn)
	if err != nil {
		return
	}
	_, _ = io.Copy(io.Discard, conn) // until the process has ended
	killShim(resp.Shim)
	reap(resp.Shim)
}

// Cleanup takes down every pod of a runtime's directories without one running:
// shims, containers, mounts and cgroups. The directories' other contents are the
// caller's to remove.
func Cleanup(root, run, cgroupRoot string) error {
	r := &Runtime{cfg: Config{Root: root, Run: run, CgroupRoot: cgroupRoot}, version: detectCgroups()}
	entries, err := os.ReadDir(r.runDir("sandboxes"))
	var errs []error
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		errs = append(errs, err)
	}
	for _, e := range entries {
		r.quitShim(e.Name())
	}
	_ = loadRecords(r.sandboxRecords(), func(rec sandboxRecord) { killShim(rec.Shim) }, func(string, error) {})
	_ = loadRecords(r.containerRecords(), func(rec containerRecord) {
		errs = append(errs, r.version.killCgroup(rec.Cgroup))
	}, func(string, error) {})
	errs = append(errs, unmountBelow(run))
	if cgroupRoot != "" {
		errs = append(errs, r.version.killCgroup(filepath.Join("/", cgroupRoot)))
	}
	return errors.Join(errs...)
}

// unmountBelow detaches every mount below a directory, deepest first.
func unmountBelow(dir string) error {
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	var points []string
	for line := range strings.Lines(string(data)) {
		if f := strings.Fields(line); len(f) > 4 && strings.HasPrefix(f[4], filepath.Clean(dir)+"/") {
			points = append(points, f[4])
		}
	}
	var errs []error
	for i := len(points) - 1; i >= 0; i-- {
		if err := unix.Unmount(points[i], unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil && err != unix.EINVAL {
			errs = append(errs, &os.PathError{Op: "unmount", Path: points[i], Err: err})
		}
	}
	return errors.Join(errs...)
}
