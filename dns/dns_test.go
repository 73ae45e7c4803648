package dns

import (
	"context"
	"flag"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"proa/client"
	"proa/client/clienttest"
)

var rewrite = flag.Bool("rewrite", false, "write the golden files anew")

func ptr[T any](v T) *T { return &v }

func service(name string, spec corev1.ServiceSpec) *corev1.Service {
	if spec.ClusterIP != "" && spec.ClusterIPs == nil {
		spec.ClusterIPs = []string{spec.ClusterIP}
	}
	return &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, Spec: spec}
}

func endpoints(svc string, family discoveryv1.AddressType, port int32, list ...discoveryv1.Endpoint) *discoveryv1.EndpointSlice {
	return &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Namespace: "default", Name: svc + "-" + strings.ToLower(string(family)), Labels: map[string]string{discoveryv1.LabelServiceName: svc}},
		AddressType: family, Endpoints: list,
		Ports: []discoveryv1.EndpointPort{{Name: ptr("peer"), Protocol: ptr(corev1.ProtocolTCP), Port: &port}},
	}
}

// objects are the world of the tests.
func objects() []client.Object {
	web := []corev1.ServicePort{
		{Name: "http", Protocol: corev1.ProtocolTCP, Port: 80},
		{Name: "dns", Protocol: corev1.ProtocolUDP, Port: 53},
	}
	return []client.Object{
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "default"}},
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "empty"}},
		service("web", corev1.ServiceSpec{ClusterIP: "10.96.0.20", ClusterIPs: []string{"10.96.0.20", "fd00::20"}, Ports: web}),
		service("db", corev1.ServiceSpec{ClusterIP: corev1.ClusterIPNone, Ports: []corev1.ServicePort{{Name: "peer", Protocol: corev1.ProtocolTCP, Port: 5432}}}),
		endpoints("db", discoveryv1.AddressTypeIPv4, 5432,
			discoveryv1.Endpoint{Addresses: []string{"10.244.0.5"}, Hostname: ptr("db-0")},
			discoveryv1.Endpoint{Addresses: []string{"10.244.0.6"}},
			discoveryv1.Endpoint{Addresses: []string{"10.244.0.7"}, Hostname: ptr("db-2"), Conditions: discoveryv1.EndpointConditions{Ready: ptr(false)}}),
		service("none", corev1.ServiceSpec{ClusterIP: corev1.ClusterIPNone}),
		service("ext", corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName, ExternalName: "www.example.org"}),
		service("alias", corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName, ExternalName: "web.default.svc.cluster.local"}),
		service("circle", corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName, ExternalName: "circle.default.svc.cluster.local"}),
		service("pending", corev1.ServiceSpec{}),
	}
}

