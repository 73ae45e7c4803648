package deployment

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"proa/client"
	"proa/client/clienttest"
	"proa/controllers/pods"
	"proa/controllers/replicaset"
	"proa/controllers/simulation"
)

func web(replicas int32, change ...func(d *appsv1.Deployment)) *appsv1.Deployment {
	labels := map[string]string{"app": "web"}
	limit, deadline := int32(10), int32(600)
	d := &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "web"},
		Spec: appsv1.DeploymentSpec{
			Replicas: &replicas,
			Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels},
				Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "v1"}}},
			},
			Strategy:                appsv1.DeploymentStrategy{Type: appsv1.RollingUpdateDeploymentStrategyType},
			RevisionHistoryLimit:    &limit,
			ProgressDeadlineSeconds: &deadline,
		},
	}
	for _, f := range change {
		f(d)
	}
	return d
}

func bound(surge, unavailable string) func(d *appsv1.Deployment) {
	s, u := intstr.Parse(surge), intstr.Parse(unavailable)
	return func(d *appsv1.Deployment) {
		d.Spec.Strategy.RollingUpdate = &appsv1.RollingUpdateDeployment{MaxSurge: &s, MaxUnavailable: &u}
	}
}

func image(i string) func(d *appsv1.Deployment) {
	return func(d *appsv1.Deployment) { d.Spec.Template.Spec.Containers[0].Image = i }
}

func replicas(n int32) func(d *appsv1.Deployment) {
	return func(d *appsv1.Deployment) { d.Spec.Replicas = &n }
}

func paused(p bool) func(d *appsv1.Deployment) {
	return func(d *appsv1.Deployment) { d.Spec.Paused = p }
}

func get(c *simulation.Cluster) *appsv1.Deployment {
	return client.Get[appsv1.Deployment](c.View(), "ns", "web")
}

func edit(ctx context.Context, c *simulation.Cluster, change ...func(d *appsv1.Deployment)) {
	c.T.Helper()
	d := get(c).DeepCopy()
	d.ResourceVersion = ""
	for _, f := range change {
		f(d)
	}
	if _, err := c.Update(ctx, d, ""); err != nil {
		c.T.Fatal(err)
	}
}

func create(ctx context.Context, c *simulation.Cluster, d *appsv1.Deployment) {
	c.T.Helper()
	if _, err := c.Create(ctx, d); err != nil {
		c.T.Fatal(err)
	}
}

func setOf(c *simulation.Cluster, image string) *appsv1.ReplicaSet {
	for rs := range client.List[appsv1.ReplicaSet](c.View(), "ns") {
		if rs.Spec.Template.Spec.Containers[0].Image == image {
			return rs
		}
	}
	return nil
}

func progressing(c *simulation.Cluster) string {
	s := get(c).Status
	if p := condition(&s, appsv1.DeploymentProgressing); p != nil {
		return p.Reason + " " + string(p.Status)
	}
	return ""
}

func want(t *testing.T, what, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("%s: got %q, want %q", what, got, want)
	}
}

func counts(s appsv1.DeploymentStatus) string {
	return fmt.Sprintf("replicas=%d updated=%d ready=%d available=%d unavailable=%d", s.Replicas, s.UpdatedReplicas, s.ReadyReplicas, s.AvailableReplicas, s.UnavailableReplicas)
}

func run(t *testing.T, prepare func(*simulation.Cluster), test func(context.Context, *simulation.Cluster)) {
	simulation.Run(t, prepare, test, Controller(), replicaset.Controller())
}

