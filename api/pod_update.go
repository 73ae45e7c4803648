package api

import (
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/diff"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/kubectl/pkg/util/qos"
)

func preparePod(p *corev1.Pod) {
	p.Status.Phase = corev1.PodPending
	if len(p.Spec.SchedulingGates) > 0 {
		p.Status.Conditions = []corev1.PodCondition{{
			Type: corev1.PodScheduled, Status: corev1.ConditionFalse, LastTransitionTime: metav1.Now(),
			Reason: corev1.PodReasonSchedulingGated, Message: "Scheduling is blocked due to non-empty scheduling gates",
		}}
	}
	mergeMatchLabels(p)
}

// settlePod: the class of service is that of the resources as defaults and
// limit ranges left them.
func settlePod(p *corev1.Pod) { p.Status.QOSClass = qos.ComputePodQOS(p) }

// mergeMatchLabels writes what matchLabelKeys stand for into the selectors
// (KEPs 3243 and 3633), so that the scheduler need not know of them.
func mergeMatchLabels(p *corev1.Pod) {
	for i := range p.Spec.TopologySpreadConstraints {
		c := &p.Spec.TopologySpreadConstraints[i]
		mergeKeys(c.LabelSelector, c.MatchLabelKeys, p.Labels, metav1.LabelSelectorOpIn)
	}
	a := p.Spec.Affinity
	if a == nil {
		return
	}
	var terms []*corev1.PodAffinityTerm
	collect := func(must []corev1.PodAffinityTerm, should []corev1.WeightedPodAffinityTerm) {
		for i := range must {
			terms = append(terms, &must[i])
		}
		for i := range should {
			terms = append(terms, &should[i].PodAffinityTerm)
		}
	}
	if a.PodAffinity != nil {
		collect(a.PodAffinity.RequiredDuringSchedulingIgnoredDuringExecution, a.PodAffinity.PreferredDuringSchedulingIgnoredDuringExecution)
	}
	if a.PodAntiAffinity != nil {
		collect(a.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution, a.PodAntiAffinity.PreferredDuringSchedulingIgnoredDuringExecution)
	}
	for _, t := range terms {
		mergeKeys(t.LabelSelector, t.MatchLabelKeys, p.Labels, metav1.LabelSelectorOpIn)
		mergeKeys(t.LabelSelector, t.MismatchLabelKeys, p.Labels, metav1.LabelSelectorOpNotIn)
	}
}

func mergeKeys(s *metav1.LabelSelector, keys []string, labels map[string]string, op metav1.LabelSelectorOperator) {
	if s == nil {
		return
	}
	for _, key := range keys {
		if value, ok := labels[key]; ok {
			s.MatchExpressions = append(s.MatchExpressions, metav1.LabelSelectorRequirement{Key: key, Operator: op, Values: []string{value}})
		}
	}
}

func validatePod(p *corev1.Pod) field.ErrorList {
	errs := ValidatePodSpec(&p.Spec, &p.ObjectMeta, specPath)
	if p.Spec.ServiceAccountName != "" {
		return errs
	}
	return append(errs, each(p.Spec.Volumes, specPath.Child("volumes"), func(v *corev1.Volume, at *field.Path) field.ErrorList {
		if v.Projected == nil {
			return nil
		}
		return each(v.Projected.Sources, at.Child("projected", "sources"), func(s *corev1.VolumeProjection, at *field.Path) field.ErrorList {
			if s.ServiceAccountToken == nil {
				return nil
			}
			return field.ErrorList{field.Forbidden(at.Child("serviceAccountToken"), "must not be specified when serviceAccountName is not set")}
		})
	})...)
}

// validateNewPod: what a pod may be given later only.
func validateNewPod(p *corev1.Pod) field.ErrorList {
	if len(p.Spec.EphemeralContainers) == 0 {
		return nil
	}
	return field.ErrorList{field.Forbidden(specPath.Child("ephemeralContainers"), "cannot be set on create")}
}

// The mutable fields of a pod's spec, as the refusal of others lists them.
const mutablePodFields = "`spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`," +
	"`spec.tolerations` (only additions to existing tolerations)," +
	"`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)"

