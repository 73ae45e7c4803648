package proxy

import (
	"fmt"
	"iter"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"proa/client"
	"proa/internal/nft"
)

// labelServiceProxyName hands a Service to another proxy, if it is there.
const labelServiceProxyName = "service.kubernetes.io/service-proxy-name"

// Desired is what the table should hold for the world that the view shows.
func Desired(v client.View, cfg Config) Rules {
	out := Rules{Skeleton: skeleton(cfg)}
	layout, chains := NewLayout(), map[string]behaviour{}
	for svc := range client.List[corev1.Service](v, "") {
		if b := compile(v, cfg, layout, client.KeyOf(svc)); b != nil {
			out.Blocks = append(out.Blocks, b)
			for _, c := range b.Chains {
				chains[c.name()] = c
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(chains)) {
		out.Chains = append(out.Chains, chains[name].chain(cfg))
	}
	return out
}

// compile makes the block of one Service; nil if it needs none.
func compile(v client.View, cfg Config, layout *Layout, key client.Key) *Block {
	svc := client.Get[corev1.Service](v, key.Namespace, key.Name)
	if svc == nil || !proxied(svc) {
		return nil
	}
	c := &compiler{
		cfg: cfg, layout: layout, svc: svc, block: &Block{Service: key.String()},
		slices: client.Index[discoveryv1.EndpointSlice](v, "service", key.String()),
	}
	for _, f := range families {
		addr := addresses(svc.Spec.ClusterIPs, f)
		if len(addr) == 0 || slices.Contains(cfg.OwnServiceIPs, addr[0]) {
			continue
		}
		for _, p := range svc.Spec.Ports {
			c.port(f, p, addr[0])
		}
	}
	c.dedupe()
	return c.block
}

func proxied(svc *corev1.Service) bool {
	_, other := svc.Labels[labelServiceProxyName]
	return !other && svc.Spec.Type != corev1.ServiceTypeExternalName &&
		svc.Spec.ClusterIP != "" && svc.Spec.ClusterIP != corev1.ClusterIPNone
}

// addresses parses those of a family.
func addresses(list []string, f nft.Family) []netip.Addr {
	var out []netip.Addr
	for _, s := range list {
		if a, err := netip.ParseAddr(s); err == nil && nft.FamilyOf(a) == f {
			out = append(out, a.Unmap())
		}
	}
	return out
}

// loadBalancer lists the addresses at which traffic arrives as it was sent:
// those of mode Proxy hand it on themselves.
func loadBalancer(svc *corev1.Service, f nft.Family) []netip.Addr {
	if svc.Spec.Type != corev1.ServiceTypeLoadBalancer {
		return nil
	}
	var list []string
	for _, in := range svc.Status.LoadBalancer.Ingress {
		if in.IPMode == nil || *in.IPMode == corev1.LoadBalancerIPModeVIP {
			list = append(list, in.IP)
		}
	}
	return addresses(list, f)
}

var protocols = map[corev1.Protocol]uint8{
	"": unix.IPPROTO_TCP, corev1.ProtocolTCP: unix.IPPROTO_TCP, corev1.ProtocolUDP: unix.IPPROTO_UDP, corev1.ProtocolSCTP: unix.IPPROTO_SCTP,
}

// compiler builds one Service's block.
type compiler struct {
	cfg    Config
	layout *Layout
	svc    *corev1.Service
	block  *Block
	slices iter.Seq[*discoveryv1.EndpointSlice]
}

// port is one port of the Service in one family.
type port struct {
	*compiler
	f         nft.Family
	proto     uint8
	number    uint16
	name      string // the end of the names of its groups
	clusterIP netip.Addr
	cluster   group // where traffic may go in the whole cluster,
	local     group // and on this node
}

// group is endpoints of which one is picked.
type group struct {
	id   uint32
	size int
}

func (g group) slots() int { return slots(g.size) }

func (c *compiler) port(f nft.Family, sp corev1.ServicePort, clusterIP netip.Addr) {
	p := &port{compiler: c, f: f, proto: protocols[sp.Protocol], number: uint16(sp.Port), clusterIP: clusterIP}
	p.name = fmt.Sprintf("%s/%s/%d/%s", c.block.Service, strings.ToLower(string(sp.Protocol)), sp.Port, f)
	external := slices.Concat(addresses(c.svc.Spec.ExternalIPs, f), loadBalancer(c.svc, f))
	isExternal := len(external) > 0 || sp.NodePort != 0
	all := endpointsOf(c.slices, sp, f, c.cfg.NodeName)
	p.cluster = p.group("cluster", choose(all, anywhere), !p.internalLocal() || isExternal)
	p.local = p.group("local", choose(all, onThisNode), p.internalLocal() || (isExternal && p.externalLocal()))
	p.inside()
	for _, a := range external {
		p.outside(byAddress, p.address(a))
	}
	if sp.NodePort != 0 {
		p.outside(byNodePort, nft.KeyBytes([]byte{p.proto}, nft.PortBytes(uint16(sp.NodePort))))
	}
	p.sources(loadBalancer(c.svc, f))
}

func (c *compiler) internalLocal() bool {
	policy := c.svc.Spec.InternalTrafficPolicy
	return policy != nil && *policy == corev1.ServiceInternalTrafficPolicyLocal
}

func (c *compiler) externalLocal() bool {
	return c.svc.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal
}

// group makes the elements of a group of endpoints, if it is used.
func (p *port) group(kind string, endpoints []endpoint, used bool) group {
	name := kind + "/" + p.name
	if len(endpoints) == 0 || !used {
		p.layout.forget(name)
		return group{size: len(endpoints)}
	}
	id := p.layout.group(name)
	for i, addr := range p.layout.arrange(id, addrsOf(endpoints)) {
		target := nft.KeyBytes(nft.AddrBytes(addr.Addr()), nft.PortBytes(addr.Port()))
		p.add(setEndpoints, nft.Element{Key: nft.KeyBytes(nft.NumberBytes(id), nft.NumberBytes(uint32(i))), Data: target})
		if p.affinityTimeout() > 0 {
			p.add(setServing, nft.Element{Key: nft.KeyBytes(nft.NumberBytes(id)) + target})
		}
	}
	for _, e := range endpoints {
		p.block.Targets = append(p.block.Targets, Target{p.proto, e.addr, e.terminating})
		if addr := nft.AddrBytes(e.addr.Addr()); e.local {
			p.add(setHairpin, nft.Element{Key: nft.KeyBytes(addr, addr)})
		}
	}
	p.block.groups = append(p.block.groups, name)
	return group{id, len(endpoints)}
}

func addrsOf(endpoints []endpoint) []netip.AddrPort {
	out := make([]netip.AddrPort, len(endpoints))
	for i, e := range endpoints {
		out[i] = e.addr
	}
	return out
}

// affinityTimeout is how long a client sticks to an endpoint; 0 is not at all.
func (c *compiler) affinityTimeout() time.Duration {
	if c.svc.Spec.SessionAffinity != corev1.ServiceAffinityClientIP {
		return 0
	}
	cfg := c.svc.Spec.SessionAffinityConfig
	if cfg == nil || cfg.ClientIP == nil || cfg.ClientIP.TimeoutSeconds == nil {
		return time.Duration(corev1.DefaultClientIPServiceAffinitySeconds) * time.Second
	}
	return time.Duration(*cfg.ClientIP.TimeoutSeconds) * time.Second
}

// inside serves the cluster IP.
func (p *port) inside() {
	key := p.address(p.clusterIP)
	p.add(setClusterIPs, nft.Element{Key: nft.KeyBytes(nft.AddrBytes(p.clusterIP))})
	switch {
	case !p.internalLocal() && p.cluster.size > 0:
		p.serve(behaviour{kind: inside, by: byAddress, slots: p.cluster.slots()}, key)
		p.lead(setGroups, key, p.cluster)
	case p.internalLocal() && p.local.size > 0:
		p.serve(behaviour{kind: pick, by: byAddress, slots: p.local.slots()}, key)
		p.lead(setGroups, key, p.local)
	case p.cluster.size > 0:
		p.add(setUnserved, nft.Element{Key: key, Goto: "drop"})
	default:
		p.add(setUnserved, nft.Element{Key: key, Goto: "reject"})
	}
}

// outside serves an external address or the node port.
func (p *port) outside(by entry, key string) {
	if p.cluster.size > 0 {
		b := behaviour{kind: outside, by: by, slots: p.cluster.slots()}
		p.lead(groupSets[by][pick], key, p.cluster)
		if p.externalLocal() {
			b.kind, b.local = outsideLocal, p.local.slots()
		}
		if b.local > 0 {
			p.lead(groupSets[by][pickLocal], key, p.local)
		}
		p.serve(b, key)
	}
	if verdict := p.refusal(); verdict != "" {
		p.add(unservedSets[by], nft.Element{Key: key, Goto: verdict})
	}
}

var (
	entrySets    = map[entry]string{byAddress: setServices, byNodePort: setNodePorts}
	unservedSets = map[entry]string{byAddress: setUnserved, byNodePort: setUnservedNodePorts}
)

// serve sends what comes at key to a chain.
func (p *port) serve(b behaviour, key string) {
	b.family, b.sticky = p.f, p.affinityTimeout()
	p.uses(b)
	p.add(entrySets[b.by], nft.Element{Key: key, Goto: b.name()})
	if p.proto == udp && b.by == byAddress {
		addr, _ := netip.AddrFromSlice([]byte(key[:p.f.AddrType().Size()]))
		p.block.Frontends = append(p.block.Frontends, netip.AddrPortFrom(addr, p.number))
	}
}

func (p *port) uses(b behaviour) {
	for _, c := range append(b.needs(), b) {
		if !slices.Contains(p.block.Chains, c) {
			p.block.Chains = append(p.block.Chains, c)
		}
	}
}

// lead makes the chain that serves key pick from the group.
func (p *port) lead(set, key string, g group) {
	p.add(set, nft.Element{Key: key, Data: nft.KeyBytes(nft.NumberBytes(g.id))})
}

// refusal tells what becomes of traffic from outside that nobody takes: with
// policy Local, another node may have endpoints, so it is dropped, and the load
// balancer tries there.
func (p *port) refusal() string {
	switch {
	case p.cluster.size == 0:
		return "reject"
	case p.externalLocal() && p.local.size == 0:
		return "drop"
	}
	return ""
}

// sources lets only the allowed ranges reach the load balancer's addresses.
func (p *port) sources(addrs []netip.Addr) {
	ranges, limited := p.ranges()
	if !limited || len(addrs) == 0 {
		return
	}
	b := behaviour{kind: sources, family: p.f, ranges: ranges}
	p.uses(b)
	for _, a := range addrs {
		p.add(setSources, nft.Element{Key: p.address(a), Goto: b.name()})
	}
}

// ranges are loadBalancerSourceRanges of the family.
func (p *port) ranges() (list string, limited bool) {
	var out []string
	for _, s := range p.svc.Spec.LoadBalancerSourceRanges {
		r, err := netip.ParsePrefix(strings.TrimSpace(s))
		if err != nil || nft.FamilyOf(r.Addr()) != p.f {
			continue
		}
		if r.Bits() == 0 {
			return "", false
		}
		out = append(out, r.Masked().String())
	}
	return strings.Join(out, ","), len(p.svc.Spec.LoadBalancerSourceRanges) > 0
}

func (p *port) address(a netip.Addr) string {
	return nft.KeyBytes(nft.AddrBytes(a), []byte{p.proto}, nft.PortBytes(p.number))
}

func (p *port) add(name string, e nft.Element) {
	p.block.Elements = append(p.block.Elements, Element{set(name, p.f), e})
}

// dedupe drops what several ports of the Service asked for; of two elements
// with one key (an address listed twice) the first counts.
func (c *compiler) dedupe() {
	type key struct{ set, key string }
	seen := make(map[key]bool, len(c.block.Elements))
	c.block.Elements = slices.DeleteFunc(c.block.Elements, func(e Element) bool {
		k := key{e.Set, e.Key}
		defer func() { seen[k] = true }()
		return seen[k]
	})
	c.block.Elements = slices.Clone(c.block.Elements) // without the room that appending left
}
