package volume

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"proa/kubelet/spec"
)

// Mounts are a container's volume mounts in the runtime's terms. vars resolve
// $(VAR) in subPathExpr.
func (m *Manager) Mounts(ctx context.Context, pod *corev1.Pod, c *corev1.Container, vars map[string]string) ([]*cri.Mount, error) {
	var out []*cri.Mount
	for i := range c.VolumeMounts {
		vm := &c.VolumeMounts[i]
		v := find(pod, vm.Name)
		if v == nil {
			return nil, fmt.Errorf("volume %q of a mount is not in the pod", vm.Name)
		}
		mount, err := m.mount(ctx, pod, c, v, vm, i, vars)
		if err != nil {
			return nil, err
		}
		out = append(out, mount)
	}
	return out, nil
}

func find(pod *corev1.Pod, name string) *corev1.Volume {
	for i := range pod.Spec.Volumes {
		if pod.Spec.Volumes[i].Name == name {
			return &pod.Spec.Volumes[i]
		}
	}
	return nil
}

func (m *Manager) mount(ctx context.Context, pod *corev1.Pod, c *corev1.Container, v *corev1.Volume, vm *corev1.VolumeMount, i int, vars map[string]string) (*cri.Mount, error) {
	out := &cri.Mount{ContainerPath: vm.MountPath, Readonly: vm.ReadOnly || readOnly(v)}
	if !filepath.IsAbs(out.ContainerPath) {
		out.ContainerPath = "/" + out.ContainerPath
	}
	if vm.MountPropagation != nil {
		out.Propagation = map[corev1.MountPropagationMode]cri.MountPropagation{
			corev1.MountPropagationHostToContainer: cri.MountPropagation_PROPAGATION_HOST_TO_CONTAINER,
			corev1.MountPropagationBidirectional:   cri.MountPropagation_PROPAGATION_BIDIRECTIONAL,
		}[*vm.MountPropagation]
	}
	if vm.RecursiveReadOnly != nil && *vm.RecursiveReadOnly == corev1.RecursiveReadOnlyEnabled {
		out.RecursiveReadOnly = true
	}
	if v.Image != nil {
		out.Image, out.ImageSubPath, out.Readonly = &cri.ImageSpec{Image: v.Image.Reference}, vm.SubPath, true
		return out, nil
	}
	dir, err := m.hostDir(ctx, pod, v)
	if err != nil {
		return nil, err
	}
	sub := vm.SubPath
	if vm.SubPathExpr != "" {
		sub = spec.Expand(vm.SubPathExpr, vars)
	}
	out.HostPath = dir
	if sub != "" {
		target := filepath.Join(m.Dir(pod.UID), "volume-subpaths", v.Name, c.Name, strconv.Itoa(i))
		out.HostPath = target
		err = bindSubPath(dir, sub, target)
	} else if v.HostPath != nil {
		err = createMissing(dir)
	}
	return out, err
}

// readOnly kinds are written by the kubelet alone.
func readOnly(v *corev1.Volume) bool {
	return v.ConfigMap != nil || v.Secret != nil || v.DownwardAPI != nil || v.Projected != nil
}

// createMissing makes a host path of no particular type a directory.
func createMissing(dir string) error {
	_, err := os.Stat(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return os.MkdirAll(dir, 0o755)
	}
	return err
}

// bindSubPath bind-mounts dir/sub at target. The kernel resolves sub without ever
// leaving dir, so a link that a container planted cannot lead elsewhere, and what
// was opened is what is mounted.
func bindSubPath(dir, sub, target string) error {
	if filepath.IsAbs(sub) || strings.Contains("/"+sub+"/", "/../") {
		return fmt.Errorf("subPath %q must stay within its volume", sub)
	}
	root, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: dir, Err: err}
	}
	defer unix.Close(root)
	fd, err := openBeneath(root, sub)
	if err != nil {
		return fmt.Errorf("failed to prepare subPath %q: %w", sub, err)
	}
	defer unix.Close(fd)
	if err := prepareTarget(fd, target); err != nil {
		return err
	}
	if err := unix.Mount("/proc/self/fd/"+strconv.Itoa(fd), target, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return &os.PathError{Op: "bind mount", Path: target, Err: err}
	}
	return nil
}

// openBeneath opens a path below root, making directories that are missing. Those
// get the volume's own mode, so that whoever may use the volume may use them.
func openBeneath(root int, sub string) (int, error) {
	how := unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_MAGICLINKS}
	fd, err := unix.Openat2(root, sub, &how)
	if !errors.Is(err, unix.ENOENT) {
		return fd, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(root, &st); err != nil {
		return -1, err
	}
	at, err := unix.Openat2(root, ".", &how)
	for name := range strings.SplitSeq(filepath.Clean(sub), "/") {
		if err != nil {
			return -1, err
		}
		if err = makeDir(at, name, st.Mode&0o7777); err == nil {
			fd, err = unix.Openat2(at, name, &how)
		}
		unix.Close(at)
		at = fd
	}
	return at, err
}

// makeDir makes one directory with exactly this mode; one that is there keeps its own.
func makeDir(at int, name string, mode uint32) error {
	if err := unix.Mkdirat(at, name, 0o700); err != nil {
		if errors.Is(err, unix.EEXIST) {
			return nil
		}
		return err
	}
	fd, err := unix.Openat(at, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Fchmod(fd, mode) // the umask does not count
}

// prepareTarget makes an empty directory or file to mount on, taking off what an
// earlier start of the container mounted there.
func prepareTarget(fd int, target string) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	for unix.Unmount(target, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW) == nil {
	}
	if err := os.MkdirAll(filepath.Dir(target), 0o750); err != nil {
		return err
	}
	os.Remove(target)
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return os.Mkdir(target, 0o750)
	}
	f, err := os.OpenFile(target, os.O_CREATE, 0o640)
	if err != nil {
		return err
	}
	return f.Close()
}
