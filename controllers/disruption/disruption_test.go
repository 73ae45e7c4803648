package disruption

import (
	"fmt"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"proa/api"
	"proa/client"
	"proa/client/clienttest"
	"proa/controllers/simulation"
)

var now = time.Unix(1e9, 0)

func owner(kind, name string) []metav1.OwnerReference {
	yes := true
	return []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: kind, Name: name, UID: types.UID(name), Controller: &yes}}
}

// world is a Deployment of five with three pods of which some are ready.
func world(b *policyv1.PodDisruptionBudget, ready int) client.View {
	five, three := int32(5), int32(3)
	objs := []client.Object{b,
		&appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "d", UID: "d"}, Spec: appsv1.DeploymentSpec{Replicas: &five}},
		&appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "rs", UID: "rs", OwnerReferences: owner("Deployment", "d")}, Spec: appsv1.ReplicaSetSpec{Replicas: &three}}}
	for i := range 3 {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: fmt.Sprint("p", i), UID: types.UID(fmt.Sprint("p", i)), Labels: map[string]string{"a": "b"}, OwnerReferences: owner("ReplicaSet", "rs")}}
		simulation.SetCondition(p, corev1.PodReady, i < ready)
		objs = append(objs, p)
	}
	return clienttest.World(objs...)
}

func budget(change func(b *policyv1.PodDisruptionBudget)) *policyv1.PodDisruptionBudget {
	b := &policyv1.PodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "b", UID: "b", Generation: 4}, Spec: policyv1.PodDisruptionBudgetSpec{
		Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"a": "b"}}}}
	change(b)
	return b
}

func min(s string) func(b *policyv1.PodDisruptionBudget) {
	v := intstr.Parse(s)
	return func(b *policyv1.PodDisruptionBudget) { b.Spec.MinAvailable = &v }
}

func most(s string) func(b *policyv1.PodDisruptionBudget) {
	v := intstr.Parse(s)
	return func(b *policyv1.PodDisruptionBudget) { b.Spec.MaxUnavailable = &v }
}

func going(after time.Duration) func(b *policyv1.PodDisruptionBudget) {
	return func(b *policyv1.PodDisruptionBudget) {
		min("1")(b)
		b.Status.DisruptedPods = map[string]metav1.Time{"p0": {Time: now.Add(-after)}, "absent": {Time: now}}
	}
}

func TestCounts(t *testing.T) {
	c := &controller{api.Builtin()}
	for _, tc := range []struct {
		name   string
		change func(b *policyv1.PodDisruptionBudget)
		ready  int
		want   string // expected, desired, healthy, allowed, under way, reason
	}{
		{"two must stay", min("2"), 3, "3 2 3 1 0 SufficientPods"},
		{"two must stay, two are ready", min("2"), 2, "3 2 2 0 0 InsufficientPods"},
		{"half of the Deployment", min("50%"), 3, "5 3 3 0 0 InsufficientPods"},
		{"one may go", most("1"), 3, "5 4 3 0 0 InsufficientPods"},
		{"three may go", most("60%"), 3, "5 2 3 1 0 SufficientPods"},
		{"one is going", going(time.Minute), 3, "3 1 2 1 1 SufficientPods"},
		{"one should have gone", going(3 * time.Minute), 3, "3 1 3 2 0 SufficientPods"},
	} {
		b := budget(tc.change)
		plan := c.decide(world(b, tc.ready), now, client.KeyOf(b))
		if len(plan.Writes) != 1 {
			t.Errorf("%s: %+v", tc.name, plan)
			continue
		}
		s := plan.Writes[0].Object.(*policyv1.PodDisruptionBudget).Status
		got := fmt.Sprint(s.ExpectedPods, s.DesiredHealthy, s.CurrentHealthy, s.DisruptionsAllowed, len(s.DisruptedPods), " ", s.Conditions[0].Reason)
		if got != tc.want || s.ObservedGeneration != 4 {
			t.Errorf("%s: %s, want %s", tc.name, got, tc.want)
		}
		if (len(s.DisruptedPods) > 0) != (plan.After == time.Minute) {
			t.Errorf("%s: looks again after %v", tc.name, plan.After)
		}
		again := plan.Writes[0].Object.(*policyv1.PodDisruptionBudget)
		if plan := c.decide(world(again, tc.ready), now, client.KeyOf(b)); len(plan.Writes) > 0 {
			t.Errorf("%s: decided twice, it writes again", tc.name)
		}
	}
}

func TestUnscalableControllerAllowsNothing(t *testing.T) {
	b := budget(most("1"))
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p", UID: "p", Labels: map[string]string{"a": "b"}, OwnerReferences: owner("DaemonSet", "ds")}}
	ds := &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "ds", UID: "ds"}}
	plan := (&controller{api.Builtin()}).decide(clienttest.World(b, p, ds), now, client.KeyOf(b))
	s := plan.Writes[0].Object.(*policyv1.PodDisruptionBudget).Status
	if s.DisruptionsAllowed != 0 || s.Conditions[0].Reason != "SyncFailed" || plan.Events[0].Reason != "CalculateExpectedPodCountFailed" {
		t.Errorf("%+v", plan)
	}
}

func TestADisruptionThatDidNotComeIsTakenBack(t *testing.T) {
	pod := func(reason string, change func(p *corev1.Pod)) client.View {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p", UID: "p"}}
		p.Status.Conditions = []corev1.PodCondition{{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: reason, LastTransitionTime: metav1.NewTime(now)}}
		if change != nil {
			change(p)
		}
		return clienttest.World(p)
	}
	for name, tc := range map[string]struct {
		view  client.View
		after time.Duration
		back  bool
		wait  time.Duration
	}{
		"young":    {pod("PreemptionByScheduler", nil), time.Minute, false, time.Minute},
		"stale":    {pod("PreemptionByScheduler", nil), 2 * time.Minute, true, 0},
		"kubelets": {pod(corev1.PodReasonTerminationByKubelet, nil), time.Hour, false, 0},
		"deleted":  {pod("x", func(p *corev1.Pod) { p.DeletionTimestamp = &metav1.Time{Time: now} }), time.Hour, false, 0},
		"finished": {pod("x", func(p *corev1.Pod) { p.Status.Phase = corev1.PodFailed }), time.Hour, false, 0},
	} {
		plan := decideStale(tc.view, now.Add(tc.after), client.Key{Namespace: "ns", Name: "p"})
		if got := len(plan.Writes) == 1; got != tc.back || plan.After != tc.wait {
			t.Errorf("%s: taken back %v, after %v", name, got, plan.After)
		}
	}
}
