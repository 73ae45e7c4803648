// Package volume brings a pod's volumes onto the node's disk, keeps their content
// current and takes them away again.
//
// What it promises: Setup is idempotent and may be called as often as something
// changed; the files of ConfigMap, Secret, projected and downward API volumes
// change all at once (a symbolic link is swapped), never half; secrets and tokens
// are on tmpfs only; a subPath cannot lead out of its volume, whatever links a
// container plants there; after Teardown nothing of the pod is mounted or on disk.
package volume

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"proa/client"
	"proa/kubelet/spec"
)

// Manager keeps the volumes of all pods of a node. Calls for different pods may
// run at once; those for one pod must not.
type Manager struct {
	Root    string // pod directories are Root/<uid>
	Client  client.Client
	Node    *spec.Node
	Sources spec.Sources

	mu     sync.Mutex
	tokens map[tokenKey]*token
}

// Error says which volume failed.
type Error struct {
	Volume string
	Err    error
}

func (e *Error) Error() string {
	return fmt.Sprintf("MountVolume.SetUp failed for volume %q : %v", e.Volume, e.Err)
}

func (e *Error) Unwrap() error { return e.Err }

// Dir is the pod's directory.
func (m *Manager) Dir(uid types.UID) string { return filepath.Join(m.Root, string(uid)) }

// Setup mounts every volume of the pod and writes what is in it. It returns when
// it wants to be called again to renew tokens (zero: never). Errors are *Error,
// joined.
func (m *Manager) Setup(ctx context.Context, pod *corev1.Pod) (renew time.Time, err error) {
	var wg sync.WaitGroup
	var mu sync.Mutex
	var failed []error
	for i := range pod.Spec.Volumes {
		wg.Go(func() {
			v := &pod.Spec.Volumes[i]
			at, err := m.setup(ctx, pod, v)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				failed = append(failed, &Error{v.Name, err})
			}
			if !at.IsZero() && (renew.IsZero() || at.Before(renew)) {
				renew = at
			}
		})
	}
	wg.Wait()
	return renew, errors.Join(failed...)
}

func (m *Manager) setup(ctx context.Context, pod *corev1.Pod, v *corev1.Volume) (time.Time, error) {
	switch {
	case v.EmptyDir != nil:
		return time.Time{}, m.emptyDir(pod, v)
	case v.HostPath != nil:
		return time.Time{}, checkHostPath(v.HostPath)
	case v.PersistentVolumeClaim != nil, v.Ephemeral != nil:
		_, err := m.claimed(ctx, pod, v)
		return time.Time{}, err
	case v.Image != nil:
		return time.Time{}, nil // mounted by the runtime
	}
	return m.contents(ctx, pod, v)
}

// contents serves the kinds whose files the kubelet writes.
func (m *Manager) contents(ctx context.Context, pod *corev1.Pod, v *corev1.Volume) (time.Time, error) {
	files, renew, err := m.payload(ctx, pod, v)
	if err != nil {
		return time.Time{}, err
	}
	dir := m.path(pod, v)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return time.Time{}, err
	}
	if v.Secret != nil || v.Projected != nil {
		if err := mountTmpfs(dir, 0); err != nil {
			return time.Time{}, err
		}
	}
	if err := os.Chmod(dir, 0o777); err != nil {
		return time.Time{}, err
	}
	return renew, write(dir, files, fsGroup(pod))
}

func fsGroup(pod *corev1.Pod) *int64 {
	if sc := pod.Spec.SecurityContext; sc != nil {
		return sc.FSGroup
	}
	return nil
}

// plugin is the directory that a kind of volume lives in.
func plugin(v *corev1.Volume) string {
	switch {
	case v.EmptyDir != nil:
		return "kubernetes.io~empty-dir"
	case v.ConfigMap != nil:
		return "kubernetes.io~configmap"
	case v.Secret != nil:
		return "kubernetes.io~secret"
	case v.DownwardAPI != nil:
		return "kubernetes.io~downward-api"
	}
	return "kubernetes.io~projected"
}

func (m *Manager) path(pod *corev1.Pod, v *corev1.Volume) string {
	return filepath.Join(m.Dir(pod.UID), "volumes", plugin(v), v.Name)
}

// hostDir is where a volume's content is on the node.
func (m *Manager) hostDir(ctx context.Context, pod *corev1.Pod, v *corev1.Volume) (string, error) {
	switch {
	case v.HostPath != nil:
		return v.HostPath.Path, nil
	case v.PersistentVolumeClaim != nil, v.Ephemeral != nil:
		return m.claimed(ctx, pod, v)
	}
	return m.path(pod, v), nil
}

func (m *Manager) emptyDir(pod *corev1.Pod, v *corev1.Volume) error {
	dir := m.path(pod, v)
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return err
	}
	switch v.EmptyDir.Medium {
	case corev1.StorageMediumMemory:
		size := int64(0)
		if q := v.EmptyDir.SizeLimit; q != nil {
			size = q.Value()
		}
		if err := mountTmpfs(dir, size); err != nil {
			return err
		}
	case corev1.StorageMediumDefault:
	default:
		return fmt.Errorf("unknown storage medium %q", v.EmptyDir.Medium)
	}
	if err := os.Chmod(dir, 0o777); err != nil {
		return err
	}
	if gid := fsGroup(pod); gid != nil {
		return own(dir, int(*gid), 0o660)
	}
	return nil
}

// own gives a tree to a group: readable (and writable, by mask) for it, and new
// files inherit it.
func own(dir string, gid int, mask fs.FileMode) error {
	return filepath.WalkDir(dir, func(p string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		if err := os.Lchown(p, -1, gid); err != nil || info.Mode()&fs.ModeSymlink != 0 {
			return err
		}
		mode := info.Mode().Perm() | mask
		if e.IsDir() {
			mode |= fs.ModeSetgid | 0o110
		}
		return os.Chmod(p, mode)
	})
}

// Teardown unmounts and removes everything of a pod. It is idempotent.
func (m *Manager) Teardown(uid types.UID) error {
	m.forget(uid)
	dir := m.Dir(uid)
	if err := unmountBelow(dir); err != nil {
		return err
	}
	return os.RemoveAll(dir)
}

// Pods lists the pods that have a directory on this node.
func (m *Manager) Pods() []types.UID {
	entries, _ := os.ReadDir(m.Root)
	var out []types.UID
	for _, e := range entries {
		out = append(out, types.UID(e.Name()))
	}
	return out
}
