package volume

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	volumehelper "k8s.io/component-helpers/storage/volume"
	"sigs.k8s.io/yaml"

	"proa/client"
	"proa/controllers/simulation"
)

func pv(name, size, class string, edit ...func(*corev1.PersistentVolume)) *corev1.PersistentVolume {
	v := &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.PersistentVolumeSpec{
		AccessModes:                   []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
		Capacity:                      corev1.ResourceList{corev1.ResourceStorage: resource.MustParse(size)},
		PersistentVolumeReclaimPolicy: corev1.PersistentVolumeReclaimRetain,
		StorageClassName:              class,
		PersistentVolumeSource:        corev1.PersistentVolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/tmp/v"}}}}
	for _, f := range edit {
		f(v)
	}
	return v
}

func pvc(name, size, class string, edit ...func(*corev1.PersistentVolumeClaim)) *corev1.PersistentVolumeClaim {
	c := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name}, Spec: corev1.PersistentVolumeClaimSpec{
		AccessModes:      []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
		StorageClassName: &class,
		Resources:        corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse(size)}}}}
	for _, f := range edit {
		f(c)
	}
	return c
}

func class(name, provisioner string, mode storagev1.VolumeBindingMode) *storagev1.StorageClass {
	return &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: name}, Provisioner: provisioner, VolumeBindingMode: &mode}
}

func run(t *testing.T, test func(ctx context.Context, c *simulation.Cluster)) {
	simulation.Run(t, nil, test, Claims(), Volumes(), Ephemeral())
}

func create(t *testing.T, c *simulation.Cluster, objs ...client.Object) {
	t.Helper()
	for _, obj := range objs {
		if _, err := c.Create(t.Context(), obj); err != nil {
			t.Fatal(err)
		}
	}
	synctest.Wait()
}

// bindings says "claim phase volume" and "volume phase claim" of everything.
func bindings(v client.View) string {
	out := ""
	for c := range client.List[corev1.PersistentVolumeClaim](v, "") {
		out += fmt.Sprintf("%s %s %s\n", c.Name, c.Status.Phase, c.Spec.VolumeName)
	}
	for p := range client.List[corev1.PersistentVolume](v, "") {
		ref := ""
		if p.Spec.ClaimRef != nil {
			ref = p.Spec.ClaimRef.Name
		}
		out += fmt.Sprintf("%s %s %s\n", p.Name, p.Status.Phase, ref)
	}
	return out
}

func expect(t *testing.T, c *simulation.Cluster, want string) {
	t.Helper()
	time.Sleep(time.Second)
	synctest.Wait()
	if got := bindings(c.View()); got != want {
		t.Fatalf("got\n%swant\n%s", got, want)
	}
}

func TestSmallestVolumeOfTheClass(t *testing.T) {
	run(t, func(ctx context.Context, c *simulation.Cluster) {
		create(t, c, pv("big", "10Gi", "a"), pv("mid", "5Gi", "a"), pv("other", "2Gi", "b"), pv("small", "1Gi", "a"))
		create(t, c, pvc("x", "2Gi", "a"))
		expect(t, c, "x Bound mid\nbig Available \nmid Bound x\nother Available \nsmall Available \n")
		claim := client.Get[corev1.PersistentVolumeClaim](c.View(), "ns", "x")
		if size := claim.Status.Capacity[corev1.ResourceStorage]; size.String() != "5Gi" {
			t.Errorf("capacity %s, want the volume's", size.String())
		}
		if claim.Annotations[volumehelper.AnnBindCompleted] != "yes" || claim.Annotations[volumehelper.AnnBoundByController] != "yes" {
			t.Errorf("annotations %v", claim.Annotations)
		}
	})
}

func TestClaimWaitsForAVolume(t *testing.T) {
	run(t, func(ctx context.Context, c *simulation.Cluster) {
		create(t, c, pvc("x", "2Gi", ""))
		expect(t, c, "x Pending \n")
		create(t, c, pv("v", "3Gi", ""))
		expect(t, c, "x Bound v\nv Bound x\n")
	})
}

