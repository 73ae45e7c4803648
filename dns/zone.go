package dns

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"

	"github.com/miekg/dns"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"proa/client"
)

// Times to live, in seconds. A cluster IP stays for the life of its Service;
// endpoints come and go.
const (
	ttlService  = 30
	ttlEndpoint = 5
	ttlNegative = 5
)

// specVersion is the version of Kubernetes' DNS specification that answers
// follow.
const specVersion = "1.1.0"

// zone answers for the cluster's domain, from a View, as Kubernetes' DNS
// specification says.
type zone struct {
	domain  string       // lower case, with the final dot
	servers []netip.Addr // where the resolver is found
}

// answer is what the zone has for a question. A name that exists may have no
// records of the type asked for.
type answer struct {
	exists  bool
	records []dns.RR
	extra   []dns.RR
	target  string // of an ExternalName, to be resolved further
}

var (
	nothing = answer{}
	empty   = answer{exists: true} // NODATA
)

// contains tells whether the zone is the authority for a name in lower case.
func (z zone) contains(name string) bool {
	return name == z.domain || strings.HasSuffix(name, "."+z.domain)
}

// resolve answers a question for a name within the zone. name is lower case;
// owner is the same as the client wrote it.
func (z zone) resolve(v client.View, name, owner string, qtype uint16) answer {
	q := query{zone: z, view: v, owner: owner, qtype: qtype}
	labels := dns.SplitDomainName(strings.TrimSuffix(name, z.domain))
	slices.Reverse(labels)
	switch {
	case len(labels) == 0:
		return q.apex()
	case labels[0] == "svc":
		return q.below(labels[1:], q.service)
	case labels[0] == "pod":
		return q.below(labels[1:], q.pod)
	case labels[0] == "dns-version" && len(labels) == 1:
		return q.version()
	case labels[0] == "dns" && len(labels) == 1:
		return empty
	case labels[0] == "dns" && labels[1] == "ns" && len(labels) == 2:
		return answer{exists: true, records: q.addresses(ttlService, q.servers...)}
	}
	return nothing
}

// query is one question.
type query struct {
	zone
	view  client.View
	owner string
	qtype uint16
}

func (q query) apex() answer {
	out := answer{exists: true}
	switch q.qtype {
	case dns.TypeSOA:
		out.records = []dns.RR{q.soa(q.owner)}
	case dns.TypeNS:
		out.records = []dns.RR{&dns.NS{Hdr: q.header(dns.TypeNS, ttlService), Ns: "ns.dns." + q.domain}}
	}
	return out
}

// soa is the zone's start of authority, which also tells how long a client may
// remember that there is nothing.
func (z zone) soa(owner string) *dns.SOA {
	return &dns.SOA{
		Hdr: dns.RR_Header{Name: owner, Rrtype: dns.TypeSOA, Class: dns.ClassINET, Ttl: ttlNegative},
		Ns:  "ns.dns." + z.domain, Mbox: "hostmaster." + z.domain,
		Serial: 1, Refresh: 7200, Retry: 1800, Expire: 86400, Minttl: ttlNegative,
	}
}

func (q query) header(rrtype uint16, ttl uint32) dns.RR_Header {
	return dns.RR_Header{Name: q.owner, Rrtype: rrtype, Class: dns.ClassINET, Ttl: ttl}
}

func (q query) version() answer {
	if q.qtype != dns.TypeTXT {
		return empty
	}
	return answer{exists: true, records: []dns.RR{&dns.TXT{Hdr: q.header(dns.TypeTXT, ttlService), Txt: []string{specVersion}}}}
}

// below is what svc. and pod. have in common: namespaces below them, and
// something below those. labels count from the right.
func (q query) below(labels []string, f func(namespace string, labels []string) answer) answer {
	switch {
	case len(labels) == 0:
		return empty
	case client.Get[corev1.Namespace](q.view, "", labels[0]) == nil:
		return nothing
	case len(labels) == 1:
		return empty
	}
	return f(labels[0], labels[1:])
}

