package scheduler

import (
	"math"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"proa/client"
)

// softSpread is a topology spread constraint that is only preferred.
type softSpread struct {
	matcher
	key     string
	maxSkew int64
	counted func(*node) bool
}

// addSpread prefers nodes in domains with fewer of the pods that the
// constraints count. A pod without constraints is spread over nodes and zones
// among the pods of its Services and its owner.
func (y *cycle) addSpread(total, scores []int64, nodes []*node) {
	rules, own := y.softSpreads()
	if len(rules) == 0 {
		return
	}
	ignored := make([]bool, len(nodes))
	floats := make([]float64, len(nodes))
	for r := range rules {
		t := y.c.topologyOf(rules[r].key)
		for i, n := range nodes {
			ignored[i] = ignored[i] || own && t.domain(n) == none
		}
	}
	for r := range rules {
		y.addSpreadRule(floats, &rules[r], nodes, ignored)
	}
	least, most := int64(math.MaxInt64), int64(0)
	for i := range nodes {
		scores[i] = int64(math.Round(floats[i]))
		if !ignored[i] {
			least, most = min(least, scores[i]), max(most, scores[i])
		}
	}
	for i := range nodes {
		switch {
		case ignored[i]:
		case most == 0:
			total[i] += spreadWeight * maxScore
		default:
			total[i] += spreadWeight * (maxScore * (most + least - scores[i]) / most)
		}
	}
}

// addSpreadRule adds how many pods one rule counts in each node's domain, the
// more weighty the more domains there are.
func (y *cycle) addSpreadRule(sums []float64, r *softSpread, nodes []*node, ignored []bool) {
	k := y.c.counterOf(r.matcher)
	t := y.c.newTally(r.key)
	wanted := make([]bool, len(t.counts)) // domains with a node to choose
	size := 0
	for i, n := range nodes {
		if d := t.domain(n); d != none && !ignored[i] && !wanted[d] {
			wanted[d] = true
			size++
		}
	}
	for n, count := range k.nodes {
		if d := t.domain(n); d != none && wanted[d] && (r.key == corev1.LabelHostname || r.counted(n)) {
			t.counts[d] += count
		}
	}
	weight := math.Log(float64(size + 2))
	for i, n := range nodes {
		if count, ok := t.at(n); ok && !ignored[i] {
			sums[i] += float64(count)*weight + float64(r.maxSkew-1)
		}
	}
}

// softSpreads lists the pod's own constraints (own is true) or the default
// ones.
func (y *cycle) softSpreads() (rules []softSpread, own bool) {
	p := y.p.pod
	for i := range p.Spec.TopologySpreadConstraints {
		t := &p.Spec.TopologySpreadConstraints[i]
		own = true
		if t.WhenUnsatisfiable == corev1.ScheduleAnyway {
			rules = append(rules, softSpread{spreadMatcher(p, t), t.TopologyKey, int64(t.MaxSkew), countedNodes(y, t)})
		}
	}
	if own {
		return rules, true
	}
	selector, ok := y.c.siblings(p)
	if !ok {
		return nil, false
	}
	t := &corev1.TopologySpreadConstraint{}
	m := matcher{namespaces: []string{p.Namespace}, selector: selector, alive: true, key: p.Namespace + "|" + selector.String() + "|true"}
	return []softSpread{
		{m, corev1.LabelHostname, 3, countedNodes(y, t)},
		{m, corev1.LabelTopologyZone, 5, countedNodes(y, t)},
	}, false
}

// siblings selects the pods that a pod belongs with: those that all Services
// that find it and its controller find too. ok is false for a pod that belongs
// with none.
func (c *cluster) siblings(p *corev1.Pod) (labels.Selector, bool) {
	set := labels.Set{}
	for s := range client.List[corev1.Service](c.view, p.Namespace) {
		if len(s.Spec.Selector) > 0 && labels.SelectorFromSet(s.Spec.Selector).Matches(labels.Set(p.Labels)) {
			for k, v := range s.Spec.Selector {
				set[k] = v
			}
		}
	}
	selector := labels.SelectorFromSet(set)
	if ref := metav1.GetControllerOf(p); ref != nil {
		if requirements, ok := c.ownerSelector(p.Namespace, ref); ok {
			selector = selector.Add(requirements...)
		}
	}
	return selector, !selector.Empty()
}

func (c *cluster) ownerSelector(namespace string, ref *metav1.OwnerReference) (labels.Requirements, bool) {
	var s *metav1.LabelSelector
	switch ref.Kind {
	case "ReplicaSet":
		if r := client.Get[appsv1.ReplicaSet](c.view, namespace, ref.Name); r != nil {
			s = r.Spec.Selector
		}
	case "StatefulSet":
		if r := client.Get[appsv1.StatefulSet](c.view, namespace, ref.Name); r != nil {
			s = r.Spec.Selector
		}
	case "ReplicationController":
		if r := client.Get[corev1.ReplicationController](c.view, namespace, ref.Name); r != nil {
			s = &metav1.LabelSelector{MatchLabels: r.Spec.Selector}
		}
	}
	if s == nil {
		return nil, false
	}
	return selectorOf(s).Requirements()
}
