package node

import (
	"cmp"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"proa/client"
	"proa/controllers/pods"
	"proa/reconcile"
)

const (
	// quarantine is how long a node must be gone before its pods are removed.
	quarantine = 40 * time.Second
	// mostFinished is how many finished pods are kept.
	mostFinished = 12500
)

// overflow is the key that stands for all finished pods.
var overflow = client.Key{}

// PodGC removes pods that nobody will finish: those of nodes that are gone, of
// nodes that are out of service, those being deleted that no node ever had, and
// the oldest of too many finished ones.
func PodGC() reconcile.Controller {
	h := &heard{}
	return reconcile.Controller{
		Name: "pod-garbage-collector-controller",
		Watches: []reconcile.Watch{
			{Resource: client.Row[corev1.Pod](), Keys: h.onPod},
			{Resource: client.Row[corev1.Node](), Keys: h.onNodeGone},
		},
		Decide: func(v client.View, now time.Time, key client.Key) reconcile.Plan {
			if key == overflow {
				return trim(v)
			}
			p := client.Get[corev1.Pod](v, key.Namespace, key.Name)
			if p == nil {
				return reconcile.Plan{}
			}
			return decidePod(v, now, p, h.since(p.Spec.NodeName, now))
		},
	}
}

// onPod wakes pods that may need care; a pod of a node that is not there notes
// when that was first seen.
func (h *heard) onPod(v client.View, e client.Event) []client.Key {
	p, _ := e.New.(*corev1.Pod)
	if p == nil {
		return nil
	}
	var keys []client.Key
	if pods.Finished(p) {
		keys = append(keys, overflow)
	}
	missing := p.Spec.NodeName != "" && client.Get[corev1.Node](v, "", p.Spec.NodeName) == nil
	if missing && h.since(p.Spec.NodeName, time.Time{}).IsZero() {
		h.note(p.Spec.NodeName)
	}
	if missing || p.DeletionTimestamp != nil {
		keys = append(keys, client.KeyOf(p))
	}
	return keys
}

func (h *heard) onNodeGone(v client.View, e client.Event) []client.Key {
	n := e.Object().(*corev1.Node)
	if e.New != nil {
		h.forget(n.Name)
		if !outOfService(n) {
			return nil
		}
	} else {
		h.note(n.Name)
	}
	var keys []client.Key
	for p := range client.Index[corev1.Pod](v, "nodeName", n.Name) {
		keys = append(keys, client.KeyOf(p))
	}
	return keys
}

func outOfService(n *corev1.Node) bool {
	return readiness(n) != corev1.ConditionTrue &&
		slices.ContainsFunc(n.Spec.Taints, func(t corev1.Taint) bool { return t.Key == corev1.TaintNodeOutOfService })
}

// decidePod looks at one pod, whose node, if it is gone, is so since some time.
func decidePod(v client.View, now time.Time, p *corev1.Pod, gone time.Time) reconcile.Plan {
	if p.Spec.NodeName == "" {
		if p.DeletionTimestamp != nil {
			return remove(p, "")
		}
		return reconcile.Plan{}
	}
	n := client.Get[corev1.Node](v, "", p.Spec.NodeName)
	switch {
	case n != nil && outOfService(n) && p.DeletionTimestamp != nil:
		return remove(p, "PodGC: node is out of service")
	case n != nil:
		return reconcile.Plan{}
	}
	if left := gone.Add(quarantine).Sub(now); left > 0 {
		return reconcile.Plan{After: left}
	}
	return remove(p, "PodGC: node no longer exists")
}

// remove deletes a pod without waiting for anybody. One that was not finished
// is failed first, so that who counts on it learns why.
func remove(p *corev1.Pod, why string) reconcile.Plan {
	var plan reconcile.Plan
	if why != "" && !pods.Finished(p) {
		next := p.DeepCopy()
		next.Status.Phase = corev1.PodFailed
		disrupt(next, "DeletionByPodGC", why)
		plan.Writes = append(plan.Writes, reconcile.Write{Op: reconcile.Update, Object: next, Subresource: "status", Optional: true})
	}
	now := int64(0)
	plan.Writes = append(plan.Writes, reconcile.Write{Op: reconcile.Delete, Object: p, Delete: metav1.DeleteOptions{GracePeriodSeconds: &now}})
	return plan
}

// trim deletes the oldest finished pods beyond the limit.
func trim(v client.View) reconcile.Plan {
	var finished []*corev1.Pod
	for p := range client.List[corev1.Pod](v, "") {
		if pods.Finished(p) && p.DeletionTimestamp == nil {
			finished = append(finished, p)
		}
	}
	surplus := len(finished) - mostFinished
	if surplus <= 0 {
		return reconcile.Plan{}
	}
	slices.SortFunc(finished, func(a, b *corev1.Pod) int {
		return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.Name, b.Name))
	})
	plan := reconcile.Plan{Parallel: true}
	for _, p := range finished[:surplus] {
		plan.Writes = append(plan.Writes, reconcile.Write{Op: reconcile.Delete, Object: p})
	}
	return plan
}
