package cluster

import (
	"errors"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"

	"proa/network"
)

// nodeAddresses returns the address by which others reach this machine: that of
// the default route's link, or else of the first link that has one.
func nodeAddresses() ([]netip.Addr, error) {
	preferred := defaultLink()
	links, err := net.Interfaces()
	if err != nil {
		return nil, err
	}
	var out []netip.Addr
	for _, l := range links {
		if l.Flags&net.FlagUp == 0 || l.Flags&net.FlagLoopback != 0 || ours(l.Name) {
			continue
		}
		addrs, err := l.Addrs()
		if err != nil {
			continue // it went away meanwhile
		}
		for _, a := range addrs {
			p, err := netip.ParsePrefix(a.String())
			if err != nil || !p.Addr().Is4() || !p.Addr().IsGlobalUnicast() {
				continue
			}
			if l.Index == preferred {
				out = slices.Insert(out, 0, p.Addr())
			} else {
				out = append(out, p.Addr())
			}
		}
	}
	if len(out) == 0 {
		return nil, errors.New("this machine has no IPv4 address besides loopback: " +
			"give a link one (for example: ip link add proa-host type bridge; ip addr add 192.168.100.1/24 dev proa-host; ip link set proa-host up)")
	}
	// The first is the node's; addresses of further links (other bridges,
	// VPNs) are not advertised as the node's own.
	return out[:1], nil
}

// ours tells the links that the pod network makes.
func ours(link string) bool { return link == "proa-dns" || len(link) > 4 && link[:4] == "veth" }

// defaultLink is the index of the link that the default route uses, or 0.
func defaultLink() int {
	routes, err := network.Dump(func() ([]netlink.Route, error) { return netlink.RouteList(nil, netlink.FAMILY_V4) })
	if err != nil {
		return 0
	}
	for _, r := range routes {
		if r.Dst == nil || r.Dst.IP.IsUnspecified() {
			return r.LinkIndex
		}
	}
	return 0
}
