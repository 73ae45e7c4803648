package job

import (
	"fmt"
	"slices"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"proa/controllers/pods"
	"proa/reconcile"
)

// verdict is how a Job ends.
type verdict struct {
	ok              bool
	reason, message string
}

// stopping is the verdict that has been passed already: the Job waits for its
// pods to end.
func (w *work) stopping() *verdict {
	if c := condition(&w.Status, batchv1.JobFailureTarget); c != nil && c.Status == corev1.ConditionTrue {
		return &verdict{reason: c.Reason, message: c.Message}
	}
	if c := condition(&w.Status, batchv1.JobSuccessCriteriaMet); c != nil && c.Status == corev1.ConditionTrue {
		return &verdict{ok: true, reason: c.Reason, message: c.Message}
	}
	return nil
}

// judge passes a verdict, or nil where the work goes on.
func (w *work) judge() *verdict {
	if v := w.stopping(); v != nil {
		return v
	}
	if w.stop != nil {
		return w.stop
	}
	if v := w.judgeIndexes(); v != nil {
		return v
	}
	switch {
	case w.exceedsBackoff():
		return &verdict{reason: batchv1.JobReasonBackoffLimitExceeded, message: "Job has reached the specified backoff limit"}
	case w.pastDeadline():
		return &verdict{reason: batchv1.JobReasonDeadlineExceeded, message: "Job was active longer than specified deadline"}
	case w.reached():
		return &verdict{ok: true, reason: batchv1.JobReasonCompletionsReached, message: "Reached expected number of succeeded pods"}
	}
	return nil
}

// reached tells whether the work is done, suspended or not.
func (w *work) reached() bool {
	if w.completions() < 0 {
		return w.succeeded() > 0 && len(w.active) == 0
	}
	return w.succeeded() >= w.completions()
}

func (w *work) judgeIndexes() *verdict {
	if !w.indexed() {
		return nil
	}
	if limit := w.Spec.MaxFailedIndexes; limit != nil && w.failedIndexes.count() > int(*limit) {
		return &verdict{reason: batchv1.JobReasonMaxFailedIndexesExceeded, message: "Job has exceeded the specified maximal number of failed indexes"}
	}
	if w.Spec.SuccessPolicy != nil {
		for i, rule := range w.Spec.SuccessPolicy.Rules {
			if w.meets(rule) {
				return &verdict{ok: true, reason: batchv1.JobReasonSuccessPolicy, message: fmt.Sprintf("Matched rules at index %d", i)}
			}
		}
	}
	if w.failedIndexes.count() > 0 && w.failedIndexes.count()+w.completed.count() >= w.completions() {
		return &verdict{reason: batchv1.JobReasonFailedIndexes, message: "Job has failed indexes"}
	}
	return nil
}

// meets tells whether enough of the indexes that a rule names, or of all, have
// succeeded.
func (w *work) meets(rule batchv1.SuccessPolicyRule) bool {
	done, all := w.completed.count(), w.completions()
	if rule.SucceededIndexes != nil {
		named := parseIndexes(*rule.SucceededIndexes, w.completions())
		done, all = 0, named.count()
		for _, i := range named {
			if w.completed.has(i) {
				done++
			}
		}
	}
	if rule.SucceededCount != nil {
		return done >= int(*rule.SucceededCount)
	}
	return done >= all
}

// exceedsBackoff: too many pods failed, or the containers of those that restart
// in place did.
func (w *work) exceedsBackoff() bool {
	limit := 6
	if w.Spec.BackoffLimit != nil {
		limit = int(*w.Spec.BackoffLimit)
	}
	if w.failed() > limit {
		return true
	}
	if w.Spec.Template.Spec.RestartPolicy != corev1.RestartPolicyOnFailure {
		return false
	}
	restarts := 0
	for _, p := range w.active {
		for _, s := range slices.Concat(p.Status.InitContainerStatuses, p.Status.ContainerStatuses) {
			restarts += int(s.RestartCount)
		}
	}
	return restarts > 0 && restarts >= limit
}

