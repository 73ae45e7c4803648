package controllers

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"proa/client"
	"proa/test/plane"
)

// A Service may have an address of any range that is ready, and of no other.
func TestAddressesComeFromRangesThatAreReady(t *testing.T) {
	c := plane.Start(t, kubelet)
	isReady := func(name string, want metav1.ConditionStatus) func(client.View) bool {
		return func(v client.View) bool {
			r := client.Get[networkingv1.ServiceCIDR](v, "", name)
			return r != nil && len(r.Finalizers) == 1 && meta.IsStatusConditionPresentAndEqual(r.Status.Conditions, networkingv1.ServiceCIDRConditionReady, want)
		}
	}
	eventually(t, c, "the default range is ready", isReady("kubernetes", metav1.ConditionTrue))
	svc := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web"}, Spec: corev1.ServiceSpec{
		ClusterIP: "10.99.0.5", Ports: []corev1.ServicePort{{Port: 80}}}}
	if _, err := c.Create(t.Context(), svc); err == nil || !strings.Contains(err.Error(), "does not match the current range") {
		t.Errorf("an address of no range: %v", err)
	}
	more := &networkingv1.ServiceCIDR{ObjectMeta: metav1.ObjectMeta{Name: "more"}, Spec: networkingv1.ServiceCIDRSpec{CIDRs: []string{"10.99.0.0/28"}}}
	must(t, c, more)
	eventually(t, c, "the new range is ready", isReady("more", metav1.ConditionTrue))
	must(t, c, svc)
	if err := c.Delete(t.Context(), client.Row[networkingv1.ServiceCIDR](), client.Key{Name: "more"}, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, c, "the range says that it is needed", isReady("more", metav1.ConditionFalse))
	late := svc.DeepCopy()
	late.Name, late.Spec.ClusterIP = "late", "10.99.0.6"
	if _, err := c.Create(t.Context(), late); err == nil {
		t.Error("a range that is going gave an address")
	}
	ip := client.Get[networkingv1.IPAddress](c.View(), "", "10.99.0.5")
	if ip == nil {
		t.Fatal("no record of the address")
	}
	if err := c.Delete(t.Context(), client.Row[networkingv1.IPAddress](), client.KeyOf(ip), metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, c, "the record is repaired", func(v client.View) bool {
		again := client.Get[networkingv1.IPAddress](v, "", "10.99.0.5")
		return again != nil && again.UID != ip.UID && again.Spec.ParentRef.Name == "web"
	})
}
