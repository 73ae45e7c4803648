package endpoints

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"proa/client"
	"proa/client/clienttest"
	"proa/controllers/replicaset"
	"proa/controllers/simulation"
	"proa/reconcile"
)

func service(change ...func(s *corev1.Service)) *corev1.Service {
	s := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "web", UID: "svc", Labels: map[string]string{"team": "a"}},
		Spec: corev1.ServiceSpec{
			ClusterIP: "10.43.0.9", Selector: map[string]string{"app": "web"},
			IPFamilies: []corev1.IPFamily{corev1.IPv4Protocol},
			Ports:      []corev1.ServicePort{{Name: "http", Protocol: corev1.ProtocolTCP, Port: 80, TargetPort: intstr.FromString("web")}},
		},
	}
	for _, f := range change {
		f(s)
	}
	return s
}

func pod(n int, change ...func(p *corev1.Pod)) *corev1.Pod {
	name := fmt.Sprintf("p%03d", n)
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, UID: types.UID(name), Labels: map[string]string{"app": "web"}},
		Spec:       corev1.PodSpec{NodeName: "n1", Containers: []corev1.Container{{Name: "c", Ports: []corev1.ContainerPort{{Name: "web", ContainerPort: 5000, Protocol: corev1.ProtocolTCP}}}}},
	}
	p.Status.Phase = corev1.PodRunning
	p.Status.PodIP = fmt.Sprintf("10.42.%d.%d", n/250, n%250+1)
	p.Status.PodIPs = []corev1.PodIP{{IP: p.Status.PodIP}, {IP: fmt.Sprintf("fd00::%x", n+1)}}
	simulation.SetCondition(p, corev1.PodReady, true)
	for _, f := range change {
		f(p)
	}
	return p
}

func unready(p *corev1.Pod) { p.Status.Conditions[0].Status = corev1.ConditionFalse }

func deleting(p *corev1.Pod) { p.DeletionTimestamp = &metav1.Time{Time: time.Unix(1, 0)} }

// text shows slices one a line: family, ports, then endpoints with the
// conditions that they have.
func text(list []*discoveryv1.EndpointSlice) string {
	var out []string
	for _, s := range list {
		line := string(s.AddressType) + " [" + portsKey(s.Ports) + "]"
		for _, e := range s.Endpoints {
			line += " " + e.Addresses[0]
			for _, c := range []struct {
				v    *bool
				name string
			}{{e.Conditions.Ready, "r"}, {e.Conditions.Serving, "s"}, {e.Conditions.Terminating, "t"}} {
				if *c.v {
					line += c.name
				}
			}
			if e.Hostname != nil {
				line += "(" + *e.Hostname + ")"
			}
			if e.Zone != nil {
				line += "@" + *e.Zone
			}
			if e.Hints != nil {
				line += fmt.Sprint(len(e.Hints.ForZones), len(e.Hints.ForNodes))
			}
		}
		out = append(out, line)
	}
	slices.Sort(out)
	return strings.Join(out, "\n")
}

func created(plan reconcile.Plan) (out []*discoveryv1.EndpointSlice) {
	for _, w := range plan.Writes {
		if w.Op == reconcile.Create {
			out = append(out, w.Object.(*discoveryv1.EndpointSlice))
		}
	}
	return out
}

