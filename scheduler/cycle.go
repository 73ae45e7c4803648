package scheduler

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
)

// cycle is one pod's decision: what its filters and scores need to know of the
// cluster, gathered once before nodes are looked at.
type cycle struct {
	c *cluster
	p *podInfo

	// before is what rules out every node.
	before string
	// names, if not nil, are the only nodes that the pod may be on by name.
	names    map[string]bool
	affinity nodeaffinity.RequiredNodeAffinity
	picky    bool // the affinity rules something out
	scalars  []corev1.ResourceName

	spread  []spreadRule // that must hold
	pods    podRules
	volumes *podVolumes // nil: none
}

func (c *cluster) newCycle(p *podInfo) *cycle {
	y := c.newLocalCycle(p)
	y.before, y.volumes = c.volumesOf(p)
	if len(p.pod.Spec.ResourceClaims) > 0 {
		y.before = noDevices
	}
	if y.before == "" {
		y.spread = c.spreadRules(y)
		y.pods = c.podRules(p)
	}
	return y
}

// noDevices is the answer to pods that claim devices: allocating them is not
// done here yet, and a pod without its devices is better off waiting.
const noDevices = "cannot allocate all claims"

// newLocalCycle is enough for checkLocal.
func (c *cluster) newLocalCycle(p *podInfo) *cycle {
	y := &cycle{c: c, p: p}
	spec := &p.pod.Spec
	y.affinity = nodeaffinity.GetRequiredNodeAffinity(p.pod)
	y.picky = len(spec.NodeSelector) > 0 || spec.Affinity != nil && spec.Affinity.NodeAffinity != nil
	y.names = namedNodes(spec.Affinity)
	for name, n := range p.need.scalars {
		if n > 0 && len(y.scalars) < 64-int(fixedReasons) {
			y.scalars = append(y.scalars, name)
		}
	}
	slices.Sort(y.scalars)
	return y
}

// namedNodes reads the nodes that a pod names by affinity to metadata.name, as
// those of DaemonSets do; nil when it leaves the choice open.
func namedNodes(a *corev1.Affinity) map[string]bool {
	if a == nil || a.NodeAffinity == nil || a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution == nil {
		return nil
	}
	var names map[string]bool
	for _, t := range a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms {
		found := false
		for _, f := range t.MatchFields {
			if f.Key != "metadata.name" || f.Operator != corev1.NodeSelectorOpIn {
				continue
			}
			if names == nil {
				names = map[string]bool{}
			}
			for _, v := range f.Values {
				names[v] = true
			}
			found = true
		}
		if !found {
			return nil // this term takes nodes of any name
		}
	}
	return names
}

// check tells whether a node will do. Pods that were promised the node count
// as if they were there, unless they matter less; and as if they were not, as
// they may never come.
func (y *cycle) check(n *node) verdict {
	if len(n.nominated) > 0 && n.highestNominated >= y.p.priority {
		if v := y.checkWithNominated(n); !v.ok() {
			return v
		}
	}
	return y.checkAlone(n)
}

func (y *cycle) checkWithNominated(n *node) verdict {
	var added []*podInfo
	for _, p := range n.nominated {
		if p.priority >= y.p.priority && p.key != y.p.key {
			added = append(added, p)
			y.put(n, p)
		}
	}
	v := y.checkAlone(n)
	for _, p := range added {
		y.pull(n, p)
	}
	return v
}

// checkAlone holds the node against each filter in turn; the first that fails
// says why.
func (y *cycle) checkAlone(n *node) verdict {
	if v := y.checkLocal(n); !v.ok() {
		return v
	}
	if y.volumes != nil {
		if v := y.volumes.check(n); !v.ok() {
			return v
		}
	}
	for i := range y.spread {
		if v := y.spread[i].check(n); !v.ok() {
			return v
		}
	}
	return y.pods.check(n)
}

// checkLocal looks at nothing but the node and what runs there.
func (y *cycle) checkLocal(n *node) verdict {
	p := y.p.pod
	switch {
	case n.unschedulableSpec && !tolerates(p.Spec.Tolerations, &unschedulableTaint):
		return only(unschedulable, true)
	case p.Spec.NodeName != "" && p.Spec.NodeName != n.name:
		return only(otherNodeName, true)
	case y.names != nil && !y.names[n.name]:
		return only(otherNodeNames, true)
	}
	for i := range n.hardTaints {
		if !tolerates(p.Spec.Tolerations, &n.hardTaints[i]) {
			return only(untoleratedTaint, true)
		}
	}
	if y.picky {
		if match, err := y.affinity.Match(n.obj); !match || err != nil {
			return only(nodeAffinityMismatch, true)
		}
	}
	for _, port := range y.p.ports {
		if slices.ContainsFunc(n.ports, port.clashes) {
			return only(portsTaken, false)
		}
	}
	return y.fits(n)
}

// unschedulableTaint is what a cordoned node counts as having.
var unschedulableTaint = corev1.Taint{Key: corev1.TaintNodeUnschedulable, Effect: corev1.TaintEffectNoSchedule}

func tolerates(list []corev1.Toleration, t *corev1.Taint) bool {
	for i := range list {
		o := &list[i]
		if (o.Effect == "" || o.Effect == t.Effect) && (o.Key == "" || o.Key == t.Key) && toleratesValue(o, t) {
			return true
		}
	}
	return false
}

func toleratesValue(o *corev1.Toleration, t *corev1.Taint) bool {
	switch o.Operator {
	case "", corev1.TolerationOpEqual:
		return o.Value == t.Value && o.Key != ""
	case corev1.TolerationOpExists:
		return true
	}
	return false
}

// fits compares what is asked with what is left. What the node could not give
// even when empty, removing pods cannot give either.
func (y *cycle) fits(n *node) verdict {
	var v verdict
	if len(n.pods)+1 > n.maxPods {
		v.because(tooManyPods, n.maxPods == 0)
	}
	need, have, used := &y.p.need, &n.allocatable, &n.used
	if need.cpu > 0 && need.cpu > have.cpu-used.cpu {
		v.because(insufficientCPU, need.cpu > have.cpu)
	}
	if need.memory > 0 && need.memory > have.memory-used.memory {
		v.because(insufficientMemory, need.memory > have.memory)
	}
	if need.storage > 0 && need.storage > have.storage-used.storage {
		v.because(insufficientStorage, need.storage > have.storage)
	}
	for i, name := range y.scalars {
		if n := need.scalars[name]; n > have.scalars[name]-used.scalars[name] {
			v.because(fixedReasons+reason(i), n > have.scalars[name])
		}
	}
	return v
}

// put and pull change what the cycle sees of a node, for "what if": put adds a
// pod, pull takes one away. They undo each other.
func (y *cycle) put(n *node, p *podInfo) {
	n.add(p)
	y.shift(n, p, 1)
}

func (y *cycle) pull(n *node, p *podInfo) {
	n.remove(p)
	y.shift(n, p, -1)
}

func (y *cycle) shift(n *node, p *podInfo, sign int) {
	for i := range y.spread {
		y.spread[i].shift(y.c, n, p, sign)
	}
	y.pods.shift(y.c, y.p, n, p, sign)
	if y.volumes != nil {
		y.volumes.shift(p, sign)
	}
}
