package api

import (
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func podTemplateRow() *Resource {
	return kind[*corev1.PodTemplate]{
		GroupVersion: corev1.SchemeGroupVersion, Plural: "podtemplates", Namespaced: true,
		List:       &corev1.PodTemplateList{},
		Generation: true,
		Default:    func(t *corev1.PodTemplate) { DefaultPodSpec(&t.Template.Spec) },
		Warnings:   templateWarnings(field.NewPath("template"), func(t *corev1.PodTemplate) *corev1.PodTemplateSpec { return &t.Template }),
		Validate: func(t *corev1.PodTemplate) field.ErrorList {
			return ValidatePodTemplateSpec(&t.Template, field.NewPath("template"))
		},
		Columns: columns(nameColumn,
			column("Containers", "string", "Names of each container in the template."),
			column("Images", "string", "Images referenced by each container in the template."),
			column("Pod Labels", "string", "The labels for the pod template.")),
		Cells: func(t *corev1.PodTemplate, _ time.Time) []any {
			names, images := containerCells(&t.Template.Spec)
			return []any{t.Name, names, images, labelsCell(t.Template.Labels)}
		},
	}.row()
}

func replicationControllerRow() *Resource {
	doc := corev1.ReplicationControllerStatus{}.SwaggerDoc()
	return kind[*corev1.ReplicationController]{
		GroupVersion: corev1.SchemeGroupVersion, Plural: "replicationcontrollers", Short: []string{"rc"}, Categories: []string{"all"}, Namespaced: true,
		List:   &corev1.ReplicationControllerList{},
		Status: true, Generation: true,
		// The only version there is promises orphans to who names no policy.
		DefaultPropagation: metav1.DeletePropagationOrphan,
		Default:            defaultReplicationController,
		Validate:           validateReplicationController,
		Warnings:           namedTemplateWarnings(specPath.Child("template"), func(r *corev1.ReplicationController) *corev1.PodTemplateSpec { return r.Spec.Template }),
		ValidateStatus:     validateReplicationStatus,
		Subresources:       []Subresource{scaleEndpoint(replicationScale, func(r *corev1.ReplicationController, n int32) { r.Spec.Replicas = &n })},
		Columns: columns(nameColumn,
			column("Desired", "integer", corev1.ReplicationControllerSpec{}.SwaggerDoc()["replicas"]),
			column("Current", "integer", doc["replicas"]),
			column("Ready", "integer", doc["readyReplicas"]),
			ageColumn,
			wideColumn("Containers", "string", "Names of each container in the template."),
			wideColumn("Images", "string", "Images referenced by each container in the template."),
			wideColumn("Selector", "string", corev1.ReplicationControllerSpec{}.SwaggerDoc()["selector"])),
		Cells: func(r *corev1.ReplicationController, now time.Time) []any {
			var names, images string
			if r.Spec.Template != nil {
				names, images = containerCells(&r.Spec.Template.Spec)
			}
			return []any{r.Name, int64(deref(r.Spec.Replicas, 0)), int64(r.Status.Replicas), int64(r.Status.ReadyReplicas), age(r, now),
				names, images, labelsCell(r.Spec.Selector)}
		},
		Fields: func(r *corev1.ReplicationController) fields.Set {
			return fields.Set{"status.replicas": itoa(r.Status.Replicas)}
		},
	}.row()
}

// defaultReplicationController: a template's labels stand for the selector and
// the controller's own labels.
func defaultReplicationController(r *corev1.ReplicationController) {
	unset(&r.Spec.Replicas, 1)
	t := r.Spec.Template
	if t == nil {
		return
	}
	DefaultPodSpec(&t.Spec)
	if len(t.Labels) == 0 {
		return
	}
	if len(r.Spec.Selector) == 0 {
		r.Spec.Selector = labels.Merge(t.Labels, nil)
	}
	if len(r.Labels) == 0 {
		r.Labels = labels.Merge(t.Labels, nil)
	}
}

func replicationScale(r *corev1.ReplicationController) (spec, status int32, selector string) {
	return deref(r.Spec.Replicas, 0), r.Status.Replicas, labels.FormatLabels(r.Spec.Selector)
}

func validateReplicationController(r *corev1.ReplicationController) field.ErrorList {
	errs := slices.Concat(
		nonNegative(r.Spec.MinReadySeconds, specPath.Child("minReadySeconds")),
		metavalidation.ValidateLabels(r.Spec.Selector, specPath.Child("selector")),
	)
	if len(r.Spec.Selector) == 0 {
		errs = append(errs, field.Required(specPath.Child("selector"), ""))
	}
	if r.Spec.Replicas == nil {
		errs = append(errs, field.Required(specPath.Child("replicas"), ""))
	} else {
		errs = append(errs, nonNegative(*r.Spec.Replicas, specPath.Child("replicas"))...)
	}
	t, at := r.Spec.Template, specPath.Child("template")
	if t == nil {
		return append(errs, field.Required(at, ""))
	}
	if s := labels.SelectorFromSet(r.Spec.Selector); !s.Empty() && !s.Matches(labels.Set(t.Labels)) {
		errs = append(errs, field.Invalid(at.Child("metadata", "labels"), t.Labels, "`selector` does not match template `labels`"))
	}
	return slices.Concat(errs, ValidatePodTemplateSpec(t, at), validateRestartsAlways(t, "ReplicationController"))
}

func validateReplicationStatus(r, _ *corev1.ReplicationController) field.ErrorList {
	s := &r.Status
	errs := slices.Concat(
		nonNegative(s.Replicas, statusPath.Child("replicas")),
		nonNegative(s.FullyLabeledReplicas, statusPath.Child("fullyLabeledReplicas")),
		nonNegative(s.ReadyReplicas, statusPath.Child("readyReplicas")),
		nonNegative(s.AvailableReplicas, statusPath.Child("availableReplicas")),
		nonNegative(s.ObservedGeneration, statusPath.Child("observedGeneration")),
	)
	for _, f := range []struct {
		name string
		n    int32
	}{{"fullyLabeledReplicas", s.FullyLabeledReplicas}, {"readyReplicas", s.ReadyReplicas}, {"availableReplicas", s.AvailableReplicas}} {
		if f.n > s.Replicas {
			errs = append(errs, field.Invalid(statusPath.Child(f.name), f.n, "cannot be greater than status.replicas"))
		}
	}
	if s.AvailableReplicas > s.ReadyReplicas {
		errs = append(errs, field.Invalid(statusPath.Child("availableReplicas"), s.AvailableReplicas, "cannot be greater than readyReplicas"))
	}
	return errs
}
