package proxy

import (
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"proa/client"
	"proa/client/clienttest"
	"proa/internal/nft"
)

var rewrite = flag.Bool("rewrite", false, "write the golden files anew")

var testConfig = Config{
	NodeName: "a", NodeIPs: []netip.Addr{netip.MustParseAddr("192.168.7.2")},
	ClusterCIDR: netip.MustParsePrefix("10.244.0.0/16"), ServiceCIDR: netip.MustParsePrefix("10.96.0.0/12"),
	OwnServiceIPs: []netip.Addr{netip.MustParseAddr("10.96.0.10")},
}

func ptr[T any](v T) *T { return &v }

// service is a ClusterIP Service with one TCP port, changed by with.
func service(name, clusterIP string, with ...func(*corev1.Service)) *corev1.Service {
	s := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
		Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeClusterIP, ClusterIP: clusterIP, ClusterIPs: []string{clusterIP},
			Ports: []corev1.ServicePort{{Name: "http", Protocol: corev1.ProtocolTCP, Port: 80}},
		},
	}
	for _, f := range with {
		f(s)
	}
	return s
}

func nodePort(n int32) func(*corev1.Service) {
	return func(s *corev1.Service) {
		s.Spec.Type = corev1.ServiceTypeNodePort
		s.Spec.Ports[0].NodePort = n
	}
}

func loadBalancerAt(ips ...string) func(*corev1.Service) {
	return func(s *corev1.Service) {
		s.Spec.Type = corev1.ServiceTypeLoadBalancer
		for _, ip := range ips {
			s.Status.LoadBalancer.Ingress = append(s.Status.LoadBalancer.Ingress, corev1.LoadBalancerIngress{IP: ip})
		}
	}
}

func externalLocal(s *corev1.Service) {
	s.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
}

func internalLocal(s *corev1.Service) {
	s.Spec.InternalTrafficPolicy = ptr(corev1.ServiceInternalTrafficPolicyLocal)
}

func sticky(seconds int32) func(*corev1.Service) {
	return func(s *corev1.Service) {
		s.Spec.SessionAffinity = corev1.ServiceAffinityClientIP
		s.Spec.SessionAffinityConfig = &corev1.SessionAffinityConfig{ClientIP: &corev1.ClientIPConfig{TimeoutSeconds: &seconds}}
	}
}

func portNamed(name string, proto corev1.Protocol, number int32) func(*corev1.Service) {
	return func(s *corev1.Service) {
		s.Spec.Ports[0].Name, s.Spec.Ports[0].Protocol, s.Spec.Ports[0].Port = name, proto, number
	}
}

// slice lists endpoints as "address[@node][!state]", where state is one of
// unready, terminating (still serving) and dead.
func slice(svc string, port int32, endpoints ...string) *discoveryv1.EndpointSlice {
	s := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Namespace: "default", Name: svc + "-1", Labels: map[string]string{discoveryv1.LabelServiceName: svc}},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports:       []discoveryv1.EndpointPort{{Name: ptr("http"), Protocol: ptr(corev1.ProtocolTCP), Port: &port}},
	}
	for _, text := range endpoints {
		text, state, _ := strings.Cut(text, "!")
		addr, node, _ := strings.Cut(text, "@")
		e := discoveryv1.Endpoint{Addresses: []string{addr}, NodeName: &node}
		e.Conditions = discoveryv1.EndpointConditions{
			Ready:       ptr(state == ""),
			Serving:     ptr(state == "" || state == "terminating"),
			Terminating: ptr(state == "terminating" || state == "dead"),
		}
		s.Endpoints = append(s.Endpoints, e)
	}
	return s
}

func udpSlice(svc string, port int32, endpoints ...string) *discoveryv1.EndpointSlice {
	s := slice(svc, port, endpoints...)
	s.Ports[0].Name, s.Ports[0].Protocol = ptr("dns"), ptr(corev1.ProtocolUDP)
	return s
}

// golden compares with testdata, or writes it with -rewrite.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name+".golden")
	if *rewrite {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs:\n%s\nwant:\n%s", path, got, want)
	}
}

