package lifecycle

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// phase follows the Pod lifecycle page. A terminal phase stays, and is not
// reached while anything still runs.
func (d *decider) phase() corev1.PodPhase {
	if terminal(d.Pod.Status.Phase) {
		return d.Pod.Status.Phase
	}
	if d.out.Terminating && d.ended() {
		return d.outcome()
	}
	for _, s := range d.inits {
		if s.kind == regularInit && !d.passed(s) {
			return d.atLeast(corev1.PodPending)
		}
	}
	for _, s := range d.mains {
		if len(d.shown(s)) == 0 {
			return d.atLeast(corev1.PodPending)
		}
	}
	return corev1.PodRunning
}

// atLeast keeps a pod that ran from being called pending again (its sandbox is
// being replaced).
func (d *decider) atLeast(p corev1.PodPhase) corev1.PodPhase {
	if d.Pod.Status.Phase == corev1.PodRunning {
		return corev1.PodRunning
	}
	return p
}

// passed: the init container succeeded once, or a main container shows that it must have.
func (d *decider) passed(s *slot) bool {
	if c := s.newest(); exited(c) && c.ExitCode == 0 {
		return true
	}
	return slices.ContainsFunc(d.mains, func(m *slot) bool { return len(d.shown(m)) > 0 })
}

// ended: no process is left, and none is being started.
func (d *decider) ended() bool {
	return !d.starting() && !slices.ContainsFunc(d.Containers, running)
}

// outcome is the terminal phase: Succeeded only if the node had no reason to end
// the pod and every main container ended well.
func (d *decider) outcome() corev1.PodPhase {
	if d.stop != nil {
		return corev1.PodFailed
	}
	for _, s := range d.mains {
		if c := s.newest(); !exited(c) || c.ExitCode != 0 {
			return corev1.PodFailed
		}
	}
	return corev1.PodSucceeded
}

// conditions sets the kubelet's own and leaves everybody else's alone.
func (d *decider) conditions(out *corev1.PodStatus) {
	set := func(c corev1.PodCondition) {
		c.ObservedGeneration = d.Pod.Generation
		out.Conditions = setCondition(out.Conditions, c, metav1.NewTime(d.Now).Rfc3339Copy())
	}
	networked := d.sandbox != nil && (d.Pod.Spec.HostNetwork || len(d.podIPs()) > 0)
	set(condition(corev1.PodReadyToStartContainers, networked, "", ""))
	set(d.initializedCondition(out))
	containers := d.readyCondition(out)
	set(containers)
	set(d.gated(containers, out))
	d.resizeConditions(out, set)
	if i := findCondition(out.Conditions, corev1.PodScheduled); i < 0 {
		set(condition(corev1.PodScheduled, true, "", ""))
	}
}

func condition(t corev1.PodConditionType, ok bool, reason, message string) corev1.PodCondition {
	if ok {
		return corev1.PodCondition{Type: t, Status: corev1.ConditionTrue, Reason: reason}
	}
	return corev1.PodCondition{Type: t, Status: corev1.ConditionFalse, Reason: reason, Message: message}
}

func (d *decider) initializedCondition(out *corev1.PodStatus) corev1.PodCondition {
	if out.Phase == corev1.PodSucceeded {
		return condition(corev1.PodInitialized, true, "PodCompleted", "")
	}
	var missing []string
	began := slices.ContainsFunc(d.mains, func(m *slot) bool { return len(d.shown(m)) > 0 })
	for _, s := range d.inits {
		if s.kind == regularInit && !d.passed(s) || s.kind == sidecar && !began && !d.started(s) {
			missing = append(missing, s.spec.Name)
		}
	}
	return condition(corev1.PodInitialized, len(missing) == 0, reasonIf(missing, "ContainersNotInitialized"),
		fmt.Sprintf("containers with incomplete status: [%s]", strings.Join(missing, " ")))
}

func reasonIf(names []string, reason string) string {
	if len(names) == 0 {
		return ""
	}
	return reason
}

// readyCondition is ContainersReady.
func (d *decider) readyCondition(out *corev1.PodStatus) corev1.PodCondition {
	switch out.Phase {
	case corev1.PodSucceeded:
		return condition(corev1.ContainersReady, false, "PodCompleted", "")
	case corev1.PodFailed:
		return condition(corev1.ContainersReady, false, "PodFailed", "")
	}
	var unready []string
	for _, s := range slices.Concat(d.inits, d.mains) {
		if s.kind != regularInit && !d.ready(s) {
			unready = append(unready, s.spec.Name)
		}
	}
	return condition(corev1.ContainersReady, len(unready) == 0, reasonIf(unready, "ContainersNotReady"),
		fmt.Sprintf("containers with unready status: [%s]", strings.Join(unready, " ")))
}

// gated is the Ready condition: the containers' and the readiness gates' (KEP-580).
func (d *decider) gated(containers corev1.PodCondition, out *corev1.PodStatus) corev1.PodCondition {
	c := containers
	c.Type = corev1.PodReady
	if c.Status != corev1.ConditionTrue {
		return c
	}
	var why []string
	for _, g := range d.Pod.Spec.ReadinessGates {
		i := findCondition(out.Conditions, g.ConditionType)
		switch {
		case i < 0:
			why = append(why, fmt.Sprintf("corresponding condition of pod readiness gate %q does not exist.", g.ConditionType))
		case out.Conditions[i].Status != corev1.ConditionTrue:
			why = append(why, fmt.Sprintf("the status of pod readiness gate %q is not \"True\", but %v", g.ConditionType, out.Conditions[i].Status))
		}
	}
	return condition(corev1.PodReady, len(why) == 0, reasonIf(why, "ReadinessGatesNotReady"), strings.Join(why, ", "))
}

func findCondition(list []corev1.PodCondition, t corev1.PodConditionType) int {
	return slices.IndexFunc(list, func(c corev1.PodCondition) bool { return c.Type == t })
}

// setCondition keeps the transition time of a status that did not change.
func setCondition(list []corev1.PodCondition, c corev1.PodCondition, now metav1.Time) []corev1.PodCondition {
	c.LastTransitionTime = now
	i := findCondition(list, c.Type)
	if i < 0 {
		return append(list, c)
	}
	if list[i].Status == c.Status && !list[i].LastTransitionTime.IsZero() {
		c.LastTransitionTime = list[i].LastTransitionTime
	}
	list[i] = c
	return list
}
