//go:build cgo

package shim

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"proa/runtime/wire"
)

// mount mounts the container's root and image volumes and gives the volumes'
// mounts their sources.
func (c *container) mount(r *wire.Start) error {
	if err := mountRootfs(r.Rootfs); err != nil {
		return err
	}
	c.mounted = append(c.mounted, r.Rootfs)
	for i, v := range r.Volumes {
		if err := mountRootfs(v.Rootfs); err != nil {
			return fmt.Errorf("image volume: %w", err)
		}
		c.mounted = append(c.mounted, v.Rootfs)
		source, err := resolveInRoot(v.Path, v.Sub)
		if err != nil {
			return fmt.Errorf("image volume: %w", err)
		}
		for j := range r.Spec.Mounts {
			if r.Spec.Mounts[j].Source == wire.VolumeSource(i) {
				r.Spec.Mounts[j].Source = source
			}
		}
	}
	return nil
}

func (c *container) unmount() {
	for _, m := range c.mounted {
		unmountRootfs(m)
	}
}

// resolveInRoot is the path that sub has below root, links followed but not out
// of it. What is below does not change.
func resolveInRoot(root, sub string) (string, error) {
	if sub == "" {
		return root, nil
	}
	dir, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", err
	}
	defer unix.Close(dir)
	fd, err := unix.Openat2(dir, sub, &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS})
	if err != nil {
		return "", fmt.Errorf("sub path %q: %w", sub, err)
	}
	defer unix.Close(fd)
	return os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
}

// mountRootfs mounts the container's overlay. It is mounted in the machine's own
// mount namespace, so that container tools and humans find it.
func mountRootfs(r wire.Rootfs) error {
	if len(r.Lower) == 0 {
		return nil
	}
	if err := os.MkdirAll(r.Path, 0o700); err != nil {
		return err
	}
	// What a volatile mount leaves behind forbids another on the same directories,
	// which may have been begun and not finished before.
	if err := os.RemoveAll(filepath.Join(r.Work, "work", "incompat")); err != nil {
		return err
	}
	err := mountOverlay(r, true)
	if err == unix.EINVAL { // before Linux 5.10
		err = mountOverlay(r, false)
	}
	if err != nil {
		_ = os.Remove(r.Path)
		return fmt.Errorf("mount the root file system: %w", err)
	}
	return nil
}

// mountOverlay mounts, volatile if asked: without it, each end of a container
// would write back the node's whole file system, and wait. A container's layer
// is never used again after a power cut, so there is nothing to keep safe.
func mountOverlay(r wire.Rootfs, volatile bool) error {
	opts := "lowerdir=" + escapedJoin(r.Lower) + ",upperdir=" + escape(r.Upper) + ",workdir=" + escape(r.Work)
	if volatile {
		opts += ",volatile"
	}
	if len(opts) < os.Getpagesize() {
		return unix.Mount("overlay", r.Path, "overlay", 0, opts)
	}
	return mountLayers(r, volatile)
}

// mountLayers mounts more layers than fit into mount(2)'s one page of options,
// by fsconfig(2) (Linux 6.5).
func mountLayers(r wire.Rootfs, volatile bool) error {
	fs, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return err
	}
	defer unix.Close(fs)
	for _, dir := range r.Lower {
		if err := unix.FsconfigSetString(fs, "lowerdir+", dir); err != nil {
			return fmt.Errorf("layer %s: %w", dir, err)
		}
	}
	for key, dir := range map[string]string{"upperdir": r.Upper, "workdir": r.Work} {
		if err := unix.FsconfigSetString(fs, key, dir); err != nil {
			return fmt.Errorf("%s %s: %w", key, dir, err)
		}
	}
	if volatile {
		if err := unix.FsconfigSetFlag(fs, "volatile"); err != nil {
			return err
		}
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return err
	}
	mnt, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(mnt)
	return unix.MoveMount(mnt, "", unix.AT_FDCWD, r.Path, unix.MOVE_MOUNT_F_EMPTY_PATH)
}

// unmountRootfs detaches: what still uses the root keeps it until it ends.
func unmountRootfs(r wire.Rootfs) {
	if len(r.Lower) == 0 {
		return
	}
	if err := unix.Unmount(r.Path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil && err != unix.EINVAL && err != unix.ENOENT {
		fmt.Fprintln(os.Stderr, "unmount", r.Path, err)
	}
	_ = os.Remove(r.Path)
}

func escapedJoin(dirs []string) string {
	escaped := make([]string, len(dirs))
	for i, d := range dirs {
		escaped[i] = strings.ReplaceAll(escape(d), ":", `\:`)
	}
	return strings.Join(escaped, ":")
}

// escape protects what separates overlayfs options.
func escape(dir string) string {
	return strings.NewReplacer(`\`, `\\`, ",", `\,`).Replace(dir)
}
