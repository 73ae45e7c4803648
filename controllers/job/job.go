// Package job runs pods until a Job's work is done or given up.
//
// A finished pod is counted exactly once, though it may be deleted at any
// moment: it carries a finalizer from its creation, its UID goes into
// status.uncountedTerminatedPods, then the finalizer is taken away, and only
// then it moves from that list into the count.
package job

import (
	"slices"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"proa/client"
	"proa/controllers/own"
	"proa/controllers/pods"
	"proa/reconcile"
)

const (
	tracking = batchv1.JobTrackingFinalizer
	// burst is how many pods one decision makes or deletes at most.
	burst = 500
	// The pause before a failed pod is replaced doubles from firstPause.
	firstPause, longestPause = 10 * time.Second, 10 * time.Minute
)

// Controller is the Job controller.
func Controller() reconcile.Controller {
	row := client.Row[batchv1.Job]()
	return reconcile.Controller{
		Name:    "job-controller",
		Workers: 5,
		Watches: []reconcile.Watch{
			{Resource: row},
			{Resource: client.Row[corev1.Pod](), Keys: own.Wake(row, selects)},
		},
		Decide: Decide,
	}
}

func selects(owner client.Object) labels.Selector {
	return own.Selector(owner.(*batchv1.Job).Spec.Selector)
}

// work is a Job with its pods at one moment.
type work struct {
	*batchv1.Job
	now    time.Time
	pods   []*corev1.Pod
	active []*corev1.Pod
	next   batchv1.JobStatus // the status to be
	wait   time.Duration
	writes []reconcile.Write // after the status
	events []reconcile.Event

	completed, failedIndexes indexes
	newest                   map[int]*corev1.Pod // see lastTries
	stop                     *verdict            // a rule of the pod failure policy that ends the Job
}

// Decide is the controller's decision.
func Decide(v client.View, now time.Time, key client.Key) reconcile.Plan {
	j := client.Get[batchv1.Job](v, key.Namespace, key.Name)
	if j == nil || j.Spec.ManagedBy != nil && *j.Spec.ManagedBy != batchv1.JobControllerName {
		return reconcile.Plan{}
	}
	mine, claims := own.Claim[*corev1.Pod](v, client.Row[corev1.Pod](), client.Row[batchv1.Job](), j, own.Selector(j.Spec.Selector))
	if len(claims) > 0 {
		return reconcile.Plan{Writes: claims}
	}
	w := &work{Job: j, now: now, pods: mine, next: *j.Status.DeepCopy()}
	switch {
	case j.DeletionTimestamp != nil || final(j) != nil:
		w.release(func(*corev1.Pod) bool { return true })
		return reconcile.Plan{Writes: w.writes}
	default:
		return w.decide()
	}
}

// final is the condition that ended the Job, or nil.
func final(j *batchv1.Job) *batchv1.JobCondition {
	for _, t := range []batchv1.JobConditionType{batchv1.JobComplete, batchv1.JobFailed} {
		if c := condition(&j.Status, t); c != nil && c.Status == corev1.ConditionTrue {
			return c
		}
	}
	return nil
}

func (w *work) decide() reconcile.Plan {
	w.observe()
	w.count()
	w.start()
	if v := w.judge(); v != nil {
		w.finish(v)
	} else if w.suspended() {
		w.deletePods(w.active)
	} else {
		w.manage()
	}
	plan := reconcile.Plan{Events: w.events, After: w.wait, Parallel: true}
	if !equality.Semantic.DeepEqual(w.next, w.Status) {
		j := w.DeepCopy()
		j.Status = w.next
		plan.Writes = append(plan.Writes, reconcile.Write{Op: reconcile.Update, Object: j, Subresource: "status"})
	}
	plan.Writes = append(plan.Writes, w.writes...)
	return plan
}

// observe counts the pods that there are.
func (w *work) observe() {
	var ready, terminating int32
	for _, p := range w.pods {
		switch {
		case pods.Active(p):
			w.active = append(w.active, p)
			if pods.Ready(p) {
				ready++
			}
		case pods.Terminating(p):
			terminating++
		}
	}
	w.next.Active, w.next.Ready, w.next.Terminating = int32(len(w.active)), &ready, &terminating
}

