package servicecidr

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"proa/client"
	"proa/reconcile"
)

// leakGrace is how old an address that no Service has must be before it is taken
// back.
const leakGrace = 60 * time.Second

// Repair keeps one IPAddress for every cluster IP, and none that no Service has.
// Its keys are Services, and IPAddresses without a namespace.
func Repair() reconcile.Controller {
	return reconcile.Controller{
		Name: "ipallocator-repair-controller",
		Watches: []reconcile.Watch{
			{Resource: client.Row[corev1.Service](), Keys: onService},
			{Resource: client.Row[networkingv1.IPAddress](), Keys: ofAddress},
			{Resource: client.Row[networkingv1.ServiceCIDR](), Keys: servicesOfRange},
		},
		Decide: DecideRepair,
	}
}

// onService wakes a Service with its addresses, those that it had too.
func onService(_ client.View, e client.Event) (keys []client.Key) {
	was, _ := e.Old.(*corev1.Service)
	is, _ := e.New.(*corev1.Service)
	if was != nil && is != nil && slices.Equal(was.Spec.ClusterIPs, is.Spec.ClusterIPs) {
		return nil
	}
	if is != nil {
		keys = append(keys, client.KeyOf(is))
	}
	if was != nil {
		for _, ip := range was.Spec.ClusterIPs {
			keys = append(keys, client.Key{Name: ip})
		}
	}
	return keys
}

// ofAddress wakes an address and the Services that it names or named.
func ofAddress(_ client.View, e client.Event) []client.Key {
	keys := []client.Key{client.KeyOf(e.Object())}
	for _, obj := range []client.Object{e.Old, e.New} {
		if ip, _ := obj.(*networkingv1.IPAddress); ip != nil && ofService(ip) {
			keys = append(keys, client.Key{Namespace: ip.Spec.ParentRef.Namespace, Name: ip.Spec.ParentRef.Name})
		}
	}
	return keys
}

// servicesOfRange wakes the Services with an address in a range that came or went.
func servicesOfRange(v client.View, e client.Event) (keys []client.Key) {
	if e.Old != nil && e.New != nil {
		return nil
	}
	prefixes := Prefixes(e.Object().(*networkingv1.ServiceCIDR))
	for svc := range client.List[corev1.Service](v, "") {
		for _, ip := range addresses(svc) {
			if within(prefixes, ip) {
				keys = append(keys, client.KeyOf(svc))
			}
		}
	}
	return keys
}

func ofService(ip *networkingv1.IPAddress) bool {
	ref := ip.Spec.ParentRef
	return ref != nil && ref.Group == "" && ref.Resource == "services"
}

func addresses(svc *corev1.Service) (out []netip.Addr) {
	for _, text := range svc.Spec.ClusterIPs {
		if ip, err := netip.ParseAddr(text); err == nil {
			out = append(out, ip)
		}
	}
	return out
}

// DecideRepair is the decision about one Service, or one address.
func DecideRepair(v client.View, now time.Time, key client.Key) reconcile.Plan {
	if key.Namespace == "" {
		return repairAddress(v, now, key.Name)
	}
	svc := client.Get[corev1.Service](v, key.Namespace, key.Name)
	if svc == nil || svc.DeletionTimestamp != nil {
		return reconcile.Plan{}
	}
	var ranges []netip.Prefix
	for r := range client.List[networkingv1.ServiceCIDR](v, "") {
		ranges = append(ranges, Prefixes(r)...)
	}
	var plan reconcile.Plan
	for _, ip := range addresses(svc) {
		if len(ranges) > 0 && !within(ranges, ip) {
			plan.Events = append(plan.Events, reconcile.Warning(svc, "ClusterIPOutOfRange",
				fmt.Sprintf("Cluster IP [%v]: %s is not within any configured Service CIDR; please recreate service", family(ip), ip)))
			continue
		}
		plan = merge(plan, repairService(v, svc, ip))
	}
	return plan
}

func merge(a, b reconcile.Plan) reconcile.Plan {
	return reconcile.Plan{Writes: append(a.Writes, b.Writes...), Events: append(a.Events, b.Events...)}
}

func family(ip netip.Addr) corev1.IPFamily {
	if ip.Is4() {
		return corev1.IPv4Protocol
	}
	return corev1.IPv6Protocol
}

