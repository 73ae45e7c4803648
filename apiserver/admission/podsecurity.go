package admission

import (
	"context"
	"fmt"
	"slices"
	"sync"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	psconfig "k8s.io/pod-security-admission/admission/api"
	psapi "k8s.io/pod-security-admission/api"
	"k8s.io/pod-security-admission/policy"

	"proa/api"
)

// podSecurity holds pods to the Pod Security Standard that their namespace's
// labels name, or the configuration where they name none; templates of pods get
// warnings only.
func podSecurity(conf *psconfig.PodSecurityConfiguration) Plugin {
	free := psapi.LevelVersion{Level: psapi.LevelPrivileged, Version: psapi.LatestVersion()}
	preset := psapi.Policy{Enforce: free, Audit: free, Warn: free}
	if conf == nil {
		conf = &psconfig.PodSecurityConfiguration{}
	} else if p, err := psconfig.ToPolicy(conf.Defaults); err != nil {
		return Plugin{Name: "PodSecurity", broken: err}
	} else {
		preset = p
	}
	unbound := preset.Enforce.Level == free.Level && preset.Audit.Level == free.Level && preset.Warn.Level == free.Level
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
		if ns == nil || unbound && !labelled(ns) {
			return nil
		}
		if by := exempt(&conf.Exemptions, r, spec); by != "" {
			r.note(psapi.AuditAnnotationPrefix+psapi.ExemptionReasonAnnotationKey, by)
			return nil
		}
		ev, err := evaluator()
		if err != nil {
			return r.Forbidden(err)
		}
		return judgeSecurity(r, ev, preset, ns, meta, spec)
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

// exempt says by what a request is not held to any standard.
func exempt(e *psconfig.PodSecurityExemptions, r *Request, spec *corev1.PodSpec) string {
	switch {
	case slices.Contains(e.Namespaces, r.Namespace):
		return "namespace"
	case slices.Contains(e.Usernames, r.User.Name):
		return "user"
	case spec.RuntimeClassName != nil && slices.Contains(e.RuntimeClasses, *spec.RuntimeClassName):
		return "runtimeClass"
	}
	return ""
}

func judgeSecurity(r *Request, ev policy.Evaluator, preset psapi.Policy, ns *corev1.Namespace, meta *metav1.ObjectMeta, spec *corev1.PodSpec) error {
	standard, errs := psapi.PolicyToEvaluate(ns.Labels, preset)
	for _, err := range errs {
		r.Warn(err.Error())
	}
	annotate := func(key, value string) { r.note(psapi.AuditAnnotationPrefix+key, value) }
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
