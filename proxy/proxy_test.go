package proxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"proa/client"
	"proa/client/clienttest"
	"proa/internal/netnstest"
	"proa/internal/nft"
	"proa/network"
)

func TestMain(m *testing.M) { netnstest.Main(m) }

// node is a node with pods, Services and another machine beside it.
type node struct {
	t      testing.TB
	client *clienttest.Client
	net    *network.Network
	proxy  *Proxy
	world  *netnstest.NS
	pods   map[string]*testPod
	stop   func()
}

type testPod struct {
	ns *netnstest.NS
	ip netip.Addr
}

const nodeIP = "192.168.7.2"

func newNode(t testing.TB) *node {
	n := &node{t: t, client: clienttest.New(), pods: map[string]*testPod{}}
	n.world = netnstest.Outside(t, nodeIP+"/24", "192.168.7.1/24")
	// The other machine knows a way to cluster IPs, as a client on the same
	// network may.
	var err error
	n.net, err = network.New(network.Config{
		NodeName: "a", PodCIDR: netip.MustParsePrefix("10.244.0.0/24"),
		ClusterCIDR: testConfig.ClusterCIDR, ServiceCIDR: testConfig.ServiceCIDR, StateDir: t.TempDir(),
	})
	netnstest.Check(t, err)
	t.Cleanup(func() {
		n.net.Close()
		netnstest.Check(t, network.Cleanup())
		netnstest.Check(t, Cleanup())
		noTables(t)
	})
	return n
}

func noTables(t testing.TB) {
	c, err := nft.Dial()
	netnstest.Check(t, err)
	defer c.Close()
	if tables, err := c.Tables(); err != nil || len(tables) != 0 {
		t.Errorf("tables %v are left, error %v", tables, err)
	}
}

// run starts the proxy; the returned function stops it.
func (n *node) run() {
	cfg := testConfig
	cfg.Client = n.client
	n.proxy = New(cfg)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- n.proxy.Run(ctx) }()
	n.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			n.t.Error(err)
		}
	})
	n.t.Cleanup(n.stop)
	n.settled()
}

// settled waits until the rules say what the world does: it adds a Service and
// waits for the address to be served.
func (n *node) settled() {
	n.t.Helper()
	probe := netip.MustParseAddr("10.244.255.1")
	n.inject(service("probe", "10.96.255.1"), slice("probe", 1, probe.String()+"@a"))
	deadline := time.After(10 * time.Second)
	for {
		n.proxy.mu.Lock()
		there, applied := n.proxy.targets[probe] > 0, n.proxy.applied
		n.proxy.mu.Unlock()
		if there {
			break
		}
		select {
		case <-applied:
		case <-deadline:
			n.t.Fatal("the rules were not applied")
		}
	}
	n.inject(slice("probe", 1))
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	netnstest.Check(n.t, n.proxy.WaitGone(ctx, []netip.Addr{probe}))
}

func (n *node) inject(objs ...client.Object) {
	for _, o := range objs {
		n.client.Inject(o)
	}
}

// pod starts a pod that serves on 8080.
func (n *node) pod(name string) *testPod {
	n.t.Helper()
	p := &testPod{ns: netnstest.New(n.t)}
	r, err := n.net.Attach(context.Background(), network.Pod{ID: name, Namespace: "default", Name: name, NetNS: p.ns.Path()})
	netnstest.Check(n.t, err)
	p.ip = r.IPs[0]
	netnstest.Serve(n.t, p.ns, name, ":8080")
	n.pods[name] = p
	return p
}

// served waits until the kernel knows of no connection to the pod that is not done.
func (p *testPod) served(t testing.TB) {
	t.Helper()
	const listening, done = "0A", "06" // of include/net/tcp_states.h: TCP_LISTEN, TCP_TIME_WAIT
	for end := time.Now().Add(10 * time.Second); ; {
		time.Sleep(20 * time.Millisecond)
		var tcp, tcp6 []byte
		netnstest.Check(t, p.ns.Do(func() (err error) {
			if tcp, err = os.ReadFile("/proc/thread-self/net/tcp"); err == nil {
				tcp6, err = os.ReadFile("/proc/thread-self/net/tcp6")
			}
			return err
		}))
		open := slices.DeleteFunc(strings.Split(strings.TrimSpace(string(tcp)+string(tcp6)), "\n"), func(line string) bool {
			state := strings.Fields(line)[3]
			return state == "st" || state == listening || state == done // st is the table's heading
		})
		if len(open) == 0 {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("connections stay:\n%s", strings.Join(open, "\n"))
		}
	}
}

