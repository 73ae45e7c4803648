package scheduler

import (
	"math"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// spreadRule is a topology spread constraint of the pod that must hold, with
// the pods that it counts, by value of its topology.
type spreadRule struct {
	matcher
	key        string
	maxSkew    int
	minDomains int
	self       int // 1 if the pod counts itself
	counts     map[string]int
	smallest   int                // of counts, while
	known      bool               // this holds
	labelled   func(n *node) bool // the node has the labels of all rules
	counted    func(n *node) bool // the node is one whose pods count
}

// spreadRules gathers the constraints that must hold.
func (c *cluster) spreadRules(y *cycle) []spreadRule {
	var rules []spreadRule
	var keys []string
	for i := range y.p.pod.Spec.TopologySpreadConstraints {
		t := &y.p.pod.Spec.TopologySpreadConstraints[i]
		if t.WhenUnsatisfiable == corev1.DoNotSchedule {
			rules = append(rules, newSpreadRule(y, t))
			keys = append(keys, t.TopologyKey)
		}
	}
	for i := range rules {
		rules[i].labelled = func(n *node) bool { return hasLabels(n, keys) }
		rules[i].gather(c)
	}
	return rules
}

func hasLabels(n *node, keys []string) bool {
	for _, k := range keys {
		if _, ok := n.label(k); !ok {
			return false
		}
	}
	return true
}

func newSpreadRule(y *cycle, t *corev1.TopologySpreadConstraint) spreadRule {
	r := spreadRule{
		matcher: spreadMatcher(y.p.pod, t), key: t.TopologyKey,
		maxSkew: int(t.MaxSkew), minDomains: 1, counted: countedNodes(y, t),
	}
	if t.MinDomains != nil {
		r.minDomains = int(*t.MinDomains)
	}
	if r.selector.Matches(y.p.labels) {
		r.self = 1
	}
	return r
}

// spreadMatcher finds the pods of a constraint: those of the namespace that
// the selector finds and that agree with the pod on matchLabelKeys.
func spreadMatcher(p *corev1.Pod, t *corev1.TopologySpreadConstraint) matcher {
	selector := t.LabelSelector
	if len(t.MatchLabelKeys) > 0 && selector != nil {
		selector = selector.DeepCopy()
		for _, k := range t.MatchLabelKeys {
			if v, ok := p.Labels[k]; ok {
				selector.MatchExpressions = append(selector.MatchExpressions,
					metav1.LabelSelectorRequirement{Key: k, Operator: metav1.LabelSelectorOpIn, Values: []string{v}})
			}
		}
	}
	return newMatcher([]string{p.Namespace}, nil, selector, true)
}

// countedNodes: by default nodes that the pod's node affinity excludes do not
// count, and nodes whose taints exclude it do.
func countedNodes(y *cycle, t *corev1.TopologySpreadConstraint) func(*node) bool {
	affinity := t.NodeAffinityPolicy == nil || *t.NodeAffinityPolicy == corev1.NodeInclusionPolicyHonor
	taints := t.NodeTaintsPolicy != nil && *t.NodeTaintsPolicy == corev1.NodeInclusionPolicyHonor
	return func(n *node) bool {
		if affinity && y.picky {
			if match, err := y.affinity.Match(n.obj); !match || err != nil {
				return false
			}
		}
		return !taints || !slices.ContainsFunc(n.hardTaints, func(t corev1.Taint) bool { return !tolerates(y.p.pod.Spec.Tolerations, &t) })
	}
}

func (r *spreadRule) gather(c *cluster) {
	r.counts = map[string]int{}
	k := c.counterOf(r.matcher)
	for _, n := range c.order {
		if value, ok := n.label(r.key); ok && r.labelled(n) && r.counted(n) {
			r.counts[value] += k.nodes[n]
		}
	}
}

// least is the smallest count of any domain; with fewer domains than wanted,
// the missing ones count as empty.
func (r *spreadRule) least() int {
	if r.known {
		return r.smallest
	}
	r.smallest, r.known = math.MaxInt, true
	for _, n := range r.counts {
		r.smallest = min(r.smallest, n)
	}
	if len(r.counts) < r.minDomains {
		r.smallest = 0
	}
	return r.smallest
}

func (r *spreadRule) check(n *node) verdict {
	value, ok := n.label(r.key)
	if !ok {
		return only(spreadLabelMissing, true)
	}
	if r.counts[value]+r.self-r.least() > r.maxSkew {
		return only(spreadTooUneven, false)
	}
	return verdict{}
}

func (r *spreadRule) shift(c *cluster, n *node, p *podInfo, sign int) {
	value, ok := n.label(r.key)
	if ok && r.labelled(n) && r.counted(n) && r.finds(p, c.namespaces) {
		r.counts[value] += sign
		r.known = false
	}
}
