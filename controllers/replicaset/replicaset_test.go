package replicaset

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"proa/client"
	"proa/controllers/pods"
	"proa/controllers/simulation"
)

func template(app string) corev1.PodTemplateSpec {
	return corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": app}},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}},
	}
}

func set(name string, replicas int32) *appsv1.ReplicaSet {
	return &appsv1.ReplicaSet{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name},
		Spec: appsv1.ReplicaSetSpec{
			Replicas: &replicas,
			Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": name}},
			Template: template(name),
		},
	}
}

func get(c *simulation.Cluster, name string) *appsv1.ReplicaSet {
	return client.Get[appsv1.ReplicaSet](c.View(), "ns", name)
}

func podsOf(c *simulation.Cluster) []*corev1.Pod {
	return slices.Collect(client.List[corev1.Pod](c.View(), "ns"))
}

func scaleTo(ctx context.Context, c *simulation.Cluster, name string, n int32) {
	rs := get(c, name).DeepCopy()
	rs.Spec.Replicas = &n
	rs.ResourceVersion = ""
	if _, err := c.Update(ctx, rs, ""); err != nil {
		c.T.Fatal(err)
	}
}

func summary(s appsv1.ReplicaSetStatus) string {
	return fmt.Sprint(s.Replicas, s.FullyLabeledReplicas, s.ReadyReplicas, s.AvailableReplicas, *s.TerminatingReplicas, s.ObservedGeneration)
}

func TestScalesUpAndDownAndTellsItsStatus(t *testing.T) {
	simulation.Run(t, nil, func(ctx context.Context, c *simulation.Cluster) {
		rs := set("web", 3)
		rs.Spec.MinReadySeconds = 10
		if _, err := c.Create(ctx, rs); err != nil {
			t.Fatal(err)
		}
		for _, step := range []struct {
			wait time.Duration
			want string // replicas fullyLabeled ready available terminating generation
		}{{500 * time.Millisecond, "3 3 0 0 0 1"}, {time.Second, "3 3 3 0 0 1"}, {10 * time.Second, "3 3 3 3 0 1"}} {
			time.Sleep(step.wait)
			if got := summary(get(c, "web").Status); got != step.want {
				t.Errorf("status %s, want %s", got, step.want)
			}
		}
		scaleTo(ctx, c, "web", 1)
		time.Sleep(500 * time.Millisecond)
		if got := summary(get(c, "web").Status); got != "1 1 1 1 2 2" {
			t.Errorf("while two terminate: status %s", got)
		}
		time.Sleep(time.Minute)
		if got := summary(get(c, "web").Status); got != "1 1 1 1 0 2" {
			t.Errorf("in the end: status %s", got)
		}
		checkEvents(t, c)
	}, Controller())
}

func checkEvents(t *testing.T, c *simulation.Cluster) {
	count := map[string]int32{}
	for e := range client.List[corev1.Event](c.View(), "ns") {
		count[e.Reason] += e.Count
		if e.InvolvedObject.Name != "web" || e.Source.Component != "replicaset-controller" || !strings.Contains(e.Message, "pod: web-") {
			t.Errorf("unexpected event %+v", e)
		}
	}
	if count["SuccessfulCreate"] != 3 || count["SuccessfulDelete"] != 2 {
		t.Errorf("events %v", count)
	}
}

func TestReplacesDeletedAndFailedPods(t *testing.T) {
	simulation.Run(t, nil, func(ctx context.Context, c *simulation.Cluster) {
		if _, err := c.Create(ctx, set("web", 2)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Second)
		first := podsOf(c)
		c.SetPhase(first[0], corev1.PodFailed)
		if err := c.Delete(ctx, client.Row[corev1.Pod](), client.KeyOf(first[1]), metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Second)
		if got := summary(get(c, "web").Status); got != "2 2 2 2 0 1" {
			t.Errorf("status %s", got)
		}
		if n := len(podsOf(c)); n != 3 {
			t.Errorf("%d pods, want two new and the failed one", n)
		}
	}, Controller())
}