// repairService sees to the record of one of a Service's addresses.
func repairService(v client.View, svc *corev1.Service, ip netip.Addr) reconcile.Plan {
	have := client.Get[networkingv1.IPAddress](v, "", ip.String())
	what := fmt.Sprintf("Cluster IP [%v]: %s is not allocated; repairing", family(ip), ip)
	anew := reconcile.Write{Op: reconcile.Create, Object: record(svc, ip)}
	switch {
	case have == nil:
		return reconcile.Plan{Writes: []reconcile.Write{anew}, Events: []reconcile.Event{reconcile.Warning(svc, "ClusterIPNotAllocated", what)}}
	case names(have, svc):
		return reconcile.Plan{}
	}
	if ofService(have) {
		owner := client.Get[corev1.Service](v, have.Spec.ParentRef.Namespace, have.Spec.ParentRef.Name)
		if owner != nil && slices.Contains(owner.Spec.ClusterIPs, have.Name) {
			return reconcile.Plan{Events: []reconcile.Event{reconcile.Warning(svc, "ClusterIPAlreadyAllocated",
				fmt.Sprintf("Cluster IP [%v]:%s was assigned to multiple services; please recreate service", family(ip), ip))}}
		}
	}
	what = fmt.Sprintf("the ClusterIP [%v]: %s for Service %s/%s has a wrong reference; repairing", family(ip), ip, svc.Namespace, svc.Name)
	return reconcile.Plan{
		Writes: []reconcile.Write{{Op: reconcile.Delete, Object: have}, anew},
		Events: []reconcile.Event{reconcile.Warning(svc, "ClusterIPNotAllocated", what)},
	}
}

func names(ip *networkingv1.IPAddress, svc *corev1.Service) bool {
	return ofService(ip) && ip.Spec.ParentRef.Namespace == svc.Namespace && ip.Spec.ParentRef.Name == svc.Name &&
		ip.Labels[networkingv1.LabelManagedBy] == allocator
}

func record(svc *corev1.Service, ip netip.Addr) *networkingv1.IPAddress {
	return &networkingv1.IPAddress{
		ObjectMeta: metav1.ObjectMeta{Name: ip.String(), Labels: map[string]string{
			networkingv1.LabelIPAddressFamily: string(family(ip)), networkingv1.LabelManagedBy: allocator}},
		Spec: networkingv1.IPAddressSpec{ParentRef: &networkingv1.ParentReference{Resource: "services", Namespace: svc.Namespace, Name: svc.Name}},
	}
}

// repairAddress takes an address back that the allocator gave out and no Service
// has. Those that others manage are theirs.
func repairAddress(v client.View, now time.Time, name string) reconcile.Plan {
	ip := client.Get[networkingv1.IPAddress](v, "", name)
	if ip == nil || ip.DeletionTimestamp != nil || ip.Labels[networkingv1.LabelManagedBy] != allocator {
		return reconcile.Plan{}
	}
	free := func(reason, message string) reconcile.Plan {
		return reconcile.Plan{Writes: []reconcile.Write{{Op: reconcile.Delete, Object: ip}}, Events: []reconcile.Event{reconcile.Warning(ip, reason, message)}}
	}
	if !ofService(ip) {
		return free("IPAddressNotAllocated", fmt.Sprintf("IPAddress %s appears to have been modified, not referencing a Service %v: cleaning up", ip.Name, ip.Spec.ParentRef))
	}
	ref := ip.Spec.ParentRef
	svc := client.Get[corev1.Service](v, ref.Namespace, ref.Name)
	switch {
	case svc != nil && slices.Contains(svc.Spec.ClusterIPs, ip.Name):
		return reconcile.Plan{}
	case svc != nil:
		return free("IPAddressWrongReference", fmt.Sprintf("IPAddress: %s for Service %s/%s has a wrong reference; cleaning up", ip.Name, ref.Namespace, ref.Name))
	}
	if left := ip.CreationTimestamp.Add(leakGrace).Sub(now); left > 0 {
		return reconcile.Plan{After: left}
	}
	return free("IPAddressNotAllocated", fmt.Sprintf("IPAddress: %s for Service %s/%s appears to have leaked: cleaning up", ip.Name, ref.Namespace, ref.Name))
}