func TestSlicesGolden(t *testing.T) {
	set := func(f func(s *corev1.Service)) []client.Object { return []client.Object{service(f)} }
	for _, tc := range []struct {
		name    string
		objects []client.Object
		want    string
	}{
		{"none", []client.Object{service()}, "IPv4 []"},
		{"states", []client.Object{service(), pod(0), pod(1, unready), pod(2, deleting), pod(3, deleting, unready)},
			"IPv4 [http/TCP/5000/] 10.42.0.1rs 10.42.0.2 10.42.0.3st 10.42.0.4t"},
		{"finished or without address", []client.Object{service(),
			pod(0, func(p *corev1.Pod) { p.Status.Phase = corev1.PodFailed }), pod(1, func(p *corev1.Pod) { p.Status.PodIP = "" })}, "IPv4 []"},
		{"publish not ready", append(set(func(s *corev1.Service) { s.Spec.PublishNotReadyAddresses = true }), pod(0, unready)),
			"IPv4 [http/TCP/5000/] 10.42.0.1r"},
		{"both families", append(set(func(s *corev1.Service) { s.Spec.IPFamilies = append(s.Spec.IPFamilies, corev1.IPv6Protocol) }), pod(0)),
			"IPv4 [http/TCP/5000/] 10.42.0.1rs\nIPv6 [http/TCP/5000/] fd00::1rs"},
		{"named port differs by pod", []client.Object{service(), pod(0), pod(1, func(p *corev1.Pod) { p.Spec.Containers[0].Ports[0].ContainerPort = 6000 })},
			"IPv4 [http/TCP/5000/] 10.42.0.1rs\nIPv4 [http/TCP/6000/] 10.42.0.2rs"},
		{"headless without ports", append(set(func(s *corev1.Service) { s.Spec.ClusterIP, s.Spec.Ports = "None", nil }),
			pod(0, func(p *corev1.Pod) { p.Spec.Hostname, p.Spec.Subdomain = "db-0", "web" })), "IPv4 [] 10.42.0.1rs(db-0)"},
		{"no selector", set(func(s *corev1.Service) { s.Spec.Selector = nil }), ""},
		{"zones", append(set(func(s *corev1.Service) {
			d := corev1.ServiceTrafficDistributionPreferSameNode
			s.Spec.TrafficDistribution = &d
		}), pod(0), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1", Labels: map[string]string{corev1.LabelTopologyZone: "z"}}}),
			"IPv4 [http/TCP/5000/] 10.42.0.1rs@z1 1"},
	} {
		got := text(created(DecideSlices(clienttest.World(tc.objects...), time.Now(), client.Key{Namespace: "ns", Name: "web"})))
		if got != tc.want {
			t.Errorf("%s:\ngot  %s\nwant %s", tc.name, got, tc.want)
		}
	}
}

func TestSliceMeta(t *testing.T) {
	svc := service(func(s *corev1.Service) {
		s.Spec.ClusterIP = "None"
		s.Annotations = map[string]string{"note": "x", corev1.LastAppliedConfigAnnotation: "{}"}
	})
	s := created(DecideSlices(clienttest.World(svc, pod(0)), time.Now(), client.KeyOf(svc)))[0]
	want := map[string]string{"team": "a", "kubernetes.io/service-name": "web", "service.kubernetes.io/headless": "",
		"endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io"}
	if fmt.Sprint(s.Labels) != fmt.Sprint(want) || fmt.Sprint(s.Annotations) != "map[note:x]" || s.GenerateName != "web-" ||
		!metav1.IsControlledBy(s, svc) {
		t.Errorf("meta %+v", s.ObjectMeta)
	}
}

// world follows a Service over a real loop and counts writes of slices.
func TestFewChanges(t *testing.T) {
	var writes atomic.Int64
	prepare := func(c *simulation.Cluster) {
		c.Nodes = -1
		c.Fault = func(_ string, obj client.Object, _ string) error {
			if _, ok := obj.(*discoveryv1.EndpointSlice); ok {
				writes.Add(1)
			}
			return nil
		}
	}
	simulation.Run(t, prepare, func(ctx context.Context, c *simulation.Cluster) {
		for n := range 250 {
			c.Inject(pod(n))
		}
		if _, err := c.Create(ctx, service()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		check := func(step string, sizes string, most int64) {
			t.Helper()
			time.Sleep(time.Second)
			var got []int
			for s := range client.List[discoveryv1.EndpointSlice](c.View(), "ns") {
				got = append(got, len(s.Endpoints))
			}
			slices.Sort(got)
			if fmt.Sprint(got) != sizes || writes.Load() > most {
				t.Errorf("%s: slices of %v after %d writes, want %s after at most %d", step, got, writes.Load(), sizes, most)
			}
			writes.Store(0)
		}
		check("at first", "[50 100 100]", 3)
		c.Inject(pod(7, unready))
		check("one changes", "[50 100 100]", 1)
		c.Inject(pod(300))
		check("one comes", "[51 100 100]", 1)
		if err := c.Delete(ctx, client.Row[corev1.Pod](), client.Key{Namespace: "ns", Name: "p007"}, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		check("one goes", "[51 99 100]", 2) // terminating, then gone
		p := client.Get[corev1.Pod](c.View(), "ns", "p001").DeepCopy()
		p.Annotations = map[string]string{"irrelevant": "yes"}
		c.Inject(p)
		check("nothing changes", "[51 99 100]", 0)
	}, Slices())
}

func TestLegacy(t *testing.T) {
	svc := service()
	v := clienttest.World(svc, pod(0), pod(1, unready), pod(2, deleting), pod(3, func(p *corev1.Pod) { p.Spec.Containers[0].Ports[0].ContainerPort = 6000 }))
	plan := DecideLegacy(v, time.Now(), client.KeyOf(svc))
	ep := plan.Writes[0].Object.(*corev1.Endpoints)
	var got []string
	for _, s := range ep.Subsets {
		line := fmt.Sprint(s.Ports[0].Name, s.Ports[0].Port)
		for _, a := range s.Addresses {
			line += " " + a.IP
		}
		for _, a := range s.NotReadyAddresses {
			line += " !" + a.IP
		}
		got = append(got, line)
	}
	if s := strings.Join(got, ", "); s != "http5000 10.42.0.1 !10.42.0.2, http6000 10.42.0.4" {
		t.Errorf("subsets %s", s)
	}
	if ep.Labels[legacyLabel] != legacyManager || ep.Labels["team"] != "a" {
		t.Errorf("labels %v", ep.Labels)
	}
	if again := DecideLegacy(clienttest.World(svc, pod(0), pod(1, unready), pod(2, deleting), pod(3, func(p *corev1.Pod) { p.Spec.Containers[0].Ports[0].ContainerPort = 6000 }), ep), time.Now(), client.KeyOf(svc)); len(again.Writes) != 0 {
		t.Errorf("decided twice, it writes again")
	}
	gone := DecideLegacy(clienttest.World(ep), time.Now(), client.KeyOf(svc))
	if len(gone.Writes) != 1 || gone.Writes[0].Op != reconcile.Delete {
		t.Errorf("without its Service: %+v", gone)
	}
}

func TestFollowsAReplicaSet(t *testing.T) {
	simulation.Run(t, nil, func(ctx context.Context, c *simulation.Cluster) {
		three := int32(3)
		l := map[string]string{"app": "web"}
		rs := &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "web"}, Spec: appsv1.ReplicaSetSpec{
			Replicas: &three, Selector: &metav1.LabelSelector{MatchLabels: l},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: l}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}}},
		}}
		svc := service(func(s *corev1.Service) { s.Spec.Ports[0].TargetPort = intstr.FromInt32(5000) })
		for _, obj := range []client.Object{rs, svc} {
			if _, err := c.Create(ctx, obj); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(10 * time.Second)
		for s := range client.List[discoveryv1.EndpointSlice](c.View(), "ns") {
			if len(s.Endpoints) != 3 || !*s.Endpoints[0].Conditions.Ready {
				t.Errorf("slice %+v", s)
			}
		}
		ep := client.Get[corev1.Endpoints](c.View(), "ns", "web")
		if ep == nil || len(ep.Subsets) != 1 || len(ep.Subsets[0].Addresses) != 3 {
			t.Errorf("endpoints %+v", ep)
		}
	}, replicaset.Controller(), Slices(), Legacy())
}
