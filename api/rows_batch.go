package api

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
	_ "time/tzdata" // CronJobs name time zones, whatever the machine has installed

	"github.com/robfig/cron/v3"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/util/duration"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func batchRows() []*Resource {
	return []*Resource{cronJobRow(), jobRow()}
}

func jobRow() *Resource {
	spec, status := batchv1.JobSpec{}.SwaggerDoc(), batchv1.JobStatus{}.SwaggerDoc()
	return kind[*batchv1.Job]{
		GroupVersion: batchv1.SchemeGroupVersion, Plural: "jobs", Categories: []string{"all"}, Namespaced: true,
		List:   &batchv1.JobList{},
		Status: true, Generation: true,
		Default:        defaultJob,
		PrepareCreate:  prepareJob,
		Validate:       validateJob,
		Warnings:       namedTemplateWarnings(specPath.Child("template"), func(j *batchv1.Job) *corev1.PodTemplateSpec { return &j.Spec.Template }),
		ValidateUpdate: validateJobUpdate,
		ValidateStatus: validateJobStatus,
		// batch/v1 keeps the pods of a deleted Job unless asked otherwise;
		// kubectl asks otherwise.
		DefaultPropagation: metav1.DeletePropagationOrphan,
		Fields: func(j *batchv1.Job) fields.Set {
			return fields.Set{"status.successful": strconv.Itoa(int(j.Status.Succeeded))}
		},
		Columns: append(append(columns(nameColumn,
			column("Status", "string", "Status of the job."),
			column("Completions", "string", status["succeeded"]),
			column("Duration", "string", "Time required to complete the job."),
			ageColumn), workloadColumns...),
			wideColumn("Selector", "string", spec["selector"])),
		Cells: func(j *batchv1.Job, now time.Time) []any {
			names, images := containerCells(&j.Spec.Template.Spec)
			return []any{j.Name, jobStateCell(j), completionsCell(j), jobDurationCell(j, now), age(j, now),
				names, images, selectorCell(j.Spec.Selector)}
		},
	}.row()
}

func defaultJob(j *batchv1.Job) {
	s := &j.Spec
	s.Scheduling = nil // WorkloadWithJob is off
	DefaultPodSpec(&s.Template.Spec)
	if s.Completions == nil && s.Parallelism == nil {
		unset(&s.Completions, 1)
	}
	unset(&s.Parallelism, 1)
	if s.BackoffLimitPerIndex != nil {
		unset(&s.BackoffLimit, math.MaxInt32)
	}
	unset(&s.BackoffLimit, 6)
	if len(j.Labels) == 0 && len(s.Template.Labels) > 0 {
		j.Labels = make(map[string]string, len(s.Template.Labels))
		for k, v := range s.Template.Labels {
			j.Labels[k] = v
		}
	}
	unset(&s.CompletionMode, batchv1.NonIndexedCompletion)
	unset(&s.Suspend, false)
	unset(&s.ManualSelector, false)
	if s.PodFailurePolicy != nil {
		unset(&s.PodReplacementPolicy, batchv1.Failed)
	}
	unset(&s.PodReplacementPolicy, batchv1.TerminatingOrFailed)
	defaultPodFailurePolicy(s.PodFailurePolicy)
}

func defaultPodFailurePolicy(p *batchv1.PodFailurePolicy) {
	if p == nil {
		return
	}
	for i := range p.Rules {
		for k := range p.Rules[i].OnPodConditions {
			empty(&p.Rules[i].OnPodConditions[k].Status, corev1.ConditionTrue)
		}
	}
}

// The labels of a Job's pods from before labels had prefixes.
const (
	legacyJobNameLabel       = "job-name"
	legacyControllerUIDLabel = "controller-uid"
)

// prepareJob makes the selector and the labels it needs, unless the user
// selects by hand. The Job has its UID by then.
func prepareJob(j *batchv1.Job) {
	s := &j.Spec
	if deref(s.ManualSelector, false) {
		return
	}
	if s.Template.Labels == nil {
		s.Template.Labels = map[string]string{}
	}
	for key, value := range jobLabels(j) {
		if _, given := s.Template.Labels[key]; !given {
			s.Template.Labels[key] = value
		}
	}
	unset(&s.Selector, metav1.LabelSelector{})
	if s.Selector.MatchLabels == nil {
		s.Selector.MatchLabels = map[string]string{}
	}
	if _, given := s.Selector.MatchLabels[batchv1.ControllerUidLabel]; !given {
		s.Selector.MatchLabels[batchv1.ControllerUidLabel] = string(j.UID)
	}
}

