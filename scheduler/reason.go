package scheduler

import (
	"fmt"
	"math/bits"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// reason says why a pod cannot be on a node. The words are Kubernetes' own:
// people and autoscalers read them.
type reason uint8

const (
	unschedulable reason = iota
	otherNodeName
	otherNodeNames
	untoleratedTaint
	nodeAffinityMismatch
	portsTaken
	tooManyPods
	insufficientCPU
	insufficientMemory
	insufficientStorage
	claimInUse
	volumeGone
	volumeElsewhere
	noVolume
	spreadTooUneven
	spreadLabelMissing
	affinityMismatch
	antiAffinityMismatch
	othersAntiAffinity
	fixedReasons
)

var reasonTexts = [fixedReasons]string{
	unschedulable:        "node(s) were unschedulable",
	otherNodeName:        "node(s) didn't match the requested node name",
	otherNodeNames:       "node(s) didn't satisfy plugin(s) [NodeAffinity]",
	untoleratedTaint:     "node(s) had untolerated taint(s)",
	nodeAffinityMismatch: "node(s) didn't match Pod's node affinity/selector",
	portsTaken:           "node(s) didn't have free ports for the requested pod ports",
	tooManyPods:          "Too many pods",
	insufficientCPU:      "Insufficient cpu",
	insufficientMemory:   "Insufficient memory",
	insufficientStorage:  "Insufficient ephemeral-storage",
	claimInUse:           "node has pod using PersistentVolumeClaim with the same name and ReadWriteOncePod access mode",
	volumeGone:           "node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)",
	volumeElsewhere:      "node(s) didn't match PersistentVolume's node affinity",
	noVolume:             "node(s) didn't find available persistent volumes to bind",
	spreadTooUneven:      "node(s) didn't match pod topology spread constraints",
	spreadLabelMissing:   "node(s) didn't match pod topology spread constraints (missing required label)",
	affinityMismatch:     "node(s) didn't match pod affinity rules",
	antiAffinityMismatch: "node(s) didn't match pod anti-affinity rules",
	othersAntiAffinity:   "node(s) didn't satisfy existing pods anti-affinity rules",
}

// verdict is why one node will not do: a set of reasons, and whether removing
// pods from the node could change that. The zero verdict means that it will.
type verdict struct {
	reasons uint64
	final   bool
}

func (v *verdict) because(r reason, final bool) {
	v.reasons |= 1 << r
	v.final = v.final || final
}

func (v verdict) ok() bool { return v.reasons == 0 }

func only(r reason, final bool) verdict { return verdict{reasons: 1 << r, final: final} }

// localReasons are those that depend on the node alone and on what runs there.
const localReasons uint64 = 1<<unschedulable | 1<<otherNodeName | 1<<otherNodeNames | 1<<untoleratedTaint | 1<<nodeAffinityMismatch |
	1<<portsTaken | 1<<tooManyPods | 1<<insufficientCPU | 1<<insufficientMemory | 1<<insufficientStorage | scalarReasons

// scalarReasons are the bits after the fixed ones: a resource each.
const scalarReasons uint64 = (1<<64 - 1) &^ (1<<fixedReasons - 1)

// volumeReasons depend on claims, volumes and classes.
const volumeReasons uint64 = 1<<claimInUse | 1<<volumeGone | 1<<volumeElsewhere | 1<<noVolume

// podReasons depend on where other pods are.
const podReasons uint64 = 1<<spreadTooUneven | 1<<spreadLabelMissing | 1<<affinityMismatch | 1<<antiAffinityMismatch | 1<<othersAntiAffinity

// Explanation is why a pod is on no node.
type Explanation struct {
	// Before is what ruled out all nodes before any was looked at, or "".
	Before string
	// Nodes says per node, in the order of names, what is in the way.
	Nodes []NodeExplanation
	// Preemption is what came of the attempt to make room, or "".
	Preemption string

	reasons uint64 // of all nodes
}

// NodeExplanation is why one node will not do.
type NodeExplanation struct {
	Node    string
	Reasons []string
	// Final: removing pods from the node would not help.
	Final bool
}

// String is the message of the pod's condition and of its FailedScheduling
// event.
func (e *Explanation) String() string {
	if len(e.Nodes) == 0 {
		return "no nodes available to schedule pods"
	}
	var b strings.Builder
	fmt.Fprintf(&b, "0/%d nodes are available:", len(e.Nodes))
	if e.Before != "" {
		fmt.Fprintf(&b, " %s.", e.Before)
	} else {
		fmt.Fprintf(&b, " %s.", histogram(e.Nodes))
	}
	if e.Preemption != "" {
		b.WriteString(" " + e.Preemption)
	}
	return b.String()
}

func histogram(nodes []NodeExplanation) string {
	counts := map[string]int{}
	for _, n := range nodes {
		for _, r := range n.Reasons {
			counts[r]++
		}
	}
	var list []string
	for r, n := range counts {
		list = append(list, fmt.Sprintf("%d %s", n, r))
	}
	slices.Sort(list)
	return strings.Join(list, ", ")
}

// texts spells a verdict out. scalars names the resources beyond the fixed
// reasons.
func (v verdict) texts(scalars []corev1.ResourceName) []string {
	var out []string
	for set := v.reasons; set != 0; set &= set - 1 {
		r := bits.TrailingZeros64(set)
		if r < int(fixedReasons) {
			out = append(out, reasonTexts[r])
		} else {
			out = append(out, "Insufficient "+string(scalars[r-int(fixedReasons)]))
		}
	}
	return out
}