// start runs a resolver on a loopback port.
func start(t testing.TB, c *clienttest.Client, resolvConf string) netip.AddrPort {
	t.Helper()
	s, err := New(Config{Client: c, Listen: []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:0")}, Domain: "cluster.local", ResolvConf: resolvConf})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return s.addresses()[0]
}

func world() *clienttest.Client {
	c := clienttest.New()
	for _, o := range objects() {
		c.Inject(o)
	}
	return c
}

func ask(t testing.TB, at netip.AddrPort, network, name string, qtype uint16, with ...func(*dns.Msg)) *dns.Msg {
	t.Helper()
	m := new(dns.Msg)
	m.SetQuestion(name, qtype)
	for _, f := range with {
		f(m)
	}
	r, _, err := (&dns.Client{Net: network, Timeout: 6 * time.Second}).Exchange(m, at.String())
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return r
}

// render writes an answer so that it can be compared: records in order of
// their text.
func render(m *dns.Msg) string {
	var out strings.Builder
	flags := ""
	if m.Authoritative {
		flags = " authoritative"
	}
	fmt.Fprintf(&out, "%s %s: %s%s\n", m.Question[0].Name, dns.TypeToString[m.Question[0].Qtype], dns.RcodeToString[m.Rcode], flags)
	for _, section := range []struct {
		name    string
		records []dns.RR
	}{{"answer", m.Answer}, {"authority", m.Ns}, {"additional", m.Extra}} {
		var lines []string
		for _, r := range section.records {
			lines = append(lines, fmt.Sprintf("  %s: %s\n", section.name, strings.ReplaceAll(r.String(), "\t", " ")))
		}
		slices.Sort(lines)
		out.WriteString(strings.Join(lines, ""))
	}
	return out.String()
}

func TestAnswersFollowTheSpecification(t *testing.T) {
	at := start(t, world(), "")
	var out strings.Builder
	for _, q := range []struct {
		name  string
		types []uint16
	}{
		{"dns-version.cluster.local.", []uint16{dns.TypeTXT, dns.TypeA}},
		{"cluster.local.", []uint16{dns.TypeSOA, dns.TypeNS, dns.TypeA}},
		{"ns.dns.cluster.local.", []uint16{dns.TypeA}},
		{"svc.cluster.local.", []uint16{dns.TypeA}},
		{"default.svc.cluster.local.", []uint16{dns.TypeA}},
		{"nowhere.svc.cluster.local.", []uint16{dns.TypeA}},
		{"web.default.svc.cluster.local.", []uint16{dns.TypeA, dns.TypeAAAA, dns.TypeSRV, dns.TypeMX}},
		{"wEb.DeFault.svc.Cluster.local.", []uint16{dns.TypeA}},
		{"_http._tcp.web.default.svc.cluster.local.", []uint16{dns.TypeSRV, dns.TypeA}},
		{"_dns._udp.web.default.svc.cluster.local.", []uint16{dns.TypeSRV}},
		{"_tcp.web.default.svc.cluster.local.", []uint16{dns.TypeSRV, dns.TypeA}},
		{"_http._udp.web.default.svc.cluster.local.", []uint16{dns.TypeSRV}},
		{"x.web.default.svc.cluster.local.", []uint16{dns.TypeA}},
		{"missing.default.svc.cluster.local.", []uint16{dns.TypeA}},
		{"web.empty.svc.cluster.local.", []uint16{dns.TypeA}},
		{"pending.default.svc.cluster.local.", []uint16{dns.TypeA}},
		{"db.default.svc.cluster.local.", []uint16{dns.TypeA, dns.TypeAAAA, dns.TypeSRV}},
		{"db-0.db.default.svc.cluster.local.", []uint16{dns.TypeA, dns.TypeAAAA}},
		{"10-244-0-6.db.default.svc.cluster.local.", []uint16{dns.TypeA}},
		{"db-2.db.default.svc.cluster.local.", []uint16{dns.TypeA}},
		{"_peer._tcp.db.default.svc.cluster.local.", []uint16{dns.TypeSRV}},
		{"none.default.svc.cluster.local.", []uint16{dns.TypeA}},
		{"alias.default.svc.cluster.local.", []uint16{dns.TypeA, dns.TypeCNAME}},
		{"circle.default.svc.cluster.local.", []uint16{dns.TypeCNAME}},
		{"10-244-0-9.default.pod.cluster.local.", []uint16{dns.TypeA, dns.TypeAAAA}},
		{"fd00--9.default.pod.cluster.local.", []uint16{dns.TypeAAAA}},
		{"10-244-0-9.nowhere.pod.cluster.local.", []uint16{dns.TypeA}},
		{"banana.default.pod.cluster.local.", []uint16{dns.TypeA}},
		{"20.0.96.10.in-addr.arpa.", []uint16{dns.TypePTR, dns.TypeA}},
		{"5.0.244.10.in-addr.arpa.", []uint16{dns.TypePTR}},
		{"0.2.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa.", []uint16{dns.TypePTR}},
		{"www.example.org.default.svc.cluster.local.", []uint16{dns.TypeA}},
	} {
		for _, qtype := range q.types {
			out.WriteString(render(ask(t, at, "udp", q.name, qtype)))
		}
	}
	const path = "testdata/answers.golden"
	if *rewrite {
		if err := os.WriteFile(path, []byte(out.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if out.String() != string(want) {
		t.Errorf("got:\n%s\nwant:\n%s", out.String(), want)
	}
}

func TestAnswersChangeWithTheWorld(t *testing.T) {
	c := world()
	at := start(t, c, "")
	name := "late.default.svc.cluster.local."
	if r := ask(t, at, "udp", name, dns.TypeA); r.Rcode != dns.RcodeNameError {
		t.Error(render(r))
	}
	c.Inject(service("late", corev1.ServiceSpec{ClusterIP: "10.96.0.99"}))
	if r := ask(t, at, "udp", name, dns.TypeA); len(r.Answer) != 1 {
		t.Error(render(r))
	}
	reverse := "99.0.96.10.in-addr.arpa."
	deadline := time.Now().Add(5 * time.Second)
	for len(ask(t, at, "udp", reverse, dns.TypePTR).Answer) != 1 {
		if time.Now().After(deadline) {
			t.Fatal("no PTR record")
		}
	}
}

func TestLongAnswersAreTruncatedForUDPOnly(t *testing.T) {
	c := world()
	var list []discoveryv1.Endpoint
	for i := range 100 {
		list = append(list, discoveryv1.Endpoint{Addresses: []string{fmt.Sprintf("10.244.1.%d", i+1)}})
	}
	c.Inject(service("many", corev1.ServiceSpec{ClusterIP: corev1.ClusterIPNone}))
	c.Inject(endpoints("many", discoveryv1.AddressTypeIPv4, 80, list...))
	at := start(t, c, "")
	name := "many.default.svc.cluster.local."
	plain := ask(t, at, "udp", name, dns.TypeA)
	plain.Compress = true // as it was sent
	if !plain.Truncated || plain.Len() > 512 {
		t.Errorf("truncated %t, %d bytes", plain.Truncated, plain.Len())
	}
	edns := ask(t, at, "udp", name, dns.TypeA, func(m *dns.Msg) { m.SetEdns0(4096, false) })
	edns.Compress = true
	if !edns.Truncated || len(edns.Answer) <= len(plain.Answer) || edns.Len() > udpSize || edns.IsEdns0() == nil {
		t.Errorf("with EDNS0: truncated %t, %d answers, %d bytes", edns.Truncated, len(edns.Answer), edns.Len())
	}
	if tcp := ask(t, at, "tcp", name, dns.TypeA); tcp.Truncated || len(tcp.Answer) != 100 {
		t.Errorf("TCP: truncated %t, %d answers", tcp.Truncated, len(tcp.Answer))
	}
}

// upstream is another resolver; answer makes its replies.
type upstream struct {
	at    netip.AddrPort
	asked atomic.Int64
}

func newUpstream(t testing.TB, answer func(m *dns.Msg, tcp bool)) *upstream {
	t.Helper()
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	udp, err := net.ListenPacket("udp", tcp.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	u := &upstream{at: tcp.Addr().(*net.TCPAddr).AddrPort()}
	handler := dns.HandlerFunc(func(w dns.ResponseWriter, req *dns.Msg) {
		if req.Question[0].Qtype != dns.TypeHINFO {
			u.asked.Add(1)
		}
		m := new(dns.Msg)
		m.SetReply(req)
		_, isTCP := w.RemoteAddr().(*net.TCPAddr)
		answer(m, isTCP)
		w.WriteMsg(m)
	})
	for _, s := range []*dns.Server{{Listener: tcp, Handler: handler}, {PacketConn: udp, Handler: handler}} {
		go s.ActivateAndServe()
		t.Cleanup(func() { s.Shutdown() })
	}
	return u
}

func record(text string) dns.RR {
	r, err := dns.NewRR(text)
	if err != nil {
		panic(err)
	}
	return r
}

// address answers every question with one address.
func address(ip string) func(*dns.Msg, bool) {
	return func(m *dns.Msg, _ bool) {
		m.Answer = []dns.RR{record(m.Question[0].Name + " 60 IN A " + ip)}
	}
}

func resolvConf(t testing.TB, servers ...netip.AddrPort) string {
	path := filepath.Join(t.TempDir(), "resolv.conf")
	writeResolvConf(t, path, servers...)
	return path
}

func writeResolvConf(t testing.TB, path string, servers ...netip.AddrPort) {
	text := "# made for a test\nsearch example.org\noptions ndots:1\n"
	for _, s := range servers {
		text += fmt.Sprintf("nameserver %s\n", s)
	}
	tmp := path + ".new"
	if err := os.WriteFile(tmp, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(tmp, path); err != nil {
		t.Fatal(err)
	}
}

func TestOutsideNamesAreForwardedAndRemembered(t *testing.T) {
	u := newUpstream(t, address("192.0.2.7"))
	at := start(t, world(), resolvConf(t, u.at))
	for range 5 {
		r := ask(t, at, "udp", "WWW.example.org.", dns.TypeA)
		if len(r.Answer) != 1 || !strings.HasPrefix(r.Answer[0].String(), "WWW.example.org.\t60") || r.Authoritative || !r.RecursionAvailable {
			t.Error(render(r))
		}
	}
	if n := u.asked.Load(); n != 1 {
		t.Errorf("asked %d times", n)
	}
	r := ask(t, at, "udp", "ext.default.svc.cluster.local.", dns.TypeA)
	if got := render(r); !strings.Contains(got, "CNAME www.example.org.") || !strings.Contains(got, "A 192.0.2.7") {
		t.Errorf("an external name is not followed:\n%s", got)
	}
	if r := ask(t, at, "udp", "circle.default.svc.cluster.local.", dns.TypeA); len(r.Answer) == 0 {
		t.Errorf("a circle: %s", render(r))
	}
}

func TestNothingIsRememberedNegativelyToo(t *testing.T) {
	u := newUpstream(t, func(m *dns.Msg, _ bool) {
		m.Rcode = dns.RcodeNameError
		m.Ns = []dns.RR{record("org. 900 IN SOA a. b. 1 2 3 4 10")}
	})
	at := start(t, world(), resolvConf(t, u.at))
	for range 3 {
		if r := ask(t, at, "udp", "missing.org.", dns.TypeA); r.Rcode != dns.RcodeNameError || len(r.Ns) != 1 {
			t.Error(render(r))
		}
	}
	if n := u.asked.Load(); n != 1 {
		t.Errorf("asked %d times", n)
	}
}

func TestAResolverThatFailsIsPassedOver(t *testing.T) {
	dead, err := net.ListenPacket("udp", "127.0.0.1:0") // takes questions and says nothing
	if err != nil {
		t.Fatal(err)
	}
	defer dead.Close()
	broken := newUpstream(t, func(m *dns.Msg, _ bool) { m.Rcode = dns.RcodeServerFailure })
	good := newUpstream(t, address("192.0.2.8"))
	at := start(t, world(), resolvConf(t, dead.LocalAddr().(*net.UDPAddr).AddrPort(), broken.at, good.at))
	slow := 0
	for i := range 5 {
		begin := time.Now()
		if r := ask(t, at, "udp", fmt.Sprintf("host%d.org.", i), dns.TypeA); len(r.Answer) != 1 {
			t.Error(render(r))
		}
		if time.Since(begin) > time.Second {
			slow++
		}
	}
	if slow > 1 {
		t.Errorf("%d of 5 questions waited for the resolver that is dead", slow)
	}
}

func TestAllResolversFail(t *testing.T) {
	broken := newUpstream(t, func(m *dns.Msg, _ bool) { m.Rcode = dns.RcodeServerFailure })
	at := start(t, world(), resolvConf(t, broken.at))
	if r := ask(t, at, "udp", "host.org.", dns.TypeA); r.Rcode != dns.RcodeServerFailure {
		t.Error(render(r))
	}
	at = start(t, world(), "")
	if r := ask(t, at, "udp", "host.org.", dns.TypeA); r.Rcode != dns.RcodeServerFailure {
		t.Error(render(r))
	}
}

func TestLongOutsideAnswersComeOverTCP(t *testing.T) {
	u := newUpstream(t, func(m *dns.Msg, tcp bool) {
		if m.Truncated = !tcp; tcp {
			address("192.0.2.9")(m, tcp)
		}
	})
	at := start(t, world(), resolvConf(t, u.at))
	if r := ask(t, at, "udp", "long.org.", dns.TypeA); len(r.Answer) != 1 {
		t.Error(render(r))
	}
}

func TestChangedResolversAreFollowed(t *testing.T) {
	one, two := newUpstream(t, address("192.0.2.1")), newUpstream(t, address("192.0.2.2"))
	path := resolvConf(t, one.at)
	at := start(t, world(), path)
	if r := ask(t, at, "udp", "host.org.", dns.TypeA); !strings.Contains(render(r), "192.0.2.1") {
		t.Error(render(r))
	}
	writeResolvConf(t, path, two.at)
	deadline := time.Now().Add(5 * time.Second)
	for !strings.Contains(render(ask(t, at, "udp", "host.org.", dns.TypeA)), "192.0.2.2") {
		if time.Now().After(deadline) {
			t.Fatal("the old resolver is still asked")
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func TestALoopIsLeftOut(t *testing.T) {
	// A resolver that sends all it gets to the resolver under test.
	var back atomic.Pointer[netip.AddrPort]
	var questions atomic.Int64
	loop := newUpstream(t, func(m *dns.Msg, _ bool) {
		questions.Add(1)
		for back.Load() == nil {
			time.Sleep(time.Millisecond)
		}
		req := new(dns.Msg)
		req.SetQuestion(m.Question[0].Name, m.Question[0].Qtype)
		if r, _, err := new(dns.Client).Exchange(req, back.Load().String()); err == nil {
			m.Rcode, m.Answer = r.Rcode, r.Answer
		}
	})
	good := newUpstream(t, address("192.0.2.3"))
	at := start(t, world(), resolvConf(t, loop.at, good.at))
	back.Store(&at)
	deadline := time.Now().Add(5 * time.Second)
	for questions.Load() == 0 { // the probe
		if time.Now().After(deadline) {
			t.Fatal("there was no probe")
		}
		time.Sleep(time.Millisecond)
	}
	time.Sleep(50 * time.Millisecond)
	before := questions.Load()
	if r := ask(t, at, "udp", "host.org.", dns.TypeA); !strings.Contains(render(r), "192.0.2.3") {
		t.Error(render(r))
	}
	if questions.Load() != before {
		t.Error("the resolver that loops was asked")
	}
}

func TestOddQuestions(t *testing.T) {
	at := start(t, world(), "")
	for name, c := range map[string]struct {
		with  func(*dns.Msg)
		rcode int
	}{
		"transfer": {func(m *dns.Msg) { m.Question[0].Qtype = dns.TypeAXFR }, dns.RcodeRefused},
		"class":    {func(m *dns.Msg) { m.Question[0].Qclass = dns.ClassCHAOS }, dns.RcodeRefused},
		"opcode":   {func(m *dns.Msg) { m.Opcode = dns.OpcodeUpdate }, dns.RcodeNotImplemented},
		"two":      {func(m *dns.Msg) { m.Question = append(m.Question, m.Question[0]) }, dns.RcodeFormatError},
	} {
		m := new(dns.Msg)
		m.SetQuestion("web.default.svc.cluster.local.", dns.TypeA)
		c.with(m)
		conn, err := dns.Dial("udp", at.String())
		if err != nil {
			t.Fatal(err)
		}
		conn.SetDeadline(time.Now().Add(5 * time.Second))
		if err := conn.WriteMsg(m); err != nil {
			t.Fatal(err)
		}
		r, err := conn.ReadMsg()
		conn.Close()
		if err != nil || r.Rcode != c.rcode {
			t.Errorf("%s: %v, %v", name, r, err)
		}
	}
	// Noise is not answered and does no harm.
	conn, err := net.Dial("udp", at.String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for _, noise := range [][]byte{{}, {1}, make([]byte, 12), []byte(strings.Repeat("\xff", 600))} {
		conn.Write(noise)
	}
	if r := ask(t, at, "udp", "web.default.svc.cluster.local.", dns.TypeA); len(r.Answer) != 1 {
		t.Error(render(r))
	}
}

func TestCacheKeepsTimesAndItsSize(t *testing.T) {
	c, now := newCache(), time.Now()
	q := question{name: "a.org.", qtype: dns.TypeA, qclass: dns.ClassINET}
	m := &dns.Msg{Answer: []dns.RR{record("a.org. 60 IN A 192.0.2.1")}}
	c.put(q, m, now)
	if got := c.get(q, now.Add(20*time.Second)); got == nil || got.Answer[0].Header().Ttl != 40 {
		t.Errorf("after 20 s: %v", got)
	}
	if got := c.get(q, now.Add(60*time.Second)); got != nil {
		t.Errorf("after 60 s: %v", got)
	}
	for i := range 3 * cacheSize {
		c.put(question{name: fmt.Sprint(i)}, m, now)
	}
	if len(c.entries) > cacheSize {
		t.Errorf("%d entries", len(c.entries))
	}
	c.put(question{name: "zero"}, &dns.Msg{Answer: []dns.RR{record("a.org. 0 IN A 192.0.2.1")}}, now)
	if c.get(question{name: "zero"}, now) != nil {
		t.Error("an answer without time to live was kept")
	}
}

func TestBadConfiguration(t *testing.T) {
	if _, err := New(Config{Client: world(), Domain: ""}); err == nil {
		t.Error("an empty domain was accepted")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	taken := l.Addr().(*net.TCPAddr).AddrPort()
	if _, err := New(Config{Client: world(), Domain: "cluster.local", Listen: []netip.AddrPort{taken}}); err == nil || !strings.Contains(err.Error(), taken.String()) {
		t.Errorf("a taken port: %v", err)
	}
}

func BenchmarkQuery(b *testing.B) {
	u := newUpstream(b, address("192.0.2.7"))
	at := start(b, world(), resolvConf(b, u.at))
	for _, name := range []string{"web.default.svc.cluster.local.", "www.example.org."} {
		b.Run(strings.Split(name, ".")[0], func(b *testing.B) {
			b.RunParallel(func(pb *testing.PB) {
				conn, err := dns.Dial("udp", at.String())
				if err != nil {
					b.Fatal(err)
				}
				defer conn.Close()
				m := new(dns.Msg)
				m.SetQuestion(name, dns.TypeA)
				packed, _ := m.Pack()
				buf := make([]byte, 1024)
				for pb.Next() {
					conn.Conn.Write(packed)
					if _, err := conn.Conn.Read(buf); err != nil {
						b.Fatal(err)
					}
				}
			})
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "queries/s")
		})
	}
}

// BenchmarkAnswer is the work of one answer without the network.
func BenchmarkAnswer(b *testing.B) {
	s := &Server{cfg: Config{Client: world()}, zone: zone{domain: "cluster.local."}, metrics: newMetrics(nil)}
	m := new(dns.Msg)
	m.SetQuestion("web.default.svc.cluster.local.", dns.TypeA)
	packed, _ := m.Pack()
	b.ReportAllocs()
	for b.Loop() {
		req := new(dns.Msg)
		if err := req.Unpack(packed); err != nil {
			b.Fatal(err)
		}
		reply, _ := s.answer(req)
		reply.Truncate(udpSize)
		if _, err := reply.Pack(); err != nil {
			b.Fatal(err)
		}
	}
}
