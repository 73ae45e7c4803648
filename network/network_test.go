package network

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"proa/internal/netnstest"
	"proa/internal/nft"
)

func TestMain(m *testing.M) { netnstest.Main(m) }

var (
	podCIDR     = netip.MustParsePrefix("10.244.0.0/24")
	clusterCIDR = netip.MustParsePrefix("10.244.0.0/16")
	serviceCIDR = netip.MustParsePrefix("10.96.0.0/12")
)

func start(t testing.TB, dir string) *Network {
	t.Helper()
	n, err := New(Config{NodeName: "a", PodCIDR: podCIDR, ClusterCIDR: clusterCIDR, ServiceCIDR: serviceCIDR, StateDir: dir})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		n.Close()
		if err := Cleanup(); err != nil {
			t.Error(err)
		}
		noneLeft(t)
	})
	return n
}

func noneLeft(t testing.TB) {
	t.Helper()
	links, err := netlink.LinkList()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range links {
		if strings.HasPrefix(l.Attrs().Name, "proa") {
			t.Errorf("link %s is left", l.Attrs().Name)
		}
	}
	c, err := nft.Dial()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	tables, err := c.Tables()
	if err != nil {
		t.Fatal(err)
	}
	if slices.Contains(tables, table) {
		t.Error("the nftables table is left")
	}
}

func pod(id string, ns *netnstest.NS, ports ...Port) Pod {
	return Pod{ID: id, Namespace: "default", Name: "pod-" + id, UID: "u" + id, NetNS: ns.Path(), Ports: ports}
}

func attach(t testing.TB, n *Network, p Pod) netip.Addr {
	t.Helper()
	r, err := n.Attach(context.Background(), p)
	if err != nil {
		t.Fatal(err)
	}
	if len(r.IPs) != 1 {
		t.Fatalf("got %v, want one address", r.IPs)
	}
	return r.IPs[0]
}

