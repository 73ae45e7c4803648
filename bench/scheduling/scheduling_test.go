// Package scheduling measures pods on their way from created to bound: the
// whole control plane in process, with a real store on a real disk.
package scheduling

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"proa/api"
	"proa/apiserver"
	"proa/auth"
	"proa/client"
	"proa/scheduler"
	"proa/store"
	"proa/store/pebble"
)

const (
	nodes    = 1000
	creators = 32
)

// BenchmarkCreateToBound creates pods from several clients on 1,000 nodes and
// waits until the last is bound.
func BenchmarkCreateToBound(b *testing.B) {
	c := plane(b)
	for i := range nodes {
		create(b, c, aNode(i))
	}
	ctx, cancel := context.WithCancel(b.Context())
	stopped := make(chan error, 1)
	go func() { stopped <- scheduler.New(scheduler.Config{Client: c}).Run(ctx) }()
	defer func() { cancel(); <-stopped }()
	_, stream, err := c.Watch(ctx, client.All[corev1.Pod]())
	if err != nil {
		b.Fatal(err)
	}
	defer stream.Close()
	b.ResetTimer()
	start := time.Now()
	var wg sync.WaitGroup
	for k := range creators {
		wg.Go(func() {
			for i := k; i < b.N; i += creators {
				create(b, c, aPod(i))
			}
		})
	}
	for bound := 0; bound < b.N; {
		events, _, err := stream.Next(ctx)
		if err != nil {
			b.Fatal(err)
		}
		for _, e := range events {
			if node(e.New) != "" && node(e.Old) == "" {
				bound++
			}
		}
	}
	wg.Wait()
	b.ReportMetric(float64(b.N)/time.Since(start).Seconds(), "pods/s")
}

func node(obj client.Object) string {
	if p, ok := obj.(*corev1.Pod); ok {
		return p.Spec.NodeName
	}
	return ""
}

func plane(b testing.TB) client.Client {
	engine, err := pebble.Open(pebble.Config{Dir: b.TempDir()})
	if err != nil {
		b.Fatal(err)
	}
	reg := api.Builtin()
	s, err := store.New(store.Config{Engine: engine, Codec: apiserver.NewCodec(reg), Registry: reg})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { s.Close() })
	server, err := apiserver.New(apiserver.Config{Store: s, Registry: reg, Authorizer: everybody{}})
	if err != nil {
		b.Fatal(err)
	}
	c := server.Client(auth.User{Name: "system:admin", Groups: []string{"system:masters"}})
	create(b, c, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "default"}})
	create(b, c, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "default"}})
	return c
}

type everybody struct{}

func (everybody) Authorize(context.Context, auth.Attributes) (auth.Decision, string, error) {
	return auth.Allow, "", nil
}

func create(b testing.TB, c client.Client, obj client.Object) {
	if _, err := c.Create(b.Context(), obj); err != nil {
		b.Error(err)
	}
}

func aNode(i int) *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("node-%04d", i), Labels: map[string]string{
		corev1.LabelHostname: fmt.Sprintf("node-%04d", i), corev1.LabelTopologyZone: fmt.Sprintf("zone-%d", i%3)}}}
	n.Status.Allocatable = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("32"),
		corev1.ResourceMemory: resource.MustParse("128Gi"), corev1.ResourcePods: resource.MustParse("1000")}
	n.Status.Capacity = n.Status.Allocatable
	return n
}

func aPod(i int) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: fmt.Sprintf("pod-%06d", i), Labels: map[string]string{"app": "bench"}}}
	p.Spec.Containers = []corev1.Container{{Name: "c", Image: "registry.example/app:1", Resources: corev1.ResourceRequirements{
		Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("10m"), corev1.ResourceMemory: resource.MustParse("16Mi")}}}}
	return p
}
