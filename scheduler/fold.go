package scheduler

import (
	"maps"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/labels"

	"proa/client"
)

// change is what some events have altered that may help a pod that waits.
type change struct {
	nodes   map[*node]bool // new, altered, or with fewer pods
	pods    bool           // some pod is on another node than before
	volumes bool           // claims, volumes, classes
}

func (c *change) node(n *node) {
	if c.nodes == nil {
		c.nodes = map[*node]bool{}
	}
	c.nodes[n] = true
}

// helps tells whether what changed may let a pod on some node that its last
// attempt found wanting.
func (c *change) helps(cl *cluster, e *entry) bool {
	if e.why == nil {
		return true
	}
	if c.volumes && (e.why.Before != "" || e.why.reasons&volumeReasons != 0) {
		return true
	}
	if (c.pods || len(c.nodes) > 0) && e.why.reasons&podReasons != 0 {
		return true
	}
	if e.why.Before != "" {
		return false
	}
	for n := range c.nodes {
		if e.local == nil {
			e.local = cl.newLocalCycle(e.info)
		}
		if n.obj != nil && e.local.checkLocal(n).ok() {
			return true
		}
	}
	return false
}

// fold brings the events into the state and wakes those pods that they help.
func (s *loop) fold(events []client.Event, v client.View, now time.Time) {
	s.cluster.view = v
	for i := range events {
		s.foldOne(&events[i], &s.changed, now)
	}
	s.wake(now)
}

// wake readies the pods that what changed since the last time may help.
func (s *loop) wake(now time.Time) {
	c := s.changed
	if c.pods || c.volumes || len(c.nodes) > 0 {
		s.changed = change{}
		s.queue.wake(func(e *entry) bool { return c.helps(s.cluster, e) }, now)
	}
}

func (s *loop) foldOne(e *client.Event, c *change, now time.Time) {
	obj := e.New
	if obj == nil {
		obj = e.Old
	}
	switch obj := obj.(type) {
	case *corev1.Pod:
		s.foldPod(obj, e.New == nil, c, now)
	case *corev1.Node:
		s.foldNode(obj, e.New == nil, c)
	case *corev1.Namespace:
		if e.New == nil {
			s.cluster.setNamespace(obj.Name, nil)
		} else {
			s.cluster.setNamespace(obj.Name, namespaceLabels(obj))
		}
	case *corev1.PersistentVolumeClaim, *corev1.PersistentVolume, *storagev1.StorageClass:
		c.volumes = true
		s.volumesChanged()
	}
}

// namespaceLabels is never nil: that stands for no namespace.
func namespaceLabels(n *corev1.Namespace) labels.Set {
	if n.Labels == nil {
		return labels.Set{}
	}
	return n.Labels
}

func (s *loop) foldNode(obj *corev1.Node, deleted bool, c *change) {
	if deleted {
		s.cluster.dropNode(obj.Name)
		c.pods = true // what was near its pods is not near anything now
		return
	}
	before := s.cluster.nodes[obj.Name]
	same := before != nil && before.obj != nil && sameForPods(before.obj, obj)
	n := s.cluster.setNode(obj)
	if !same {
		c.node(n)
	}
}

// sameForPods tells that two states of a node take the same pods.
func sameForPods(a, b *corev1.Node) bool {
	return a.Spec.Unschedulable == b.Spec.Unschedulable && maps.Equal(a.Labels, b.Labels) &&
		equality.Semantic.DeepEqual(a.Spec.Taints, b.Spec.Taints) &&
		equality.Semantic.DeepEqual(a.Status.Allocatable, b.Status.Allocatable)
}

func (s *loop) foldPod(p *corev1.Pod, deleted bool, c *change, now time.Time) {
	key := client.KeyOf(p)
	placed := s.cluster.pods[key]
	if placed != nil && (deleted || done(p) || placed.pod.UID != p.UID) {
		c.node(s.cluster.nodes[placed.node])
		c.pods = true
		s.cluster.take(placed)
		placed = nil
	}
	switch {
	case deleted || done(p):
		s.forgetPending(key, c)
	case p.Spec.NodeName != "":
		s.forgetPending(key, c)
		s.foldPlaced(p, placed, c)
	case placed != nil: // assumed on a node; its binding is on the way
	case s.responsible(p):
		s.foldPending(p, now)
	default:
		s.forgetPending(key, c)
	}
}

// forgetPending drops a pod that needs no node any more.
func (s *loop) forgetPending(key client.Key, c *change) {
	if e := s.queue.drop(key); e != nil {
		s.unnominate(e.info, c)
	}
}

// unnominate gives up what was cleared for a pod.
func (s *loop) unnominate(p *podInfo, c *change) {
	n := s.nominations[p.key]
	if n == nil {
		return
	}
	delete(s.nominations, p.key)
	n.unnominate(p)
	s.cluster.forgetEmpty(n)
	c.node(n)
}

func (s *loop) responsible(p *corev1.Pod) bool {
	name := p.Spec.SchedulerName
	if name == "" {
		name = corev1.DefaultSchedulerName
	}
	return name == s.name && p.DeletionTimestamp == nil
}

func (s *loop) foldPlaced(p *corev1.Pod, placed *podInfo, c *change) {
	if placed != nil && placed.node == p.Spec.NodeName && sameForNode(placed.pod, p) {
		placed.pod, placed.assumed = p, false
		return
	}
	if placed != nil {
		c.node(s.cluster.nodes[placed.node])
		s.cluster.take(placed)
	}
	s.cluster.place(newPodInfo(p))
	c.pods = true
}

// sameForNode tells that two states of a pod weigh the same on its node and
// look the same to other pods. A resize in progress never does.
func sameForNode(a, b *corev1.Pod) bool {
	return a.Generation == b.Generation && (a.DeletionTimestamp == nil) == (b.DeletionTimestamp == nil) &&
		maps.Equal(a.Labels, b.Labels) && !resizing(a) && !resizing(b)
}

func resizing(p *corev1.Pod) bool {
	for i := range p.Status.Conditions {
		if t := p.Status.Conditions[i].Type; t == corev1.PodResizePending || t == corev1.PodResizeInProgress {
			return true
		}
	}
	return false
}

func (s *loop) foldPending(p *corev1.Pod, now time.Time) {
	if e := s.queue.entries[client.KeyOf(p)]; e != nil && e.info.pod.UID == p.UID && !asksOtherwise(e.info.pod, p) {
		e.info.pod = p // its status only
		return
	}
	info := newPodInfo(p)
	if n := s.nominations[info.key]; n != nil {
		n.unnominate(info)
		n.nominate(info)
	} else if n := s.cluster.nodes[p.Status.NominatedNodeName]; n != nil {
		s.nominations[info.key] = n
		n.nominate(info)
	}
	s.queue.put(info, now)
}

// asksOtherwise tells that a pod asks for something else than before.
func asksOtherwise(a, b *corev1.Pod) bool {
	return a.Generation != b.Generation || !maps.Equal(a.Labels, b.Labels) ||
		!equality.Semantic.DeepEqual(a.Spec, b.Spec)
}
