package namespace

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"proa/api"
	"proa/client"
	"proa/controllers/simulation"
)

func create(t *testing.T, c *simulation.Cluster, objs ...client.Object) {
	t.Helper()
	for _, obj := range objs {
		if _, err := c.Create(t.Context(), obj); err != nil {
			t.Fatal(err)
		}
	}
}

func meta(name string, finalizers ...string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: "gone", Name: name, Finalizers: finalizers}
}

func pod(finalizers ...string) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: meta("p", finalizers...), Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}}}
}

func ns(c *simulation.Cluster) *corev1.Namespace {
	return client.Get[corev1.Namespace](c.View(), "", "gone")
}

func del(t *testing.T, c *simulation.Cluster) {
	t.Helper()
	if err := c.Delete(t.Context(), client.Row[corev1.Namespace](), client.Key{Name: "gone"}, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
}

func condition(n *corev1.Namespace, t corev1.NamespaceConditionType) string {
	for _, c := range n.Status.Conditions {
		if c.Type == t {
			return string(c.Status) + " " + c.Reason + " " + c.Message
		}
	}
	return ""
}

func TestPodsGoFirstThenTheRestThenTheNamespace(t *testing.T) {
	prepare := func(c *simulation.Cluster) {
		c.Stop = func(*corev1.Pod) time.Duration { return 10 * time.Second }
		c.Each = func(v client.View) {
			pods := client.Get[corev1.Pod](v, "gone", "p")
			policy := client.Get[networkingv1.NetworkPolicy](v, "gone", "n")
			if pods != nil && client.Get[corev1.Namespace](v, "", "gone") != nil && policy == nil && pods.DeletionTimestamp != nil {
				t.Error("the policy went before the pod")
			}
		}
	}
	simulation.Run(t, prepare, func(_ context.Context, c *simulation.Cluster) {
		create(t, c, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "gone"}}, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "stays"}},
			&networkingv1.NetworkPolicy{ObjectMeta: meta("n")}, pod(), &corev1.ConfigMap{ObjectMeta: meta("c")},
			&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "stays", Name: "c"}})
		time.Sleep(5 * time.Second)
		del(t, c)
		time.Sleep(5 * time.Second)
		if got := condition(ns(c), corev1.NamespaceContentRemaining); got != "True SomeResourcesRemain Some resources are remaining: configmaps has 1 resource instances, networkpolicies.networking.k8s.io has 1 resource instances, pods has 1 resource instances" {
			t.Errorf("remaining: %s", got)
		}
		time.Sleep(10 * time.Second)
		if ns(c) != nil {
			t.Errorf("the namespace is still there: %+v", ns(c).Status)
		}
		if client.Get[corev1.ConfigMap](c.View(), "stays", "c") == nil {
			t.Error("another namespace was emptied")
		}
	}, Controller(api.Builtin()))
}

func TestFinalizersAndFailuresAreTold(t *testing.T) {
	var broken atomic.Bool
	broken.Store(true)
	prepare := func(c *simulation.Cluster) {
		c.Fault = func(verb string, obj client.Object, _ string) error {
			if _, ok := obj.(*corev1.ConfigMap); ok && broken.Load() && verb == "delete" {
				return errors.New("a webhook says no")
			}
			return nil
		}
	}
	simulation.Run(t, prepare, func(_ context.Context, c *simulation.Cluster) {
		create(t, c, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "gone"}}, &corev1.Secret{ObjectMeta: meta("s", "test.io/hold")}, &corev1.ConfigMap{ObjectMeta: meta("c")})
		del(t, c)
		time.Sleep(time.Second)
		if got := condition(ns(c), corev1.NamespaceDeletionContentFailure); !strings.HasPrefix(got, "True ContentDeletionFailed a webhook says no") {
			t.Errorf("failure: %s", got)
		}
		broken.Store(false)
		time.Sleep(time.Hour)
		if got := condition(ns(c), corev1.NamespaceFinalizersRemaining); got != "True SomeFinalizersRemain Some content in the namespace has finalizers remaining: test.io/hold in 1 resource instances" {
			t.Errorf("finalizers: %s", got)
		}
		if got := condition(ns(c), corev1.NamespaceDeletionContentFailure); !strings.HasPrefix(got, "False ContentDeleted") {
			t.Errorf("failure afterwards: %s", got)
		}
		s := client.Get[corev1.Secret](c.View(), "gone", "s").DeepCopy()
		s.Finalizers = nil
		if _, err := c.Update(t.Context(), s, ""); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		if ns(c) != nil {
			t.Error("the namespace is still there")
		}
	}, Controller(api.Builtin()))
}
