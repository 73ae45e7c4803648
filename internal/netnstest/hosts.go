package netnstest

import (
	"errors"
	"fmt"
	"io"
	"net"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
)

// Outside makes another machine one hop away, which has no route to pods or
// Services, and the test's own namespace a node with a default route to it and
// with its loopback up. Addresses are as in "192.168.7.2/24".
func Outside(t testing.TB, node, other string) *NS {
	t.Helper()
	ns := New(t)
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = "world", 1400
	veth := netlink.NewVeth(attrs)
	veth.PeerName, veth.PeerNamespace, veth.PeerMTU = "world", netlink.NsFd(ns.FD()), 1400
	Check(t, netlink.LinkAdd(veth))
	t.Cleanup(func() { netlink.LinkDel(veth) })
	Check(t, address("world", node))
	Check(t, ns.Do(func() error { return errors.Join(address("world", other), address("lo", "127.0.0.2/8")) }))
	Check(t, address("lo", ""))
	gw, _, err := net.ParseCIDR(other)
	Check(t, err)
	Check(t, netlink.RouteReplace(&netlink.Route{Dst: &net.IPNet{IP: net.IPv4zero, Mask: net.CIDRMask(0, 32)}, Gw: gw}))
	_, err = netlink.LinkByName("world") // has the kernel see to the carrier first
	Check(t, err)
	return ns
}

// address gives a link an address and sets it up.
func address(name, addr string) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	if addr == "" {
		return netlink.LinkSetUp(link)
	}
	a, err := netlink.ParseAddr(addr)
	if err != nil {
		return err
	}
	return errors.Join(netlink.AddrReplace(link, a), netlink.LinkSetUp(link))
}

// Check ends the test on an error.
func Check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// Serve answers every TCP connection and UDP packet in the namespace (nil: the
// test's own) with "name sees address", until stop.
func Serve(t testing.TB, ns *NS, name, addr string) (stop func()) {
	t.Helper()
	var l net.Listener
	var u net.PacketConn
	Check(t, ns.Do(func() (err error) {
		if l, err = net.Listen("tcp4", addr); err != nil {
			return err
		}
		u, err = net.ListenPacket("udp4", addr)
		return err
	}))
	stop = func() { l.Close(); u.Close() }
	t.Cleanup(stop)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				fmt.Fprintf(c, "%s sees %s", name, c.RemoteAddr().(*net.TCPAddr).IP)
				c.Close()
			}()
		}
	}()
	go func() {
		buf := make([]byte, 100)
		for {
			_, from, err := u.ReadFrom(buf)
			if err != nil {
				return
			}
			u.WriteTo(fmt.Appendf(nil, "%s sees %s", name, from.(*net.UDPAddr).IP), from)
		}
	}()
	return stop
}

// patience is for answers that come at once unless the machine is busy.
const patience = 10 * time.Second

// Ask connects from the namespace and returns what the server says.
func Ask(ns *NS, network, addr string) (answer string, err error) {
	return AskWithin(patience, ns, network, addr)
}

// AskWithin is Ask for where no answer may be what is right: connecting and
// reading take that long at most, each.
func AskWithin(limit time.Duration, ns *NS, network, addr string) (answer string, err error) {
	var c net.Conn
	err = ns.Do(func() (err error) {
		c, err = net.DialTimeout(network, addr, limit)
		return err
	})
	if err != nil {
		return "", err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(limit))
	if network != "udp4" {
		b, err := io.ReadAll(c)
		return string(b), err
	}
	if _, err := c.Write([]byte("?")); err != nil {
		return "", err
	}
	buf := make([]byte, 100)
	n, err := c.Read(buf)
	return string(buf[:n]), err
}
