package job

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"proa/controllers/pods"
)

// ignoredFailures is the annotation of a pod that counts those failures of its index
// that a rule ignores.
const ignoredFailures = "batch.kubernetes.io/job-index-ignored-failure-count"

// indexes is a set of completion indexes, written "1,3-5,7".
type indexes []int

func parseIndexes(s string, below int) indexes {
	var out indexes
	for part := range strings.SplitSeq(s, ",") {
		first, last, isRange := strings.Cut(part, "-")
		a, err := strconv.Atoi(first)
		if err != nil {
			continue
		}
		b := a
		if isRange {
			if b, err = strconv.Atoi(last); err != nil {
				continue
			}
		}
		for ; a <= b && a < below; a++ {
			out = append(out, a)
		}
	}
	return out
}

func (s indexes) count() int { return len(s) }

func (s indexes) has(i int) bool {
	_, ok := slices.BinarySearch(s, i)
	return ok
}

func (s *indexes) add(i int) {
	if at, ok := slices.BinarySearch(*s, i); !ok {
		*s = slices.Insert(*s, at, i)
	}
}

func (s indexes) String() string {
	var parts []string
	for i := 0; i < len(s); {
		j := i
		for j+1 < len(s) && s[j+1] == s[j]+1 {
			j++
		}
		switch j - i {
		case 0:
			parts = append(parts, strconv.Itoa(s[i]))
		case 1:
			parts = append(parts, strconv.Itoa(s[i]), strconv.Itoa(s[j]))
		default:
			parts = append(parts, fmt.Sprintf("%d-%d", s[i], s[j]))
		}
		i = j + 1
	}
	return strings.Join(parts, ",")
}

// indexOf is a pod's completion index, or -1.
func indexOf(p *corev1.Pod) int {
	n, err := strconv.Atoi(p.Annotations[batchv1.JobCompletionIndexAnnotation])
	if err != nil {
		return -1
	}
	return n
}

func (w *work) completions() int {
	if w.Spec.Completions == nil {
		return -1
	}
	return int(*w.Spec.Completions)
}

// hasFailed tells whether a pod counts as a failure: it failed, or somebody
// is deleting it and the Job does not wait for the end of such pods.
func (w *work) hasFailed(p *corev1.Pod) bool {
	return p.Status.Phase == corev1.PodFailed || pods.Terminating(p) && !w.replacesFailedOnly()
}

func (w *work) replacesFailedOnly() bool {
	return w.Spec.PodReplacementPolicy != nil && *w.Spec.PodReplacementPolicy == batchv1.Failed
}

// count brings the counts up to date: what was written down as finished and has
// lost its finalizer moves into them, what finished since is written down and
// then loses its finalizer.
func (w *work) count() {
	w.completed = parseIndexes(w.Status.CompletedIndexes, w.completions())
	if w.Status.FailedIndexes != nil {
		w.failedIndexes = parseIndexes(*w.Status.FailedIndexes, w.completions())
	}
	held := map[types.UID]bool{}
	for _, p := range w.pods {
		held[p.UID] = slices.Contains(p.Finalizers, tracking)
	}
	u := w.uncounted()
	u.Succeeded, w.next.Succeeded = settle(u.Succeeded, held, w.next.Succeeded)
	u.Failed, w.next.Failed = settle(u.Failed, held, w.next.Failed)
	for _, p := range w.pods {
		if held[p.UID] && !slices.Contains(u.Succeeded, p.UID) && !slices.Contains(u.Failed, p.UID) {
			w.note(p)
		}
	}
	if w.indexed() {
		w.next.Succeeded = int32(w.completed.count())
		w.next.CompletedIndexes = w.completed.String()
		if w.Spec.BackoffLimitPerIndex != nil {
			s := w.failedIndexes.String()
			w.next.FailedIndexes = &s
		}
	}
	w.release(func(p *corev1.Pod) bool { return w.counted(p) && !w.keptForIndex(p) })
}

func settle(list []types.UID, held map[types.UID]bool, n int32) ([]types.UID, int32) {
	var rest []types.UID
	for _, uid := range list {
		if held[uid] {
			rest = append(rest, uid)
		} else {
			n++
		}
	}
	return rest, n
}

// note writes a finished pod down.
func (w *work) note(p *corev1.Pod) {
	u, i := w.uncounted(), indexOf(p)
	switch {
	case p.Status.Phase == corev1.PodSucceeded && w.indexed():
		if i >= 0 && i < w.completions() {
			w.completed.add(i)
		}
	case p.Status.Phase == corev1.PodSucceeded:
		u.Succeeded = append(u.Succeeded, p.UID)
	case w.hasFailed(p):
		if w.applyPolicy(p) {
			u.Failed = append(u.Failed, p.UID)
		}
		if failures, _ := w.triesWith(p); w.perIndex() && i >= 0 && failures > *w.Spec.BackoffLimitPerIndex {
			w.failedIndexes.add(i)
		}
	}
}

// counted tells whether a pod's end is written down, or counts for nothing.
func (w *work) counted(p *corev1.Pod) bool {
	return pods.Finished(p) || w.hasFailed(p)
}

// perIndex tells whether every index has a limit of failures of its own.
func (w *work) perIndex() bool { return w.Spec.BackoffLimitPerIndex != nil }

// tries is how often a pod's index failed before it, as its annotations say: that
// counted, and that was ignored by the pod failure policy.
func tries(p *corev1.Pod) (failures, ignored int32) {
	n, _ := strconv.ParseInt(p.Annotations[batchv1.JobIndexFailureCountAnnotation], 10, 32)
	m, _ := strconv.ParseInt(p.Annotations[ignoredFailures], 10, 32)
	return int32(n), int32(m)
}

// triesWith is tries with the failure of this pod.
func (w *work) triesWith(p *corev1.Pod) (failures, ignored int32) {
	failures, ignored = tries(p)
	if action, _, _ := w.ruleFor(p); action == batchv1.PodFailurePolicyActionIgnore {
		return failures, ignored + 1
	}
	return failures + 1, ignored
}

// lastTries are, by index, the pod of the newest try.
func (w *work) lastTries() map[int]*corev1.Pod {
	if w.newest != nil || !w.perIndex() {
		return w.newest
	}
	w.newest = map[int]*corev1.Pod{}
	for _, p := range w.pods {
		i := indexOf(p)
		if old := w.newest[i]; i >= 0 && (old == nil || total(tries(p)) > total(tries(old))) {
			w.newest[i] = p
		}
	}
	return w.newest
}

func total(failures, ignored int32) int32 { return failures + ignored }

// keptForIndex keeps the last failed pod of an index, whose annotation counts
// its failures, until it is replaced or the index is given up.
func (w *work) keptForIndex(p *corev1.Pod) bool {
	i := indexOf(p)
	if !w.perIndex() || i < 0 || p.Status.Phase == corev1.PodSucceeded || w.failedIndexes.has(i) || w.completed.has(i) || w.stopping() != nil {
		return false
	}
	return total(tries(w.lastTries()[i])) <= total(tries(p))
}
