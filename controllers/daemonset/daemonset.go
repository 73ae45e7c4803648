// Package daemonset keeps one pod of a template on every node that it may run
// on, and replaces them a few at a time when the template changes.
package daemonset

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"

	"proa/client"
	"proa/controllers/history"
	"proa/controllers/own"
	"proa/controllers/pods"
	"proa/reconcile"
)

const (
	// burst is how many pods one decision makes or deletes at most.
	burst = 250
	// shortLife is how long a failed pod is kept at least after it was made, so
	// that one that fails at once is not made anew all the time.
	shortLife = 10 * time.Second
)

// Controller is the DaemonSet controller.
func Controller() reconcile.Controller {
	row := client.Row[appsv1.DaemonSet]()
	return reconcile.Controller{
		Name:    "daemonset-controller",
		Workers: 2,
		Watches: []reconcile.Watch{
			{Resource: row},
			{Resource: client.Row[corev1.Pod](), Keys: own.Wake(row, selects)},
			{Resource: client.Row[appsv1.ControllerRevision](), Keys: own.Wake(row, selects)},
			{Resource: client.Row[corev1.Node](), Keys: onNode},
		},
		Decide: Decide,
	}
}

func selects(owner client.Object) labels.Selector {
	return own.Selector(owner.(*appsv1.DaemonSet).Spec.Selector)
}

// onNode wakes all DaemonSets when a node changes in what placement looks at.
func onNode(v client.View, e client.Event) []client.Key {
	was, _ := e.Old.(*corev1.Node)
	is, _ := e.New.(*corev1.Node)
	if was != nil && is != nil && maps.Equal(was.Labels, is.Labels) && equality.Semantic.DeepEqual(was.Spec.Taints, is.Spec.Taints) {
		return nil
	}
	var keys []client.Key
	for ds := range client.List[appsv1.DaemonSet](v, "") {
		keys = append(keys, client.KeyOf(ds))
	}
	return keys
}

// set is a DaemonSet with its pods and nodes at one moment.
type set struct {
	*appsv1.DaemonSet
	now     time.Time
	history history.State
	hash    string
	nodes   []place
	lost    []*corev1.Pod // on no node that is there
	wait    time.Duration
	writes  []reconcile.Write
	events  []reconcile.Event
}

// place is one node with the set's pods on it.
type place struct {
	*corev1.Node
	run, stay bool // a pod should be here; one that is here may stay
	pods      []*corev1.Pod
}

// Decide is the controller's decision.
func Decide(v client.View, now time.Time, key client.Key) reconcile.Plan {
	ds := client.Get[appsv1.DaemonSet](v, key.Namespace, key.Name)
	if ds == nil {
		return reconcile.Plan{}
	}
	sel, row := own.Selector(ds.Spec.Selector), client.Row[appsv1.DaemonSet]()
	mine, claims := own.Claim[*corev1.Pod](v, client.Row[corev1.Pod](), row, ds, sel)
	if len(claims) > 0 || ds.DeletionTimestamp != nil {
		return reconcile.Plan{Writes: claims, Parallel: true}
	}
	s := &set{DaemonSet: ds, now: now}
	s.history = history.Of(v, history.Owner{Object: ds, Row: row, Selector: sel, Template: &ds.Spec.Template,
		Collisions: ds.Status.CollisionCount, Collide: s.collide})
	if len(s.history.Writes) > 0 {
		return reconcile.Plan{Writes: s.history.Writes}
	}
	s.hash = history.Hash(s.history.Current)
	s.place(v, mine)
	s.manage()
	if len(s.writes) == 0 && ds.Spec.UpdateStrategy.Type != appsv1.OnDeleteDaemonSetStrategyType {
		s.update()
	}
	if len(s.writes) > 0 {
		return reconcile.Plan{Writes: s.writes, Events: s.events, Parallel: true}
	}
	return reconcile.Plan{Writes: append(s.status(), s.trim(mine)...), Events: s.events, After: s.wait}
}

func (s *set) collide(n *int32) client.Object {
	next := s.DeepCopy()
	next.Status.CollisionCount = n
	return next
}

func (s *set) trim(mine []*corev1.Pod) []reconcile.Write {
	return s.history.Trim(s.Spec.RevisionHistoryLimit, func(r *appsv1.ControllerRevision) bool {
		return slices.ContainsFunc(mine, func(p *corev1.Pod) bool { return p.Labels[history.HashLabel] == history.Hash(r) })
	})
}

