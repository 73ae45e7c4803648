package proxy

import (
	"fmt"
	"iter"
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
	layout := NewLayout()
	for svc := range client.List[corev1.Service](v, "") {
		if b := compile(v, cfg, layout, client.KeyOf(svc)); b != nil {
			out.Blocks = append(out.Blocks, b)
		}
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
	name      string // the end of the names of its chains
	clusterIP netip.Addr
	cluster   []endpoint // where traffic may go in the whole cluster,
	local     []endpoint // and on this node
}

func (c *compiler) port(f nft.Family, sp corev1.ServicePort, clusterIP netip.Addr) {
	name := fmt.Sprintf("%s/%s/%d", c.block.Service, strings.ToLower(string(sp.Protocol)), sp.Port)
	if f == nft.V6 {
		name += "/ip6"
	}
	all := endpointsOf(c.slices, sp, f, c.cfg.NodeName)
	p := &port{compiler: c, f: f, proto: protocols[sp.Protocol], number: uint16(sp.Port), name: name, clusterIP: clusterIP,
		cluster: choose(all, anywhere), local: choose(all, onThisNode)}
	external := slices.Concat(addresses(c.svc.Spec.ExternalIPs, f), loadBalancer(c.svc, f))
	usesCluster, usesLocal := p.uses(len(external) > 0 || sp.NodePort != 0)
	if usesCluster {
		p.group("cluster", p.cluster, p.offCluster()...)
	}
	if usesLocal {
		p.group("local", p.local)
	}
	p.inside()
	if len(external) > 0 || sp.NodePort != 0 {
		p.outside(external, uint16(sp.NodePort))
	}
	p.sources(loadBalancer(c.svc, f))
}

func (p *port) uses(external bool) (cluster, local bool) {
	cluster = !p.internalLocal() || external
	local = p.internalLocal() || (external && p.externalLocal())
	return cluster, local
}

func (c *compiler) internalLocal() bool {
	policy := c.svc.Spec.InternalTrafficPolicy
	return policy != nil && *policy == corev1.ServiceInternalTrafficPolicyLocal
}

func (c *compiler) externalLocal() bool {
	return c.svc.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal
}

// group makes the chain that picks one of the endpoints, and their elements.
func (p *port) group(kind string, endpoints []endpoint, first ...nft.Rule) {
	name := kind + "/" + p.name
	if len(endpoints) == 0 {
		p.layout.forget(name)
		return
	}
	id := p.layout.group(name)
	timeout := p.affinityTimeout()
	for i, addr := range p.layout.arrange(id, addrsOf(endpoints)) {
		target := nft.KeyBytes(nft.AddrBytes(addr.Addr()), nft.PortBytes(addr.Port()))
		p.add(setEndpoints, nft.Element{Key: nft.KeyBytes(nft.NumberBytes(id), nft.NumberBytes(uint32(i))), Data: target})
		if timeout > 0 {
			p.add(setServing, nft.Element{Key: nft.KeyBytes(nft.NumberBytes(id)) + target})
		}
	}
	for _, e := range endpoints {
		p.block.Targets = append(p.block.Targets, Target{p.proto, e.addr, e.terminating})
		if addr := nft.AddrBytes(e.addr.Addr()); e.local {
			p.add(setHairpin, nft.Element{Key: nft.KeyBytes(addr, addr)})
		}
	}
	p.block.Chains = append(p.block.Chains, chain(name, append(first, p.pick(id, len(endpoints), timeout)...)...))
}

func addrsOf(endpoints []endpoint) []netip.AddrPort {
	out := make([]netip.AddrPort, len(endpoints))
	for i, e := range endpoints {
		out[i] = e.addr
	}
	return out
}

func (p *port) pick(id uint32, n int, timeout time.Duration) []nft.Rule {
	if timeout > 0 {
		a := affinity(p.f)
		return []nft.Rule{{a.DNATAgain(p.f, id, timeout)}, {a.DNATFirst(p.f, id, n, timeout)}}
	}
	return []nft.Rule{{nft.DNAT(p.f, set(setEndpoints, p.f), nft.Number(id), nft.Random(n))}}
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

// offCluster: who is no pod and uses the cluster IP gets the node's address as
// source, so that answers come back this way.
func (p *port) offCluster() []nft.Rule {
	cidr := p.cfg.ClusterCIDR
	if !cidr.IsValid() || nft.FamilyOf(cidr.Addr()) != p.f {
		return nil
	}
	return []nft.Rule{{nft.To(netip.PrefixFrom(p.clusterIP, p.clusterIP.BitLen())), nft.NotFrom(cidr), nft.SetMark(masqueradeBit)}}
}

// inside serves the cluster IP.
func (p *port) inside() {
	p.add(setClusterIPs, nft.Element{Key: nft.KeyBytes(nft.AddrBytes(p.clusterIP))})
	switch {
	case !p.internalLocal() && len(p.cluster) > 0:
		p.serve(p.clusterIP, "cluster/"+p.name)
	case p.internalLocal() && len(p.local) > 0:
		p.serve(p.clusterIP, "local/"+p.name)
	case len(p.cluster) > 0:
		p.refuse(p.clusterIP, "drop")
	default:
		p.refuse(p.clusterIP, "reject")
	}
}

// outside serves external addresses and the node port.
func (p *port) outside(addrs []netip.Addr, nodePort uint16) {
	if len(p.cluster) > 0 {
		p.block.Chains = append(p.block.Chains, chain("external/"+p.name, p.externalRules()...))
	}
	for _, a := range addrs {
		if len(p.cluster) > 0 {
			p.serve(a, "external/"+p.name)
		}
		if verdict := p.refusal(); verdict != "" {
			p.refuse(a, verdict)
		}
	}
	if nodePort == 0 {
		return
	}
	key := nft.KeyBytes([]byte{p.proto}, nft.PortBytes(nodePort))
	if len(p.cluster) > 0 {
		p.add(setNodePorts, nft.Element{Key: key, Goto: "external/" + p.name})
	}
	if verdict := p.refusal(); verdict != "" {
		p.add(setUnservedNodePorts, nft.Element{Key: key, Goto: verdict})
	}
}

// refusal tells what becomes of traffic from outside that nobody takes: with
// policy Local, another node may have endpoints, so it is dropped, and the load
// balancer tries there.
func (p *port) refusal() string {
	switch {
	case len(p.cluster) == 0:
		return "reject"
	case p.externalLocal() && len(p.local) == 0:
		return "drop"
	}
	return ""
}

// externalRules: policy Cluster may send it to another node, so answers must
// come back through this one. Policy Local keeps the source and the traffic on
// this node, but pods and the node itself reach every endpoint.
func (p *port) externalRules() []nft.Rule {
	toCluster := nft.Goto("cluster/" + p.name)
	if !p.externalLocal() {
		return []nft.Rule{{nft.SetMark(masqueradeBit), toCluster}}
	}
	var rules []nft.Rule
	if cidr := p.cfg.ClusterCIDR; cidr.IsValid() && nft.FamilyOf(cidr.Addr()) == p.f {
		rules = append(rules, nft.Rule{nft.From(cidr), toCluster})
	}
	rules = append(rules, nft.Rule{nft.FromLocal(), nft.SetMark(masqueradeBit), toCluster})
	if len(p.local) > 0 {
		rules = append(rules, nft.Rule{nft.Goto("local/" + p.name)})
	}
	return rules
}

// sources lets only the allowed ranges reach the load balancer's addresses.
func (p *port) sources(addrs []netip.Addr) {
	ranges, ok := p.ranges()
	if !ok || len(addrs) == 0 {
		return
	}
	var rules []nft.Rule
	for _, r := range ranges {
		rules = append(rules, nft.Rule{nft.From(r), nft.Return()})
		if slices.ContainsFunc(p.cfg.NodeIPs, r.Contains) {
			// The node's own connections may carry the balancer's address.
			rules = append(rules, nft.Rule{nft.FromLocal(), nft.Return()})
		}
	}
	p.block.Chains = append(p.block.Chains, chain("sources/"+p.name, append(rules, nft.Rule{nft.Drop()})...))
	for _, a := range addrs {
		p.add(setSources, nft.Element{Key: p.address(a), Goto: "sources/" + p.name})
	}
}

// ranges are loadBalancerSourceRanges of the family; ok is false if there is no
// limit.
func (p *port) ranges() (out []netip.Prefix, ok bool) {
	for _, s := range p.svc.Spec.LoadBalancerSourceRanges {
		r, err := netip.ParsePrefix(strings.TrimSpace(s))
		if err == nil && nft.FamilyOf(r.Addr()) == p.f {
			out = append(out, r)
		}
	}
	unlimited := slices.ContainsFunc(out, func(r netip.Prefix) bool { return r.Bits() == 0 })
	return out, len(p.svc.Spec.LoadBalancerSourceRanges) > 0 && !unlimited
}

func (p *port) serve(a netip.Addr, chain string) {
	p.add(setServices, nft.Element{Key: p.address(a), Goto: chain})
	if p.proto == udp {
		p.block.Frontends = append(p.block.Frontends, netip.AddrPortFrom(a, p.number))
	}
}

func (p *port) refuse(a netip.Addr, verdict string) {
	p.add(setUnserved, nft.Element{Key: p.address(a), Goto: verdict})
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
}