func (p *testPod) at() string { return p.ip.String() + "@a" }

// seen asks several times and counts the answers.
func seen(t testing.TB, ns *netnstest.NS, network, addr string, times int) map[string]int {
	t.Helper()
	out := map[string]int{}
	for range times {
		answer, err := netnstest.Ask(ns, network, addr)
		if err != nil {
			t.Errorf("%s %s: %v", network, addr, err)
			return out
		}
		out[answer]++
	}
	return out
}

// expect wants exactly these answers, each at least once.
func expect(t testing.TB, ns *netnstest.NS, network, addr string, answers ...string) {
	t.Helper()
	got := seen(t, ns, network, addr, 10*len(answers))
	for _, a := range answers {
		if got[a] == 0 {
			t.Errorf("%s %s never answered %q: %v", network, addr, a, got)
		}
		delete(got, a)
	}
	if len(got) > 0 {
		t.Errorf("%s %s answered %v besides", network, addr, got)
	}
}

func refused(t testing.TB, ns *netnstest.NS, network, addr string) {
	t.Helper()
	if answer, err := netnstest.Ask(ns, network, addr); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("%s %s: answer %q, error %v, want it refused", network, addr, answer, err)
	}
}

func dropped(t testing.TB, ns *netnstest.NS, network, addr string) {
	t.Helper()
	var timeout net.Error
	if answer, err := netnstest.AskWithin(time.Second, ns, network, addr); !errors.As(err, &timeout) || !timeout.Timeout() {
		t.Errorf("%s %s: answer %q, error %v, want a timeout", network, addr, answer, err)
	}
}

func TestServicesOfEveryType(t *testing.T) {
	n := newNode(t)
	a, b := n.pod("a"), n.pod("b")
	probe := n.pod("client")
	n.inject(
		service("web", "10.96.0.20", nodePort(30080), loadBalancerAt(nodeIP), func(s *corev1.Service) { s.Spec.ExternalIPs = []string{"203.0.113.9"} }),
		slice("web", 8080, a.at(), b.at()),
		service("dns", "10.96.0.21", portNamed("dns", corev1.ProtocolUDP, 53), func(s *corev1.Service) { s.Spec.Type, s.Spec.Ports[0].NodePort = corev1.ServiceTypeNodePort, 30053 }),
		udpSlice("dns", 8080, a.at(), b.at()),
	)
	n.run()
	both := func(source string) []string { return []string{"a sees " + source, "b sees " + source} }
	client := probe.ip.String()

	expect(t, probe.ns, "tcp4", "10.96.0.20:80", both(client)...)
	expect(t, nil, "tcp4", "10.96.0.20:80", both(nodeIP)...)
	expect(t, probe.ns, "udp4", "10.96.0.21:53", both(client)...)
	expect(t, nil, "udp4", "10.96.0.21:53", both(nodeIP)...)
	for _, ns := range []*netnstest.NS{probe.ns, nil, n.world} {
		expect(t, ns, "tcp4", nodeIP+":30080", both(nodeIP)...)
		expect(t, ns, "tcp4", nodeIP+":80", both(nodeIP)...)
		expect(t, ns, "udp4", nodeIP+":30053", both(nodeIP)...)
	}
	expect(t, nil, "tcp4", "127.0.0.1:30080", both(nodeIP)...)
	expect(t, nil, "tcp4", "203.0.113.9:80", both(nodeIP)...)
	expect(t, probe.ns, "tcp4", "203.0.113.9:80", both(nodeIP)...)
	// A pod that reaches itself sees the node.
	n.inject(slice("web", 8080, a.at()), udpSlice("dns", 8080, a.at()))
	n.settled()
	expect(t, a.ns, "tcp4", "10.96.0.20:80", "a sees "+nodeIP)
	expect(t, a.ns, "udp4", "10.96.0.21:53", "a sees "+nodeIP)
	// A pod that is still there gets on without the rules of the Service.
	expect(t, probe.ns, "tcp4", b.ip.String()+":8080", "b sees "+client)
}

