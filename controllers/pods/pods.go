// Package pods is what controllers ask of pods: whether one is active, ready,
// available, which of several to delete first, and how one is made from a
// template.
package pods

import (
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"proa/api"
	"proa/client"
	"proa/controllers/own"
	"proa/reconcile"
)

// Finished tells whether the pod has run to its end.
func Finished(p *corev1.Pod) bool {
	return p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed
}

// Active tells whether the pod counts as a replica: it is not being deleted and
// has not run to its end.
func Active(p *corev1.Pod) bool { return p.DeletionTimestamp == nil && !Finished(p) }

// Terminating tells whether the pod is being deleted and not yet finished.
func Terminating(p *corev1.Pod) bool { return p.DeletionTimestamp != nil && !Finished(p) }

// Condition finds a condition, or nil.
func Condition(p *corev1.Pod, t corev1.PodConditionType) *corev1.PodCondition {
	for i := range p.Status.Conditions {
		if p.Status.Conditions[i].Type == t {
			return &p.Status.Conditions[i]
		}
	}
	return nil
}

// Ready tells whether the pod's Ready condition is true.
func Ready(p *corev1.Pod) bool {
	c := Condition(p, corev1.PodReady)
	return c != nil && c.Status == corev1.ConditionTrue
}

// Available tells whether the pod has been ready for minReadySeconds; wait is
// the time after which a ready pod will be, if nothing happens to it.
func Available(p *corev1.Pod, minReadySeconds int32, now time.Time) (available bool, wait time.Duration) {
	c := Condition(p, corev1.PodReady)
	if c == nil || c.Status != corev1.ConditionTrue {
		return false, 0
	}
	wait = c.LastTransitionTime.Add(time.Duration(minReadySeconds) * time.Second).Sub(now)
	if minReadySeconds <= 0 || wait <= 0 && !c.LastTransitionTime.IsZero() {
		return true, 0
	}
	return false, max(wait, 0)
}

// Sooner is the smaller of two waits, where 0 is for ever.
func Sooner(a, b time.Duration) time.Duration {
	if a == 0 || b != 0 && b < a {
		return b
	}
	return a
}

// FromTemplate makes a pod that owner controls. Its name is generated.
func FromTemplate(ownerRow *api.Resource, owner client.Object, t *corev1.PodTemplateSpec) *corev1.Pod {
	t = t.DeepCopy()
	prefix := owner.GetName() + "-"
	if len(apivalidation.NameIsDNSSubdomain(prefix, true)) > 0 {
		prefix = owner.GetName()
	}
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace:       owner.GetNamespace(),
			GenerateName:    prefix,
			Labels:          t.Labels,
			Annotations:     t.Annotations,
			Finalizers:      t.Finalizers,
			OwnerReferences: []metav1.OwnerReference{*own.Ref(ownerRow, owner)},
		},
		Spec: t.Spec,
	}
}

// Creation is the write that makes a pod, and its Events about owner. failed,
// if not nil, adds a write for when it fails.
func Creation(owner client.Object, pod *corev1.Pod, failed func(error) []reconcile.Write) reconcile.Write {
	return reconcile.Write{
		Op:     reconcile.Create,
		Object: pod,
		OnDone: func(made client.Object) []reconcile.Event {
			return []reconcile.Event{reconcile.Normal(owner, "SuccessfulCreate", "Created pod: "+made.GetName())}
		},
		OnError: report(owner, "FailedCreate", "Error creating: ", failed),
	}
}

// Deletion is the write that deletes a pod, and its Events about owner.
func Deletion(owner client.Object, pod *corev1.Pod, failed func(error) []reconcile.Write) reconcile.Write {
	return reconcile.Write{
		Op:     reconcile.Delete,
		Object: pod,
		OnDone: func(client.Object) []reconcile.Event {
			return []reconcile.Event{reconcile.Normal(owner, "SuccessfulDelete", "Deleted pod: "+pod.Name)}
		},
		OnError: report(owner, "FailedDelete", "Error deleting: ", failed),
	}
}

func report(owner client.Object, reason, prefix string, failed func(error) []reconcile.Write) func(error) reconcile.Plan {
	return func(err error) reconcile.Plan {
		plan := reconcile.Plan{Events: []reconcile.Event{reconcile.Warning(owner, reason, prefix+err.Error())}}
		if failed != nil {
			plan.Writes = failed(err)
		}
		return plan
	}
}

// Filter returns those that keep says yes to, in a slice of their own.
func Filter(list []*corev1.Pod, keep func(*corev1.Pod) bool) []*corev1.Pod {
	return slices.DeleteFunc(slices.Clone(list), func(p *corev1.Pod) bool { return !keep(p) })
}

// Restarts is the highest restart count among the pod's containers, and among
// its restartable init containers (sidecars).
func Restarts(p *corev1.Pod) (containers, sidecars int32) {
	for _, s := range p.Status.ContainerStatuses {
		containers = max(containers, s.RestartCount)
	}
	for _, c := range p.Spec.InitContainers {
		if c.RestartPolicy == nil || *c.RestartPolicy != corev1.ContainerRestartPolicyAlways {
			continue
		}
		for _, s := range p.Status.InitContainerStatuses {
			if s.Name == c.Name {
				sidecars = max(sidecars, s.RestartCount)
			}
		}
	}
	return containers, sidecars
}
