package api

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/kubectl/pkg/util/qos"
)

// prepareResize: this endpoint writes the resources and the resize policy of
// containers that are there, and the pod's own resources (KEP 1287). A pod with
// other containers is left to be refused.
func prepareResize(p, old *corev1.Pod) {
	if len(p.Spec.Containers) != len(old.Spec.Containers) || len(p.Spec.InitContainers) != len(old.Spec.InitContainers) {
		return
	}
	asked := p.Spec
	p.Spec = *old.Spec.DeepCopy()
	p.Status = old.Status
	keepMeta(p, old)
	p.Spec.Containers = withResources(p.Spec.Containers, asked.Containers)
	p.Spec.InitContainers = withResources(p.Spec.InitContainers, asked.InitContainers)
	if asked.Resources != nil {
		p.Spec.Resources = asked.Resources
	}
	defaultPodResources(&p.Spec)
	countSpec(p, old)
}

// withResources is the old list with the resources of the new one, or the new one
// where names differ.
func withResources(old, asked []corev1.Container) []corev1.Container {
	for i := range asked {
		if old[i].Name != asked[i].Name {
			return asked
		}
		old[i].Resources, old[i].ResizePolicy = asked[i].Resources, asked[i].ResizePolicy
	}
	return old
}

func validateResize(p, old *corev1.Pod) field.ErrorList {
	if _, static := old.Annotations[corev1.MirrorPodAnnotationKey]; static {
		return field.ErrorList{field.Forbidden(field.NewPath(""), "static pods cannot be resized")}
	}
	if old.Spec.OS != nil && old.Spec.OS.Name == corev1.Windows {
		return field.ErrorList{field.Forbidden(field.NewPath(""), "windows pods cannot be resized")}
	}
	order := append(sameNames(p.Spec.Containers, old.Spec.Containers, "containers"), sameNames(p.Spec.InitContainers, old.Spec.InitContainers, "initContainers")...)
	errs := slices.Concat(
		validation.ValidateObjectMetaAccessorUpdate(p, old, metaPath),
		validatePod(p),
		validateResizable(p, old),
		validatePodLevelResize(p.Spec.Resources, old.Spec.Resources),
		order,
	)
	if len(order) > 0 { // what follows compares by position
		return errs
	}
	for i := range p.Spec.InitContainers {
		errs = append(errs, validateInitResize(&p.Spec.InitContainers[i], &old.Spec.InitContainers[i], specPath.Child("initContainers").Index(i))...)
	}
	for i := range p.Spec.Containers {
		now, was := &p.Spec.Containers[i], &old.Spec.Containers[i]
		errs = append(errs, nothingLost(&now.Resources, &was.Resources, specPath.Child("containers").Index(i).Child("resources"))...)
		if !equality.Semantic.DeepEqual(unresized(now, was), was) {
			errs = append(errs, field.Forbidden(specPath, "only cpu and memory resources are mutable"))
		}
	}
	return errs
}

// validateResizable: a pod keeps its class of service, has not ended, and its
// node reports what resources its containers have.
func validateResizable(p, old *corev1.Pod) field.ErrorList {
	var errs field.ErrorList
	class := old.Status.QOSClass
	empty(&class, qos.ComputePodQOS(old))
	if qos.ComputePodQOS(p) != class {
		errs = append(errs, field.Invalid(specPath, p.Status.QOSClass, "Pod QOS Class may not change as a result of resizing"))
	}
	if podFinished(old) {
		errs = append(errs, field.Forbidden(field.NewPath(""), "pods that have terminated cannot be resized"))
	}
	running := slices.IndexFunc(old.Status.ContainerStatuses, func(s corev1.ContainerStatus) bool { return s.State.Running != nil })
	if running >= 0 && old.Status.ContainerStatuses[running].Resources == nil {
		errs = append(errs, field.Forbidden(specPath, "Pod running on node without support for resize"))
	}
	return errs
}

func sameNames(now, was []corev1.Container, word string) field.ErrorList {
	at := specPath.Child(word)
	if len(now) != len(was) {
		return field.ErrorList{field.Forbidden(at, word+" may not be added or removed on resize")}
	}
	return each(now, at, func(c *corev1.Container, at *field.Path) field.ErrorList {
		name := was[0].Name
		if was = was[1:]; c.Name == name {
			return nil
		}
		return field.ErrorList{field.Forbidden(at.Child("name"), word+" may not be renamed or reordered on resize")}
	})
}

func validateInitResize(now, was *corev1.Container, at *field.Path) field.ErrorList {
	errs := nothingLost(&now.Resources, &was.Resources, at.Child("resources"))
	if !equality.Semantic.DeepEqual(unresized(now, was), was) {
		errs = append(errs, field.Forbidden(at, "only cpu and memory resources for init or sidecar containers are mutable"))
	}
	restarts := slices.ContainsFunc(now.ResizePolicy, func(p corev1.ContainerResizePolicy) bool { return p.RestartPolicy == corev1.RestartContainer })
	if restarts && !isSidecar(now) && !equality.Semantic.DeepEqual(now, was) {
		errs = append(errs, field.Forbidden(at, "non-sidecar init containers with a resize policy of RestartContainer cannot be resized"))
	}
	return errs
}

// validatePodLevelResize judges the resources that a pod's containers share
// (KEP 5419).
func validatePodLevelResize(now, was *corev1.ResourceRequirements) field.ErrorList {
	if now == nil || len(now.Requests)+len(now.Limits) == 0 && (was == nil || len(was.Requests)+len(was.Limits) == 0) {
		return nil
	}
	var before corev1.ResourceRequirements
	if was != nil {
		before = *was
	}
	at := specPath.Child("resources")
	var errs field.ErrorList
	if lost(now.Requests, before.Requests) {
		errs = append(errs, field.Forbidden(at.Child("requests"), "pod-level resource requests cannot be removed"))
	}
	if lost(now.Limits, before.Limits) {
		errs = append(errs, field.Forbidden(at.Child("limits"), "pod-level resource limits cannot be removed"))
	}
	if !equality.Semantic.DeepEqual(fixed(now, &before), before) {
		errs = append(errs, field.Forbidden(specPath, "only cpu and memory resources are mutable at pod-level"))
	}
	return errs
}

// unresized is a container with the amounts that can be resized as they were.
func unresized(now, was *corev1.Container) *corev1.Container {
	out := *now
	out.Resources = fixed(&now.Resources, &was.Resources)
	return &out
}

func fixed(now, was *corev1.ResourceRequirements) corev1.ResourceRequirements {
	return corev1.ResourceRequirements{
		Limits: fixedAmounts(now.Limits, was.Limits), Requests: fixedAmounts(now.Requests, was.Requests), Claims: now.Claims,
	}
}

func fixedAmounts(now, was corev1.ResourceList) corev1.ResourceList {
	out := corev1.ResourceList{}
	for name, q := range now {
		out[name] = q
	}
	for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
		if q, ok := was[name]; ok {
			out[name] = q
		} else {
			delete(out, name)
		}
	}
	return out
}

func nothingLost(now, was *corev1.ResourceRequirements, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if lost(now.Requests, was.Requests) {
		errs = append(errs, field.Forbidden(at.Child("requests"), "resource requests cannot be removed"))
	}
	if lost(now.Limits, was.Limits) {
		errs = append(errs, field.Forbidden(at.Child("limits"), "resource limits cannot be removed"))
	}
	return errs
}

// lost tells whether something is named no more.
func lost(now, was corev1.ResourceList) bool {
	for name := range was {
		if _, ok := now[name]; !ok {
			return true
		}
	}
	return false
}
