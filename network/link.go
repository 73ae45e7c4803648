package network

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	linkPrefix = "proav"
	podLink    = "eth0"
	dnsLink    = "proa-dns"
)

// linkName is the node's end of a pod's link. It follows from the ID, so that
// it can be removed even if nothing is remembered about the pod.
func linkName(id string) string {
	sum := sha256.Sum256([]byte(id))
	return linkPrefix + hex.EncodeToString(sum[:5])
}

// Every pod's gateway is the same link-local address, which no link has: the
// pod holds a permanent neighbour entry for it that points at the node's end of
// its own link, and the node holds one for the pod. So there is no ARP traffic,
// no proxy ARP, and nothing to answer at the node's end.
var (
	gateway4 = netip.MustParseAddr("169.254.1.1")
	gateway6 = netip.MustParseAddr("fe80::1")
	hostMAC  = net.HardwareAddr{0x0e, 0xa0, 0, 0, 0, 1}
)

func gateway(a netip.Addr) netip.Addr {
	if a.Is4() {
		return gateway4
	}
	return gateway6
}

// podMAC is a locally administered address that follows from the pod's.
func podMAC(a netip.Addr) net.HardwareAddr {
	b := a.AsSlice()
	return append(net.HardwareAddr{0x0a, 0x58}, b[len(b)-4:]...)
}

// plug makes the link between node and pod, in place of any left half made.
func (n *Network) plug(rec *record, ns string) error {
	target, err := os.Open(ns)
	if err != nil {
		return fmt.Errorf("open the pod's network namespace: %w", err)
	}
	defer target.Close()
	if err := n.unplug(rec.Link); err != nil {
		return err
	}
	link := n.veth(rec, int(target.Fd()))
	if err := n.links.LinkAdd(link); err != nil {
		return fmt.Errorf("add link %s: %w", rec.Link, err)
	}
	if err := n.setupNode(rec, link.Attrs().Index); err != nil {
		return err
	}
	if err := inside(target, func(h *netlink.Handle) error { return setupPod(h, rec) }); err != nil {
		return err
	}
	return n.settle(link.Attrs().Index)
}

// settle asks for the link's state, which has the kernel see to its carrier
// first. Until it did, the node's end drops what it should send, and a first
// connection to the pod would wait a second for its second try.
func (n *Network) settle(index int) error {
	_, err := n.links.LinkByIndex(index)
	return err
}

func (n *Network) veth(rec *record, ns int) *netlink.Veth {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU, attrs.HardwareAddr = rec.Link, n.mtu(), hostMAC
	attrs.NumTxQueues, attrs.NumRxQueues = 1, 1
	link := netlink.NewVeth(attrs)
	link.PeerName, link.PeerNamespace, link.PeerMTU = podLink, netlink.NsFd(ns), uint32(attrs.MTU)
	link.PeerHardwareAddr = podMAC(rec.IPs[0])
	return link
}

// mtu is that of the link to the world, so that no packet must be split on its
// way there.
func (n *Network) mtu() int {
	const ethernet = 1500
	routes, err := n.links.RouteGet(net.IPv4(192, 0, 2, 1)) // an address that nobody has (RFC 5737)
	if err != nil || len(routes) == 0 {
		return ethernet
	}
	link, err := n.links.LinkByIndex(routes[0].LinkIndex)
	if err != nil || link.Attrs().Flags&net.FlagLoopback != 0 {
		return ethernet
	}
	return link.Attrs().MTU
}

func (n *Network) setupNode(rec *record, index int) error {
	if err := nodeSysctls(rec); err != nil {
		return err
	}
	if err := n.links.LinkSetUp(device(index)); err != nil {
		return fmt.Errorf("set link %s up: %w", rec.Link, err)
	}
	for _, a := range rec.IPs {
		if err := n.links.NeighSet(neighbour(index, a, podMAC(rec.IPs[0]))); err != nil {
			return fmt.Errorf("add the neighbour %s: %w", a, err)
		}
		route := &netlink.Route{LinkIndex: index, Dst: host(a), Scope: netlink.SCOPE_LINK}
		if err := n.links.RouteReplace(route); err != nil {
			return fmt.Errorf("add the route to %s: %w", a, err)
		}
	}
	return limit(n.links, index, rec.Ingress)
}