func TestPreBound(t *testing.T) {
	reserve := func(name string) func(*corev1.PersistentVolume) {
		return func(v *corev1.PersistentVolume) {
			v.Spec.ClaimRef = &corev1.ObjectReference{Kind: "PersistentVolumeClaim", Namespace: "ns", Name: name}
		}
	}
	want := func(name string) func(*corev1.PersistentVolumeClaim) {
		return func(c *corev1.PersistentVolumeClaim) { c.Spec.VolumeName = name }
	}
	cases := map[string]struct {
		objs []client.Object
		want string
	}{
		"a volume kept for a claim":        {[]client.Object{pv("kept", "9Gi", "", reserve("x")), pv("v", "1Gi", ""), pvc("x", "1Gi", "")}, "x Bound kept\nkept Bound x\nv Available \n"},
		"a volume kept for another":        {[]client.Object{pv("kept", "9Gi", "", reserve("y")), pvc("x", "1Gi", "")}, "x Pending \nkept Available y\n"},
		"a claim that names its volume":    {[]client.Object{pv("a", "1Gi", ""), pv("b", "9Gi", ""), pvc("x", "1Gi", "", want("b"))}, "x Bound b\na Available \nb Bound x\n"},
		"a volume that comes later":        {[]client.Object{pvc("x", "1Gi", "", want("b")), pv("b", "9Gi", "")}, "x Bound b\nb Bound x\n"},
		"a named volume that is too small": {[]client.Object{pv("a", "1Gi", ""), pvc("x", "2Gi", "", want("a"))}, "x Pending a\na Available \n"},
		"two that name one":                {[]client.Object{pv("a", "1Gi", ""), pvc("x", "1Gi", "", want("a")), pvc("y", "1Gi", "", want("a"))}, "x Bound a\ny Pending a\na Bound x\n"},
	}
	for name, test := range cases {
		t.Run(name, func(t *testing.T) {
			run(t, func(ctx context.Context, c *simulation.Cluster) {
				for _, obj := range test.objs {
					create(t, c, obj.DeepCopyObject().(client.Object))
				}
				expect(t, c, test.want)
			})
		})
	}
}

func TestSelectorModesAndVolumeMode(t *testing.T) {
	run(t, func(ctx context.Context, c *simulation.Cluster) {
		block := corev1.PersistentVolumeBlock
		create(t, c,
			pv("block", "1Gi", "", func(v *corev1.PersistentVolume) { v.Spec.VolumeMode = &block }),
			pv("labelled", "5Gi", "", func(v *corev1.PersistentVolume) { v.Labels = map[string]string{"tier": "gold"} }),
			pv("shared", "5Gi", "", func(v *corev1.PersistentVolume) {
				v.Spec.AccessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce, corev1.ReadWriteMany}
			}))
		create(t, c, pvc("gold", "1Gi", "", func(p *corev1.PersistentVolumeClaim) {
			p.Spec.Selector = &metav1.LabelSelector{MatchLabels: map[string]string{"tier": "gold"}}
		}))
		create(t, c, pvc("many", "1Gi", "", func(p *corev1.PersistentVolumeClaim) {
			p.Spec.AccessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteMany}
		}))
		create(t, c, pvc("raw", "1Gi", "", func(p *corev1.PersistentVolumeClaim) { p.Spec.VolumeMode = &block }))
		expect(t, c, "gold Bound labelled\nmany Bound shared\nraw Bound block\nblock Bound raw\nlabelled Bound gold\nshared Bound many\n")
	})
}

