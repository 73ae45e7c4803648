package proxy

import (
	"iter"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"proa/internal/nft"
)

// endpoint is one address and port behind a Service's port.
type endpoint struct {
	addr               netip.AddrPort
	ready, terminating bool // ready: takes part; terminating: serves its last
	local              bool
}

// endpointsOf collects what the slices say about one port, ordered by address.
// An endpoint may be in two slices for a moment; the better word counts.
func endpointsOf(slicesOf iter.Seq[*discoveryv1.EndpointSlice], port corev1.ServicePort, f nft.Family, node string) []endpoint {
	found := map[netip.AddrPort]endpoint{}
	for s := range slicesOf {
		number, ok := portOf(s, port)
		if !ok || s.AddressType != addressTypes[f] {
			continue
		}
		for i := range s.Endpoints {
			e, ok := read(&s.Endpoints[i], number, node)
			if old, known := found[e.addr]; ok && (!known || !old.ready) {
				found[e.addr] = e
			}
		}
	}
	out := make([]endpoint, 0, len(found))
	for _, e := range found {
		out = append(out, e)
	}
	slices.SortFunc(out, func(a, b endpoint) int { return a.addr.Compare(b.addr) })
	return out
}

var addressTypes = map[nft.Family]discoveryv1.AddressType{nft.V4: discoveryv1.AddressTypeIPv4, nft.V6: discoveryv1.AddressTypeIPv6}

// portOf is the number that the slice gives a Service's port: slices name ports
// as the Service does.
func portOf(s *discoveryv1.EndpointSlice, port corev1.ServicePort) (uint16, bool) {
	for _, p := range s.Ports {
		name, proto := "", corev1.ProtocolTCP
		if p.Name != nil {
			name = *p.Name
		}
		if p.Protocol != nil {
			proto = *p.Protocol
		}
		if name == port.Name && proto == port.Protocol && p.Port != nil {
			return uint16(*p.Port), true
		}
	}
	return 0, false
}

// read interprets an endpoint's conditions as the API documents: an unknown
// ready is true, an unknown serving is ready.
func read(e *discoveryv1.Endpoint, port uint16, node string) (endpoint, bool) {
	if len(e.Addresses) == 0 {
		return endpoint{}, false
	}
	addr, err := netip.ParseAddr(e.Addresses[0]) // all addresses of an endpoint are the same backend
	if err != nil {
		return endpoint{}, false
	}
	c := e.Conditions
	ready := c.Ready == nil || *c.Ready
	serving := ready
	if c.Serving != nil {
		serving = *c.Serving
	}
	out := endpoint{
		addr:  netip.AddrPortFrom(addr, port),
		ready: ready,
		local: e.NodeName != nil && *e.NodeName == node,
	}
	out.terminating = !ready && serving && c.Terminating != nil && *c.Terminating
	return out, ready || out.terminating
}

// choose takes the ready endpoints or, if there are none, those that terminate
// but still serve (KEP-1669).
func choose(all []endpoint, fits func(endpoint) bool) []endpoint {
	var ready, last []endpoint
	for _, e := range all {
		switch {
		case !fits(e):
		case e.ready:
			ready = append(ready, e)
		default:
			last = append(last, e)
		}
	}
	if len(ready) > 0 {
		return ready
	}
	return last
}

func anywhere(endpoint) bool { return true }

func onThisNode(e endpoint) bool { return e.local }
