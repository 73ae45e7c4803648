package quota

import (
	"context"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"proa/api"
	"proa/client"
	"proa/controllers/simulation"
)

func pod(name, cpu string) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}}}
	if cpu != "" {
		p.Spec.Containers[0].Resources.Requests = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(cpu)}
	}
	return p
}

func TestUseFollowsTheNamespace(t *testing.T) {
	simulation.Run(t, nil, func(ctx context.Context, c *simulation.Cluster) {
		hard := corev1.ResourceList{}
		for _, name := range []corev1.ResourceName{"pods", "requests.cpu", "count/configmaps", "services"} {
			hard[name] = resource.MustParse("10")
		}
		create := func(obj client.Object) {
			t.Helper()
			if _, err := c.Create(ctx, obj); err != nil {
				t.Fatal(err)
			}
		}
		create(&corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "q"}, Spec: corev1.ResourceQuotaSpec{Hard: hard}})
		create(&corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "idle"}, Spec: corev1.ResourceQuotaSpec{
			Hard: corev1.ResourceList{"pods": resource.MustParse("5")}, Scopes: []corev1.ResourceQuotaScope{corev1.ResourceQuotaScopeBestEffort}}})
		want := func(step, quota string, values map[corev1.ResourceName]string) {
			t.Helper()
			time.Sleep(5 * time.Second)
			used := client.Get[corev1.ResourceQuota](c.View(), "ns", quota).Status.Used
			for name, v := range values {
				if q := used[name]; q.Cmp(resource.MustParse(v)) != 0 {
					t.Errorf("%s: %s uses %s of %s, want %s", step, quota, q.String(), name, v)
				}
			}
		}
		create(pod("a", "500m"))
		create(pod("b", "250m"))
		create(pod("c", ""))
		create(&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "m"}})
		create(&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "other", Name: "m"}})
		want("at first", "q", map[corev1.ResourceName]string{"pods": "3", "requests.cpu": "750m", "count/configmaps": "1", "services": "0"})
		want("at first", "idle", map[corev1.ResourceName]string{"pods": "1"})
		c.SetPhase(client.Get[corev1.Pod](c.View(), "ns", "a"), corev1.PodSucceeded)
		if err := c.Delete(ctx, client.Row[corev1.ConfigMap](), client.Key{Namespace: "ns", Name: "m"}, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		want("then", "q", map[corev1.ResourceName]string{"pods": "2", "requests.cpu": "250m", "count/configmaps": "0"})
		before := c.View().Revision()
		time.Sleep(time.Hour)
		if c.View().Revision() != before {
			t.Error("writes although nothing happened")
		}
	}, Controller(api.Builtin()))
}
