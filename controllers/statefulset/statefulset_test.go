package statefulset

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
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"proa/api"
	"proa/client"
	"proa/controllers/garbage"
	"proa/controllers/pods"
	"proa/controllers/simulation"
)

func db(replicas int32, change ...func(s *appsv1.StatefulSet)) *appsv1.StatefulSet {
	l := map[string]string{"app": "db"}
	s := &appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "db"}, Spec: appsv1.StatefulSetSpec{
		Replicas: &replicas, ServiceName: "dbs", Selector: &metav1.LabelSelector{MatchLabels: l},
		Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: l}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "v1"}}}},
	}}
	for _, f := range change {
		f(s)
	}
	return s
}

func image(i string) func(s *appsv1.StatefulSet) {
	return func(s *appsv1.StatefulSet) { s.Spec.Template.Spec.Containers[0].Image = i }
}

func replicas(n int32) func(s *appsv1.StatefulSet) {
	return func(s *appsv1.StatefulSet) { s.Spec.Replicas = &n }
}

func parallel(s *appsv1.StatefulSet) { s.Spec.PodManagementPolicy = appsv1.ParallelPodManagement }

func partition(n int32) func(s *appsv1.StatefulSet) {
	return func(s *appsv1.StatefulSet) {
		s.Spec.UpdateStrategy = appsv1.StatefulSetUpdateStrategy{Type: appsv1.RollingUpdateStatefulSetStrategyType,
			RollingUpdate: &appsv1.RollingUpdateStatefulSetStrategy{Partition: &n}}
	}
}

func claimed(whenDeleted, whenScaled appsv1.PersistentVolumeClaimRetentionPolicyType) func(s *appsv1.StatefulSet) {
	return func(s *appsv1.StatefulSet) {
		s.Spec.VolumeClaimTemplates = []corev1.PersistentVolumeClaim{{ObjectMeta: metav1.ObjectMeta{Name: "data"}, Spec: corev1.PersistentVolumeClaimSpec{
			AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
			Resources:   corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}}}}}
		s.Spec.PersistentVolumeClaimRetentionPolicy = &appsv1.StatefulSetPersistentVolumeClaimRetentionPolicy{WhenDeleted: whenDeleted, WhenScaled: whenScaled}
	}
}

func get(c *simulation.Cluster) *appsv1.StatefulSet {
	return client.Get[appsv1.StatefulSet](c.View(), "ns", "db")
}

func create(t *testing.T, c *simulation.Cluster, s *appsv1.StatefulSet) {
	t.Helper()
	if _, err := c.Create(t.Context(), s); err != nil {
		t.Fatal(err)
	}
}

func edit(t *testing.T, c *simulation.Cluster, change ...func(s *appsv1.StatefulSet)) {
	t.Helper()
	s := get(c).DeepCopy()
	s.ResourceVersion = ""
	for _, f := range change {
		f(s)
	}
	if _, err := c.Update(t.Context(), s, ""); err != nil {
		t.Fatal(err)
	}
}