func TestNodeReachesServicesWithoutDefaultRoute(t *testing.T) {
	n := newNode(t)
	a, probe := n.pod("a"), n.pod("client")
	n.inject(service("web", "10.96.0.20"), slice("web", 8080, a.at()))
	n.run()
	routes, err := netlink.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Dst: nil}, netlink.RT_FILTER_DST)
	netnstest.Check(t, err)
	for _, r := range routes {
		netnstest.Check(t, netlink.RouteDel(&r))
	}
	if answer, err := netnstest.Ask(nil, "tcp4", "10.96.0.20:80"); !errors.Is(err, syscall.ENETUNREACH) {
		t.Errorf("without any route: %q, %v", answer, err)
	}
	netnstest.Check(t, n.net.EnsureDNSAddress(netip.MustParseAddr("10.96.0.10")))
	expect(t, nil, "tcp4", "10.96.0.20:80", "a sees "+nodeIP)
	expect(t, probe.ns, "tcp4", "10.96.0.20:80", "a sees "+probe.ip.String())
	dropped(t, nil, "tcp4", "10.96.77.77:80")
}

func TestUnservedAddressesAreRefused(t *testing.T) {
	n := newNode(t)
	a, probe := n.pod("a"), n.pod("client")
	n.inject(
		service("empty", "10.96.0.20", nodePort(30080), loadBalancerAt(nodeIP)), slice("empty", 8080),
		service("web", "10.96.0.21"), slice("web", 8080, a.at()),
		service("own", "10.96.0.10"), slice("own", 80, a.at()),
		service("on-a-link", "10.96.0.11"),
	)
	for _, ip := range []string{"10.96.0.10", "10.96.0.11"} {
		netnstest.Check(t, n.net.EnsureDNSAddress(netip.MustParseAddr(ip)))
		netnstest.Serve(t, nil, "dns", ip+":80")
	}
	n.run()
	for _, ns := range []*netnstest.NS{probe.ns, nil} {
		refused(t, ns, "tcp4", "10.96.0.20:80")
		refused(t, ns, "tcp4", "10.96.0.21:81")
		refused(t, ns, "tcp4", nodeIP+":30080")
		dropped(t, ns, "tcp4", "10.96.77.77:80")
		for _, own := range []string{"10.96.0.10:80", "10.96.0.11:80"} {
			if answer, err := netnstest.Ask(ns, "tcp4", own); err != nil || !strings.HasPrefix(answer, "dns sees") {
				t.Errorf("the node's own address %s: %q, %v", own, answer, err)
			}
		}
	}
	refused(t, probe.ns, "udp4", "10.96.0.20:80")
	refused(t, n.world, "tcp4", nodeIP+":80")
	// Endpoints make it reachable, their end unreachable again.
	n.inject(slice("empty", 8080, a.at()))
	n.settled()
	expect(t, probe.ns, "tcp4", "10.96.0.20:80", "a sees "+probe.ip.String())
	expect(t, n.world, "tcp4", nodeIP+":80", "a sees "+nodeIP)
	n.inject(slice("empty", 8080, a.at()+"!unready"))
	n.settled()
	refused(t, probe.ns, "tcp4", "10.96.0.20:80")
}

