// Package node watches over nodes: it marks those that fell silent, taints them,
// evicts pods that do not tolerate the taints, removes pods that no node will
// ever finish, and gives nodes their pod ranges.
//
// A node is silent when neither its lease nor its status has changed for 50 s
// of the time that this process was awake: a laptop that was suspended, or a
// control plane that was down, finds its nodes as it left them.
package node

import (
	"fmt"
	"slices"
	"sync"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"proa/client"
	"proa/controllers/pods"
	"proa/reconcile"
)

// grace is how long a node may be silent.
const grace = 50 * time.Second

// heard is when each name was last heard of, on the clock that stops while the
// machine sleeps. It is what has been observed, an input of decisions beside
// the view.
type heard struct {
	mu sync.Mutex
	at map[string]time.Time
}

func (h *heard) note(name string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.at == nil {
		h.at = map[string]time.Time{}
	}
	h.at[name] = time.Now()
}

func (h *heard) forget(name string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.at, name)
}

// since is when a name was last heard of; of one that never was, now.
func (h *heard) since(name string, now time.Time) time.Time {
	h.mu.Lock()
	defer h.mu.Unlock()
	if t, ok := h.at[name]; ok {
		return t
	}
	return now
}

// Lifecycle marks and taints nodes.
func Lifecycle() reconcile.Controller {
	h := &heard{}
	return reconcile.Controller{
		Name:    "node-controller",
		Workers: 4,
		Watches: []reconcile.Watch{
			{Resource: client.Row[corev1.Node](), Keys: h.onNode},
			{Resource: client.Row[coordinationv1.Lease](), Keys: h.onLease},
		},
		Decide: func(v client.View, now time.Time, key client.Key) reconcile.Plan {
			return decideHealth(v, now, key.Name, h.since(key.Name, now))
		},
	}
}

func (h *heard) onLease(_ client.View, e client.Event) []client.Key {
	lease, _ := e.New.(*coordinationv1.Lease)
	if lease == nil || lease.Namespace != corev1.NamespaceNodeLease {
		return nil
	}
	old, _ := e.Old.(*coordinationv1.Lease)
	if old != nil && old.Spec.RenewTime.Equal(lease.Spec.RenewTime) {
		return nil
	}
	h.note(lease.Name)
	return nil // news of health need no decision: the next is due when they end
}

// onNode wakes a node that changed, and all of them when its readiness did.
func (h *heard) onNode(v client.View, e client.Event) []client.Key {
	was, _ := e.Old.(*corev1.Node)
	is, _ := e.New.(*corev1.Node)
	if is == nil {
		h.forget(was.Name)
	} else if was == nil || heartbeat(was) != heartbeat(is) || speaks(is) && !speaks(was) {
		h.note(is.Name)
	}
	if readiness(was) == readiness(is) {
		return []client.Key{client.KeyOf(e.Object())}
	}
	var keys []client.Key
	for n := range client.List[corev1.Node](v, "") {
		keys = append(keys, client.KeyOf(n))
	}
	return keys
}

// speaks tells whether what a node last said of itself still stands: only this
// controller sets Unknown.
func speaks(n *corev1.Node) bool { return readiness(n) != corev1.ConditionUnknown }

// heartbeat is the newest time that the kubelet says of itself.
func heartbeat(n *corev1.Node) (newest int64) {
	for _, c := range n.Status.Conditions {
		if c.Status != corev1.ConditionUnknown {
			newest = max(newest, c.LastHeartbeatTime.Unix())
		}
	}
	return newest
}

func condition(n *corev1.Node, t corev1.NodeConditionType) *corev1.NodeCondition {
	for i := range n.Status.Conditions {
		if n.Status.Conditions[i].Type == t {
			return &n.Status.Conditions[i]
		}
	}
	return nil
}

// readiness is the status of the Ready condition; Unknown where there is none.
func readiness(n *corev1.Node) corev1.ConditionStatus {
	if n == nil {
		return ""
	}
	if c := condition(n, corev1.NodeReady); c != nil {
		return c.Status
	}
	return corev1.ConditionUnknown
}

// decideHealth looks at one node, last heard of at some time.
func decideHealth(v client.View, now time.Time, name string, last time.Time) reconcile.Plan {
	n := client.Get[corev1.Node](v, "", name)
	if n == nil || n.DeletionTimestamp != nil {
		return reconcile.Plan{}
	}
	left := last.Add(grace).Sub(now)
	if left <= 0 {
		if plan := markSilent(v, n, now); len(plan.Writes) > 0 {
			return plan
		}
	}
	plan := reconcile.Plan{After: max(left, 0)}
	if want := taintsFor(v, n, now); !sameTaints(n.Spec.Taints, want) {
		next := n.DeepCopy()
		next.Spec.Taints = want
		plan.Writes = append(plan.Writes, reconcile.Write{Op: reconcile.Update, Object: next})
	}
	if readiness(n) != corev1.ConditionTrue {
		plan.Writes = append(plan.Writes, unreadyPods(v, n, now)...)
	}
	return plan
}

// reported are the conditions that a kubelet reports.
var reported = []corev1.NodeConditionType{corev1.NodeReady, corev1.NodeMemoryPressure, corev1.NodeDiskPressure, corev1.NodePIDPressure}

