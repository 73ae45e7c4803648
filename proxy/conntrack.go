package proxy

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const udp = unix.IPPROTO_UDP

// staleFlows matches UDP flows that the kernel remembers wrongly. UDP has no
// end, so a client that keeps sending would keep them alive.
type staleFlows struct {
	endpoints map[netip.AddrPort]bool // flows that were sent on to these, which left
	frontends map[netip.AddrPort]bool // flows that were not sent on from these, which are served now
}

// drop makes the kernel forget the flows.
func dropFlows(s staleFlows) error {
	if len(s.endpoints)+len(s.frontends) == 0 {
		return nil
	}
	h, err := netlink.NewHandle(unix.NETLINK_NETFILTER)
	if err != nil {
		return fmt.Errorf("proxy: open netlink: %w", err)
	}
	defer h.Close()
	var errs []error
	for _, family := range []netlink.InetFamily{unix.AF_INET, unix.AF_INET6} {
		if err := dropFamily(h, family, s); err != nil {
			errs = append(errs, fmt.Errorf("proxy: drop stale UDP flows: %w", err))
		}
	}
	return errors.Join(errs...)
}

// dropFamily goes through the table again when it changed so much under way
// that the kernel says it may have shown only part of it.
func dropFamily(h *netlink.Handle, family netlink.InetFamily, s staleFlows) (err error) {
	for range 5 {
		if _, err = h.ConntrackDeleteFilters(netlink.ConntrackTable, family, s); !errors.Is(err, netlink.ErrDumpInterrupted) {
			return err
		}
	}
	return err
}

// MatchConntrackFlow: the answers of a flow come from its real end, which is
// not the address that was asked for if the flow was sent on.
func (s staleFlows) MatchConntrackFlow(flow *netlink.ConntrackFlow) bool {
	if flow.Forward.Protocol != udp {
		return false
	}
	asked := addrPort(flow.Forward.DstIP, flow.Forward.DstPort)
	end := addrPort(flow.Reverse.SrcIP, flow.Reverse.SrcPort)
	if asked == end {
		return s.frontends[asked]
	}
	return s.endpoints[end]
}

func addrPort(ip net.IP, port uint16) netip.AddrPort {
	a, _ := netip.AddrFromSlice(ip)
	return netip.AddrPortFrom(a.Unmap(), port)
}
