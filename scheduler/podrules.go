package scheduler

import "slices"

// domain is one value of a topology: {"topology.kubernetes.io/zone", "a"}.
type domain struct{ key, value string }

// podRules are required affinity and anti-affinity, of the pod and of those
// that already run, worked out to where other pods are.
type podRules struct {
	required []affinityTerm
	// near counts, by domain, the pods that meet all required terms.
	near map[domain]int
	// self: the pod meets its own terms, so that it may be the first.
	self bool

	anti []affinityTerm
	far  map[domain]int // pods that the pod must not be near
	// forbidden counts, by domain, the pods that must not be near this one.
	forbidden     map[domain]int
	forbiddenKeys []string
}

func (c *cluster) podRules(p *podInfo) podRules {
	var r podRules
	if a := p.affinity; a != nil {
		r.required, r.anti = a.required, a.requiredAnti
	}
	if len(r.required) > 0 {
		k := c.counterOf(matchersOf(r.required)...)
		r.near = map[domain]int{}
		for n, count := range k.nodes {
			r.addNear(n, count)
		}
		r.self = k.finds(c, p)
	}
	if len(r.anti) > 0 {
		r.far = map[domain]int{}
		for i := range r.anti {
			for n, count := range c.counterOf(r.anti[i].matcher).nodes {
				addDomain(r.far, n, r.anti[i].topology, count)
			}
		}
	}
	for _, g := range c.groups[requiredAntiTerms] {
		if !g.finds(p, c.namespaces) {
			continue
		}
		for n, count := range g.nodes {
			r.forbid(n, g.topology, count)
		}
	}
	return r
}

func matchersOf(list []affinityTerm) []matcher {
	out := make([]matcher, len(list))
	for i := range list {
		out[i] = list[i].matcher
	}
	return out
}

// addDomain counts at the node's value of a topology, if it has one.
func addDomain(counts map[domain]int, n *node, key string, count int) {
	if n.obj == nil {
		return
	}
	if value, ok := n.label(key); ok {
		d := domain{key, value}
		if counts[d] += count; counts[d] == 0 {
			delete(counts, d)
		}
	}
}

func (r *podRules) addNear(n *node, count int) {
	for i := range r.required {
		addDomain(r.near, n, r.required[i].topology, count)
	}
}

func (r *podRules) check(n *node) verdict {
	if len(r.required) > 0 && !r.isNear(n) {
		return only(affinityMismatch, true)
	}
	for i := range r.anti {
		if value, ok := n.label(r.anti[i].topology); ok && r.far[domain{r.anti[i].topology, value}] > 0 {
			return only(antiAffinityMismatch, false)
		}
	}
	for _, key := range r.forbiddenKeys {
		if value, ok := n.label(key); ok && r.forbidden[domain{key, value}] > 0 {
			return only(othersAntiAffinity, false)
		}
	}
	return verdict{}
}

func (r *podRules) forbid(n *node, key string, count int) {
	if r.forbidden == nil {
		r.forbidden = map[domain]int{}
	}
	if !slices.Contains(r.forbiddenKeys, key) {
		r.forbiddenKeys = append(r.forbiddenKeys, key)
	}
	addDomain(r.forbidden, n, key, count)
}

// isNear: every term has its company in the node's domain; or none has company
// anywhere and the pod is what it looks for, the first of its kind.
func (r *podRules) isNear(n *node) bool {
	all := true
	for i := range r.required {
		value, ok := n.label(r.required[i].topology)
		if !ok {
			return false
		}
		all = all && r.near[domain{r.required[i].topology, value}] > 0
	}
	return all || r.self && len(r.near) == 0
}

// shift follows a pod that is thought to come to or go from a node.
func (r *podRules) shift(c *cluster, me *podInfo, n *node, p *podInfo, sign int) {
	if len(r.required) > 0 && findAll(r.required, c, p) {
		r.addNear(n, sign)
	}
	for i := range r.anti {
		if r.anti[i].finds(p, c.namespaces) {
			addDomain(r.far, n, r.anti[i].topology, sign)
		}
	}
	if p.affinity == nil {
		return
	}
	for i := range p.affinity.requiredAnti {
		if t := &p.affinity.requiredAnti[i]; t.finds(me, c.namespaces) {
			r.forbid(n, t.topology, sign)
		}
	}
}

func findAll(list []affinityTerm, c *cluster, p *podInfo) bool {
	for i := range list {
		if !list[i].finds(p, c.namespaces) {
			return false
		}
	}
	return true
}