// pod answers 10-1-2-3.<namespace>.pod with the address in the name.
func (q query) pod(_ string, labels []string) answer {
	if len(labels) != 1 {
		return nothing
	}
	addr, err := netip.ParseAddr(strings.ReplaceAll(labels[0], "-", "."))
	if err != nil {
		if addr, err = netip.ParseAddr(strings.ReplaceAll(labels[0], "-", ":")); err != nil {
			return nothing
		}
	}
	return answer{exists: true, records: q.addresses(ttlEndpoint, addr)}
}

// addresses are the A or AAAA records, whichever is asked for.
func (q query) addresses(ttl uint32, addrs ...netip.Addr) []dns.RR {
	var out []dns.RR
	for _, a := range addrs {
		switch {
		case a.Is4() && q.qtype == dns.TypeA:
			out = append(out, &dns.A{Hdr: q.header(dns.TypeA, ttl), A: a.AsSlice()})
		case a.Is6() && q.qtype == dns.TypeAAAA:
			out = append(out, &dns.AAAA{Hdr: q.header(dns.TypeAAAA, ttl), AAAA: a.AsSlice()})
		}
	}
	return out
}

// service answers for a Service and what is below it. labels count from the
// right and begin with the Service's name.
func (q query) service(namespace string, labels []string) answer {
	svc := client.Get[corev1.Service](q.view, namespace, labels[0])
	switch {
	case svc == nil:
		return nothing
	case svc.Spec.Type == corev1.ServiceTypeExternalName:
		return q.externalName(svc, labels)
	case svc.Spec.ClusterIP == "": // not allocated yet
		return nothing
	case svc.Spec.ClusterIP == corev1.ClusterIPNone:
		return q.headless(svc, labels)
	}
	return q.clusterIP(svc, labels)
}

func (q query) externalName(svc *corev1.Service, labels []string) answer {
	if len(labels) > 1 {
		return nothing
	}
	target := dns.Fqdn(svc.Spec.ExternalName)
	cname := &dns.CNAME{Hdr: q.header(dns.TypeCNAME, ttlService), Target: target}
	return answer{exists: true, records: []dns.RR{cname}, target: target}
}

func (q query) clusterIP(svc *corev1.Service, labels []string) answer {
	name := q.nameOf(svc)
	ports, ok := matchPorts(svc.Spec.Ports, labels[1:])
	switch {
	case len(labels) == 1 && q.qtype != dns.TypeSRV:
		return answer{exists: true, records: q.addresses(ttlService, parse(svc.Spec.ClusterIPs)...)}
	case !ok:
		return nothing
	case q.qtype != dns.TypeSRV:
		return empty
	}
	out := answer{exists: true}
	for _, p := range ports {
		out.records = append(out.records, q.srv(name, uint16(p.Port), ttlService))
	}
	if len(ports) > 0 {
		out.extra = q.glue(name, ttlService, parse(svc.Spec.ClusterIPs)...)
	}
	return out
}

func (z zone) nameOf(svc *corev1.Service) string {
	return svc.Name + "." + svc.Namespace + ".svc." + z.domain
}

func (q query) srv(target string, port uint16, ttl uint32) dns.RR {
	return &dns.SRV{Hdr: q.header(dns.TypeSRV, ttl), Priority: 0, Weight: 100, Port: port, Target: target}
}

// glue are the addresses of a name that the answer mentions.
func (q query) glue(name string, ttl uint32, addrs ...netip.Addr) []dns.RR {
	var out []dns.RR
	for _, t := range []uint16{dns.TypeA, dns.TypeAAAA} {
		out = append(out, query{owner: name, qtype: t}.addresses(ttl, addrs...)...)
	}
	return out
}

// matchPorts finds the ports that _port._protocol names; no labels name all. A
// protocol alone names something without records.
func matchPorts(ports []corev1.ServicePort, labels []string) (out []corev1.ServicePort, ok bool) {
	if len(labels) == 0 {
		return ports, true
	}
	if len(labels) > 2 {
		return nil, false
	}
	for _, p := range ports {
		switch {
		case labels[0] != "_"+strings.ToLower(string(p.Protocol)):
		case len(labels) == 1:
			ok = true
		case labels[1] == "_"+p.Name:
			out, ok = append(out, p), true
		}
	}
	return out, ok
}

