package disruption

import (
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"proa/client"
	"proa/controllers/pods"
	"proa/reconcile"
)

// Stale takes the condition DisruptionTarget back from pods that were to be ended
// and were not deleted within two minutes (KEP-3329). What a kubelet says of a pod
// that it ends stands.
func Stale() reconcile.Controller {
	return reconcile.Controller{
		Name:    "stale-pod-disruption-controller",
		Source:  "controllermanager",
		Watches: []reconcile.Watch{{Resource: client.Row[corev1.Pod](), Keys: targeted}},
		Decide:  decideStale,
	}
}

func targeted(_ client.View, e client.Event) []client.Key {
	if p, there := e.New.(*corev1.Pod); there && target(p) != nil {
		return []client.Key{client.KeyOf(p)}
	}
	return nil
}

// target is the condition of a pod that may go stale, or nil.
func target(p *corev1.Pod) *corev1.PodCondition {
	c := pods.Condition(p, corev1.DisruptionTarget)
	if c == nil || c.Status != corev1.ConditionTrue || c.Reason == corev1.PodReasonTerminationByKubelet || !pods.Active(p) {
		return nil
	}
	return c
}

func decideStale(v client.View, now time.Time, key client.Key) reconcile.Plan {
	p := client.Get[corev1.Pod](v, key.Namespace, key.Name)
	if p == nil || target(p) == nil {
		return reconcile.Plan{}
	}
	if left := target(p).LastTransitionTime.Add(evictionTime).Sub(now); left > 0 {
		return reconcile.Plan{After: left}
	}
	next := p.DeepCopy()
	c := target(next)
	c.Status, c.LastTransitionTime = corev1.ConditionFalse, metav1.NewTime(now)
	return reconcile.Plan{Writes: []reconcile.Write{{Op: reconcile.Update, Object: next, Subresource: "status"}}}
}