// jobLabels are the labels that the server gives a Job's pods.
func jobLabels(j *batchv1.Job) map[string]string {
	return map[string]string{
		batchv1.JobNameLabel: j.Name, legacyJobNameLabel: j.Name,
		batchv1.ControllerUidLabel: string(j.UID), legacyControllerUIDLabel: string(j.UID),
	}
}

func jobStateCell(j *batchv1.Job) string {
	has := func(t batchv1.JobConditionType) bool { return jobHas(&j.Status, t) }
	switch {
	case has(batchv1.JobComplete):
		return "Complete"
	case has(batchv1.JobFailed):
		return "Failed"
	case j.DeletionTimestamp != nil:
		return "Terminating"
	case has(batchv1.JobSuspended):
		return "Suspended"
	case has(batchv1.JobFailureTarget):
		return "FailureTarget"
	case has(batchv1.JobSuccessCriteriaMet):
		return "SuccessCriteriaMet"
	}
	return "Running"
}

func completionsCell(j *batchv1.Job) string {
	parallel := deref(j.Spec.Parallelism, 0)
	switch {
	case j.Spec.Completions != nil:
		return fmt.Sprintf("%d/%d", j.Status.Succeeded, *j.Spec.Completions)
	case parallel > 1:
		return fmt.Sprintf("%d/1 of %d", j.Status.Succeeded, parallel)
	}
	return fmt.Sprintf("%d/1", j.Status.Succeeded)
}

func jobDurationCell(j *batchv1.Job, now time.Time) string {
	s := &j.Status
	switch {
	case s.StartTime == nil:
		return ""
	case s.CompletionTime != nil:
		return duration.HumanDuration(s.CompletionTime.Sub(s.StartTime.Time))
	}
	end := now
	for _, c := range s.Conditions {
		if c.Type == batchv1.JobFailed && c.Status == corev1.ConditionTrue {
			end = c.LastTransitionTime.Time
		}
	}
	return duration.HumanDuration(end.Sub(s.StartTime.Time))
}

func cronJobRow() *Resource {
	spec, status := batchv1.CronJobSpec{}.SwaggerDoc(), batchv1.CronJobStatus{}.SwaggerDoc()
	return kind[*batchv1.CronJob]{
		GroupVersion: batchv1.SchemeGroupVersion, Plural: "cronjobs", Short: []string{"cj"}, Categories: []string{"all"}, Namespaced: true,
		List:   &batchv1.CronJobList{},
		Status: true, Generation: true,
		Default:        defaultCronJob,
		Validate:       validateCronJob,
		Warnings:       warnCronJob,
		ValidateUpdate: validateCronJobUpdate,
		Columns: append(append(columns(nameColumn,
			column("Schedule", "string", spec["schedule"]),
			column("Timezone", "string", spec["timeZone"]),
			column("Suspend", "boolean", spec["suspend"]),
			column("Active", "integer", status["active"]),
			column("Last Schedule", "string", status["lastScheduleTime"]),
			ageColumn), workloadColumns...),
			wideColumn("Selector", "string", batchv1.JobSpec{}.SwaggerDoc()["selector"])),
		Cells: func(c *batchv1.CronJob, now time.Time) []any {
			names, images := containerCells(&c.Spec.JobTemplate.Spec.Template.Spec)
			last := none
			if t := c.Status.LastScheduleTime; t != nil {
				last = ageOf(t.Time, now)
			}
			return []any{c.Name, c.Spec.Schedule, deref(c.Spec.TimeZone, none), boolCell(c.Spec.Suspend), int64(len(c.Status.Active)),
				last, age(c, now), names, images, selectorCell(c.Spec.JobTemplate.Spec.Selector)}
		},
	}.row()
}

// boolCell writes an optional truth as kubectl does.
func boolCell(b *bool) string {
	switch {
	case b == nil:
		return "<unset>"
	case *b:
		return "True"
	}
	return "False"
}

