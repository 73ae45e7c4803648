package dns

import (
	"context"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/miekg/dns"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"proa/client"
)

// reverse finds what has an address: Services by their cluster IPs, slices by
// endpoints that have a hostname. It holds keys only; what they name is read
// from the View.
type reverse struct {
	mu     sync.RWMutex
	owners map[netip.Addr][]owner
}

// owner is a Service or, with isSlice, an EndpointSlice.
type owner struct {
	key     client.Key
	isSlice bool
}

// follow keeps the index current until ctx ends.
func (r *reverse) follow(ctx context.Context, stream client.Stream) error {
	for {
		events, _, err := stream.Next(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		for _, e := range events {
			r.replace(e.Old, e.New)
		}
	}
}

func (r *reverse) fill(v client.View) {
	for svc := range client.List[corev1.Service](v, "") {
		r.replace(nil, svc)
	}
	for s := range client.List[discoveryv1.EndpointSlice](v, "") {
		r.replace(nil, s)
	}
}

func (r *reverse) replace(was, is client.Object) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.owners == nil {
		r.owners = map[netip.Addr][]owner{}
	}
	o, addrs := addressesOf(was)
	for _, a := range addrs {
		r.owners[a] = slices.DeleteFunc(r.owners[a], func(x owner) bool { return x == o })
		if len(r.owners[a]) == 0 {
			delete(r.owners, a)
		}
	}
	o, addrs = addressesOf(is)
	for _, a := range addrs {
		if !slices.Contains(r.owners[a], o) {
			r.owners[a] = append(r.owners[a], o)
		}
	}
}

func addressesOf(obj client.Object) (owner, []netip.Addr) {
	switch o := obj.(type) {
	case *corev1.Service:
		return owner{key: client.KeyOf(o)}, parse(o.Spec.ClusterIPs)
	case *discoveryv1.EndpointSlice:
		var out []netip.Addr
		for i := range o.Endpoints {
			if h := o.Endpoints[i].Hostname; h != nil && *h != "" {
				out = append(out, parse(o.Endpoints[i].Addresses)...)
			}
		}
		return owner{client.KeyOf(o), true}, out
	}
	return owner{}, nil
}

// resolve answers for a name in in-addr.arpa or ip6.arpa; a name of no address
// of ours does not exist here.
func (r *reverse) resolve(v client.View, z zone, name, asked string, qtype uint16) answer {
	addr, ok := reversed(name)
	if !ok {
		return nothing
	}
	r.mu.RLock()
	owners := slices.Clone(r.owners[addr])
	r.mu.RUnlock()
	var out answer
	for _, o := range owners {
		for _, target := range z.namesAt(v, o, addr) {
			out.exists = true
			if qtype == dns.TypePTR {
				hdr := dns.RR_Header{Name: asked, Rrtype: dns.TypePTR, Class: dns.ClassINET, Ttl: ttlService}
				out.records = append(out.records, &dns.PTR{Hdr: hdr, Ptr: target})
			}
		}
	}
	return out
}

func (z zone) namesAt(v client.View, o owner, addr netip.Addr) []string {
	if !o.isSlice {
		svc := client.Get[corev1.Service](v, o.key.Namespace, o.key.Name)
		if svc == nil || !slices.Contains(parse(svc.Spec.ClusterIPs), addr) {
			return nil
		}
		return []string{z.nameOf(svc)}
	}
	s := client.Get[discoveryv1.EndpointSlice](v, o.key.Namespace, o.key.Name)
	if s == nil {
		return nil
	}
	svc := client.Get[corev1.Service](v, s.Namespace, s.Labels[discoveryv1.LabelServiceName])
	if svc == nil || svc.Spec.ClusterIP != corev1.ClusterIPNone {
		return nil
	}
	var out []string
	for i := range s.Endpoints {
		if b, ok := read(&s.Endpoints[i]); ok && s.Endpoints[i].Hostname != nil && slices.Contains(b.addrs, addr) {
			out = append(out, b.host+"."+z.nameOf(svc))
		}
	}
	return out
}

// reversed reads the address from a reverse name.
func reversed(name string) (netip.Addr, bool) {
	if rest, ok := strings.CutSuffix(name, ".in-addr.arpa."); ok {
		parts := strings.Split(rest, ".")
		slices.Reverse(parts)
		a, err := netip.ParseAddr(strings.Join(parts, "."))
		return a, err == nil && a.Is4()
	}
	rest, ok := strings.CutSuffix(name, ".ip6.arpa.")
	nibbles := strings.Split(rest, ".")
	if !ok || len(nibbles) != 32 {
		return netip.Addr{}, false
	}
	slices.Reverse(nibbles)
	var b [16]byte
	for i := range b {
		n, err := strconv.ParseUint(nibbles[2*i]+nibbles[2*i+1], 16, 8)
		if err != nil {
			return netip.Addr{}, false
		}
		b[i] = byte(n)
	}
	return netip.AddrFrom16(b), true
}
