// Package disruption counts how many pods of a PodDisruptionBudget may be
// evicted now. The eviction endpoint takes from that number; this controller
// finds it again whenever the pods change.
package disruption

import (
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"proa/api"
	"proa/client"
	"proa/controllers/own"
	"proa/controllers/pods"
	"proa/reconcile"
)

// evictionTime is how long an eviction that was allowed may take to show in the
// pod; after it the pod counts as healthy again.
const evictionTime = 2 * time.Minute

type controller struct{ registry *api.Registry }

// Controller is the disruption controller.
func Controller(registry *api.Registry) reconcile.Controller {
	c := &controller{registry}
	return reconcile.Controller{
		Name:    "disruption-controller",
		Source:  "controllermanager",
		Workers: 2,
		Watches: []reconcile.Watch{
			{Resource: client.Row[policyv1.PodDisruptionBudget]()},
			{Resource: client.Row[corev1.Pod](), Keys: budgetsOf},
		},
		Decide: c.decide,
	}
}

func budgetsOf(v client.View, e client.Event) []client.Key {
	var keys []client.Key
	for b := range client.List[policyv1.PodDisruptionBudget](v, e.Object().GetNamespace()) {
		sel := own.Selector(b.Spec.Selector)
		for _, obj := range []client.Object{e.Old, e.New} {
			if obj != nil && sel.Matches(labels.Set(obj.GetLabels())) {
				keys = append(keys, client.KeyOf(b))
				break
			}
		}
	}
	return keys
}

func (c *controller) decide(v client.View, now time.Time, key client.Key) reconcile.Plan {
	b := client.Get[policyv1.PodDisruptionBudget](v, key.Namespace, key.Name)
	if b == nil || b.DeletionTimestamp != nil {
		return reconcile.Plan{}
	}
	sel := own.Selector(b.Spec.Selector)
	var mine []*corev1.Pod
	for p := range client.List[corev1.Pod](v, b.Namespace) {
		if sel.Matches(labels.Set(p.Labels)) && !pods.Finished(p) {
			mine = append(mine, p)
		}
	}
	var plan reconcile.Plan
	if len(mine) == 0 {
		plan.Events = append(plan.Events, reconcile.Normal(b, "NoPods", "No matching pods found"))
	}
	expected, desired, err := c.bounds(v, b, mine)
	if err != nil {
		return c.failed(b, now, err)
	}
	disrupted, wait := underWay(b, mine, now)
	s := policyv1.PodDisruptionBudgetStatus{
		ObservedGeneration: b.Generation, DisruptedPods: disrupted, Conditions: b.DeepCopy().Status.Conditions,
		ExpectedPods: int32(expected), DesiredHealthy: int32(desired), CurrentHealthy: healthy(mine, disrupted),
	}
	s.DisruptionsAllowed = max(s.CurrentHealthy-s.DesiredHealthy, 0)
	if expected <= 0 {
		s.DisruptionsAllowed = 0
	}
	judge(b, &s, now)
	plan.After = wait
	plan.Writes = write(b, s)
	if len(plan.Writes) == 0 {
		plan.Events = nil
	}
	return plan
}

// bounds are how many pods there should be, and how many of them healthy.
// Percentages round up.
func (c *controller) bounds(v client.View, b *policyv1.PodDisruptionBudget, mine []*corev1.Pod) (expected, desired int, err error) {
	switch {
	case b.Spec.MaxUnavailable != nil:
		if expected, err = c.expected(v, mine); err != nil {
			return 0, 0, err
		}
		n, err := intstr.GetScaledValueFromIntOrPercent(b.Spec.MaxUnavailable, expected, true)
		return expected, max(expected-n, 0), err
	case b.Spec.MinAvailable == nil:
		return len(mine), 0, nil
	case b.Spec.MinAvailable.Type == intstr.Int:
		return len(mine), b.Spec.MinAvailable.IntValue(), nil
	}
	if expected, err = c.expected(v, mine); err != nil {
		return 0, 0, err
	}
	desired, err = intstr.GetScaledValueFromIntOrPercent(b.Spec.MinAvailable, expected, true)
	return expected, desired, err
}

// expected adds up the sizes of the pods' controllers; pods without one do not
// count.
func (c *controller) expected(v client.View, mine []*corev1.Pod) (int, error) {
	sizes := map[types.UID]int{}
	for _, p := range mine {
		ref := metav1.GetControllerOfNoCopy(p)
		if ref == nil {
			continue
		}
		owner, n, err := c.scaleOf(v, p.Namespace, ref)
		if err != nil {
			return 0, err
		}
		sizes[owner] = n
	}
	total := 0
	for _, n := range sizes {
		total += n
	}
	return total, nil
}

