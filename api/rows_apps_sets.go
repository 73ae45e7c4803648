package api

import (
	"fmt"
	"slices"
	"strconv"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func daemonSetRow() *Resource {
	spec, status := appsv1.DaemonSetSpec{}.SwaggerDoc(), appsv1.DaemonSetStatus{}.SwaggerDoc()
	return kind[*appsv1.DaemonSet]{
		GroupVersion: appsv1.SchemeGroupVersion, Plural: "daemonsets", Short: []string{"ds"}, Categories: []string{"all"}, Namespaced: true,
		List:   &appsv1.DaemonSetList{},
		Status: true, Generation: true,
		Default:       defaultDaemonSet,
		PrepareCreate: func(d *appsv1.DaemonSet) { setTemplateGeneration(d, 1) },
		PrepareStatus: keepTemplateGeneration,
		PrepareUpdate: prepareDaemonSetUpdate,
		Validate:      validateDaemonSet,
		Warnings:      templateWarnings(specPath.Child("template"), func(d *appsv1.DaemonSet) *corev1.PodTemplateSpec { return &d.Spec.Template }),
		ValidateUpdate: func(d, old *appsv1.DaemonSet) field.ErrorList {
			return immutable(d.Spec.Selector, old.Spec.Selector, specPath.Child("selector"))
		},
		ValidateStatus: validateDaemonSetStatus,
		Columns: append(append(columns(nameColumn,
			column("Desired", "integer", status["desiredNumberScheduled"]),
			column("Current", "integer", status["currentNumberScheduled"]),
			column("Ready", "integer", status["numberReady"]),
			column("Up-to-date", "integer", status["updatedNumberScheduled"]),
			column("Available", "integer", status["numberAvailable"]),
			column("Node Selector", "string", corev1.PodSpec{}.SwaggerDoc()["nodeSelector"]),
			ageColumn), workloadColumns...),
			wideColumn("Selector", "string", spec["selector"])),
		Cells: func(d *appsv1.DaemonSet, now time.Time) []any {
			names, images := containerCells(&d.Spec.Template.Spec)
			s := &d.Status
			return []any{d.Name, int64(s.DesiredNumberScheduled), int64(s.CurrentNumberScheduled), int64(s.NumberReady),
				int64(s.UpdatedNumberScheduled), int64(s.NumberAvailable), labelsCell(d.Spec.Template.Spec.NodeSelector),
				age(d, now), names, images, selectorCell(d.Spec.Selector)}
		},
	}.row()
}

func defaultDaemonSet(d *appsv1.DaemonSet) {
	DefaultPodSpec(&d.Spec.Template.Spec)
	u := &d.Spec.UpdateStrategy
	empty(&u.Type, appsv1.RollingUpdateDaemonSetStrategyType)
	if u.Type == appsv1.RollingUpdateDaemonSetStrategyType {
		unset(&u.RollingUpdate, appsv1.RollingUpdateDaemonSet{})
		unset(&u.RollingUpdate.MaxUnavailable, intstr.FromInt32(1))
		unset(&u.RollingUpdate.MaxSurge, intstr.FromInt32(0))
	}
	unset(&d.Spec.RevisionHistoryLimit, 10)
}

// The generation of the template alone lives in an annotation since apps/v1
// has no field for it.
// keepTemplateGeneration: the annotation stands for a field of the spec.
func keepTemplateGeneration(d, old *appsv1.DaemonSet) {
	if n, ok := old.Annotations[appsv1.DeprecatedTemplateGeneration]; ok {
		if d.Annotations == nil {
			d.Annotations = map[string]string{}
		}
		d.Annotations[appsv1.DeprecatedTemplateGeneration] = n
	}
}

func setTemplateGeneration(d *appsv1.DaemonSet, n int64) {
	if d.Annotations == nil {
		d.Annotations = map[string]string{}
	}
	d.Annotations[appsv1.DeprecatedTemplateGeneration] = strconv.FormatInt(n, 10)
}

func prepareDaemonSetUpdate(d, old *appsv1.DaemonSet) {
	n, err := strconv.ParseInt(old.Annotations[appsv1.DeprecatedTemplateGeneration], 10, 64)
	if err != nil {
		n = 1
	}
	if !equality.Semantic.DeepEqual(d.Spec.Template, old.Spec.Template) {
		n++
	}
	setTemplateGeneration(d, n)
}

func validateDaemonSet(d *appsv1.DaemonSet) field.ErrorList {
	s := &d.Spec
	errs := validateDaemonSetSelector(s)
	errs = append(errs, ValidatePodTemplateSpec(&s.Template, specPath.Child("template"))...)
	errs = append(errs, validateRestartsAlways(&s.Template, "DaemonSet")...)
	errs = append(errs, nonNegative(s.MinReadySeconds, specPath.Child("minReadySeconds"))...)
	errs = append(errs, validateDaemonSetUpdateStrategy(&s.UpdateStrategy, specPath.Child("updateStrategy"))...)
	return append(errs, nonNegativePtr(s.RevisionHistoryLimit, specPath.Child("revisionHistoryLimit"))...)
}

// validateDaemonSetSelector: no selector at all passes; one that selects nothing
// does not match the template.
func validateDaemonSetSelector(s *appsv1.DaemonSetSpec) field.ErrorList {
	at := specPath.Child("selector")
	errs := checkSelector(s.Selector, at)
	selector, err := metav1.LabelSelectorAsSelector(s.Selector)
	if err == nil && !selector.Matches(labels.Set(s.Template.Labels)) {
		errs = append(errs, field.Invalid(specPath.Child("template", "metadata", "labels"), s.Template.Labels, "`selector` does not match template `labels`"))
	}
	if s.Selector != nil && len(s.Selector.MatchLabels)+len(s.Selector.MatchExpressions) == 0 {
		errs = append(errs, field.Invalid(at, s.Selector, "empty selector is invalid for daemonset"))
	}
	return errs
}

func validateDaemonSetUpdateStrategy(u *appsv1.DaemonSetUpdateStrategy, at *field.Path) field.ErrorList {
	rolling := at.Child("rollingUpdate")
	switch {
	case u.Type == appsv1.OnDeleteDaemonSetStrategyType:
		return nil
	case u.Type != appsv1.RollingUpdateDaemonSetStrategyType:
		return oneOf(u.Type, at, appsv1.OnDeleteDaemonSetStrategyType, appsv1.RollingUpdateDaemonSetStrategyType)
	case u.RollingUpdate == nil:
		return field.ErrorList{field.Required(rolling, "")}
	}
	r := u.RollingUpdate
	errs := validateShare(r.MaxUnavailable, rolling.Child("maxUnavailable"))
	errs = append(errs, validateShare(r.MaxSurge, rolling.Child("maxSurge"))...)
	surge, unavailable := !isZeroAmount(r.MaxSurge), !isZeroAmount(r.MaxUnavailable)
	switch {
	case surge && unavailable:
		errs = append(errs, field.Invalid(rolling.Child("maxSurge"), r.MaxSurge, "may not be set when maxUnavailable is non-zero"))
	case !surge && !unavailable:
		errs = append(errs, field.Required(rolling.Child("maxUnavailable"), "cannot be 0 when maxSurge is 0"))
	}
	return errs
}

func validateDaemonSetStatus(d, old *appsv1.DaemonSet) field.ErrorList {
	s := &d.Status
	errs := nonNegative(s.ObservedGeneration, statusPath.Child("observedGeneration"))
	for _, c := range []count{
		{"currentNumberScheduled", s.CurrentNumberScheduled}, {"numberMisscheduled", s.NumberMisscheduled},
		{"desiredNumberScheduled", s.DesiredNumberScheduled}, {"numberReady", s.NumberReady},
		{"updatedNumberScheduled", s.UpdatedNumberScheduled}, {"numberAvailable", s.NumberAvailable},
		{"numberUnavailable", s.NumberUnavailable},
	} {
		errs = append(errs, nonNegative(c.n, statusPath.Child(c.field))...)
	}
	return append(errs, validateCollisions(s.CollisionCount, old.Status.CollisionCount)...)
}

func statefulSetRow() *Resource {
	return kind[*appsv1.StatefulSet]{
		GroupVersion: appsv1.SchemeGroupVersion, Plural: "statefulsets", Short: []string{"sts"}, Categories: []string{"all"}, Namespaced: true,
		List: &appsv1.StatefulSetList{},
		// Pods are named after the set and their names are host names.
		Name:   apivalidation.NameIsDNSLabel,
		Status: true, Generation: true,
		Default:        defaultStatefulSet,
		Validate:       validateStatefulSet,
		ValidateNew:    validateStatefulSetClaims,
		Warnings:       warnStatefulSet,
		ValidateUpdate: validateStatefulSetUpdate,
		ValidateStatus: validateStatefulSetStatus,
		Subresources: []Subresource{scaleEndpoint(
			func(s *appsv1.StatefulSet) (int32, int32, string) {
				return deref(s.Spec.Replicas, 0), s.Status.Replicas, selectorText(s.Spec.Selector)
			},
			func(s *appsv1.StatefulSet, n int32) { s.Spec.Replicas = &n })},
		Columns: append(columns(nameColumn,
			column("Ready", "string", "Number of the pod with ready state"),
			ageColumn), workloadColumns...),
		Cells: func(s *appsv1.StatefulSet, now time.Time) []any {
			names, images := containerCells(&s.Spec.Template.Spec)
			return []any{s.Name, fmt.Sprintf("%d/%d", s.Status.ReadyReplicas, deref(s.Spec.Replicas, 0)), age(s, now), names, images}
		},
	}.row()
}

func warnStatefulSet(s, old *appsv1.StatefulSet) []string {
	template := func(s *appsv1.StatefulSet) *corev1.PodTemplateSpec { return &s.Spec.Template }
	w, at := &warned{list: templateWarnings(specPath.Child("template"), template)(s, old)}, specPath.Child("volumeClaimTemplates")
	for i := range s.Spec.VolumeClaimTemplates {
		at := at.Index(i)
		if old != nil {
			at = at.Child("Spec") // published so
		}
		w.claim(&s.Spec.VolumeClaimTemplates[i].Spec, at)
	}
	if n := s.Spec.RevisionHistoryLimit; n != nil && *n < 0 {
		w.add("spec.revisionHistoryLimit: a negative value retains all historical revisions; a value >= 0 is recommended")
	}
	return w.list
}

func defaultStatefulSet(s *appsv1.StatefulSet) {
	DefaultPodSpec(&s.Spec.Template.Spec)
	empty(&s.Spec.PodManagementPolicy, appsv1.OrderedReadyPodManagement)
	u := &s.Spec.UpdateStrategy
	if u.Type == "" {
		u.Type = appsv1.RollingUpdateStatefulSetStrategyType
		unset(&u.RollingUpdate, appsv1.RollingUpdateStatefulSetStrategy{})
	}
	if u.Type == appsv1.RollingUpdateStatefulSetStrategyType && u.RollingUpdate != nil {
		unset(&u.RollingUpdate.Partition, 0)
		unset(&u.RollingUpdate.MaxUnavailable, intstr.FromInt32(1))
	}
	unset(&s.Spec.PersistentVolumeClaimRetentionPolicy, appsv1.StatefulSetPersistentVolumeClaimRetentionPolicy{})
	empty(&s.Spec.PersistentVolumeClaimRetentionPolicy.WhenDeleted, appsv1.RetainPersistentVolumeClaimRetentionPolicyType)
	empty(&s.Spec.PersistentVolumeClaimRetentionPolicy.WhenScaled, appsv1.RetainPersistentVolumeClaimRetentionPolicyType)
	unset(&s.Spec.Replicas, 1)
	unset(&s.Spec.RevisionHistoryLimit, 10)
	for i := range s.Spec.VolumeClaimTemplates {
		c := &s.Spec.VolumeClaimTemplates[i]
		c.APIVersion, c.Kind = "v1", "PersistentVolumeClaim"
		empty(&c.Status.Phase, corev1.ClaimPending)
		unset(&c.Spec.VolumeMode, corev1.PersistentVolumeFilesystem)
	}
}

func validateStatefulSet(s *appsv1.StatefulSet) field.ErrorList {
	errs := validatePodManagement(s.Spec.PodManagementPolicy, specPath.Child("podManagementPolicy"))
	errs = append(errs, validateStatefulSetUpdateStrategy(&s.Spec.UpdateStrategy, specPath.Child("updateStrategy"))...)
	if p := s.Spec.PersistentVolumeClaimRetentionPolicy; p != nil {
		at := specPath.Child("persistentVolumeClaimRetentionPolicy")
		keep := []appsv1.PersistentVolumeClaimRetentionPolicyType{appsv1.DeletePersistentVolumeClaimRetentionPolicyType, appsv1.RetainPersistentVolumeClaimRetentionPolicyType}
		errs = append(errs, oneOf(p.WhenDeleted, at.Child("whenDeleted"), keep...)...)
		errs = append(errs, oneOf(p.WhenScaled, at.Child("whenScaled"), keep...)...)
	}
	errs = append(errs, nonNegativePtr(s.Spec.Replicas, specPath.Child("replicas"))...)
	errs = append(errs, nonNegative(s.Spec.MinReadySeconds, specPath.Child("minReadySeconds"))...)
	if o := s.Spec.Ordinals; o != nil {
		errs = append(errs, nonNegative(o.Start, specPath.Child("ordinals.start"))...)
	}
	errs = append(errs, validateWorkloadSelector(s.Spec.Selector, &s.Spec.Template, "statefulset")...)
	errs = append(errs, optionally(s.Spec.ServiceName, validation.IsDNS1123Label, specPath.Child("serviceName"))...)
	errs = append(errs, validateStatefulSetTemplate(&s.Spec)...)
	return append(errs, validateRestartsAlways(&s.Spec.Template, "StatefulSet")...)
}

func validatePodManagement(p appsv1.PodManagementPolicyType, at *field.Path) field.ErrorList {
	switch p {
	case "":
		return field.ErrorList{field.Required(at, "")}
	case appsv1.OrderedReadyPodManagement, appsv1.ParallelPodManagement:
		return nil
	}
	return field.ErrorList{field.Invalid(at, p, "must be 'OrderedReady' or 'Parallel'")}
}

// validateStatefulSetTemplate judges the template as its pods will be: with the
// claims as volumes, and without the names that the controller gives.
func validateStatefulSetTemplate(s *appsv1.StatefulSetSpec) field.ErrorList {
	at, t := specPath.Child("template"), s.Template.DeepCopy()
	t.Spec.Subdomain, t.Spec.Hostname = "", ""
	var volumes []corev1.Volume
	for _, c := range s.VolumeClaimTemplates {
		if slices.ContainsFunc(volumes, func(v corev1.Volume) bool { return v.Name == c.Name }) {
			continue
		}
		volumes = append(volumes, corev1.Volume{Name: c.Name, VolumeSource: corev1.VolumeSource{
			PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: c.Name}}})
	}
	for _, v := range t.Spec.Volumes {
		if !slices.ContainsFunc(volumes, func(c corev1.Volume) bool { return c.Name == v.Name }) {
			volumes = append(volumes, v)
		}
	}
	t.Spec.Volumes = volumes
	return append(ValidatePodTemplateSpec(t, at), validateTemplateMeta(&t.ObjectMeta, at)...)
}

