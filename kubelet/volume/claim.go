package volume

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	corev1 "k8s.io/api/core/v1"
	volumehelper "k8s.io/component-helpers/storage/volume"

	"proa/client"
	"proa/kubelet/localpath"
)

// claimed is the directory of the local volume that a claim is bound to.
func (m *Manager) claimed(ctx context.Context, pod *corev1.Pod, v *corev1.Volume) (string, error) {
	name := pod.Name + "-" + v.Name // a generic ephemeral volume's claim
	if v.PersistentVolumeClaim != nil {
		name = v.PersistentVolumeClaim.ClaimName
	}
	obj, err := m.Client.Get(ctx, client.Row[corev1.PersistentVolumeClaim](), client.Key{Namespace: pod.Namespace, Name: name})
	if err != nil {
		return "", err
	}
	claim := obj.(*corev1.PersistentVolumeClaim)
	if claim.Status.Phase != corev1.ClaimBound || claim.Spec.VolumeName == "" {
		return "", fmt.Errorf("PVC %s/%s is not bound", claim.Namespace, claim.Name)
	}
	obj, err = m.Client.Get(ctx, client.Row[corev1.PersistentVolume](), client.Key{Name: claim.Spec.VolumeName})
	if err != nil {
		return "", err
	}
	return localPath(obj.(*corev1.PersistentVolume), claim)
}

// openDir makes the directory of a provisioned volume, which whoever mounts it
// may write.
func openDir(path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	if err := os.Mkdir(path, 0o777); err != nil {
		if errors.Is(err, fs.ErrExist) {
			return nil
		}
		return err
	}
	return os.Chmod(path, 0o777) // whatever the umask says
}

func localPath(pv *corev1.PersistentVolume, claim *corev1.PersistentVolumeClaim) (string, error) {
	if ref := pv.Spec.ClaimRef; ref == nil || ref.UID != claim.UID {
		return "", fmt.Errorf("persistent volume %s is bound to another claim than %s/%s", pv.Name, claim.Namespace, claim.Name)
	}
	switch {
	case pv.Annotations[volumehelper.AnnDynamicallyProvisioned] == localpath.Name && pv.Spec.HostPath != nil:
		return pv.Spec.HostPath.Path, openDir(pv.Spec.HostPath.Path)
	case pv.Spec.HostPath != nil:
		return pv.Spec.HostPath.Path, checkHostPath(pv.Spec.HostPath)
	case pv.Spec.Local != nil:
		if _, err := os.Stat(pv.Spec.Local.Path); errors.Is(err, fs.ErrNotExist) {
			return "", fmt.Errorf("path %q does not exist", pv.Spec.Local.Path)
		}
		return pv.Spec.Local.Path, nil
	}
	return "", fmt.Errorf("persistent volume %s is of a kind that this node does not support", pv.Name)
}
