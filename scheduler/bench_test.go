package scheduler

import (
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// BenchmarkDecide decides and places pods on 1,000 nodes, as the loop does but
// for the writes.
func BenchmarkDecide(b *testing.B) {
	for name, change := range map[string]func(*corev1.Pod){
		"plain":    func(*corev1.Pod) {},
		"spread":   spec(b, "topologySpreadConstraints: [{maxSkew: 5, topologyKey: topology.kubernetes.io/zone, whenUnsatisfiable: DoNotSchedule, labelSelector: {matchLabels: {app: a}}}]"),
		"affinity": spec(b, "affinity: {podAntiAffinity: {preferredDuringSchedulingIgnoredDuringExecution: [{weight: 1, podAffinityTerm: {topologyKey: kubernetes.io/hostname, labelSelector: {matchLabels: {app: a}}}}]}}"),
		"daemon":   spec(b, "affinity: {nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [{matchFields: [{key: metadata.name, operator: In, values: [n-007]}]}]}}}"),
	} {
		b.Run(name, func(b *testing.B) {
			c := world(b)
			for i := range 1000 {
				c.setNode(aNode(numbered("n", i), fmt.Sprintf("z%d", i%3)))
			}
			var placed []*podInfo
			for i := 0; b.Loop(); i++ {
				p := newPodInfo(aPod(fmt.Sprint(i), label("app", "a"), cpu("10m"), change))
				d := c.decide(p)
				if d.node == nil {
					b.Fatal(d.why)
				}
				p.node = d.node.name
				c.place(p)
				if placed = append(placed, p); len(placed) > 5000 || name == "daemon" {
					c.take(placed[0])
					placed = placed[1:]
				}
			}
		})
	}
}

// BenchmarkExplain is a full cluster: every node is looked at, and for victims.
func BenchmarkExplain(b *testing.B) {
	c := world(b)
	for i := range 1000 {
		n := numbered("n", i)
		c.setNode(aNode(n, "z"))
		c.place(newPodInfo(aPod("x"+n, cpu("4"), on(n))))
	}
	p := newPodInfo(aPod("p", cpu("1")))
	for b.Loop() {
		d := c.decide(p)
		if _, ok := c.preempt(d); ok || d.why.String() == "" {
			b.Fatal("found room")
		}
	}
}