// setupPod works inside the pod's namespace.
func setupPod(h *netlink.Handle, rec *record) error {
	if err := h.LinkSetUp(device(1)); err != nil { // loopback is always 1
		return fmt.Errorf("set loopback up: %w", err)
	}
	link, err := h.LinkByName(podLink)
	if err != nil {
		return fmt.Errorf("find the pod's link: %w", err)
	}
	if !hasIPv6(rec) {
		if err := write("ipv6/conf/"+podLink+"/disable_ipv6", "1"); err != nil {
			return err
		}
	}
	for _, a := range rec.IPs {
		if err := h.AddrReplace(link, &netlink.Addr{IPNet: host(a), Flags: unix.IFA_F_NODAD}); err != nil {
			return fmt.Errorf("give the pod %s: %w", a, err)
		}
	}
	if err := h.LinkSetUp(link); err != nil {
		return fmt.Errorf("set the pod's link up: %w", err)
	}
	for _, a := range rec.IPs {
		if err := setupGateway(h, link.Attrs().Index, gateway(a)); err != nil {
			return err
		}
	}
	return limit(h, link.Attrs().Index, rec.Egress)
}

func setupGateway(h *netlink.Handle, index int, gw netip.Addr) error {
	if err := h.NeighSet(neighbour(index, gw, hostMAC)); err != nil {
		return fmt.Errorf("add the pod's gateway: %w", err)
	}
	onlink := &netlink.Route{LinkIndex: index, Dst: host(gw), Scope: netlink.SCOPE_LINK}
	if err := h.RouteReplace(onlink); err != nil {
		return fmt.Errorf("add the route to the pod's gateway: %w", err)
	}
	all := &net.IPNet{IP: make(net.IP, gw.BitLen()/8), Mask: make(net.IPMask, gw.BitLen()/8)}
	if err := h.RouteReplace(&netlink.Route{LinkIndex: index, Dst: all, Gw: gw.AsSlice()}); err != nil {
		return fmt.Errorf("add the pod's default route: %w", err)
	}
	return nil
}

// plugged tells whether the pod's link is there, complete, in this namespace.
func (n *Network) plugged(rec *record, ns string) bool {
	link, err := n.links.LinkByName(rec.Link)
	if err != nil || link.Attrs().Flags&net.FlagUp == 0 {
		return false
	}
	target, err := os.Open(ns)
	if err != nil {
		return false
	}
	defer target.Close()
	return inside(target, func(h *netlink.Handle) error {
		eth, err := h.LinkByName(podLink)
		if err != nil {
			return err
		}
		if eth.Attrs().Index != link.Attrs().ParentIndex {
			return errors.New("another link")
		}
		routes, err := Dump(func() ([]netlink.Route, error) {
			return h.RouteListFiltered(unix.AF_UNSPEC, &netlink.Route{LinkIndex: eth.Attrs().Index}, netlink.RT_FILTER_OIF)
		})
		if err == nil && len(routes) < 2*len(rec.IPs) {
			err = errors.New("incomplete")
		}
		return err
	}) == nil
}

// inside runs f on a thread that is in the namespace.
func inside(ns *os.File, f func(*netlink.Handle) error) error {
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		home, err := os.Open("/proc/thread-self/ns/net")
		if err != nil {
			result <- err
			return
		}
		defer home.Close()
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			runtime.UnlockOSThread()
			result <- fmt.Errorf("enter the pod's network namespace: %w", err)
			return
		}
		result <- withHandle(f)
		// A thread that cannot go home ends with its goroutine.
		if unix.Setns(int(home.Fd()), unix.CLONE_NEWNET) == nil {
			runtime.UnlockOSThread()
		}
	}()
	return <-result
}

func withHandle(f func(*netlink.Handle) error) error {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("open netlink in the pod's network namespace: %w", err)
	}
	defer h.Close()
	return f(h)
}

// unplug removes the node's end of a link, and with it the pod's.
func (n *Network) unplug(name string) error {
	link, err := n.links.LinkByName(name)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("find link %s: %w", name, err)
	}
	if err := n.reaper.remove(link.Attrs().Index); err != nil {
		return fmt.Errorf("remove link %s: %w", name, err)
	}
	return nil
}

// podLinks finds the links of pods in this namespace: names and indexes.
func podLinks(h *netlink.Handle) (map[string]int, error) {
	links, err := Dump(h.LinkList)
	if err != nil {
		return nil, fmt.Errorf("network: list links: %w", err)
	}
	out := map[string]int{}
	for _, l := range links {
		if strings.HasPrefix(l.Attrs().Name, linkPrefix) {
			out[l.Attrs().Name] = l.Attrs().Index
		}
	}
	return out, nil
}

// EnsureDNSAddress puts the cluster's DNS address on a link of this node, so
// that a resolver can listen on it, and leads cluster IPs to that link.
// Calling it again adds to what is there.
func (n *Network) EnsureDNSAddress(addr netip.Addr) error {
	link, err := n.links.LinkByName(dnsLink)
	if err != nil {
		if link, err = n.addDNSLink(); err != nil {
			return err
		}
	}
	// Scope host keeps the kernel from choosing the address as a source.
	a := &netlink.Addr{IPNet: host(addr), Scope: int(netlink.SCOPE_HOST), Flags: unix.IFA_F_NODAD}
	if err := n.links.AddrReplace(link, a); err != nil {
		return fmt.Errorf("network: put %s on %s: %w", addr, dnsLink, err)
	}
	if err := n.links.LinkSetUp(link); err != nil {
		return fmt.Errorf("network: set link %s up: %w", dnsLink, err)
	}
	return n.leadServices(link)
}

