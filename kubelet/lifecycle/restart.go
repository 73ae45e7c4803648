package lifecycle

import (
	"hash/fnv"
	"slices"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// The crash-loop back-off, as the Pod lifecycle page documents it.
const (
	firstBackoff = 10 * time.Second
	maxBackoff   = 5 * time.Minute
	calm         = 10 * time.Minute // running this long clears the back-off
)

// restarts tells whether the newest instance's exit is followed by another start.
func (d *decider) restarts(s *slot) bool {
	last := s.newest()
	switch s.kind {
	case sidecar:
		return true
	case ephemeral:
		return false
	}
	if restart, ok := byRule(s.spec.RestartPolicyRules, last.ExitCode); ok {
		return restart
	}
	return byPolicy(d.policy(s), last.ExitCode)
}

// policy is the container's own restart policy where it has one (KEP-5307), else
// the pod's. An init container that must succeed never repeats a success.
func (d *decider) policy(s *slot) corev1.RestartPolicy {
	p := d.Pod.Spec.RestartPolicy
	if s.spec.RestartPolicy != nil {
		p = corev1.RestartPolicy(*s.spec.RestartPolicy)
	}
	if s.kind == regularInit && p != corev1.RestartPolicyNever {
		p = corev1.RestartPolicyOnFailure
	}
	return p
}

func byPolicy(p corev1.RestartPolicy, exit int32) bool {
	switch p {
	case corev1.RestartPolicyNever:
		return false
	case corev1.RestartPolicyOnFailure:
		return exit != 0
	}
	return true
}

// byRule applies the first rule that matches the exit code.
func byRule(rules []corev1.ContainerRestartRule, exit int32) (restart, ok bool) {
	for _, r := range rules {
		if r.ExitCodes == nil {
			continue
		}
		in := slices.Contains(r.ExitCodes.Values, exit)
		if in == (r.ExitCodes.Operator == corev1.ContainerRestartRuleOnExitCodesOpIn) {
			// RestartAllContainers restarts at least the one that asks for it.
			return r.Action == corev1.ContainerRestartRuleActionRestart || r.Action == corev1.ContainerRestartRuleActionRestartAllContainers, true
		}
	}
	return false, false
}

// backoff reads an exited instance's record: until when its successor waits, and
// the wait that the successor gets.
func backoff(last *cri.ContainerStatus) (until time.Time, next time.Duration) {
	if last == nil {
		return time.Time{}, 0
	}
	wait, _ := time.ParseDuration(last.Annotations[AnnotationBackoff])
	if last.StartedAt > 0 && last.FinishedAt-last.StartedAt > int64(calm) {
		wait = 0
	}
	next = min(max(2*wait, firstBackoff), maxBackoff)
	return time.Unix(0, last.FinishedAt).Add(wait), next
}

// Hash identifies what of a container's spec cannot change under a running
// instance; a change restarts it.
func Hash(c *corev1.Container) string {
	h := fnv.New32a()
	h.Write([]byte(c.Name + "\x00" + c.Image))
	return strconv.FormatUint(uint64(h.Sum32()), 16)
}
