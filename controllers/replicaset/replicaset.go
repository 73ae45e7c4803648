// Package replicaset keeps as many pods of a template as a ReplicaSet, or a
// ReplicationController, asks for.
package replicaset

import (
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"proa/api"
	"proa/client"
	"proa/controllers/own"
	"proa/controllers/pods"
	"proa/reconcile"
)

// burst is how many pods one decision makes or deletes at most.
const burst = 500

// Controller is the ReplicaSet controller.
func Controller() reconcile.Controller {
	row := client.Row[appsv1.ReplicaSet]()
	return reconcile.Controller{
		Name:    "replicaset-controller",
		Workers: 5,
		Watches: []reconcile.Watch{
			{Resource: row},
			{Resource: client.Row[corev1.Pod](), Keys: own.Wake(row, selects)},
		},
		Decide: Decide,
	}
}

func selects(owner client.Object) labels.Selector {
	return own.Selector(owner.(*appsv1.ReplicaSet).Spec.Selector)
}

// Decide is the ReplicaSet controller's decision.
func Decide(v client.View, now time.Time, key client.Key) reconcile.Plan {
	rs := client.Get[appsv1.ReplicaSet](v, key.Namespace, key.Name)
	if rs == nil {
		return reconcile.Plan{}
	}
	t := target{
		Object:   rs,
		row:      client.Row[appsv1.ReplicaSet](),
		selector: own.Selector(rs.Spec.Selector),
		replicas: orOne(rs.Spec.Replicas),
		minReady: rs.Spec.MinReadySeconds,
		template: &rs.Spec.Template,
		status:   rs.Status,

		terminating: true,
		withStatus: func(s appsv1.ReplicaSetStatus) client.Object {
			next := rs.DeepCopy()
			next.Status = s
			return next
		},
	}
	return t.decide(v, now)
}

func orOne(n *int32) int {
	if n == nil {
		return 1
	}
	return int(*n)
}

// target is what the two kinds have in common.
type target struct {
	client.Object
	row      *api.Resource
	selector labels.Selector
	replicas int
	minReady int32
	template *corev1.PodTemplateSpec
	status   appsv1.ReplicaSetStatus
	// terminating says that the kind's status counts terminating pods.
	terminating bool
	withStatus  func(appsv1.ReplicaSetStatus) client.Object
}

func (t *target) decide(v client.View, now time.Time) reconcile.Plan {
	mine, claims := own.Claim[*corev1.Pod](v, client.Row[corev1.Pod](), t.row, t, t.selector)
	if len(claims) > 0 {
		return reconcile.Plan{Writes: claims, Parallel: true}
	}
	active := pods.Filter(mine, pods.Active)
	status, wait := t.observe(mine, active, now)
	if t.GetDeletionTimestamp() == nil {
		if plan := t.scale(v, active, status, now); len(plan.Writes) > 0 {
			return plan // what it brings decides the status
		}
	}
	return reconcile.Plan{Writes: t.statusWrite(status), After: wait}
}

// scale makes or deletes pods until there are as many as asked for.
func (t *target) scale(v client.View, active []*corev1.Pod, status appsv1.ReplicaSetStatus, now time.Time) reconcile.Plan {
	plan := reconcile.Plan{Parallel: true}
	for range min(t.replicas-len(active), burst) {
		failed := t.failure(status, "FailedCreate", now)
		plan.Writes = append(plan.Writes, pods.Creation(t.Object, pods.FromTemplate(t.row, t.Object, t.template), failed))
	}
	if surplus := min(len(active)-t.replicas, burst); surplus > 0 {
		for _, p := range pods.Victims(active, t.related(v), surplus, now) {
			plan.Writes = append(plan.Writes, pods.Deletion(t.Object, p, t.failure(status, "FailedDelete", now)))
		}
	}
	return plan
}

// related are the pods of all sets that have the same controller, those of a
// Deployment's other ReplicaSets, say.
func (t *target) related(v client.View) []*corev1.Pod {
	row := client.Row[corev1.Pod]()
	ref := metav1.GetControllerOfNoCopy(t.Object)
	if ref == nil {
		return own.Of[*corev1.Pod](v, row, t.Object)
	}
	var all []*corev1.Pod
	for set := range v.Index(t.row, "ownerUID", string(ref.UID)) {
		all = append(all, own.Of[*corev1.Pod](v, row, set)...)
	}
	return all
}
