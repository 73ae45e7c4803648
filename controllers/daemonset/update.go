package daemonset

import (
	"slices"

	corev1 "k8s.io/api/core/v1"

	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/api/equality"

	"proa/controllers/history"
	"proa/controllers/pods"
	"proa/reconcile"
)

// split finds a node's pod of an older template and the one of the present.
func (s *set) split(n place) (old, fresh *corev1.Pod) {
	for _, p := range n.pods {
		switch {
		case p.DeletionTimestamp != nil:
		case p.Labels[history.HashLabel] == s.hash:
			fresh = p
		default:
			old = p
		}
	}
	return old, fresh
}

func (s *set) available(p *corev1.Pod) bool {
	if p == nil || p.DeletionTimestamp != nil {
		return false
	}
	ok, wait := pods.Available(p, s.Spec.MinReadySeconds, s.now)
	s.wait = pods.Sooner(s.wait, wait)
	return ok
}

// update takes the next step of a rolling update.
func (s *set) update() {
	if s.surge() > 0 {
		s.updateBySurge()
		return
	}
	room := s.unavailable()
	var candidates []*corev1.Pod
	for _, n := range s.nodes {
		if !n.stay {
			continue
		}
		old, fresh := s.split(n)
		switch {
		case old != nil && !s.available(old):
			s.deleteAll([]*corev1.Pod{old}) // costs nothing
			room--
		case old != nil:
			candidates = append(candidates, old)
		case n.run && !s.available(fresh):
			room--
		}
	}
	s.deleteAll(candidates[:max(min(room, len(candidates)), 0)])
}

// updateBySurge brings the new pod up beside the old one and deletes the old
// one when the new one is available.
func (s *set) updateBySurge() {
	room := s.surge()
	var candidates []place
	for _, n := range s.nodes {
		if !n.run {
			continue
		}
		old, fresh := s.split(n)
		leaving := slices.ContainsFunc(n.pods, func(p *corev1.Pod) bool { return p.DeletionTimestamp != nil })
		switch {
		case old == nil && fresh == nil:
			s.create(n) // the old one is on its way out
		case old == nil:
		case fresh != nil && s.available(fresh):
			s.deleteAll([]*corev1.Pod{old})
		case fresh != nil:
			room--
		case leaving:
		case !s.available(old):
			s.create(n)
		default:
			candidates = append(candidates, n)
		}
	}
	for _, n := range candidates[:max(min(room, len(candidates)), 0)] {
		s.create(n)
	}
}

// status is the write that makes the status what the nodes show, if it is not.
func (s *set) status() []reconcile.Write {
	st := appsv1.DaemonSetStatus{ObservedGeneration: s.Generation, CollisionCount: s.Status.CollisionCount, Conditions: s.Status.Conditions}
	for _, n := range s.nodes {
		alive := slices.DeleteFunc(slices.Clone(n.pods), func(p *corev1.Pod) bool { return p.DeletionTimestamp != nil })
		if !n.run {
			if len(alive) > 0 {
				st.NumberMisscheduled++
			}
			continue
		}
		st.DesiredNumberScheduled++
		if len(alive) == 0 {
			continue
		}
		st.CurrentNumberScheduled++
		if slices.ContainsFunc(alive, pods.Ready) {
			st.NumberReady++
		}
		if slices.ContainsFunc(alive, s.available) {
			st.NumberAvailable++
		}
		if _, fresh := s.split(n); fresh != nil {
			st.UpdatedNumberScheduled++
		}
	}
	st.NumberUnavailable = st.DesiredNumberScheduled - st.NumberAvailable
	if equality.Semantic.DeepEqual(st, s.Status) {
		return nil
	}
	next := s.DeepCopy()
	next.Status = st
	return []reconcile.Write{{Op: reconcile.Update, Object: next, Subresource: "status"}}
}
