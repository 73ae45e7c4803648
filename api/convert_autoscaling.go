package api

import (
	"encoding/json"
	"fmt"
	"maps"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// autoscaling/v1 knows one metric, the use of CPU. What else autoscaling/v2
// says travels in these annotations, in JSON, as Kubernetes documents.
const (
	hpaMetricsAnnotation    = "autoscaling.alpha.kubernetes.io/metrics"
	hpaCurrentAnnotation    = "autoscaling.alpha.kubernetes.io/current-metrics"
	hpaConditionsAnnotation = "autoscaling.alpha.kubernetes.io/conditions"
	hpaBehaviorAnnotation   = "autoscaling.alpha.kubernetes.io/behavior"
)

func autoscalerFromStorage(obj Object) (Object, error) {
	in, ok := obj.(*autoscalingv2.HorizontalPodAutoscaler)
	if !ok {
		return nil, fmt.Errorf("convert to autoscaling/v1: unexpected %T", obj)
	}
	in = in.DeepCopy() // stored objects share nothing with what a caller may change
	out := &autoscalingv1.HorizontalPodAutoscaler{ObjectMeta: in.ObjectMeta}
	out.Spec = autoscalingv1.HorizontalPodAutoscalerSpec{
		ScaleTargetRef: autoscalingv1.CrossVersionObjectReference(in.Spec.ScaleTargetRef),
		MinReplicas:    in.Spec.MinReplicas, MaxReplicas: in.Spec.MaxReplicas,
	}
	out.Status = autoscalingv1.HorizontalPodAutoscalerStatus{
		ObservedGeneration: in.Status.ObservedGeneration, LastScaleTime: in.Status.LastScaleTime,
		CurrentReplicas: in.Status.CurrentReplicas, DesiredReplicas: in.Status.DesiredReplicas,
	}
	var others []autoscalingv1.MetricSpec
	for i := range in.Spec.Metrics {
		m := &in.Spec.Metrics[i]
		if u := cpuUtilization(m); u != nil && out.Spec.TargetCPUUtilizationPercentage == nil {
			out.Spec.TargetCPUUtilizationPercentage = u
			continue
		}
		others = append(others, metricToV1(m))
	}
	var current []autoscalingv1.MetricStatus
	for i := range in.Status.CurrentMetrics {
		m := &in.Status.CurrentMetrics[i]
		if r := m.Resource; r != nil && r.Name == corev1.ResourceCPU && r.Current.AverageUtilization != nil {
			out.Status.CurrentCPUUtilizationPercentage = r.Current.AverageUtilization
		}
		current = append(current, metricStatusToV1(m))
	}
	conditions := make([]autoscalingv1.HorizontalPodAutoscalerCondition, 0, len(in.Status.Conditions))
	for _, c := range in.Status.Conditions {
		conditions = append(conditions, autoscalingv1.HorizontalPodAutoscalerCondition{
			Type: autoscalingv1.HorizontalPodAutoscalerConditionType(c.Type), Status: c.Status,
			LastTransitionTime: c.LastTransitionTime, Reason: c.Reason, Message: c.Message, ObservedGeneration: c.ObservedGeneration})
	}
	return out, annotate(out,
		annotation{hpaMetricsAnnotation, others, len(others) > 0},
		annotation{hpaCurrentAnnotation, current, len(current) > 0},
		annotation{hpaConditionsAnnotation, conditions, len(conditions) > 0},
		annotation{hpaBehaviorAnnotation, capitals(in.Spec.Behavior), in.Spec.Behavior != nil})
}

// The behavior as its annotation has always said it: with Go's own names.
type (
	hpaBehavior struct{ ScaleUp, ScaleDown *hpaRules }
	hpaRules    struct {
		StabilizationWindowSeconds *int32
		SelectPolicy               *autoscalingv2.ScalingPolicySelect
		Policies                   []hpaPolicy
		Tolerance                  *resource.Quantity
	}
	hpaPolicy struct {
		Type                 autoscalingv2.HPAScalingPolicyType
		Value, PeriodSeconds int32
	}
)

func capitals(b *autoscalingv2.HorizontalPodAutoscalerBehavior) *hpaBehavior {
	if b == nil {
		return nil
	}
	return &hpaBehavior{ScaleUp: capitalRules(b.ScaleUp), ScaleDown: capitalRules(b.ScaleDown)}
}

func capitalRules(r *autoscalingv2.HPAScalingRules) *hpaRules {
	if r == nil {
		return nil
	}
	out := &hpaRules{StabilizationWindowSeconds: r.StabilizationWindowSeconds, SelectPolicy: r.SelectPolicy, Tolerance: r.Tolerance}
	if r.Policies != nil {
		out.Policies = make([]hpaPolicy, len(r.Policies))
	}
	for i, p := range r.Policies {
		out.Policies[i] = hpaPolicy(p)
	}
	return out
}

type annotation struct {
	key   string
	value any
	there bool
}

func annotate(obj Object, list ...annotation) error {
	all := maps.Clone(obj.GetAnnotations())
	for _, a := range list {
		delete(all, a.key) // nobody but this conversion writes these
		if !a.there {
			continue
		}
		data, err := json.Marshal(a.value)
		if err != nil {
			return fmt.Errorf("convert to autoscaling/v1: %s: %w", a.key, err)
		}
		if all == nil {
			all = map[string]string{}
		}
		all[a.key] = string(data)
	}
	obj.SetAnnotations(all)
	return nil
}

func cpuUtilization(m *autoscalingv2.MetricSpec) *int32 {
	if m.Resource == nil || m.Resource.Name != corev1.ResourceCPU {
		return nil
	}
	return m.Resource.Target.AverageUtilization
}

func autoscalerToStorage(obj Object) (Object, error) {
	in, ok := obj.(*autoscalingv1.HorizontalPodAutoscaler)
	if !ok {
		return nil, fmt.Errorf("convert to autoscaling/v2: unexpected %T", obj)
	}
	in = in.DeepCopy()
	out := &autoscalingv2.HorizontalPodAutoscaler{ObjectMeta: in.ObjectMeta}
	out.Spec = autoscalingv2.HorizontalPodAutoscalerSpec{
		ScaleTargetRef: autoscalingv2.CrossVersionObjectReference(in.Spec.ScaleTargetRef),
		MinReplicas:    in.Spec.MinReplicas, MaxReplicas: in.Spec.MaxReplicas,
	}
	out.Status = autoscalingv2.HorizontalPodAutoscalerStatus{
		ObservedGeneration: in.Status.ObservedGeneration, LastScaleTime: in.Status.LastScaleTime,
		CurrentReplicas: in.Status.CurrentReplicas, DesiredReplicas: in.Status.DesiredReplicas,
	}
	for _, m := range take[[]autoscalingv1.MetricSpec](out.Annotations, hpaMetricsAnnotation) {
		out.Spec.Metrics = append(out.Spec.Metrics, metricFromV1(&m))
	}
	if u := in.Spec.TargetCPUUtilizationPercentage; u != nil {
		out.Spec.Metrics = append(out.Spec.Metrics, cpuMetric(u))
	}
	for _, m := range take[[]autoscalingv1.MetricStatus](out.Annotations, hpaCurrentAnnotation) {
		out.Status.CurrentMetrics = append(out.Status.CurrentMetrics, metricStatusFromV1(&m))
	}
	if u := in.Status.CurrentCPUUtilizationPercentage; u != nil && len(out.Status.CurrentMetrics) == 0 {
		out.Status.CurrentMetrics = []autoscalingv2.MetricStatus{{Type: autoscalingv2.ResourceMetricSourceType,
			Resource: &autoscalingv2.ResourceMetricStatus{Name: corev1.ResourceCPU, Current: autoscalingv2.MetricValueStatus{AverageUtilization: u}}}}
	}
	for _, c := range take[[]autoscalingv1.HorizontalPodAutoscalerCondition](out.Annotations, hpaConditionsAnnotation) {
		out.Status.Conditions = append(out.Status.Conditions, autoscalingv2.HorizontalPodAutoscalerCondition{
			Type: autoscalingv2.HorizontalPodAutoscalerConditionType(c.Type), Status: c.Status,
			LastTransitionTime: c.LastTransitionTime, Reason: c.Reason, Message: c.Message, ObservedGeneration: c.ObservedGeneration})
	}
	out.Spec.Behavior = take[*autoscalingv2.HorizontalPodAutoscalerBehavior](out.Annotations, hpaBehaviorAnnotation)
	if len(out.Annotations) == 0 {
		out.Annotations = nil
	}
	return out, nil
}

// take reads an annotation and removes it. One that cannot be read counts as
// absent: annotations are free text to their writer. Keys match in any case,
// as upstream has always written the behavior's with capitals.
func take[T any](annotations map[string]string, key string) T {
	var value, nothing T
	text, ok := annotations[key]
	if !ok {
		return nothing
	}
	delete(annotations, key)
	if json.Unmarshal([]byte(text), &value) != nil {
		return nothing
	}
	return value
}

func metricToV1(m *autoscalingv2.MetricSpec) autoscalingv1.MetricSpec {
	out := autoscalingv1.MetricSpec{Type: autoscalingv1.MetricSourceType(m.Type)}
	if s := m.Object; s != nil {
		out.Object = &autoscalingv1.ObjectMetricSource{Target: autoscalingv1.CrossVersionObjectReference(s.DescribedObject),
			MetricName: s.Metric.Name, Selector: s.Metric.Selector,
			TargetValue: deref(s.Target.Value, resource.Quantity{}), AverageValue: s.Target.AverageValue}
	}
	if s := m.Pods; s != nil {
		out.Pods = &autoscalingv1.PodsMetricSource{MetricName: s.Metric.Name, Selector: s.Metric.Selector,
			TargetAverageValue: deref(s.Target.AverageValue, resource.Quantity{})}
	}
	if s := m.Resource; s != nil {
		out.Resource = &autoscalingv1.ResourceMetricSource{Name: s.Name,
			TargetAverageUtilization: s.Target.AverageUtilization, TargetAverageValue: s.Target.AverageValue}
	}
	if s := m.ContainerResource; s != nil {
		out.ContainerResource = &autoscalingv1.ContainerResourceMetricSource{Name: s.Name, Container: s.Container,
			TargetAverageUtilization: s.Target.AverageUtilization, TargetAverageValue: s.Target.AverageValue}
	}
	if s := m.External; s != nil {
		out.External = &autoscalingv1.ExternalMetricSource{MetricName: s.Metric.Name, MetricSelector: s.Metric.Selector,
			TargetValue: s.Target.Value, TargetAverageValue: s.Target.AverageValue}
	}
	return out
}

func metricFromV1(m *autoscalingv1.MetricSpec) autoscalingv2.MetricSpec {
	out := autoscalingv2.MetricSpec{Type: autoscalingv2.MetricSourceType(m.Type)}
	if s := m.Object; s != nil {
		out.Object = &autoscalingv2.ObjectMetricSource{DescribedObject: autoscalingv2.CrossVersionObjectReference(s.Target),
			Metric: autoscalingv2.MetricIdentifier{Name: s.MetricName, Selector: s.Selector},
			Target: objectTarget(s.TargetValue, s.AverageValue)}
	}
	if s := m.Pods; s != nil {
		out.Pods = &autoscalingv2.PodsMetricSource{Metric: autoscalingv2.MetricIdentifier{Name: s.MetricName, Selector: s.Selector},
			Target: autoscalingv2.MetricTarget{Type: autoscalingv2.AverageValueMetricType, AverageValue: &s.TargetAverageValue}}
	}
	if s := m.Resource; s != nil {
		out.Resource = &autoscalingv2.ResourceMetricSource{Name: s.Name, Target: useTarget(s.TargetAverageUtilization, s.TargetAverageValue)}
	}
	if s := m.ContainerResource; s != nil {
		out.ContainerResource = &autoscalingv2.ContainerResourceMetricSource{Name: s.Name, Container: s.Container,
			Target: useTarget(s.TargetAverageUtilization, s.TargetAverageValue)}
	}
	if s := m.External; s != nil {
		out.External = &autoscalingv2.ExternalMetricSource{Metric: autoscalingv2.MetricIdentifier{Name: s.MetricName, Selector: s.MetricSelector},
			Target: externalTarget(s.TargetValue, s.TargetAverageValue)}
	}
	return out
}

// objectTarget, externalTarget and useTarget name the type that v1 leaves to the
// field in use. Beside an average the value that v1 asks for may be zero: unset.
func objectTarget(value resource.Quantity, average *resource.Quantity) autoscalingv2.MetricTarget {
	if average == nil {
		return autoscalingv2.MetricTarget{Type: autoscalingv2.ValueMetricType, Value: &value}
	}
	t := autoscalingv2.MetricTarget{Type: autoscalingv2.AverageValueMetricType, AverageValue: average}
	if !value.IsZero() {
		t.Value = &value
	}
	return t
}

func externalTarget(value, average *resource.Quantity) autoscalingv2.MetricTarget {
	t := autoscalingv2.MetricTarget{Type: autoscalingv2.ValueMetricType, Value: value, AverageValue: average}
	if value == nil {
		t.Type = autoscalingv2.AverageValueMetricType
	}
	return t
}

func useTarget(utilization *int32, average *resource.Quantity) autoscalingv2.MetricTarget {
	t := autoscalingv2.MetricTarget{Type: autoscalingv2.UtilizationMetricType, AverageUtilization: utilization, AverageValue: average}
	if utilization == nil {
		t.Type = autoscalingv2.AverageValueMetricType
	}
	return t
}