func validatePodUpdate(p, old *corev1.Pod) field.ErrorList {
	errs := slices.Concat(
		sameContainers(p.Spec.Containers, old.Spec.Containers, specPath.Child("containers")),
		sameContainers(p.Spec.InitContainers, old.Spec.InitContainers, specPath.Child("initContainers")),
		onlySooner(p.Spec.ActiveDeadlineSeconds, old.Spec.ActiveDeadlineSeconds, specPath.Child("activeDeadlineSeconds")),
		onlyMoreTolerations(p.Spec.Tolerations, old.Spec.Tolerations, specPath.Child("tolerations")),
		onlyFewerGates(p.Spec.SchedulingGates, old.Spec.SchedulingGates, specPath.Child("schedulingGates")),
	)
	if len(errs) > 0 {
		return errs
	}
	allowed := old.Spec.DeepCopy()
	copyImages(allowed.Containers, p.Spec.Containers)
	copyImages(allowed.InitContainers, p.Spec.InitContainers)
	allowed.ActiveDeadlineSeconds = p.Spec.ActiveDeadlineSeconds
	allowed.Tolerations = p.Spec.Tolerations
	allowed.SchedulingGates = p.Spec.SchedulingGates
	if was, now := old.Spec.TerminationGracePeriodSeconds, p.Spec.TerminationGracePeriodSeconds; was != nil && *was < 0 && now != nil && *now == 1 {
		allowed.TerminationGracePeriodSeconds = now
	}
	if len(old.Spec.SchedulingGates) > 0 {
		errs = allowGated(allowed, p, old)
	}
	if !equality.Semantic.DeepEqual(&p.Spec, allowed) {
		errs = append(errs, field.Forbidden(specPath, "pod updates may not change fields other than "+mutablePodFields+"\n"+diff.Diff(allowed, &p.Spec)))
	}
	return errs
}

func sameContainers(now, was []corev1.Container, at *field.Path) field.ErrorList {
	if len(now) != len(was) {
		return field.ErrorList{field.Forbidden(at, "pod updates may not add or remove containers")}
	}
	return nil
}

func copyImages(to, from []corev1.Container) {
	for i := range to {
		to[i].Image = from[i].Image
	}
}

// onlySooner: a deadline can be set or brought forward.
func onlySooner(now, was *int64, at *field.Path) field.ErrorList {
	switch {
	case was == nil:
		return nil
	case now == nil:
		return field.ErrorList{field.Invalid(at, "", "must not update from a positive integer to nil value")}
	case *now > *was:
		return field.ErrorList{field.Invalid(at, *now, "must be less than or equal to previous value")}
	}
	return nil
}

// onlyMoreTolerations: those there were must stay, save that tolerationSeconds
// may change.
func onlyMoreTolerations(now, was []corev1.Toleration, at *field.Path) field.ErrorList {
	for _, old := range was {
		if !slices.ContainsFunc(now, func(t corev1.Toleration) bool {
			t.TolerationSeconds = old.TolerationSeconds
			return equality.Semantic.DeepEqual(t, old)
		}) {
			return field.ErrorList{field.Forbidden(at, "existing toleration can not be modified except its tolerationSeconds")}
		}
	}
	return nil
}

func onlyFewerGates(now, was []corev1.PodSchedulingGate, at *field.Path) field.ErrorList {
	return each(now, at, func(g *corev1.PodSchedulingGate, at *field.Path) field.ErrorList {
		if slices.Contains(was, *g) {
			return nil
		}
		return field.ErrorList{field.Forbidden(at.Child("name"), "only deletion is allowed, but found new scheduling gate '"+g.Name+"'")}
	})
}