func TestAdoptsAndReleases(t *testing.T) {
	simulation.Run(t, nil, func(ctx context.Context, c *simulation.Cluster) {
		tm := template("web")
		orphan := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "orphan", Labels: tm.Labels}, Spec: tm.Spec}
		if _, err := c.Create(ctx, orphan); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Create(ctx, set("web", 2)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Second)
		if list := podsOf(c); len(list) != 2 || !metav1.IsControlledBy(list[0], get(c, "web")) || list[0].Name != "orphan" {
			t.Fatalf("the orphan was not adopted: %v", list)
		}
		p := podsOf(c)[0].DeepCopy()
		p.Labels = map[string]string{"app": "quarantine"}
		if _, err := c.Update(ctx, p, ""); err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Second)
		if list := podsOf(c); len(list) != 3 || len(list[0].OwnerReferences) != 0 {
			t.Errorf("the pod was not released and replaced: %v", list)
		}
	}, Controller())
}

func TestQuotaRefusalIsShownAndGoesAway(t *testing.T) {
	var allowed atomic.Int32
	allowed.Store(2)
	quota := func(c *simulation.Cluster) {
		c.Fault = func(verb string, obj client.Object, _ string) error {
			if _, ok := obj.(*corev1.Pod); ok && verb == "create" && int32(len(podsOf(c))) >= allowed.Load() {
				return apierrors.NewForbidden(client.Row[corev1.Pod]().GR(), "x", errors.New("exceeded quota: q"))
			}
			return nil
		}
	}
	simulation.Run(t, quota, func(ctx context.Context, c *simulation.Cluster) {
		if _, err := c.Create(ctx, set("web", 5)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Second)
		s := get(c, "web").Status
		if len(s.Conditions) != 1 || s.Conditions[0].Reason != "FailedCreate" || !strings.Contains(s.Conditions[0].Message, "exceeded quota") {
			t.Fatalf("conditions %+v", s.Conditions)
		}
		synctest.Wait()
		allowed.Store(5)
		time.Sleep(30 * time.Minute)
		s = get(c, "web").Status
		if got := summary(s); got != "5 5 5 5 0 1" || len(s.Conditions) != 0 {
			t.Errorf("after the quota was raised: status %s %v", got, s.Conditions)
		}
	}, Controller())
}

func TestManyReplicas(t *testing.T) {
	simulation.Run(t, nil, func(ctx context.Context, c *simulation.Cluster) {
		if _, err := c.Create(ctx, set("web", 1200)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		if got := summary(get(c, "web").Status); got != "1200 1200 1200 1200 0 1" {
			t.Errorf("status %s", got)
		}
	}, Controller())
}

// TestVictims gives each rule one pair that only it decides.
func TestVictims(t *testing.T) {
	now := time.Unix(1e9, 0)
	type mod func(p *corev1.Pod)
	make := func(name string, mods ...mod) *corev1.Pod {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, CreationTimestamp: metav1.NewTime(now.Add(-time.Hour))}}
		p.Spec.NodeName, p.Status.Phase = "n", corev1.PodRunning
		p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(now.Add(-time.Hour))}}
		for _, m := range mods {
			m(p)
		}
		return p
	}
	node := func(n string) mod { return func(p *corev1.Pod) { p.Spec.NodeName = n } }
	phase := func(f corev1.PodPhase) mod { return func(p *corev1.Pod) { p.Status.Phase = f } }
	readyFor := func(d time.Duration) mod {
		return func(p *corev1.Pod) { p.Status.Conditions[0].LastTransitionTime = metav1.NewTime(now.Add(-d)) }
	}
	unready := func(p *corev1.Pod) { p.Status.Conditions[0].Status = corev1.ConditionFalse }
	cost := func(s string) mod {
		return func(p *corev1.Pod) { p.Annotations = map[string]string{pods.DeletionCost: s} }
	}
	restarted := func(n int32) mod {
		return func(p *corev1.Pod) { p.Status.ContainerStatuses = []corev1.ContainerStatus{{RestartCount: n}} }
	}
	created := func(d time.Duration) mod {
		return func(p *corev1.Pod) { p.CreationTimestamp = metav1.NewTime(now.Add(-d)) }
	}
	for _, tc := range []struct {
		rule     string
		dies, no *corev1.Pod
	}{
		{"unassigned first", make("a", node("")), make("b", phase(corev1.PodPending))},
		{"pending before unknown", make("a", phase(corev1.PodPending)), make("b", phase(corev1.PodUnknown))},
		{"unknown before running", make("a", phase(corev1.PodUnknown)), make("b", unready)},
		{"not ready before ready", make("a", unready, cost("100")), make("b")},
		{"lower cost first", make("a", cost("-5"), node("other")), make("b")},
		{"doubled up first", make("a", readyFor(10*time.Hour)), make("b", node("other"))},
		{"later ready first", make("a", readyFor(time.Minute)), make("b", restarted(5))},
		{"more restarts first", make("a", restarted(2), created(10*time.Hour)), make("b", restarted(1))},
		{"younger first", make("a", created(time.Minute)), make("b")},
	} {
		third := make("c") // makes node n hold two related pods
		related := []*corev1.Pod{tc.dies, tc.no, third}
		for _, order := range [][]*corev1.Pod{{tc.dies, tc.no}, {tc.no, tc.dies}} {
			if got := pods.Victims(order, related, 1, now); got[0] != tc.dies {
				t.Errorf("%s: %s dies", tc.rule, got[0].Name)
			}
		}
	}
}

