package deployment

import (
	"fmt"
	"math"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"proa/reconcile"
)

// status is what the ReplicaSets add up to. The condition Progressing stays
// what it was: judgeProgress decides it.
func (r *rollout) status() appsv1.DeploymentStatus {
	sets := r.all()
	s := appsv1.DeploymentStatus{
		ObservedGeneration:  r.Generation,
		Replicas:            sum(sets, func(rs *appsv1.ReplicaSet) int32 { return rs.Status.Replicas }),
		ReadyReplicas:       sum(sets, func(rs *appsv1.ReplicaSet) int32 { return rs.Status.ReadyReplicas }),
		AvailableReplicas:   sum(sets, func(rs *appsv1.ReplicaSet) int32 { return rs.Status.AvailableReplicas }),
		TerminatingReplicas: terminating(sets),
		CollisionCount:      r.Status.CollisionCount,
		Conditions:          slices.Clone(r.Status.Conditions),
	}
	if r.next != nil {
		s.UpdatedReplicas = r.next.Status.Replicas
	}
	s.UnavailableReplicas = max(sum(sets, size)-s.AvailableReplicas, 0)
	if s.AvailableReplicas >= r.replicas-r.maxUnavailable {
		r.set(&s, appsv1.DeploymentAvailable, corev1.ConditionTrue, "MinimumReplicasAvailable", "Deployment has minimum availability.")
	} else {
		r.set(&s, appsv1.DeploymentAvailable, corev1.ConditionFalse, "MinimumReplicasUnavailable", "Deployment does not have minimum availability.")
	}
	return s
}

// terminating is nil until every ReplicaSet has told.
func terminating(sets []*appsv1.ReplicaSet) *int32 {
	var n int32
	for _, rs := range sets {
		if rs.Status.TerminatingReplicas == nil {
			return nil
		}
		n += *rs.Status.TerminatingReplicas
	}
	return &n
}

func condition(s *appsv1.DeploymentStatus, t appsv1.DeploymentConditionType) *appsv1.DeploymentCondition {
	for i := range s.Conditions {
		if s.Conditions[i].Type == t {
			return &s.Conditions[i]
		}
	}
	return nil
}

// set sets a condition. One of the same status and reason stays as it is; one
// of the same status keeps the time of its last transition.
func (r *rollout) set(s *appsv1.DeploymentStatus, t appsv1.DeploymentConditionType, status corev1.ConditionStatus, reason, message string) {
	old := condition(s, t)
	if old != nil && old.Status == status && old.Reason == reason {
		return
	}
	r.put(s, t, status, reason, message)
}

// put sets a condition and its time of update, whatever it was.
func (r *rollout) put(s *appsv1.DeploymentStatus, t appsv1.DeploymentConditionType, status corev1.ConditionStatus, reason, message string) {
	now := metav1.NewTime(r.now.Truncate(time.Second)) // as precise as it is stored
	c := appsv1.DeploymentCondition{Type: t, Status: status, Reason: reason, Message: message, LastUpdateTime: now, LastTransitionTime: now}
	old := condition(s, t)
	if old != nil && old.Status == status {
		c.LastTransitionTime = old.LastTransitionTime
	}
	if old == nil {
		s.Conditions = append(s.Conditions, c)
	} else {
		*old = c
	}
}

func remove(s *appsv1.DeploymentStatus, t appsv1.DeploymentConditionType) {
	s.Conditions = slices.DeleteFunc(s.Conditions, func(c appsv1.DeploymentCondition) bool { return c.Type == t })
}

// deadline is the time that a rollout may go without progress; ok is false
// where there is no such limit.
func (r *rollout) deadline() (d time.Duration, ok bool) {
	s := r.Spec.ProgressDeadlineSeconds
	if s == nil || *s == math.MaxInt32 {
		return 0, false
	}
	return time.Duration(*s) * time.Second, true
}

// progress sets the condition Progressing where there is a deadline.
func (r *rollout) progress(s *appsv1.DeploymentStatus, status corev1.ConditionStatus, reason, message string) {
	if _, ok := r.deadline(); ok {
		r.set(s, appsv1.DeploymentProgressing, status, reason, message)
	}
}