func (w *work) pastDeadline() bool {
	limit := w.Spec.ActiveDeadlineSeconds
	if limit == nil || w.suspended() || w.next.StartTime == nil {
		return false
	}
	left := w.next.StartTime.Add(time.Duration(*limit) * time.Second).Sub(w.now)
	if left > 0 {
		w.wait = pods.Sooner(w.wait, left)
	}
	return left <= 0
}

// finish stops the pods and, when all have ended and are counted, ends the Job.
func (w *work) finish(v *verdict) {
	interim, last := batchv1.JobFailureTarget, batchv1.JobFailed
	if v.ok {
		interim, last = batchv1.JobSuccessCriteriaMet, batchv1.JobComplete
	}
	w.set(interim, corev1.ConditionTrue, v.reason, v.message)
	u := w.uncounted()
	if !v.ok {
		for _, p := range w.active { // what is stopped has failed
			if slices.Contains(p.Finalizers, tracking) {
				u.Failed = append(u.Failed, p.UID)
			}
		}
	}
	w.deletePods(w.active)
	if len(w.active) > 0 || *w.next.Terminating > 0 || len(u.Succeeded)+len(u.Failed) > 0 {
		return
	}
	w.next.UncountedTerminatedPods = nil
	w.set(last, corev1.ConditionTrue, v.reason, v.message)
	if v.ok {
		now := metav1.NewTime(w.now)
		w.next.CompletionTime = &now
		w.events = append(w.events, reconcile.Normal(w.Job, "Completed", "Job completed"))
	} else {
		w.events = append(w.events, reconcile.Warning(w.Job, v.reason, v.message))
	}
}

// applyPolicy does what the pod failure policy says of a failed pod, and tells
// whether the failure counts.
func (w *work) applyPolicy(p *corev1.Pod) bool {
	action, why, i := w.ruleFor(p)
	switch action {
	case batchv1.PodFailurePolicyActionIgnore:
		return false
	case batchv1.PodFailurePolicyActionFailIndex:
		if at := indexOf(p); at >= 0 && w.perIndex() {
			w.failedIndexes.add(at)
		}
	case batchv1.PodFailurePolicyActionFailJob:
		w.stop = &verdict{reason: batchv1.JobReasonPodFailurePolicy, message: fmt.Sprintf("%s matching FailJob rule at index %d", why, i)}
	}
	return true
}

// ruleFor is what the first rule of the pod failure policy that a failed pod matches
// says, or nothing.
func (w *work) ruleFor(p *corev1.Pod) (action batchv1.PodFailurePolicyAction, why string, index int) {
	if w.Spec.PodFailurePolicy == nil || p.Status.Phase != corev1.PodFailed {
		return "", "", -1
	}
	for i, rule := range w.Spec.PodFailurePolicy.Rules {
		if why, ok := matches(rule, p); ok {
			return rule.Action, why, i
		}
	}
	return "", "", -1
}

func matches(rule batchv1.PodFailurePolicyRule, p *corev1.Pod) (why string, ok bool) {
	if req := rule.OnExitCodes; req != nil {
		for _, s := range slices.Concat(p.Status.ContainerStatuses, p.Status.InitContainerStatuses) {
			if req.ContainerName != nil && *req.ContainerName != s.Name || s.State.Terminated == nil || s.State.Terminated.ExitCode == 0 {
				continue
			}
			code := s.State.Terminated.ExitCode
			if slices.Contains(req.Values, code) == (req.Operator == batchv1.PodFailurePolicyOnExitCodesOpIn) {
				return fmt.Sprintf("Container %s for pod %s/%s failed with exit code %d", s.Name, p.Namespace, p.Name, code), true
			}
		}
		return "", false
	}
	for _, pattern := range rule.OnPodConditions {
		c := pods.Condition(p, pattern.Type)
		if c != nil && c.Status == pattern.Status {
			return fmt.Sprintf("Pod %s/%s has condition %s", p.Namespace, p.Name, c.Type), true
		}
	}
	return "", false
}
