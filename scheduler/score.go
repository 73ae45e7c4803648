package scheduler

import (
	"math"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
)

const maxScore = 100

// How much each score weighs, as in Kubernetes' default profile.
const (
	taintWeight    = 3
	affinityWeight = 2
	spreadWeight   = 2
	podsWeight     = 2
	leastWeight    = 1
	balancedWeight = 1
	imageWeight    = 1
	imageSmall     = 23 << 20   // bytes; less is not worth a preference
	imageLarge     = 1000 << 20 // bytes a container; more makes no difference
)

// best scores the nodes that will do and returns the first of the best.
func (y *cycle) best(nodes []*node) *node {
	if len(nodes) == 1 {
		return nodes[0]
	}
	total := make([]int64, len(nodes))
	least, balanced := y.leastAllocated(), y.balanced()
	for i, n := range nodes {
		total[i] = leastWeight*least(n) + balancedWeight*balanced(n)
	}
	scratch := make([]int64, len(nodes))
	y.addTaints(total, scratch, nodes)
	y.addAffinity(total, scratch, nodes)
	y.addImages(total, nodes)
	y.addPods(total, scratch, nodes)
	y.addSpread(total, scratch, nodes)
	top := 0
	for i := range total {
		if total[i] > total[top] {
			top = i
		}
	}
	return nodes[top]
}

// leastAllocated prefers nodes with more left, averaged over CPU and memory.
func (y *cycle) leastAllocated() func(*node) int64 {
	p := y.p
	return func(n *node) int64 {
		sum, count := int64(0), int64(0)
		for _, r := range [2][2]int64{{n.usedCPU + p.weighCPU, n.allocatable.cpu}, {n.usedMB + p.weighMB, n.allocatable.memory}} {
			used, have := r[0], r[1]
			if have == 0 {
				continue
			}
			count++
			if used <= have {
				sum += (have - used) * maxScore / have
			}
		}
		if count == 0 {
			return 0
		}
		return sum / count
	}
}

// balanced prefers nodes whose CPU and memory are used to the same degree. A
// pod that asks for nothing balances nothing.
func (y *cycle) balanced() func(*node) int64 {
	need := &y.p.need
	if need.cpu == 0 && need.memory == 0 {
		return func(*node) int64 { return 0 }
	}
	return func(n *node) int64 {
		if n.allocatable.cpu == 0 || n.allocatable.memory == 0 {
			return maxScore
		}
		cpu := min(1, float64(n.used.cpu+need.cpu)/float64(n.allocatable.cpu))
		memory := min(1, float64(n.used.memory+need.memory)/float64(n.allocatable.memory))
		return int64((1 - math.Abs(cpu-memory)/2) * maxScore)
	}
}

// addScaled brings scores to 0..maxScore by the largest, inverted where less is
// better, and adds them.
func addScaled(total, scores []int64, weight int64, inverted bool) {
	top := int64(0)
	for _, s := range scores {
		top = max(top, s)
	}
	for i, s := range scores {
		v := int64(0)
		if top > 0 {
			v = s * maxScore / top
		}
		if inverted {
			v = maxScore - v
		}
		total[i] += weight * v
	}
}

// addTaints prefers nodes with fewer soft taints that the pod does not tolerate.
func (y *cycle) addTaints(total, scores []int64, nodes []*node) {
	if y.c.soft == 0 {
		return
	}
	for i, n := range nodes {
		scores[i] = 0
		for k := range n.softTaints {
			if !tolerates(y.p.pod.Spec.Tolerations, &n.softTaints[k]) {
				scores[i]++
			}
		}
	}
	addScaled(total, scores, taintWeight, true)
}

// addAffinity prefers nodes that the pod's preferred node affinity names.
func (y *cycle) addAffinity(total, scores []int64, nodes []*node) {
	a := y.p.pod.Spec.Affinity
	if a == nil || a.NodeAffinity == nil || len(a.NodeAffinity.PreferredDuringSchedulingIgnoredDuringExecution) == 0 {
		return
	}
	preferred, err := nodeaffinity.NewPreferredSchedulingTerms(a.NodeAffinity.PreferredDuringSchedulingIgnoredDuringExecution)
	if err != nil {
		return // validation has let it through; a term that cannot be read prefers nothing
	}
	for i, n := range nodes {
		scores[i] = preferred.Score(n.obj)
	}
	addScaled(total, scores, affinityWeight, false)
}

// addImages prefers nodes that have the pod's images already, the more so the
// more nodes share one, lest one node draw all pods of an image.
func (y *cycle) addImages(total []int64, nodes []*node) {
	var names []string
	containers := 0
	for _, list := range [][]corev1.Container{y.p.pod.Spec.InitContainers, y.p.pod.Spec.Containers} {
		for i := range list {
			containers++
			if name := imageName(list[i].Image); y.c.imageNodes[name] > 0 {
				names = append(names, name)
			}
		}
	}
	if len(names) == 0 {
		return
	}
	least, most := int64(imageSmall), int64(imageLarge)*int64(containers)
	for i, n := range nodes {
		sum := int64(0)
		for _, name := range names {
			if size, ok := n.images[name]; ok {
				sum += int64(float64(size) * float64(y.c.imageNodes[name]) / float64(len(y.c.order)))
			}
		}
		sum = min(max(sum, least), most)
		total[i] += imageWeight * maxScore * (sum - least) / (most - least)
	}
}

// imageName gives an image without tag or digest the tag it stands for.
func imageName(name string) string {
	if strings.LastIndexByte(name, ':') <= strings.LastIndexByte(name, '/') {
		name += ":latest"
	}
	return name
}

// addPods prefers nodes near the pods that the pod likes and that like it, and
// far from those that do not.
func (y *cycle) addPods(total, scores []int64, nodes []*node) {
	weights := map[string]*tally{} // by topology
	add := func(n *node, key string, weight int) {
		t := weights[key]
		if t == nil {
			made := y.c.newTally(key)
			t = &made
			weights[key] = t
		}
		t.add(n, weight)
	}
	if a := y.p.affinity; a != nil {
		for i := range a.preferred {
			t := &a.preferred[i]
			for n, count := range y.c.counterOf(t.matcher).nodes {
				add(n, t.topology, int(t.weight)*count)
			}
		}
	}
	for _, g := range y.c.groups[scoredTerms] {
		if g.finds(y.p, y.c.namespaces) {
			for n, count := range g.nodes {
				add(n, g.topology, int(g.weight)*count)
			}
		}
	}
	if len(weights) == 0 {
		return
	}
	least, most := int64(math.MaxInt64), int64(math.MinInt64)
	for i, n := range nodes {
		scores[i] = 0
		for _, t := range weights {
			sum, _ := t.at(n)
			scores[i] += int64(sum)
		}
		least, most = min(least, scores[i]), max(most, scores[i])
	}
	for i := range nodes {
		if most > least {
			total[i] += podsWeight * (maxScore * (scores[i] - least) / (most - least))
		}
	}
}
