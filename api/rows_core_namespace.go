package api

import (
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func namespaceRow() *Resource {
	return kind[*corev1.Namespace]{
		GroupVersion: corev1.SchemeGroupVersion, Plural: "namespaces", Short: []string{"ns"},
		// No deletecollection: nobody empties a cluster by mistake.
		Verbs:  []string{"create", "delete", "get", "list", "patch", "update", "watch"},
		List:   &corev1.NamespaceList{},
		Name:   dnsLabel,
		Status: true,

		Default: func(n *corev1.Namespace) {
			empty(&n.Status.Phase, corev1.NamespaceActive)
			labelNamespace(n)
		},
		PrepareCreate:  prepareNamespace,
		PrepareUpdate:  func(n, old *corev1.Namespace) { n.Spec.Finalizers = old.Spec.Finalizers },
		Validate:       validateNamespace,
		ValidateStatus: validateNamespaceStatus,
		Deleting:       func(n *corev1.Namespace) { n.Status.Phase = corev1.NamespaceTerminating },
		Subresources: []Subresource{
			endpoint("finalize", []string{"update"}, func(n, old *corev1.Namespace) { n.Status = old.Status }, validateFinalize),
		},
		Columns: columns(nameColumn,
			column("Status", "string", "What becomes of the namespace: Active or Terminating."),
			ageColumn),
		Cells: func(n *corev1.Namespace, now time.Time) []any {
			return []any{n.Name, string(n.Status.Phase), age(n, now)}
		},
		Fields: func(n *corev1.Namespace) fields.Set { return fields.Set{"status.phase": string(n.Status.Phase)} },
	}.row()
}

// labelNamespace: a namespace carries its name as a label, so that selectors
// of namespaces can name one.
func labelNamespace(n *corev1.Namespace) {
	if n.Name == "" {
		return // to be generated: prepareNamespace comes after
	}
	if n.Labels == nil {
		n.Labels = map[string]string{}
	}
	n.Labels[corev1.LabelMetadataName] = n.Name
}

func prepareNamespace(n *corev1.Namespace) {
	labelNamespace(n)
	n.Status.Phase = corev1.NamespaceActive
	if !slices.Contains(n.Spec.Finalizers, corev1.FinalizerKubernetes) {
		n.Spec.Finalizers = append(n.Spec.Finalizers, corev1.FinalizerKubernetes)
	}
}

func validateNamespace(n *corev1.Namespace) field.ErrorList {
	var errs field.ErrorList
	for _, f := range n.Spec.Finalizers {
		errs = append(errs, validateSpecFinalizer(string(f), specPath.Child("finalizers"))...)
	}
	return errs
}

func validateSpecFinalizer(name string, at *field.Path) field.ErrorList {
	errs := apivalidation.ValidateFinalizerName(name, at)
	if !strings.Contains(name, "/") && !slices.Contains(standardFinalizers, name) {
		errs = append(errs, field.Invalid(at, name, "name is neither a standard finalizer name nor is it fully qualified"))
	}
	return errs
}

func validateFinalize(n, old *corev1.Namespace) field.ErrorList {
	at := metaPath.Child("finalizers")
	errs := append(apivalidation.ValidateObjectMetaAccessorUpdate(n, old, metaPath), apivalidation.ValidateFinalizers(n.Finalizers, at)...)
	errs = append(errs, validateFinalizers(n.Finalizers, at)...)
	for i, f := range n.Spec.Finalizers {
		errs = append(errs, validateSpecFinalizer(string(f), specPath.Child("finalizers").Index(i))...)
	}
	return errs
}

func validateNamespaceStatus(n, _ *corev1.Namespace) field.ErrorList {
	at := statusPath.Child("Phase") // so it is published
	switch {
	case n.DeletionTimestamp.IsZero() && n.Status.Phase != corev1.NamespaceActive:
		return field.ErrorList{field.Invalid(at, n.Status.Phase, "may only be 'Active' if `deletionTimestamp` is empty")}
	case !n.DeletionTimestamp.IsZero() && n.Status.Phase != corev1.NamespaceTerminating:
		return field.ErrorList{field.Invalid(at, n.Status.Phase, "may only be 'Terminating' if `deletionTimestamp` is not empty")}
	}
	return nil
}