func TestReleasedAndLost(t *testing.T) {
	run(t, func(ctx context.Context, c *simulation.Cluster) {
		create(t, c, pv("a", "1Gi", ""), pv("b", "1Gi", "", func(v *corev1.PersistentVolume) {
			v.Spec.PersistentVolumeReclaimPolicy = corev1.PersistentVolumeReclaimDelete
		}))
		create(t, c, pvc("x", "1Gi", ""))
		expect(t, c, "x Bound a\na Bound x\nb Available \n")
		create(t, c, pvc("y", "1Gi", ""))
		expect(t, c, "x Bound a\ny Bound b\na Bound x\nb Bound y\n")
		if err := c.Delete(ctx, client.Row[corev1.PersistentVolumeClaim](), client.Key{Namespace: "ns", Name: "y"}, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		// Nothing here can delete a hostPath volume.
		expect(t, c, "x Bound a\na Bound x\nb Failed y\n")
		if err := c.Delete(ctx, client.Row[corev1.PersistentVolume](), client.Key{Name: "a"}, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		expect(t, c, "x Lost a\nb Failed y\n")
		create(t, c, pvc("y", "1Gi", ""))
		expect(t, c, "x Lost a\ny Pending \nb Failed y\n") // another claim of the same name has no right to it
	})
}

func TestFirstConsumer(t *testing.T) {
	run(t, func(ctx context.Context, c *simulation.Cluster) {
		create(t, c, class("wait", "example.com/disk", storagev1.VolumeBindingWaitForFirstConsumer), pv("v", "1Gi", "wait"), pvc("x", "1Gi", "wait"))
		expect(t, c, "x Pending \nv Available \n")
		claim := client.Get[corev1.PersistentVolumeClaim](c.View(), "ns", "x").DeepCopy()
		note(claim, volumehelper.AnnSelectedNode, "node-1")
		if _, err := c.Update(ctx, claim, ""); err != nil {
			t.Fatal(err)
		}
		expect(t, c, "x Pending \nv Available \n")
		claim = client.Get[corev1.PersistentVolumeClaim](c.View(), "ns", "x").DeepCopy()
		if got := claim.Annotations[volumehelper.AnnStorageProvisioner]; got != "example.com/disk" {
			t.Fatalf("the provisioner is not asked: %q", got)
		}
		made := pv("made", "1Gi", "wait", func(v *corev1.PersistentVolume) {
			v.Spec.ClaimRef = &corev1.ObjectReference{Kind: "PersistentVolumeClaim", Namespace: "ns", Name: "x", UID: claim.UID}
		})
		create(t, c, made)
		expect(t, c, "x Bound made\nmade Bound x\nv Available \n")
	})
}

func TestDefaultClassComesLater(t *testing.T) {
	run(t, func(ctx context.Context, c *simulation.Cluster) {
		create(t, c, pvc("x", "1Gi", "", func(p *corev1.PersistentVolumeClaim) { p.Spec.StorageClassName = nil }), pv("v", "1Gi", "std"))
		expect(t, c, "x Pending \nv Available \n")
		std := class("std", "example.com/disk", storagev1.VolumeBindingImmediate)
		std.Annotations = map[string]string{"storageclass.kubernetes.io/is-default-class": "true"}
		create(t, c, std)
		expect(t, c, "x Bound v\nv Bound x\n")
	})
}

func TestEphemeral(t *testing.T) {
	run(t, func(ctx context.Context, c *simulation.Cluster) {
		create(t, c, pv("v", "1Gi", ""))
		var p corev1.Pod
		if err := yaml.Unmarshal([]byte(`
metadata: {namespace: ns, name: p}
spec:
  containers: [{name: c, image: i}]
  volumes: [{name: scratch, ephemeral: {volumeClaimTemplate: {metadata: {labels: {a: b}}, spec: {storageClassName: "", accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}}}}]`), &p); err != nil {
			t.Fatal(err)
		}
		create(t, c, &p)
		expect(t, c, "p-scratch Bound v\nv Bound p-scratch\n")
		claim := client.Get[corev1.PersistentVolumeClaim](c.View(), "ns", "p-scratch")
		if ref := metav1.GetControllerOf(claim); ref == nil || ref.Name != "p" || claim.Labels["a"] != "b" {
			t.Errorf("%v", claim.ObjectMeta)
		}
	})
}

// Whatever comes in whatever order, no volume is Bound to two claims, no claim
// to two volumes, and both sides agree in the end.
func TestBindingsAreOneToOne(t *testing.T) {
	for seed := range uint64(8) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		run(t, func(ctx context.Context, c *simulation.Cluster) {
			c.Each = nil
			for i := range 40 {
				name := fmt.Sprint("n", rnd.IntN(12))
				switch rnd.IntN(5) {
				case 0, 1:
					_, _ = c.Create(ctx, pv(name, fmt.Sprint(1+rnd.IntN(3), "Gi"), ""))
				case 2, 3:
					_, _ = c.Create(ctx, pvc(name, fmt.Sprint(1+rnd.IntN(3), "Gi"), ""))
				case 4:
					_ = c.Delete(ctx, client.Row[corev1.PersistentVolumeClaim](), client.Key{Namespace: "ns", Name: name}, metav1.DeleteOptions{})
				}
				if i%7 == 0 {
					time.Sleep(time.Millisecond)
				}
			}
			time.Sleep(time.Minute)
			synctest.Wait()
			agree(t, c.View())
		})
	}
}

func agree(t *testing.T, v client.View) {
	t.Helper()
	for c := range client.List[corev1.PersistentVolumeClaim](v, "") {
		if c.Status.Phase != corev1.ClaimBound {
			continue
		}
		p := client.Get[corev1.PersistentVolume](v, "", c.Spec.VolumeName)
		if p == nil || p.Spec.ClaimRef == nil || p.Spec.ClaimRef.UID != c.UID || p.Status.Phase != corev1.VolumeBound {
			t.Errorf("%s is bound to %s, which does not agree\n%s", c.Name, c.Spec.VolumeName, bindings(v))
		}
	}
	for p := range client.List[corev1.PersistentVolume](v, "") {
		if p.Status.Phase == corev1.VolumeBound {
			c := client.Get[corev1.PersistentVolumeClaim](v, p.Spec.ClaimRef.Namespace, p.Spec.ClaimRef.Name)
			if c == nil || c.Spec.VolumeName != p.Name || c.Status.Phase != corev1.ClaimBound {
				t.Errorf("%s is bound to %s, which does not agree\n%s", p.Name, p.Spec.ClaimRef.Name, bindings(v))
			}
		}
	}
}

// A decision that changed nothing is the last: the world stands still.
func TestDecisionsSettle(t *testing.T) {
	run(t, func(ctx context.Context, c *simulation.Cluster) {
		create(t, c, pv("a", "1Gi", ""), pvc("x", "1Gi", ""))
		expect(t, c, "x Bound a\na Bound x\n")
		create(t, c, pvc("y", "1Gi", ""))
		expect(t, c, "x Bound a\ny Pending \na Bound x\n")
		at := c.View().Revision()
		for _, k := range []string{"x", "y"} {
			if plan := decideClaim(c.View(), time.Now(), client.Key{Namespace: "ns", Name: k}); len(plan.Writes) > 0 {
				t.Errorf("%s is written again", k)
			}
		}
		time.Sleep(time.Hour)
		if now := c.View().Revision(); now != at {
			t.Errorf("revision %d moved to %d", at, now)
		}
	})
}
