package pods

import (
	"cmp"
	"math/bits"
	"slices"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// DeletionCost is the annotation by which users say which replica they would
// miss least (KEP-2255).
const DeletionCost = corev1.PodDeletionCost

// Victims chooses n of the active pods to delete, in the documented order of
// the ReplicaSet: pods that no node has, then pending, then not ready; then the
// lower deletion cost, the node with more related replicas, the pod that became
// ready later, restarted more often, was created later. Ages compare by powers
// of two (KEP-2185), so that among equals the choice is even and not always the
// newest. related are all pods of the sets with the same owner.
func Victims(active, related []*corev1.Pod, n int, now time.Time) []*corev1.Pod {
	if n >= len(active) {
		return active
	}
	onNode := map[string]int{}
	for _, p := range related {
		if Active(p) && p.Spec.NodeName != "" {
			onNode[p.Spec.NodeName]++
		}
	}
	sorted := slices.Clone(active)
	slices.SortStableFunc(sorted, func(a, b *corev1.Pod) int {
		return cmp.Or(
			bools(a.Spec.NodeName != "", b.Spec.NodeName != ""),
			cmp.Compare(phaseRank(a), phaseRank(b)),
			bools(Ready(a), Ready(b)),
			cmp.Compare(cost(a), cost(b)),
			cmp.Compare(onNode[b.Spec.NodeName], onNode[a.Spec.NodeName]),
			younger(readySince(a), readySince(b), now),
			restarts(b, a),
			younger(a.CreationTimestamp, b.CreationTimestamp, now),
			cmp.Compare(a.UID, b.UID),
		)
	})
	return sorted[:n]
}

// bools orders false before true.
func bools(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

func phaseRank(p *corev1.Pod) int {
	switch p.Status.Phase {
	case corev1.PodRunning:
		return 2
	case corev1.PodUnknown:
		return 1
	default:
		return 0
	}
}

func cost(p *corev1.Pod) int64 {
	n, err := strconv.ParseInt(p.Annotations[DeletionCost], 10, 32)
	if err != nil {
		return 0 // validation refuses others
	}
	return n
}

func readySince(p *corev1.Pod) metav1.Time {
	if c := Condition(p, corev1.PodReady); c != nil && c.Status == corev1.ConditionTrue {
		return c.LastTransitionTime
	}
	return metav1.Time{}
}

func restarts(a, b *corev1.Pod) int {
	ac, as := Restarts(a)
	bc, bs := Restarts(b)
	return cmp.Or(cmp.Compare(ac, bc), cmp.Compare(as, bs))
}

// younger orders the later instant first, by the power of two of its age in
// seconds; an unknown instant counts as the latest.
func younger(a, b metav1.Time, now time.Time) int {
	return cmp.Compare(magnitude(a, now), magnitude(b, now))
}

func magnitude(t metav1.Time, now time.Time) int {
	if t.IsZero() {
		return -1
	}
	return bits.Len64(uint64(max(now.Sub(t.Time), 0) / time.Second))
}
