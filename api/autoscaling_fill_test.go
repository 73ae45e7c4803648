package api

import (
	"slices"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"sigs.k8s.io/randfill"
)

// autoscaling/v1 can say only what makes sense; random metrics are made so
// that they do.
func init() {
	fillFuncs = append(fillFuncs, fillMetric, fillMetricStatus,
		func(s *autoscalingv2.HorizontalPodAutoscalerSpec, c randfill.Continue) {
			c.FillNoCustom(s)
			// v1 keeps the use of CPU apart from the others, which comes last.
			slices.SortStableFunc(s.Metrics, func(a, b autoscalingv2.MetricSpec) int { return rank(&a) - rank(&b) })
		})
}

func rank(m *autoscalingv2.MetricSpec) int {
	if cpuUtilization(m) != nil {
		return 1
	}
	return 0
}

func somePositive(c randfill.Continue) *resource.Quantity {
	return resource.NewMilliQuantity(1+c.Int63n(5000), resource.DecimalSI)
}

func fillMetric(m *autoscalingv2.MetricSpec, c randfill.Continue) {
	id := autoscalingv2.MetricIdentifier{Name: c.String(9)}
	use := int32(c.Intn(99) + 1)
	total := autoscalingv2.MetricTarget{Type: autoscalingv2.ValueMetricType, Value: somePositive(c)}
	average := autoscalingv2.MetricTarget{Type: autoscalingv2.AverageValueMetricType, AverageValue: somePositive(c)}
	utilization := autoscalingv2.MetricTarget{Type: autoscalingv2.UtilizationMetricType, AverageUtilization: &use}
	kinds := []autoscalingv2.MetricSpec{
		{Type: autoscalingv2.PodsMetricSourceType, Pods: &autoscalingv2.PodsMetricSource{Metric: id, Target: average}},
		{Type: autoscalingv2.ObjectMetricSourceType, Object: &autoscalingv2.ObjectMetricSource{Metric: id, Target: total}},
		{Type: autoscalingv2.ObjectMetricSourceType, Object: &autoscalingv2.ObjectMetricSource{Metric: id, Target: average}},
		{Type: autoscalingv2.ExternalMetricSourceType, External: &autoscalingv2.ExternalMetricSource{Metric: id, Target: total}},
		{Type: autoscalingv2.ResourceMetricSourceType, Resource: &autoscalingv2.ResourceMetricSource{Name: corev1.ResourceMemory, Target: average}},
		{Type: autoscalingv2.ResourceMetricSourceType, Resource: &autoscalingv2.ResourceMetricSource{Name: corev1.ResourceCPU, Target: utilization}},
		{Type: autoscalingv2.ContainerResourceMetricSourceType, ContainerResource: &autoscalingv2.ContainerResourceMetricSource{
			Name: corev1.ResourceCPU, Container: c.String(5), Target: utilization}},
	}
	*m = kinds[c.Intn(len(kinds))]
}

func fillMetricStatus(m *autoscalingv2.MetricStatus, c randfill.Continue) {
	id := autoscalingv2.MetricIdentifier{Name: c.String(9)}
	use := int32(c.Intn(99) + 1)
	current := autoscalingv2.MetricValueStatus{AverageUtilization: &use, AverageValue: somePositive(c)}
	kinds := []autoscalingv2.MetricStatus{
		{Type: autoscalingv2.PodsMetricSourceType, Pods: &autoscalingv2.PodsMetricStatus{Metric: id, Current: autoscalingv2.MetricValueStatus{AverageValue: somePositive(c)}}},
		{Type: autoscalingv2.ObjectMetricSourceType, Object: &autoscalingv2.ObjectMetricStatus{Metric: id, Current: autoscalingv2.MetricValueStatus{Value: somePositive(c)}}},
		{Type: autoscalingv2.ResourceMetricSourceType, Resource: &autoscalingv2.ResourceMetricStatus{Name: corev1.ResourceCPU, Current: current}},
	}
	*m = kinds[c.Intn(len(kinds))]
}
