package proxy

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"proa/internal/nft"
)

const table = "proa-proxy"

// masqueradeBit in a packet's mark asks for the node's address as source. It is
// the bit that Kubernetes' own proxy uses, which other software leaves alone.
const masqueradeBit = 0x4000

// set is the name that a set or map has for a family. Names are made once:
// there are as many uses as elements.
func set(name string, f nft.Family) string {
	if f == nft.V4 {
		return setNames[name][0]
	}
	return setNames[name][1]
}

var setNames = func() map[string][2]string {
	out := map[string][2]string{}
	for _, name := range []string{setServices, setNodePorts, setUnserved, setUnservedNodePorts, setGroups, setNodePortGroups, setLocal,
		setNodePortLocal, setSources, setClusterIPs, setEndpoints, setServing, setClients, setHairpin} {
		out[name] = [2]string{name + "-" + nft.V4.String(), name + "-" + nft.V6.String()}
	}
	return out
}()

const (
	setServices          = "services"           // address . protocol . port → chain
	setNodePorts         = "nodeports"          // protocol . port → chain
	setUnserved          = "unserved"           // address . protocol . port → reject or drop
	setUnservedNodePorts = "unserved-nodeports" // protocol . port → reject or drop
	setGroups            = "groups"             // address . protocol . port → group of endpoints
	setNodePortGroups    = "nodeport-groups"    // protocol . port → group of endpoints
	setLocal             = "local"              // as groups, of those on this node
	setNodePortLocal     = "nodeport-local"
	setSources           = "sources"     // address . protocol . port → chain of allowed sources
	setClusterIPs        = "cluster-ips" // every cluster IP
	setEndpoints         = "endpoints"   // group . index → address . port
	setServing           = "serving"     // group . address . port, of groups with affinity
	setClients           = "clients"     // group . client → address . port, for a time
	setHairpin           = "hairpin"     // address . itself, of endpoints on this node
)

// maxClients bounds the memory for session affinity.
const maxClients = 1 << 18

func setsOf(f nft.Family) []nft.Set {
	addr, target := f.AddrType(), nft.Concat(f.AddrType(), nft.InetService)
	address := nft.Concat(addr, nft.InetProto, nft.InetService)
	nodePort := nft.Concat(nft.InetProto, nft.InetService)
	return []nft.Set{
		{Name: set(setServices, f), Key: address, Data: nft.Verdict},
		{Name: set(setNodePorts, f), Key: nodePort, Data: nft.Verdict},
		{Name: set(setUnserved, f), Key: address, Data: nft.Verdict},
		{Name: set(setUnservedNodePorts, f), Key: nodePort, Data: nft.Verdict},
		{Name: set(setGroups, f), Key: address, Data: nft.Mark},
		{Name: set(setNodePortGroups, f), Key: nodePort, Data: nft.Mark},
		{Name: set(setLocal, f), Key: address, Data: nft.Mark},
		{Name: set(setNodePortLocal, f), Key: nodePort, Data: nft.Mark},
		{Name: set(setSources, f), Key: address, Data: nft.Verdict},
		{Name: set(setClusterIPs, f), Key: addr},
		{Name: set(setEndpoints, f), Key: nft.Concat(nft.Mark, nft.Integer), Data: target},
		{Name: set(setServing, f), Key: nft.Concat(nft.Mark, addr, nft.InetService)},
		{Name: set(setClients, f), Key: nft.Concat(nft.Mark, addr), Data: target, Timeout: true, Dynamic: true, Size: maxClients},
		{Name: set(setHairpin, f), Key: nft.Concat(addr, addr)},
	}
}

var families = []nft.Family{nft.V4, nft.V6}

// hook is a base chain. Where a connection goes is decided by the nat chains,
// which see its first packet only; who may not connect at all, before them by
// its source and after them by what they left as it was.
type hook struct {
	name string
	at   nft.Hook
	jump string
}

var hooks = []hook{
	{"filter-prerouting", nft.Hook{Type: "filter", Num: unix.NF_INET_PRE_ROUTING, Priority: -110}, "sources"},
	{"filter-output-early", nft.Hook{Type: "filter", Num: unix.NF_INET_LOCAL_OUT, Priority: -110}, "sources"},
	{"nat-prerouting", nft.Hook{Type: "nat", Num: unix.NF_INET_PRE_ROUTING, Priority: -100}, "services"},
	{"nat-output", nft.Hook{Type: "nat", Num: unix.NF_INET_LOCAL_OUT, Priority: -100}, "services"},
	{"filter-input", nft.Hook{Type: "filter", Num: unix.NF_INET_LOCAL_IN}, "unserved"},
	{"filter-forward", nft.Hook{Type: "filter", Num: unix.NF_INET_FORWARD}, "unserved"},
	{"filter-output", nft.Hook{Type: "filter", Num: unix.NF_INET_LOCAL_OUT}, "unserved"},
	{"nat-postrouting", nft.Hook{Type: "nat", Num: unix.NF_INET_POST_ROUTING, Priority: 100}, "masquerade"},
}

