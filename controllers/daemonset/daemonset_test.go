package daemonset

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/intstr"

	"proa/client"
	"proa/controllers/pods"
	"proa/controllers/simulation"
)

func node(name string, change ...func(n *corev1.Node)) *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, UID: "u", Labels: map[string]string{"disk": "ssd"}}}
	for _, f := range change {
		f(n)
	}
	return n
}

func taint(key string, effect corev1.TaintEffect) func(n *corev1.Node) {
	return func(n *corev1.Node) { n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: key, Effect: effect}) }
}

func daemon(change ...func(d *appsv1.DaemonSet)) *appsv1.DaemonSet {
	l := map[string]string{"app": "agent"}
	d := &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "agent"}, Spec: appsv1.DaemonSetSpec{
		Selector: &metav1.LabelSelector{MatchLabels: l},
		Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: l}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "v1"}}}},
	}}
	for _, f := range change {
		f(d)
	}
	return d
}

func rolling(surge, unavailable string) func(d *appsv1.DaemonSet) {
	s, u := intstr.Parse(surge), intstr.Parse(unavailable)
	return func(d *appsv1.DaemonSet) {
		d.Spec.UpdateStrategy = appsv1.DaemonSetUpdateStrategy{Type: appsv1.RollingUpdateDaemonSetStrategyType,
			RollingUpdate: &appsv1.RollingUpdateDaemonSet{MaxSurge: &s, MaxUnavailable: &u}}
	}
}

func get(c *simulation.Cluster) *appsv1.DaemonSet {
	return client.Get[appsv1.DaemonSet](c.View(), "ns", "agent")
}

func create(t *testing.T, c *simulation.Cluster, obj client.Object) {
	t.Helper()
	if _, err := c.Create(t.Context(), obj); err != nil {
		t.Fatal(err)
	}
}

func edit(t *testing.T, c *simulation.Cluster, f func(d *appsv1.DaemonSet)) {
	t.Helper()
	d := get(c).DeepCopy()
	d.ResourceVersion = ""
	f(d)
	if _, err := c.Update(t.Context(), d, ""); err != nil {
		t.Fatal(err)
	}
}