func defaultCronJob(c *batchv1.CronJob) {
	c.Spec.JobTemplate.Spec.Scheduling = nil // WorkloadWithJob is off
	DefaultPodSpec(&c.Spec.JobTemplate.Spec.Template.Spec)
	defaultPodFailurePolicy(c.Spec.JobTemplate.Spec.PodFailurePolicy)
	empty(&c.Spec.ConcurrencyPolicy, batchv1.AllowConcurrent)
	unset(&c.Spec.Suspend, false)
	unset(&c.Spec.SuccessfulJobsHistoryLimit, 3)
	unset(&c.Spec.FailedJobsHistoryLimit, 1)
}

func validateCronJob(c *batchv1.CronJob) field.ErrorList {
	s := &c.Spec
	errs := validateSchedule(s.Schedule, s.TimeZone)
	if s.StartingDeadlineSeconds != nil {
		errs = append(errs, nonNegative(*s.StartingDeadlineSeconds, specPath.Child("startingDeadlineSeconds"))...)
	}
	errs = append(errs, requiredOneOf(s.ConcurrencyPolicy, specPath.Child("concurrencyPolicy"),
		batchv1.AllowConcurrent, batchv1.ForbidConcurrent, batchv1.ReplaceConcurrent)...)
	errs = append(errs, validateJobTemplate(&s.JobTemplate, specPath.Child("jobTemplate"))...)
	errs = append(errs, nonNegativePtr(s.SuccessfulJobsHistoryLimit, specPath.Child("successfulJobsHistoryLimit"))...)
	errs = append(errs, nonNegativePtr(s.FailedJobsHistoryLimit, specPath.Child("failedJobsHistoryLimit"))...)
	// A Job's name is the CronJob's with eleven characters behind it, and is a
	// label of its pods.
	if max := 52; len(c.Name) > max {
		errs = append(errs, field.Invalid(metaPath.Child("name"), c.Name, fmt.Sprintf("must be no more than %d characters", max)))
	}
	return errs
}

func validateCronJobUpdate(c, old *batchv1.CronJob) field.ErrorList {
	if strings.Contains(old.Spec.Schedule, "TZ") { // what was taken once stays
		return nil
	}
	return validateNoZone(c.Spec.Schedule, c.Spec.TimeZone)
}

func validateSchedule(schedule string, zone *string) field.ErrorList {
	at := specPath.Child("schedule")
	var errs field.ErrorList
	if schedule == "" {
		errs = append(errs, field.Required(at, ""))
	} else if _, err := ParseSchedule(schedule); err != nil {
		errs = append(errs, field.Invalid(at, schedule, err.Error()))
	}
	errs = append(errs, validateNoZone(schedule, zone)...)
	if zone == nil {
		return errs
	}
	at = specPath.Child("timeZone")
	switch {
	case *zone == "":
		errs = append(errs, field.Invalid(at, zone, "timeZone must be nil or non-empty string"))
	case strings.EqualFold(*zone, "Local"):
		errs = append(errs, field.Invalid(at, zone, "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones"))
	default:
		if _, err := time.LoadLocation(*zone); err != nil {
			errs = append(errs, field.Invalid(at, zone, err.Error()))
		}
	}
	return errs
}

func validateNoZone(schedule string, zone *string) field.ErrorList {
	if !strings.Contains(schedule, "TZ") {
		return nil
	}
	message := "cannot use TZ or CRON_TZ in schedule, use timeZone field instead"
	if zone != nil {
		message = "cannot use both timeZone field and TZ or CRON_TZ in schedule"
	}
	return field.ErrorList{field.Invalid(specPath.Child("schedule"), schedule, message)}
}

// ParseSchedule reads a schedule in cron's format or one of its names
// ("@hourly"), as CronJobSpec documents.
func ParseSchedule(schedule string) (next cron.Schedule, err error) {
	// The parser panics on some malformed texts ("TZ=0").
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("invalid schedule format: %v", r)
		}
	}()
	return cron.ParseStandard(schedule)
}

func warnCronJob(c, old *batchv1.CronJob) []string {
	template := func(c *batchv1.CronJob) *corev1.PodTemplateSpec { return &c.Spec.JobTemplate.Spec.Template }
	out := namedTemplateWarnings(specPath.Child("jobTemplate", "spec", "template"), template)(c, old)
	if old != nil && strings.Contains(c.Spec.Schedule, "TZ") {
		out = append(out, "cannot use TZ or CRON_TZ in spec.spec.schedule, use timeZone instead, see https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/ for more details")
	}
	return out
}
