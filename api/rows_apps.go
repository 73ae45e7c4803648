package api

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func appsRows() []*Resource {
	return []*Resource{controllerRevisionRow(), daemonSetRow(), deploymentRow(), replicaSetRow(), statefulSetRow()}
}

// workloadColumns are the last columns of kinds that have a pod template.
var workloadColumns = []metav1.TableColumnDefinition{
	wideColumn("Containers", "string", "Names of each container in the template."),
	wideColumn("Images", "string", "Images referenced by each container in the template."),
}

// containerCells lists a template's containers and their images.
func containerCells(s *corev1.PodSpec) (names, images string) {
	var n, i []string
	for _, c := range s.Containers {
		n, i = append(n, c.Name), append(i, c.Image)
	}
	return strings.Join(n, ","), strings.Join(i, ",")
}

func deploymentRow() *Resource {
	spec, status := appsv1.DeploymentSpec{}.SwaggerDoc(), appsv1.DeploymentStatus{}.SwaggerDoc()
	return kind[*appsv1.Deployment]{
		GroupVersion: appsv1.SchemeGroupVersion, Plural: "deployments", Short: []string{"deploy"}, Categories: []string{"all"}, Namespaced: true,
		List:   &appsv1.DeploymentList{},
		Status: true, Generation: true,
		Default: defaultDeployment,
		// A change of the annotations counts as one of the spec: some belong to it.
		PrepareUpdate: func(d, old *appsv1.Deployment) {
			if !equality.Semantic.DeepEqual(d.Annotations, old.Annotations) {
				d.Generation = old.Generation + 1
			}
		},
		Validate: validateDeployment,
		Warnings: namedTemplateWarnings(specPath.Child("template"), func(d *appsv1.Deployment) *corev1.PodTemplateSpec { return &d.Spec.Template }),
		ValidateUpdate: func(d, old *appsv1.Deployment) field.ErrorList {
			return immutable(d.Spec.Selector, old.Spec.Selector, specPath.Child("selector"))
		},
		// The status endpoint leaves the labels alone, as they say whose the
		// Deployment is.
		PrepareStatus:  func(d, old *appsv1.Deployment) { d.Labels = old.Labels },
		ValidateStatus: validateDeploymentStatus,
		Subresources: []Subresource{scaleEndpoint(
			func(d *appsv1.Deployment) (int32, int32, string) {
				return deref(d.Spec.Replicas, 0), d.Status.Replicas, selectorText(d.Spec.Selector)
			},
			func(d *appsv1.Deployment, n int32) { d.Spec.Replicas = &n })},
		Columns: append(append(columns(nameColumn,
			column("Ready", "string", "Number of the pod with ready state"),
			column("Up-to-date", "string", status["updatedReplicas"]),
			column("Available", "string", status["availableReplicas"]),
			ageColumn), workloadColumns...),
			wideColumn("Selector", "string", spec["selector"])),
		Cells: func(d *appsv1.Deployment, now time.Time) []any {
			names, images := containerCells(&d.Spec.Template.Spec)
			return []any{d.Name, fmt.Sprintf("%d/%d", d.Status.ReadyReplicas, deref(d.Spec.Replicas, 0)),
				int64(d.Status.UpdatedReplicas), int64(d.Status.AvailableReplicas), age(d, now),
				names, images, deploymentSelectorCell(d.Spec.Selector)}
		},
	}.row()
}

// deploymentSelectorCell: unlike in other tables a selector of nothing is empty.
func deploymentSelectorCell(s *metav1.LabelSelector) string {
	selector, err := metav1.LabelSelectorAsSelector(s)
	if err != nil {
		return "<invalid>"
	}
	return selector.String()
}

// selectorText is a selector in the form that Scale's status has.
func selectorText(s *metav1.LabelSelector) string {
	selector, err := metav1.LabelSelectorAsSelector(s)
	if err != nil {
		return ""
	}
	return selector.String()
}