func TestLocalPoliciesKeepTheSource(t *testing.T) {
	n := newNode(t)
	a, probe := n.pod("a"), n.pod("client")
	elsewhere := "10.244.9.9@b"
	n.inject(
		service("local", "10.96.0.20", nodePort(30080), loadBalancerAt(nodeIP), externalLocal), slice("local", 8080, a.at()),
		service("away", "10.96.0.21", nodePort(30081), externalLocal), slice("away", 8080, elsewhere),
		service("inner", "10.96.0.22", internalLocal), slice("inner", 8080, a.at(), elsewhere),
		service("inner-away", "10.96.0.23", internalLocal), slice("inner-away", 8080, elsewhere),
	)
	n.run()
	expect(t, n.world, "tcp4", nodeIP+":30080", "a sees 192.168.7.1")
	expect(t, n.world, "tcp4", nodeIP+":80", "a sees 192.168.7.1")
	expect(t, probe.ns, "tcp4", nodeIP+":30080", "a sees "+probe.ip.String())
	expect(t, nil, "tcp4", nodeIP+":30080", "a sees "+nodeIP)
	dropped(t, n.world, "tcp4", nodeIP+":30081")
	for range 20 { // never the other node's
		expect(t, probe.ns, "tcp4", "10.96.0.22:80", "a sees "+probe.ip.String())
	}
	dropped(t, probe.ns, "tcp4", "10.96.0.23:80")
}

func TestSourceRangesGuardTheLoadBalancer(t *testing.T) {
	n := newNode(t)
	a := n.pod("a")
	guarded := func(ranges ...string) func(*corev1.Service) {
		return func(s *corev1.Service) { s.Spec.LoadBalancerSourceRanges = ranges }
	}
	n.inject(
		service("open", "10.96.0.20", loadBalancerAt(nodeIP), guarded("192.168.7.0/24")), slice("open", 8080, a.at()),
		service("shut", "10.96.0.21", nodePort(30081), portNamed("http", corev1.ProtocolTCP, 81), loadBalancerAt(nodeIP), guarded("172.16.0.0/12")), slice("shut", 8080, a.at()),
	)
	n.run()
	expect(t, n.world, "tcp4", nodeIP+":80", "a sees "+nodeIP)
	expect(t, nil, "tcp4", nodeIP+":80", "a sees "+nodeIP)
	dropped(t, n.world, "tcp4", nodeIP+":81")
	expect(t, n.world, "tcp4", nodeIP+":30081", "a sees "+nodeIP) // the node port is not guarded
}

func TestAffinity(t *testing.T) {
	n := newNode(t)
	pods := []*testPod{n.pod("a"), n.pod("b"), n.pod("c")}
	probe := n.pod("client")
	var at []string
	for _, p := range pods {
		at = append(at, p.at())
	}
	n.inject(service("web", "10.96.0.20", sticky(2)), slice("web", 8080, at...))
	n.run()
	first := only(t, seen(t, probe.ns, "tcp4", "10.96.0.20:80", 20))
	// It holds through changes and through a restart of the proxy.
	n.stop()
	n.run()
	if got := only(t, seen(t, probe.ns, "tcp4", "10.96.0.20:80", 20)); got != first {
		t.Errorf("after a restart %q, before it %q", got, first)
	}
	// When its endpoint leaves the client gets another, and sticks to that.
	at = slices.DeleteFunc(at, func(s string) bool { return s == n.pods[first[:1]].at() })
	n.inject(slice("web", 8080, at...))
	n.settled()
	second := only(t, seen(t, probe.ns, "tcp4", "10.96.0.20:80", 20))
	if second == first {
		t.Errorf("still %q", second)
	}
	// After the timeout any endpoint will do.
	changed := false
	for range 10 {
		time.Sleep(2300 * time.Millisecond)
		if changed = only(t, seen(t, probe.ns, "tcp4", "10.96.0.20:80", 3)) != second; changed {
			break
		}
	}
	if !changed {
		t.Error("the client sticks to its endpoint past the timeout")
	}
}

func only(t *testing.T, got map[string]int) string {
	t.Helper()
	if len(got) != 1 {
		t.Errorf("got %v, want one answer only", got)
	}
	for s := range got {
		return s
	}
	return "?"
}

