package api

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// The limits that JobSpec documents.
const (
	maxIndexedParallelism  = 100_000
	maxIndexesPerIndex     = 100_000
	maxParallelismPerIndex = 10_000
	maxFailureRules        = 20
	maxSuccessRules        = 20
	maxFailureCodes        = 255
	maxPodConditions       = 20
	maxManagedBy           = 63
)

func validateJob(j *batchv1.Job) field.ErrorList {
	errs := validateJobSelector(j)
	return append(errs, validateJobSpec(&j.Spec, specPath)...)
}

// validateJobSelector asks for the labels and the selector that the server
// makes, unless the user selects by hand.
func validateJobSelector(j *batchv1.Job) field.ErrorList {
	s := &j.Spec
	at := specPath.Child("selector")
	if s.Selector == nil {
		return field.ErrorList{field.Required(at, "")}
	}
	errs := checkSelector(s.Selector, at)
	if !deref(s.ManualSelector, false) {
		errs = append(errs, validateMadeSelector(j)...)
	}
	if selector, err := metav1.LabelSelectorAsSelector(s.Selector); err == nil && !selector.Matches(labels.Set(s.Template.Labels)) {
		errs = append(errs, field.Invalid(specPath.Child("template", "metadata", "labels"), s.Template.Labels, "`selector` does not match template `labels`"))
	}
	return errs
}

func validateMadeSelector(j *batchv1.Job) field.ErrorList {
	var errs field.ErrorList
	want := jobLabels(j)
	at := specPath.Child("template", "metadata", "labels")
	for _, key := range []string{legacyControllerUIDLabel, legacyJobNameLabel, batchv1.ControllerUidLabel, batchv1.JobNameLabel} {
		have, ok := j.Spec.Template.Labels[key]
		switch {
		case !ok:
			errs = append(errs, field.Required(at.Key(key), fmt.Sprintf("must be '%s'", want[key])))
		case have != want[key]:
			errs = append(errs, field.Invalid(at.Key(key), j.Spec.Template.Labels, fmt.Sprintf("must be '%s'", want[key])))
		}
	}
	selector, err := metav1.LabelSelectorAsSelector(j.Spec.Selector)
	if err == nil && !selector.Matches(labels.Set(want)) {
		errs = append(errs, field.Invalid(specPath.Child("selector"), j.Spec.Selector, "`selector` not auto-generated"))
	}
	return errs
}

// validateJobTemplate is for a Job that does not exist yet.
func validateJobTemplate(t *batchv1.JobTemplateSpec, at *field.Path) field.ErrorList {
	at = at.Child("spec")
	errs := validateJobSpec(&t.Spec, at)
	if deref(t.Spec.ManualSelector, false) {
		errs = append(errs, field.NotSupported(at.Child("manualSelector"), *t.Spec.ManualSelector, []string{"nil", "false"}))
	}
	if t.Spec.Selector != nil {
		errs = append(errs, field.Invalid(at.Child("selector"), t.Spec.Selector, "`selector` will be auto-generated"))
	}
	return errs
}

func validateJobSpec(s *batchv1.JobSpec, at *field.Path) field.ErrorList {
	errs := validateJobNumbers(s, at)
	if s.ManagedBy != nil {
		errs = append(errs, validation.IsDomainPrefixedPath(at.Child("managedBy"), *s.ManagedBy)...)
		if len(*s.ManagedBy) > maxManagedBy {
			errs = append(errs, field.TooLong(at.Child("managedBy"), "", maxManagedBy))
		}
	}
	if s.CompletionMode != nil {
		errs = append(errs, validateCompletionMode(s, at)...)
	}
	if s.PodFailurePolicy != nil {
		errs = append(errs, validatePodFailurePolicy(s, at.Child("podFailurePolicy"))...)
	}
	if s.SuccessPolicy != nil {
		if deref(s.CompletionMode, "") != batchv1.IndexedCompletion {
			errs = append(errs, field.Invalid(at.Child("successPolicy"), s.SuccessPolicy, "requires indexed completion mode"))
		} else {
			errs = append(errs, validateSuccessPolicy(s, at.Child("successPolicy"))...)
		}
	}
	if p := s.PodReplacementPolicy; p != nil {
		errs = append(errs, validatePodReplacement(*p, s.PodFailurePolicy != nil, at.Child("podReplacementPolicy"))...)
	}
	return append(errs, validateJobPods(s, at)...)
}

