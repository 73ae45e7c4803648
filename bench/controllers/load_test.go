package controllers

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"proa/client"
	"proa/test/plane"
)

// start runs a control plane with a namespace for the load.
func start(b *testing.B) client.Client {
	b.Helper()
	c := plane.Start(b)
	create(b, c, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "load"}})
	until(b, c, func(v client.View) bool { return client.Get[corev1.ServiceAccount](v, "load", "default") != nil })
	return c
}

func create(b *testing.B, c client.Client, objs ...client.Object) {
	b.Helper()
	queue := make(chan client.Object)
	var wg sync.WaitGroup
	for range 64 {
		wg.Go(func() {
			for obj := range queue {
				if _, err := c.Create(b.Context(), obj); err != nil {
					b.Error(err)
				}
			}
		})
	}
	for _, obj := range objs {
		queue <- obj
	}
	close(queue)
	wg.Wait()
}

// until looks at the world ten times a second, which costs little beside what is
// measured.
func until(b *testing.B, c client.Client, ok func(client.View) bool) {
	b.Helper()
	for end := time.Now().Add(20 * time.Minute); !ok(c.View()); time.Sleep(100 * time.Millisecond) {
		if time.Now().After(end) {
			b.Fatal("it did not come")
		}
	}
}

func cpu() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u) // of this process it cannot fail
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// measured reports the processor time of work for each of n objects.
func measured(b *testing.B, n int, work func()) {
	b.Helper()
	before, began := cpu(), time.Now()
	work()
	b.ReportMetric(float64((cpu()-before).Microseconds())/float64(n), "cpu-µs/object")
	b.ReportMetric(time.Since(began).Seconds(), "s")
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	b.ReportMetric(float64(m.HeapAlloc)/(1<<20), "heap-MB")
	b.ReportMetric(0, "ns/op")
}

func deployment(i int, pods int32) *appsv1.Deployment {
	name := fmt.Sprint("d", i)
	labels := map[string]string{"app": name}
	return &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: "load", Name: name}, Spec: appsv1.DeploymentSpec{
		Replicas: &pods, Selector: &metav1.LabelSelector{MatchLabels: labels},
		Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}}}}}
}

// kubelet binds a pod, or makes it ready.
func kubelet(ctx context.Context, c client.Client, p *corev1.Pod, n int) error {
	if p.Spec.NodeName == "" {
		_, err := c.Post(ctx, client.Row[corev1.Pod](), client.KeyOf(p), "binding", &corev1.Binding{
			ObjectMeta: metav1.ObjectMeta{Namespace: p.Namespace, Name: p.Name}, Target: corev1.ObjectReference{Kind: "Node", Name: "n1"}})
		return err
	}
	p = p.DeepCopy()
	p.Status.Phase = corev1.PodRunning
	p.Status.PodIP = fmt.Sprintf("10.42.%d.%d", n/250%250, n%250+1)
	p.Status.PodIPs = []corev1.PodIP{{IP: p.Status.PodIP}}
	p.Status.Conditions = append(p.Status.Conditions, corev1.PodCondition{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.Now()})
	_, err := c.Update(ctx, p, "status")
	return err
}

// beat says every ten seconds that the node lives.
func beat(ctx context.Context, b *testing.B, c client.Client) {
	create(b, c, &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: corev1.NamespaceNodeLease, Name: "n1"}})
	for ; ctx.Err() == nil; time.Sleep(10 * time.Second) {
		lease := client.Get[coordinationv1.Lease](c.View(), corev1.NamespaceNodeLease, "n1").DeepCopy()
		now := metav1.NowMicro()
		lease.Spec.RenewTime = &now
		if _, err := c.Update(ctx, lease, ""); err != nil && ctx.Err() == nil {
			b.Error(err)
		}
	}
}

// run has 64 kubelets start every pod until ctx ends.
func run(ctx context.Context, b *testing.B, c client.Client) {
	_, stream, err := c.Watch(ctx, client.All[corev1.Pod]())
	if err != nil {
		b.Error(err)
		return
	}
	defer stream.Close()
	limit := make(chan struct{}, 64)
	for n := 0; ; {
		events, _, err := stream.Next(ctx)
		if err != nil {
			return
		}
		for _, e := range events {
			p, _ := e.New.(*corev1.Pod)
			if p == nil || p.DeletionTimestamp != nil || p.Status.Phase == corev1.PodRunning {
				continue
			}
			n++
			limit <- struct{}{}
			go func() {
				defer func() { <-limit }()
				if err := kubelet(ctx, c, p, n); err != nil && ctx.Err() == nil {
					b.Error(err)
				}
			}()
		}
	}
}

