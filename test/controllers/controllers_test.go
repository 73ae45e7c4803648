// Package controllers runs all controllers on the real request path and the
// real datastore, with a simulated kubelet.
package controllers

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"proa/client"
	"proa/test/plane"
)

// kubelet binds every pod at once, makes it ready, and ends it when it is
// deleted.
func kubelet(ctx context.Context, c client.Client) error {
	_, stream, err := c.Watch(ctx, client.All[corev1.Pod]())
	if err != nil {
		return err
	}
	defer stream.Close()
	for n := 0; ; {
		events, _, err := stream.Next(ctx)
		if err != nil {
			return err
		}
		for _, e := range events {
			p, _ := e.New.(*corev1.Pod)
			if p == nil {
				continue
			}
			n++
			if err := step(ctx, c, p, n); err != nil {
				slog.Warn("kubelet", "pod", p.Name, "error", err)
			}
		}
	}
}

func step(ctx context.Context, c client.Client, p *corev1.Pod, n int) error {
	row := client.Row[corev1.Pod]()
	switch {
	case p.DeletionTimestamp != nil:
		zero := int64(0)
		err := c.Delete(ctx, row, client.KeyOf(p), metav1.DeleteOptions{GracePeriodSeconds: &zero})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return err
	case p.Spec.NodeName == "":
		_, err := c.Post(ctx, row, client.KeyOf(p), "binding", &corev1.Binding{
			ObjectMeta: metav1.ObjectMeta{Namespace: p.Namespace, Name: p.Name}, Target: corev1.ObjectReference{Kind: "Node", Name: "n1"}})
		return err
	case p.Status.Phase != corev1.PodRunning:
		p = p.DeepCopy()
		p.Status.Phase = corev1.PodRunning
		p.Status.PodIP = fmt.Sprintf("10.42.%d.%d", n/250%250, n%250+1)
		p.Status.PodIPs = []corev1.PodIP{{IP: p.Status.PodIP}}
		p.Status.Conditions = append(p.Status.Conditions, corev1.PodCondition{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.Now()})
		_, err := c.Update(ctx, p, "status")
		return err
	}
	return nil
}

// eventually waits until a view satisfies, for at most 20 s.
func eventually(t *testing.T, c client.Client, what string, ok func(v client.View) bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	var scopes []client.Scope
	for _, row := range c.Registry().All() {
		if row.NewList != nil {
			scopes = append(scopes, client.Scope{Resource: row})
		}
	}
	v, stream, err := c.Watch(ctx, scopes...)
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	for !ok(v) {
		if _, v, err = stream.Next(ctx); err != nil {
			for _, row := range c.Registry().All() {
				for obj := range c.View().List(row, "") {
					t.Logf("%s %s/%s %+v", row.Key(), obj.GetNamespace(), obj.GetName(), obj)
				}
			}
			t.Fatalf("%s: it did not happen", what)
		}
	}
}

func must(t *testing.T, c client.Client, obj client.Object) {
	t.Helper()
	if _, err := c.Create(t.Context(), obj); err != nil {
		t.Fatal(err)
	}
}

func TestAnApplicationLivesAndGoes(t *testing.T) {
	c := plane.Start(t, kubelet)
	eventually(t, c, "default namespace is equipped", func(v client.View) bool {
		return client.Get[corev1.ServiceAccount](v, "default", "default") != nil && client.Get[corev1.ConfigMap](v, "default", "kube-root-ca.crt") != nil
	})
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}}
	node.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue, LastHeartbeatTime: metav1.Now()}}
	node.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "192.0.2.1"}}
	must(t, c, node)
	labels := map[string]string{"app": "web"}
	three := int32(3)
	d := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web"}, Spec: appsv1.DeploymentSpec{
		Replicas: &three, Selector: &metav1.LabelSelector{MatchLabels: labels},
		Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "v1"}}}}}}
	must(t, c, d)
	must(t, c, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web"}, Spec: corev1.ServiceSpec{
		Type: corev1.ServiceTypeLoadBalancer, Selector: labels, Ports: []corev1.ServicePort{{Port: 80, TargetPort: intstr.FromInt32(5000)}}}})
	eventually(t, c, "three are available and served", func(v client.View) bool {
		d, svc := client.Get[appsv1.Deployment](v, "default", "web"), client.Get[corev1.Service](v, "default", "web")
		n := 0
		for s := range client.List[discoveryv1.EndpointSlice](v, "default") {
			if s.Labels[discoveryv1.LabelServiceName] == "web" {
				n += len(s.Endpoints)
			}
		}
		ep := client.Get[corev1.Endpoints](v, "default", "web")
		return d.Status.AvailableReplicas == 3 && len(svc.Status.LoadBalancer.Ingress) == 1 && n == 3 && ep != nil && len(ep.Subsets) == 1 && len(ep.Subsets[0].Addresses) == 3
	})
	next := client.Get[appsv1.Deployment](c.View(), "default", "web").DeepCopy()
	next.Spec.Template.Spec.Containers[0].Image = "v2"
	next.ResourceVersion = ""
	if _, err := c.Update(t.Context(), next, ""); err != nil {
		t.Fatal(err)
	}
	eventually(t, c, "the rollout completes", func(v client.View) bool {
		d := client.Get[appsv1.Deployment](v, "default", "web")
		i := slices.IndexFunc(d.Status.Conditions, func(c appsv1.DeploymentCondition) bool { return c.Reason == "NewReplicaSetAvailable" })
		return d.Status.ObservedGeneration == d.Generation && d.Status.UpdatedReplicas == 3 && d.Status.Replicas == 3 && i >= 0
	})
	quiet(t, c)
	if err := c.Delete(t.Context(), client.Row[appsv1.Deployment](), client.KeyOf(d), metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, c, "everything it owned goes", func(v client.View) bool {
		return len(slices.Collect(client.List[corev1.Pod](v, "default"))) == 0 && len(slices.Collect(client.List[appsv1.ReplicaSet](v, "default"))) == 0
	})
}

// quiet wants no write at all for a while.
func quiet(t *testing.T, c client.Client) {
	t.Helper()
	time.Sleep(500 * time.Millisecond)
	before := c.View().Revision()
	time.Sleep(2 * time.Second)
	if after := c.View().Revision(); after != before {
		t.Errorf("%d writes although nothing happens", after-before)
	}
}

func TestANamespaceGoesWhole(t *testing.T) {
	c := plane.Start(t, kubelet)
	must(t, c, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "gone"}})
	eventually(t, c, "it is equipped", func(v client.View) bool { return client.Get[corev1.ServiceAccount](v, "gone", "default") != nil })
	labels := map[string]string{"app": "web"}
	two := int32(2)
	must(t, c, &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: "gone", Name: "web"}, Spec: appsv1.DeploymentSpec{
		Replicas: &two, Selector: &metav1.LabelSelector{MatchLabels: labels},
		Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "v1"}}}}}})
	eventually(t, c, "its pods run", func(v client.View) bool {
		return client.Get[appsv1.Deployment](v, "gone", "web").Status.AvailableReplicas == 2
	})
	if err := c.Delete(t.Context(), client.Row[corev1.Namespace](), client.Key{Name: "gone"}, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, c, "it is gone", func(v client.View) bool { return client.Get[corev1.Namespace](v, "", "gone") == nil })
	for _, row := range c.Registry().All() {
		if row.NewList != nil && row.Namespaced {
			for obj := range c.View().List(row, "gone") {
				t.Errorf("left: %s %s", row.Key(), obj.GetName())
			}
		}
	}
}
