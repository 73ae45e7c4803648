package scheduler

import (
	"cmp"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"

	"proa/client"
)

// cluster is the state that decisions are made on. It has one owner and no
// locks.
type cluster struct {
	nodes map[string]*node
	// order lists the nodes that exist, by name; next is where the search for
	// the next pod begins, so that equal nodes take turns.
	order []*node
	next  int

	pods       map[client.Key]*podInfo // on nodes, assumed ones too
	namespaces map[string]labels.Set
	groups     [2]map[string]*termGroup // by termKind
	counters   map[string]*counter
	clock      uint64
	claimUsers map[client.Key]int
	priorities map[int32]int // of placed pods
	topologies map[string]*topology
	imageNodes map[string]int // how many nodes have an image
	soft       int            // nodes with PreferNoSchedule taints

	// view reads what is not folded into the above: volumes, workloads.
	view client.View
}

func newCluster(v client.View) *cluster {
	return &cluster{
		nodes: map[string]*node{}, pods: map[client.Key]*podInfo{}, namespaces: map[string]labels.Set{},
		groups:   [2]map[string]*termGroup{{}, {}},
		counters: map[string]*counter{}, claimUsers: map[client.Key]int{}, priorities: map[int32]int{},
		topologies: map[string]*topology{}, imageNodes: map[string]int{},
		view: v,
	}
}

// setNode adds a node or takes over its new state.
func (c *cluster) setNode(obj *corev1.Node) *node {
	n := c.nodes[obj.Name]
	if n == nil {
		n = newNode(obj.Name)
		c.nodes[obj.Name] = n
	}
	if n.obj == nil {
		i, _ := slices.BinarySearchFunc(c.order, obj.Name, func(n *node, name string) int { return cmp.Compare(n.name, name) })
		c.order = slices.Insert(c.order, i, n)
		c.reindex()
	} else if !maps.Equal(n.obj.Labels, obj.Labels) {
		clear(c.topologies)
	}
	c.sumUp(n, -1)
	n.set(obj)
	c.sumUp(n, 1)
	return n
}

// dropNode keeps what runs on the node, if anything: its pods are still there
// until somebody deletes them.
func (c *cluster) dropNode(name string) {
	n := c.nodes[name]
	if n == nil || n.obj == nil {
		return
	}
	c.sumUp(n, -1)
	c.order = slices.DeleteFunc(c.order, func(o *node) bool { return o == n })
	c.reindex()
	n.obj, n.index, n.images, n.softTaints = nil, -1, nil, nil
	c.forgetEmpty(n)
}

// sumUp keeps the counts over all nodes.
func (c *cluster) sumUp(n *node, sign int) {
	for name := range n.images {
		c.imageNodes[name] += sign
		if c.imageNodes[name] == 0 {
			delete(c.imageNodes, name)
		}
	}
	if len(n.softTaints) > 0 {
		c.soft += sign
	}
}

func (c *cluster) forgetEmpty(n *node) {
	if n.obj == nil && len(n.pods) == 0 && len(n.nominated) == 0 {
		delete(c.nodes, n.name)
	}
}

// place puts a pod on a node, which need not be known.
func (c *cluster) place(p *podInfo) {
	n := c.nodes[p.node]
	if n == nil {
		n = newNode(p.node)
		c.nodes[p.node] = n
	}
	c.pods[p.key] = p
	c.priorities[p.priority]++
	n.add(p)
	p.affinity.rules(func(kind termKind, t *affinityTerm) {
		id := t.id()
		g := c.groups[kind][id]
		if g == nil {
			g = &termGroup{affinityTerm: *t, nodes: map[*node]int{}}
			c.groups[kind][id] = g
		}
		g.nodes[n]++
	})
	c.count(p, n, 1)
	for _, claim := range p.claims {
		c.claimUsers[claim]++
	}
}

// take removes a pod from its node.
func (c *cluster) take(p *podInfo) {
	n := c.nodes[p.node]
	delete(c.pods, p.key)
	if c.priorities[p.priority]--; c.priorities[p.priority] == 0 {
		delete(c.priorities, p.priority)
	}
	n.remove(p)
	p.affinity.rules(func(kind termKind, t *affinityTerm) {
		id := t.id()
		g := c.groups[kind][id]
		if g.nodes[n]--; g.nodes[n] == 0 {
			delete(g.nodes, n)
		}
		if len(g.nodes) == 0 {
			delete(c.groups[kind], id)
		}
	})
	c.count(p, n, -1)
	for _, claim := range p.claims {
		if c.claimUsers[claim]--; c.claimUsers[claim] == 0 {
			delete(c.claimUsers, claim)
		}
	}
	c.forgetEmpty(n)
}

// setNamespace takes over a namespace's labels, nil when it is gone. Counts by
// namespaces' labels start over.
func (c *cluster) setNamespace(name string, set labels.Set) {
	if labels.Equals(c.namespaces[name], set) {
		return
	}
	if set == nil {
		delete(c.namespaces, name)
	} else {
		c.namespaces[name] = set
	}
	for key, k := range c.counters {
		if k.byNamespaceLabels() {
			delete(c.counters, key)
		}
	}
}

// counter counts, node by node, the pods that all its matchers find. It is
// kept current for as long as pods come that ask for it.
type counter struct {
	matchers []matcher
	nodes    map[*node]int
	total    int
	used     uint64
}

// maxCounters bounds the work that each placed pod causes.
const maxCounters = 128

// counterOf finds the counter of some matchers or counts from scratch.
func (c *cluster) counterOf(matchers ...matcher) *counter {
	key := ""
	for i := range matchers {
		key += matchers[i].key + "&"
	}
	c.clock++
	k := c.counters[key]
	if k == nil {
		k = &counter{matchers: matchers, nodes: map[*node]int{}}
		for _, p := range c.pods {
			k.count(c, p, c.nodes[p.node], 1)
		}
		c.evictCounter()
		c.counters[key] = k
	}
	k.used = c.clock
	return k
}

func (c *cluster) evictCounter() {
	if len(c.counters) < maxCounters {
		return
	}
	oldest := ""
	for key, k := range c.counters {
		if oldest == "" || k.used < c.counters[oldest].used {
			oldest = key
		}
	}
	delete(c.counters, oldest)
}

func (c *cluster) count(p *podInfo, n *node, sign int) {
	for _, k := range c.counters {
		k.count(c, p, n, sign)
	}
}

func (k *counter) count(c *cluster, p *podInfo, n *node, sign int) {
	if !k.finds(c, p) {
		return
	}
	k.total += sign
	if k.nodes[n] += sign; k.nodes[n] == 0 {
		delete(k.nodes, n)
	}
}

func (k *counter) finds(c *cluster, p *podInfo) bool {
	for i := range k.matchers {
		if !k.matchers[i].finds(p, c.namespaces) {
			return false
		}
	}
	return true
}

func (k *counter) byNamespaceLabels() bool {
	return slices.ContainsFunc(k.matchers, func(m matcher) bool { return m.namespaceSelector != nil })
}