// BenchmarkDeployments brings up Deployments of five pods in one namespace: of
// pods only, then with kubelets that start them, then with a Service each, a
// quota and a budget. An object is a pod.
func BenchmarkDeployments(b *testing.B) {
	for _, kind := range []string{"pending", "running", "served"} {
		for _, n := range []int{250, 500, 1000} {
			b.Run(fmt.Sprintf("%s/%d", kind, n), func(b *testing.B) {
				c := start(b)
				ctx, stop := context.WithCancel(b.Context())
				defer stop()
				if kind != "pending" {
					node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}}
					node.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue, LastHeartbeatTime: metav1.Now()}}
					create(b, c, node)
					go beat(ctx, b, c)
					go run(ctx, b, c)
				}
				measured(b, 5*n, func() { bringUp(b, c, kind, n) })
			})
		}
	}
}

func bringUp(b *testing.B, c client.Client, kind string, n int) {
	if kind == "served" {
		half := intstr.FromString("50%")
		create(b, c, &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Namespace: "load", Name: "q"}, Spec: corev1.ResourceQuotaSpec{
			Hard: corev1.ResourceList{"pods": resource.MustParse("100000"), "services": resource.MustParse("100000")}}},
			&policyv1.PodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{Namespace: "load", Name: "b"}, Spec: policyv1.PodDisruptionBudgetSpec{
				MinAvailable: &half, Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "d0"}}}})
		until(b, c, func(v client.View) bool { // until it is counted, nothing is let in
			return len(client.Get[corev1.ResourceQuota](v, "load", "q").Status.Hard) > 0
		})
	}
	var objs []client.Object
	for i := range n {
		objs = append(objs, deployment(i, 5))
		if kind == "served" {
			objs = append(objs, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "load", Name: fmt.Sprint("d", i)}, Spec: corev1.ServiceSpec{
				Selector: map[string]string{"app": fmt.Sprint("d", i)}, Ports: []corev1.ServicePort{{Port: 80}}}})
		}
	}
	create(b, c, objs...)
	until(b, c, func(v client.View) bool {
		for d := range client.List[appsv1.Deployment](v, "load") {
			if d.Status.Replicas != 5 || kind != "pending" && d.Status.AvailableReplicas != 5 {
				return false
			}
		}
		return true
	})
}

func configMaps(n int, owner client.Object) (objs []client.Object) {
	yes := true
	for i := range n {
		m := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "load", Name: fmt.Sprint("m", i)}, Data: map[string]string{"a": "b"}}
		if owner != nil {
			m.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "ConfigMap", Name: owner.GetName(), UID: owner.GetUID(), BlockOwnerDeletion: &yes}}
		}
		objs = append(objs, m)
	}
	return objs
}

// BenchmarkNamespace deletes a namespace of as many objects.
func BenchmarkNamespace(b *testing.B) {
	for _, n := range []int{2500, 5000, 10000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			c := start(b)
			create(b, c, configMaps(n, nil)...)
			measured(b, n, func() {
				if err := c.Delete(b.Context(), client.Row[corev1.Namespace](), client.Key{Name: "load"}, metav1.DeleteOptions{}); err != nil {
					b.Fatal(err)
				}
				until(b, c, func(v client.View) bool { return client.Get[corev1.Namespace](v, "", "load") == nil })
			})
		})
	}
}

// BenchmarkOwner deletes an owner of as many objects, in each way.
func BenchmarkOwner(b *testing.B) {
	for _, policy := range []metav1.DeletionPropagation{metav1.DeletePropagationBackground, metav1.DeletePropagationForeground, metav1.DeletePropagationOrphan} {
		for _, n := range []int{2500, 5000, 10000} {
			b.Run(fmt.Sprintf("%s/%d", policy, n), func(b *testing.B) {
				c := start(b)
				owner, err := c.Create(b.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "load", Name: "owner"}})
				if err != nil {
					b.Fatal(err)
				}
				create(b, c, configMaps(n, owner)...)
				time.Sleep(2 * time.Second) // what the creations woke
				measured(b, n, func() { deleteOwner(b, c, policy, n) })
			})
		}
	}
}

func deleteOwner(b *testing.B, c client.Client, policy metav1.DeletionPropagation, n int) {
	if err := c.Delete(b.Context(), client.Row[corev1.ConfigMap](), client.Key{Namespace: "load", Name: "owner"}, metav1.DeleteOptions{PropagationPolicy: &policy}); err != nil {
		b.Fatal(err)
	}
	until(b, c, func(v client.View) bool {
		if client.Get[corev1.ConfigMap](v, "load", "owner") != nil {
			return false
		}
		left := 0
		for m := range client.List[corev1.ConfigMap](v, "load") {
			if m.Name != "kube-root-ca.crt" {
				left++
			}
		}
		return left == map[bool]int{true: n}[policy == metav1.DeletePropagationOrphan]
	})
}