// validateStatefulSetClaims: the templates of claims are judged when the set is
// made; after that they cannot change.
func validateStatefulSetClaims(s *appsv1.StatefulSet) field.ErrorList {
	return each(s.Spec.VolumeClaimTemplates, specPath.Child("volumeClaimTemplates"), func(c *corev1.PersistentVolumeClaim, at *field.Path) field.ErrorList {
		return validateClaimSpec(&c.Spec, at.Child("spec"))
	})
}

func validateStatefulSetUpdateStrategy(u *appsv1.StatefulSetUpdateStrategy, at *field.Path) field.ErrorList {
	rolling := at.Child("rollingUpdate")
	switch u.Type {
	case "":
		return field.ErrorList{field.Required(at, "")}
	case appsv1.OnDeleteStatefulSetStrategyType:
		if u.RollingUpdate != nil {
			return field.ErrorList{field.Invalid(rolling, u.RollingUpdate, "only allowed for updateStrategy 'RollingUpdate'")}
		}
		return nil
	case appsv1.RollingUpdateStatefulSetStrategyType:
		if u.RollingUpdate == nil {
			return nil
		}
		errs := nonNegativePtr(u.RollingUpdate.Partition, rolling.Child("partition"))
		if max := u.RollingUpdate.MaxUnavailable; max != nil {
			errs = append(errs, validateShare(max, rolling.Child("maxUnavailable"))...)
			if isZeroAmount(max) {
				errs = append(errs, field.Invalid(rolling.Child("maxUnavailable"), *max, "cannot be 0"))
			}
		}
		return errs
	}
	return field.ErrorList{field.Invalid(at, *u, "must be 'RollingUpdate' or 'OnDelete'")}
}

