package admission

import (
	"context"
	"encoding/json"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/kubectl/pkg/util/qos"
)

// tolerationSettings are those of namespaces that have none of their own.
type tolerationSettings struct{ preset, allowed []corev1.Toleration }

// Annotations of namespaces, in JSON.
const (
	presetTolerations  = "scheduler.alpha.kubernetes.io/defaultTolerations"
	allowedTolerations = "scheduler.alpha.kubernetes.io/tolerationsWhitelist"
)

// podTolerations gives pods the tolerations of their namespace, and holds them to
// those that it allows. It is off unless asked for.
func podTolerations(conf tolerationSettings) Plugin {
	judge := func(r *Request, pod *corev1.Pod) error {
		allowed, own, err := namespaceTolerations(r, allowedTolerations)
		scope := "namespace"
		if !own {
			allowed, scope = conf.allowed, "cluster"
		}
		if err == nil && !within(pod.Spec.Tolerations, allowed) {
			err = apierrors.NewInternalError(fmt.Errorf("pod tolerations (possibly merged with namespace default tolerations) conflict with its %s whitelist", scope))
		}
		return err
	}
	wanted := func(r *Request) *corev1.Pod {
		pod, _ := r.Object.(*corev1.Pod)
		if r.Op != Create && r.Op != Update || !r.Is("pods") {
			return nil
		}
		return pod
	}
	return Plugin{Name: "PodTolerationRestriction", Mutate: func(_ context.Context, r *Request) error {
		pod := wanted(r)
		if pod == nil {
			return nil
		}
		var more []corev1.Toleration
		if r.Op == Create {
			preset, own, err := namespaceTolerations(r, presetTolerations)
			if err != nil {
				return err
			}
			if more = preset; !own {
				more = conf.preset
			}
		}
		if qos.GetPodQOS(pod) != corev1.PodQOSBestEffort {
			more = append(more[:len(more):len(more)], corev1.Toleration{Key: corev1.TaintNodeMemoryPressure,
				Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoSchedule})
		}
		if len(more) > 0 {
			pod.Spec.Tolerations = mergeTolerations(append(pod.Spec.Tolerations[:len(pod.Spec.Tolerations):len(pod.Spec.Tolerations)], more...))
		}
		return judge(r, pod)
	}, Validate: func(_ context.Context, r *Request) error {
		if pod := wanted(r); pod != nil {
			return judge(r, pod)
		}
		return nil
	}}
}

// namespaceTolerations reads an annotation of the request's namespace; own tells
// whether there is one, though it may be empty.
func namespaceTolerations(r *Request, key string) (list []corev1.Toleration, own bool, err error) {
	ns := lookup[*corev1.Namespace](r.World, "namespaces", "", r.Namespace)
	if ns == nil {
		return nil, false, apierrors.NewNotFound(corev1.Resource("namespaces"), r.Namespace)
	}
	text, own := ns.Annotations[key]
	if text == "" {
		return nil, own, nil
	}
	if err := json.Unmarshal([]byte(text), &list); err != nil {
		return nil, own, apierrors.NewInternalError(err)
	}
	return list, own, nil
}

// within tells whether each toleration is covered by one that is allowed; no list
// allows all.
func within(have, allowed []corev1.Toleration) bool {
	for _, t := range have {
		ok := len(allowed) == 0
		for _, a := range allowed {
			ok = ok || toleratesMore(a, t)
		}
		if !ok {
			return false
		}
	}
	return true
}

// mergeTolerations leaves out what another toleration covers; of equals the first
// stays.
func mergeTolerations(all []corev1.Toleration) (out []corev1.Toleration) {
	for i, t := range all {
		covered := false
		for j, other := range all {
			equal := equality.Semantic.DeepEqual(t, other)
			covered = covered || j < i && equal || !equal && toleratesMore(other, t)
		}
		if !covered {
			out = append(out, t)
		}
	}
	return out
}

// toleratesMore tells whether wide tolerates all that t does.
func toleratesMore(wide, t corev1.Toleration) bool {
	exists := wide.Operator == corev1.TolerationOpExists
	switch {
	case equality.Semantic.DeepEqual(wide, t):
		return true
	case t.Key != wide.Key && (wide.Key != "" || !exists), t.Effect != wide.Effect && wide.Effect != "":
		return false
	case wide.Effect == corev1.TaintEffectNoExecute && wide.TolerationSeconds != nil &&
		(t.TolerationSeconds == nil || *t.TolerationSeconds > *wide.TolerationSeconds):
		return false
	case exists:
		return true
	}
	return (wide.Operator == corev1.TolerationOpEqual || wide.Operator == "") && t.Operator == corev1.TolerationOpEqual && t.Value == wide.Value
}
