package replicaset

import (
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"proa/controllers/pods"
	"proa/reconcile"
)

// observe is the status that the pods give, without a failure; wait is when a
// pod becomes available by itself.
func (t *target) observe(mine, active []*corev1.Pod, now time.Time) (s appsv1.ReplicaSetStatus, wait time.Duration) {
	template := labels.SelectorFromSet(t.template.Labels)
	s = appsv1.ReplicaSetStatus{
		Replicas:           int32(len(active)),
		ObservedGeneration: t.GetGeneration(),
		Conditions: slices.DeleteFunc(slices.Clone(t.status.Conditions), func(c appsv1.ReplicaSetCondition) bool {
			return c.Type == appsv1.ReplicaSetReplicaFailure
		}),
	}
	if t.terminating {
		n := int32(len(pods.Filter(mine, pods.Terminating)))
		s.TerminatingReplicas = &n
	}
	for _, p := range active {
		if template.Matches(labels.Set(p.Labels)) {
			s.FullyLabeledReplicas++
		}
		if !pods.Ready(p) {
			continue
		}
		s.ReadyReplicas++
		available, after := pods.Available(p, t.minReady, now)
		if available {
			s.AvailableReplicas++
		}
		wait = pods.Sooner(wait, after)
	}
	return s, wait
}

// statusWrite is the write that makes the status so, if it is not.
func (t *target) statusWrite(s appsv1.ReplicaSetStatus) []reconcile.Write {
	if equality.Semantic.DeepEqual(s, t.status) {
		return nil
	}
	return []reconcile.Write{{Op: reconcile.Update, Object: t.withStatus(s), Subresource: "status"}}
}

// failure returns what to write when pods cannot be made or deleted: the
// condition ReplicaFailure. It keeps its time while the reason stays.
func (t *target) failure(s appsv1.ReplicaSetStatus, reason string, now time.Time) func(error) []reconcile.Write {
	return func(err error) []reconcile.Write {
		c := appsv1.ReplicaSetCondition{
			Type:               appsv1.ReplicaSetReplicaFailure,
			Status:             corev1.ConditionTrue,
			LastTransitionTime: metav1.NewTime(now),
			Reason:             reason,
			Message:            err.Error(),
		}
		for _, old := range t.status.Conditions {
			if old.Type == c.Type && old.Reason == reason {
				c = old
			}
		}
		s.Conditions = append(slices.Clone(s.Conditions), c)
		return t.statusWrite(s)
	}
}
