package scheduling

import (
	"context"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"proa/client"
	"proa/scheduler"
)

// What is measured here also works: a pod that fits nowhere says so in its
// condition and event, and one that matters more takes its room, through the
// real request path.
func TestPreemptionThroughTheAPI(t *testing.T) {
	c := plane(t)
	n := aNode(0)
	n.Status.Allocatable[corev1.ResourceCPU] = resource.MustParse("1")
	create(t, c, n)
	create(t, c, &schedulingv1.PriorityClass{ObjectMeta: metav1.ObjectMeta{Name: "high"}, Value: 1000})
	ctx, cancel := context.WithCancel(t.Context())
	stopped := make(chan error, 1)
	go func() { stopped <- scheduler.New(scheduler.Config{Client: c}).Run(ctx) }()
	defer func() { cancel(); <-stopped }()

	create(t, c, asking("first", "900m", ""))
	await(t, c, "first", func(p *corev1.Pod) bool { return p.Spec.NodeName != "" })
	create(t, c, asking("second", "900m", ""))
	await(t, c, "second", func(p *corev1.Pod) bool {
		return strings.HasPrefix(condition(p).Message, "0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available: 1 No preemption victims")
	})
	create(t, c, asking("third", "900m", "high"))
	await(t, c, "first", func(p *corev1.Pod) bool { return p == nil || p.DeletionTimestamp != nil })
	await(t, c, "third", func(p *corev1.Pod) bool { return p.Status.NominatedNodeName == n.Name || p.Spec.NodeName != "" })
	zero := int64(0)
	_ = c.Delete(ctx, client.Row[corev1.Pod](), client.Key{Namespace: "default", Name: "first"}, metav1.DeleteOptions{GracePeriodSeconds: &zero})
	await(t, c, "third", func(p *corev1.Pod) bool { return p.Spec.NodeName == n.Name })
	if p := client.Get[corev1.Pod](c.View(), "default", "second"); p.Spec.NodeName != "" {
		t.Error("the room went to the lesser pod")
	}
	for _, want := range []string{"first Scheduled", "second FailedScheduling", "first Preempted"} {
		awaitWorld(t, c, func(v client.View) bool { return hasEvent(v, want) })
	}
}

func hasEvent(v client.View, want string) bool {
	for e := range client.List[corev1.Event](v, "default") {
		if e.InvolvedObject.Name+" "+e.Reason == want {
			return true
		}
	}
	return false
}

func asking(name, cpu, class string) *corev1.Pod {
	p := aPod(0)
	p.Name, p.Spec.PriorityClassName = name, class
	p.Spec.Containers[0].Resources.Requests[corev1.ResourceCPU] = resource.MustParse(cpu)
	return p
}

func condition(p *corev1.Pod) corev1.PodCondition {
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodScheduled {
			return c
		}
	}
	return corev1.PodCondition{}
}

// await watches until the pod is as wanted; nil stands for a pod that is gone.
func await(t *testing.T, c client.Client, name string, ok func(*corev1.Pod) bool) {
	t.Helper()
	awaitWorld(t, c, func(v client.View) bool { return ok(client.Get[corev1.Pod](v, "default", name)) })
}

func awaitWorld(t *testing.T, c client.Client, ok func(client.View) bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	view, stream, err := c.Watch(ctx, client.All[corev1.Pod](), client.All[corev1.Event]())
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	for !ok(view) {
		if _, view, err = stream.Next(ctx); err != nil {
			t.Fatalf("it never came: %v", err)
		}
	}
}