func validateJobNumbers(s *batchv1.JobSpec, at *field.Path) field.ErrorList {
	errs := nonNegativePtr(s.Parallelism, at.Child("parallelism"))
	errs = append(errs, nonNegativePtr(s.Completions, at.Child("completions"))...)
	errs = append(errs, nonNegativePtr(s.ActiveDeadlineSeconds, at.Child("activeDeadlineSeconds"))...)
	errs = append(errs, nonNegativePtr(s.BackoffLimit, at.Child("backoffLimit"))...)
	errs = append(errs, nonNegativePtr(s.TTLSecondsAfterFinished, at.Child("ttlSecondsAfterFinished"))...)
	errs = append(errs, nonNegativePtr(s.BackoffLimitPerIndex, at.Child("backoffLimitPerIndex"))...)
	if s.MaxFailedIndexes != nil {
		errs = append(errs, nonNegative(*s.MaxFailedIndexes, at.Child("maxFailedIndexes"))...)
		if s.BackoffLimitPerIndex == nil {
			errs = append(errs, field.Required(at.Child("backoffLimitPerIndex"), "when maxFailedIndexes is specified"))
		}
	}
	return errs
}

// validateJobPods judges the template: its pods must come to an end.
func validateJobPods(s *batchv1.JobSpec, at *field.Path) field.ErrorList {
	errs := ValidatePodTemplateSpec(&s.Template, at.Child("template"))
	policy, rp := s.Template.Spec.RestartPolicy, at.Child("template", "spec", "restartPolicy")
	switch policy {
	case corev1.RestartPolicyAlways, "": // the default of pods, so nobody asked for it
		errs = append(errs, field.Required(rp, `valid values: "OnFailure", "Never"`))
	case corev1.RestartPolicyNever:
	case corev1.RestartPolicyOnFailure:
		if s.PodFailurePolicy != nil {
			errs = append(errs, field.Invalid(rp, policy, `only "Never" is supported when podFailurePolicy is specified`))
		}
	default:
		errs = append(errs, field.NotSupported(rp, policy, []corev1.RestartPolicy{corev1.RestartPolicyNever, corev1.RestartPolicyOnFailure}))
	}
	return errs
}

func validatePodReplacement(p batchv1.PodReplacementPolicy, failurePolicy bool, at *field.Path) field.ErrorList {
	if failurePolicy {
		return oneOf(p, at, batchv1.Failed)
	}
	return oneOf(p, at, batchv1.Failed, batchv1.TerminatingOrFailed)
}

func validateCompletionMode(s *batchv1.JobSpec, at *field.Path) field.ErrorList {
	errs := oneOf(*s.CompletionMode, at.Child("completionMode"), batchv1.IndexedCompletion, batchv1.NonIndexedCompletion)
	if *s.CompletionMode == batchv1.NonIndexedCompletion {
		if s.BackoffLimitPerIndex != nil {
			errs = append(errs, field.Invalid(at.Child("backoffLimitPerIndex"), *s.BackoffLimitPerIndex, "requires indexed completion mode"))
		}
		if s.MaxFailedIndexes != nil {
			errs = append(errs, field.Invalid(at.Child("maxFailedIndexes"), *s.MaxFailedIndexes, "requires indexed completion mode"))
		}
		return errs
	}
	if s.Completions == nil {
		return append(errs, field.Required(at.Child("completions"), fmt.Sprintf("when completion mode is %s", batchv1.IndexedCompletion)))
	}
	if p := deref(s.Parallelism, 0); p > maxIndexedParallelism {
		errs = append(errs, field.Invalid(at.Child("parallelism"), p,
			fmt.Sprintf("must be less than or equal to %d when completion mode is %s", maxIndexedParallelism, batchv1.IndexedCompletion)))
	}
	if f := s.MaxFailedIndexes; f != nil && *f > *s.Completions {
		errs = append(errs, field.Invalid(at.Child("maxFailedIndexes"), *f, "must be less than or equal to completions"))
	}
	return append(errs, validateManyIndexes(s, at)...)
}

