package loadbalancer

import (
	"context"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"proa/client"
	"proa/controllers/simulation"
)

func node(name, ip string, isReady bool) *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, UID: "u"}}
	status := corev1.ConditionFalse
	if isReady {
		status = corev1.ConditionTrue
	}
	n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: status}}
	n.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeHostName, Address: name}, {Type: corev1.NodeInternalIP, Address: ip}}
	return n
}

func service(name string, port int32, change ...func(s *corev1.Service)) *corev1.Service {
	s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name},
		Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer, Selector: map[string]string{"a": "b"},
			IPFamilies: []corev1.IPFamily{corev1.IPv4Protocol}, Ports: []corev1.ServicePort{{Port: port, Protocol: corev1.ProtocolTCP}}}}
	for _, f := range change {
		f(s)
	}
	return s
}

func addresses(c *simulation.Cluster, name string) string {
	time.Sleep(time.Second)
	var out []string
	for _, i := range client.Get[corev1.Service](c.View(), "ns", name).Status.LoadBalancer.Ingress {
		out = append(out, i.IP)
	}
	return strings.Join(out, " ")
}

func TestAddressesFollowNodesAndPorts(t *testing.T) {
	simulation.Run(t, nil, func(ctx context.Context, c *simulation.Cluster) {
		want := func(step, name, want string) {
			t.Helper()
			if got := addresses(c, name); got != want {
				t.Errorf("%s: %s has %q, want %q", step, name, got, want)
			}
		}
		create := func(s *corev1.Service) {
			t.Helper()
			if _, err := c.Create(ctx, s); err != nil {
				t.Fatal(err)
			}
			time.Sleep(2 * time.Second) // so that age tells
		}
		create(service("a", 80))
		want("without nodes", "a", "")
		c.Inject(node("n1", "192.0.2.1", true))
		c.Inject(node("n2", "192.0.2.2", false))
		want("one ready", "a", "192.0.2.1")
		c.Inject(node("n2", "192.0.2.2", true))
		want("two ready", "a", "192.0.2.1 192.0.2.2")
		create(service("b", 80))
		create(service("c", 81))
		class := "example.com/lb"
		create(service("d", 82, func(s *corev1.Service) { s.Spec.LoadBalancerClass = &class }))
		want("same port", "b", "")
		want("other port", "c", "192.0.2.1 192.0.2.2")
		want("other class", "d", "")
		if err := c.Delete(ctx, client.Row[corev1.Service](), client.Key{Namespace: "ns", Name: "a"}, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		want("port free", "b", "192.0.2.1 192.0.2.2")
		s := client.Get[corev1.Service](c.View(), "ns", "c").DeepCopy()
		s.Spec.Type = corev1.ServiceTypeClusterIP
		if _, err := c.Update(ctx, s, ""); err != nil {
			t.Fatal(err)
		}
		want("no balancer any more", "c", "")
		reasons := map[string]string{}
		for e := range client.List[corev1.Event](c.View(), "ns") {
			reasons[e.InvolvedObject.Name+e.Reason] = e.Message
		}
		if reasons["bPortInUse"] != "port 80/TCP is taken by Service ns/a" || reasons["aNoReadyNode"] == "" || reasons["aUpdatedLoadBalancer"] == "" {
			t.Errorf("events %v", reasons)
		}
	}, Controller())
}

func TestLocalTrafficNeedsAnEndpoint(t *testing.T) {
	simulation.Run(t, nil, func(ctx context.Context, c *simulation.Cluster) {
		c.Inject(node("n1", "192.0.2.1", true))
		c.Inject(node("n2", "192.0.2.2", true))
		local := func(s *corev1.Service) { s.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal }
		if _, err := c.Create(ctx, service("a", 80, local)); err != nil {
			t.Fatal(err)
		}
		if got := addresses(c, "a"); got != "" {
			t.Errorf("without endpoints: %q", got)
		}
		yes, n2 := true, "n2"
		c.Inject(&discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "a-1", UID: "s", Labels: map[string]string{discoveryv1.LabelServiceName: "a"}},
			Endpoints: []discoveryv1.Endpoint{{Addresses: []string{"10.0.0.1"}, NodeName: &n2, Conditions: discoveryv1.EndpointConditions{Ready: &yes}}}})
		if got := addresses(c, "a"); got != "192.0.2.2" {
			t.Errorf("with one: %q", got)
		}
	}, Controller())
}