func defaultDeployment(d *appsv1.Deployment) {
	s := &d.Spec
	DefaultPodSpec(&s.Template.Spec)
	unset(&s.Replicas, 1)
	empty(&s.Strategy.Type, appsv1.RollingUpdateDeploymentStrategyType)
	if s.Strategy.Type == appsv1.RollingUpdateDeploymentStrategyType {
		unset(&s.Strategy.RollingUpdate, appsv1.RollingUpdateDeployment{})
		unset(&s.Strategy.RollingUpdate.MaxUnavailable, intstr.FromString("25%"))
		unset(&s.Strategy.RollingUpdate.MaxSurge, intstr.FromString("25%"))
	}
	unset(&s.RevisionHistoryLimit, 10)
	unset(&s.ProgressDeadlineSeconds, 600)
}

func validateDeployment(d *appsv1.Deployment) field.ErrorList {
	s := &d.Spec
	errs := nonNegativePtr(s.Replicas, specPath.Child("replicas"))
	errs = append(errs, validateWorkloadSelector(s.Selector, &s.Template, "deployment")...)
	errs = append(errs, ValidatePodTemplateSpec(&s.Template, specPath.Child("template"))...)
	errs = append(errs, validateRestartsAlways(&s.Template, "ReplicaSet")...)
	errs = append(errs, validateDeploymentStrategy(&s.Strategy, specPath.Child("strategy"))...)
	errs = append(errs, nonNegative(s.MinReadySeconds, specPath.Child("minReadySeconds"))...)
	errs = append(errs, nonNegativePtr(s.RevisionHistoryLimit, specPath.Child("revisionHistoryLimit"))...)
	if p := s.ProgressDeadlineSeconds; p != nil {
		at := specPath.Child("progressDeadlineSeconds")
		errs = append(errs, nonNegative(*p, at)...)
		if *p <= s.MinReadySeconds {
			errs = append(errs, field.Invalid(at, *p, "must be greater than minReadySeconds"))
		}
	}
	return errs
}

func validateDeploymentStrategy(s *appsv1.DeploymentStrategy, at *field.Path) field.ErrorList {
	rolling := at.Child("rollingUpdate")
	switch s.Type {
	case appsv1.RecreateDeploymentStrategyType:
		if s.RollingUpdate != nil {
			return field.ErrorList{field.Forbidden(rolling, "may not be specified when strategy `type` is '"+string(s.Type)+"'")}
		}
		return nil
	case appsv1.RollingUpdateDeploymentStrategyType:
		if s.RollingUpdate == nil {
			return field.ErrorList{field.Required(rolling, "this should be defaulted and never be nil")}
		}
		return validateRollingUpdate(s.RollingUpdate, rolling)
	}
	return oneOf(s.Type, at, appsv1.RecreateDeploymentStrategyType, appsv1.RollingUpdateDeploymentStrategyType)
}

func validateRollingUpdate(r *appsv1.RollingUpdateDeployment, at *field.Path) field.ErrorList {
	errs := validateNumberOrPercent(r.MaxUnavailable, at.Child("maxUnavailable"))
	errs = append(errs, validateNumberOrPercent(r.MaxSurge, at.Child("maxSurge"))...)
	if isZeroAmount(r.MaxUnavailable) && isZeroAmount(r.MaxSurge) {
		errs = append(errs, field.Invalid(at.Child("maxUnavailable"), r.MaxUnavailable, "may not be 0 when `maxSurge` is 0"))
	}
	return append(errs, validateAtMostAll(r.MaxUnavailable, at.Child("maxUnavailable"))...)
}