var cases = []struct {
	name string
	objs []client.Object
}{
	{"clusterip", []client.Object{service("web", "10.96.0.20"), slice("web", 8080, "10.244.0.5@a", "10.244.1.6@b", "10.244.0.7@a!unready")}},
	{"no-endpoints", []client.Object{service("web", "10.96.0.20", nodePort(30080)), slice("web", 8080, "10.244.0.5@a!unready")}},
	{"terminating", []client.Object{service("web", "10.96.0.20"), slice("web", 8080, "10.244.0.5@a!terminating", "10.244.0.6@a!dead")}},
	{"terminating-and-ready", []client.Object{service("web", "10.96.0.20"), slice("web", 8080, "10.244.0.5@a!terminating", "10.244.0.6@a")}},
	{"nodeport", []client.Object{service("web", "10.96.0.20", nodePort(30080)), slice("web", 8080, "10.244.0.5@a")}},
	{"loadbalancer", []client.Object{service("web", "10.96.0.20", nodePort(30080), loadBalancerAt("192.168.7.2"),
		func(s *corev1.Service) {
			s.Spec.LoadBalancerSourceRanges = []string{"192.168.7.0/24", "172.16.0.0/12"}
			s.Spec.ExternalIPs = []string{"203.0.113.9"}
		}), slice("web", 8080, "10.244.1.5@b")}},
	{"external-local", []client.Object{service("web", "10.96.0.20", nodePort(30080), loadBalancerAt("192.168.7.2"), externalLocal), slice("web", 8080, "10.244.0.5@a", "10.244.1.6@b")}},
	{"external-local-elsewhere", []client.Object{service("web", "10.96.0.20", nodePort(30080), externalLocal), slice("web", 8080, "10.244.1.6@b")}},
	{"internal-local", []client.Object{service("web", "10.96.0.20", internalLocal), slice("web", 8080, "10.244.0.5@a", "10.244.1.6@b")}},
	{"internal-local-elsewhere", []client.Object{service("web", "10.96.0.20", internalLocal), slice("web", 8080, "10.244.1.6@b")}},
	{"affinity", []client.Object{service("web", "10.96.0.20", sticky(600)), slice("web", 8080, "10.244.0.5@a", "10.244.1.6@b")}},
	{"udp", []client.Object{service("dns", "10.96.0.21", portNamed("dns", corev1.ProtocolUDP, 53)), udpSlice("dns", 5353, "10.244.0.5@a")}},
	{"dual-stack", []client.Object{service("web", "10.96.0.20", nodePort(30080), func(s *corev1.Service) { s.Spec.ClusterIPs = append(s.Spec.ClusterIPs, "fd00:96::20") }),
		slice("web", 8080, "10.244.0.5@a"), func() client.Object {
			s := slice("web", 8080, "fd00:244::5@a")
			s.Name, s.AddressType = "web-6", discoveryv1.AddressTypeIPv6
			return s
		}()}},
	{"not-ours", []client.Object{
		service("headless", corev1.ClusterIPNone), slice("headless", 80, "10.244.0.5@a"),
		service("other", "10.96.0.30", func(s *corev1.Service) { s.Labels = map[string]string{labelServiceProxyName: "x"} }), slice("other", 80, "10.244.0.5@a"),
		service("external", "", func(s *corev1.Service) { s.Spec.Type = corev1.ServiceTypeExternalName; s.Spec.ClusterIPs = nil }),
		service("own", "10.96.0.10"), slice("own", 80, "192.168.7.2@a"),
	}},
}

func TestDesired(t *testing.T) {
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			r := Desired(clienttest.World(c.objs...), testConfig)
			r.Skeleton = nil
			golden(t, c.name, r.String())
		})
	}
	golden(t, "skeleton", Desired(clienttest.World(), testConfig).String())
}

// apply runs a world through a state, as the syncer does.
func (s *state) apply(v client.View, layout *Layout, names ...string) *Changes {
	ch := newChanges()
	for _, name := range names {
		key := client.Key{Namespace: "default", Name: name}
		s.replace(key.String(), compile(v, testConfig, layout, key), ch)
	}
	ch.settle(s)
	return ch
}

