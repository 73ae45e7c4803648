package endpoint

import (
	"context"
	"fmt"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"proa/api"
	"proa/apiserver/admission"
	"proa/store"
)

// Bind assigns a pod to a node, once.
func (e *Endpoint) Bind(ctx context.Context, q Request, b *corev1.Binding) (Result, error) {
	if b.Target.Name == "" || b.Target.Kind != "" && b.Target.Kind != "Node" {
		at := field.NewPath("target")
		errs := field.ErrorList{field.Required(at.Child("name"), "")}
		if b.Target.Name != "" {
			errs = field.ErrorList{field.NotSupported(at.Child("kind"), b.Target.Kind, []string{"Node", ""})}
		}
		return Result{}, apierrors.NewInvalid(corev1.SchemeGroupVersion.WithKind("Binding").GroupKind(), q.Name, errs)
	}
	q.Manager = "" // who binds does not own the fields
	b, err := admitBody(ctx, e, q, b, corev1.SchemeGroupVersion.WithKind("Binding"))
	if err != nil {
		return Result{}, err
	}
	q.admitted = true
	return e.modify(ctx, q, func(old api.Object) (api.Object, error) {
		pod := old.DeepCopyObject().(*corev1.Pod)
		if b.ResourceVersion != "" {
			pod.ResourceVersion = b.ResourceVersion
		}
		if b.UID != "" {
			pod.UID = b.UID
		}
		return pod, e.bind(q, pod, b)
	})
}

// admitBody runs admission over a CREATE of something below an object. Metadata
// that the client left out is the object's.
func admitBody[P api.Object](ctx context.Context, e *Endpoint, q Request, body P, gvk schema.GroupVersionKind) (P, error) {
	body = body.DeepCopyObject().(P)
	body.GetObjectKind().SetGroupVersionKind(gvk)
	body.SetName(q.Name)
	body.SetNamespace(q.Namespace)
	out, err := e.admit(ctx, q, admission.Create, body, nil)
	if err != nil {
		return body, err
	}
	return out.(P), nil
}

func (e *Endpoint) bind(q Request, pod *corev1.Pod, b *corev1.Binding) error {
	switch {
	case pod.DeletionTimestamp != nil:
		return q.conflict("pod %s is being deleted, cannot be assigned to a host", pod.Name)
	case pod.Spec.NodeName != "":
		return q.conflict("pod %v is already assigned to node %q", pod.Name, pod.Spec.NodeName)
	case len(pod.Spec.SchedulingGates) != 0:
		return q.conflict("pod %v has non-empty .spec.schedulingGates", pod.Name)
	}
	pod.Spec.NodeName = b.Target.Name
	if len(b.Annotations) > 0 {
		if pod.Annotations == nil {
			pod.Annotations = map[string]string{}
		}
		maps.Copy(pod.Annotations, b.Annotations)
	}
	if len(b.Labels) > 0 {
		if pod.Labels == nil {
			pod.Labels = map[string]string{}
		}
		maps.Copy(pod.Labels, b.Labels)
	}
	setCondition(pod, corev1.PodCondition{
		Type: corev1.PodScheduled, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(e.Now()).Rfc3339Copy(),
		ObservedGeneration: pod.Generation,
	})
	return nil
}

func setCondition(pod *corev1.Pod, c corev1.PodCondition) {
	i := slices.IndexFunc(pod.Status.Conditions, func(have corev1.PodCondition) bool { return have.Type == c.Type })
	if i < 0 {
		pod.Status.Conditions = append(pod.Status.Conditions, c)
		return
	}
	if pod.Status.Conditions[i].Status == c.Status {
		c.LastTransitionTime = pod.Status.Conditions[i].LastTransitionTime
	}
	pod.Status.Conditions[i] = c
}

// Evict deletes a pod if the disruption budget over it allows that.
// See https://kubernetes.io/docs/concepts/scheduling-eviction/api-eviction/.
func (e *Endpoint) Evict(ctx context.Context, q Request, ev *policyv1.Eviction) error {
	if ev.Name != "" && ev.Name != q.Name {
		return apierrors.NewBadRequest("name in URL does not match name in Eviction object")
	}
	opts := metav1.DeleteOptions{}
	if ev.DeleteOptions != nil {
		opts = *ev.DeleteOptions
	}
	q.DryRun = q.DryRun || len(opts.DryRun) > 0
	if _, _, err := live(ctx, e.Store.Snapshot(), q); err != nil {
		return err
	}
	if _, err := admitBody(ctx, e, q, ev, policyv1.SchemeGroupVersion.WithKind("Eviction")); err != nil {
		return err
	}
	_, obj, err := live(ctx, e.Store.Snapshot(), q)
	if err != nil {
		return err
	}
	pod, ok := obj.(*corev1.Pod)
	if !ok {
		return apierrors.NewBadRequest("only pods can be evicted")
	}
	if !free(pod) {
		if err := e.spendBudget(ctx, q, pod, &opts); err != nil {
			return err
		}
	}
	q.Subresource, q.admitted = "", true
	_, err = e.Delete(ctx, q, opts)
	return err
}

