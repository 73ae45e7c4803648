// Package loadbalancer gives Services of type LoadBalancer an address without a
// cloud: those of the Ready nodes, where the Service proxy listens for them. A
// port of the nodes can serve one Service only; the oldest has it, and the
// others wait and say why. Services that name a loadBalancerClass belong to
// somebody else.
package loadbalancer

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/equality"

	"proa/client"
	"proa/reconcile"
)

// Controller is the controller of LoadBalancer Services.
func Controller() reconcile.Controller {
	return reconcile.Controller{
		Name: "service-lb-controller",
		Watches: []reconcile.Watch{
			{Resource: client.Row[corev1.Service](), Keys: rivals},
			{Resource: client.Row[corev1.Node](), Keys: onNodeChange},
			{Resource: client.Row[discoveryv1.EndpointSlice](), Keys: localService},
		},
		Decide: Decide,
	}
}

// ours tells whether this controller serves the Service.
func ours(svc *corev1.Service) bool {
	return svc.Spec.Type == corev1.ServiceTypeLoadBalancer && svc.Spec.LoadBalancerClass == nil && svc.DeletionTimestamp == nil
}

// all are the Services of this controller, the oldest first.
func all(v client.View) []*corev1.Service {
	out := slices.Collect(client.List[corev1.Service](v, ""))
	out = slices.DeleteFunc(out, func(s *corev1.Service) bool { return !ours(s) })
	slices.SortFunc(out, func(a, b *corev1.Service) int {
		return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	return out
}

func keysOf(list []*corev1.Service) []client.Key {
	var keys []client.Key
	for _, s := range list {
		keys = append(keys, client.KeyOf(s))
	}
	return keys
}

// rivals: a Service's ports may be what another one waits for.
func rivals(v client.View, e client.Event) []client.Key {
	was, _ := e.Old.(*corev1.Service)
	is, _ := e.New.(*corev1.Service)
	if was != nil && is != nil && equality.Semantic.DeepEqual(was.Spec, is.Spec) && (was.DeletionTimestamp == nil) == (is.DeletionTimestamp == nil) {
		return nil
	}
	keys := []client.Key{client.KeyOf(e.Object())}
	if was != nil && ours(was) {
		keys = append(keys, keysOf(all(v))...)
	}
	return keys
}

func onNodeChange(v client.View, e client.Event) []client.Key {
	was, _ := e.Old.(*corev1.Node)
	is, _ := e.New.(*corev1.Node)
	if slices.Equal(serves(was), serves(is)) {
		return nil
	}
	return keysOf(all(v))
}

// localService wakes the Service of a changed slice, if it cares where its
// endpoints are.
func localService(v client.View, e client.Event) []client.Key {
	svc := client.Get[corev1.Service](v, e.Object().GetNamespace(), e.Object().GetLabels()[discoveryv1.LabelServiceName])
	if svc == nil || !ours(svc) || !local(svc) {
		return nil
	}
	return []client.Key{client.KeyOf(svc)}
}

func local(svc *corev1.Service) bool {
	return svc.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal
}

// Decide is the controller's decision.
func Decide(v client.View, _ time.Time, key client.Key) reconcile.Plan {
	svc := client.Get[corev1.Service](v, key.Namespace, key.Name)
	if svc == nil || svc.DeletionTimestamp != nil || svc.Spec.LoadBalancerClass != nil {
		return reconcile.Plan{}
	}
	if svc.Spec.Type != corev1.ServiceTypeLoadBalancer {
		return assign(svc, nil)
	}
	if taken := conflict(v, svc); taken != "" {
		plan := assign(svc, nil)
		plan.Events = append(plan.Events, reconcile.Warning(svc, "PortInUse", taken))
		return plan
	}
	addresses := addressesFor(v, svc)
	plan := assign(svc, addresses)
	if len(addresses) == 0 {
		plan.Events = append(plan.Events, reconcile.Warning(svc, "NoReadyNode", "No node is ready to serve this Service"))
	}
	return plan
}

// conflict says which of the ports an older Service has, or "".
func conflict(v client.View, svc *corev1.Service) string {
	var out []string
	for _, other := range all(v) {
		if other.UID == svc.UID {
			break
		}
		for _, p := range svc.Spec.Ports {
			if slices.ContainsFunc(other.Spec.Ports, func(o corev1.ServicePort) bool { return o.Port == p.Port && o.Protocol == p.Protocol }) {
				out = append(out, fmt.Sprintf("port %d/%s is taken by Service %s/%s", p.Port, p.Protocol, other.Namespace, other.Name))
			}
		}
	}
	return strings.Join(out, "; ")
}

// serves are the addresses by which a node serves: external ones if it has any.
func serves(n *corev1.Node) []string {
	if n == nil || n.DeletionTimestamp != nil || !ready(n) {
		return nil
	}
	if _, excluded := n.Labels[corev1.LabelNodeExcludeBalancers]; excluded {
		return nil
	}
	for _, t := range []corev1.NodeAddressType{corev1.NodeExternalIP, corev1.NodeInternalIP} {
		var out []string
		for _, a := range n.Status.Addresses {
			if a.Type == t {
				out = append(out, a.Address)
			}
		}
		if len(out) > 0 {
			return out
		}
	}
	return nil
}

func ready(n *corev1.Node) bool {
	return slices.ContainsFunc(n.Status.Conditions, func(c corev1.NodeCondition) bool {
		return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
	})
}

// addressesFor are the nodes' addresses of the Service's families; where
// traffic is to stay local, of nodes with an endpoint only.
func addressesFor(v client.View, svc *corev1.Service) []string {
	var out []string
	for n := range client.List[corev1.Node](v, "") {
		if local(svc) && !hosts(v, svc, n.Name) {
			continue
		}
		for _, a := range serves(n) {
			if ip, err := netip.ParseAddr(a); err == nil && wants(svc, ip) {
				out = append(out, a)
			}
		}
	}
	return out
}

func wants(svc *corev1.Service, ip netip.Addr) bool {
	family := corev1.IPv4Protocol
	if ip.Is6() {
		family = corev1.IPv6Protocol
	}
	return len(svc.Spec.IPFamilies) == 0 || slices.Contains(svc.Spec.IPFamilies, family)
}

func hosts(v client.View, svc *corev1.Service, node string) bool {
	for s := range client.List[discoveryv1.EndpointSlice](v, svc.Namespace) {
		if s.Labels[discoveryv1.LabelServiceName] != svc.Name {
			continue
		}
		for _, ep := range s.Endpoints {
			if ep.NodeName != nil && *ep.NodeName == node && ep.Conditions.Ready != nil && *ep.Conditions.Ready {
				return true
			}
		}
	}
	return false
}

// assign makes the Service's addresses these.
func assign(svc *corev1.Service, addresses []string) reconcile.Plan {
	var want []corev1.LoadBalancerIngress
	vip := corev1.LoadBalancerIPModeVIP
	for _, a := range addresses {
		want = append(want, corev1.LoadBalancerIngress{IP: a, IPMode: &vip})
	}
	have := svc.Status.LoadBalancer.Ingress
	if equality.Semantic.DeepEqual(have, want) {
		return reconcile.Plan{}
	}
	var was []string
	for _, i := range have {
		was = append(was, i.IP)
	}
	next := svc.DeepCopy()
	next.Status.LoadBalancer.Ingress = want
	return reconcile.Plan{
		Writes: []reconcile.Write{{Op: reconcile.Update, Object: next, Subresource: "status"}},
		Events: []reconcile.Event{reconcile.Normal(svc, "UpdatedLoadBalancer", fmt.Sprintf("Updated LoadBalancer with new IPs: %v -> %v", was, addresses))},
	}
}
