package endpoints

import (
	"context"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"proa/api"
	"proa/client"
	"proa/controllers/garbage"
	"proa/controllers/simulation"
)

func TestMirrorsHandWrittenEndpoints(t *testing.T) {
	simulation.Run(t, nil, func(ctx context.Context, c *simulation.Cluster) {
		svc := service(func(s *corev1.Service) { s.Spec.Selector, s.UID = nil, "" })
		ep := &corev1.Endpoints{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "web"}, Subsets: []corev1.EndpointSubset{{
			Addresses: []corev1.EndpointAddress{{IP: "192.0.2.7"}, {IP: "2001:db8::7"}}, NotReadyAddresses: []corev1.EndpointAddress{{IP: "192.0.2.8"}},
			Ports: []corev1.EndpointPort{{Name: "http", Port: 80, Protocol: corev1.ProtocolTCP}}}}}
		for _, obj := range []client.Object{svc, ep} {
			if _, err := c.Create(ctx, obj); err != nil {
				t.Fatal(err)
			}
		}
		check := func(step string, want string) {
			t.Helper()
			time.Sleep(time.Second)
			got := ""
			for s := range client.List[discoveryv1.EndpointSlice](c.View(), "ns") {
				line := string(s.AddressType)
				for _, e := range s.Endpoints {
					line += " " + e.Addresses[0]
					if !*e.Conditions.Ready {
						line += "!"
					}
				}
				got = max(got, line) + min(got, line)
			}
			if got != want {
				t.Errorf("%s: %q, want %q", step, got, want)
			}
		}
		check("at first", "IPv6 2001:db8::7IPv4 192.0.2.7 192.0.2.8!")
		next := client.Get[corev1.Endpoints](c.View(), "ns", "web").DeepCopy()
		next.Subsets[0].Addresses = next.Subsets[0].Addresses[:1]
		if _, err := c.Update(ctx, next, ""); err != nil {
			t.Fatal(err)
		}
		check("an address less", "IPv4 192.0.2.7 192.0.2.8!")
		before := c.View().Revision()
		time.Sleep(time.Hour)
		if c.View().Revision() != before {
			t.Error("writes although nothing happened")
		}
		if err := c.Delete(ctx, client.Row[corev1.Endpoints](), client.KeyOf(ep), metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		check("gone", "")
	}, Mirror(), Legacy(), garbage.Controller(api.Builtin()))
}
