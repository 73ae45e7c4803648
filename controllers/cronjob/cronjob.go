// Package cronjob starts Jobs on a schedule, in the time zone that the CronJob
// names, and keeps as many old ones as it asks for.
package cronjob

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"
	_ "time/tzdata" // zones are known on a machine that has no files of them

	"github.com/robfig/cron/v3"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"proa/client"
	"proa/controllers/own"
	"proa/reconcile"
)

// Controller is the CronJob controller.
func Controller() reconcile.Controller {
	row := client.Row[batchv1.CronJob]()
	return reconcile.Controller{
		Name:    "cronjob-controller",
		Workers: 5,
		Watches: []reconcile.Watch{
			{Resource: row},
			{Resource: client.Row[batchv1.Job](), Keys: own.Wake(row, func(client.Object) labels.Selector { return labels.Nothing() })},
		},
		Decide: Decide,
	}
}

// timetable is a CronJob with its Jobs at one moment.
type timetable struct {
	*batchv1.CronJob
	now    time.Time
	jobs   []*batchv1.Job // the oldest first
	next   batchv1.CronJobStatus
	writes []reconcile.Write
	events []reconcile.Event
}

// Decide is the controller's decision.
func Decide(v client.View, now time.Time, key client.Key) reconcile.Plan {
	cj := client.Get[batchv1.CronJob](v, key.Namespace, key.Name)
	if cj == nil || cj.DeletionTimestamp != nil {
		return reconcile.Plan{}
	}
	t := &timetable{CronJob: cj, now: now, next: *cj.Status.DeepCopy(), jobs: own.Of[*batchv1.Job](v, client.Row[batchv1.Job](), cj)}
	slices.SortFunc(t.jobs, func(a, b *batchv1.Job) int {
		return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.Name, b.Name))
	})
	t.observe()
	t.trim()
	after := t.start()
	if !equality.Semantic.DeepEqual(t.next, t.Status) {
		c := t.DeepCopy()
		c.Status = t.next
		t.writes = append([]reconcile.Write{{Op: reconcile.Update, Object: c, Subresource: "status"}}, t.writes...)
	}
	return reconcile.Plan{Writes: t.writes, Events: t.events, After: after}
}

// ended is the condition that ended a Job, or nil.
func ended(j *batchv1.Job) *batchv1.JobCondition {
	for i := range j.Status.Conditions {
		c := &j.Status.Conditions[i]
		if (c.Type == batchv1.JobComplete || c.Type == batchv1.JobFailed) && c.Status == corev1.ConditionTrue {
			return c
		}
	}
	return nil
}

// observe brings the status up to what the Jobs show: which run, when the last
// was due, when one last succeeded.
func (t *timetable) observe() {
	t.next.Active = nil
	for _, j := range t.jobs {
		if at := dueTime(j); !at.IsZero() && (t.next.LastScheduleTime == nil || at.After(t.next.LastScheduleTime.Time)) {
			t.next.LastScheduleTime = &metav1.Time{Time: at}
		}
		c := ended(j)
		if c == nil {
			t.next.Active = append(t.next.Active, refTo(j))
			continue
		}
		if slices.ContainsFunc(t.Status.Active, func(r corev1.ObjectReference) bool { return r.UID == j.UID }) {
			t.events = append(t.events, reconcile.Normal(t.CronJob, "SawCompletedJob", fmt.Sprintf("Saw completed job: %s, condition: %v", j.Name, c.Type)))
		}
		if done := j.Status.CompletionTime; c.Type == batchv1.JobComplete && done != nil && (t.next.LastSuccessfulTime == nil || done.After(t.next.LastSuccessfulTime.Time)) {
			t.next.LastSuccessfulTime = done.DeepCopy()
		}
	}
	for _, r := range t.Status.Active {
		if !slices.ContainsFunc(t.jobs, func(j *batchv1.Job) bool { return j.UID == r.UID }) {
			t.events = append(t.events, reconcile.Normal(t.CronJob, "MissingJob", "Active job went missing: "+r.Name))
		}
	}
}

func refTo(j *batchv1.Job) corev1.ObjectReference {
	return corev1.ObjectReference{APIVersion: "batch/v1", Kind: "Job", Namespace: j.Namespace, Name: j.Name, UID: j.UID}
}

// dueTime is when a Job was due, as it says.
func dueTime(j *batchv1.Job) time.Time {
	at, err := time.Parse(time.RFC3339, j.Annotations[batchv1.CronJobScheduledTimestampAnnotation])
	if err != nil {
		return time.Time{}
	}
	return at
}

// trim deletes the oldest finished Jobs beyond the history's limits.
func (t *timetable) trim() {
	for kind, limit := range map[batchv1.JobConditionType]*int32{batchv1.JobComplete: t.Spec.SuccessfulJobsHistoryLimit, batchv1.JobFailed: t.Spec.FailedJobsHistoryLimit} {
		if limit == nil {
			continue
		}
		old := slices.DeleteFunc(slices.Clone(t.jobs), func(j *batchv1.Job) bool {
			return ended(j) == nil || ended(j).Type != kind || j.DeletionTimestamp != nil
		})
		for _, j := range old[:max(len(old)-int(*limit), 0)] {
			t.delete(j)
		}
	}
}