func TestFirstRollout(t *testing.T) {
	run(t, nil, func(ctx context.Context, c *simulation.Cluster) {
		create(ctx, c, web(3, func(d *appsv1.Deployment) { d.Annotations = map[string]string{"kubernetes.io/change-cause": "first"} }))
		time.Sleep(500 * time.Millisecond)
		want(t, "at first", counts(get(c).Status), "replicas=3 updated=3 ready=0 available=0 unavailable=3")
		time.Sleep(2 * time.Second)
		want(t, "then", counts(get(c).Status), "replicas=3 updated=3 ready=3 available=3 unavailable=0")
		want(t, "progressing", progressing(c), "NewReplicaSetAvailable True")
		d, rs := get(c), setOf(c, "v1")
		want(t, "revision", d.Annotations[revisionAnnotation]+rs.Annotations[revisionAnnotation], "11")
		want(t, "change cause", rs.Annotations["kubernetes.io/change-cause"], "first")
		want(t, "name", rs.Name, "web-"+rs.Labels[hashLabel])
		want(t, "selector", rs.Spec.Selector.MatchLabels[hashLabel], rs.Spec.Template.Labels[hashLabel])
		if a := condition(&d.Status, appsv1.DeploymentAvailable); a == nil || a.Status != corev1.ConditionTrue || d.Status.ObservedGeneration != 1 {
			t.Errorf("status %+v", d.Status)
		}
		before := c.View().Revision()
		time.Sleep(time.Hour)
		if after := c.View().Revision(); after != before {
			t.Errorf("%d writes although nothing happened", after-before)
		}
	})
}

// TestBoundsHold rolls out, scales and rolls on, with pods that take random
// times, and looks at every single state: never more pods than the surge
// allows, never fewer available than promised, and it always gets done.
func TestBoundsHold(t *testing.T) {
	for _, b := range []struct{ surge, unavailable string }{
		{"25%", "25%"}, {"1", "0"}, {"0", "1"}, {"0", "10%"}, {"50%", "0"}, {"0", "50%"}, {"100%", "100%"}, {"3", "2"},
	} {
		for seed := range uint64(2) {
			t.Run(fmt.Sprint(b, seed), func(t *testing.T) { boundsHold(t, b.surge, b.unavailable, seed) })
		}
	}
}

func boundsHold(t *testing.T, surge, unavailable string, seed uint64) {
	r := simulation.Random(seed)
	n := int32(1 + r.IntN(12))
	minReady := int32(r.IntN(2) * 5)
	var settled atomic.Bool // from here on availability is promised
	prepare := func(c *simulation.Cluster) {
		c.Start = func(*corev1.Pod) time.Duration { return time.Duration(r.IntN(8000)) * time.Millisecond }
		c.Stop = c.Start
		c.Each = func(v client.View) {
			d := client.Get[appsv1.Deployment](v, "ns", "web")
			if d == nil || !settled.Load() {
				return
			}
			up, down := bounds(d, n)
			alive, available := 0, 0
			for p := range client.List[corev1.Pod](v, "ns") {
				if pods.Active(p) {
					alive++
					if ok, _ := pods.Available(p, 0, time.Now()); ok {
						available++
					}
				}
			}
			if alive > int(n+up) || available < int(n-down) {
				t.Errorf("%d pods, %d available; want at most %d and at least %d", alive, available, n+up, n-down)
			}
		}
	}
	run(t, prepare, func(ctx context.Context, c *simulation.Cluster) {
		create(ctx, c, web(n, bound(surge, unavailable), func(d *appsv1.Deployment) { d.Spec.MinReadySeconds = minReady }))
		time.Sleep(time.Minute)
		settled.Store(true)
		for v := 2; v < 6; v++ {
			edit(ctx, c, image(fmt.Sprint("v", v)))
			time.Sleep(time.Duration(r.IntN(20)) * time.Second) // often before it is done
		}
		time.Sleep(10 * time.Minute)
		want(t, "in the end", counts(get(c).Status), fmt.Sprintf("replicas=%d updated=%d ready=%d available=%d unavailable=0", n, n, n, n))
		want(t, "progressing", progressing(c), "NewReplicaSetAvailable True")
		if rs := setOf(c, "v5"); size(rs) != n {
			t.Errorf("the newest template has %d pods, want %d", size(rs), n)
		}
	})
}

