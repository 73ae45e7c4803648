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
// containers that are there, and the pod's own resources (KEP 1287).
func prepareResize(p, old *corev1.Pod) {
	asked := p.Spec
	p.Spec = *old.Spec.DeepCopy()
	p.Status = old.Status
	keepMeta(p, old)
	copyResources(p.Spec.Containers, asked.Containers)
	copyResources(p.Spec.InitContainers, asked.InitContainers)
	if p.Spec.Resources != nil && asked.Resources != nil {
		p.Spec.Resources = asked.Resources
	}
	countSpec(p, old)
}

func copyResources(to, from []corev1.Container) {
	for i := range to {
		j := slices.IndexFunc(from, func(c corev1.Container) bool { return c.Name == to[i].Name })
		if j >= 0 {
			to[i].Resources = from[j].Resources
			to[i].ResizePolicy = from[j].ResizePolicy
		}
	}
}

func validateResize(p, old *corev1.Pod) field.ErrorList {
	errs := validation.ValidateObjectMetaAccessorUpdate(p, old, metaPath)
	errs = append(errs, ValidatePodSpec(&p.Spec, &p.ObjectMeta, specPath)...)
	if p.Annotations[corev1.MirrorPodAnnotationKey] != "" {
		errs = append(errs, field.Forbidden(field.NewPath(""), "static pods cannot be resized"))
	}
	if p.Spec.OS != nil && p.Spec.OS.Name == corev1.Windows {
		errs = append(errs, field.Forbidden(field.NewPath(""), "windows pods cannot be resized"))
	}
	if podFinished(old) {
		errs = append(errs, field.Forbidden(field.NewPath(""), "pods that have terminated cannot be resized"))
	}
	if qos.ComputePodQOS(p) != qos.ComputePodQOS(old) {
		errs = append(errs, field.Invalid(specPath, qos.ComputePodQOS(p), "Pod QOS Class may not change as a result of resizing"))
	}
	for i := range p.Spec.InitContainers {
		if c := &p.Spec.InitContainers[i]; !isSidecar(c) && !equality.Semantic.DeepEqual(c.Resources, old.Spec.InitContainers[i].Resources) {
			errs = append(errs, field.Forbidden(specPath.Child("initContainers").Index(i).Child("resources"),
				"only sidecars among the init containers can be resized"))
		}
	}
	errs = append(errs, onlyResized(p.Spec.Containers, old.Spec.Containers, specPath.Child("containers"))...)
	return append(errs, onlyResized(p.Spec.InitContainers, old.Spec.InitContainers, specPath.Child("initContainers"))...)
}

// onlyResized: only amounts of cpu and memory change, and what was set stays
// set.
func onlyResized(now, was []corev1.Container, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i := range now {
		at := at.Index(i).Child("resources")
		r, old := &now[i].Resources, &was[i].Resources
		if len(errs) == 0 && !equality.Semantic.DeepEqual(fixed(r), fixed(old)) {
			errs = append(errs, field.Forbidden(specPath, "only cpu and memory resources are mutable"))
		}
		errs = append(errs, nothingLost(r.Requests, old.Requests, at.Child("requests"))...)
		errs = append(errs, nothingLost(r.Limits, old.Limits, at.Child("limits"))...)
	}
	return errs
}

// fixed is the part of resources that cannot be resized.
func fixed(r *corev1.ResourceRequirements) *corev1.ResourceRequirements {
	out := r.DeepCopy()
	for _, list := range []corev1.ResourceList{out.Limits, out.Requests} {
		delete(list, corev1.ResourceCPU)
		delete(list, corev1.ResourceMemory)
	}
	return out
}

func nothingLost(now, was corev1.ResourceList, at *field.Path) field.ErrorList {
	for name := range was {
		if _, ok := now[name]; !ok {
			return field.ErrorList{field.Forbidden(at, "resource "+at.String()+" cannot be removed")}
		}
	}
	return nil
}