// where names each node with its pods' images.
func where(c *simulation.Cluster) string {
	var out []string
	for p := range client.List[corev1.Pod](c.View(), "ns") {
		out = append(out, p.Spec.NodeName+"="+p.Spec.Containers[0].Image)
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

func counts(s appsv1.DaemonSetStatus) string {
	return fmt.Sprint(s.DesiredNumberScheduled, s.CurrentNumberScheduled, s.UpdatedNumberScheduled, s.NumberReady, s.NumberAvailable, s.NumberUnavailable, s.NumberMisscheduled)
}

func want(t *testing.T, what, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("%s: got %q, want %q", what, got, want)
	}
}

func TestFollowsNodes(t *testing.T) {
	simulation.Run(t, nil, func(_ context.Context, c *simulation.Cluster) {
		for _, n := range []*corev1.Node{node("a"), node("b", taint("k", corev1.TaintEffectNoSchedule)), node("c", taint(corev1.TaintNodeUnschedulable, corev1.TaintEffectNoSchedule)),
			node("d", func(n *corev1.Node) { n.Labels["disk"] = "slow" })} {
			c.Inject(n)
		}
		create(t, c, daemon(func(d *appsv1.DaemonSet) { d.Spec.Template.Spec.NodeSelector = map[string]string{"disk": "ssd"} }))
		time.Sleep(5 * time.Second)
		want(t, "at first", where(c), "a=v1 c=v1")
		want(t, "status", counts(get(c).Status), "2 2 2 2 2 0 0")
		c.Inject(node("b"))
		c.Inject(node("a", taint("k", corev1.TaintEffectNoSchedule))) // stays, but would not be made
		time.Sleep(5 * time.Second)
		want(t, "then", where(c), "a=v1 b=v1 c=v1")
		want(t, "status", counts(get(c).Status), "2 2 2 2 2 0 1")
		c.Inject(node("a", taint("k", corev1.TaintEffectNoExecute)))
		c.Inject(node("c", func(n *corev1.Node) { n.Labels["disk"] = "slow" }))
		time.Sleep(5 * time.Second)
		want(t, "in the end", where(c), "b=v1")
		before := c.View().Revision()
		time.Sleep(time.Hour)
		if after := c.View().Revision(); after != before {
			t.Errorf("%d writes although nothing happened", after-before)
		}
	}, Controller())
}

func TestReplacesFailedPods(t *testing.T) {
	simulation.Run(t, nil, func(_ context.Context, c *simulation.Cluster) {
		c.Inject(node("a"))
		create(t, c, daemon())
		time.Sleep(3 * time.Second)
		for p := range client.List[corev1.Pod](c.View(), "ns") {
			c.SetPhase(p, corev1.PodFailed)
		}
		time.Sleep(3 * time.Second)
		want(t, "soon", counts(get(c).Status), "1 1 1 0 0 1 0")
		time.Sleep(10 * time.Second)
		want(t, "later", counts(get(c).Status), "1 1 1 1 1 0 0")
		found := false
		for e := range client.List[corev1.Event](c.View(), "ns") {
			found = found || e.Reason == "FailedDaemonPod"
		}
		if !found {
			t.Error("nothing was said about it")
		}
	}, Controller())
}

// TestRollingUpdateKeepsItsBounds looks at every state of updates with pods
// that take random times.
func TestRollingUpdateKeepsItsBounds(t *testing.T) {
	for _, b := range []struct{ surge, unavailable string }{{"0", "1"}, {"0", "30%"}, {"2", "0"}, {"50%", "0"}} {
		t.Run(fmt.Sprint(b), func(t *testing.T) {
			r := simulation.Random(1)
			const nodes = 7
			u := intstr.Parse(b.unavailable)
			var settled atomic.Bool
			down := max(scaled(&u, nodes), 0)
			prepare := func(c *simulation.Cluster) {
				for i := range nodes {
					c.Inject(node(fmt.Sprint("n", i)))
				}
				c.Start = func(*corev1.Pod) time.Duration { return time.Duration(r.IntN(5000)) * time.Millisecond }
				c.Stop = c.Start
				c.Each = func(v client.View) {
					if !settled.Load() {
						return
					}
					up := map[string]bool{}
					for p := range client.List[corev1.Pod](v, "ns") {
						if pods.Active(p) && pods.Ready(p) {
							up[p.Spec.NodeName] = true
						}
					}
					if len(up) < nodes-down {
						t.Errorf("%d nodes serve, want at least %d", len(up), nodes-down)
					}
				}
			}
			simulation.Run(t, prepare, func(_ context.Context, c *simulation.Cluster) {
				create(t, c, daemon(rolling(b.surge, b.unavailable)))
				time.Sleep(time.Minute)
				settled.Store(true)
				for _, image := range []string{"v2", "v3"} {
					edit(t, c, func(d *appsv1.DaemonSet) { d.Spec.Template.Spec.Containers[0].Image = image })
					time.Sleep(10 * time.Second)
				}
				time.Sleep(5 * time.Minute)
				want(t, "status", counts(get(c).Status), "7 7 7 7 7 0 0")
				want(t, "all", where(c), "n0=v3 n1=v3 n2=v3 n3=v3 n4=v3 n5=v3 n6=v3")
			}, Controller())
		})
	}
}

func TestOnDeleteWaitsForThePersonAndUndoFindsHistory(t *testing.T) {
	simulation.Run(t, nil, func(ctx context.Context, c *simulation.Cluster) {
		c.Inject(node("a"))
		limit := int32(1)
		create(t, c, daemon(func(d *appsv1.DaemonSet) {
			d.Spec.UpdateStrategy.Type = appsv1.OnDeleteDaemonSetStrategyType
			d.Spec.RevisionHistoryLimit = &limit
		}))
		time.Sleep(5 * time.Second)
		for _, image := range []string{"v2", "v3", "v4"} {
			edit(t, c, func(d *appsv1.DaemonSet) { d.Spec.Template.Spec.Containers[0].Image = image })
			time.Sleep(time.Minute)
		}
		want(t, "untouched", where(c), "a=v1")
		want(t, "status", counts(get(c).Status), "1 1 0 1 1 0 0")
		var history []string
		for r := range client.List[appsv1.ControllerRevision](c.View(), "ns") {
			history = append(history, fmt.Sprint(r.Revision))
			if !strings.Contains(string(r.Data.Raw), `"$patch":"replace"`) {
				t.Errorf("revision %d cannot be undone to: %s", r.Revision, r.Data.Raw)
			}
		}
		slices.Sort(history)
		want(t, "revisions (in use, kept, present)", strings.Join(history, " "), "1 3 4")
		for p := range client.List[corev1.Pod](c.View(), "ns") {
			if err := c.Delete(ctx, client.Row[corev1.Pod](), client.KeyOf(p), metav1.DeleteOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(5 * time.Second)
		want(t, "after deletion", where(c), "a=v4")
	}, Controller())
}

func TestTheStatusComesThoughPodsCannotBeMade(t *testing.T) {
	prepare := func(c *simulation.Cluster) {
		c.Fault = func(verb string, obj client.Object, _ string) error {
			if _, pod := obj.(*corev1.Pod); pod && verb == "create" {
				return apierrors.NewForbidden(schema.GroupResource{Resource: "pods"}, "x", errors.New("exceeded quota"))
			}
			return nil
		}
	}
	simulation.Run(t, prepare, func(ctx context.Context, c *simulation.Cluster) {
		for i := range 3 {
			if _, err := c.Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("node-", i)}}); err != nil {
				t.Fatal(err)
			}
		}
		labels := map[string]string{"app": "d"}
		ds := &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "d"}, Spec: appsv1.DaemonSetSpec{Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}}}}}
		if _, err := c.Create(ctx, ds); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		s := client.Get[appsv1.DaemonSet](c.View(), "ns", "d").Status
		if s.DesiredNumberScheduled != 3 || s.CurrentNumberScheduled != 0 || s.ObservedGeneration == 0 {
			t.Errorf("status %+v", s)
		}
	}, Controller())
}