func (t *timetable) delete(j *batchv1.Job) {
	background := metav1.DeletePropagationBackground
	t.writes = append(t.writes, reconcile.Write{
		Op: reconcile.Delete, Object: j, Delete: metav1.DeleteOptions{PropagationPolicy: &background},
		OnDone: func(client.Object) []reconcile.Event {
			return []reconcile.Event{reconcile.Normal(t.CronJob, "SuccessfulDelete", "Deleted job "+j.Name)}
		},
	})
}

// start starts the Job that is due, if one is, and returns when the next is.
func (t *timetable) start() (after time.Duration) {
	if t.Spec.Suspend != nil && *t.Spec.Suspend {
		return 0
	}
	schedule, err := t.schedule()
	if err != nil {
		t.events = append(t.events, reconcile.Warning(t.CronJob, "UnparseableSchedule", err.Error()))
		return 0
	}
	if next := schedule.Next(t.now); !next.IsZero() {
		after = next.Sub(t.now)
	}
	due := mostRecent(schedule, t.since(), t.now)
	if due.IsZero() || slices.ContainsFunc(t.jobs, func(j *batchv1.Job) bool { return j.Name == t.nameFor(due) }) {
		return after
	}
	switch {
	case t.late(due):
		t.events = append(t.events, reconcile.Warning(t.CronJob, "MissSchedule", "Missed scheduled time to start a job: "+due.UTC().Format(time.RFC1123Z)))
	case t.Spec.ConcurrencyPolicy == batchv1.ForbidConcurrent && len(t.next.Active) > 0:
		t.events = append(t.events, reconcile.Normal(t.CronJob, "JobAlreadyActive", "Not starting job because prior execution is running and concurrency policy is Forbid"))
	default:
		t.run(due)
	}
	return after
}

func (t *timetable) schedule() (cron.Schedule, error) {
	text := t.Spec.Schedule
	if t.Spec.TimeZone != nil {
		if _, err := time.LoadLocation(*t.Spec.TimeZone); err != nil {
			return nil, fmt.Errorf("invalid timeZone: %q: %w", *t.Spec.TimeZone, err)
		}
		text = "TZ=" + *t.Spec.TimeZone + " " + text
	}
	s, err := cron.ParseStandard(text)
	if err != nil {
		return nil, fmt.Errorf("unparseable schedule: %q : %w", t.Spec.Schedule, err)
	}
	return s, nil
}

// since is the time after which a Job may be due.
func (t *timetable) since() time.Time {
	at := t.CreationTimestamp.Time
	if t.next.LastScheduleTime != nil {
		at = t.next.LastScheduleTime.Time
	}
	return at
}

// late tells whether the deadline for starting has passed.
func (t *timetable) late(due time.Time) bool {
	d := t.Spec.StartingDeadlineSeconds
	return d != nil && due.Add(time.Duration(*d)*time.Second).Before(t.now)
}

// mostRecent is the newest scheduled time after since and not after now, or
// zero. It looks back twice as far each time, so that a schedule of every minute
// that was missed for years costs little.
func mostRecent(s cron.Schedule, since, now time.Time) time.Time {
	for back := time.Minute; ; back *= 2 {
		from := now.Add(-back)
		if from.Before(since) || back <= 0 {
			from = since
		}
		var last time.Time
		for at := s.Next(from); !at.IsZero() && !at.After(now); at = s.Next(at) {
			last = at
		}
		if !last.IsZero() || from.Equal(since) {
			return last
		}
	}
}

// nameFor is the same for the same time, so that no run is started twice.
func (t *timetable) nameFor(due time.Time) string {
	return fmt.Sprintf("%s-%d", t.Name, due.Unix()/60)
}

func (t *timetable) run(due time.Time) {
	if t.Spec.ConcurrencyPolicy == batchv1.ReplaceConcurrent {
		for _, j := range t.jobs {
			if ended(j) == nil && j.DeletionTimestamp == nil {
				t.delete(j)
			}
		}
	}
	template := t.Spec.JobTemplate.DeepCopy()
	notes := maps.Clone(template.Annotations)
	if notes == nil {
		notes = map[string]string{}
	}
	notes[batchv1.CronJobScheduledTimestampAnnotation] = due.Format(time.RFC3339)
	j := &batchv1.Job{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: t.Namespace, Name: t.nameFor(due), Labels: template.Labels, Annotations: notes,
			OwnerReferences: []metav1.OwnerReference{*own.Ref(client.Row[batchv1.CronJob](), t.CronJob)},
		},
		Spec: template.Spec,
	}
	t.writes = append(t.writes, reconcile.Write{
		Op: reconcile.Create, Object: j,
		OnDone: func(client.Object) []reconcile.Event {
			return []reconcile.Event{reconcile.Normal(t.CronJob, "SuccessfulCreate", "Created job "+j.Name)}
		},
		OnError: func(err error) reconcile.Plan {
			return reconcile.Plan{Events: []reconcile.Event{reconcile.Warning(t.CronJob, "FailedCreate", "Error creating job: "+err.Error())}}
		},
	})
}