func (w *work) suspended() bool { return w.Spec.Suspend != nil && *w.Spec.Suspend }

// start notes when work begins, and suspension.
func (w *work) start() {
	c := condition(&w.next, batchv1.JobSuspended)
	noted := c != nil && c.Status == corev1.ConditionTrue
	switch {
	case w.suspended() && !noted && !w.reached():
		w.set(batchv1.JobSuspended, corev1.ConditionTrue, "JobSuspended", "Job suspended")
		w.next.StartTime = nil
		w.events = append(w.events, reconcile.Normal(w.Job, "Suspended", "Job suspended"))
	case !w.suspended() && noted:
		w.set(batchv1.JobSuspended, corev1.ConditionFalse, "JobResumed", "Job resumed")
		w.events = append(w.events, reconcile.Normal(w.Job, "Resumed", "Job resumed"))
	}
	if !w.suspended() && w.next.StartTime == nil {
		now := metav1.NewTime(w.now)
		w.next.StartTime = &now
	}
}

func condition(s *batchv1.JobStatus, t batchv1.JobConditionType) *batchv1.JobCondition {
	for i := range s.Conditions {
		if s.Conditions[i].Type == t {
			return &s.Conditions[i]
		}
	}
	return nil
}

func (w *work) set(t batchv1.JobConditionType, status corev1.ConditionStatus, reason, message string) {
	now := metav1.NewTime(w.now)
	next := batchv1.JobCondition{Type: t, Status: status, Reason: reason, Message: message, LastProbeTime: now, LastTransitionTime: now}
	if c := condition(&w.next, t); c != nil {
		if c.Status != status || c.Reason != reason {
			*c = next
		}
		return
	}
	w.next.Conditions = append(w.next.Conditions, next)
}

// deletePods deletes pods that are not wanted. They lose the finalizer first, so
// that their end counts for nothing.
func (w *work) deletePods(list []*corev1.Pod) {
	for _, p := range list {
		if len(w.writes) >= burst {
			return
		}
		if slices.Contains(p.Finalizers, tracking) {
			w.writes = append(w.writes, withoutFinalizer(p))
		}
		w.writes = append(w.writes, pods.Deletion(w.Job, p, nil))
	}
}

func withoutFinalizer(p *corev1.Pod) reconcile.Write {
	next := p.DeepCopy()
	next.Finalizers = slices.DeleteFunc(next.Finalizers, func(f string) bool { return f == tracking })
	return reconcile.Write{Op: reconcile.Update, Object: next, Optional: true}
}

// release takes the finalizer from pods that need not be kept for counting.
func (w *work) release(may func(p *corev1.Pod) bool) {
	for _, p := range w.pods {
		if slices.Contains(p.Finalizers, tracking) && may(p) {
			w.writes = append(w.writes, withoutFinalizer(p))
		}
	}
}

// indexed tells whether every pod has an index of its own.
func (w *work) indexed() bool {
	return w.Spec.CompletionMode != nil && *w.Spec.CompletionMode == batchv1.IndexedCompletion
}

func (w *work) parallelism() int {
	if w.Spec.Parallelism == nil {
		return 1
	}
	return int(*w.Spec.Parallelism)
}

// succeeded and failed are the counts, with the pods that are about to be in
// them.
func (w *work) succeeded() int {
	if w.indexed() {
		return w.completed.count()
	}
	return int(w.next.Succeeded) + len(w.uncounted().Succeeded)
}

func (w *work) failed() int { return int(w.next.Failed) + len(w.uncounted().Failed) }

func (w *work) uncounted() *batchv1.UncountedTerminatedPods {
	if w.next.UncountedTerminatedPods == nil {
		w.next.UncountedTerminatedPods = &batchv1.UncountedTerminatedPods{}
	}
	return w.next.UncountedTerminatedPods
}
