package scheduler

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// worldText shows all that the cluster's sums and counts hold.
func worldText(c *cluster) string {
	var lines []string
	for name, n := range c.nodes {
		lines = append(lines, fmt.Sprintf("%s %d %d %d %v ports %v pods %d", name, n.used.cpu, n.used.memory, n.usedCPU, n.used.scalars, n.ports, len(n.pods)))
	}
	for kind, groups := range c.groups {
		for id, g := range groups {
			lines = append(lines, fmt.Sprintf("group %d %s %v", kind, id, counts(g.nodes)))
		}
	}
	for key, k := range c.counters {
		lines = append(lines, fmt.Sprintf("counter %s %d %v", key, k.total, counts(k.nodes)))
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

func counts(m map[*node]int) map[string]int {
	out := map[string]int{}
	for n, count := range m {
		out[n.name] = count
	}
	return out
}

func pick[T any](r *rand.Rand, list ...T) T { return list[r.IntN(len(list))] }

func randomNode(r *rand.Rand, i int) *corev1.Node {
	return aNode(numbered("n", i), pick(r, "z1", "z2", "z3"), func(n *corev1.Node) {
		n.Spec.Unschedulable = r.IntN(20) == 0
		if r.IntN(5) == 0 {
			taint("special", pick(r, corev1.TaintEffectNoSchedule, corev1.TaintEffectPreferNoSchedule, corev1.TaintEffectNoExecute))(n)
		}
		if r.IntN(8) == 0 {
			delete(n.Labels, corev1.LabelTopologyZone)
		}
	})
}

func randomPod(t *testing.T, r *rand.Rand, i int) *corev1.Pod {
	app := pick(r, "a", "b", "c")
	p := aPod(numbered("p", i), label("app", app), cpu(pick(r, "0", "100m", "500m", "1", "3")), asks(corev1.ResourceMemory, pick(r, "0", "64Mi", "1Gi", "6Gi")), priority(int32(r.IntN(3))))
	key := pick(r, corev1.LabelHostname, corev1.LabelTopologyZone)
	other := pick(r, "a", "b", "c")
	switch r.IntN(7) {
	case 0:
		spec(t, "affinity: {podAntiAffinity: {requiredDuringSchedulingIgnoredDuringExecution: [{topologyKey: "+key+", labelSelector: {matchLabels: {app: "+other+"}}}]}}")(p)
	case 1:
		spec(t, "affinity: {podAffinity: {requiredDuringSchedulingIgnoredDuringExecution: [{topologyKey: "+key+", labelSelector: {matchLabels: {app: "+other+"}}}]}}")(p)
	case 2:
		spec(t, "topologySpreadConstraints: [{maxSkew: 2, topologyKey: "+key+", whenUnsatisfiable: DoNotSchedule, labelSelector: {matchLabels: {app: "+app+"}}}]")(p)
	case 3:
		spec(t, "tolerations: [{operator: Exists}]")(p)
	case 4:
		p.Spec.Containers[0].Ports = []corev1.ContainerPort{{ContainerPort: 1, HostPort: int32(8000 + r.IntN(2)), Protocol: corev1.ProtocolTCP}}
	}
	return p
}

// Over many random clusters: whatever is placed obeys every rule, by a check
// that is written apart from the filters and knows no caches; and whoever is
// not placed is told why.
func TestDecisionsObeyEveryRule(t *testing.T) {
	for seed := range uint64(60) {
		r := rand.New(rand.NewPCG(seed, 1))
		c := world(t)
		for i := range 3 + r.IntN(12) {
			c.setNode(randomNode(r, i))
		}
		for i := range 120 {
			if i%10 == 9 {
				removeRandom(c, r)
			}
			p := newPodInfo(randomPod(t, r, i))
			d := c.decide(p)
			if d.node == nil {
				checkExplained(t, c, d.why)
				continue
			}
			if problem := breaks(c, p, d.node); problem != "" {
				t.Fatalf("seed %d: %s on %s: %s", seed, p.key, d.node.name, problem)
			}
			p.node = d.node.name
			c.place(p)
		}
		checkSums(t, c)
	}
}

func removeRandom(c *cluster, r *rand.Rand) {
	for _, p := range c.pods {
		if r.IntN(4) == 0 {
			c.take(p)
			return
		}
	}
}

func checkExplained(t *testing.T, c *cluster, why *Explanation) {
	t.Helper()
	if len(why.Nodes) != len(c.order) {
		t.Fatalf("%d of %d nodes explained", len(why.Nodes), len(c.order))
	}
	for _, n := range why.Nodes {
		if len(n.Reasons) == 0 {
			t.Fatalf("no reason for node %s", n.Node)
		}
	}
}

// checkSums compares what was added up on the way with a fresh count.
func checkSums(t *testing.T, c *cluster) {
	t.Helper()
	fresh := newCluster(c.view)
	fresh.namespaces = c.namespaces
	for _, n := range c.order {
		fresh.setNode(n.obj)
	}
	for _, p := range c.pods {
		fresh.place(p)
	}
	for _, k := range c.counters {
		fresh.counterOf(k.matchers...)
	}
	sortPorts(c)
	sortPorts(fresh)
	if a, b := worldText(c), worldText(fresh); a != b {
		t.Fatalf("sums have drifted:\n%s\n\nfresh:\n%s", a, b)
	}
}

func sortPorts(c *cluster) {
	for _, n := range c.nodes {
		slices.SortFunc(n.ports, func(a, b hostPort) int { return int(a.port - b.port) })
	}
}

// breaks names a rule that the pod on the node would break, or "".
func breaks(c *cluster, p *podInfo, n *node) string {
	used, memory := p.need.cpu, p.need.memory
	for _, o := range c.pods {
		if o.node == n.name {
			used, memory = used+o.need.cpu, memory+o.need.memory
			if len(p.ports) > 0 && len(o.ports) > 0 && p.ports[0] == o.ports[0] {
				return "port taken by " + o.key.Name
			}
		}
	}
	switch {
	case used > n.obj.Status.Allocatable.Cpu().MilliValue():
		return "too much CPU"
	case memory > n.obj.Status.Allocatable.Memory().Value():
		return "too much memory"
	case n.obj.Spec.Unschedulable && len(p.pod.Spec.Tolerations) == 0:
		return "cordoned"
	}
	for _, t := range n.obj.Spec.Taints {
		if t.Effect != corev1.TaintEffectPreferNoSchedule && len(p.pod.Spec.Tolerations) == 0 {
			return "tainted"
		}
	}
	return breaksAbout(c, p, n)
}

// breaksAbout is about other pods.
func breaksAbout(c *cluster, p *podInfo, n *node) string {
	near := func(o *podInfo, key string) bool {
		a, ok := n.obj.Labels[key]
		other := c.nodes[o.node].obj.Labels
		b, found := other[key]
		return ok && found && a == b
	}
	matches := func(s *metav1.LabelSelector, o *podInfo) bool { return s.MatchLabels["app"] == o.labels["app"] }
	for _, o := range c.pods {
		for _, t := range antiTerms(p) {
			if near(o, t.TopologyKey) && matches(t.LabelSelector, o) {
				return "must not be near " + o.key.Name
			}
		}
		for _, t := range antiTerms(o) {
			if near(o, t.TopologyKey) && matches(t.LabelSelector, p) {
				return o.key.Name + " must not be near it"
			}
		}
	}
	if a := p.pod.Spec.Affinity; a != nil && a.PodAffinity != nil {
		t := a.PodAffinity.RequiredDuringSchedulingIgnoredDuringExecution[0]
		anywhere, here := false, false
		for _, o := range c.pods {
			if _, labelled := c.nodes[o.node].obj.Labels[t.TopologyKey]; labelled && matches(t.LabelSelector, o) {
				anywhere, here = true, here || near(o, t.TopologyKey)
			}
		}
		if !here && (anywhere || !matches(t.LabelSelector, p)) {
			return "is not near what it needs"
		}
	}
	return breaksSpread(c, p, n)
}

func antiTerms(p *podInfo) []corev1.PodAffinityTerm {
	if a := p.pod.Spec.Affinity; a != nil && a.PodAntiAffinity != nil {
		return a.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution
	}
	return nil
}

func breaksSpread(c *cluster, p *podInfo, n *node) string {
	for _, s := range p.pod.Spec.TopologySpreadConstraints {
		value, ok := n.obj.Labels[s.TopologyKey]
		if !ok {
			return "no label " + s.TopologyKey
		}
		counts := map[string]int{}
		for _, o := range c.order {
			if v, ok := o.obj.Labels[s.TopologyKey]; ok {
				counts[v] += 0
			}
		}
		for _, o := range c.pods {
			if v, ok := c.nodes[o.node].obj.Labels[s.TopologyKey]; ok && o.labels["app"] == p.labels["app"] {
				counts[v]++
			}
		}
		least := counts[value]
		for _, v := range counts {
			least = min(least, v)
		}
		if counts[value]+1-least > int(s.MaxSkew) {
			return "spread too unevenly"
		}
	}
	return ""
}