// place sorts the pods onto the nodes.
func (s *set) place(v client.View, mine []*corev1.Pod) {
	on := map[string][]*corev1.Pod{}
	for _, p := range mine {
		if !(p.DeletionTimestamp != nil && pods.Finished(p)) {
			on[nodeOf(p)] = append(on[nodeOf(p)], p)
		}
	}
	for n := range client.List[corev1.Node](v, "") {
		run, stay := fits(&s.Spec.Template, n)
		s.nodes = append(s.nodes, place{Node: n, run: run, stay: stay, pods: on[n.Name]})
		delete(on, n.Name)
	}
	for _, name := range slices.Sorted(maps.Keys(on)) {
		s.lost = append(s.lost, on[name]...)
	}
}

// manage makes pods where there should be one and deletes those that should
// not be.
func (s *set) manage() {
	for _, n := range s.nodes {
		switch {
		case n.run && len(n.pods) == 0:
			s.create(n)
		case !n.stay:
			s.deleteAll(n.pods)
		default:
			s.tidy(n)
		}
	}
	// A pod that waits for a node that is gone will never run. One that a node
	// had is the pod garbage collector's.
	for _, p := range s.lost {
		if p.Spec.NodeName == "" {
			s.deleteAll([]*corev1.Pod{p})
		}
	}
}

// tidy replaces a node's finished pods and deletes all but the oldest of each
// template.
func (s *set) tidy(n place) {
	byHash := map[string][]*corev1.Pod{}
	for _, p := range n.pods {
		switch {
		case p.DeletionTimestamp != nil:
		case pods.Finished(p):
			s.replace(n, p)
		default:
			k := ""
			if s.surge() > 0 {
				k = p.Labels[history.HashLabel] // the new one stands beside the old
			}
			byHash[k] = append(byHash[k], p)
		}
	}
	for _, k := range slices.Sorted(maps.Keys(byHash)) {
		list := byHash[k]
		slices.SortFunc(list, func(a, b *corev1.Pod) int {
			return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.Name, b.Name))
		})
		s.deleteAll(list[1:])
	}
}

func (s *set) replace(n place, p *corev1.Pod) {
	if left := p.CreationTimestamp.Add(shortLife).Sub(s.now); left > 0 {
		s.wait = pods.Sooner(s.wait, left)
		return
	}
	what := map[bool][2]string{
		true:  {"FailedDaemonPod", "Found failed daemon pod %s/%s on node %s, will try to kill it"},
		false: {"SucceededDaemonPod", "Found succeeded daemon pod %s/%s on node %s, will try to delete it"},
	}[p.Status.Phase == corev1.PodFailed]
	message := fmt.Sprintf(what[1], p.Namespace, p.Name, n.Name)
	if p.Status.Phase == corev1.PodFailed {
		s.events = append(s.events, reconcile.Warning(s.DaemonSet, what[0], message))
	} else {
		s.events = append(s.events, reconcile.Normal(s.DaemonSet, what[0], message))
	}
	s.deleteAll([]*corev1.Pod{p})
}

// create makes a node's pod. Where that fails the status is written all the same:
// else it would wait for the last of the pods.
func (s *set) create(n place) {
	if len(s.writes) < burst {
		failed := func(error) []reconcile.Write { return s.status() }
		s.writes = append(s.writes, pods.Creation(s.DaemonSet, s.newPod(n.Name), failed))
	}
}

func (s *set) deleteAll(list []*corev1.Pod) {
	for _, p := range list {
		if p.DeletionTimestamp == nil && len(s.writes) < burst {
			s.writes = append(s.writes, pods.Deletion(s.DaemonSet, p, nil))
		}
	}
}

// desired is how many nodes should have a pod.
func (s *set) desired() (n int) {
	for _, p := range s.nodes {
		if p.run {
			n++
		}
	}
	return n
}

// surge and unavailable are the bounds of a rolling update as numbers of nodes;
// percentages round up. One of them is at least 1.
func (s *set) surge() int {
	if s.Spec.UpdateStrategy.RollingUpdate == nil {
		return 0
	}
	return scaled(s.Spec.UpdateStrategy.RollingUpdate.MaxSurge, s.desired())
}

func (s *set) unavailable() int {
	ru := s.Spec.UpdateStrategy.RollingUpdate
	if ru == nil || ru.MaxUnavailable == nil {
		return 1
	}
	n := scaled(ru.MaxUnavailable, s.desired())
	if n == 0 && s.surge() == 0 {
		return 1
	}
	return n
}

func scaled(v *intstr.IntOrString, total int) int {
	if v == nil {
		return 0
	}
	n, err := intstr.GetScaledValueFromIntOrPercent(v, total, true)
	if err != nil {
		return 0 // validation refuses it
	}
	return n
}