func validateDeploymentStatus(d, old *appsv1.Deployment) field.ErrorList {
	s := &d.Status
	errs := nonNegative(s.ObservedGeneration, statusPath.Child("observedGeneration"))
	errs = append(errs, nonNegative(s.Replicas, statusPath.Child("replicas"))...)
	errs = append(errs, validateCounts(s.Replicas, statusPath,
		count{"updatedReplicas", s.UpdatedReplicas}, count{"readyReplicas", s.ReadyReplicas}, count{"availableReplicas", s.AvailableReplicas})...)
	errs = append(errs, nonNegative(s.UnavailableReplicas, statusPath.Child("unavailableReplicas"))...)
	if s.AvailableReplicas > s.ReadyReplicas {
		errs = append(errs, field.Invalid(statusPath.Child("availableReplicas"), s.AvailableReplicas, "cannot be greater than readyReplicas"))
	}
	return append(errs, validateCollisions(s.CollisionCount, old.Status.CollisionCount)...)
}

// count is a number of pods in a status, by the field it is in.
type count struct {
	field string
	n     int32
}

// validateCounts: each counts some of the replicas.
func validateCounts(replicas int32, at *field.Path, counts ...count) field.ErrorList {
	var errs field.ErrorList
	for _, c := range counts {
		errs = append(errs, nonNegative(c.n, at.Child(c.field))...)
		if c.n > replicas {
			errs = append(errs, field.Invalid(at.Child(c.field), c.n, "cannot be greater than status.replicas"))
		}
	}
	return errs
}

// validateCollisions: the count of hash collisions only ever grows.
func validateCollisions(now, before *int32) field.ErrorList {
	at := statusPath.Child("collisionCount")
	errs := nonNegativePtr(now, at)
	if before != nil && deref(now, 0) < *before {
		errs = append(errs, field.Invalid(at, deref(now, 0), "cannot be decremented"))
	}
	return errs
}

func replicaSetRow() *Resource {
	spec, status := appsv1.ReplicaSetSpec{}.SwaggerDoc(), appsv1.ReplicaSetStatus{}.SwaggerDoc()
	return kind[*appsv1.ReplicaSet]{
		GroupVersion: appsv1.SchemeGroupVersion, Plural: "replicasets", Short: []string{"rs"}, Categories: []string{"all"}, Namespaced: true,
		Indexes: map[string]func(*appsv1.ReplicaSet) []string{"orphan": orphan[*appsv1.ReplicaSet]},
		List:    &appsv1.ReplicaSetList{},
		Status:  true, Generation: true,
		Default: func(r *appsv1.ReplicaSet) {
			DefaultPodSpec(&r.Spec.Template.Spec)
			unset(&r.Spec.Replicas, 1)
		},
		Validate: validateReplicaSet,
		Warnings: namedTemplateWarnings(specPath.Child("template"), func(r *appsv1.ReplicaSet) *corev1.PodTemplateSpec { return &r.Spec.Template }),
		ValidateUpdate: func(r, old *appsv1.ReplicaSet) field.ErrorList {
			return immutable(r.Spec.Selector, old.Spec.Selector, specPath.Child("selector"))
		},
		ValidateStatus: func(r, _ *appsv1.ReplicaSet) field.ErrorList { return validateReplicaSetStatus(&r.Status) },
		Subresources: []Subresource{scaleEndpoint(
			func(r *appsv1.ReplicaSet) (int32, int32, string) {
				return deref(r.Spec.Replicas, 0), r.Status.Replicas, selectorText(r.Spec.Selector)
			},
			func(r *appsv1.ReplicaSet, n int32) { r.Spec.Replicas = &n })},
		Columns: append(append(columns(nameColumn,
			column("Desired", "integer", spec["replicas"]),
			column("Current", "integer", status["replicas"]),
			column("Ready", "integer", status["readyReplicas"]),
			ageColumn), workloadColumns...),
			wideColumn("Selector", "string", spec["selector"])),
		Cells: func(r *appsv1.ReplicaSet, now time.Time) []any {
			names, images := containerCells(&r.Spec.Template.Spec)
			return []any{r.Name, int64(deref(r.Spec.Replicas, 0)), int64(r.Status.Replicas), int64(r.Status.ReadyReplicas),
				age(r, now), names, images, selectorCell(r.Spec.Selector)}
		},
	}.row()
}