// markSilent makes what a silent node last said Unknown.
func markSilent(v client.View, n *corev1.Node, now time.Time) reconcile.Plan {
	next := n.DeepCopy()
	changed := false
	for _, t := range reported {
		c := condition(next, t)
		switch {
		case c == nil:
			next.Status.Conditions = append(next.Status.Conditions, corev1.NodeCondition{
				Type: t, Status: corev1.ConditionUnknown, Reason: "NodeStatusNeverUpdated", Message: "Kubelet never posted node status.",
				LastHeartbeatTime: n.CreationTimestamp, LastTransitionTime: metav1.NewTime(now),
			})
		case c.Status != corev1.ConditionUnknown:
			c.Status, c.Reason, c.Message = corev1.ConditionUnknown, "NodeStatusUnknown", "Kubelet stopped posting node status."
			c.LastTransitionTime = metav1.NewTime(now)
		default:
			continue
		}
		changed = true
	}
	if !changed {
		return reconcile.Plan{}
	}
	plan := reconcile.Plan{Writes: []reconcile.Write{{Op: reconcile.Update, Object: next, Subresource: "status"}}}
	if readiness(n) == corev1.ConditionTrue {
		plan.Events = []reconcile.Event{reconcile.Normal(n, "NodeNotReady", fmt.Sprintf("Node %s status is now: NodeNotReady", n.Name))}
	}
	return plan
}

// unreadyPods takes the pods of a node that is not ready out of their Services.
func unreadyPods(v client.View, n *corev1.Node, now time.Time) []reconcile.Write {
	var writes []reconcile.Write
	for p := range client.Index[corev1.Pod](v, "nodeName", n.Name) {
		if !pods.Ready(p) {
			continue
		}
		next := p.DeepCopy()
		c := pods.Condition(next, corev1.PodReady)
		c.Status, c.LastTransitionTime = corev1.ConditionFalse, metav1.NewTime(now)
		writes = append(writes, reconcile.Write{Op: reconcile.Update, Object: next, Subresource: "status", Optional: true,
			OnDone: func(client.Object) []reconcile.Event {
				return []reconcile.Event{reconcile.Warning(p, "NodeNotReady", "Node is not ready")}
			}})
	}
	return writes
}

// managed are the taints that this controller sets and removes.
func managed(t corev1.Taint) bool {
	switch t.Key {
	case corev1.TaintNodeNotReady, corev1.TaintNodeUnreachable:
		return t.Effect == corev1.TaintEffectNoSchedule || t.Effect == corev1.TaintEffectNoExecute
	case corev1.TaintNodeMemoryPressure, corev1.TaintNodeDiskPressure, corev1.TaintNodePIDPressure,
		corev1.TaintNodeNetworkUnavailable, corev1.TaintNodeUnschedulable:
		return t.Effect == corev1.TaintEffectNoSchedule
	}
	return false
}

// taintsFor are the taints that a node should have: others' as they are, and
// those that its conditions ask for.
func taintsFor(v client.View, n *corev1.Node, now time.Time) []corev1.Taint {
	out := slices.DeleteFunc(slices.Clone(n.Spec.Taints), managed)
	add := func(key string, effect corev1.TaintEffect) {
		t := corev1.Taint{Key: key, Effect: effect}
		if effect == corev1.TaintEffectNoExecute {
			at := metav1.NewTime(now)
			t.TimeAdded = &at
		}
		for _, old := range n.Spec.Taints {
			if old.MatchTaint(&t) {
				t = old
			}
		}
		out = append(out, t)
	}
	for key, bad := range map[string]bool{
		corev1.TaintNodeMemoryPressure:     isTrue(n, corev1.NodeMemoryPressure),
		corev1.TaintNodeDiskPressure:       isTrue(n, corev1.NodeDiskPressure),
		corev1.TaintNodePIDPressure:        isTrue(n, corev1.NodePIDPressure),
		corev1.TaintNodeNetworkUnavailable: isTrue(n, corev1.NodeNetworkUnavailable),
		corev1.TaintNodeUnschedulable:      n.Spec.Unschedulable,
	} {
		if bad {
			add(key, corev1.TaintEffectNoSchedule)
		}
	}
	key := map[corev1.ConditionStatus]string{corev1.ConditionFalse: corev1.TaintNodeNotReady, corev1.ConditionUnknown: corev1.TaintNodeUnreachable}[readiness(n)]
	if key != "" {
		add(key, corev1.TaintEffectNoSchedule)
		if !disrupted(v) {
			add(key, corev1.TaintEffectNoExecute)
		}
	}
	return out
}

func isTrue(n *corev1.Node, t corev1.NodeConditionType) bool {
	c := condition(n, t)
	return c != nil && c.Status == corev1.ConditionTrue
}

// disrupted tells whether so many nodes are not ready that the fault is more
// likely the control plane's: all of them, or 55 % and more than two. Then
// nobody is evicted.
func disrupted(v client.View) bool {
	all, bad := 0, 0
	for n := range client.List[corev1.Node](v, "") {
		all++
		if readiness(n) != corev1.ConditionTrue {
			bad++
		}
	}
	return bad == all || bad > 2 && bad*100 >= all*55
}

func sameTaints(a, b []corev1.Taint) bool {
	has := func(list []corev1.Taint, t corev1.Taint) bool {
		return slices.ContainsFunc(list, func(o corev1.Taint) bool { return o.MatchTaint(&t) && o.Value == t.Value })
	}
	return len(a) == len(b) && !slices.ContainsFunc(a, func(t corev1.Taint) bool { return !has(b, t) })
}
