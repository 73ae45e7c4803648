package node

import (
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/klog/v2"

	"proa/client"
	"proa/controllers/pods"
	"proa/reconcile"
)

// Evictor deletes pods that do not tolerate a NoExecute taint of their node, or
// not for longer than they have.
func Evictor() reconcile.Controller {
	h := &heard{}
	return reconcile.Controller{
		Name:    "taint-eviction-controller",
		Workers: 4,
		Watches: []reconcile.Watch{
			{Resource: client.Row[corev1.Pod](), Keys: onTaintedNode},
			{Resource: client.Row[corev1.Node](), Keys: h.podsOfTainted},
		},
		Decide: func(v client.View, now time.Time, key client.Key) reconcile.Plan {
			p := client.Get[corev1.Pod](v, key.Namespace, key.Name)
			if p == nil || p.DeletionTimestamp != nil || pods.Finished(p) {
				return reconcile.Plan{}
			}
			n := client.Get[corev1.Node](v, "", p.Spec.NodeName)
			if n == nil {
				return reconcile.Plan{}
			}
			return decideEviction(p, n, now, h.since(n.Name, now))
		},
	}
}

func onTaintedNode(v client.View, e client.Event) []client.Key {
	p, _ := e.New.(*corev1.Pod)
	if p == nil || p.Spec.NodeName == "" {
		return nil
	}
	n := client.Get[corev1.Node](v, "", p.Spec.NodeName)
	if n == nil || len(executing(n)) == 0 {
		return nil
	}
	return []client.Key{client.KeyOf(p)}
}

// podsOfTainted wakes a node's pods when its NoExecute taints change, and notes
// when it got the first: the times in the taints go on while a machine sleeps.
func (h *heard) podsOfTainted(v client.View, e client.Event) []client.Key {
	was, _ := e.Old.(*corev1.Node)
	is, _ := e.New.(*corev1.Node)
	switch {
	case is == nil:
		h.forget(was.Name)
		return nil
	case sameTaints(executing(was), executing(is)):
		return nil
	case len(executing(is)) == 0:
		h.forget(is.Name)
	case len(executing(was)) == 0:
		h.note(is.Name)
	}
	var keys []client.Key
	for p := range client.Index[corev1.Pod](v, "nodeName", is.Name) {
		keys = append(keys, client.KeyOf(p))
	}
	return keys
}

// executing are a node's NoExecute taints.
func executing(n *corev1.Node) []corev1.Taint {
	var out []corev1.Taint
	if n != nil {
		for _, t := range n.Spec.Taints {
			if t.Effect == corev1.TaintEffectNoExecute {
				out = append(out, t)
			}
		}
	}
	return out
}

// decideEviction: a pod stays while it tolerates every NoExecute taint; where
// tolerations are limited, for the shortest of them, counted from when the node
// was first seen tainted.
func decideEviction(p *corev1.Pod, n *corev1.Node, now, tainted time.Time) reconcile.Plan {
	taints := executing(n)
	if len(taints) == 0 {
		return reconcile.Plan{}
	}
	shortest := time.Duration(-1)
	for _, t := range taints {
		limit, tolerated := toleration(p, t)
		if !tolerated {
			return evict(p)
		}
		if limit >= 0 && (shortest < 0 || limit < shortest) {
			shortest = limit
		}
	}
	if shortest < 0 {
		return reconcile.Plan{}
	}
	if left := tainted.Add(shortest).Sub(now); left > 0 {
		return reconcile.Plan{After: left}
	}
	return evict(p)
}

// toleration is for how long a pod tolerates a taint; negative is for ever.
func toleration(p *corev1.Pod, t corev1.Taint) (limit time.Duration, tolerated bool) {
	limit = -1
	for i := range p.Spec.Tolerations {
		tol := &p.Spec.Tolerations[i]
		if !tol.ToleratesTaint(klog.Background(), &t, true) {
			continue
		}
		tolerated = true
		if s := tol.TolerationSeconds; s != nil {
			d := time.Duration(max(*s, 0)) * time.Second
			if limit < 0 || d < limit {
				limit = d
			}
		}
	}
	return limit, tolerated
}

func evict(p *corev1.Pod) reconcile.Plan {
	next := p.DeepCopy()
	disrupt(next, "DeletionByTaintManager", "Taint manager: deleting due to NoExecute taint")
	return reconcile.Plan{
		Writes: []reconcile.Write{
			{Op: reconcile.Update, Object: next, Subresource: "status", Optional: true},
			{Op: reconcile.Delete, Object: p},
		},
		Events: []reconcile.Event{reconcile.Normal(p, "TaintManagerEviction", fmt.Sprintf("Marking for deletion Pod %s/%s", p.Namespace, p.Name))},
	}
}

// disrupt sets the condition that tells that a pod was ended from outside
// (KEP-3329).
func disrupt(p *corev1.Pod, reason, message string) {
	c := corev1.PodCondition{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: reason, Message: message, LastTransitionTime: metav1.Now()}
	if old := pods.Condition(p, corev1.DisruptionTarget); old != nil {
		*old = c
		return
	}
	p.Status.Conditions = append(p.Status.Conditions, c)
}
