package scheduler

import (
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/yaml"

	"proa/api"
	"proa/client"
	"proa/client/clienttest"
)

// parse reads objects of one type from YAML and defaults them.
func parse[T any, P interface {
	*T
	client.Object
}](t testing.TB, text string) P {
	t.Helper()
	obj := P(new(T))
	if err := yaml.UnmarshalStrict([]byte(text), obj); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	if row := api.Builtin().ByType(obj); row.Default != nil {
		row.Default(obj)
	}
	if obj.GetUID() == "" {
		obj.SetUID(types.UID(obj.GetNamespace() + "-" + obj.GetName()))
	}
	return obj
}

// aNode has 4 CPUs, 8 GiB and the labels hostname and zone.
func aNode(name, zone string, change ...func(*corev1.Node)) *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(name), Labels: map[string]string{
		corev1.LabelHostname: name, corev1.LabelTopologyZone: zone,
	}}}
	n.Status.Allocatable = corev1.ResourceList{
		corev1.ResourceCPU: resource.MustParse("4"), corev1.ResourceMemory: resource.MustParse("8Gi"),
		corev1.ResourceEphemeralStorage: resource.MustParse("100Gi"), corev1.ResourcePods: resource.MustParse("110"),
	}
	for _, f := range change {
		f(n)
	}
	return n
}

func aPod(name string, change ...func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID("uid-" + name), Generation: 1}}
	p.Spec.SchedulerName = corev1.DefaultSchedulerName
	p.Spec.Containers = []corev1.Container{{Name: "c", Image: "i"}}
	for _, f := range change {
		f(p)
	}
	return p
}

func cpu(amount string) func(*corev1.Pod) { return asks(corev1.ResourceCPU, amount) }

func asks(name corev1.ResourceName, amount string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		r := &p.Spec.Containers[0].Resources
		if r.Requests == nil {
			r.Requests = corev1.ResourceList{}
		}
		r.Requests[name] = resource.MustParse(amount)
	}
}

func on(node string) func(*corev1.Pod) { return func(p *corev1.Pod) { p.Spec.NodeName = node } }

func priority(n int32) func(*corev1.Pod) { return func(p *corev1.Pod) { p.Spec.Priority = &n } }

func label(key, value string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		if p.Labels == nil {
			p.Labels = map[string]string{}
		}
		p.Labels[key] = value
	}
}

// spec changes a pod's spec by YAML.
func spec(t testing.TB, text string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		if err := yaml.Unmarshal([]byte(text), &p.Spec); err != nil {
			t.Fatal(err)
		}
	}
}

func taint(key string, effect corev1.TaintEffect) func(*corev1.Node) {
	return func(n *corev1.Node) { n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: key, Effect: effect}) }
}

// world is a cluster of the objects.
func world(t testing.TB, objs ...client.Object) *cluster {
	t.Helper()
	fake := clienttest.New()
	for _, obj := range objs {
		fake.Inject(obj.DeepCopyObject().(client.Object))
	}
	c := newCluster(fake.View())
	c.setNamespace("default", map[string]string{corev1.LabelMetadataName: "default"})
	for _, obj := range objs {
		switch obj := obj.(type) {
		case *corev1.Node:
			c.setNode(obj)
		case *corev1.Pod:
			if obj.Spec.NodeName != "" {
				c.place(newPodInfo(obj))
			}
		case *corev1.Namespace:
			c.setNamespace(obj.Name, namespaceLabels(obj))
		}
	}
	return c
}

// verdictOn decides a pod: the node, or the whole explanation.
func verdictOn(c *cluster, p *corev1.Pod) string {
	d := c.decide(newPodInfo(p))
	if d.node != nil {
		return d.node.name
	}
	if len(c.order) > 0 {
		if room, ok := c.preempt(d); ok {
			out := "room on " + room.node.name + " without"
			for _, v := range room.victims {
				out += " " + v.key.Name
			}
			return out
		}
	}
	return d.why.String()
}

func startedAt(minute int) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		t := metav1.NewTime(time.Date(2026, 1, 1, 0, minute, 0, 0, time.UTC))
		p.Status.StartTime = &t
	}
}

func numbered(prefix string, i int) string { return fmt.Sprintf("%s-%03d", prefix, i) }
