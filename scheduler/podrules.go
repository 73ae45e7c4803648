package scheduler

// podRules are required affinity and anti-affinity, of the pod and of those
// that already run, worked out to where other pods are.
type podRules struct {
	required []affinityTerm
	// near counts, for each required term, the pods that meet all of them;
	// anywhere is their sum.
	near     []tally
	anywhere int
	// self: the pod meets its own terms, so that it may be the first.
	self bool

	anti []affinityTerm
	far  []tally // for each of them, the pods that the pod must not be near
	// forbidden counts, for each topology, the pods that must not be near this
	// one.
	forbidden map[string]*tally
}

func (c *cluster) podRules(p *podInfo) podRules {
	var r podRules
	if a := p.affinity; a != nil {
		r.required, r.anti = a.required, a.requiredAnti
	}
	if len(r.required) > 0 {
		for i := range r.required {
			r.near = append(r.near, c.newTally(r.required[i].topology))
		}
		k := c.counterOf(matchersOf(r.required)...)
		for n, count := range k.nodes {
			r.addNear(n, count)
		}
		r.self = k.finds(c, p)
	}
	for i := range r.anti {
		far := c.newTally(r.anti[i].topology)
		for n, count := range c.counterOf(r.anti[i].matcher).nodes {
			far.add(n, count)
		}
		r.far = append(r.far, far)
	}
	for _, g := range c.groups[requiredAntiTerms] {
		if g.finds(p, c.namespaces) {
			for n, count := range g.nodes {
				r.forbid(c, n, g.topology, count)
			}
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

func (r *podRules) addNear(n *node, count int) {
	for i := range r.near {
		if r.near[i].domain(n) != none {
			r.near[i].add(n, count)
			r.anywhere += count
		}
	}
}

func (r *podRules) forbid(c *cluster, n *node, key string, count int) {
	t := r.forbidden[key]
	if t == nil {
		made := c.newTally(key)
		t = &made
		if r.forbidden == nil {
			r.forbidden = map[string]*tally{}
		}
		r.forbidden[key] = t
	}
	t.add(n, count)
}

func (r *podRules) check(n *node) verdict {
	if len(r.required) > 0 && !r.isNear(n) {
		return only(affinityMismatch, true)
	}
	for i := range r.far {
		if count, _ := r.far[i].at(n); count > 0 {
			return only(antiAffinityMismatch, false)
		}
	}
	for _, t := range r.forbidden {
		if count, _ := t.at(n); count > 0 {
			return only(othersAntiAffinity, false)
		}
	}
	return verdict{}
}

// isNear: every term has its company in the node's domain; or none has company
// anywhere and the pod is what it looks for, the first of its kind.
func (r *podRules) isNear(n *node) bool {
	all := true
	for i := range r.near {
		count, ok := r.near[i].at(n)
		if !ok {
			return false
		}
		all = all && count > 0
	}
	return all || r.self && r.anywhere == 0
}

// shift follows a pod that is thought to come to or go from a node.
func (r *podRules) shift(c *cluster, me *podInfo, n *node, p *podInfo, sign int) {
	if len(r.required) > 0 && findAll(r.required, c, p) {
		r.addNear(n, sign)
	}
	for i := range r.anti {
		if r.anti[i].finds(p, c.namespaces) {
			r.far[i].add(n, sign)
		}
	}
	if p.affinity == nil {
		return
	}
	for i := range p.affinity.requiredAnti {
		if t := &p.affinity.requiredAnti[i]; t.finds(me, c.namespaces) {
			r.forbid(c, n, t.topology, sign)
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
