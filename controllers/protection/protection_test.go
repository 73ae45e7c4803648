package protection

import (
	"context"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"proa/client"
	"proa/controllers/simulation"
)

func TestClaimStaysWhileAPodUsesIt(t *testing.T) {
	simulation.Run(t, nil, func(ctx context.Context, c *simulation.Cluster) {
		claim := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "data"}, Spec: corev1.PersistentVolumeClaimSpec{
			AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
			Resources:   corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}}}}
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p"}, Spec: corev1.PodSpec{
			Containers: []corev1.Container{{Name: "c", Image: "i"}},
			Volumes:    []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "data"}}}}}}
		for _, obj := range []client.Object{claim, pod} {
			if _, err := c.Create(ctx, obj); err != nil {
				t.Fatal(err)
			}
		}
		there := func() bool {
			time.Sleep(5 * time.Second)
			return client.Get[corev1.PersistentVolumeClaim](c.View(), "ns", "data") != nil
		}
		there()
		if err := c.Delete(ctx, client.Row[corev1.PersistentVolumeClaim](), client.KeyOf(claim), metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		if !there() {
			t.Fatal("the claim went while a pod used it")
		}
		if err := c.Delete(ctx, client.Row[corev1.Pod](), client.KeyOf(pod), metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		if there() {
			t.Error("the claim stays although no pod uses it")
		}
	}, Claims())
}

func TestVolumeStaysWhileBound(t *testing.T) {
	simulation.Run(t, nil, func(ctx context.Context, c *simulation.Cluster) {
		volume := &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "v"},
			Spec: corev1.PersistentVolumeSpec{
				AccessModes:            []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
				Capacity:               corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")},
				PersistentVolumeSource: corev1.PersistentVolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/tmp/v"}}}}
		if _, err := c.Create(ctx, volume); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		bound := client.Get[corev1.PersistentVolume](c.View(), "", "v").DeepCopy()
		bound.Status.Phase = corev1.VolumeBound
		c.Inject(bound)
		if err := c.Delete(ctx, client.Row[corev1.PersistentVolume](), client.Key{Name: "v"}, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		v := client.Get[corev1.PersistentVolume](c.View(), "", "v")
		if v == nil {
			t.Fatal("the volume went while it was bound")
		}
		v = v.DeepCopy()
		v.Status.Phase = corev1.VolumeReleased
		c.Inject(v)
		time.Sleep(time.Second)
		if client.Get[corev1.PersistentVolume](c.View(), "", "v") != nil {
			t.Error("the volume stays although it is released")
		}
	}, Volumes())
}

func TestAnAttributesClassStaysWhileNamed(t *testing.T) {
	simulation.Run(t, nil, func(ctx context.Context, c *simulation.Cluster) {
		class := &storagev1.VolumeAttributesClass{ObjectMeta: metav1.ObjectMeta{Name: "fast"}, DriverName: "d", Parameters: map[string]string{"a": "b"}}
		claim := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "data"}, Spec: corev1.PersistentVolumeClaimSpec{
			VolumeAttributesClassName: &class.Name, AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
			Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}}}}
		for _, obj := range []client.Object{class, claim} {
			if _, err := c.Create(ctx, obj); err != nil {
				t.Fatal(err)
			}
		}
		for i, obj := range []client.Object{class, claim} {
			time.Sleep(time.Second)
			if err := c.Delete(ctx, c.Registry().Of(obj), client.KeyOf(obj), metav1.DeleteOptions{}); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Second)
			if there := client.Get[storagev1.VolumeAttributesClass](c.View(), "", "fast") != nil; there != (i == 0) {
				t.Errorf("after deleting %d of class and claim the class is there: %v", i+1, there)
			}
		}
	}, Classes())
}
