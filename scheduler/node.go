package scheduler

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// node is a node with the sum of what runs on it.
type node struct {
	name string
	// obj is nil for a node that pods name but that is not there (any more);
	// index is then -1, else its place in the cluster's order.
	obj         *corev1.Node
	index       int
	allocatable resources
	maxPods     int

	used              resources
	usedCPU, usedMB   int64 // as scores count them
	pods              map[types.UID]*podInfo
	ports             []hostPort
	hardTaints        []corev1.Taint // NoSchedule and NoExecute
	softTaints        []corev1.Taint // PreferNoSchedule
	images            map[string]int64
	nominated         []*podInfo // pending pods that victims were removed for
	highestNominated  int32
	unschedulableSpec bool
}

func newNode(name string) *node { return &node{name: name, index: -1, pods: map[types.UID]*podInfo{}} }

// set takes over what the object says.
func (n *node) set(obj *corev1.Node) {
	n.obj = obj
	n.allocatable = amount(obj.Status.Allocatable)
	n.maxPods = int(obj.Status.Allocatable.Pods().Value())
	n.unschedulableSpec = obj.Spec.Unschedulable
	n.hardTaints, n.softTaints = nil, nil
	for _, t := range obj.Spec.Taints {
		if t.Effect == corev1.TaintEffectPreferNoSchedule {
			n.softTaints = append(n.softTaints, t)
		} else {
			n.hardTaints = append(n.hardTaints, t)
		}
	}
	n.images = nil
	if len(obj.Status.Images) > 0 {
		n.images = map[string]int64{}
	}
	for _, image := range obj.Status.Images {
		for _, name := range image.Names {
			n.images[imageName(name)] = image.SizeBytes
		}
	}
}

func (n *node) add(p *podInfo) {
	n.pods[p.pod.UID] = p
	n.sum(p, 1)
	n.ports = append(n.ports, p.ports...)
}

func (n *node) remove(p *podInfo) {
	delete(n.pods, p.pod.UID)
	n.sum(p, -1)
	for _, port := range p.ports {
		if i := slices.Index(n.ports, port); i >= 0 {
			n.ports = slices.Delete(n.ports, i, i+1)
		}
	}
}

func (n *node) sum(p *podInfo, sign int64) {
	n.used.add(&p.need, sign)
	n.usedCPU += sign * p.weighCPU
	n.usedMB += sign * p.weighMB
}

func (n *node) nominate(p *podInfo) {
	n.nominated = append(n.nominated, p)
	n.rank()
}

func (n *node) unnominate(p *podInfo) {
	n.nominated = slices.DeleteFunc(n.nominated, func(o *podInfo) bool { return o.key == p.key })
	n.rank()
}

func (n *node) rank() {
	n.highestNominated = 0
	for i, p := range n.nominated {
		if i == 0 || p.priority > n.highestNominated {
			n.highestNominated = p.priority
		}
	}
}