// validateManyIndexes bounds what a Job of very many indexes may ask, so that
// its status stays within an object's size.
func validateManyIndexes(s *batchv1.JobSpec, at *field.Path) field.ErrorList {
	if s.BackoffLimitPerIndex == nil || *s.Completions <= maxIndexesPerIndex {
		return nil
	}
	var errs field.ErrorList
	if s.MaxFailedIndexes == nil {
		errs = append(errs, field.Required(at.Child("maxFailedIndexes"), fmt.Sprintf("must be specified when completions is above %d", maxIndexesPerIndex)))
	} else if *s.MaxFailedIndexes > maxParallelismPerIndex {
		errs = append(errs, field.Invalid(at.Child("maxFailedIndexes"), *s.MaxFailedIndexes,
			fmt.Sprintf("must be less than or equal to %d when completions are above %d and used with backoff limit per index", maxParallelismPerIndex, maxIndexesPerIndex)))
	}
	if p := s.Parallelism; p != nil && *p > maxParallelismPerIndex {
		errs = append(errs, field.Invalid(at.Child("parallelism"), *p,
			fmt.Sprintf("must be less than or equal to %d when completions are above %d and used with backoff limit per index", maxParallelismPerIndex, maxIndexesPerIndex)))
	}
	return errs
}

func validatePodFailurePolicy(s *batchv1.JobSpec, at *field.Path) field.ErrorList {
	at = at.Child("rules")
	if len(s.PodFailurePolicy.Rules) > maxFailureRules {
		return field.ErrorList{field.TooMany(at, len(s.PodFailurePolicy.Rules), maxFailureRules)}
	}
	names := map[string]bool{}
	for _, c := range append(append([]corev1.Container{}, s.Template.Spec.InitContainers...), s.Template.Spec.Containers...) {
		names[c.Name] = true
	}
	var errs field.ErrorList
	for i := range s.PodFailurePolicy.Rules {
		errs = append(errs, validateFailureRule(s, &s.PodFailurePolicy.Rules[i], names, at.Index(i))...)
	}
	return errs
}

func validateFailureRule(s *batchv1.JobSpec, r *batchv1.PodFailurePolicyRule, names map[string]bool, at *field.Path) field.ErrorList {
	errs := requiredOneOf(r.Action, at.Child("action"),
		batchv1.PodFailurePolicyActionCount, batchv1.PodFailurePolicyActionFailIndex, batchv1.PodFailurePolicyActionFailJob, batchv1.PodFailurePolicyActionIgnore)
	if r.Action == batchv1.PodFailurePolicyActionFailIndex && s.BackoffLimitPerIndex == nil {
		errs = append(errs, field.Invalid(at.Child("action"), r.Action, "requires the backoffLimitPerIndex to be set"))
	}
	if r.OnExitCodes != nil {
		errs = append(errs, validateExitCodes(r.OnExitCodes, names, at.Child("onExitCodes"))...)
	}
	if len(r.OnPodConditions) > maxPodConditions {
		return append(errs, field.TooMany(at.Child("onPodConditions"), len(r.OnPodConditions), maxPodConditions))
	}
	for i, c := range r.OnPodConditions {
		at := at.Child("onPodConditions").Index(i)
		errs = append(errs, invalidEach(c.Type, at.Child("type"), validation.IsQualifiedName(string(c.Type)))...)
		errs = append(errs, requiredOneOf(c.Status, at.Child("status"), corev1.ConditionFalse, corev1.ConditionTrue, corev1.ConditionUnknown)...)
	}
	switch {
	case r.OnExitCodes != nil && len(r.OnPodConditions) > 0:
		errs = append(errs, field.Invalid(at, field.OmitValueType{}, "specifying both OnExitCodes and OnPodConditions is not supported"))
	case r.OnExitCodes == nil && len(r.OnPodConditions) == 0:
		errs = append(errs, field.Invalid(at, field.OmitValueType{}, "specifying one of OnExitCodes and OnPodConditions is required"))
	}
	return errs
}

