package dns

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/miekg/dns"
)

// clientOf is a client's end of a question that never came over a network.
type clientOf struct {
	dns.ResponseWriter
	addr net.Addr
	got  *dns.Msg
}

func (c *clientOf) RemoteAddr() net.Addr        { return c.addr }
func (c *clientOf) WriteMsg(m *dns.Msg) error   { c.got = m; return nil }
func (c *clientOf) Write(b []byte) (int, error) { return len(b), nil }

// FuzzMessage sends made-up messages: whatever can be read is answered once, with
// something that can be sent, as long as the client takes at most.
func FuzzMessage(f *testing.F) {
	s, err := New(Config{Client: world(), Domain: "cluster.local"})
	if err != nil {
		f.Fatal(err)
	}
	s.ctx = context.Background()
	seed := func(name string, qtype uint16, with ...func(*dns.Msg)) {
		m := new(dns.Msg)
		m.SetQuestion(name, qtype)
		for _, change := range with {
			change(m)
		}
		b, err := m.Pack()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b, true)
		f.Add(b, false)
	}
	for _, name := range []string{"web.default.svc.cluster.local.", "_http._tcp.web.default.svc.cluster.local.", "circle.default.svc.cluster.local.", "20.0.96.10.in-addr.arpa.",
		"db-0.db.default.svc.cluster.local.", "10-244-0-5.default.pod.cluster.local.", "example.org.", ".", "ip6.arpa.", "dns-version.cluster.local."} {
		for _, t := range []uint16{dns.TypeA, dns.TypeAAAA, dns.TypeSRV, dns.TypePTR, dns.TypeANY, dns.TypeAXFR} {
			seed(name, t)
		}
	}
	seed("web.default.svc.cluster.local.", dns.TypeA, func(m *dns.Msg) { m.SetEdns0(1, true) })
	seed("web.default.svc.cluster.local.", dns.TypeA, func(m *dns.Msg) { m.Question = append(m.Question, m.Question[0]) })
	seed("web.default.svc.cluster.local.", dns.TypeA, func(m *dns.Msg) { m.Opcode = dns.OpcodeUpdate })
	f.Fuzz(func(t *testing.T, b []byte, tcp bool) {
		req := new(dns.Msg)
		if req.Unpack(b) != nil {
			return
		}
		c := &clientOf{addr: &net.UDPAddr{}}
		limit := udpSize
		if tcp {
			c.addr, limit = &net.TCPAddr{}, dns.MaxMsgSize
		}
		s.ServeDNS(c, req)
		if c.got == nil || c.got.Id != req.Id || !c.got.Response {
			t.Fatalf("%q is answered with %v", b, c.got)
		}
		out, err := c.got.Pack()
		if err != nil {
			t.Fatalf("the answer to %q cannot be sent: %v", b, err)
		}
		if len(out) > limit {
			t.Errorf("the answer to %q has %d bytes", b, len(out))
		}
	})
}

// FuzzNameservers reads made-up files of resolvers.
func FuzzNameservers(f *testing.F) {
	f.Add("nameserver 127.0.0.53\noptions edns0\nsearch a b\n")
	f.Add("nameserver fe80::1%eth0\nnameserver\nnameserver 1.2.3.4 # x\n;nameserver 1.1.1.1\n")
	own := netip.MustParseAddrPort("127.0.0.53:53")
	path := filepath.Join(f.TempDir(), "resolv.conf")
	f.Fuzz(func(t *testing.T, text string) {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		fw := newForwarder([]netip.AddrPort{own}, slog.New(slog.DiscardHandler))
		if _, err := fw.configure(path); err != nil {
			return
		}
		for _, r := range *fw.resolvers.Load() {
			if !r.addr.IsValid() || r.addr == own {
				t.Errorf("%q gives resolver %v", text, r.addr)
			}
		}
	})
}
