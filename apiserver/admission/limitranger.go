package admission

import (
	"context"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	resourcehelper "k8s.io/component-helpers/resource"
)

// limitRanger fills in and judges what pods and claims ask for by the
// LimitRanges of their namespace.
func limitRanger() Plugin {
	return Plugin{
		Name: "LimitRanger",
		Mutate: func(_ context.Context, r *Request) error {
			if r.Op != Create || !r.Is("pods") {
				return nil
			}
			pod := r.Object.(*corev1.Pod)
			for _, lr := range every[*corev1.LimitRange](r.World, "limitranges", r.Namespace) {
				fillLimits(pod, lr)
			}
			return nil
		},
		Validate: func(_ context.Context, r *Request) error {
			claim := r.Is("persistentvolumeclaims")
			if !(r.Op == Create && (claim || r.Is("pods"))) && !(r.Op == Update && (claim || r.Is("pods", "resize"))) {
				return nil
			}
			var errs []error
			for _, lr := range every[*corev1.LimitRange](r.World, "limitranges", r.Namespace) {
				errs = append(errs, judgeLimits(r, lr)...)
			}
			if len(errs) == 0 {
				return nil
			}
			return r.Forbidden(utilerrors.NewAggregate(errs))
		},
	}
}

// fillLimits sets the requests and limits that containers leave open.
func fillLimits(pod *corev1.Pod, lr *corev1.LimitRange) {
	requests, limits := corev1.ResourceList{}, corev1.ResourceList{}
	for _, item := range lr.Spec.Limits {
		if item.Type != corev1.LimitTypeContainer {
			continue
		}
		for k, v := range item.DefaultRequest {
			requests[k] = v
		}
		for k, v := range item.Default {
			limits[k] = v
		}
	}
	if len(requests)+len(limits) == 0 {
		return
	}
	for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			fill(&list[i].Resources.Limits, limits)
			fill(&list[i].Resources.Requests, requests)
		}
	}
}

func fill(to *corev1.ResourceList, from corev1.ResourceList) {
	for k, v := range from {
		if _, set := (*to)[k]; set {
			continue
		}
		if *to == nil {
			*to = corev1.ResourceList{}
		}
		(*to)[k] = v.DeepCopy()
	}
}

func judgeLimits(r *Request, lr *corev1.LimitRange) (errs []error) {
	for _, item := range lr.Spec.Limits {
		switch obj := r.Object.(type) {
		case *corev1.Pod:
			errs = append(errs, judgePodLimits(obj, item)...)
		case *corev1.PersistentVolumeClaim:
			if item.Type == corev1.LimitTypePersistentVolumeClaim {
				errs = append(errs, bounds{item, obj.Spec.Resources.Requests, nil}.judge()...)
			}
		}
	}
	return errs
}

func judgePodLimits(pod *corev1.Pod, item corev1.LimitRangeItem) (errs []error) {
	switch item.Type {
	case corev1.LimitTypeContainer:
		for _, c := range slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers) {
			errs = append(errs, bounds{item, c.Resources.Requests, c.Resources.Limits}.judge()...)
		}
	case corev1.LimitTypePod:
		opts := resourcehelper.PodResourcesOptions{}
		errs = bounds{item, resourcehelper.PodRequests(pod, opts), resourcehelper.PodLimits(pod, opts)}.judge()
	}
	return errs
}

// bounds holds what something asks for against one item of a LimitRange.
type bounds struct {
	item             corev1.LimitRangeItem
	requests, limits corev1.ResourceList
}

func (b bounds) judge() (errs []error) {
	for k, v := range b.item.Min {
		errs = append(errs, b.min(k, v))
	}
	for k, v := range b.item.Max {
		errs = append(errs, b.max(k, v))
	}
	for k, v := range b.item.MaxLimitRequestRatio {
		errs = append(errs, b.ratio(k, v))
	}
	return slices.DeleteFunc(errs, func(err error) bool { return err == nil })
}

func (b bounds) min(k corev1.ResourceName, least resource.Quantity) error {
	req, hasReq := b.requests[k]
	lim, hasLim := b.limits[k]
	switch {
	case !hasReq:
		return fmt.Errorf("minimum %s usage per %s is %s.  No request is specified", k, b.item.Type, least.String())
	case req.Cmp(least) < 0:
		return fmt.Errorf("minimum %s usage per %s is %s, but request is %s", k, b.item.Type, least.String(), req.String())
	case hasLim && lim.Cmp(least) < 0:
		return fmt.Errorf("minimum %s usage per %s is %s, but limit is %s", k, b.item.Type, least.String(), lim.String())
	}
	return nil
}

func (b bounds) max(k corev1.ResourceName, most resource.Quantity) error {
	req, hasReq := b.requests[k]
	lim, hasLim := b.limits[k]
	claim := b.item.Type == corev1.LimitTypePersistentVolumeClaim
	switch {
	case !hasLim && !claim:
		return fmt.Errorf("maximum %s usage per %s is %s.  No limit is specified", k, b.item.Type, most.String())
	case hasLim && lim.Cmp(most) > 0:
		return fmt.Errorf("maximum %s usage per %s is %s, but limit is %s", k, b.item.Type, most.String(), lim.String())
	case hasReq && req.Cmp(most) > 0:
		return fmt.Errorf("maximum %s usage per %s is %s, but request is %s", k, b.item.Type, most.String(), req.String())
	}
	return nil
}

func (b bounds) ratio(k corev1.ResourceName, most resource.Quantity) error {
	req, hasReq := b.requests[k]
	lim, hasLim := b.limits[k]
	if !hasReq || req.IsZero() {
		return fmt.Errorf("%s max limit to request ratio per %s is %s, but no request is specified or request is 0", k, b.item.Type, most.String())
	}
	if !hasLim || lim.IsZero() {
		return fmt.Errorf("%s max limit to request ratio per %s is %s, but no limit is specified or limit is 0", k, b.item.Type, most.String())
	}
	if got := lim.AsApproximateFloat64() / req.AsApproximateFloat64(); got > most.AsApproximateFloat64() {
		return fmt.Errorf("%s max limit to request ratio per %s is %s, but provided ratio is %f", k, b.item.Type, most.String(), got)
	}
	return nil
}
