// Package manager is a small operator on controller-runtime, with the suite that
// its authors would have written for envtest: the end-to-end tests run it,
// unchanged, against a control plane of proa's.
package manager

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"
)

// Widget is a custom resource: spec.size parts, each a ConfigMap, in one color.
type Widget struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`
	Spec              struct {
		Size  int    `json:"size,omitempty"`
		Color string `json:"color,omitempty"`
	} `json:"spec"`
	Status struct {
		Parts int `json:"parts,omitempty"`
	} `json:"status,omitzero"`
}

func (w *Widget) DeepCopyObject() runtime.Object {
	out := *w
	w.ObjectMeta.DeepCopyInto(&out.ObjectMeta)
	return &out
}

// WidgetList is a list of them.
type WidgetList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []Widget `json:"items"`
}

func (l *WidgetList) DeepCopyObject() runtime.Object {
	out := &WidgetList{TypeMeta: l.TypeMeta, ListMeta: *l.ListMeta.DeepCopy()}
	for i := range l.Items {
		out.Items = append(out.Items, *l.Items[i].DeepCopyObject().(*Widget))
	}
	return out
}

var groupVersion = schema.GroupVersion{Group: "shop.example.org", Version: "v1"}

func addToScheme(s *runtime.Scheme) error {
	s.AddKnownTypes(groupVersion, &Widget{}, &WidgetList{})
	metav1.AddToGroupVersion(s, groupVersion)
	return nil
}

const finalizer = "shop.example.org/sold"

// reconciler makes a Widget's parts and counts them in its status.
type reconciler struct{ client.Client }

func (r *reconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	var w Widget
	if err := r.Get(ctx, req.NamespacedName, &w); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	if !w.DeletionTimestamp.IsZero() {
		controllerutil.RemoveFinalizer(&w, finalizer)
		return ctrl.Result{}, r.Update(ctx, &w)
	}
	if controllerutil.AddFinalizer(&w, finalizer) {
		return ctrl.Result{}, r.Update(ctx, &w)
	}
	for i := range w.Spec.Size {
		part := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: w.Namespace, Name: fmt.Sprintf("%s-%d", w.Name, i)}}
		_, err := controllerutil.CreateOrUpdate(ctx, r.Client, part, func() error {
			part.Data = map[string]string{"color": w.Spec.Color}
			return controllerutil.SetControllerReference(&w, part, r.Scheme())
		})
		if err != nil {
			return ctrl.Result{}, err
		}
	}
	if w.Status.Parts == w.Spec.Size {
		return ctrl.Result{}, nil
	}
	w.Status.Parts = w.Spec.Size
	return ctrl.Result{}, r.Status().Update(ctx, &w)
}

func (r *reconciler) setup(m ctrl.Manager) error {
	if err := ctrl.NewControllerManagedBy(m).For(&Widget{}).Owns(&corev1.ConfigMap{}).Complete(r); err != nil {
		return err
	}
	return ctrl.NewWebhookManagedBy(m, &Widget{}).WithDefaulter(painter{}).WithValidator(judge{}).Complete()
}

// painter gives a color to what has none.
type painter struct{}

func (painter) Default(_ context.Context, w *Widget) error {
	if w.Spec.Color == "" {
		w.Spec.Color = "blue"
	}
	return nil
}

// judge wants no red ones, and keeps what is annotated so.
type judge struct{}

func (judge) ValidateCreate(_ context.Context, w *Widget) (admission.Warnings, error) {
	if w.Spec.Color == "red" {
		return nil, fmt.Errorf("red is sold out")
	}
	return admission.Warnings{"widgets are going out of fashion"}, nil
}

func (j judge) ValidateUpdate(ctx context.Context, _, w *Widget) (admission.Warnings, error) {
	return j.ValidateCreate(ctx, w)
}

func (judge) ValidateDelete(_ context.Context, w *Widget) (admission.Warnings, error) {
	if w.Annotations["keep"] != "" {
		return nil, fmt.Errorf("this one is kept")
	}
	return nil, nil
}
