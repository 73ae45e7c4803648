package localpath

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	volumehelper "k8s.io/component-helpers/storage/volume"
	"sigs.k8s.io/yaml"

	"log/slog"

	"proa/client"
	"proa/client/clienttest"
)

// A claim whose pod goes here gets a directory; when it is released, the
// directory and the volume go, and nothing else does.
func TestLifeOfAVolume(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		c := clienttest.New(Class())
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() {
			ended <- Run(ctx, Config{Client: c, NodeName: "here", Dir: dir, Log: slog.New(slog.DiscardHandler)})
		}()
		mine, other := claim(t, c, "mine", "here"), claim(t, c, "other", "there")
		time.Sleep(time.Second)
		pv := client.Get[corev1.PersistentVolume](c.View(), "", nameFor(mine))
		if pv == nil || client.Get[corev1.PersistentVolume](c.View(), "", nameFor(other)) != nil {
			t.Fatal("the claim of this node gets a volume, that of the other none")
		}
		if err := os.MkdirAll(filepath.Join(pv.Spec.HostPath.Path, "data"), 0o755); err != nil {
			t.Fatal(err)
		}
		foreign := pv.DeepCopy()
		foreign.Name, foreign.UID, foreign.ResourceVersion = "foreign", "", ""
		foreign.Spec.HostPath.Path = filepath.Join(dir, "elsewhere")
		if err := os.Mkdir(foreign.Spec.HostPath.Path, 0o755); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Create(ctx, foreign); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{pv.Name, "foreign"} {
			v := client.Get[corev1.PersistentVolume](c.View(), "", name).DeepCopy()
			v.Status.Phase = corev1.VolumeReleased
			if _, err := c.Update(ctx, v, "status"); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if client.Get[corev1.PersistentVolume](c.View(), "", pv.Name) != nil {
			t.Error("the released volume stays")
		}
		if _, err := os.Stat(pv.Spec.HostPath.Path); !os.IsNotExist(err) {
			t.Errorf("its directory stays: %v", err)
		}
		if _, err := os.Stat(foreign.Spec.HostPath.Path); err != nil {
			t.Error("a directory went that is not the volume's own")
		}
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

func claim(t *testing.T, c client.Client, name, node string) *corev1.PersistentVolumeClaim {
	t.Helper()
	out := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, Annotations: map[string]string{
		volumehelper.AnnStorageProvisioner: Name, volumehelper.AnnSelectedNode: node}}}
	if err := yaml.Unmarshal([]byte(`{storageClassName: local-path, accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}`), &out.Spec); err != nil {
		t.Fatal(err)
	}
	made, err := c.Create(t.Context(), out)
	if err != nil {
		t.Fatal(err)
	}
	return made.(*corev1.PersistentVolumeClaim)
}