// scaleOf finds the size of a controller, or of the one that controls it: a
// Deployment's for its ReplicaSets.
func (c *controller) scaleOf(v client.View, namespace string, ref *metav1.OwnerReference) (types.UID, int, error) {
	gvk := (&metav1.TypeMeta{APIVersion: ref.APIVersion, Kind: ref.Kind}).GroupVersionKind()
	served, ok := c.registry.ByGVK(gvk)
	if !ok {
		return "", 0, fmt.Errorf("found no controller of kind %s", gvk)
	}
	obj := v.Get(served.Resource, namespace, ref.Name)
	if obj == nil || obj.GetUID() != ref.UID {
		return ref.UID, 0, nil // the pods are about to go
	}
	if above := metav1.GetControllerOfNoCopy(obj); above != nil {
		return c.scaleOf(v, namespace, above)
	}
	scale := served.Resource.Subresource("scale")
	if scale == nil || scale.Scale == nil {
		return "", 0, fmt.Errorf("%s %q does not implement the scale subresource", gvk, ref.Name)
	}
	n, _, _ := scale.Scale.Get(obj)
	return obj.GetUID(), int(n), nil
}

// underWay are the evictions that were allowed and do not show in the pods yet.
func underWay(b *policyv1.PodDisruptionBudget, mine []*corev1.Pod, now time.Time) (out map[string]metav1.Time, wait time.Duration) {
	for _, p := range mine {
		at, ok := b.Status.DisruptedPods[p.Name]
		if !ok || p.DeletionTimestamp != nil {
			continue
		}
		left := at.Add(evictionTime).Sub(now)
		if left <= 0 {
			continue
		}
		if out == nil {
			out = map[string]metav1.Time{}
		}
		out[p.Name] = at
		wait = pods.Sooner(wait, left)
	}
	return out, wait
}

func healthy(mine []*corev1.Pod, disrupted map[string]metav1.Time) (n int32) {
	for _, p := range mine {
		if _, going := disrupted[p.Name]; !going && p.DeletionTimestamp == nil && pods.Ready(p) {
			n++
		}
	}
	return n
}

// judge sets the condition DisruptionAllowed.
func judge(b *policyv1.PodDisruptionBudget, s *policyv1.PodDisruptionBudgetStatus, now time.Time) {
	c := metav1.Condition{Type: policyv1.DisruptionAllowedCondition, Status: metav1.ConditionFalse, Reason: policyv1.InsufficientPodsReason}
	if s.DisruptionsAllowed > 0 {
		c.Status, c.Reason = metav1.ConditionTrue, policyv1.SufficientPodsReason
	}
	set(b, s, c, now)
}

func set(b *policyv1.PodDisruptionBudget, s *policyv1.PodDisruptionBudgetStatus, c metav1.Condition, now time.Time) {
	c.ObservedGeneration, c.LastTransitionTime = b.Generation, metav1.NewTime(now)
	for i := range s.Conditions {
		if old := &s.Conditions[i]; old.Type == c.Type {
			if old.Status == c.Status {
				c.LastTransitionTime = old.LastTransitionTime
			}
			*old = c
			return
		}
	}
	s.Conditions = append(s.Conditions, c)
}

// failed allows nothing while the budget cannot be counted.
func (c *controller) failed(b *policyv1.PodDisruptionBudget, now time.Time, err error) reconcile.Plan {
	s := *b.Status.DeepCopy()
	s.ObservedGeneration, s.DisruptionsAllowed = b.Generation, 0
	set(b, &s, metav1.Condition{Type: policyv1.DisruptionAllowedCondition, Status: metav1.ConditionFalse, Reason: policyv1.SyncFailedReason, Message: err.Error()}, now)
	return reconcile.Plan{Writes: write(b, s), Events: []reconcile.Event{
		reconcile.Warning(b, "CalculateExpectedPodCountFailed", "Failed to calculate the number of expected pods: "+err.Error())}}
}

func write(b *policyv1.PodDisruptionBudget, s policyv1.PodDisruptionBudgetStatus) []reconcile.Write {
	if equality.Semantic.DeepEqual(s, b.Status) {
		return nil
	}
	next := b.DeepCopy()
	next.Status = s
	return []reconcile.Write{{Op: reconcile.Update, Object: next, Subresource: "status"}}
}
