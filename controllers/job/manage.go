package job

import (
	"fmt"
	"slices"
	"strconv"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"proa/client"
	"proa/controllers/pods"
	"proa/reconcile"
)

// manage makes and deletes pods until as many are active as should be.
func (w *work) manage() {
	extra := w.surplus()
	if len(extra) > 0 {
		w.deletePods(extra)
		return
	}
	room := w.wanted() - len(w.active)
	if w.replacesFailedOnly() {
		room -= int(*w.next.Terminating)
	}
	if room <= 0 {
		return
	}
	if pause := w.pause(); pause > 0 && !w.perIndex() {
		w.wait = pods.Sooner(w.wait, pause)
		return
	}
	if !w.indexed() {
		for range min(room, burst) {
			w.create(-1)
		}
		return
	}
	for _, i := range w.freeIndexes(min(room, burst)) {
		w.create(i)
	}
}

// wanted is how many pods should be active.
func (w *work) wanted() int {
	n := w.parallelism()
	if w.completions() < 0 {
		if w.succeeded() > 0 {
			return min(len(w.active), n) // the others finish, none is added
		}
		return n
	}
	return min(n, w.completions()-w.succeeded()-w.failedIndexes.count())
}

// surplus are the active pods that should not be: of an index that is done, or
// has another pod, and more than are wanted.
func (w *work) surplus() []*corev1.Pod {
	var out, rest []*corev1.Pod
	seen := map[int]bool{}
	for _, p := range w.active {
		i := indexOf(p)
		if w.indexed() && (i < 0 || i >= w.completions() || w.completed.has(i) || w.failedIndexes.has(i) || seen[i]) {
			out = append(out, p)
			continue
		}
		seen[i] = true
		rest = append(rest, p)
	}
	return append(out, pods.Victims(rest, nil, max(len(rest)-w.wanted(), 0), w.now)...)
}

// freeIndexes are the lowest n that are neither done nor being worked on.
func (w *work) freeIndexes(n int) []int {
	busy := map[int]bool{}
	for _, p := range w.pods {
		if pods.Active(p) || pods.Terminating(p) && w.replacesFailedOnly() {
			busy[indexOf(p)] = true
		}
	}
	var out []int
	for i := 0; i < w.completions() && len(out) < n; i++ {
		if !busy[i] && !w.completed.has(i) && !w.failedIndexes.has(i) && !w.pausedAt(i) {
			out = append(out, i)
		}
	}
	return out
}

// pause is how long to wait before a pod is made again: 10 s after a failure,
// twice as long after each further one without a success between, at most ten
// minutes.
func (w *work) pause() time.Duration {
	var lastSuccess time.Time
	for _, p := range w.pods {
		if p.Status.Phase == corev1.PodSucceeded && ended(p).After(lastSuccess) {
			lastSuccess = ended(p)
		}
	}
	failures, last := 0, time.Time{}
	for _, p := range w.pods {
		if p.Status.Phase != corev1.PodFailed || !ended(p).After(lastSuccess) {
			continue
		}
		failures++
		if ended(p).After(last) {
			last = ended(p)
		}
	}
	if failures == 0 {
		return 0
	}
	return max(last.Add(doubled(failures)).Sub(w.now), 0)
}

// pausedAt tells whether an index that has a limit of its own waits after its last
// failure, however the others do.
func (w *work) pausedAt(i int) bool {
	p := w.lastTries()[i]
	if p == nil || !w.hasFailed(p) {
		return false
	}
	pause := ended(p).Add(doubled(int(total(w.triesWith(p))))).Sub(w.now)
	if pause > 0 {
		w.wait = pods.Sooner(w.wait, pause)
	}
	return pause > 0
}

// doubled is the pause after n failures.
func doubled(n int) time.Duration { return min(firstPause<<min(n-1, 10), longestPause) }

// ended is when a pod's last container ended, as far as it says.
func ended(p *corev1.Pod) time.Time {
	var t time.Time
	for _, s := range p.Status.ContainerStatuses {
		if s.State.Terminated != nil && s.State.Terminated.FinishedAt.After(t) {
			t = s.State.Terminated.FinishedAt.Time
		}
	}
	if c := pods.Condition(p, corev1.PodReady); t.IsZero() && c != nil {
		t = c.LastTransitionTime.Time
	}
	if t.IsZero() {
		t = p.CreationTimestamp.Time
	}
	return t
}

func (w *work) create(index int) {
	p := pods.FromTemplate(client.Row[batchv1.Job](), w.Job, &w.Spec.Template)
	p.Finalizers = append(p.Finalizers, tracking)
	if index >= 0 {
		w.give(p, index)
	}
	w.writes = append(w.writes, pods.Creation(w.Job, p, nil))
}

// give makes a pod the one of an index: by name, host name, label, annotation
// and environment.
func (w *work) give(p *corev1.Pod, index int) {
	i := strconv.Itoa(index)
	p.GenerateName = fmt.Sprintf("%s-%d-", w.Name, index)
	p.Spec.Hostname = w.Name + "-" + i
	p.Annotations, p.Labels = with(p.Annotations, batchv1.JobCompletionIndexAnnotation, i), with(p.Labels, batchv1.JobCompletionIndexAnnotation, i)
	if w.perIndex() {
		var failures, ignored int32
		if last := w.lastTries()[index]; last != nil && w.hasFailed(last) {
			failures, ignored = w.triesWith(last)
		}
		p.Annotations[batchv1.JobIndexFailureCountAnnotation] = strconv.Itoa(int(failures))
		if ignored > 0 {
			p.Annotations[ignoredFailures] = strconv.Itoa(int(ignored))
		}
	}
	env := corev1.EnvVar{Name: "JOB_COMPLETION_INDEX", ValueFrom: &corev1.EnvVarSource{
		FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.labels['" + batchv1.JobCompletionIndexAnnotation + "']"}}}
	for _, list := range [][]corev1.Container{p.Spec.InitContainers, p.Spec.Containers} {
		for k := range list {
			if !slices.ContainsFunc(list[k].Env, func(e corev1.EnvVar) bool { return e.Name == env.Name }) {
				list[k].Env = append(list[k].Env, env)
			}
		}
	}
}

func with(m map[string]string, k, v string) map[string]string {
	if m == nil {
		m = map[string]string{}
	}
	m[k] = v
	return m
}

// TTL deletes finished Jobs when their ttlSecondsAfterFinished has passed.
func TTL() reconcile.Controller {
	return reconcile.Controller{
		Name:    "ttl-after-finished-controller",
		Watches: []reconcile.Watch{{Resource: client.Row[batchv1.Job]()}},
		Decide: func(v client.View, now time.Time, key client.Key) reconcile.Plan {
			j := client.Get[batchv1.Job](v, key.Namespace, key.Name)
			if j == nil || j.DeletionTimestamp != nil || j.Spec.TTLSecondsAfterFinished == nil || final(j) == nil {
				return reconcile.Plan{}
			}
			left := final(j).LastTransitionTime.Add(time.Duration(*j.Spec.TTLSecondsAfterFinished) * time.Second).Sub(now)
			if left > 0 {
				return reconcile.Plan{After: left}
			}
			return reconcile.Plan{Writes: []reconcile.Write{deletion(j)}}
		},
	}
}

// deletion deletes a Job with its pods, before it is gone itself.
func deletion(j *batchv1.Job) reconcile.Write {
	foreground := metav1.DeletePropagationForeground
	return reconcile.Write{Op: reconcile.Delete, Object: j, Delete: metav1.DeleteOptions{PropagationPolicy: &foreground}}
}
