// Package servicecidr looks after the ranges that Services get their cluster IPs
// from, and after the IPAddress objects that say which of them are taken
// (KEP-1880). Addresses are given out and taken back by admission, in the
// transaction of the Service itself; what is here keeps a range as long as it is
// needed, and repairs what somebody has changed by hand.
package servicecidr

import (
	"iter"
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"proa/client"
	"proa/reconcile"
)

const (
	// finalizer holds a range that is being deleted, as published.
	finalizer = "networking.k8s.io/service-cidr-finalizer"
	// allocator is the value of the label managed-by of addresses that were
	// given to Services.
	allocator = "ipallocator.k8s.io"
	// deletionGrace is how long a range that nobody needs is kept after its
	// deletion: a request that was decided before may still take an address.
	deletionGrace = 10 * time.Second
)

// Controller keeps ranges ready, and those with addresses in use from going.
func Controller() reconcile.Controller {
	return reconcile.Controller{
		Name: "service-cidr-controller",
		Watches: []reconcile.Watch{
			{Resource: client.Row[networkingv1.ServiceCIDR](), Keys: onRange},
			{Resource: client.Row[networkingv1.IPAddress](), Keys: onFreed},
			{Resource: client.Row[corev1.Service](), Keys: onFreed},
		},
		Decide: Decide,
	}
}

// onRange wakes a range, and those that wait to go: another one may take over
// their addresses.
func onRange(v client.View, e client.Event) []client.Key {
	return append(leaving(v), client.KeyOf(e.Object()))
}

// onFreed wakes them when an address, or a Service with one, has gone.
func onFreed(v client.View, e client.Event) []client.Key {
	if e.New != nil {
		return nil
	}
	return leaving(v)
}

func leaving(v client.View) (keys []client.Key) {
	for r := range client.List[networkingv1.ServiceCIDR](v, "") {
		if r.DeletionTimestamp != nil {
			keys = append(keys, client.KeyOf(r))
		}
	}
	return keys
}

// Decide is the controller's decision.
func Decide(v client.View, now time.Time, key client.Key) reconcile.Plan {
	r := client.Get[networkingv1.ServiceCIDR](v, "", key.Name)
	switch {
	case r == nil:
		return reconcile.Plan{}
	case r.DeletionTimestamp != nil:
		return release(v, r, now)
	case !slices.Contains(r.Finalizers, finalizer):
		next := r.DeepCopy()
		next.Finalizers = append(next.Finalizers, finalizer)
		return reconcile.Plan{Writes: []reconcile.Write{{Op: reconcile.Update, Object: next}}}
	}
	plan := set(r, now, metav1.ConditionTrue, "", "Kubernetes Service CIDR is ready")
	for i := range plan.Writes {
		plan.Writes[i].OnError = func(error) reconcile.Plan {
			return reconcile.Plan{Events: []reconcile.Event{
				reconcile.Warning(r, "KubernetesServiceCIDRError", "The ServiceCIDR Status can not be set to Ready=True")}}
		}
	}
	return plan
}

// release lets a range go, or says why it stays.
func release(v client.View, r *networkingv1.ServiceCIDR, now time.Time) reconcile.Plan {
	if !slices.Contains(r.Finalizers, finalizer) {
		return reconcile.Plan{}
	}
	if needed(v, r) {
		return set(r, now, metav1.ConditionFalse, networkingv1.ServiceCIDRReasonTerminating,
			"There are still IPAddresses referencing the ServiceCIDR, please remove them or create a new ServiceCIDR")
	}
	if left := r.DeletionTimestamp.Add(deletionGrace).Sub(now); left > 0 {
		return reconcile.Plan{After: left}
	}
	next := r.DeepCopy()
	next.Finalizers = slices.DeleteFunc(next.Finalizers, func(f string) bool { return f == finalizer })
	return reconcile.Plan{Writes: []reconcile.Write{{Op: reconcile.Update, Object: next}}}
}

func set(r *networkingv1.ServiceCIDR, now time.Time, status metav1.ConditionStatus, reason, message string) reconcile.Plan {
	next := r.DeepCopy()
	changed := meta.SetStatusCondition(&next.Status.Conditions, metav1.Condition{
		Type: networkingv1.ServiceCIDRConditionReady, Status: status, Reason: reason, Message: message, LastTransitionTime: metav1.NewTime(now)})
	if !changed {
		return reconcile.Plan{}
	}
	return reconcile.Plan{Writes: []reconcile.Write{{Op: reconcile.Update, Object: next, Subresource: "status"}}}
}

// needed tells whether an address in use is in this range and in no other.
func needed(v client.View, r *networkingv1.ServiceCIDR) bool {
	var others []netip.Prefix
	for o := range client.List[networkingv1.ServiceCIDR](v, "") {
		if o.UID != r.UID {
			others = append(others, Prefixes(o)...)
		}
	}
	mine := Prefixes(r)
	for addr := range inUse(v) {
		if within(mine, addr) && !within(others, addr) {
			return true
		}
	}
	return false
}

// inUse are the addresses given to Services: by their records, and by the
// Services themselves, whose records may be about to be repaired.
func inUse(v client.View) iter.Seq[netip.Addr] {
	return func(yield func(netip.Addr) bool) {
		for ip := range client.List[networkingv1.IPAddress](v, "") {
			addr, err := netip.ParseAddr(ip.Name)
			if err == nil && ip.Labels[networkingv1.LabelManagedBy] == allocator && !yield(addr) {
				return
			}
		}
		for svc := range client.List[corev1.Service](v, "") {
			for _, addr := range addresses(svc) {
				if !yield(addr) {
					return
				}
			}
		}
	}
}

// Prefixes are a range's prefixes.
func Prefixes(r *networkingv1.ServiceCIDR) (out []netip.Prefix) {
	for _, text := range r.Spec.CIDRs {
		if p, err := netip.ParsePrefix(text); err == nil {
			out = append(out, p.Masked())
		}
	}
	return out
}

func within(list []netip.Prefix, addr netip.Addr) bool {
	return slices.ContainsFunc(list, func(p netip.Prefix) bool { return p.Contains(addr) })
}