// allowGated lets placement be narrowed while the pod is gated (KEP 3838).
func allowGated(allowed *corev1.PodSpec, p, old *corev1.Pod) field.ErrorList {
	var errs field.ErrorList
	at := specPath.Child("nodeSelector")
	for k, v := range old.Spec.NodeSelector {
		if now, ok := p.Spec.NodeSelector[k]; !ok || now != v {
			errs = append(errs, field.Invalid(at, p.Spec.NodeSelector, "only additions to spec.nodeSelector are allowed (no mutations or deletions)"))
			break
		}
	}
	allowed.NodeSelector = p.Spec.NodeSelector
	at = specPath.Child("affinity", "nodeAffinity")
	now, was := nodeAffinity(&p.Spec), nodeAffinity(&old.Spec)
	if was != nil {
		errs = append(errs, onlyNarrower(requiredTerms(now), requiredTerms(was),
			at.Child("requiredDuringSchedulingIgnoredDuringExecution", "nodeSelectorTerms"))...)
	}
	if now != nil {
		unset(&allowed.Affinity, corev1.Affinity{})
		allowed.Affinity.NodeAffinity = now
	}
	return errs
}

func requiredTerms(a *corev1.NodeAffinity) *corev1.NodeSelector {
	if a == nil {
		return nil
	}
	return a.RequiredDuringSchedulingIgnoredDuringExecution
}

func nodeAffinity(s *corev1.PodSpec) *corev1.NodeAffinity {
	if s.Affinity == nil {
		return nil
	}
	return s.Affinity.NodeAffinity
}

// onlyNarrower: terms are alternatives, so none may come or go; the
// requirements within one are all to be met, so more may come.
func onlyNarrower(now, was *corev1.NodeSelector, at *field.Path) field.ErrorList {
	if was == nil {
		return nil
	}
	if now == nil || len(now.NodeSelectorTerms) != len(was.NodeSelectorTerms) {
		return field.ErrorList{field.Invalid(at, now, "no additions/deletions to non-empty NodeSelectorTerms list are allowed")}
	}
	var errs field.ErrorList
	for i, old := range was.NodeSelectorTerms {
		t := now.NodeSelectorTerms[i]
		if !begins(t.MatchExpressions, old.MatchExpressions) || !begins(t.MatchFields, old.MatchFields) {
			errs = append(errs, field.Invalid(at.Index(i), t, "only additions are allowed (no mutations or deletions)"))
		}
	}
	return errs
}

func begins(list, head []corev1.NodeSelectorRequirement) bool {
	return len(list) >= len(head) && equality.Semantic.DeepEqual(list[:len(head)], head)
}

// prepareEphemeral: this endpoint writes spec.ephemeralContainers only.
func prepareEphemeral(p, old *corev1.Pod) {
	list := p.Spec.EphemeralContainers
	keepContent(p, old)
	keepMeta(p, old)
	p.Status = old.Status
	p.Spec.EphemeralContainers = list
	countSpec(p, old)
}

// keepMeta takes what clients write of the metadata from old, for endpoints that
// are about something else.
func keepMeta(obj, old Object) {
	obj.SetLabels(old.GetLabels())
	obj.SetAnnotations(old.GetAnnotations())
	obj.SetFinalizers(old.GetFinalizers())
	obj.SetOwnerReferences(old.GetOwnerReferences())
}

// countSpec sets the generation of an endpoint that writes part of the spec.
func countSpec(obj, old Object) {
	obj.SetGeneration(old.GetGeneration())
	if contentChanged(obj, old) {
		obj.SetGeneration(old.GetGeneration() + 1)
	}
}

func validateEphemeralUpdate(p, old *corev1.Pod) field.ErrorList {
	errs := validation.ValidateObjectMetaAccessorUpdate(p, old, metaPath)
	errs = append(errs, validatePod(p)...)
	at := specPath.Child("ephemeralContainers")
	var gone, changed []string
	for _, was := range old.Spec.EphemeralContainers {
		i := slices.IndexFunc(p.Spec.EphemeralContainers, func(c corev1.EphemeralContainer) bool { return c.Name == was.Name })
		switch {
		case i < 0:
			gone = append(gone, was.Name)
		case !equality.Semantic.DeepEqual(p.Spec.EphemeralContainers[i], was):
			changed = append(changed, was.Name)
		}
	}
	if len(gone) > 0 {
		errs = append(errs, field.Forbidden(at, "existing ephemeral containers \""+strings.Join(gone, `", "`)+"\" may not be removed\n"))
	}
	if len(changed) > 0 {
		errs = append(errs, field.Forbidden(at, "existing ephemeral containers \""+strings.Join(changed, `", "`)+"\" may not be changed\n"))
	}
	return errs
}
