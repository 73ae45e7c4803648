package network

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"proa/internal/nft"
)

const table = "proa-network"

// Names of the sets and maps of a family.
func portsOf(f nft.Family) string    { return "hostports-" + f.String() }     // address . protocol . port → pod address . port
func anyPortsOf(f nft.Family) string { return "hostports-any-" + f.String() } // protocol . port → pod address . port
func hairpinOf(f nft.Family) string  { return "hairpin-" + f.String() }       // pod address . itself

var families = []nft.Family{nft.V4, nft.V6}

// Destination translation comes before the Service proxy's, source translation
// with it; priorities are those that nft calls raw, dstnat and srcnat.
var chains = []struct {
	name string
	hook nft.Hook
}{
	{"guard", nft.Hook{Type: "filter", Num: unix.NF_INET_PRE_ROUTING, Priority: -300}},
	{"prerouting", nft.Hook{Type: "nat", Num: unix.NF_INET_PRE_ROUTING, Priority: -101}},
	{"output", nft.Hook{Type: "nat", Num: unix.NF_INET_LOCAL_OUT, Priority: -101}},
	{"postrouting", nft.Hook{Type: "nat", Num: unix.NF_INET_POST_ROUTING, Priority: 100}},
}

// installRules replaces the table by a new one with the host ports of all
// records, in one step.
func (n *Network) installRules() error {
	b := nft.NewBatch(table)
	b.DelTable()
	b.AddTable()
	for _, f := range families {
		target := nft.Concat(f.AddrType(), nft.InetService)
		b.AddSet(nft.Set{Name: portsOf(f), Key: nft.Concat(f.AddrType(), nft.InetProto, nft.InetService), Data: target})
		b.AddSet(nft.Set{Name: anyPortsOf(f), Key: nft.Concat(nft.InetProto, nft.InetService), Data: target})
		b.AddSet(nft.Set{Name: hairpinOf(f), Key: nft.Concat(f.AddrType(), f.AddrType())})
	}
	b.AddChain("hostports", nil)
	for _, c := range chains {
		b.AddChain(c.name, &c.hook)
	}
	for chain, rules := range n.skeleton() {
		for _, r := range rules {
			b.AddRule(chain, r)
		}
	}
	n.mu.Lock()
	for _, rec := range n.records {
		for set, elems := range rec.elements() {
			b.AddElements(set, elems...)
		}
	}
	n.mu.Unlock()
	return n.rules.Apply(b)
}

// skeleton is the rules that do not change.
func (n *Network) skeleton() map[string][]nft.Rule {
	out := map[string][]nft.Rule{
		// Nobody but the node itself may speak to its loopback addresses.
		"guard":      {{nft.FromIface(linkPrefix + "*"), nft.V4.Is(), nft.To(loopback), nft.Drop()}},
		"prerouting": {{nft.ToLocal(), nft.Jump("hostports")}},
		"output":     {{nft.ToLocal(), nft.Jump("hostports")}},
	}
	for _, f := range families {
		out["hostports"] = append(out["hostports"],
			nft.Rule{f.Is(), nft.DNAT(f, portsOf(f), f.Daddr(), nft.L4Proto, nft.Dport)},
			nft.Rule{f.Is(), nft.DNAT(f, anyPortsOf(f), nft.L4Proto, nft.Dport)})
		// A pod that reaches itself through a host port must see another source.
		out["postrouting"] = append(out["postrouting"],
			nft.Rule{f.Is(), nft.Translated(), nft.In(hairpinOf(f), f.Saddr(), f.Daddr()), nft.Masquerade()})
	}
	// 127.0.0.1 means nothing to a pod.
	out["postrouting"] = append(out["postrouting"],
		nft.Rule{nft.V4.Is(), nft.ToIface(linkPrefix + "*"), nft.From(loopback), nft.Masquerade()})
	out["postrouting"] = append(out["postrouting"], n.leaving())
	return out
}

var (
	loopback   = netip.MustParsePrefix("127.0.0.0/8")
	multicast4 = netip.MustParsePrefix("224.0.0.0/4")
	multicast6 = netip.MustParsePrefix("ff00::/8")
)

// leaving gives the node's address to what pods send out of the cluster.
func (n *Network) leaving() nft.Rule {
	f, multicast := nft.FamilyOf(n.cfg.PodCIDR.Addr()), multicast4
	if f == nft.V6 {
		multicast = multicast6
	}
	return nft.Rule{f.Is(), nft.From(n.cfg.PodCIDR), nft.NotTo(n.cfg.ClusterCIDR), nft.NotTo(multicast),
		nft.NotToIface(linkPrefix + "*"), nft.Masquerade()}
}

var protocols = map[string]uint8{"": unix.IPPROTO_TCP, "TCP": unix.IPPROTO_TCP, "UDP": unix.IPPROTO_UDP, "SCTP": unix.IPPROTO_SCTP}

