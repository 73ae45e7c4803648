package scheduler

// topology numbers the values that one label has among the nodes: a zone, a
// rack, a node. Counting by number costs no look-up of labels.
type topology struct {
	of      []int32 // by node.index; none where the node lacks the label
	domains int
}

const none int32 = -1

// topologyOf numbers a label's values; it is kept until a node comes, goes or
// is labelled otherwise.
func (c *cluster) topologyOf(key string) *topology {
	if t := c.topologies[key]; t != nil {
		return t
	}
	t := &topology{of: make([]int32, len(c.order))}
	ids := map[string]int32{}
	for i, n := range c.order {
		value, ok := n.obj.Labels[key]
		if !ok {
			t.of[i] = none
			continue
		}
		id, known := ids[value]
		if !known {
			id = int32(len(ids))
			ids[value] = id
		}
		t.of[i] = id
	}
	t.domains = len(ids)
	c.topologies[key] = t
	return t
}

// domain is the number of the node's domain, or none.
func (t *topology) domain(n *node) int32 {
	if n.index < 0 {
		return none
	}
	return t.of[n.index]
}

// reindex numbers the nodes anew.
func (c *cluster) reindex() {
	for i, n := range c.order {
		n.index = i
	}
	clear(c.topologies)
}

// tally counts pods by domain.
type tally struct {
	*topology
	counts []int
}

func (c *cluster) newTally(key string) tally {
	t := c.topologyOf(key)
	return tally{t, make([]int, t.domains)}
}

func (t *tally) add(n *node, count int) {
	if d := t.domain(n); d != none {
		t.counts[d] += count
	}
}

// at is the count of the node's domain; ok is false for a node in none.
func (t *tally) at(n *node) (count int, ok bool) {
	d := t.domain(n)
	if d == none {
		return 0, false
	}
	return t.counts[d], true
}
