package scheduler

import (
	"cmp"
	"math"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/labels"

	"proa/client"
)

// candidate is a node that would do without some of its pods.
type candidate struct {
	node    *node
	victims []*podInfo // the most important first
	// violations counts the victims that a disruption budget would rather keep.
	violations int
}

const (
	noVictims  = "No preemption victims found for incoming pod"
	notHelpful = "Preemption is not helpful for scheduling"
)

// preempt looks for the node where making room costs least. Where there is
// none it says so in the explanation.
func (c *cluster) preempt(d decision) (best candidate, ok bool) {
	y, why := d.cycle, d.why
	if message := c.mayPreempt(y.p); message != "" {
		why.Preemption = "preemption: " + message
		return candidate{}, false
	}
	found := y.candidates(why)
	if len(found) == 0 {
		why.Preemption = "preemption: " + cannotPreempt(why)
		return candidate{}, false
	}
	return slices.MinFunc(found, cheaper), true
}

// candidates tries the nodes where removing pods could help, until there are
// enough to choose from.
func (y *cycle) candidates(why *Explanation) []candidate {
	c := y.c
	if !c.hasBelow(y.p.priority) {
		return nil
	}
	budgets := c.budgets()
	var found []candidate
	limit := max(len(c.order)/10, 100)
	for i := range c.order {
		// The same rotation as the search's, so that not always the same nodes
		// are tried in a large cluster.
		k := (c.next + i) % len(c.order)
		if why.Nodes[k].Final {
			continue
		}
		if x, ok := y.victims(c.order[k], budgets); ok {
			if found = append(found, x); len(found) == limit {
				break
			}
		}
	}
	return found
}

// hasBelow tells whether any placed pod has a lower priority.
func (c *cluster) hasBelow(priority int32) bool {
	for p := range c.priorities {
		if p < priority {
			return true
		}
	}
	return false
}

// mayPreempt says why the pod must not make room for itself, or "".
func (c *cluster) mayPreempt(p *podInfo) string {
	if policy := p.pod.Spec.PreemptionPolicy; policy != nil && *policy == corev1.PreemptNever {
		return "not eligible due to preemptionPolicy=Never."
	}
	n := c.nodes[p.pod.Status.NominatedNodeName]
	if n == nil {
		return ""
	}
	for _, v := range n.pods {
		if v.priority < p.priority && v.pod.DeletionTimestamp != nil {
			return "not eligible due to a terminating pod on the nominated node."
		}
	}
	return ""
}

func cannotPreempt(why *Explanation) string {
	e := Explanation{Nodes: make([]NodeExplanation, len(why.Nodes))}
	final, other := []string{notHelpful}, []string{noVictims}
	for i, n := range why.Nodes {
		e.Nodes[i] = NodeExplanation{Node: n.Node, Reasons: other}
		if n.Final {
			e.Nodes[i].Reasons = final
		}
	}
	return e.String()
}

// victims finds the fewest pods of lower priority that have to go: it takes
// away all of them, and gives back one after the other as long as the pod still
// fits, first those that a budget protects, then the most important.
func (y *cycle) victims(n *node, budgets []*budget) (candidate, bool) {
	var lower []*podInfo
	for _, p := range n.pods {
		if p.priority < y.p.priority {
			lower = append(lower, p)
		}
	}
	if len(lower) == 0 {
		return candidate{}, false
	}
	slices.SortFunc(lower, moreImportant)
	for _, p := range lower {
		y.pull(n, p)
	}
	out := candidate{node: n}
	fits := y.check(n).ok()
	if fits {
		protected, others := split(lower, budgets)
		for _, p := range protected {
			if !y.giveBack(n, p) {
				out.victims = append(out.victims, p)
				out.violations++
			}
		}
		for _, p := range others {
			if !y.giveBack(n, p) {
				out.victims = append(out.victims, p)
			}
		}
		for _, p := range out.victims {
			y.put(n, p)
		}
		slices.SortFunc(out.victims, moreImportant)
		return out, true
	}
	for _, p := range lower {
		y.put(n, p)
	}
	return out, false
}

// giveBack leaves a pod on the node if the other one fits beside it.
func (y *cycle) giveBack(n *node, p *podInfo) bool {
	y.put(n, p)
	if y.check(n).ok() {
		return true
	}
	y.pull(n, p)
	return false
}

// moreImportant orders pods: higher priority first, then the longer running.
func moreImportant(a, b *podInfo) int {
	return cmp.Or(
		cmp.Compare(b.priority, a.priority),
		started(a).Compare(started(b)),
		cmp.Compare(a.key.Namespace, b.key.Namespace), cmp.Compare(a.key.Name, b.key.Name))
}

func started(p *podInfo) time.Time {
	if t := p.pod.Status.StartTime; t != nil {
		return t.Time
	}
	return time.Unix(math.MaxInt32, 0) // not yet: the youngest
}

// cheaper compares what making room would cost: budgets violated, then the
// highest priority among the victims, then the sum of their priorities, then
// their number, then who of the most important started last.
func cheaper(a, b candidate) int {
	return cmp.Or(
		cmp.Compare(a.violations, b.violations),
		cmp.Compare(highest(a), highest(b)),
		cmp.Compare(sumOfPriorities(a), sumOfPriorities(b)),
		cmp.Compare(len(a.victims), len(b.victims)),
		earliest(b).Compare(earliest(a)))
}

func highest(c candidate) int32 {
	if len(c.victims) == 0 {
		return math.MinInt32
	}
	return c.victims[0].priority
}

// sumOfPriorities counts from the lowest priority there is, so that more
// victims of negative priority do not look cheaper than fewer.
func sumOfPriorities(c candidate) int64 {
	sum := int64(0)
	for _, v := range c.victims {
		sum += int64(v.priority) + math.MaxInt32 + 1
	}
	return sum
}

// earliest is when the first of the most important victims started.
func earliest(c candidate) time.Time {
	if len(c.victims) == 0 {
		return time.Time{}
	}
	first := started(c.victims[0])
	for _, v := range c.victims {
		if t := started(v); v.priority == c.victims[0].priority && t.Before(first) {
			first = t
		}
	}
	return first
}

// budget is a disruption budget with what it allows at the moment.
type budget struct {
	namespace string
	selector  labels.Selector
	allowed   int32
	disrupted map[string]bool // pods already accounted for
}

func (c *cluster) budgets() []*budget {
	var out []*budget
	for b := range client.List[policyv1.PodDisruptionBudget](c.view, "") {
		x := &budget{namespace: b.Namespace, selector: selectorOf(b.Spec.Selector), allowed: b.Status.DisruptionsAllowed, disrupted: map[string]bool{}}
		for name := range b.Status.DisruptedPods {
			x.disrupted[name] = true
		}
		out = append(out, x)
	}
	return out
}

// split tells the pods whose going would violate a budget from the others.
func split(list []*podInfo, budgets []*budget) (protected, others []*podInfo) {
	left := make([]int32, len(budgets))
	for i, b := range budgets {
		left[i] = b.allowed
	}
	for _, p := range list {
		violates := false
		for i, b := range budgets {
			if len(p.labels) == 0 || b.namespace != p.key.Namespace || b.disrupted[p.key.Name] || !b.selector.Matches(p.labels) {
				continue
			}
			left[i]--
			violates = violates || left[i] < 0
		}
		if violates {
			protected = append(protected, p)
		} else {
			others = append(others, p)
		}
	}
	return protected, others
}