// notePause keeps the condition Progressing honest about a pause, during which
// no deadline runs, and tells whether it changed.
func (r *rollout) notePause(s *appsv1.DeploymentStatus) bool {
	c := condition(s, appsv1.DeploymentProgressing)
	if _, ok := r.deadline(); !ok || c != nil && c.Reason == "ProgressDeadlineExceeded" {
		return false
	}
	noted := c != nil && c.Reason == "DeploymentPaused"
	switch {
	case r.Spec.Paused && !noted:
		r.progress(s, corev1.ConditionUnknown, "DeploymentPaused", "Deployment is paused")
	case !r.Spec.Paused && noted:
		r.progress(s, corev1.ConditionUnknown, "DeploymentResumed", "Deployment is resumed")
	default:
		return false
	}
	return true
}

// complete tells whether all pods are of the new template and available.
func complete(r *rollout, s *appsv1.DeploymentStatus) bool {
	return s.UpdatedReplicas == r.replicas && s.Replicas == r.replicas && s.AvailableReplicas == r.replicas &&
		s.ObservedGeneration >= r.Generation
}

// advanced tells whether the rollout has come further than was last written.
func (r *rollout) advanced(s *appsv1.DeploymentStatus) bool {
	was := r.Status
	return s.UpdatedReplicas > was.UpdatedReplicas ||
		s.Replicas-s.UpdatedReplicas < was.Replicas-was.UpdatedReplicas ||
		s.ReadyReplicas > was.ReadyReplicas || s.AvailableReplicas > was.AvailableReplicas
}

// judgeProgress sets the conditions Progressing and ReplicaFailure, and returns
// when to look again because the deadline passes.
func (r *rollout) judgeProgress(s *appsv1.DeploymentStatus) time.Duration {
	r.noteFailure(s)
	limit, ok := r.deadline()
	if !ok {
		remove(s, appsv1.DeploymentProgressing)
		return 0
	}
	if r.next != nil && condition(s, appsv1.DeploymentProgressing) == nil {
		r.progress(s, corev1.ConditionTrue, "FoundNewReplicaSet", fmt.Sprintf("Found new replica set %q", r.next.Name))
	}
	c := condition(s, appsv1.DeploymentProgressing)
	if c != nil && c.Reason == "NewReplicaSetAvailable" && s.Replicas == s.UpdatedReplicas {
		return 0 // the rollout is over; pods that come and go later are not its progress
	}
	switch {
	case complete(r, s):
		r.put(s, appsv1.DeploymentProgressing, corev1.ConditionTrue, "NewReplicaSetAvailable", r.subject()+" has successfully progressed.")
		return 0
	case r.advanced(s):
		r.put(s, appsv1.DeploymentProgressing, corev1.ConditionTrue, "ReplicaSetUpdated", r.subject()+" is progressing.")
		c = condition(s, appsv1.DeploymentProgressing)
	}
	if c == nil || c.Reason == "NewReplicaSetAvailable" || c.Reason == "ProgressDeadlineExceeded" {
		return 0
	}
	left := c.LastUpdateTime.Add(limit).Sub(r.now)
	if left > 0 {
		return left
	}
	r.put(s, appsv1.DeploymentProgressing, corev1.ConditionFalse, "ProgressDeadlineExceeded", r.subject()+" has timed out progressing.")
	return 0
}

func (r *rollout) subject() string {
	if r.next != nil {
		return fmt.Sprintf("ReplicaSet %q", r.next.Name)
	}
	return fmt.Sprintf("Deployment %q", r.Name)
}

// noteFailure shows a ReplicaSet's ReplicaFailure, the new one's first.
func (r *rollout) noteFailure(s *appsv1.DeploymentStatus) {
	sets := r.all()
	slices.Reverse(sets)
	for _, rs := range sets {
		for _, c := range rs.Status.Conditions {
			if c.Type == appsv1.ReplicaSetReplicaFailure {
				r.set(s, appsv1.DeploymentReplicaFailure, c.Status, c.Reason, c.Message)
				return
			}
		}
	}
	remove(s, appsv1.DeploymentReplicaFailure)
}

// report is the plan that writes the status, if it changed.
func (r *rollout) report(s appsv1.DeploymentStatus) reconcile.Plan {
	if equality.Semantic.DeepEqual(s, r.Status) {
		return reconcile.Plan{}
	}
	d := r.DeepCopy()
	d.Status = s
	return reconcile.Plan{Writes: []reconcile.Write{{Op: reconcile.Update, Object: d, Subresource: "status"}}}
}
