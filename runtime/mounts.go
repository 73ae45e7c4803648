package runtime

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"proa/runtime/wire"
)

// mountSpecs are the kernel's file systems, the pod's files and then what the
// pod asks for, shallow paths first; a later mount replaces one of the same path.
func mountSpecs(in specInput, sc *runtimeapi.LinuxContainerSecurityContext) ([]specs.Mount, error) {
	sys := "ro"
	if sc.GetPrivileged() {
		sys = "rw"
	}
	mounts := []specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
		{Destination: "/dev/pts", Type: "devpts", Source: "devpts",
			Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
		{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", sys}},
		{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"nosuid", "noexec", "nodev", "relatime", sys}},
		podFile(in, "/etc/hostname", filepath.Join(in.podDir, "hostname"), sc),
		podFile(in, "/etc/resolv.conf", filepath.Join(in.podDir, "resolv.conf"), sc),
	}
	shm := filepath.Join(in.podDir, "shm")
	if options(in.pod).GetIpc() == runtimeapi.NamespaceMode_NODE {
		shm = "/dev/shm"
	}
	mounts = append(mounts, specs.Mount{Destination: "/dev/shm", Type: "bind", Source: shm, Options: []string{"rbind", "rprivate", "rw", "nosuid", "nodev", "noexec"}})
	asked := byDepth(in.config.GetMounts())
	volume := 0
	for _, m := range asked {
		var spec specs.Mount
		var err error
		if m.GetImage().GetImage() != "" {
			spec, err = volumeMount(m, volume)
			volume++
		} else {
			spec, err = bindMount(m)
		}
		if err != nil {
			return nil, err
		}
		mounts = slices.DeleteFunc(mounts, func(o specs.Mount) bool { return o.Destination == spec.Destination })
		mounts = append(mounts, spec)
	}
	return mounts, nil
}

// podFile is writable unless the root is not: programs rewrite resolv.conf.
func podFile(_ specInput, dest, src string, sc *runtimeapi.LinuxContainerSecurityContext) specs.Mount {
	access := "rw"
	if sc.GetReadonlyRootfs() {
		access = "ro"
	}
	return specs.Mount{Destination: dest, Type: "bind", Source: src, Options: []string{"rbind", "rprivate", access}}
}

var propagations = map[runtimeapi.MountPropagation]string{
	runtimeapi.MountPropagation_PROPAGATION_PRIVATE:           "rprivate",
	runtimeapi.MountPropagation_PROPAGATION_HOST_TO_CONTAINER: "rslave",
	runtimeapi.MountPropagation_PROPAGATION_BIDIRECTIONAL:     "rshared",
}

// byDepth orders mounts so that none covers one made before.
func byDepth(mounts []*runtimeapi.Mount) []*runtimeapi.Mount {
	sorted := slices.Clone(mounts)
	slices.SortStableFunc(sorted, func(a, b *runtimeapi.Mount) int {
		return cmp.Compare(strings.Count(filepath.Clean(a.ContainerPath), "/"), strings.Count(filepath.Clean(b.ContainerPath), "/"))
	})
	return sorted
}

// volumeMount is an image's, read-only (KEP-4639).
func volumeMount(m *runtimeapi.Mount, i int) (specs.Mount, error) {
	dest := filepath.Join("/", m.ContainerPath)
	switch {
	case dest == "/":
		return specs.Mount{}, invalid("mount %q: not a path in the container", m.ContainerPath)
	case m.HostPath != "":
		return specs.Mount{}, invalid("mount %s: an image and a path of the node", dest)
	case m.ImageSubPath != "" && !filepath.IsLocal(m.ImageSubPath):
		return specs.Mount{}, invalid("mount %s: sub path %q leaves the image", dest, m.ImageSubPath)
	}
	opts, err := mountOptions(m)
	return specs.Mount{Destination: dest, Type: "bind", Source: wire.VolumeSource(i), Options: append([]string{"rbind", "rprivate", "ro"}, opts...)}, err
}

// mountOptions are the extra ones that a pod may ask for.
func mountOptions(m *runtimeapi.Mount) ([]string, error) {
	for _, o := range m.MountOptions {
		if !slices.Contains([]string{"noexec", "nodev", "nosuid"}, o) {
			return nil, invalid("mount %s: option %q is not allowed", m.ContainerPath, o)
		}
	}
	return m.MountOptions, nil
}

