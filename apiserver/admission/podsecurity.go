package admission

import (
	"context"
	"fmt"
	"sync"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	psapi "k8s.io/pod-security-admission/api"
	"k8s.io/pod-security-admission/policy"

	"proa/api"
)

// podSecurity holds pods to the Pod Security Standard that their namespace's
// labels name; templates of pods get warnings only.
func podSecurity() Plugin {
	evaluator := sync.OnceValues(func() (policy.Evaluator, error) {
		return policy.NewEvaluator(policy.DefaultChecks(), nil)
	})
	return Plugin{Name: "PodSecurity", Validate: func(_ context.Context, r *Request) error {
		if r.Op != Create && r.Op != Update || r.Subresource != "" && !r.Is("pods", "ephemeralcontainers") {
			return nil
		}
		meta, spec := podOf(r.Object)
		if spec == nil {
			return nil
		}
		ns := lookup[*corev1.Namespace](r.World, "namespaces", "", r.Namespace)
		if ns == nil || !labelled(ns) {
			return nil
		}
		ev, err := evaluator()
		if err != nil {
			return r.Forbidden(err)
		}
		return judgeSecurity(r, ev, ns, meta, spec)
	}}
}

func labelled(ns *corev1.Namespace) bool {
	for _, l := range []string{psapi.EnforceLevelLabel, psapi.WarnLevelLabel, psapi.AuditLevelLabel} {
		if _, ok := ns.Labels[l]; ok {
			return true
		}
	}
	return false
}

func judgeSecurity(r *Request, ev policy.Evaluator, ns *corev1.Namespace, meta *metav1.ObjectMeta, spec *corev1.PodSpec) error {
	latest := psapi.LevelVersion{Level: psapi.LevelPrivileged, Version: psapi.LatestVersion()}
	standard, errs := psapi.PolicyToEvaluate(ns.Labels, psapi.Policy{Enforce: latest, Audit: latest, Warn: latest})
	for _, err := range errs {
		r.Warn(err.Error())
	}
	annotate := func(key, value string) {
		if r.Annotate != nil {
			r.Annotate(psapi.AuditAnnotationPrefix+key, value)
		}
	}
	_, isPod := r.Object.(*corev1.Pod)
	if isPod {
		annotate(psapi.EnforcedPolicyAnnotationKey, standard.Enforce.String())
	}
	if standard.Audit.Level != psapi.LevelPrivileged && r.Annotate != nil {
		if res := policy.AggregateCheckResults(ev.EvaluatePod(standard.Audit, meta, spec)); !res.Allowed {
			annotate(psapi.AuditViolationsAnnotationKey, fmt.Sprintf("would violate PodSecurity %q: %s", standard.Audit.String(), res.ForbiddenDetail()))
		}
	}
	if isPod && standard.Enforce.Level != psapi.LevelPrivileged {
		if res := policy.AggregateCheckResults(ev.EvaluatePod(standard.Enforce, meta, spec)); !res.Allowed {
			return r.Forbidden(fmt.Errorf("violates PodSecurity %q: %s", standard.Enforce.String(), res.ForbiddenDetail()))
		}
	}
	if standard.Warn.Level != psapi.LevelPrivileged {
		if res := policy.AggregateCheckResults(ev.EvaluatePod(standard.Warn, meta, spec)); !res.Allowed {
			r.Warn(fmt.Sprintf("would violate PodSecurity %q: %s", standard.Warn.String(), res.ForbiddenDetail()))
		}
	}
	return nil
}

// podOf finds the pod or the template of pods in an object.
func podOf(obj api.Object) (*metav1.ObjectMeta, *corev1.PodSpec) {
	switch o := obj.(type) {
	case *corev1.Pod:
		return &o.ObjectMeta, &o.Spec
	case *appsv1.Deployment:
		return &o.Spec.Template.ObjectMeta, &o.Spec.Template.Spec
	case *appsv1.ReplicaSet:
		return &o.Spec.Template.ObjectMeta, &o.Spec.Template.Spec
	case *appsv1.StatefulSet:
		return &o.Spec.Template.ObjectMeta, &o.Spec.Template.Spec
	case *appsv1.DaemonSet:
		return &o.Spec.Template.ObjectMeta, &o.Spec.Template.Spec
	case *batchv1.Job:
		return &o.Spec.Template.ObjectMeta, &o.Spec.Template.Spec
	case *batchv1.CronJob:
		return &o.Spec.JobTemplate.Spec.Template.ObjectMeta, &o.Spec.JobTemplate.Spec.Template.Spec
	}
	return nil, nil
}
