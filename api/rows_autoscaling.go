package api

import (
	"fmt"
	"strings"
	"time"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/runtime"
)

// defaultCPUUtilization is the target, in percent of the request, of an
// autoscaler that names no metric.
const defaultCPUUtilization = 80

func autoscalingRows() []*Resource {
	return []*Resource{horizontalPodAutoscalerRow()}
}

func horizontalPodAutoscalerRow() *Resource {
	spec, status := autoscalingv2.HorizontalPodAutoscalerSpec{}.SwaggerDoc(), autoscalingv2.HorizontalPodAutoscalerStatus{}.SwaggerDoc()
	return kind[*autoscalingv2.HorizontalPodAutoscaler]{
		GroupVersion: autoscalingv2.SchemeGroupVersion, Plural: "horizontalpodautoscalers", Short: []string{"hpa"}, Categories: []string{"all"}, Namespaced: true,
		List:   &autoscalingv2.HorizontalPodAutoscalerList{},
		Status: true, Generation: true,
		Versions: []Version{{
			Group: "autoscaling", Version: "v1", Kind: "HorizontalPodAutoscaler",
			New:         func() Object { return &autoscalingv1.HorizontalPodAutoscaler{} },
			NewList:     func() runtime.Object { return &autoscalingv1.HorizontalPodAutoscalerList{} },
			ToStorage:   autoscalerToStorage,
			FromStorage: autoscalerFromStorage,
		}},
		Default:        defaultAutoscaler,
		Validate:       validateAutoscaler,
		ValidateNew:    validateNewScaleTarget,
		ValidateStatus: validateAutoscalerStatus,
		Columns: columns(nameColumn,
			column("Reference", "string", spec["scaleTargetRef"]),
			column("Targets", "string", spec["metrics"]),
			column("MinPods", "string", spec["minReplicas"]),
			column("MaxPods", "string", spec["maxReplicas"]),
			column("Replicas", "string", status["currentReplicas"]),
			ageColumn),
		Cells: func(h *autoscalingv2.HorizontalPodAutoscaler, now time.Time) []any {
			min := "<unset>"
			if h.Spec.MinReplicas != nil {
				min = fmt.Sprint(*h.Spec.MinReplicas)
			}
			return []any{h.Name, h.Spec.ScaleTargetRef.Kind + "/" + h.Spec.ScaleTargetRef.Name,
				metricsCell(h.Spec.Metrics, h.Status.CurrentMetrics), min, int64(h.Spec.MaxReplicas), int64(h.Status.CurrentReplicas), age(h, now)}
		},
	}.row()
}

func defaultAutoscaler(h *autoscalingv2.HorizontalPodAutoscaler) {
	unset(&h.Spec.MinReplicas, 1)
	if len(h.Spec.Metrics) == 0 {
		target := int32(defaultCPUUtilization)
		h.Spec.Metrics = []autoscalingv2.MetricSpec{cpuMetric(&target)}
	}
	if b := h.Spec.Behavior; b != nil {
		unset(&b.ScaleUp, autoscalingv2.HPAScalingRules{})
		unset(&b.ScaleUp.StabilizationWindowSeconds, 0)
		defaultScaling(b.ScaleUp, autoscalingv2.HPAScalingPolicy{Type: autoscalingv2.PodsScalingPolicy, Value: 4, PeriodSeconds: 15},
			autoscalingv2.HPAScalingPolicy{Type: autoscalingv2.PercentScalingPolicy, Value: 100, PeriodSeconds: 15})
		unset(&b.ScaleDown, autoscalingv2.HPAScalingRules{})
		defaultScaling(b.ScaleDown, autoscalingv2.HPAScalingPolicy{Type: autoscalingv2.PercentScalingPolicy, Value: 100, PeriodSeconds: 15})
	}
}

func defaultScaling(r *autoscalingv2.HPAScalingRules, policies ...autoscalingv2.HPAScalingPolicy) {
	unset(&r.SelectPolicy, autoscalingv2.MaxChangePolicySelect)
	if r.Policies == nil {
		r.Policies = policies
	}
}

func cpuMetric(utilization *int32) autoscalingv2.MetricSpec {
	return autoscalingv2.MetricSpec{Type: autoscalingv2.ResourceMetricSourceType, Resource: &autoscalingv2.ResourceMetricSource{
		Name:   corev1.ResourceCPU,
		Target: autoscalingv2.MetricTarget{Type: autoscalingv2.UtilizationMetricType, AverageUtilization: utilization},
	}}
}

// metricsCell shows each metric as current/target, two of them at most.
func metricsCell(specs []autoscalingv2.MetricSpec, statuses []autoscalingv2.MetricStatus) string {
	const few = 2
	if len(specs) == 0 {
		return none
	}
	var list []string
	for i := range specs {
		var current autoscalingv2.MetricStatus
		if i < len(statuses) {
			current = statuses[i]
		}
		list = append(list, metricCell(&specs[i], &current))
	}
	if len(list) > few {
		return fmt.Sprintf("%s + %d more...", strings.Join(list[:few], ", "), len(list)-few)
	}
	return strings.Join(list, ", ")
}

func metricCell(s *autoscalingv2.MetricSpec, current *autoscalingv2.MetricStatus) string {
	var target autoscalingv2.MetricTarget
	var value *autoscalingv2.MetricValueStatus
	prefix, suffix := "", ""
	switch {
	case s.External != nil:
		target, suffix = s.External.Target, averageMark(s.External.Target)
		if current.External != nil {
			value = &current.External.Current
		}
	case s.Pods != nil:
		target = s.Pods.Target
		if current.Pods != nil {
			value = &current.Pods.Current
		}
	case s.Object != nil:
		target, suffix = s.Object.Target, averageMark(s.Object.Target)
		if current.Object != nil {
			value = &current.Object.Current
		}
	case s.Resource != nil:
		target, prefix = s.Resource.Target, string(s.Resource.Name)+": "
		if current.Resource != nil {
			value = &current.Resource.Current
		}
	case s.ContainerResource != nil:
		target, prefix = s.ContainerResource.Target, string(s.ContainerResource.Name)+": "
		if current.ContainerResource != nil {
			value = &current.ContainerResource.Current
		}
	default:
		return "<unknown type>"
	}
	return prefix + targetCell(target, value) + suffix
}

// averageMark tells an average of all pods from a total where both are possible.
func averageMark(t autoscalingv2.MetricTarget) string {
	if t.AverageValue != nil {
		return " (avg)"
	}
	return ""
}

func targetCell(t autoscalingv2.MetricTarget, v *autoscalingv2.MetricValueStatus) string {
	if v == nil {
		v = &autoscalingv2.MetricValueStatus{}
	}
	switch {
	case t.AverageValue != nil:
		return quantityCell(v.AverageValue) + "/" + t.AverageValue.String()
	case t.AverageUtilization != nil:
		current := unknown
		if v.AverageUtilization != nil {
			current = fmt.Sprintf("%d%%", *v.AverageUtilization)
		}
		return fmt.Sprintf("%s/%d%%", current, *t.AverageUtilization)
	case t.Value != nil:
		return quantityCell(v.Value) + "/" + t.Value.String()
	}
	return unknown + "/<auto>"
}

func quantityCell(q *resource.Quantity) string {
	if q == nil {
		return unknown
	}
	return q.String()
}
