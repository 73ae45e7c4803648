// Package endpoints says which pods stand behind a Service: as EndpointSlices,
// and as the older Endpoints.
package endpoints

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/intstr"

	"proa/client"
	"proa/controllers/pods"
)

// candidates are the pods of a Service that have an address and have not run to
// their end, those that are being deleted included, ordered by name.
func candidates(v client.View, svc *corev1.Service) []*corev1.Pod {
	var out []*corev1.Pod
	for p := range client.List[corev1.Pod](v, svc.Namespace) {
		if selected(svc, p) && !pods.Finished(p) && p.Status.PodIP != "" {
			out = append(out, p)
		}
	}
	return out
}

// selected compares by hand: it is asked for every pod of a namespace at every
// change of one.
func selected(svc *corev1.Service, p *corev1.Pod) bool {
	for k, v := range svc.Spec.Selector {
		if have, ok := p.Labels[k]; !ok || have != v {
			return false
		}
	}
	return svc.Spec.Selector != nil
}

// portsOf are the Service's ports as this pod serves them. A port that is named
// as its container names it is left out where the pod has none of that name.
func portsOf(svc *corev1.Service, p *corev1.Pod) []discoveryv1.EndpointPort {
	out := []discoveryv1.EndpointPort{}
	for i := range svc.Spec.Ports {
		sp := &svc.Spec.Ports[i]
		number, ok := targetPort(sp, p)
		if !ok {
			continue
		}
		out = append(out, discoveryv1.EndpointPort{Name: &sp.Name, Protocol: &sp.Protocol, Port: &number, AppProtocol: sp.AppProtocol})
	}
	return out
}

func targetPort(sp *corev1.ServicePort, p *corev1.Pod) (int32, bool) {
	if sp.TargetPort.Type == intstr.Int {
		if sp.TargetPort.IntVal == 0 {
			return sp.Port, true
		}
		return sp.TargetPort.IntVal, true
	}
	for c := range serving(p) {
		for _, cp := range c.Ports {
			if cp.Name == sp.TargetPort.StrVal && cmp.Or(cp.Protocol, corev1.ProtocolTCP) == cmp.Or(sp.Protocol, corev1.ProtocolTCP) {
				return cp.ContainerPort, true
			}
		}
	}
	return 0, false
}

// serving yields the containers that run while the pod serves: the regular ones
// and sidecars.
func serving(p *corev1.Pod) func(yield func(*corev1.Container) bool) {
	return func(yield func(*corev1.Container) bool) {
		for i := range p.Spec.Containers {
			if !yield(&p.Spec.Containers[i]) {
				return
			}
		}
		for i := range p.Spec.InitContainers {
			c := &p.Spec.InitContainers[i]
			if c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways && !yield(c) {
				return
			}
		}
	}
}

// portsKey is the same for the same ports in any order.
func portsKey(ports []discoveryv1.EndpointPort) string {
	keys := make([]string, len(ports))
	for i, p := range ports {
		keys[i] = fmt.Sprintf("%s/%s/%d/%s", deref(p.Name), deref(p.Protocol), deref(p.Port), deref(p.AppProtocol))
	}
	slices.Sort(keys)
	return strings.Join(keys, ",")
}

func deref[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}

// families are the address families that a Service wants, the first preferred.
func families(svc *corev1.Service) []corev1.IPFamily {
	if len(svc.Spec.IPFamilies) > 0 {
		return svc.Spec.IPFamilies
	}
	if ip, err := netip.ParseAddr(svc.Spec.ClusterIP); err == nil && ip.Is6() {
		return []corev1.IPFamily{corev1.IPv6Protocol}
	}
	return []corev1.IPFamily{corev1.IPv4Protocol}
}

// address is the pod's address of a family, or "".
func address(p *corev1.Pod, family corev1.IPFamily) string {
	ips := p.Status.PodIPs
	if len(ips) == 0 {
		ips = []corev1.PodIP{{IP: p.Status.PodIP}}
	}
	for _, ip := range ips {
		a, err := netip.ParseAddr(ip.IP)
		if err == nil && a.Is4() == (family == corev1.IPv4Protocol) {
			return ip.IP
		}
	}
	return ""
}

// hostname is the name under which DNS serves the pod below the Service.
func hostname(svc *corev1.Service, p *corev1.Pod) string {
	if p.Spec.Subdomain == svc.Name {
		return p.Spec.Hostname
	}
	return ""
}

// servicesOf wakes the Services of a changed pod, before and after the change,
// if it is a change that shows in endpoints.
func servicesOf(v client.View, e client.Event) []client.Key {
	was, _ := e.Old.(*corev1.Pod)
	is, _ := e.New.(*corev1.Pod)
	if was != nil && is != nil && sameToServices(was, is) {
		return nil
	}
	var keys []client.Key
	for svc := range client.List[corev1.Service](v, e.Object().GetNamespace()) {
		if was != nil && selected(svc, was) || is != nil && selected(svc, is) {
			keys = append(keys, client.KeyOf(svc))
		}
	}
	return keys
}

func sameToServices(a, b *corev1.Pod) bool {
	return a.UID == b.UID && pods.Ready(a) == pods.Ready(b) && pods.Finished(a) == pods.Finished(b) &&
		(a.DeletionTimestamp == nil) == (b.DeletionTimestamp == nil) &&
		a.Spec.NodeName == b.Spec.NodeName && a.Spec.Hostname == b.Spec.Hostname && a.Spec.Subdomain == b.Spec.Subdomain &&
		a.Status.PodIP == b.Status.PodIP &&
		equality.Semantic.DeepEqual(a.Status.PodIPs, b.Status.PodIPs) && equality.Semantic.DeepEqual(a.Labels, b.Labels)
}