func TestChangesAreSmall(t *testing.T) {
	st, layout := newState(), NewLayout()
	web := service("web", "10.96.0.20", nodePort(30080))
	var out strings.Builder
	step := func(title string, objs ...client.Object) {
		ch := st.apply(clienttest.World(objs...), layout, "web")
		fmt.Fprintf(&out, "## %s\n%s", title, ch)
	}
	step("two endpoints", web, slice("web", 8080, "10.244.0.5@a", "10.244.0.6@a"))
	step("the same again", web, slice("web", 8080, "10.244.0.5@a", "10.244.0.6@a"))
	step("a third", web, slice("web", 8080, "10.244.0.5@a", "10.244.0.6@a", "10.244.0.4@a"))
	step("the first is replaced", web, slice("web", 8080, "10.244.0.9@a", "10.244.0.6@a", "10.244.0.4@a"))
	step("one leaves", web, slice("web", 8080, "10.244.0.6@a", "10.244.0.4@a"))
	step("all leave", web, slice("web", 8080))
	step("one is back", web, slice("web", 8080, "10.244.0.6@a"))
	step("the service is gone")
	golden(t, "changes", out.String())
	if len(st.held) != 0 || len(st.blocks) != 0 {
		t.Errorf("the state keeps %v %v", st.held, st.blocks)
	}
}

func TestContendersTakeOver(t *testing.T) {
	st, layout := newState(), NewLayout()
	one := service("one", "10.96.0.21", loadBalancerAt("192.168.7.2"))
	two := service("two", "10.96.0.22", loadBalancerAt("192.168.7.2"))
	slices1, slices2 := slice("one", 80, "10.244.0.5@a"), slice("two", 80, "10.244.0.6@a")
	ch := st.apply(clienttest.World(one, two, slices1, slices2), layout, "one", "two")
	if len(ch.contention) != 1 {
		t.Errorf("contention: %q", ch.contention)
	}
	if got := ch.String(); !strings.Contains(got, "192.168.7.2 . tcp . 80 : goto outside-ip/address/4") || strings.Count(got, "192.168.7.2") != 2 {
		t.Errorf("the first should have the address:\n%s", got)
	}
	ch = st.apply(clienttest.World(two, slices2), layout, "one")
	group := nft.Mark.Format(nft.KeyBytes(nft.NumberBytes(layout.group("cluster/default/two/tcp/80/ip"))))
	if got := ch.String(); !strings.Contains(got, "+ groups-ip { 192.168.7.2 . tcp . 80 : "+group+" }") {
		t.Errorf("the second should take over:\n%s", got)
	}
}

func TestSharedElementsStayUntilTheLastLetsGo(t *testing.T) {
	st, layout := newState(), NewLayout()
	objs := []client.Object{service("one", "10.96.0.21"), slice("one", 80, "10.244.0.5@a"), service("two", "10.96.0.22"), slice("two", 80, "10.244.0.5@a")}
	st.apply(clienttest.World(objs...), layout, "one", "two")
	if got := st.apply(clienttest.World(objs[2:]...), layout, "one").String(); strings.Contains(got, setHairpin) {
		t.Errorf("the hairpin element is still needed:\n%s", got)
	}
	if got := st.apply(clienttest.World(), layout, "two").String(); !strings.Contains(got, "- hairpin-ip { 10.244.0.5 . 10.244.0.5 }") {
		t.Errorf("the hairpin element should go:\n%s", got)
	}
}

func TestArrangeMovesLittle(t *testing.T) {
	addr := func(n int) netip.AddrPort {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(n)}), 80)
	}
	l := NewLayout()
	list := func(ns ...int) (out []netip.AddrPort) {
		for _, n := range ns {
			out = append(out, addr(n))
		}
		return out
	}
	for _, c := range []struct{ want, got []netip.AddrPort }{
		{list(1, 2, 3, 4), list(1, 2, 3, 4)},
		{list(2, 3, 4), list(4, 2, 3)},
		{list(0, 2, 4), list(4, 2, 0)},
		{list(5, 6), list(5, 6)},
		{list(), list()},
		{list(7, 8, 9), list(7, 8, 9)},
		{list(8), list(8)},
	} {
		if got := l.arrange(1, c.want); !slices.Equal(got, c.got) {
			t.Errorf("want %v arranged as %v, got %v", c.want, c.got, got)
		}
	}
}

func TestGroupsNeverShareANumber(t *testing.T) {
	l := NewLayout()
	n := l.group("a")
	l.names[n], l.numbers = "b", map[string]uint32{"b": n} // as if b had hashed alike
	if l.group("a") == n {
		t.Error("two groups have one number")
	}
}
