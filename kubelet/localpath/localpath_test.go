package localpath

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
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

func TestAVolumeGrowsWithItsClaim(t *testing.T) {
	c := Config{NodeName: "here", Dir: "/volumes"}
	world := clienttest.New(Class())
	claim := claim(t, world, "data", "here")
	pv := c.volume(claim, Class())
	if _, err := world.Create(t.Context(), pv); err != nil {
		t.Fatal(err)
	}
	next := claim.DeepCopy()
	next.Spec.VolumeName = pv.Name
	next.Status.Phase, next.Status.Capacity = corev1.ClaimBound, corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}
	next.Spec.Resources.Requests[corev1.ResourceStorage] = resource.MustParse("3Gi")
	for turn, want := range []string{"the volume", "the claim", ""} {
		plan := c.grow(world.View(), next)
		if len(plan.Writes) == 0 {
			if want != "" {
				t.Fatalf("turn %d: %s does not grow", turn, want)
			}
			continue
		}
		switch obj := plan.Writes[0].Object.(type) {
		case *corev1.PersistentVolume:
			if _, err := world.Update(t.Context(), obj, ""); err != nil || want != "the volume" {
				t.Fatalf("turn %d: volume, %v", turn, err)
			}
		case *corev1.PersistentVolumeClaim:
			next = obj
			if got := next.Status.Capacity[corev1.ResourceStorage]; got.String() != "3Gi" || want != "the claim" {
				t.Fatalf("turn %d: the claim says %s", turn, &got)
			}
		}
	}
	if c.grow(world.View(), next); client.Get[corev1.PersistentVolume](world.View(), "", pv.Name).Spec.Capacity.Storage().String() != "3Gi" {
		t.Error("the volume did not grow")
	}
}
