// Package statefulset keeps pods with names, volumes and an order of their own:
// made from the lowest ordinal up, removed and updated from the highest down,
// each when those before it are healthy, unless the set asks for Parallel.
package statefulset

import (
	"slices"
	"strconv"
	"strings"
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

// Controller is the StatefulSet controller.
func Controller() reconcile.Controller {
	row := client.Row[appsv1.StatefulSet]()
	return reconcile.Controller{
		Name:    "statefulset-controller",
		Workers: 5,
		Watches: []reconcile.Watch{
			{Resource: row},
			{Resource: client.Row[corev1.Pod](), Keys: own.Wake(row, selects)},
			{Resource: client.Row[appsv1.ControllerRevision](), Keys: own.Wake(row, selects)},
			{Resource: client.Row[corev1.PersistentVolumeClaim](), Keys: ofClaim},
		},
		Decide: Decide,
	}
}

func selects(owner client.Object) labels.Selector {
	return own.Selector(owner.(*appsv1.StatefulSet).Spec.Selector)
}

// ofClaim wakes the set whose pod's claim changed: claims are named
// template-set-ordinal.
func ofClaim(v client.View, e client.Event) []client.Key {
	claim := e.Object()
	var keys []client.Key
	for s := range client.List[appsv1.StatefulSet](v, claim.GetNamespace()) {
		for _, t := range s.Spec.VolumeClaimTemplates {
			if rest, ok := strings.CutPrefix(claim.GetName(), t.Name+"-"); ok && ordinal(s.Name, rest) >= 0 {
				keys = append(keys, client.KeyOf(s))
			}
		}
	}
	return keys
}

// ordinal is a pod's place in a set, by its name; -1 if it has none.
func ordinal(set, pod string) int {
	rest, ok := strings.CutPrefix(pod, set+"-")
	n, err := strconv.Atoi(rest)
	if !ok || err != nil || n < 0 || strconv.Itoa(n) != rest {
		return -1
	}
	return n
}

// set is a StatefulSet with its pods at one moment.
type set struct {
	*appsv1.StatefulSet
	view    client.View
	now     time.Time
	history history.State

	start, replicas int
	slots           []*corev1.Pod // by ordinal from start; nil where there is none
	condemned       []*corev1.Pod // beyond the slots, the highest ordinal first
	current, update *appsv1.ControllerRevision

	wait   time.Duration
	writes []reconcile.Write
	events []reconcile.Event
}

// Decide is the controller's decision.
func Decide(v client.View, now time.Time, key client.Key) reconcile.Plan {
	s := client.Get[appsv1.StatefulSet](v, key.Namespace, key.Name)
	if s == nil || s.DeletionTimestamp != nil {
		return reconcile.Plan{}
	}
	sel, row := own.Selector(s.Spec.Selector), client.Row[appsv1.StatefulSet]()
	mine, claims := own.Claim[*corev1.Pod](v, client.Row[corev1.Pod](), row, s, sel)
	claims = slices.DeleteFunc(claims, func(w reconcile.Write) bool { return ordinal(s.Name, w.Object.GetName()) < 0 })
	if len(claims) > 0 {
		return reconcile.Plan{Writes: claims}
	}
	st := &set{StatefulSet: s, view: v, now: now}
	st.history = history.Of(v, history.Owner{Object: s, Row: row, Selector: sel, Template: &s.Spec.Template,
		Collisions: s.Status.CollisionCount, Collide: st.collide})
	if len(st.history.Writes) > 0 {
		return reconcile.Plan{Writes: st.history.Writes}
	}
	st.sort(mine)
	st.revisions()
	st.writes = st.statusWrite()
	st.step()
	st.writes = append(st.writes, st.trim(mine)...)
	return reconcile.Plan{Writes: st.writes, Events: st.events, After: st.wait, Parallel: !st.ordered()}
}

func (s *set) collide(n *int32) client.Object {
	next := s.DeepCopy()
	next.Status.CollisionCount = n
	return next
}

// sort puts the pods into their slots.
func (s *set) sort(mine []*corev1.Pod) {
	s.replicas = 1
	if s.Spec.Replicas != nil {
		s.replicas = int(*s.Spec.Replicas)
	}
	if s.Spec.Ordinals != nil {
		s.start = int(s.Spec.Ordinals.Start)
	}
	s.slots = make([]*corev1.Pod, s.replicas)
	for _, p := range mine {
		n := ordinal(s.Name, p.Name)
		switch {
		case n < 0:
		case n >= s.start && n < s.start+s.replicas:
			s.slots[n-s.start] = p
		default:
			s.condemned = append(s.condemned, p)
		}
	}
	slices.SortFunc(s.condemned, func(a, b *corev1.Pod) int { return ordinal(s.Name, b.Name) - ordinal(s.Name, a.Name) })
}

// revisions finds the revision that the set comes from and the one it goes to.
func (s *set) revisions() {
	s.update = s.history.Current
	s.current = s.update
	for _, r := range s.history.Old {
		if r.Name == s.Status.CurrentRevision {
			s.current = r
		}
	}
}

func (s *set) ordered() bool { return s.Spec.PodManagementPolicy != appsv1.ParallelPodManagement }

func (s *set) trim(mine []*corev1.Pod) []reconcile.Write {
	return s.history.Trim(s.Spec.RevisionHistoryLimit, func(r *appsv1.ControllerRevision) bool {
		return r.Name == s.current.Name || slices.ContainsFunc(mine, func(p *corev1.Pod) bool { return revisionOf(p) == r.Name })
	})
}

func revisionOf(p *corev1.Pod) string { return p.Labels[appsv1.StatefulSetRevisionLabel] }

func running(p *corev1.Pod) bool { return p.Status.Phase == corev1.PodRunning && pods.Ready(p) }

// healthy tells whether a pod is available and not on its way out.
func (s *set) healthy(p *corev1.Pod) bool {
	if p == nil || p.DeletionTimestamp != nil || !running(p) {
		return false
	}
	ok, wait := pods.Available(p, s.Spec.MinReadySeconds, s.now)
	s.wait = pods.Sooner(s.wait, wait)
	return ok
}

// step does what can be done now: fill the slots, then empty those beyond, then
// update. An ordered set does one thing at a time.
func (s *set) step() {
	for i := range s.slots {
		if !s.fill(i) && s.ordered() {
			return
		}
	}
	for _, p := range s.condemned {
		if !s.remove(p) && s.ordered() {
			return
		}
	}
	if s.Spec.UpdateStrategy.Type != appsv1.OnDeleteStatefulSetStrategyType {
		s.roll()
	}
}

// fill sees to one slot and tells whether it is well.
func (s *set) fill(i int) bool {
	p := s.slots[i]
	switch {
	case p == nil:
		s.create(s.start + i)
		return false
	case p.DeletionTimestamp != nil:
		return false
	case pods.Finished(p):
		s.events = append(s.events, reconcile.Warning(s.StatefulSet, "RecreatingFailedPod",
			"StatefulSet "+s.Namespace+"/"+s.Name+" is recreating failed Pod "+p.Name))
		s.delete(p)
		return false
	}
	s.keepClaims(p, false)
	s.keepIdentity(p, s.start+i)
	return s.healthy(p)
}

// remove deletes a pod beyond the slots. An ordered set waits for one that is
// going, and with one that is not healthy while a lower one is not either.
func (s *set) remove(p *corev1.Pod) bool {
	if p.DeletionTimestamp != nil {
		return false
	}
	if s.ordered() && !s.healthy(p) && s.lowestSick() != p {
		return false
	}
	s.keepClaims(p, true)
	s.delete(p)
	return false
}

func (s *set) lowestSick() *corev1.Pod {
	for i := len(s.condemned) - 1; i >= 0; i-- {
		if !s.healthy(s.condemned[i]) {
			return s.condemned[i]
		}
	}
	return nil
}

// roll replaces pods of another revision from the highest ordinal down to the
// partition, as many at a time as may be unavailable.
func (s *set) roll() {
	partition, most := s.bounds()
	room := most
	for _, p := range s.slots {
		if !s.healthy(p) {
			room--
		}
	}
	for i := len(s.slots) - 1; i >= partition; i-- {
		p := s.slots[i]
		switch {
		case p == nil || p.DeletionTimestamp != nil || revisionOf(p) == s.update.Name:
			if most == 1 && !s.healthy(p) {
				return
			}
		case s.healthy(p) && room <= 0:
			return
		default:
			if s.healthy(p) {
				room--
			}
			s.delete(p)
			if most == 1 {
				return
			}
		}
	}
}

// bounds are the index from which pods are updated, and how many may be
// unavailable; percentages round up.
func (s *set) bounds() (partition, most int) {
	most = 1
	ru := s.Spec.UpdateStrategy.RollingUpdate
	if ru == nil {
		return 0, most
	}
	if ru.Partition != nil {
		partition = min(int(*ru.Partition), len(s.slots))
	}
	if ru.MaxUnavailable != nil {
		if n, err := intstr.GetScaledValueFromIntOrPercent(ru.MaxUnavailable, s.replicas, true); err == nil {
			most = max(n, 1)
		}
	}
	return partition, most
}

// statusWrite is the write that makes the status what the pods show.
func (s *set) statusWrite() []reconcile.Write {
	st := appsv1.StatefulSetStatus{
		ObservedGeneration: s.Generation, CollisionCount: s.Status.CollisionCount, Conditions: s.Status.Conditions,
		CurrentRevision: s.current.Name, UpdateRevision: s.update.Name,
	}
	if st.CollisionCount == nil {
		st.CollisionCount = new(int32)
	}
	for _, p := range slices.Concat(s.slots, s.condemned) {
		if p == nil {
			continue
		}
		st.Replicas++
		if running(p) {
			st.ReadyReplicas++
			if ok, _ := pods.Available(p, s.Spec.MinReadySeconds, s.now); ok {
				st.AvailableReplicas++
			}
		}
		if p.DeletionTimestamp != nil {
			continue
		}
		if revisionOf(p) == s.current.Name {
			st.CurrentReplicas++
		}
		if revisionOf(p) == s.update.Name {
			st.UpdatedReplicas++
		}
	}
	if s.Spec.UpdateStrategy.Type != appsv1.OnDeleteStatefulSetStrategyType &&
		int(st.UpdatedReplicas) == s.replicas && st.ReadyReplicas == st.Replicas && int(st.Replicas) == s.replicas {
		st.CurrentRevision, st.CurrentReplicas = st.UpdateRevision, st.UpdatedReplicas
	}
	if equality.Semantic.DeepEqual(st, s.Status) {
		return nil
	}
	next := s.DeepCopy()
	next.Status = st
	return []reconcile.Write{{Op: reconcile.Update, Object: next, Subresource: "status"}}
}