func TestUDPClientsMoveOn(t *testing.T) {
	n := newNode(t)
	a, b, probe := n.pod("a"), n.pod("b"), n.pod("client")
	n.inject(service("dns", "10.96.0.21", portNamed("dns", corev1.ProtocolUDP, 53)), udpSlice("dns", 8080, a.at()))
	var c net.Conn
	netnstest.Check(t, probe.ns.Do(func() (err error) {
		c, err = net.Dial("udp4", "10.96.0.21:53")
		return err
	}))
	defer c.Close()
	say := func() string {
		c.SetDeadline(time.Now().Add(time.Second))
		c.Write([]byte("?"))
		buf := make([]byte, 100)
		k, err := c.Read(buf)
		if err != nil {
			return err.Error()
		}
		return string(buf[:k])
	}
	say() // before there is a proxy: it goes astray, and the kernel remembers
	n.run()
	if got := say(); got != "a sees "+probe.ip.String() {
		t.Errorf("got %q", got)
	}
	n.inject(udpSlice("dns", 8080, b.at()))
	n.settled()
	if got := say(); got != "b sees "+probe.ip.String() {
		t.Errorf("the flow still goes to the endpoint that left: %q", got)
	}
}

// load opens connections until stopped and counts those that fail.
func load(ns *netnstest.NS, addr string, workers int) (stop func() (ok, failed int64, last error)) {
	var good, bad atomic.Int64
	var last atomic.Value
	done := make(chan struct{})
	var group sync.WaitGroup
	for range workers {
		group.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				if _, err := netnstest.Ask(ns, "tcp4", addr); err != nil {
					bad.Add(1)
					last.Store(err)
				} else {
					good.Add(1)
				}
			}
		})
	}
	return func() (int64, int64, error) {
		close(done)
		group.Wait()
		err, _ := last.Load().(error)
		return good.Load(), bad.Load(), err
	}
}

func TestRollingChangesLoseNoConnection(t *testing.T) {
	n := newNode(t)
	probe := n.pod("client")
	current := []*testPod{n.pod("p0"), n.pod("p1"), n.pod("p2")}
	publish := func(state map[*testPod]string) {
		var at []string
		for _, p := range current {
			at = append(at, p.at()+state[p])
		}
		n.inject(slice("web", 8080, at...))
	}
	n.inject(service("web", "10.96.0.20", nodePort(30080)))
	publish(nil)
	n.run()
	inside, outside := load(probe.ns, "10.96.0.20:80", 2), load(n.world, nodeIP+":30080", 2)
	for i := 3; i < 15; i++ {
		next := n.pod(fmt.Sprintf("p%d", i))
		current = append(current, next)
		publish(nil)
		old := current[0]
		publish(map[*testPod]string{old: "!terminating"})
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		netnstest.Check(t, n.proxy.WaitGone(ctx, []netip.Addr{old.ip}))
		cancel()
		// Its process stops once the connections that it has are served.
		current = current[1:]
		old.served(t)
		netnstest.Check(t, n.net.Detach(context.Background(), network.Pod{ID: fmt.Sprintf("p%d", i-3)}))
		publish(nil)
	}
	for name, stop := range map[string]func() (int64, int64, error){"inside": inside, "outside": outside} {
		if ok, failed, err := stop(); failed > 0 || ok == 0 {
			t.Errorf("%s: %d connections, %d failed: %v", name, ok, failed, err)
		} else {
			t.Logf("%s: %d connections", name, ok)
		}
	}
}

func TestRestartUnderTrafficLosesNoConnection(t *testing.T) {
	n := newNode(t)
	probe, a := n.pod("client"), n.pod("a")
	n.inject(service("web", "10.96.0.20", nodePort(30080)), slice("web", 8080, a.at()))
	n.run()
	inside, outside := load(probe.ns, "10.96.0.20:80", 2), load(n.world, nodeIP+":30080", 2)
	for range 10 {
		n.stop()
		n.run()
	}
	for name, stop := range map[string]func() (int64, int64, error){"inside": inside, "outside": outside} {
		if ok, failed, err := stop(); failed > 0 || ok == 0 {
			t.Errorf("%s: %d connections, %d failed: %v", name, ok, failed, err)
		}
	}
}