// prepareVolumes has the image store keep the images that a container mounts.
func (r *Runtime) prepareVolumes(ctx context.Context, rec containerRecord) (volumes []wire.Volume, err error) {
	for _, m := range byDepth(rec.Config.M.GetMounts()) {
		ref := m.GetImage().GetImage()
		if ref == "" {
			continue
		}
		img, ok := r.cfg.Images.Get(ref)
		if !ok {
			return nil, status.Errorf(codes.NotFound, "image %q of a volume is not present", ref)
		}
		key := volumeKey(rec.ID, len(volumes))
		rootfs, err := r.cfg.Images.Prepare(ctx, img.ID, key)
		if err != nil {
			return nil, fmt.Errorf("prepare the image volume %s: %w", ref, err)
		}
		volumes = append(volumes, wire.Volume{Sub: m.ImageSubPath,
			Rootfs: wire.Rootfs{Path: r.runDir("rootfs", key), Lower: rootfs.Lower, Upper: rootfs.Upper, Work: rootfs.Work}})
	}
	return volumes, nil
}

func volumeKey(container string, i int) string { return fmt.Sprintf("%s-v%d", container, i) }

// release lets go of a container's layers; it may be repeated.
func (r *Runtime) release(rec containerRecord) error {
	var errs []error
	n := 0
	for _, m := range rec.Config.M.GetMounts() {
		if m.GetImage().GetImage() != "" {
			errs = append(errs, r.cfg.Images.Release(volumeKey(rec.ID, n)))
			n++
		}
	}
	return errors.Join(append(errs, r.cfg.Images.Release(rec.ID))...)
}

func bindMount(m *runtimeapi.Mount) (specs.Mount, error) {
	if len(m.UidMappings) > 0 || len(m.GidMappings) > 0 {
		return specs.Mount{}, invalid("mount %s: ID-mapped mounts are not supported", m.ContainerPath)
	}
	dest := filepath.Join("/", m.ContainerPath)
	if dest == "/" {
		return specs.Mount{}, invalid("mount %q: not a path in the container", m.ContainerPath)
	}
	// A link is followed here, as CRI asks, and not by the kernel later.
	src, err := filepath.EvalSymlinks(m.HostPath)
	if errors.Is(err, fs.ErrNotExist) {
		return specs.Mount{}, invalid("mount %s: %q does not exist on the node", dest, m.HostPath)
	}
	if err != nil {
		return specs.Mount{}, invalid("mount %s: %v", dest, err)
	}
	opts := []string{"rbind", propagations[m.Propagation]}
	if err := checkPropagation(src, m.Propagation); err != nil {
		return specs.Mount{}, err
	}
	switch {
	case m.RecursiveReadOnly && (!m.Readonly || m.Propagation != runtimeapi.MountPropagation_PROPAGATION_PRIVATE):
		return specs.Mount{}, invalid("mount %s: recursively read-only needs read-only and private propagation", dest)
	case m.RecursiveReadOnly:
		opts = append(opts, "rro")
	case m.Readonly:
		opts = append(opts, "ro")
	default:
		opts = append(opts, "rw")
	}
	extra, err := mountOptions(m)
	return specs.Mount{Destination: dest, Type: "bind", Source: src, Options: append(opts, extra...)}, err
}

// rootPropagation lets mounts pass between node and container where one asks.
func rootPropagation(mounts []*runtimeapi.Mount) string {
	propagation := ""
	for _, m := range mounts {
		switch m.Propagation {
		case runtimeapi.MountPropagation_PROPAGATION_BIDIRECTIONAL:
			return "rshared"
		case runtimeapi.MountPropagation_PROPAGATION_HOST_TO_CONTAINER:
			propagation = "rslave"
		}
	}
	return propagation
}

// checkPropagation refuses sharing of what the node does not share.
func checkPropagation(src string, p runtimeapi.MountPropagation) error {
	if p == runtimeapi.MountPropagation_PROPAGATION_PRIVATE {
		return nil
	}
	point, tags, err := mountOf(src)
	if err != nil {
		return err
	}
	shared := strings.Contains(tags, "shared:")
	if shared || (p == runtimeapi.MountPropagation_PROPAGATION_HOST_TO_CONTAINER && strings.Contains(tags, "master:")) {
		return nil
	}
	return invalid("path %q is mounted on %q but it is not a shared mount", src, point)
}

// mountOf finds the mount a path is on and its propagation tags.
func mountOf(path string) (point, tags string, err error) {
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return "", "", err
	}
	for line := range strings.Lines(string(data)) {
		f := strings.Fields(line)
		if len(f) < 7 {
			continue
		}
		at := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\134`, `\`).Replace(f[4])
		if at == "/" || path == at || strings.HasPrefix(path, at+"/") {
			if len(at) >= len(point) { // later lines cover earlier ones
				point, tags = at, strings.Join(f[6:slices.Index(f, "-")], " ")
			}
		}
	}
	return point, tags, nil
}

// recursiveReadOnly tells whether the kernel has mount_setattr(2) (5.12).
var recursiveReadOnly = sync.OnceValue(func() bool {
	return unix.MountSetattr(-1, "", unix.AT_EMPTY_PATH, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}) != unix.ENOSYS
})
