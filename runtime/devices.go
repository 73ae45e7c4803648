package runtime

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// deviceSpecs are the device nodes to make and the rules of the device cgroup.
// The harmless ones (null, zero, random, tty, ...) every container gets anyway.
func deviceSpecs(in specInput, sc *runtimeapi.LinuxContainerSecurityContext) ([]specs.LinuxDevice, []specs.LinuxDeviceCgroup, error) {
	if sc.GetPrivileged() {
		return in.hostDevices, []specs.LinuxDeviceCgroup{{Allow: true, Access: "rwm"}}, nil
	}
	rules := []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}}
	var devices []specs.LinuxDevice
	for _, d := range in.config.GetDevices() {
		found, err := devicesAt(d.HostPath, d.ContainerPath)
		if err != nil {
			return nil, nil, invalid("device %s: %v", d.HostPath, err)
		}
		access := d.Permissions
		if access == "" {
			access = "rwm"
		}
		for _, dev := range found {
			devices = append(devices, dev)
			rules = append(rules, specs.LinuxDeviceCgroup{Allow: true, Type: dev.Type, Major: &dev.Major, Minor: &dev.Minor, Access: access})
		}
	}
	return devices, rules, nil
}

// devicesAt is the device at a path, or all below a directory.
func devicesAt(host, dest string) ([]specs.LinuxDevice, error) {
	real, err := filepath.EvalSymlinks(host)
	if err != nil {
		return nil, err
	}
	if info, err := os.Stat(real); err != nil || !info.IsDir() {
		d, err := deviceAt(real, dest)
		return []specs.LinuxDevice{d}, err
	}
	var found []specs.LinuxDevice
	err = filepath.WalkDir(real, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.Type()&fs.ModeDevice == 0 {
			return nil // it came and went
		}
		if d, err := deviceAt(path, filepath.Join(dest, strings.TrimPrefix(path, real))); err == nil {
			found = append(found, d)
		}
		return nil
	})
	return found, err
}

func deviceAt(host, dest string) (specs.LinuxDevice, error) {
	var st unix.Stat_t
	if err := unix.Stat(host, &st); err != nil {
		return specs.LinuxDevice{}, err
	}
	mode, uid, gid := os.FileMode(st.Mode&0o777), st.Uid, st.Gid
	d := specs.LinuxDevice{Path: dest, Major: int64(unix.Major(st.Rdev)), Minor: int64(unix.Minor(st.Rdev)),
		FileMode: &mode, UID: &uid, GID: &gid}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFCHR:
		d.Type = "c"
	case unix.S_IFBLK:
		d.Type = "b"
	default:
		return d, deviceErr(host, os.ErrInvalid)
	}
	return d, nil
}

// hostDevices are the node's, for privileged containers: all but what each
// container has its own of.
func hostDevices() ([]specs.LinuxDevice, error) {
	var found []specs.LinuxDevice
	err := filepath.WalkDir("/dev", func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return nil
		}
		switch path {
		case "/dev/pts", "/dev/shm", "/dev/fd", "/dev/mqueue", "/dev/.lxc", "/dev/.lxd-mounts", "/dev/.udev":
			return fs.SkipDir
		case "/dev/console", "/dev/ptmx":
			return nil
		}
		if e.Type()&fs.ModeDevice != 0 {
			if d, err := deviceAt(path, path); err == nil {
				found = append(found, d)
			}
		}
		return nil
	})
	return found, err
}