// backend is a ready endpoint of a headless Service.
type backend struct {
	host  string // label below the Service's name
	addrs []netip.Addr
	ports []discoveryv1.EndpointPort
}

// headless answers with the ready endpoints. If there are none the name does
// not exist, as the specification says.
func (q query) headless(svc *corev1.Service, labels []string) answer {
	all := q.backends(svc)
	if len(all) == 0 {
		return nothing
	}
	rand.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	ports, isPort := matchEndpoints(all, labels[1:])
	switch {
	case len(labels) == 2 && !strings.HasPrefix(labels[1], "_"):
		return q.host(all, labels[1])
	case len(labels) == 1 && q.qtype != dns.TypeSRV:
		out := answer{exists: true}
		for _, b := range all {
			out.records = append(out.records, q.addresses(ttlEndpoint, b.addrs...)...)
		}
		return out
	case !isPort:
		return nothing
	case q.qtype != dns.TypeSRV:
		return empty
	}
	return q.endpointSRV(q.nameOf(svc), all, ports)
}

func (q query) host(all []backend, host string) answer {
	out := answer{}
	for _, b := range all {
		if b.host == host {
			out.exists = true
			out.records = append(out.records, q.addresses(ttlEndpoint, b.addrs...)...)
		}
	}
	return out
}

func (q query) endpointSRV(service string, all []backend, wanted func(discoveryv1.EndpointPort) bool) answer {
	out := answer{exists: true}
	for _, b := range all {
		name := b.host + "." + service
		for _, p := range b.ports {
			if p.Port != nil && wanted(p) {
				out.records = append(out.records, q.srv(name, uint16(*p.Port), ttlEndpoint))
			}
		}
		out.extra = append(out.extra, q.glue(name, ttlEndpoint, b.addrs...)...)
	}
	return out
}

// matchEndpoints is matchPorts for the ports of endpoints.
func matchEndpoints(all []backend, labels []string) (wanted func(discoveryv1.EndpointPort) bool, ok bool) {
	wanted = func(p discoveryv1.EndpointPort) bool {
		proto, name := corev1.ProtocolTCP, ""
		if p.Protocol != nil {
			proto = *p.Protocol
		}
		if p.Name != nil {
			name = *p.Name
		}
		return len(labels) == 0 ||
			labels[0] == "_"+strings.ToLower(string(proto)) && (len(labels) == 1 || labels[1] == "_"+name)
	}
	if len(labels) > 2 {
		return nil, false
	}
	for _, b := range all {
		ok = ok || len(labels) == 0 || slices.ContainsFunc(b.ports, wanted)
	}
	return wanted, ok
}

func (q query) backends(svc *corev1.Service) []backend {
	var out []backend
	for s := range client.Index[discoveryv1.EndpointSlice](q.view, "service", svc.Namespace+"/"+svc.Name) {
		for i := range s.Endpoints {
			if b, ok := read(&s.Endpoints[i]); ok {
				b.ports = s.Ports
				out = append(out, b)
			}
		}
	}
	return out
}

// read takes an endpoint that is ready; unknown counts as ready. Without a
// hostname its address is its name.
func read(e *discoveryv1.Endpoint) (backend, bool) {
	if e.Conditions.Ready != nil && !*e.Conditions.Ready {
		return backend{}, false
	}
	b := backend{addrs: parse(e.Addresses)}
	switch {
	case len(b.addrs) == 0:
		return b, false
	case e.Hostname != nil && *e.Hostname != "":
		b.host = *e.Hostname
	default:
		b.host = strings.NewReplacer(".", "-", ":", "-").Replace(b.addrs[0].String())
	}
	return b, true
}

func parse(list []string) []netip.Addr {
	var out []netip.Addr
	for _, s := range list {
		if a, err := netip.ParseAddr(s); err == nil {
			out = append(out, a.Unmap())
		}
	}
	return out
}
