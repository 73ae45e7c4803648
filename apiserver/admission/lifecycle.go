package admission

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"proa/store"
)

// immortal namespaces cannot be deleted.
var immortal = map[string]bool{
	metav1.NamespaceDefault: true, metav1.NamespaceSystem: true, metav1.NamespacePublic: true,
}

// namespaceAutoProvision makes the namespaces that something is created in. It is
// off unless asked for.
func namespaceAutoProvision(provision func(context.Context, string) error, newest func() store.Snapshot) Plugin {
	return Plugin{Name: "NamespaceAutoProvision", Mutate: func(ctx context.Context, r *Request) error {
		if r.Op != Create || r.DryRun || r.Bare || r.Namespace == "" || r.Resource.Key() == "namespaces" || provision == nil ||
			lookup[*corev1.Namespace](r.World, "namespaces", "", r.Namespace) != nil {
			return nil
		}
		if err := provision(ctx, r.Namespace); err != nil && !apierrors.IsAlreadyExists(err) {
			return r.Forbidden(err)
		}
		r.World = newest() // in which it is
		return nil
	}}
}

// namespaceLifecycle refuses creations where there is no namespace or one that is
// going away, and keeps the namespaces that every cluster has.
func namespaceLifecycle() Plugin {
	check := func(_ context.Context, r *Request) error {
		if r.Op == Delete && r.Is("namespaces") && immortal[r.Name] {
			return r.Forbidden(fmt.Errorf("this namespace may not be deleted"))
		}
		if r.Op != Create || !r.Resource.Namespaced || r.Resource.NewList == nil {
			return nil
		}
		ns := lookup[*corev1.Namespace](r.World, "namespaces", "", r.Namespace)
		if ns == nil {
			return apierrors.NewNotFound(corev1.Resource("namespaces"), r.Namespace)
		}
		if ns.Status.Phase != corev1.NamespaceTerminating && ns.DeletionTimestamp == nil {
			return nil
		}
		err := apierrors.NewForbidden(r.Resource.GR(), r.Name,
			fmt.Errorf("unable to create new content in namespace %s because it is being terminated", r.Namespace))
		err.ErrStatus.Details.Causes = append(err.ErrStatus.Details.Causes, metav1.StatusCause{
			Type: corev1.NamespaceTerminatingCause, Message: fmt.Sprintf("namespace %s is being terminated", r.Namespace), Field: "metadata.namespace",
		})
		return err
	}
	return Plugin{Name: "NamespaceLifecycle", Mutate: check}
}