func TestTableIsMadeAgainAfterItWasRemoved(t *testing.T) {
	n := newNode(t)
	a, probe := n.pod("a"), n.pod("client")
	n.inject(service("web", "10.96.0.20"), slice("web", 8080, a.at()))
	n.run()
	n.proxy.mu.Lock()
	applied := n.proxy.applied
	n.proxy.mu.Unlock()
	netnstest.Check(t, Cleanup())
	select {
	case <-applied:
	case <-time.After(5 * time.Second):
		t.Fatal("the table was not made again")
	}
	expect(t, probe.ns, "tcp4", "10.96.0.20:80", "a sees "+probe.ip.String())
}

func TestNothingIsLeftOfServicesThatAreGone(t *testing.T) {
	n := newNode(t)
	n.run()
	conn, err := nft.Dial()
	netnstest.Check(t, err)
	defer conn.Close()
	count := func() string {
		chains, err := conn.Chains(table)
		netnstest.Check(t, err)
		out := []string{fmt.Sprintf("%d chains", len(chains))}
		for _, f := range families {
			for _, s := range setsOf(f) {
				elems, err := conn.Elements(table, s.Name)
				netnstest.Check(t, err)
				out = append(out, fmt.Sprintf("%d in %s", len(elems), s.Name))
			}
		}
		return strings.Join(out, ", ")
	}
	before := count()
	for i := range 20 {
		name := fmt.Sprintf("s%d", i)
		n.inject(service(name, fmt.Sprintf("10.96.1.%d", i+1), nodePort(int32(31000+i)), loadBalancerAt("192.0.2.1"), sticky(60),
			func(s *corev1.Service) { s.Spec.LoadBalancerSourceRanges = []string{"10.0.0.0/8"} }), slice(name, 8080, "10.244.0.5@a"))
	}
	n.settled()
	if count() == before {
		t.Error("no rules were made")
	}
	for i := range 20 {
		key := client.Key{Namespace: "default", Name: fmt.Sprintf("s%d", i)}
		row := client.Row[corev1.Service]()
		netnstest.Check(t, n.client.Delete(context.Background(), row, key, deleteNow))
		key.Name += "-1"
		netnstest.Check(t, n.client.Delete(context.Background(), client.Row[discoveryv1.EndpointSlice](), key, deleteNow))
	}
	n.settled()
	if after := count(); after != before {
		t.Errorf("left: %s\nwant: %s", after, before)
	}
	n.proxy.mu.Lock()
	defer n.proxy.mu.Unlock()
	if len(n.proxy.targets) != 0 || len(n.proxy.layout.numbers) != 0 {
		t.Errorf("remembered: %v, %v", n.proxy.targets, n.proxy.layout.numbers)
	}
}

func TestWaitGone(t *testing.T) {
	n := newNode(t)
	a, b := netip.MustParseAddr("10.244.0.5"), netip.MustParseAddr("10.244.0.6")
	n.inject(service("web", "10.96.0.20"), slice("web", 8080, "10.244.0.5@a", "10.244.0.6@a"))
	n.run()
	wait := func(addrs ...netip.Addr) error {
		ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
		defer cancel()
		return n.proxy.WaitGone(ctx, addrs)
	}
	if err := wait(netip.MustParseAddr("10.244.0.7")); err != nil {
		t.Errorf("of no Service: %v", err)
	}
	if err := wait(a); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("in use: %v", err)
	}
	done := make(chan error)
	go func() { done <- n.proxy.WaitGone(context.Background(), []netip.Addr{a}) }()
	n.inject(slice("web", 8080, "10.244.0.5@a!terminating", "10.244.0.6@a"))
	select {
	case err := <-done:
		netnstest.Check(t, err)
	case <-time.After(5 * time.Second):
		t.Fatal("WaitGone did not return")
	}
	n.inject(slice("web", 8080, "10.244.0.5@a!terminating", "10.244.0.6@a!terminating"))
	if err := wait(a, b); err != nil {
		t.Errorf("all terminate: %v", err)
	}
	// An endpoint that the world has but the rules do not yet counts as in use.
	n.stop()
	n.inject(slice("web", 8080, "10.244.0.7@a"))
	if err := wait(netip.MustParseAddr("10.244.0.7")); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("about to be used: %v", err)
	}
}

var deleteNow = metav1.DeleteOptions{}