// TestChaos scales at random while pods fail and vanish, and wants the count
// right whenever things calm down.
func TestChaos(t *testing.T) {
	for seed := range uint64(5) {
		r := simulation.Random(seed)
		prepare := func(c *simulation.Cluster) {
			c.Start = func(*corev1.Pod) time.Duration { return time.Duration(r.IntN(3000)) * time.Millisecond }
			c.Stop = c.Start
		}
		simulation.Run(t, prepare, func(ctx context.Context, c *simulation.Cluster) {
			if _, err := c.Create(ctx, set("web", 3)); err != nil {
				t.Fatal(err)
			}
			want := int32(3)
			for range 40 {
				time.Sleep(time.Duration(r.IntN(2000)) * time.Millisecond)
				list := podsOf(c)
				switch r.IntN(3) {
				case 0:
					want = int32(r.IntN(10))
					scaleTo(ctx, c, "web", want)
				case 1:
					if len(list) > 0 {
						_ = c.Delete(ctx, client.Row[corev1.Pod](), client.KeyOf(list[r.IntN(len(list))]), metav1.DeleteOptions{})
					}
				case 2:
					if len(list) > 0 && list[0].DeletionTimestamp == nil {
						c.SetPhase(list[0], corev1.PodFailed)
					}
				}
			}
			time.Sleep(time.Minute)
			if s := get(c, "web").Status; s.AvailableReplicas != want || s.Replicas != want || *s.TerminatingReplicas != 0 {
				t.Errorf("seed %d: status %s, want %d", seed, summary(s), want)
			}
		}, Controller())
	}
}

func TestReplicationController(t *testing.T) {
	simulation.Run(t, nil, func(ctx context.Context, c *simulation.Cluster) {
		tm, two := template("web"), int32(2)
		rc := &corev1.ReplicationController{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "web"},
			Spec: corev1.ReplicationControllerSpec{Replicas: &two, Selector: tm.Labels, Template: &tm}}
		if _, err := c.Create(ctx, rc); err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Second)
		before := c.View().Revision()
		rc = client.Get[corev1.ReplicationController](c.View(), "ns", "web")
		if rc.Status.AvailableReplicas != 2 || rc.Status.ObservedGeneration != 1 {
			t.Errorf("status %+v", rc.Status)
		}
		if p := podsOf(c)[0]; p.OwnerReferences[0].Kind != "ReplicationController" || p.OwnerReferences[0].APIVersion != "v1" {
			t.Errorf("owner %+v", p.OwnerReferences)
		}
		time.Sleep(time.Hour)
		if after := c.View().Revision(); after != before {
			t.Errorf("%d writes although nothing happened", after-before)
		}
	}, ReplicationController())
}
