package scheduler

import (
	"math"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// spreadRule is a topology spread constraint of the pod that must hold, with
// the pods that it counts, by domain.
type spreadRule struct {
	matcher
	tally
	key        string
	maxSkew    int
	minDomains int
	self       int // 1 if the pod counts itself
	// eligible tells the domains that count: those with a node that counts.
	eligible []bool
	present  int                // how many
	smallest int                // of their counts, while
	known    bool               // this holds
	labelled func(n *node) bool // the node has the labels of all rules
	counted  func(n *node) bool // the node is one whose pods count
}

// spreadRules gathers the constraints that must hold.
func (c *cluster) spreadRules(y *cycle) []spreadRule {
	var rules []spreadRule
	var keys []*topology
	for i := range y.p.pod.Spec.TopologySpreadConstraints {
		t := &y.p.pod.Spec.TopologySpreadConstraints[i]
		if t.WhenUnsatisfiable == corev1.DoNotSchedule {
			rules = append(rules, newSpreadRule(y, t))
			keys = append(keys, c.topologyOf(t.TopologyKey))
		}
	}
	for i := range rules {
		rules[i].labelled = func(n *node) bool {
			return !slices.ContainsFunc(keys, func(t *topology) bool { return t.domain(n) == none })
		}
		rules[i].gather(c)
	}
	return rules
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
	r.tally = c.newTally(r.key)
	r.eligible = make([]bool, len(r.counts))
	k := c.counterOf(r.matcher)
	for _, n := range c.order {
		if d := r.domain(n); d != none && r.labelled(n) && r.counted(n) {
			r.counts[d] += k.nodes[n]
			if !r.eligible[d] {
				r.eligible[d] = true
				r.present++
			}
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
	for d, n := range r.counts {
		if r.eligible[d] {
			r.smallest = min(r.smallest, n)
		}
	}
	if r.present < r.minDomains {
		r.smallest = 0
	}
	return r.smallest
}

func (r *spreadRule) check(n *node) verdict {
	count, ok := r.at(n)
	if !ok {
		return only(spreadLabelMissing, true)
	}
	if count+r.self-r.least() > r.maxSkew {
		return only(spreadTooUneven, false)
	}
	return verdict{}
}

func (r *spreadRule) shift(c *cluster, n *node, p *podInfo, sign int) {
	if r.domain(n) != none && r.labelled(n) && r.counted(n) && r.finds(p, c.namespaces) {
		r.add(n, sign)
		r.known = false
	}
}
