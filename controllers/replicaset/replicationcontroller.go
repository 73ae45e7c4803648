package replicaset

import (
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"

	"proa/client"
	"proa/controllers/own"
	"proa/reconcile"
)

// ReplicationController is the controller of the older kind, which differs only
// in names.
func ReplicationController() reconcile.Controller {
	row := client.Row[corev1.ReplicationController]()
	return reconcile.Controller{
		Name:    "replication-controller",
		Workers: 5,
		Watches: []reconcile.Watch{
			{Resource: row},
			{Resource: client.Row[corev1.Pod](), Keys: own.Wake(row, func(owner client.Object) labels.Selector {
				return labels.SelectorFromSet(owner.(*corev1.ReplicationController).Spec.Selector)
			})},
		},
		Decide: DecideReplicationController,
	}
}

// DecideReplicationController is the ReplicationController's decision.
func DecideReplicationController(v client.View, now time.Time, key client.Key) reconcile.Plan {
	rc := client.Get[corev1.ReplicationController](v, key.Namespace, key.Name)
	if rc == nil || rc.Spec.Template == nil {
		return reconcile.Plan{}
	}
	t := target{
		Object:   rc,
		row:      client.Row[corev1.ReplicationController](),
		selector: labels.SelectorFromSet(rc.Spec.Selector),
		replicas: orOne(rc.Spec.Replicas),
		minReady: rc.Spec.MinReadySeconds,
		template: rc.Spec.Template,
		status:   asReplicaSetStatus(rc.Status),
		withStatus: func(s appsv1.ReplicaSetStatus) client.Object {
			next := rc.DeepCopy()
			next.Status = asReplicationControllerStatus(s)
			return next
		},
	}
	return t.decide(v, now)
}

func asReplicaSetStatus(s corev1.ReplicationControllerStatus) appsv1.ReplicaSetStatus {
	out := appsv1.ReplicaSetStatus{
		Replicas: s.Replicas, FullyLabeledReplicas: s.FullyLabeledReplicas, ReadyReplicas: s.ReadyReplicas,
		AvailableReplicas: s.AvailableReplicas, ObservedGeneration: s.ObservedGeneration,
	}
	for _, c := range s.Conditions {
		out.Conditions = append(out.Conditions, appsv1.ReplicaSetCondition{
			Type: appsv1.ReplicaSetConditionType(c.Type), Status: c.Status,
			LastTransitionTime: c.LastTransitionTime, Reason: c.Reason, Message: c.Message,
		})
	}
	return out
}

func asReplicationControllerStatus(s appsv1.ReplicaSetStatus) corev1.ReplicationControllerStatus {
	out := corev1.ReplicationControllerStatus{
		Replicas: s.Replicas, FullyLabeledReplicas: s.FullyLabeledReplicas, ReadyReplicas: s.ReadyReplicas,
		AvailableReplicas: s.AvailableReplicas, ObservedGeneration: s.ObservedGeneration,
	}
	for _, c := range s.Conditions {
		out.Conditions = append(out.Conditions, corev1.ReplicationControllerCondition{
			Type: corev1.ReplicationControllerConditionType(c.Type), Status: c.Status,
			LastTransitionTime: c.LastTransitionTime, Reason: c.Reason, Message: c.Message,
		})
	}
	return out
}