func TestBadImageStallsWithOldPodsServing(t *testing.T) {
	prepare := func(c *simulation.Cluster) {
		c.Start = func(p *corev1.Pod) time.Duration {
			if p.Spec.Containers[0].Image == "bad" {
				return -1
			}
			return time.Second
		}
	}
	run(t, prepare, func(ctx context.Context, c *simulation.Cluster) {
		create(ctx, c, web(4, bound("25%", "25%")))
		time.Sleep(time.Minute)
		edit(ctx, c, image("bad"))
		time.Sleep(9*time.Minute + 50*time.Second)
		want(t, "stalled", counts(get(c).Status), "replicas=5 updated=2 ready=3 available=3 unavailable=2")
		want(t, "before the deadline", progressing(c), "ReplicaSetUpdated True")
		time.Sleep(20 * time.Second)
		want(t, "after the deadline", progressing(c), "ProgressDeadlineExceeded False")
		// kubectl rollout undo puts the template of the old ReplicaSet back.
		edit(ctx, c, image("v1"))
		time.Sleep(time.Minute)
		want(t, "undone", counts(get(c).Status), "replicas=4 updated=4 ready=4 available=4 unavailable=0")
		want(t, "undone", progressing(c), "NewReplicaSetAvailable True")
		rs := setOf(c, "v1")
		want(t, "revision", rs.Annotations[revisionAnnotation]+" "+rs.Annotations[historyAnnotation]+" "+get(c).Annotations[revisionAnnotation], "3 1 3")
	})
}

func TestRecreateNeverMixes(t *testing.T) {
	prepare := func(c *simulation.Cluster) {
		c.Stop = func(*corev1.Pod) time.Duration { return 7 * time.Second }
		c.Each = func(v client.View) {
			seen := map[string]bool{}
			for p := range client.List[corev1.Pod](v, "ns") {
				seen[p.Spec.Containers[0].Image] = true
			}
			if len(seen) > 1 {
				t.Errorf("pods of %v at once", seen)
			}
		}
	}
	run(t, prepare, func(ctx context.Context, c *simulation.Cluster) {
		create(ctx, c, web(3, func(d *appsv1.Deployment) {
			d.Spec.Strategy = appsv1.DeploymentStrategy{Type: appsv1.RecreateDeploymentStrategyType}
		}))
		time.Sleep(time.Minute)
		edit(ctx, c, image("v2"), replicas(5))
		time.Sleep(time.Minute)
		want(t, "in the end", counts(get(c).Status), "replicas=5 updated=5 ready=5 available=5 unavailable=0")
	})
}

func TestPauseAndResume(t *testing.T) {
	run(t, nil, func(ctx context.Context, c *simulation.Cluster) {
		create(ctx, c, web(4))
		time.Sleep(time.Minute)
		edit(ctx, c, paused(true))
		edit(ctx, c, image("v2"))
		time.Sleep(time.Hour)
		want(t, "paused", progressing(c), "DeploymentPaused Unknown")
		if setOf(c, "v2") != nil {
			t.Error("a paused Deployment rolled out")
		}
		edit(ctx, c, replicas(6))
		time.Sleep(time.Minute)
		if n := size(setOf(c, "v1")); n != 6 {
			t.Errorf("a paused Deployment was scaled to %d, want 6", n)
		}
		edit(ctx, c, paused(false))
		time.Sleep(time.Minute)
		want(t, "resumed", counts(get(c).Status), "replicas=6 updated=6 ready=6 available=6 unavailable=0")
		want(t, "resumed", progressing(c), "NewReplicaSetAvailable True")
	})
}

