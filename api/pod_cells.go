package api

import (
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
)

func podCells(p *corev1.Pod, now time.Time) []any {
	s := summarisePod(p)
	restarts := itoa(s.restarts)
	if s.restarts != 0 && !s.lastRestart.IsZero() {
		restarts += " (" + ageOf(s.lastRestart, now) + " ago)"
	}
	ip := p.Status.PodIP
	if len(p.Status.PodIPs) > 0 {
		ip = p.Status.PodIPs[0].IP
	}
	return []any{p.Name, fmt.Sprintf("%d/%d", s.ready, s.total), s.word, restarts, age(p, now),
		or(ip, none), or(p.Spec.NodeName, none), or(p.Status.NominatedNodeName, none), readinessGates(p)}
}

func or(s, empty string) string {
	if s == "" {
		return empty
	}
	return s
}

func readinessGates(p *corev1.Pod) string {
	if len(p.Spec.ReadinessGates) == 0 {
		return none
	}
	met := 0
	for _, g := range p.Spec.ReadinessGates {
		if podCondition(p, g.ConditionType) == corev1.ConditionTrue {
			met++
		}
	}
	return fmt.Sprintf("%d/%d", met, len(p.Spec.ReadinessGates))
}

// podCondition is the status of a condition, empty where the pod has none.
func podCondition(p *corev1.Pod, t corev1.PodConditionType) corev1.ConditionStatus {
	for _, c := range p.Status.Conditions {
		if c.Type == t {
			return c.Status
		}
	}
	return ""
}

// podSummary is a pod in one line: one word for what it is doing (the most
// telling of its phase and its containers' states), and counts.
type podSummary struct {
	word         string
	ready, total int
	restarts     int
	lastRestart  time.Time
}

func summarisePod(p *corev1.Pod) podSummary {
	s := podSummary{word: string(p.Status.Phase), total: len(p.Spec.Containers)}
	if p.Status.Reason != "" {
		s.word = p.Status.Reason
	}
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodScheduled && c.Reason == corev1.PodReasonSchedulingGated {
			s.word = corev1.PodReasonSchedulingGated
		}
	}
	sidecars := podSummary{} // their restarts count also once the pod runs
	initialising := s.addInit(p, &sidecars)
	if !initialising || podCondition(p, corev1.PodInitialized) == corev1.ConditionTrue {
		s.restarts, s.lastRestart = sidecars.restarts, sidecars.lastRestart
		s.addContainers(p)
	}
	switch {
	case p.DeletionTimestamp == nil:
	case p.Status.Reason == "NodeLost":
		s.word = "Unknown"
	case !podFinished(p):
		s.word = "Terminating"
	}
	return s
}

// addInit looks at the init containers up to the first that is not done, and
// tells whether there is one.
func (s *podSummary) addInit(p *corev1.Pod, sidecars *podSummary) bool {
	isSide := map[string]bool{}
	for i := range p.Spec.InitContainers {
		if c := &p.Spec.InitContainers[i]; isSidecar(c) {
			isSide[c.Name] = true
			s.total++
		}
	}
	for i := range p.Status.InitContainerStatuses {
		c := &p.Status.InitContainerStatuses[i]
		s.addRestarts(c)
		if isSide[c.Name] {
			sidecars.addRestarts(c)
		}
		switch t, w := c.State.Terminated, c.State.Waiting; {
		case t != nil && t.ExitCode == 0:
			continue
		case isSide[c.Name] && c.Started != nil && *c.Started:
			if c.Ready {
				s.ready++
			}
			continue
		case t != nil:
			s.word = "Init:" + ending(t)
		case w != nil && w.Reason != "" && w.Reason != "PodInitializing":
			s.word = "Init:" + w.Reason
		default:
			s.word = fmt.Sprintf("Init:%d/%d", i, len(p.Spec.InitContainers))
		}
		return true
	}
	return false
}

func (s *podSummary) addContainers(p *corev1.Pod) {
	running := false
	for i := len(p.Status.ContainerStatuses) - 1; i >= 0; i-- { // the first container has the last word
		c := &p.Status.ContainerStatuses[i]
		s.addRestarts(c)
		switch t, w := c.State.Terminated, c.State.Waiting; {
		case w != nil && w.Reason != "":
			s.word = w.Reason
		case t != nil:
			s.word = ending(t)
		case c.Ready && c.State.Running != nil:
			running = true
			s.ready++
		}
	}
	if s.word != "Completed" || !running {
		return
	}
	s.word = "NotReady"
	if podCondition(p, corev1.PodReady) == corev1.ConditionTrue {
		s.word = "Running"
	}
}

func (s *podSummary) addRestarts(c *corev1.ContainerStatus) {
	s.restarts += int(c.RestartCount)
	if t := c.LastTerminationState.Terminated; t != nil && s.lastRestart.Before(t.FinishedAt.Time) {
		s.lastRestart = t.FinishedAt.Time
	}
}

// ending is one word for how a container ended.
func ending(t *corev1.ContainerStateTerminated) string {
	switch {
	case t.Reason != "":
		return t.Reason
	case t.Signal != 0:
		return "Signal:" + itoa(t.Signal)
	}
	return "ExitCode:" + itoa(t.ExitCode)
}