func validateStatefulSetUpdate(s, old *appsv1.StatefulSet) field.ErrorList {
	now, was := &s.Spec, &old.Spec
	return slices.Concat(
		immutable(now.Selector, was.Selector, specPath.Child("selector")),
		immutable(now.VolumeClaimTemplates, was.VolumeClaimTemplates, specPath.Child("volumeClaimTemplates")),
		immutable(now.ServiceName, was.ServiceName, specPath.Child("serviceName")),
		immutable(now.PodManagementPolicy, was.PodManagementPolicy, specPath.Child("podManagementPolicy")),
	)
}

func validateStatefulSetStatus(s, old *appsv1.StatefulSet) field.ErrorList {
	t := &s.Status
	errs := nonNegative(t.Replicas, statusPath.Child("replicas"))
	errs = append(errs, validateCounts(t.Replicas, statusPath,
		count{"readyReplicas", t.ReadyReplicas}, count{"currentReplicas", t.CurrentReplicas},
		count{"updatedReplicas", t.UpdatedReplicas}, count{"availableReplicas", t.AvailableReplicas})...)
	errs = append(errs, nonNegative(t.ObservedGeneration, statusPath.Child("observedGeneration"))...)
	if t.AvailableReplicas > t.ReadyReplicas {
		errs = append(errs, field.Invalid(statusPath.Child("availableReplicas"), t.AvailableReplicas, "cannot be greater than status.readyReplicas"))
	}
	return append(errs, validateCollisions(t.CollisionCount, old.Status.CollisionCount)...)
}
