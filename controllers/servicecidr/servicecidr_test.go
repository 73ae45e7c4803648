package servicecidr

import (
	"context"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"proa/client"
	"proa/controllers/simulation"
)

func cidr(name string, prefixes ...string) *networkingv1.ServiceCIDR {
	return &networkingv1.ServiceCIDR{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: networkingv1.ServiceCIDRSpec{CIDRs: prefixes}}
}

func service(name string, ips ...string) *corev1.Service {
	return &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name}, Spec: corev1.ServiceSpec{
		ClusterIP: ips[0], ClusterIPs: ips, Ports: []corev1.ServicePort{{Port: 80}}}}
}

func create(t *testing.T, c client.Client, objs ...client.Object) {
	t.Helper()
	for _, obj := range objs {
		if _, err := c.Create(t.Context(), obj); err != nil {
			t.Fatal(err)
		}
	}
}

func remove(t *testing.T, c client.Client, obj client.Object) {
	t.Helper()
	if err := c.Delete(t.Context(), c.Registry().Of(obj), client.KeyOf(obj), metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
}

func ready(c client.Client, name string) (status metav1.ConditionStatus, reason string) {
	r := client.Get[networkingv1.ServiceCIDR](c.View(), "", name)
	if r == nil {
		return "gone", ""
	}
	if cond := meta.FindStatusCondition(r.Status.Conditions, networkingv1.ServiceCIDRConditionReady); cond != nil {
		return cond.Status, cond.Reason
	}
	return "", ""
}

func TestARangeGoesWhenNoAddressNeedsIt(t *testing.T) {
	simulation.Run(t, nil, func(_ context.Context, c *simulation.Cluster) {
		more := cidr("more", "10.99.0.0/28")
		create(t, c, cidr("kubernetes", "10.43.0.0/16"), more, service("a", "10.99.0.3"))
		time.Sleep(time.Second)
		if status, _ := ready(c, "more"); status != metav1.ConditionTrue {
			t.Fatalf("Ready is %q", status)
		}
		remove(t, c, more)
		time.Sleep(time.Minute)
		if status, reason := ready(c, "more"); status != metav1.ConditionFalse || reason != networkingv1.ServiceCIDRReasonTerminating {
			t.Fatalf("with an address in use Ready is %q, %q", status, reason)
		}
		remove(t, c, client.Get[networkingv1.IPAddress](c.View(), "", "10.99.0.3"))
		time.Sleep(time.Second)
		if status, _ := ready(c, "more"); status == "gone" {
			t.Fatal("it went although the Service's address is repaired")
		}
		remove(t, c, service("a", "10.99.0.3"))
		time.Sleep(2 * time.Minute) // the address leaks in this simulation and is taken back
		if status, _ := ready(c, "more"); status != "gone" {
			t.Errorf("nobody needs it, Ready is %q", status)
		}
	}, Controller(), Repair())
}

func TestARangeWhoseAddressesAnotherHasGoesAfterItsGrace(t *testing.T) {
	simulation.Run(t, nil, func(_ context.Context, c *simulation.Cluster) {
		small := cidr("small", "10.99.0.0/28")
		create(t, c, small, cidr("large", "10.99.0.0/24"), service("a", "10.99.0.3"))
		time.Sleep(time.Second)
		remove(t, c, small)
		time.Sleep(deletionGrace - 2*time.Second)
		if status, _ := ready(c, "small"); status != metav1.ConditionTrue {
			t.Errorf("within its grace Ready is %q", status)
		}
		time.Sleep(4 * time.Second)
		if status, _ := ready(c, "small"); status != "gone" {
			t.Errorf("after its grace Ready is %q", status)
		}
	}, Controller(), Repair())
}

func TestAddressesAreRepaired(t *testing.T) {
	simulation.Run(t, nil, func(ctx context.Context, c *simulation.Cluster) {
		create(t, c, cidr("kubernetes", "10.43.0.0/16"), service("a", "10.43.0.3"))
		get := func(name string) *networkingv1.IPAddress {
			time.Sleep(time.Second)
			return client.Get[networkingv1.IPAddress](c.View(), "", name)
		}
		if ip := get("10.43.0.3"); ip == nil || ip.Spec.ParentRef.Name != "a" {
			t.Fatalf("the missing record is %v", ip)
		}
		create(t, c, record(service("b", "10.43.0.4"), addresses(service("b", "10.43.0.4"))[0]), service("c", "10.43.0.4"))
		if ip := get("10.43.0.4"); ip == nil || ip.Spec.ParentRef.Name != "c" {
			t.Errorf("the record of another Service became %v", ip)
		}
		leaked := record(service("gone", "10.43.0.9"), addresses(service("gone", "10.43.0.9"))[0])
		create(t, c, leaked)
		if get("10.43.0.9") == nil {
			t.Error("an address was taken back at once: its Service may be on its way")
		}
		time.Sleep(leakGrace)
		if get("10.43.0.9") != nil {
			t.Error("a leaked address was not taken back")
		}
		foreign := record(service("gone", "10.43.0.10"), addresses(service("gone", "10.43.0.10"))[0])
		foreign.Labels = nil
		create(t, c, foreign)
		time.Sleep(2 * leakGrace)
		if get("10.43.0.10") == nil {
			t.Error("an address that somebody else manages was taken back")
		}
	}, Repair())
}

func TestAnAddressOutsideAllRangesIsReported(t *testing.T) {
	simulation.Run(t, nil, func(_ context.Context, c *simulation.Cluster) {
		create(t, c, cidr("kubernetes", "10.43.0.0/16"), service("a", "10.77.0.3"))
		time.Sleep(10 * time.Second)
		events := slices.Collect(client.List[corev1.Event](c.View(), "ns"))
		if len(events) != 1 || events[0].Reason != "ClusterIPOutOfRange" {
			t.Errorf("events: %v", events)
		}
	}, Repair())
}