// free tells a pod whose end disrupts nothing.
func free(pod *corev1.Pod) bool {
	return pod.DeletionTimestamp != nil || pod.Status.Phase == corev1.PodPending ||
		pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
}

// spendBudget finds the pod's budget and takes one disruption from it.
func (e *Endpoint) spendBudget(ctx context.Context, q Request, pod *corev1.Pod, opts *metav1.DeleteOptions) error {
	budgets, err := budgetsOf(e.Store.Snapshot(), pod)
	if err != nil || len(budgets) == 0 {
		return err
	}
	if len(budgets) > 1 {
		return apierrors.NewInternalError(fmt.Errorf("this pod has more than one PodDisruptionBudget, which the eviction subresource does not support: %s", names(budgets)))
	}
	if unhealthyIsFree(pod, budgets[0]) {
		opts.Preconditions = &metav1.Preconditions{UID: &pod.UID, ResourceVersion: &pod.ResourceVersion}
		return nil
	}
	served, _ := e.Registry.ByGVK(policyv1.SchemeGroupVersion.WithKind("PodDisruptionBudget"))
	bq := Request{User: q.User, Served: served, Namespace: pod.Namespace, Name: budgets[0].Name, Subresource: "status", DryRun: q.DryRun}
	_, err = e.modify(ctx, bq, func(old api.Object) (api.Object, error) {
		pdb := old.DeepCopyObject().(*policyv1.PodDisruptionBudget)
		return pdb, e.spend(pdb, pod.Name)
	})
	return err
}

func names(budgets []*policyv1.PodDisruptionBudget) (out []string) {
	for _, b := range budgets {
		out = append(out, b.Name)
	}
	return out
}

func budgetsOf(world store.Snapshot, pod *corev1.Pod) (out []*policyv1.PodDisruptionBudget, err error) {
	for rec := range world.List(store.Scope{Resource: "policy/poddisruptionbudgets", Namespace: pod.Namespace}, store.Key{}) {
		obj, err := rec.Object()
		if err != nil {
			return nil, apierrors.NewInternalError(err)
		}
		pdb := obj.(*policyv1.PodDisruptionBudget)
		sel, err := metav1.LabelSelectorAsSelector(pdb.Spec.Selector)
		if err == nil && sel.Matches(labels.Set(pod.Labels)) {
			out = append(out, pdb)
		}
	}
	return out, nil
}

// unhealthyIsFree tells whether the budget's policy lets a pod go that is not
// ready anyway (KEP-3017).
func unhealthyIsFree(pod *corev1.Pod, pdb *policyv1.PodDisruptionBudget) bool {
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue {
			return false
		}
	}
	if p := pdb.Spec.UnhealthyPodEvictionPolicy; p != nil && *p == policyv1.AlwaysAllow {
		return true
	}
	return pdb.Status.CurrentHealthy >= pdb.Status.DesiredHealthy && pdb.Status.DesiredHealthy > 0
}

// spend takes one disruption from a budget, or says why it has none.
func (e *Endpoint) spend(pdb *policyv1.PodDisruptionBudget, pod string) error {
	st := &pdb.Status
	switch {
	case st.ObservedGeneration < pdb.Generation:
		return tooManyEvictions(10, fmt.Sprintf("The disruption budget %s is still being processed by the server.", pdb.Name))
	case st.DisruptionsAllowed < 0:
		return apierrors.NewForbidden(policyv1.Resource("poddisruptionbudget"), pdb.Name, fmt.Errorf("pdb disruptions allowed is negative"))
	case st.DisruptionsAllowed == 0:
		return tooManyEvictions(0, fmt.Sprintf("The disruption budget %s needs %d healthy pods and has %d currently", pdb.Name, st.DesiredHealthy, st.CurrentHealthy))
	}
	st.DisruptionsAllowed--
	if st.DisruptedPods == nil {
		st.DisruptedPods = map[string]metav1.Time{}
	}
	st.DisruptedPods[pod] = metav1.NewTime(e.Now())
	return nil
}

func tooManyEvictions(retry int, detail string) error {
	err := apierrors.NewTooManyRequests("Cannot evict pod as it would violate the pod's disruption budget.", retry)
	err.ErrStatus.Details.Causes = append(err.ErrStatus.Details.Causes, metav1.StatusCause{Type: "DisruptionBudget", Message: detail})
	return err
}
