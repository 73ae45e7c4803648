package scheduler

// decision is what came of one pod: a node, or why there is none.
type decision struct {
	cycle *cycle
	node  *node
	why   *Explanation
}

// decide chooses a node for a pod. It changes nothing but where the next
// search begins.
func (c *cluster) decide(p *podInfo) decision {
	y := c.newCycle(p)
	if y.before != "" {
		return decision{cycle: y, why: y.explain(nil)}
	}
	if nominated := c.nodes[p.pod.Status.NominatedNodeName]; nominated != nil && nominated.obj != nil && y.check(nominated).ok() {
		return decision{cycle: y, node: nominated} // what was cleared for it, it takes
	}
	found, verdicts := y.search()
	if len(found) > 0 {
		return decision{cycle: y, node: y.best(found)}
	}
	return decision{cycle: y, why: y.explain(verdicts)}
}

// search looks for nodes that will do, from where the last search ended, until
// there are enough to choose from. With none, it has a verdict on each.
func (y *cycle) search() (found []*node, verdicts []verdict) {
	c := y.c
	enough := enoughNodes(len(c.order))
	if y.names != nil {
		return y.searchNamed()
	}
	for i := range c.order {
		n := c.order[(c.next+i)%len(c.order)]
		v := y.check(n)
		if v.ok() {
			if found = append(found, n); len(found) == enough {
				c.next = (c.next + i + 1) % len(c.order)
				break
			}
		} else if found == nil {
			if verdicts == nil {
				verdicts = make([]verdict, len(c.order))
			}
			verdicts[(c.next+i)%len(c.order)] = v
		}
	}
	if len(found) > 0 && len(found) < enough {
		c.next = (c.next + 1) % len(c.order)
	}
	return found, verdicts
}

// searchNamed looks at the few nodes that the pod names.
func (y *cycle) searchNamed() (found []*node, verdicts []verdict) {
	verdicts = make([]verdict, len(y.c.order))
	for i, n := range y.c.order {
		if !y.names[n.name] {
			verdicts[i] = only(otherNodeNames, true)
		} else if verdicts[i] = y.check(n); verdicts[i].ok() {
			found = append(found, n)
		}
	}
	return found, verdicts
}

// enoughNodes is how many nodes that will do are compared in a cluster of so
// many: a falling share of them, as percentageOfNodesToScore documents.
func enoughNodes(all int) int {
	const least = 100
	if all < least {
		return all
	}
	percent := max(50-all/125, 5)
	return max(all*percent/100, least)
}

func (y *cycle) explain(verdicts []verdict) *Explanation {
	e := &Explanation{Before: y.before, Nodes: make([]NodeExplanation, len(y.c.order))}
	texts := map[uint64][]string{} // most nodes have the same reasons
	for i, n := range y.c.order {
		e.Nodes[i] = NodeExplanation{Node: n.name, Final: true}
		if verdicts == nil {
			continue
		}
		v := verdicts[i]
		if texts[v.reasons] == nil {
			texts[v.reasons] = v.texts(y.scalars)
		}
		e.Nodes[i].Reasons, e.Nodes[i].Final = texts[v.reasons], v.final
		e.reasons |= v.reasons
	}
	return e
}