func outside(t testing.TB, node, other string) *netnstest.NS {
	return netnstest.Outside(t, node, other)
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// serve answers with who the server sees.
func serve(t testing.TB, ns *netnstest.NS, port int) {
	t.Helper()
	netnstest.Serve(t, ns, "", fmt.Sprintf(":%d", port))
}

// How long to wait for an answer that is to come, and for one that is not.
const patient, brief = 10 * time.Second, time.Second

func ask(ns *netnstest.NS, network, addr string, limit time.Duration) (string, error) {
	answer, err := netnstest.AskWithin(limit, ns, network, addr)
	return strings.TrimPrefix(answer, " sees "), err
}

func expect(t testing.TB, ns *netnstest.NS, network, addr, seen string) {
	t.Helper()
	got, err := ask(ns, network, addr, patient)
	if err != nil || got != seen {
		t.Errorf("%s %s: server saw %q, error %v; want %q", network, addr, got, err, seen)
	}
}

func refuse(t testing.TB, ns *netnstest.NS, network, addr string) {
	t.Helper()
	if got, err := ask(ns, network, addr, brief); err == nil {
		t.Errorf("%s %s answered %q, want no connection", network, addr, got)
	}
}

func TestPodsReachEachOtherTheNodeAndTheWorld(t *testing.T) {
	world := outside(t, "192.168.7.2/24", "192.168.7.1/24")
	n := start(t, t.TempDir())
	a, b := netnstest.New(t), netnstest.New(t)
	ipA, ipB := attach(t, n, pod("a", a)), attach(t, n, pod("b", b))
	for _, ns := range []*netnstest.NS{a, b, world} {
		serve(t, ns, 80)
	}
	for _, network := range []string{"tcp4", "udp4"} {
		expect(t, a, network, ipB.String()+":80", ipA.String())
		expect(t, b, network, ipA.String()+":80", ipB.String())
		expect(t, a, network, ipA.String()+":80", ipA.String())
		expect(t, a, network, "127.0.0.1:80", "127.0.0.1")
		expect(t, nil, network, ipA.String()+":80", "192.168.7.2")
		expect(t, a, network, "192.168.7.1:80", "192.168.7.2") // masqueraded
	}
	check(t, a.Do(func() error {
		l, err := netlink.LinkByName("eth0")
		if err == nil && l.Attrs().MTU != 1400 {
			t.Errorf("MTU is %d, want that of the default route's link", l.Attrs().MTU)
		}
		return err
	}))
}

func TestHostPorts(t *testing.T) {
	world := outside(t, "192.168.7.2/24", "192.168.7.1/24")
	n := start(t, t.TempDir())
	a, b := netnstest.New(t), netnstest.New(t)
	pa := pod("a", a,
		Port{Protocol: "TCP", Container: 80, Host: 8080},
		Port{Protocol: "UDP", Container: 80, Host: 8080},
		Port{Protocol: "TCP", Container: 80, Host: 9090, HostIP: netip.MustParseAddr("127.0.0.1")})
	ipA, ipB := attach(t, n, pa), attach(t, n, pod("b", b))
	serve(t, a, 80)
	for _, network := range []string{"tcp4", "udp4"} {
		expect(t, world, network, "192.168.7.2:8080", "192.168.7.1") // source kept
		expect(t, b, network, "192.168.7.2:8080", ipB.String())
		expect(t, nil, network, "192.168.7.2:8080", "192.168.7.2")
		expect(t, nil, network, "127.0.0.1:8080", "192.168.7.2")
		expect(t, a, network, "192.168.7.2:8080", "192.168.7.2") // to itself
	}
	expect(t, nil, "tcp4", "127.0.0.1:9090", "192.168.7.2")
	refuse(t, world, "tcp4", "192.168.7.2:9090")

	_, err := n.Attach(context.Background(), pod("c", b, Port{Protocol: "TCP", Container: 1, Host: 9090}))
	if err == nil || !strings.Contains(err.Error(), "host port TCP 9090 is in use by pod default/pod-a") {
		t.Errorf("conflict: got %v", err)
	}
	// A restart takes the mappings over, a detach ends them.
	n2 := start(t, string(n.state))
	expect(t, world, "tcp4", "192.168.7.2:8080", "192.168.7.1")
	check(t, n2.Detach(context.Background(), pa))
	refuse(t, world, "tcp4", "192.168.7.2:8080")
	refuse(t, world, "udp4", "192.168.7.2:8080")
	refuse(t, nil, "tcp4", ipA.String()+":80")
}

func TestPodsCannotSpeakToTheNodesLoopback(t *testing.T) {
	outside(t, "192.168.7.2/24", "192.168.7.1/24")
	n := start(t, t.TempDir())
	a := netnstest.New(t)
	attach(t, n, pod("a", a))
	u, err := net.ListenPacket("udp4", "127.0.0.1:5353")
	check(t, err)
	defer u.Close()
	check(t, a.Do(func() error {
		// The pod's own loopback goes away, so that the packet leaves it.
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		eth, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		_ = netlink.RouteDel(&netlink.Route{Dst: &net.IPNet{IP: net.IPv4(127, 0, 0, 0), Mask: net.CIDRMask(8, 32)}, Table: 255, Type: 2, LinkIndex: lo.Attrs().Index, Scope: netlink.SCOPE_HOST})
		if err := netlink.LinkSetDown(lo); err != nil {
			return err
		}
		if err := os.WriteFile("/proc/sys/net/ipv4/conf/eth0/route_localnet", []byte("1"), 0); err != nil {
			return err
		}
		if err := netlink.RouteReplace(&netlink.Route{Dst: &net.IPNet{IP: net.IPv4(127, 0, 0, 1), Mask: net.CIDRMask(32, 32)}, LinkIndex: eth.Attrs().Index, Gw: net.IPv4(169, 254, 1, 1)}); err != nil {
			return err
		}
		c, err := net.Dial("udp4", "127.0.0.1:5353")
		if err != nil {
			return err
		}
		defer c.Close()
		_, err = c.Write([]byte("spoof"))
		return err
	}))
	u.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
	if _, from, err := u.ReadFrom(make([]byte, 10)); err == nil {
		t.Errorf("a packet from %s came through", from)
	}
}

func TestAttachIsIdempotentAndSurvivesRestart(t *testing.T) {
	outside(t, "192.168.7.2/24", "192.168.7.1/24")
	dir := t.TempDir()
	n := start(t, dir)
	a := netnstest.New(t)
	first := attach(t, n, pod("a", a))
	if again := attach(t, n, pod("a", a)); again != first {
		t.Errorf("second Attach gave %s after %s", again, first)
	}
	n.Close()
	n = start(t, dir)
	if again := attach(t, n, pod("a", a)); again != first {
		t.Errorf("Attach after a restart gave %s after %s", again, first)
	}
	// A link that somebody removed is made anew, with the same address.
	check(t, n.unplug(linkName("a")))
	if again := attach(t, n, pod("a", a)); again != first {
		t.Errorf("Attach after the link was lost gave %s after %s", again, first)
	}
	serve(t, a, 80)
	if _, err := ask(nil, "tcp4", first.String()+":80", patient); err != nil {
		t.Error(err)
	}
	check(t, n.Detach(context.Background(), pod("a", a)))
	check(t, n.Detach(context.Background(), pod("a", a)))
	if files, _ := filepath.Glob(filepath.Join(dir, "pod-*")); len(files) != 0 {
		t.Errorf("%v are left", files)
	}
	if next := attach(t, n, pod("b", a)); next == first {
		t.Errorf("%s was given out again at once", next)
	}
}

func TestFailedAttachLeavesNothing(t *testing.T) {
	n := start(t, t.TempDir())
	p := pod("a", netnstest.New(t))
	p.NetNS = "/proc/1/ns/none"
	if _, err := n.Attach(context.Background(), p); err == nil || !strings.Contains(err.Error(), "network namespace") {
		t.Errorf("got %v", err)
	}
	if len(n.records) != 0 || len(n.pools[0].used) != 0 {
		t.Error("the address was not given back")
	}
	links, err := podLinks(n.links)
	if err != nil || len(links) != 0 {
		t.Errorf("links %v, error %v", links, err)
	}
}

func TestReconcileFreesWhatNobodyKeeps(t *testing.T) {
	dir := t.TempDir()
	n := start(t, dir)
	a, b := netnstest.New(t), netnstest.New(t)
	attach(t, n, pod("a", a))
	attach(t, n, pod("b", b))
	check(t, n.state.remove("b")) // as if the crash had come before the record
	n.Close()
	n = start(t, dir)
	check(t, n.Reconcile([]string{"a"}))
	links, err := podLinks(n.links)
	if err != nil || len(links) != 1 || links[linkName("a")] == 0 {
		t.Errorf("links %v, error %v", links, err)
	}
	check(t, n.Reconcile(nil))
	if links, _ := podLinks(n.links); len(links) != 0 || len(n.pools[0].used) != 0 {
		t.Errorf("links %v and addresses %v are left", links, n.pools[0].used)
	}
}

func TestOldAndTornRecordsAreDropped(t *testing.T) {
	dir := t.TempDir()
	d := stateDir(dir)
	old := newRecord(Pod{ID: "old"})
	old.Boot, old.IPs = "another", []netip.Addr{netip.MustParseAddr("10.244.0.2")}
	check(t, d.save(old))
	check(t, os.WriteFile(d.file("torn"), []byte(`{"ID":"to`), 0o600))
	check(t, d.saveCursor(0, netip.MustParseAddr("10.244.0.9")))
	n := start(t, dir)
	if len(n.records) != 0 {
		t.Errorf("records %v", n.records)
	}
	if ip := attach(t, n, pod("a", netnstest.New(t))); ip.String() != "10.244.0.9" {
		t.Errorf("got %s, want the round-robin to go on at 10.244.0.9", ip)
	}
}

func TestPoolIsExhaustedWithAClearErrorAndReusesLate(t *testing.T) {
	p := newPool(netip.MustParsePrefix("10.0.0.0/29"))
	var got []string
	for i := range 5 {
		a, err := p.allocate(fmt.Sprint(i))
		check(t, err)
		got = append(got, a.String())
	}
	if want := "10.0.0.2 10.0.0.3 10.0.0.4 10.0.0.5 10.0.0.6"; strings.Join(got, " ") != want {
		t.Errorf("got %v, want %s", got, want)
	}
	_, err := p.allocate("x")
	if err == nil || err.Error() != "no address is left in the node's pod CIDR 10.0.0.0/29: all 5 are in use" {
		t.Errorf("got %v", err)
	}
	p.free(netip.MustParseAddr("10.0.0.4"))
	p.free(netip.MustParseAddr("10.0.0.3"))
	for _, want := range []string{"10.0.0.3", "10.0.0.4"} {
		if a, err := p.allocate("y"); err != nil || a.String() != want {
			t.Errorf("got %s, %v, want %s", a, err, want)
		}
	}
}

func TestBadConfiguration(t *testing.T) {
	for _, c := range []Config{
		{},
		{PodCIDR: podCIDR, ClusterCIDR: netip.MustParsePrefix("10.1.0.0/16")},
		{PodCIDR: podCIDR, ServiceCIDR: netip.MustParsePrefix("10.0.0.0/8")},
	} {
		c.StateDir = t.TempDir()
		if _, err := New(c); err == nil {
			t.Errorf("%+v was accepted", c)
		}
	}
}

func TestBandwidthIsLimited(t *testing.T) {
	outside(t, "192.168.7.2/24", "192.168.7.1/24")
	n := start(t, t.TempDir())
	a := netnstest.New(t)
	p := pod("a", a)
	p.Ingress, p.Egress = 80e6, 40e6
	ip := attach(t, n, p)
	var egress int
	check(t, a.Do(func() error {
		eth, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		egress = rate(t, eth)
		return nil
	}))
	l, err := netlink.LinkByName(linkName("a"))
	check(t, err)
	if in := rate(t, l); in != 10e6 || egress != 5e6 {
		t.Errorf("ingress %d B/s, egress %d B/s", in, egress)
	}
	if got := transfer(t, a, ip, 4<<20); got < 150*time.Millisecond || got > 2*time.Second {
		t.Errorf("4 MB at 10 MB/s with a burst of 1 MB took %s", got)
	}
}

func rate(t *testing.T, l netlink.Link) int {
	qdiscs, err := netlink.QdiscList(l)
	if err != nil {
		t.Fatal(err)
	}
	for _, q := range qdiscs {
		if tbf, ok := q.(*netlink.Tbf); ok {
			return int(tbf.Rate)
		}
	}
	return 0
}

// transfer sends to the pod and tells how long it took until all was there.
func transfer(t *testing.T, ns *netnstest.NS, ip netip.Addr, size int) time.Duration {
	var l net.Listener
	check(t, ns.Do(func() (err error) {
		l, err = net.Listen("tcp4", ":9")
		return err
	}))
	defer l.Close()
	done := make(chan error)
	go func() {
		c, err := l.Accept()
		if err == nil {
			_, err = io.Copy(io.Discard, c)
		}
		done <- err
	}()
	begin := time.Now()
	c, err := net.Dial("tcp4", ip.String()+":9")
	check(t, err)
	_, err = c.Write(make([]byte, size))
	check(t, err)
	c.Close()
	check(t, <-done)
	return time.Since(begin)
}

func TestDNSAddressIsLocal(t *testing.T) {
	outside(t, "192.168.7.2/24", "192.168.7.1/24")
	n := start(t, t.TempDir())
	addr := netip.MustParseAddr("10.96.0.10")
	check(t, n.EnsureDNSAddress(addr))
	check(t, n.EnsureDNSAddress(addr))
	l, err := net.Listen("tcp4", "10.96.0.10:53")
	check(t, err)
	l.Close()
	a := netnstest.New(t)
	attach(t, n, pod("a", a))
	l, err = net.Listen("tcp4", "10.96.0.10:53") // not lost by an Attach
	check(t, err)
	defer l.Close()
	check(t, a.Do(func() error {
		c, err := net.DialTimeout("tcp4", "10.96.0.10:53", time.Second)
		if err == nil {
			c.Close()
		}
		return err
	}))
}

func TestManyAtOnce(t *testing.T) {
	n := start(t, t.TempDir())
	var group sync.WaitGroup
	spaces := make([]*netnstest.NS, 20)
	for i := range spaces {
		spaces[i] = netnstest.New(t)
	}
	seen := make([]netip.Addr, len(spaces))
	for i, ns := range spaces {
		group.Go(func() {
			r, err := n.Attach(context.Background(), pod(fmt.Sprint(i), ns, Port{Container: 80, Host: uint16(8000 + i)}))
			if err != nil {
				t.Error(err)
				return
			}
			seen[i] = r.IPs[0]
		})
	}
	group.Wait()
	slices.SortFunc(seen, netip.Addr.Compare)
	if len(slices.Compact(seen)) != len(spaces) {
		t.Errorf("addresses were given twice: %v", seen)
	}
	for i, ns := range spaces {
		group.Go(func() {
			if err := n.Detach(context.Background(), pod(fmt.Sprint(i), ns)); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
}

func BenchmarkAttach(b *testing.B) {
	n := start(b, b.TempDir())
	spaces := make([]*netnstest.NS, 200)
	for i := range spaces {
		spaces[i] = netnstest.New(b)
	}
	b.ResetTimer()
	for i := 0; i < b.N; i++ {
		p := pod(fmt.Sprint(i), spaces[i%len(spaces)])
		attach(b, n, p)
		b.StopTimer()
		check(b, n.Detach(context.Background(), p))
		b.StartTimer()
	}
}

// BenchmarkDetachMany is the time for each of 20 pods that end at once.
func BenchmarkDetachMany(b *testing.B) {
	n := start(b, b.TempDir())
	spaces := make([]*netnstest.NS, 20)
	for i := range spaces {
		spaces[i] = netnstest.New(b)
	}
	for range b.N {
		b.StopTimer()
		for i, ns := range spaces {
			attach(b, n, pod(fmt.Sprint(i), ns))
		}
		b.StartTimer()
		var group sync.WaitGroup
		for i, ns := range spaces {
			group.Go(func() { check(b, n.Detach(context.Background(), pod(fmt.Sprint(i), ns))) })
		}
		group.Wait()
	}
	b.ReportMetric(float64(b.Elapsed().Milliseconds())/float64(b.N*len(spaces)), "ms/pod")
}

func BenchmarkDetach(b *testing.B) {
	n := start(b, b.TempDir())
	ns := netnstest.New(b)
	for i := 0; i < b.N; i++ {
		b.StopTimer()
		p := pod(fmt.Sprint(i), ns)
		attach(b, n, p)
		b.StartTimer()
		check(b, n.Detach(context.Background(), p))
	}
}
