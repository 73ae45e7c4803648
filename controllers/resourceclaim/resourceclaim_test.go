package resourceclaim

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"proa/client"
	"proa/controllers/simulation"
)

func template(name string) *resourcev1.ResourceClaimTemplate {
	t := &resourcev1.ResourceClaimTemplate{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name}}
	t.Spec.Labels, t.Spec.Annotations = map[string]string{"l": "1"}, map[string]string{"a": "2"}
	t.Spec.Spec.Devices.Requests = []resourcev1.DeviceRequest{{Name: "gpu", Exactly: &resourcev1.ExactDeviceRequest{DeviceClassName: "gpus"}}}
	return t
}

func user(name string, claims ...corev1.PodResourceClaim) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name}, Spec: corev1.PodSpec{
		Containers: []corev1.Container{{Name: "c", Image: "i"}}, ResourceClaims: claims}}
}

func byTemplate(name, template string) corev1.PodResourceClaim {
	return corev1.PodResourceClaim{Name: name, ResourceClaimTemplateName: &template}
}

func create(t *testing.T, c client.Client, objs ...client.Object) {
	t.Helper()
	for _, obj := range objs {
		if _, err := c.Create(t.Context(), obj); err != nil {
			t.Fatal(err)
		}
	}
}

func claims(c client.Client) []*resourcev1.ResourceClaim {
	time.Sleep(3 * time.Second)
	return slices.Collect(client.List[resourcev1.ResourceClaim](c.View(), "ns"))
}

// allocate does what a scheduler does.
func allocate(t *testing.T, c client.Client, claim *resourcev1.ResourceClaim, users ...*corev1.Pod) {
	t.Helper()
	next := claim.DeepCopy()
	next.Finalizers = append(next.Finalizers, resourcev1.Finalizer)
	out, err := c.Update(t.Context(), next, "")
	if err != nil {
		t.Fatal(err)
	}
	next = out.DeepCopyObject().(*resourcev1.ResourceClaim)
	next.Status.Allocation = &resourcev1.AllocationResult{}
	for _, p := range users {
		next.Status.ReservedFor = append(next.Status.ReservedFor, resourcev1.ResourceClaimConsumerReference{
			Resource: "pods", Name: p.Name, UID: client.Get[corev1.Pod](c.View(), "ns", p.Name).UID})
	}
	if _, err := c.Update(t.Context(), next, "status"); err != nil {
		t.Fatal(err)
	}
}

func TestAPodGetsAClaimByTemplateWhichGoesWhenItEnds(t *testing.T) {
	prepare := func(c *simulation.Cluster) {
		c.Fate = func(*corev1.Pod) (corev1.PodPhase, time.Duration) { return corev1.PodSucceeded, time.Minute }
	}
	simulation.Run(t, prepare, func(_ context.Context, c *simulation.Cluster) {
		p := user("p", byTemplate("b", "t"), byTemplate("a", "t"))
		create(t, c, p)
		if got := claims(c); len(got) != 0 {
			t.Fatalf("without a template there are %d claims", len(got))
		}
		create(t, c, template("t"))
		got := claims(c)
		if len(got) != 2 {
			t.Fatalf("%d claims, want 2", len(got))
		}
		for _, claim := range got {
			if claim.Labels["l"] != "1" || claim.Annotations["a"] != "2" || len(claim.Spec.Devices.Requests) != 1 || ownerPod(claim) == nil ||
				!strings.HasPrefix(claim.Name, "p-"+claim.Annotations[resourcev1.PodResourceClaimAnnotation]+"-") {
				t.Errorf("claim %+v", claim)
			}
		}
		now := client.Get[corev1.Pod](c.View(), "ns", "p")
		if s := now.Status.ResourceClaimStatuses; len(s) != 2 || s[0].Name != "a" || s[1].Name != "b" {
			t.Errorf("the pod says %v", s)
		}
		allocate(t, c, got[0], p)
		time.Sleep(2 * time.Minute)
		if got := claims(c); len(got) != 0 {
			t.Errorf("the pod has ended, there are %d claims", len(got))
		}
	}, Pods(), Claims())
}

func TestALostClaimIsMadeAnew(t *testing.T) {
	simulation.Run(t, nil, func(ctx context.Context, c *simulation.Cluster) {
		create(t, c, template("t"), user("p", byTemplate("a", "t")))
		first := claims(c)[0]
		if err := c.Delete(ctx, c.Registry().Of(first), client.KeyOf(first), metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		got := claims(c)
		if len(got) != 1 || got[0].UID == first.UID {
			t.Fatalf("claims: %v", got)
		}
		if name, _ := nameOf(client.Get[corev1.Pod](c.View(), "ns", "p"), "a"); name != got[0].Name {
			t.Errorf("the pod says %q, the claim is %q", name, got[0].Name)
		}
	}, Pods(), Claims())
}

func TestASharedClaimIsFreeWhenItsLastUserIsGone(t *testing.T) {
	simulation.Run(t, nil, func(ctx context.Context, c *simulation.Cluster) {
		shared := &resourcev1.ResourceClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "shared"}}
		shared.Spec = template("t").Spec.Spec
		by := corev1.PodResourceClaim{Name: "x", ResourceClaimName: ptr.To("shared")}
		a, b := user("a", by), user("b", by)
		create(t, c, shared, a, b)
		allocate(t, c, claims(c)[0], a)
		now := claims(c)[0]
		if len(now.Status.ReservedFor) != 2 {
			t.Fatalf("a pod with a node is not noted: %v", now.Status.ReservedFor)
		}
		for i, p := range []*corev1.Pod{a, b} {
			if err := c.Delete(ctx, c.Registry().Of(p), client.KeyOf(p), metav1.DeleteOptions{}); err != nil {
				t.Fatal(err)
			}
			now = claims(c)[0]
			if len(now.Status.ReservedFor) != 1-i || (now.Status.Allocation != nil) != (i == 0) {
				t.Errorf("after %d pods went: %+v", i+1, now.Status)
			}
		}
		if len(now.Finalizers) != 0 {
			t.Errorf("the free claim is held by %v", now.Finalizers)
		}
	}, Pods(), Claims())
}

func TestASchedulersFinalizerStaysWhileItAllocates(t *testing.T) {
	simulation.Run(t, nil, func(_ context.Context, c *simulation.Cluster) {
		claim := &resourcev1.ResourceClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "x", Finalizers: []string{resourcev1.Finalizer}}, Spec: template("t").Spec.Spec}
		create(t, c, claim)
		if got := claims(c)[0].Finalizers; len(got) != 1 {
			t.Errorf("finalizers: %v", got)
		}
	}, Claims())
}

func TestNamesThatAreTooLongKeepTheirShares(t *testing.T) {
	got := base(strings.Repeat("p", 100), strings.Repeat("c", 50))
	if len(got) > longestBase || !strings.Contains(got, "p-c") {
		t.Errorf("%q", got)
	}
	if got := base("p", "c"); got != "p-c-" {
		t.Errorf("%q", got)
	}
}