// state names each pod and its image, with ! if it is not ready and * if it is
// being deleted.
func state(v client.View) string {
	var out []string
	for p := range client.List[corev1.Pod](v, "ns") {
		s := p.Name + "=" + p.Spec.Containers[0].Image
		if !pods.Ready(p) {
			s += "!"
		}
		if p.DeletionTimestamp != nil {
			s += "*"
		}
		out = append(out, s)
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

func counts(s appsv1.StatefulSetStatus) string {
	return fmt.Sprintf("%d ready=%d available=%d current=%d updated=%d done=%v", s.Replicas, s.ReadyReplicas, s.AvailableReplicas, s.CurrentReplicas, s.UpdatedReplicas, s.CurrentRevision == s.UpdateRevision)
}

func want(t *testing.T, what, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("%s: got %q, want %q", what, got, want)
	}
}

func TestOrderedUpAndDown(t *testing.T) {
	simulation.Run(t, nil, func(_ context.Context, c *simulation.Cluster) {
		create(t, c, db(3))
		for _, s := range []string{"db-0=v1!", "db-0=v1 db-1=v1!", "db-0=v1 db-1=v1 db-2=v1!", "db-0=v1 db-1=v1 db-2=v1"} {
			time.Sleep(500 * time.Millisecond)
			want(t, "up", state(c.View()), s)
			time.Sleep(510 * time.Millisecond)
		}
		want(t, "status", counts(get(c).Status), "3 ready=3 available=3 current=3 updated=3 done=true")
		p := client.Get[corev1.Pod](c.View(), "ns", "db-1")
		want(t, "identity", p.Spec.Hostname+"."+p.Spec.Subdomain+" "+p.Labels["statefulset.kubernetes.io/pod-name"]+" "+p.Labels["apps.kubernetes.io/pod-index"], "db-1.dbs db-1 1")
		want(t, "revision", p.Labels["controller-revision-hash"], get(c).Status.UpdateRevision)
		edit(t, c, replicas(1))
		for _, s := range []string{"db-0=v1 db-1=v1 db-2=v1*", "db-0=v1 db-1=v1*", "db-0=v1"} {
			time.Sleep(500 * time.Millisecond)
			want(t, "down", state(c.View()), s)
			time.Sleep(510 * time.Millisecond)
		}
		before := c.View().Revision()
		time.Sleep(time.Hour)
		if after := c.View().Revision(); after != before {
			t.Errorf("%d writes although nothing happened", after-before)
		}
	}, Controller())
}

func TestParallelDoesNotWait(t *testing.T) {
	simulation.Run(t, nil, func(_ context.Context, c *simulation.Cluster) {
		create(t, c, db(3, parallel, func(s *appsv1.StatefulSet) { s.Spec.Ordinals = &appsv1.StatefulSetOrdinals{Start: 5} }))
		time.Sleep(500 * time.Millisecond)
		want(t, "up", state(c.View()), "db-5=v1! db-6=v1! db-7=v1!")
		time.Sleep(2 * time.Second)
		edit(t, c, replicas(0))
		time.Sleep(500 * time.Millisecond)
		want(t, "down", state(c.View()), "db-5=v1* db-6=v1* db-7=v1*")
	}, Controller())
}

func TestRollingUpdateGoesDownToThePartition(t *testing.T) {
	simulation.Run(t, nil, func(ctx context.Context, c *simulation.Cluster) {
		create(t, c, db(3, partition(2)))
		time.Sleep(10 * time.Second)
		edit(t, c, image("v2"))
		time.Sleep(10 * time.Second)
		want(t, "canary", state(c.View()), "db-0=v1 db-1=v1 db-2=v2")
		want(t, "status", counts(get(c).Status), "3 ready=3 available=3 current=2 updated=1 done=false")
		if err := c.Delete(ctx, client.Row[corev1.Pod](), client.Key{Namespace: "ns", Name: "db-0"}, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Second)
		want(t, "below the partition the old template holds", state(c.View()), "db-0=v1 db-1=v1 db-2=v2")
		edit(t, c, partition(0))
		time.Sleep(500 * time.Millisecond)
		want(t, "one at a time", state(c.View()), "db-0=v1 db-1=v1* db-2=v2")
		time.Sleep(20 * time.Second)
		want(t, "done", state(c.View()), "db-0=v2 db-1=v2 db-2=v2")
		want(t, "status", counts(get(c).Status), "3 ready=3 available=3 current=3 updated=3 done=true")
	}, Controller())
}

func TestNeverTwoOfOneNameAndUnavailabilityIsBounded(t *testing.T) {
	for _, most := range []int32{1, 3} {
		r := simulation.Random(uint64(most))
		var settled atomic.Bool
		prepare := func(c *simulation.Cluster) {
			c.Start = func(*corev1.Pod) time.Duration { return time.Duration(r.IntN(5000)) * time.Millisecond }
			c.Stop = c.Start
			c.Each = func(v client.View) {
				ready := 0
				for p := range client.List[corev1.Pod](v, "ns") {
					if pods.Active(p) && pods.Ready(p) {
						ready++
					}
				}
				if settled.Load() && ready < 6-int(most) {
					t.Errorf("%d ready, want at least %d", ready, 6-most)
				}
			}
		}
		simulation.Run(t, prepare, func(_ context.Context, c *simulation.Cluster) {
			create(t, c, db(6, parallel, func(s *appsv1.StatefulSet) {
				n := intstr.FromInt32(most)
				s.Spec.UpdateStrategy = appsv1.StatefulSetUpdateStrategy{Type: appsv1.RollingUpdateStatefulSetStrategyType,
					RollingUpdate: &appsv1.RollingUpdateStatefulSetStrategy{MaxUnavailable: &n}}
			}))
			time.Sleep(time.Minute)
			settled.Store(true)
			for _, v := range []string{"v2", "v3"} {
				edit(t, c, image(v))
				time.Sleep(15 * time.Second)
			}
			time.Sleep(5 * time.Minute)
			want(t, "done", state(c.View()), "db-0=v3 db-1=v3 db-2=v3 db-3=v3 db-4=v3 db-5=v3")
		}, Controller())
	}
}

func TestOnDelete(t *testing.T) {
	simulation.Run(t, nil, func(ctx context.Context, c *simulation.Cluster) {
		create(t, c, db(2, func(s *appsv1.StatefulSet) {
			s.Spec.UpdateStrategy.Type = appsv1.OnDeleteStatefulSetStrategyType
		}))
		time.Sleep(10 * time.Second)
		edit(t, c, image("v2"))
		time.Sleep(time.Minute)
		want(t, "untouched", state(c.View()), "db-0=v1 db-1=v1")
		if err := c.Delete(ctx, client.Row[corev1.Pod](), client.Key{Namespace: "ns", Name: "db-1"}, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		want(t, "deleted", state(c.View()), "db-0=v1 db-1=v2")
	}, Controller())
}

func TestFailedPodIsMadeAnew(t *testing.T) {
	simulation.Run(t, nil, func(_ context.Context, c *simulation.Cluster) {
		create(t, c, db(2))
		time.Sleep(10 * time.Second)
		c.SetPhase(client.Get[corev1.Pod](c.View(), "ns", "db-0"), corev1.PodFailed)
		time.Sleep(10 * time.Second)
		want(t, "again", state(c.View()), "db-0=v1 db-1=v1")
	}, Controller())
}

func claims(c *simulation.Cluster) string {
	var out []string
	for p := range client.List[corev1.PersistentVolumeClaim](c.View(), "ns") {
		out = append(out, p.Name)
	}
	return strings.Join(out, " ")
}

func TestClaimsFollowTheRetentionPolicy(t *testing.T) {
	const keep, del = appsv1.RetainPersistentVolumeClaimRetentionPolicyType, appsv1.DeletePersistentVolumeClaimRetentionPolicyType
	for _, tc := range []struct {
		whenDeleted, whenScaled appsv1.PersistentVolumeClaimRetentionPolicyType
		scaled, deleted         string
	}{
		{keep, keep, "data-db-0 data-db-1", "data-db-0 data-db-1"},
		{keep, del, "data-db-0", "data-db-0"},
		{del, keep, "data-db-0 data-db-1", ""},
		{del, del, "data-db-0", ""},
	} {
		simulation.Run(t, nil, func(ctx context.Context, c *simulation.Cluster) {
			create(t, c, db(2, claimed(tc.whenDeleted, tc.whenScaled)))
			time.Sleep(10 * time.Second)
			want(t, "made", claims(c), "data-db-0 data-db-1")
			p := client.Get[corev1.Pod](c.View(), "ns", "db-1")
			if v := p.Spec.Volumes; len(v) == 0 || v[len(v)-1].PersistentVolumeClaim.ClaimName != "data-db-1" {
				t.Errorf("volumes %+v", v)
			}
			edit(t, c, replicas(1))
			time.Sleep(10 * time.Second)
			want(t, fmt.Sprint(tc, " scaled"), claims(c), tc.scaled)
			if err := c.Delete(ctx, client.Row[appsv1.StatefulSet](), client.Key{Namespace: "ns", Name: "db"}, metav1.DeleteOptions{}); err != nil {
				t.Fatal(err)
			}
			time.Sleep(10 * time.Second)
			want(t, fmt.Sprint(tc, " deleted"), claims(c), tc.deleted)
		}, Controller(), garbage.Controller(api.Builtin()))
	}
}
