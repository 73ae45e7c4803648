package scheduler

import (
	"context"
	"encoding/json"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"proa/client"
)

// report tells the user why a pod has no node: an event, and the condition.
// room is the node that is being cleared for it, or nil.
func (l *loop) report(ctx context.Context, e *entry, why *Explanation, room *node) {
	message := why.String()
	l.events.Event(e.info.pod, corev1.EventTypeWarning, "FailedScheduling", message)
	nominated := e.info.pod.Status.NominatedNodeName
	if room != nil {
		nominated = room.name
	} else if l.nominations[e.info.key] == nil {
		nominated = ""
	}
	l.setCondition(ctx, e.info, corev1.PodReasonUnschedulable, message, nominated)
}

// statusPatch is the part of a pod's status that the scheduler writes.
type statusPatch struct {
	Metadata struct {
		UID types.UID `json:"uid"`
	} `json:"metadata"`
	Status struct {
		Conditions        []corev1.PodCondition `json:"conditions,omitempty"`
		NominatedNodeName *string               `json:"nominatedNodeName,omitempty"`
	} `json:"status"`
}

// setCondition writes PodScheduled=False beside the loop, unless that is what
// the pod says already.
func (l *loop) setCondition(ctx context.Context, p *podInfo, reason, message, nominated string) {
	var patch statusPatch
	patch.Metadata.UID = p.pod.UID
	want := corev1.PodCondition{Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: reason, Message: message,
		ObservedGeneration: p.pod.Generation, LastTransitionTime: metav1.NewTime(time.Now().Truncate(time.Second))}
	have := condition(p.pod, corev1.PodScheduled)
	if have != nil && have.Status == want.Status {
		want.LastTransitionTime = have.LastTransitionTime
	}
	if have == nil || have.Status != want.Status || have.Reason != reason || have.Message != message {
		patch.Status.Conditions = []corev1.PodCondition{want}
	}
	if p.pod.Status.NominatedNodeName != nominated {
		patch.Status.NominatedNodeName = &nominated
	}
	if patch.Status.Conditions == nil && patch.Status.NominatedNodeName == nil {
		return
	}
	l.write(func() func(time.Time) {
		l.patchStatus(ctx, p.key, &patch)
		return func(time.Time) {}
	})
}

func condition(p *corev1.Pod, t corev1.PodConditionType) *corev1.PodCondition {
	for i := range p.Status.Conditions {
		if p.Status.Conditions[i].Type == t {
			return &p.Status.Conditions[i]
		}
	}
	return nil
}

func (l *loop) patchStatus(ctx context.Context, key client.Key, patch *statusPatch) {
	data, err := json.Marshal(patch)
	if err == nil {
		_, err = l.cfg.Client.Patch(ctx, l.pods, key, "status", client.Patch{Type: types.StrategicMergePatchType, Data: data})
	}
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) && ctx.Err() == nil {
		l.cfg.Log.Warn("a pod's condition could not be written", "pod", key, "error", err)
	}
}

// makeRoom promises a node to a pod and removes the victims there.
func (l *loop) makeRoom(ctx context.Context, p *podInfo, room candidate, c *change) {
	l.unnominate(p, c)
	for _, other := range append([]*podInfo(nil), room.node.nominated...) {
		if other.priority < p.priority { // it would find no room any more
			l.unnominate(other, c)
			l.clearNomination(ctx, other)
		}
	}
	l.nominations[p.key] = room.node
	room.node.nominate(p)
	for _, victim := range room.victims {
		if victim.pod.DeletionTimestamp != nil {
			continue // on its way already
		}
		pod, by := victim.pod, p.pod.UID // as they are now: the loop goes on
		l.write(func() func(time.Time) {
			l.evict(ctx, pod, by, room.node.name)
			return func(time.Time) {}
		})
	}
}

func (l *loop) clearNomination(ctx context.Context, p *podInfo) {
	var patch statusPatch
	nobody := ""
	patch.Metadata.UID, patch.Status.NominatedNodeName = p.pod.UID, &nobody
	l.write(func() func(time.Time) {
		l.patchStatus(ctx, p.key, &patch)
		return func(time.Time) {}
	})
}

// evict says in the victim's status why it goes, and deletes it.
func (l *loop) evict(ctx context.Context, victim *corev1.Pod, by types.UID, node string) {
	var patch statusPatch
	patch.Metadata.UID = victim.UID
	patch.Status.Conditions = []corev1.PodCondition{{
		Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: corev1.PodReasonPreemptionByScheduler,
		Message:            l.name + ": preempting to accommodate a higher priority pod",
		ObservedGeneration: victim.Generation, LastTransitionTime: metav1.NewTime(time.Now().Truncate(time.Second)),
	}}
	key, uid := client.KeyOf(victim), victim.UID
	l.patchStatus(ctx, key, &patch)
	err := l.cfg.Client.Delete(ctx, l.pods, key, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &uid}})
	switch {
	case err == nil:
		l.events.Eventf(victim, corev1.EventTypeNormal, "Preempted", "Preempted by pod %s on node %s", by, node)
	case !apierrors.IsNotFound(err) && ctx.Err() == nil:
		l.cfg.Log.Warn("a pod could not be preempted", "pod", key, "error", err)
	}
}
