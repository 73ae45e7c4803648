package runtime

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// shmSize is the size of a pod's /dev/shm.
const shmSize = 64 << 20

// makeFiles makes a sandbox's run directory with what its containers mount.
func (r *Runtime) makeFiles(rec sandboxRecord) error {
	dir, config := r.runDir("sandboxes", rec.ID), rec.Config.M
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return err
	}
	resolv, err := resolvConf(config.GetDnsConfig())
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "resolv.conf"), resolv, 0o644); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "hostname"), []byte(hostname(config)+"\n"), 0o644); err != nil {
		return err
	}
	if config.GetLogDirectory() != "" {
		if err := os.MkdirAll(config.GetLogDirectory(), 0o755); err != nil {
			return err
		}
	}
	if options(config).GetIpc() == runtimeapi.NamespaceMode_NODE {
		return nil
	}
	shm := filepath.Join(dir, "shm")
	if err := os.MkdirAll(shm, 0o700); err != nil {
		return err
	}
	if err := unix.Mount("shm", shm, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC,
		fmt.Sprintf("mode=1777,size=%d", shmSize)); err != nil {
		return fmt.Errorf("mount the pod's /dev/shm: %w", err)
	}
	return nil
}

// removeFiles may be repeated.
func (r *Runtime) removeFiles(id string) error {
	dir := r.runDir("sandboxes", id)
	err := unix.Unmount(filepath.Join(dir, "shm"), unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("unmount the pod's /dev/shm: %w", err)
	}
	return os.RemoveAll(dir)
}

func hostname(config *runtimeapi.PodSandboxConfig) string {
	if config.GetHostname() != "" && !hostNetwork(config) {
		return config.GetHostname()
	}
	name, _ := os.Hostname()
	return name
}

// resolvConf writes resolv.conf(5); without a configuration it is the node's.
func resolvConf(dns *runtimeapi.DNSConfig) ([]byte, error) {
	if dns == nil {
		data, err := os.ReadFile("/etc/resolv.conf")
		if errors.Is(err, os.ErrNotExist) {
			return nil, nil
		}
		return data, err
	}
	var b strings.Builder
	if len(dns.Searches) > 0 {
		fmt.Fprintf(&b, "search %s\n", strings.Join(dns.Searches, " "))
	}
	for _, s := range dns.Servers {
		fmt.Fprintf(&b, "nameserver %s\n", s)
	}
	if len(dns.Options) > 0 {
		fmt.Fprintf(&b, "options %s\n", strings.Join(dns.Options, " "))
	}
	return []byte(b.String()), nil
}