// leadServices gives the node a way to cluster IPs, which it needs for its own
// connections before the Service rules see them: a machine may have no default
// route.
func (n *Network) leadServices(link netlink.Link) error {
	cidr := n.cfg.ServiceCIDR
	if !cidr.IsValid() {
		return nil
	}
	dst := &net.IPNet{IP: cidr.Masked().Addr().AsSlice(), Mask: net.CIDRMask(cidr.Bits(), cidr.Addr().BitLen())}
	if err := n.links.RouteReplace(&netlink.Route{LinkIndex: link.Attrs().Index, Dst: dst, Scope: netlink.SCOPE_LINK}); err != nil {
		return fmt.Errorf("network: lead %s to %s: %w", cidr, dnsLink, err)
	}
	return nil
}

// addDNSLink makes a dummy link, or, in a kernel without those, a bridge that
// bridges nothing.
func (n *Network) addDNSLink() (netlink.Link, error) {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = dnsLink
	var err error
	for _, link := range []netlink.Link{&netlink.Dummy{LinkAttrs: attrs}, &netlink.Bridge{LinkAttrs: attrs}} {
		if err = n.links.LinkAdd(link); err == nil {
			return n.links.LinkByName(dnsLink)
		}
	}
	return nil, fmt.Errorf("network: add link %s: %w", dnsLink, err)
}

func host(a netip.Addr) *net.IPNet {
	return &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(a.BitLen(), a.BitLen())}
}

func neighbour(index int, a netip.Addr, mac net.HardwareAddr) *netlink.Neigh {
	family := netlink.FAMILY_V4
	if a.Is6() {
		family = netlink.FAMILY_V6
	}
	return &netlink.Neigh{LinkIndex: index, Family: family, State: netlink.NUD_PERMANENT, IP: a.AsSlice(), HardwareAddr: mac}
}

func hasIPv6(rec *record) bool {
	for _, a := range rec.IPs {
		if a.Is6() {
			return true
		}
	}
	return false
}

// limit shapes what leaves a link to rate bit/s; 0 is no limit.
func limit(h *netlink.Handle, index int, rate int64) error {
	if rate <= 0 {
		return nil
	}
	bytes := max(uint64(rate)/8, 1)
	// A burst of 100 ms, but at least one segmentation-offload packet; the
	// queue behind it holds as much again.
	burst := uint32(min(max(bytes/10, 64<<10), 1<<31))
	tbf := &netlink.Tbf{
		QdiscAttrs: netlink.QdiscAttrs{LinkIndex: index, Handle: netlink.MakeHandle(1, 0), Parent: netlink.HANDLE_ROOT},
		Rate:       bytes, Limit: 2 * burst, Buffer: netlink.Xmittime(bytes, burst),
	}
	if err := h.QdiscReplace(tbf); err != nil {
		return fmt.Errorf("limit the bandwidth: %w", err)
	}
	return nil
}

// nodeSysctls: packets of a pod must carry its own address (strict reverse
// path); answers to connections that the node made from 127.0.0.1 to a pod's
// host port come back over this link (route_localnet; the rules drop what pods
// send to 127.0.0.0/8 by themselves); without IPv6 pods the kernel need not
// chat in it.
func nodeSysctls(rec *record) error {
	conf := "ipv4/conf/" + rec.Link + "/"
	if err := errors.Join(write(conf+"rp_filter", "1"), write(conf+"route_localnet", "1")); err != nil {
		return err
	}
	if hasIPv6(rec) {
		return nil
	}
	return write("ipv6/conf/"+rec.Link+"/disable_ipv6", "1")
}

// forward lets the node route packets of the address family.
func forward(a netip.Addr) error {
	name := "ipv4/ip_forward"
	if a.Is6() {
		name = "ipv6/conf/all/forwarding"
	}
	if b, err := os.ReadFile(filepath.Join("/proc/sys/net", name)); err == nil && strings.TrimSpace(string(b)) == "1" {
		return nil
	}
	return write(name, "1")
}

// write sets a sysctl of the thread's network namespace. A kernel without IPv6
// has none to set.
func write(name, value string) error {
	err := os.WriteFile(filepath.Join("/proc/sys/net", name), []byte(value), 0)
	if errors.Is(err, os.ErrNotExist) && strings.HasPrefix(name, "ipv6/") {
		return nil
	}
	if err != nil {
		return fmt.Errorf("set the kernel parameter net/%s: %w", name, err)
	}
	return nil
}
