package endpoints

import (
	"cmp"
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"proa/client"
	"proa/controllers/own"
	"proa/reconcile"
)

const (
	mirrorer = "endpointslicemirroring-controller.k8s.io"
	// perSubset is how many addresses of a subset are mirrored at most.
	perSubset = 1000
)

// Mirror copies Endpoints that people write by hand for a Service without a
// selector into EndpointSlices, which is what proxies and DNS read.
func Mirror() reconcile.Controller {
	return reconcile.Controller{
		Name:    "endpoint-slice-mirroring-controller",
		Workers: 2,
		Watches: []reconcile.Watch{
			{Resource: client.Row[corev1.Endpoints]()},
			{Resource: client.Row[corev1.Service]()},
			{Resource: client.Row[discoveryv1.EndpointSlice](), Keys: mirrored},
		},
		Decide: DecideMirror,
	}
}

func mirrored(_ client.View, e client.Event) []client.Key {
	l := e.Object().GetLabels()
	if l[discoveryv1.LabelManagedBy] != mirrorer {
		return nil
	}
	return []client.Key{{Namespace: e.Object().GetNamespace(), Name: l[discoveryv1.LabelServiceName]}}
}

// DecideMirror is the mirroring controller's decision.
func DecideMirror(v client.View, _ time.Time, key client.Key) reconcile.Plan {
	ep := client.Get[corev1.Endpoints](v, key.Namespace, key.Name)
	if ep == nil || ep.DeletionTimestamp != nil {
		return reconcile.Plan{} // slices go with their owner
	}
	var existing []*discoveryv1.EndpointSlice
	for _, s := range own.Of[*discoveryv1.EndpointSlice](v, client.Row[discoveryv1.EndpointSlice](), ep) {
		if s.DeletionTimestamp == nil && s.Labels[discoveryv1.LabelManagedBy] == mirrorer {
			existing = append(existing, s)
		}
	}
	var plan reconcile.Plan
	for _, want := range mirrorsOf(v, ep) {
		i := slices.IndexFunc(existing, func(s *discoveryv1.EndpointSlice) bool {
			return s.AddressType == want.AddressType && portsKey(s.Ports) == portsKey(want.Ports)
		})
		if i < 0 {
			plan.Writes = append(plan.Writes, reconcile.Write{Op: reconcile.Create, Object: want})
			continue
		}
		have := existing[i]
		existing = slices.Delete(existing, i, i+1)
		if equality.Semantic.DeepEqual(have.Endpoints, want.Endpoints) && equality.Semantic.DeepEqual(have.Labels, want.Labels) &&
			equality.Semantic.DeepEqual(have.Annotations, want.Annotations) {
			continue
		}
		next := have.DeepCopy()
		next.Endpoints, next.Labels, next.Annotations = want.Endpoints, want.Labels, want.Annotations
		plan.Writes = append(plan.Writes, reconcile.Write{Op: reconcile.Update, Object: next})
	}
	for _, s := range existing {
		plan.Writes = append(plan.Writes, reconcile.Write{Op: reconcile.Delete, Object: s})
	}
	return plan
}

// mirrorsOf are the slices that the Endpoints ask for: one for each subset and
// address family.
func mirrorsOf(v client.View, ep *corev1.Endpoints) []*discoveryv1.EndpointSlice {
	svc := client.Get[corev1.Service](v, ep.Namespace, ep.Name)
	_, elected := ep.Annotations["control-plane.alpha.kubernetes.io/leader"]
	if svc == nil || svc.Spec.Selector != nil || elected || ep.Labels[discoveryv1.LabelSkipMirror] == "true" {
		return nil
	}
	l := copied(ep.Labels, append([]string{legacyLabel}, reserved...))
	if l == nil {
		l = map[string]string{}
	}
	l[discoveryv1.LabelServiceName], l[discoveryv1.LabelManagedBy] = ep.Name, mirrorer
	var out []*discoveryv1.EndpointSlice
	for _, subset := range ep.Subsets {
		for _, family := range []corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv6Protocol} {
			list := slices.Concat(addressesOf(subset.Addresses, family, true), addressesOf(subset.NotReadyAddresses, family, false))
			if len(list) == 0 {
				continue
			}
			out = append(out, &discoveryv1.EndpointSlice{
				ObjectMeta: metav1.ObjectMeta{
					Namespace: ep.Namespace, GenerateName: ep.Name + "-", Labels: l, Annotations: copied(ep.Annotations, unsliced),
					OwnerReferences: []metav1.OwnerReference{*own.Ref(client.Row[corev1.Endpoints](), ep)},
				},
				AddressType: discoveryv1.AddressType(family),
				Ports:       slicePorts(subset.Ports),
				Endpoints:   list[:min(len(list), perSubset)],
			})
		}
	}
	return out
}

func addressesOf(list []corev1.EndpointAddress, family corev1.IPFamily, ready bool) []discoveryv1.Endpoint {
	var out []discoveryv1.Endpoint
	for _, a := range list {
		ip, err := netip.ParseAddr(a.IP)
		if err != nil || ip.Is4() != (family == corev1.IPv4Protocol) {
			continue
		}
		e := discoveryv1.Endpoint{Addresses: []string{a.IP}, Conditions: discoveryv1.EndpointConditions{Ready: &ready}, TargetRef: a.TargetRef, NodeName: a.NodeName}
		if a.Hostname != "" {
			e.Hostname = &a.Hostname
		}
		out = append(out, e)
	}
	return out
}

func slicePorts(list []corev1.EndpointPort) []discoveryv1.EndpointPort {
	var out []discoveryv1.EndpointPort
	for _, p := range list {
		protocol := cmp.Or(p.Protocol, corev1.ProtocolTCP)
		out = append(out, discoveryv1.EndpointPort{Name: &p.Name, Port: &p.Port, Protocol: &protocol, AppProtocol: p.AppProtocol})
	}
	return out
}