// skeleton is the chains that do not depend on any Service, in an order that
// lets each refer to those before it.
func skeleton(cfg Config) []Chain {
	chains := []Chain{
		{Name: "reject", Rules: []nft.Rule{{nft.Proto(unix.IPPROTO_TCP), nft.RejectTCP()}, {nft.RejectPort()}}},
		{Name: "drop", Rules: []nft.Rule{{nft.Drop()}}},
		{Name: "sources"}, {Name: "services"}, {Name: "unserved"}, {Name: "masquerade"},
	}
	for _, f := range families {
		at := []nft.Field{f.Daddr(), nft.L4Proto, nft.Dport}
		add := func(name string, rules ...nft.Rule) {
			i := slices.IndexFunc(chains, func(c Chain) bool { return c.Name == name })
			chains[i].Rules = append(chains[i].Rules, rules...)
		}
		add("sources", nft.Rule{f.Is(), nft.Vmap(set(setSources, f), at...)})
		add("services",
			nft.Rule{f.Is(), nft.Vmap(set(setServices, f), at...)},
			nft.Rule{f.Is(), nft.ToLocal(), nft.Vmap(set(setNodePorts, f), at[1:]...)})
		add("unserved",
			// A cluster IP on a link of this node is served by the node itself.
			nft.Rule{f.Is(), nft.In(set(setClusterIPs, f), f.Daddr()), nft.ToLocal(), nft.Return()},
			nft.Rule{f.Is(), nft.Vmap(set(setUnserved, f), at...)},
			nft.Rule{f.Is(), nft.ToLocal(), nft.Vmap(set(setUnservedNodePorts, f), at[1:]...)},
			nft.Rule{f.Is(), nft.In(set(setClusterIPs, f), f.Daddr()), nft.Goto("reject")})
		add("masquerade",
			nft.Rule{f.Is(), nft.Translated(), nft.In(set(setHairpin, f), f.Saddr(), f.Daddr()), nft.Masquerade()})
	}
	return append(fill(chains, cfg), baseChains()...)
}

// fill adds what is the same for both families.
func fill(chains []Chain, cfg Config) []Chain {
	for i, c := range chains {
		switch {
		case c.Name == "masquerade":
			chains[i].Rules = append(c.Rules, nft.Rule{nft.Marked(masqueradeBit), nft.ClearMark(masqueradeBit), nft.Masquerade()})
		case c.Name == "unserved" && cfg.ServiceCIDR.IsValid():
			// An address that no Service has leads nowhere, least of all out.
			chains[i].Rules = append(c.Rules, nft.Rule{
				nft.FamilyOf(cfg.ServiceCIDR.Addr()).Is(), nft.To(cfg.ServiceCIDR), nft.NotToLocal(), nft.Drop()})
		}
	}
	return chains
}

func baseChains() []Chain {
	var out []Chain
	for _, h := range hooks {
		rule := nft.Rule{nft.Jump(h.jump)}
		if h.at.Type == "filter" {
			rule = nft.Rule{nft.NewConnection(), nft.Jump(h.jump)}
		}
		out = append(out, Chain{Name: h.name, Hook: &h.at, Rules: []nft.Rule{rule}})
	}
	return out
}

// Chain is a chain of rules.
type Chain struct {
	Name  string
	Hook  *nft.Hook
	Rules []nft.Rule
}

func text(rules []nft.Rule) string {
	var b strings.Builder
	for _, r := range rules {
		fmt.Fprintf(&b, "\t%s\n", r)
	}
	return b.String()
}

func (c Chain) String() string {
	head := ""
	if c.Hook != nil {
		head = fmt.Sprintf(" { type %s hook %s priority %d }", c.Hook.Type, hookNames[c.Hook.Num], c.Hook.Priority)
	}
	return "chain " + c.Name + head + "\n" + text(c.Rules)
}

var hookNames = map[uint32]string{
	unix.NF_INET_PRE_ROUTING: "prerouting", unix.NF_INET_LOCAL_IN: "input", unix.NF_INET_FORWARD: "forward",
	unix.NF_INET_LOCAL_OUT: "output", unix.NF_INET_POST_ROUTING: "postrouting",
}

// Element is an element of a named set.
type Element struct {
	Set string
	nft.Element
}

func (e Element) compare(o Element) int {
	return cmp.Or(cmp.Compare(e.Set, o.Set), cmp.Compare(e.Key, o.Key))
}

func (e Element) String() string {
	s := types[e.Set]
	out := e.Set + " { " + s.Key.Format(e.Key)
	switch {
	case e.Goto != "":
		out += " : goto " + e.Goto
	case e.Data != "":
		out += " : " + s.Data.Format(e.Data)
	}
	return out + " }"
}

// types finds a set by name, to render its elements.
var types = func() map[string]nft.Set {
	out := map[string]nft.Set{}
	for _, f := range families {
		for _, s := range setsOf(f) {
			out[s.Name] = s
		}
	}
	return out
}()

// Target is an endpoint that new connections are sent to.
type Target struct {
	Proto uint8
	Addr  netip.AddrPort
	// Terminating marks one that serves only because no other is left.
	Terminating bool
}

// Block is all that one Service needs.
type Block struct {
	Service   string // namespace/name
	Chains    []behaviour
	Elements  []Element
	Targets   []Target
	Frontends []netip.AddrPort // UDP addresses that are served, for stale flows
	groups    []string         // names of its groups in the Layout
}

// Rules is the whole table.
type Rules struct {
	Skeleton []Chain
	Chains   []Chain // those that the blocks' elements lead to
	Blocks   []*Block
}

// String renders the rules for people and for tests.
func (r Rules) String() string {
	var b strings.Builder
	for _, c := range slices.Concat(r.Skeleton, r.Chains) {
		b.WriteString(c.String())
	}
	for _, block := range r.Blocks {
		b.WriteString(block.String())
	}
	return b.String()
}

func (b *Block) String() string {
	var out strings.Builder
	fmt.Fprintf(&out, "# %s\n", b.Service)
	for _, e := range slices.SortedFunc(slices.Values(b.Elements), Element.compare) {
		fmt.Fprintf(&out, "%s\n", e)
	}
	return out.String()
}