func validateExitCodes(r *batchv1.PodFailurePolicyOnExitCodesRequirement, names map[string]bool, at *field.Path) field.ErrorList {
	errs := requiredOneOf(r.Operator, at.Child("operator"), batchv1.PodFailurePolicyOnExitCodesOpIn, batchv1.PodFailurePolicyOnExitCodesOpNotIn)
	if r.ContainerName != nil && !names[*r.ContainerName] {
		errs = append(errs, field.Invalid(at.Child("containerName"), *r.ContainerName, "must be one of the container or initContainer names in the pod template"))
	}
	values := at.Child("values")
	switch {
	case len(r.Values) == 0:
		return append(errs, field.Invalid(values, r.Values, "at least one value is required"))
	case len(r.Values) > maxFailureCodes:
		return append(errs, field.TooMany(values, len(r.Values), maxFailureCodes))
	}
	seen := map[int32]bool{}
	sorted := true
	for i, v := range r.Values {
		if v == 0 && r.Operator == batchv1.PodFailurePolicyOnExitCodesOpIn {
			errs = append(errs, field.Invalid(values.Index(i), v, "must not be 0 for the In operator"))
		}
		if seen[v] {
			errs = append(errs, field.Duplicate(values.Index(i), v))
		}
		sorted = sorted && (i == 0 || r.Values[i-1] <= v)
		seen[v] = true
	}
	if !sorted {
		errs = append(errs, field.Invalid(values, r.Values, "must be ordered"))
	}
	return errs
}

func validateSuccessPolicy(s *batchv1.JobSpec, at *field.Path) field.ErrorList {
	at = at.Child("rules")
	rules := s.SuccessPolicy.Rules
	switch {
	case len(rules) == 0:
		return field.ErrorList{field.Required(at, "at least one rules must be specified when the successPolicy is specified")}
	case len(rules) > maxSuccessRules:
		return field.ErrorList{field.TooMany(at, len(rules), maxSuccessRules)}
	}
	var errs field.ErrorList
	for i, r := range rules {
		errs = append(errs, validateSuccessRule(r, deref(s.Completions, 0), at.Index(i))...)
	}
	return errs
}

func validateSuccessRule(r batchv1.SuccessPolicyRule, completions int32, at *field.Path) field.ErrorList {
	if r.SucceededCount == nil && r.SucceededIndexes == nil {
		return field.ErrorList{field.Required(at, "at least one of succeededCount or succeededIndexes must be specified")}
	}
	var errs field.ErrorList
	total := completions
	if r.SucceededIndexes != nil {
		n, err := countIndexes(*r.SucceededIndexes, completions)
		if err != nil {
			errs = append(errs, field.Invalid(at.Child("succeededIndexes"), *r.SucceededIndexes, fmt.Sprintf("error parsing succeededIndexes: %s", err)))
		} else {
			total = n
		}
	}
	if c := r.SucceededCount; c != nil {
		errs = append(errs, nonNegative(*c, at.Child("succeededCount"))...)
		if *c > completions {
			errs = append(errs, field.Invalid(at.Child("succeededCount"), *c, fmt.Sprintf("must be less than or equal to %d (the number of specified completions)", completions)))
		} else if *c > total {
			errs = append(errs, field.Invalid(at.Child("succeededCount"), *c, fmt.Sprintf("must be less than or equal to %d (the number of indexes in the specified succeededIndexes field)", total)))
		}
	}
	return errs
}