func TestScalingMidwayIsProportional(t *testing.T) {
	prepare := func(c *simulation.Cluster) {
		c.Start = func(p *corev1.Pod) time.Duration {
			if p.Spec.Containers[0].Image == "slow" {
				return -1
			}
			return time.Second
		}
	}
	run(t, prepare, func(ctx context.Context, c *simulation.Cluster) {
		create(ctx, c, web(10, bound("3", "2")))
		time.Sleep(time.Minute)
		edit(ctx, c, image("slow"))
		time.Sleep(time.Minute)
		want(t, "midway", fmt.Sprint(size(setOf(c, "v1")), size(setOf(c, "slow"))), "8 5")
		edit(ctx, c, replicas(15))
		time.Sleep(time.Minute)
		// The documented example: 5 more, of which the old set gets 3 and the new one 2.
		want(t, "scaled", fmt.Sprint(size(setOf(c, "v1")), size(setOf(c, "slow"))), "11 7")
		edit(ctx, c, replicas(0))
		time.Sleep(time.Minute)
		want(t, "scaled to nothing", fmt.Sprint(size(setOf(c, "v1")), size(setOf(c, "slow"))), "0 0")
	})
}

func TestHistoryIsTrimmed(t *testing.T) {
	run(t, nil, func(ctx context.Context, c *simulation.Cluster) {
		limit := int32(2)
		create(ctx, c, web(1, func(d *appsv1.Deployment) { d.Spec.RevisionHistoryLimit = &limit }))
		for v := 2; v < 8; v++ {
			time.Sleep(time.Minute)
			edit(ctx, c, image(fmt.Sprint("v", v)))
		}
		time.Sleep(time.Minute)
		var left []string
		for rs := range client.List[appsv1.ReplicaSet](c.View(), "ns") {
			left = append(left, rs.Annotations[revisionAnnotation])
		}
		slices.Sort(left)
		want(t, "revisions", strings.Join(left, " "), "5 6 7")
	})
}

func TestRestartIsANewTemplate(t *testing.T) {
	run(t, nil, func(ctx context.Context, c *simulation.Cluster) {
		create(ctx, c, web(2))
		time.Sleep(time.Minute)
		edit(ctx, c, func(d *appsv1.Deployment) {
			d.Spec.Template.Annotations = map[string]string{"kubectl.kubernetes.io/restartedAt": "now"}
		})
		time.Sleep(time.Minute)
		if n := len(slices.Collect(client.List[appsv1.ReplicaSet](c.View(), "ns"))); n != 2 {
			t.Errorf("%d ReplicaSets, want 2", n)
		}
		want(t, "revision", get(c).Annotations[revisionAnnotation], "2")
	})
}

func TestCollisionGetsAnotherName(t *testing.T) {
	run(t, nil, func(ctx context.Context, c *simulation.Cluster) {
		d := web(1)
		stored, _ := clienttest.New(d).Get(ctx, client.Row[appsv1.Deployment](), client.KeyOf(d)) // with defaults
		taken := (&rollout{Deployment: stored.(*appsv1.Deployment)}).newSet(0)
		taken.OwnerReferences = nil
		taken.Spec.Selector = &metav1.LabelSelector{MatchLabels: map[string]string{"other": "one"}}
		taken.Spec.Template.Labels = taken.Spec.Selector.MatchLabels
		taken.Labels = nil
		if _, err := c.Create(ctx, taken); err != nil {
			t.Fatal(err)
		}
		create(ctx, c, d)
		time.Sleep(time.Minute)
		if s := get(c).Status; s.CollisionCount == nil || *s.CollisionCount != 1 || s.AvailableReplicas != 1 {
			t.Errorf("status %+v", s)
		}
	})
}

func TestRevisionHistoryIsBounded(t *testing.T) {
	h := ""
	for n := range int64(1000) {
		h = appendHistory(h, n)
	}
	if len(h) > longestHistory || !strings.HasSuffix(h, ",998,999") || strings.HasPrefix(h, "0,") {
		t.Errorf("%d characters: %s", len(h), h)
	}
}