// elements are what a record's host ports need in each set.
func (r *record) elements() map[string][]nft.Element {
	out := map[string][]nft.Element{}
	for _, p := range r.Ports {
		for _, a := range r.IPs {
			f := nft.FamilyOf(a)
			if !p.anyHostIP() && nft.FamilyOf(p.HostIP) != f {
				continue
			}
			proto, port := []byte{protocols[p.Protocol]}, nft.PortBytes(p.Host)
			data := nft.KeyBytes(nft.AddrBytes(a), nft.PortBytes(p.Container))
			if p.anyHostIP() {
				out[anyPortsOf(f)] = append(out[anyPortsOf(f)], nft.Element{Key: nft.KeyBytes(proto, port), Data: data})
			} else {
				out[portsOf(f)] = append(out[portsOf(f)], nft.Element{Key: nft.KeyBytes(nft.AddrBytes(p.HostIP), proto, port), Data: data})
			}
			out[hairpinOf(f)] = []nft.Element{{Key: nft.KeyBytes(nft.AddrBytes(a), nft.AddrBytes(a))}}
		}
	}
	return out
}

func (p Port) anyHostIP() bool { return !p.HostIP.IsValid() || p.HostIP.IsUnspecified() }

func (p Port) String() string {
	proto := p.Protocol
	if proto == "" {
		proto = "TCP"
	}
	if p.anyHostIP() {
		return fmt.Sprintf("%s %d", proto, p.Host)
	}
	return fmt.Sprintf("%s %s", proto, netip.AddrPortFrom(p.HostIP, p.Host))
}

func (p Port) collides(o Port) bool {
	return p.Host == o.Host && protocols[p.Protocol] == protocols[o.Protocol] &&
		(p.anyHostIP() || o.anyHostIP() || p.HostIP == o.HostIP)
}

// portConflict tells which other pod has a host port that this one wants. The
// caller holds n.mu.
func (n *Network) portConflict(pod Pod) error {
	for i, p := range pod.Ports {
		if _, known := protocols[p.Protocol]; !known || p.Host == 0 || p.Container == 0 {
			return fmt.Errorf("host port %s → %d is not a valid mapping", p, p.Container)
		}
		for _, o := range pod.Ports[:i] {
			if p.collides(o) {
				return fmt.Errorf("host port %s is mapped twice", p)
			}
		}
		for _, rec := range n.records {
			for _, o := range rec.Ports {
				if p.collides(o) {
					return fmt.Errorf("host port %s is in use by pod %s/%s", p, rec.Namespace, rec.Name)
				}
			}
		}
	}
	return nil
}

// openPorts and closePorts put a record's host ports in and out of effect.
// Whether the elements are there is not known after a crash or a failed
// Attach, so they are added first: that is no error for what is there.
func (n *Network) openPorts(rec *record) error {
	if len(rec.Ports) == 0 {
		return nil
	}
	b := nft.NewBatch(table)
	for set, elems := range rec.elements() {
		b.AddElements(set, elems...)
	}
	return n.rules.Apply(b)
}

func (n *Network) closePorts(rec *record) error {
	if len(rec.Ports) == 0 {
		return nil
	}
	b := nft.NewBatch(table)
	for set, elems := range rec.elements() {
		b.AddElements(set, elems...)
		b.DelElements(set, elems...)
	}
	if err := n.rules.Apply(b); err != nil {
		return err
	}
	return n.forgetUDP(rec)
}

// forgetUDP drops what the kernel remembers of UDP senders to the host ports,
// who would otherwise go on sending to a pod that is gone.
func (n *Network) forgetUDP(rec *record) error {
	f := &toPod{targets: map[netip.AddrPort]bool{}}
	for _, p := range rec.Ports {
		for _, a := range rec.IPs {
			if p.Protocol == "UDP" {
				f.targets[netip.AddrPortFrom(a, p.Container)] = true
			}
		}
	}
	if len(f.targets) == 0 {
		return nil
	}
	var errs []error
	for _, family := range []netlink.InetFamily{unix.AF_INET, unix.AF_INET6} {
		_, err := n.links.ConntrackDeleteFilters(netlink.ConntrackTable, family, f)
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// toPod matches UDP flows that were redirected to one of the targets.
type toPod struct{ targets map[netip.AddrPort]bool }

func (m *toPod) MatchConntrackFlow(flow *netlink.ConntrackFlow) bool {
	if flow.Forward.Protocol != unix.IPPROTO_UDP {
		return false
	}
	a, ok := netip.AddrFromSlice(flow.Reverse.SrcIP)
	return ok && m.targets[netip.AddrPortFrom(a.Unmap(), flow.Reverse.SrcPort)]
}
