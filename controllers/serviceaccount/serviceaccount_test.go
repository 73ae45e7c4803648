package serviceaccount

import (
	"context"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"proa/client"
	"proa/controllers/simulation"
)

func TestEveryNamespaceIsEquippedAndStaysSo(t *testing.T) {
	simulation.Run(t, nil, func(ctx context.Context, c *simulation.Cluster) {
		if _, err := c.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "a"}}); err != nil {
			t.Fatal(err)
		}
		check := func(step string) {
			t.Helper()
			time.Sleep(time.Second)
			if client.Get[corev1.ServiceAccount](c.View(), "a", "default") == nil {
				t.Errorf("%s: no default account", step)
			}
			if cm := client.Get[corev1.ConfigMap](c.View(), "a", caName); cm == nil || len(cm.Data) != 1 || cm.Data[caKey] != "PEM" || cm.Annotations[caNoteKey] == "" {
				t.Errorf("%s: authority %+v", step, cm)
			}
		}
		check("at first")
		if err := c.Delete(ctx, client.Row[corev1.ServiceAccount](), client.Key{Namespace: "a", Name: "default"}, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		cm := client.Get[corev1.ConfigMap](c.View(), "a", caName).DeepCopy()
		cm.Data = map[string]string{"ca.crt": "forged", "more": "x"}
		cm.Annotations = nil
		if _, err := c.Update(ctx, cm, ""); err != nil {
			t.Fatal(err)
		}
		check("after they were changed")
		before := c.View().Revision()
		time.Sleep(time.Hour)
		if c.View().Revision() != before {
			t.Error("writes although nothing happened")
		}
	}, Controller(), RootCA([]byte("PEM")))
}

func TestNothingIsMadeInATerminatingNamespace(t *testing.T) {
	simulation.Run(t, nil, func(ctx context.Context, c *simulation.Cluster) {
		if _, err := c.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "a"}}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		if err := c.Delete(ctx, client.Row[corev1.Namespace](), client.Key{Name: "a"}, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		for row, name := range map[client.Object]string{&corev1.ServiceAccount{}: "default", &corev1.ConfigMap{}: caName} {
			if err := c.Delete(ctx, c.Registry().ByType(row), client.Key{Namespace: "a", Name: name}, metav1.DeleteOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(time.Second)
		if client.Get[corev1.ServiceAccount](c.View(), "a", "default") != nil || client.Get[corev1.ConfigMap](c.View(), "a", caName) != nil {
			t.Error("made again in a terminating namespace")
		}
	}, Controller(), RootCA([]byte("PEM")))
}