func validateReplicaSet(r *appsv1.ReplicaSet) field.ErrorList {
	s := &r.Spec
	errs := nonNegativePtr(s.Replicas, specPath.Child("replicas"))
	errs = append(errs, nonNegative(s.MinReadySeconds, specPath.Child("minReadySeconds"))...)
	// Upstream speaks of a deployment here too.
	errs = append(errs, validateWorkloadSelector(s.Selector, &s.Template, "deployment")...)
	errs = append(errs, ValidatePodTemplateSpec(&s.Template, specPath.Child("template"))...)
	return append(errs, validateRestartsAlways(&s.Template, "ReplicaSet")...)
}

func validateReplicaSetStatus(s *appsv1.ReplicaSetStatus) field.ErrorList {
	errs := nonNegative(s.Replicas, statusPath.Child("replicas"))
	errs = append(errs, validateCounts(s.Replicas, statusPath,
		count{"fullyLabeledReplicas", s.FullyLabeledReplicas}, count{"readyReplicas", s.ReadyReplicas}, count{"availableReplicas", s.AvailableReplicas})...)
	errs = append(errs, nonNegative(s.ObservedGeneration, statusPath.Child("observedGeneration"))...)
	if s.AvailableReplicas > s.ReadyReplicas {
		errs = append(errs, field.Invalid(statusPath.Child("availableReplicas"), s.AvailableReplicas, "cannot be greater than readyReplicas"))
	}
	return errs
}

func controllerRevisionRow() *Resource {
	return kind[*appsv1.ControllerRevision]{
		GroupVersion: appsv1.SchemeGroupVersion, Plural: "controllerrevisions", Namespaced: true,
		Indexes:     map[string]func(*appsv1.ControllerRevision) []string{"orphan": orphan[*appsv1.ControllerRevision]},
		List:        &appsv1.ControllerRevisionList{},
		Validate:    validateControllerRevision,
		ValidateNew: validateRevisionData,
		ValidateUpdate: func(r, old *appsv1.ControllerRevision) field.ErrorList {
			return immutable(r.Data, old.Data, field.NewPath("data"))
		},
		Columns: columns(nameColumn,
			column("Controller", "string", "Controller of the object"),
			column("Revision", "string", appsv1.ControllerRevision{}.SwaggerDoc()["revision"]),
			ageColumn),
		Cells: func(r *appsv1.ControllerRevision, now time.Time) []any {
			return []any{r.Name, controllerCell(r), r.Revision, age(r, now)}
		},
	}.row()
}

// validateRevisionData: a revision is of an object.
func validateRevisionData(r *appsv1.ControllerRevision) field.ErrorList {
	at := field.NewPath("data")
	if r.Data.Object != nil {
		return nil
	}
	if r.Data.Raw == nil {
		return field.ErrorList{field.Required(at, "data is mandatory")}
	}
	var v any
	if err := json.Unmarshal(r.Data.Raw, &v); err != nil {
		return field.ErrorList{field.Invalid(at, "<value omitted>", "error parsing data: "+err.Error())}
	}
	if v == nil {
		return field.ErrorList{field.Required(at, "data is mandatory")}
	}
	if _, ok := v.(map[string]any); !ok {
		return field.ErrorList{field.Required(at, "data must be a valid JSON object")}
	}
	return nil
}

func validateControllerRevision(r *appsv1.ControllerRevision) field.ErrorList {
	var errs field.ErrorList
	return append(errs, nonNegative(r.Revision, field.NewPath("revision"))...)
}

// controllerCell names an object's controller as kubectl does: kind.group/name.
func controllerCell(obj metav1.Object) string {
	ref := metav1.GetControllerOf(obj)
	if ref == nil {
		return none
	}
	gvk := schema.FromAPIVersionAndKind(ref.APIVersion, ref.Kind)
	return strings.ToLower(gvk.GroupKind().String()) + "/" + ref.Name
}
