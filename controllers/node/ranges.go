package node

import (
	"net/netip"
	"time"

	corev1 "k8s.io/api/core/v1"

	"proa/client"
	"proa/reconcile"
)

// Ranges gives every node its part of the cluster's pod range: a /24, or a /64
// of IPv6, the first that no other node has.
func Ranges(cluster netip.Prefix) reconcile.Controller {
	return reconcile.Controller{
		Name:    "node-ipam-controller",
		Source:  "cidrAllocator",
		Watches: []reconcile.Watch{{Resource: client.Row[corev1.Node]()}},
		Decide: func(v client.View, _ time.Time, key client.Key) reconcile.Plan {
			return decideRange(v, cluster, key.Name)
		},
	}
}

func decideRange(v client.View, cluster netip.Prefix, name string) reconcile.Plan {
	n := client.Get[corev1.Node](v, "", name)
	if n == nil || n.DeletionTimestamp != nil || n.Spec.PodCIDR != "" || !cluster.IsValid() {
		return reconcile.Plan{}
	}
	taken := map[netip.Prefix]bool{}
	for other := range client.List[corev1.Node](v, "") {
		if p, err := netip.ParsePrefix(other.Spec.PodCIDR); err == nil {
			taken[p.Masked()] = true
		}
	}
	free, ok := firstFree(cluster, taken)
	if !ok {
		return reconcile.Plan{Events: []reconcile.Event{reconcile.Normal(n, "CIDRNotAvailable", "Node "+name+" status is now: CIDRNotAvailable")}}
	}
	next := n.DeepCopy()
	next.Spec.PodCIDR, next.Spec.PodCIDRs = free.String(), []string{free.String()}
	return reconcile.Plan{Writes: []reconcile.Write{{Op: reconcile.Update, Object: next}}}
}

func firstFree(cluster netip.Prefix, taken map[netip.Prefix]bool) (netip.Prefix, bool) {
	bits := 24
	if cluster.Addr().Is6() {
		bits = 64
	}
	bits = max(bits, cluster.Bits())
	for p := netip.PrefixFrom(cluster.Masked().Addr(), bits); cluster.Contains(p.Addr()); p = after(p) {
		if !taken[p] {
			return p, true
		}
		if after(p).Addr().Less(p.Addr()) {
			break // went round
		}
	}
	return netip.Prefix{}, false
}

// after is the prefix of the same size that follows.
func after(p netip.Prefix) netip.Prefix {
	b := p.Addr().AsSlice()
	carry := 1 << ((8 - p.Bits()%8) % 8)
	for i := (p.Bits() - 1) / 8; i >= 0 && carry > 0; i-- {
		carry += int(b[i])
		b[i] = byte(carry)
		carry >>= 8
	}
	a, _ := netip.AddrFromSlice(b)
	return netip.PrefixFrom(a, p.Bits())
}