// countIndexes reads a list of indexes and of ranges of them ("1,3-5,7"),
// ascending and below the number of completions.
func countIndexes(text string, completions int32) (n int32, err error) {
	if text == "" {
		return 0, nil
	}
	last := -1
	for _, part := range strings.Split(text, ",") {
		first, end, isRange := strings.Cut(part, "-")
		from, err := strconv.Atoi(first)
		if err != nil {
			return 0, fmt.Errorf("cannot convert string to integer for index: %q", first)
		}
		to := from
		if isRange {
			if to, err = strconv.Atoi(end); err != nil {
				return 0, fmt.Errorf("cannot convert string to integer for index: %q", end)
			}
		}
		switch {
		case from <= last:
			return 0, fmt.Errorf("non-increasing order, previous: %d, current: %d", last, from)
		case isRange && to <= from:
			return 0, fmt.Errorf("non-increasing order, previous: %d, current: %d", from, to)
		case to >= int(completions):
			return 0, fmt.Errorf("too large index: %q", part)
		}
		n, last = n+int32(to-from+1), to
	}
	return n, nil
}

func validateJobUpdate(j, old *batchv1.Job) field.ErrorList {
	s, was := &j.Spec, &old.Spec
	errs := validateCompletionsUpdate(s, was)
	errs = append(errs, immutable(s.Selector, was.Selector, specPath.Child("selector"))...)
	errs = append(errs, validateJobTemplateUpdate(j, old)...)
	errs = append(errs, immutable(s.CompletionMode, was.CompletionMode, specPath.Child("completionMode"))...)
	errs = append(errs, immutable(s.PodFailurePolicy, was.PodFailurePolicy, specPath.Child("podFailurePolicy"))...)
	errs = append(errs, immutable(s.BackoffLimitPerIndex, was.BackoffLimitPerIndex, specPath.Child("backoffLimitPerIndex"))...)
	errs = append(errs, immutable(s.ManagedBy, was.ManagedBy, specPath.Child("managedBy"))...)
	return append(errs, immutable(s.SuccessPolicy, was.SuccessPolicy, specPath.Child("successPolicy"))...)
}

// validateCompletionsUpdate: only an indexed Job may change its completions,
// and only together with its parallelism, both staying equal.
func validateCompletionsUpdate(s, was *batchv1.JobSpec) field.ErrorList {
	at := specPath.Child("completions")
	if s.Completions == nil || was.Completions == nil || deref(s.CompletionMode, "") != batchv1.IndexedCompletion {
		return immutable(s.Completions, was.Completions, at)
	}
	if *s.Completions == *was.Completions {
		return nil
	}
	if *s.Completions != deref(s.Parallelism, 0) {
		return field.ErrorList{field.Invalid(at, *s.Completions, fmt.Sprintf("can only be modified in tandem with %s", specPath.Child("parallelism")))}
	}
	if *was.Completions != deref(was.Parallelism, 0) {
		return field.ErrorList{field.Invalid(at, *s.Completions, "can only be modified in tandem with "+specPath.Child("parallelism").String())}
	}
	return nil
}

// resting tells whether a suspended Job has no pods, and has said so if it ever
// started.
func resting(j *batchv1.Job) bool {
	said := j.Status.StartTime == nil || slices.ContainsFunc(j.Status.Conditions, func(c batchv1.JobCondition) bool {
		return c.Type == batchv1.JobSuspended && c.Status == corev1.ConditionTrue
	})
	return deref(j.Spec.Suspend, false) && said && j.Status.Active == 0
}

// takeResources gives containers of the same names what the others ask for.
func takeResources(to, from []corev1.Container) {
	for i := range to {
		if len(to) == len(from) && to[i].Name == from[i].Name {
			to[i].Resources = from[i].Resources
		}
	}
}

// validateJobTemplateUpdate: of the template only what places pods and what their
// containers ask for may change, and that only while a suspended Job rests.
func validateJobTemplateUpdate(j, old *batchv1.Job) field.ErrorList {
	now, was := &j.Spec.Template, old.Spec.Template.DeepCopy()
	if resting(old) {
		takeResources(was.Spec.Containers, now.Spec.Containers)
		takeResources(was.Spec.InitContainers, now.Spec.InitContainers)
		was.Labels, was.Annotations = now.Labels, now.Annotations
		was.Spec.NodeSelector, was.Spec.Tolerations = now.Spec.NodeSelector, now.Spec.Tolerations
		was.Spec.SchedulingGates = now.Spec.SchedulingGates
		if now.Spec.Affinity != nil {
			unset(&was.Spec.Affinity, corev1.Affinity{})
			was.Spec.Affinity.NodeAffinity = now.Spec.Affinity.NodeAffinity
		}
		if equality.Semantic.DeepEqual(was.Spec.Affinity, &corev1.Affinity{}) && now.Spec.Affinity == nil {
			was.Spec.Affinity = nil
		}
		return immutable(now.Spec, was.Spec, specPath.Child("template", "spec"))
	}
	return immutable(*now, *was, specPath.Child("template"))
}

func validateJobStatus(j, old *batchv1.Job) field.ErrorList {
	s := &j.Status
	errs := nonNegative(s.Active, statusPath.Child("active"))
	errs = append(errs, nonNegative(s.Succeeded, statusPath.Child("succeeded"))...)
	errs = append(errs, nonNegative(s.Failed, statusPath.Child("failed"))...)
	errs = append(errs, nonNegativePtr(s.Ready, statusPath.Child("ready"))...)
	errs = append(errs, nonNegativePtr(s.Terminating, statusPath.Child("terminating"))...)
	if u := s.UncountedTerminatedPods; u != nil {
		seen, at := sets.New[types.UID](), statusPath.Child("uncountedTerminatedPods")
		uid := func(id *types.UID, at *field.Path) field.ErrorList {
			if *id == "" {
				return field.ErrorList{field.Invalid(at, *id, "must not be empty")}
			}
			return unique(seen, *id, at)
		}
		errs = append(errs, each(u.Succeeded, at.Child("succeeded"), uid)...)
		errs = append(errs, each(u.Failed, at.Child("failed"), uid)...)
	}
	if s.Ready != nil && *s.Ready > s.Active {
		errs = append(errs, field.Invalid(statusPath.Child("ready"), *s.Ready, "cannot set more ready pods than active"))
	}
	if s.CompletedIndexes != "" && deref(j.Spec.CompletionMode, batchv1.NonIndexedCompletion) != batchv1.IndexedCompletion {
		errs = append(errs, field.Invalid(statusPath.Child("completedIndexes"), s.CompletedIndexes, "cannot set non-empty completedIndexes when non-indexed completion mode"))
	}
	if s.FailedIndexes != nil && j.Spec.BackoffLimitPerIndex == nil {
		errs = append(errs, field.Invalid(statusPath.Child("failedIndexes"), *s.FailedIndexes, "cannot set non-null failedIndexes when backoffLimitPerIndex is null"))
	}
	complete, failed := jobHas(s, batchv1.JobComplete), jobHas(s, batchv1.JobFailed)
	if complete && failed {
		errs = append(errs, field.Invalid(statusPath.Child("conditions"), field.OmitValueType{}, "cannot set Complete=True and Failed=true conditions"))
	}
	if (complete || failed) && s.Active > 0 {
		errs = append(errs, field.Invalid(statusPath.Child("active"), s.Active, "active>0 is invalid for finished job"))
	}
	if s.CompletionTime != nil && !complete {
		errs = append(errs, field.Invalid(statusPath.Child("completionTime"), s.CompletionTime, "cannot set completionTime when there is no Complete=True condition"))
	}
	for _, done := range []batchv1.JobConditionType{batchv1.JobComplete, batchv1.JobFailed} {
		if jobHas(&old.Status, done) && !jobHas(s, done) {
			errs = append(errs, field.Invalid(statusPath.Child("conditions"), field.OmitValueType{}, fmt.Sprintf("cannot disable %s=True condition", done)))
		}
	}
	return errs
}

func jobHas(s *batchv1.JobStatus, t batchv1.JobConditionType) bool {
	for _, c := range s.Conditions {
		if c.Type == t {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}
