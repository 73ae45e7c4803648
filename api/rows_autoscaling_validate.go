package api

import (
	"fmt"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/api/validation/path"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// The limits of a scaling rule, in seconds.
const (
	maxStabilization = 3600
	maxScalingPeriod = 1800
)

func validateAutoscaler(h *autoscalingv2.HorizontalPodAutoscaler) field.ErrorList {
	s := &h.Spec
	var errs field.ErrorList
	if s.MinReplicas != nil && *s.MinReplicas < 1 {
		errs = append(errs, field.Invalid(specPath.Child("minReplicas"), *s.MinReplicas, "must be greater than or equal to 1"))
	}
	if s.MaxReplicas == 0 {
		errs = append(errs, field.Required(specPath.Child("maxReplicas"), "must be set and greater than 0"))
	} else if s.MaxReplicas < 0 {
		errs = append(errs, field.Invalid(specPath.Child("maxReplicas"), s.MaxReplicas, "must be greater than or equal to 1"))
	}
	if s.MinReplicas != nil && s.MaxReplicas < *s.MinReplicas {
		errs = append(errs, field.Invalid(specPath.Child("maxReplicas"), s.MaxReplicas, "must be greater than or equal to `minReplicas`"))
	}
	errs = append(errs, validateScaleTarget(s.ScaleTargetRef, specPath.Child("scaleTargetRef"))...)
	errs = append(errs, each(s.Metrics, specPath.Child("metrics"), validateMetric)...)
	if b := s.Behavior; b != nil {
		errs = append(errs, validateScalingRules(b.ScaleUp, specPath.Child("behavior", "scaleUp"))...)
		errs = append(errs, validateScalingRules(b.ScaleDown, specPath.Child("behavior", "scaleDown"))...)
	}
	return errs
}

func validateScaleTarget(r autoscalingv2.CrossVersionObjectReference, at *field.Path) field.ErrorList {
	errs := append(named(r.Kind, path.ValidatePathSegmentName, at.Child("kind")),
		named(r.Name, path.ValidatePathSegmentName, at.Child("name"))...)
	_, err := schema.ParseGroupVersion(r.APIVersion)
	if err != nil {
		errs = append(errs, field.Invalid(at.Child("apiVersion"), r.APIVersion, err.Error()))
	}
	return errs
}

// validateNewScaleTarget: what was taken before without a group stays.
func validateNewScaleTarget(h *autoscalingv2.HorizontalPodAutoscaler) field.ErrorList {
	r := h.Spec.ScaleTargetRef
	gv, err := schema.ParseGroupVersion(r.APIVersion)
	if err != nil || gv.Group != "" {
		return nil
	}
	return field.ErrorList{field.Invalid(specPath.Child("scaleTargetRef", "apiVersion"), r.APIVersion, "apiVersion must specify API group")}
}

func validateMetric(m *autoscalingv2.MetricSpec, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if m.Type == "" {
		errs = append(errs, field.Required(at.Child("type"), "must specify a metric source type"))
	}
	fields := map[autoscalingv2.MetricSourceType]string{
		autoscalingv2.ContainerResourceMetricSourceType: "containerResource", autoscalingv2.ExternalMetricSourceType: "external",
		autoscalingv2.ObjectMetricSourceType: "object", autoscalingv2.PodsMetricSourceType: "pods", autoscalingv2.ResourceMetricSourceType: "resource",
	}
	present, found := validateMetricSources(m, at)
	errs = append(errs, found...)
	want, ok := fields[m.Type]
	if !ok {
		errs = append(errs, field.NotSupported(at.Child("type"), m.Type, sets.List(sets.KeySet(fields))))
	} else if !present.Has(want) {
		errs = append(errs, field.Required(at.Child(want), "must populate information for the given metric source"))
	}
	if len(present) == 1 {
		return errs // what it lacks is said
	}
	for _, other := range sets.List(present.Delete(want)) {
		errs = append(errs, field.Forbidden(at.Child(other), "must populate the given metric source only"))
	}
	return errs
}

// validateMetricSources judges the first of the sources that are there and names
// all.
func validateMetricSources(m *autoscalingv2.MetricSpec, at *field.Path) (present sets.Set[string], errs field.ErrorList) {
	present = sets.New[string]()
	add := func(name string, found field.ErrorList) {
		if present.Insert(name); len(present) == 1 {
			errs = append(errs, found...)
		}
	}
	if s := m.Object; s != nil {
		add("object", validateObjectMetric(s, at.Child("object")))
	}
	if s := m.External; s != nil {
		add("external", validateExternalMetric(s, at.Child("external")))
	}
	if s := m.Pods; s != nil {
		add("pods", validatePodsMetric(s, at.Child("pods")))
	}
	if s := m.Resource; s != nil {
		add("resource", validateResourceMetric(string(s.Name), s.Target, at.Child("resource")))
	}
	if s := m.ContainerResource; s != nil {
		found := validateResourceMetric(string(s.Name), s.Target, at.Child("containerResource"))
		if s.Container == "" {
			found = append(found, field.Required(at.Child("containerResource", "container"), "must specify a container"))
		} else {
			found = append(found, invalidEach(s.Container, at.Child("containerResource", "container"), dnsLabel(s.Container, false))...)
		}
		if s.Name != "" {
			found = append(found, containerResource(s.Name, at.Child("containerResource", "name"))...)
		}
		add("containerResource", found)
	}
	return present, errs
}

const eitherTarget = "must set either a target value for metric or a per-pod target"

func validateObjectMetric(s *autoscalingv2.ObjectMetricSource, at *field.Path) field.ErrorList {
	errs := validateScaleTarget(s.DescribedObject, at.Child("describedObject"))
	errs = append(errs, validateMetricName(s.Metric, at.Child("metric"))...)
	errs = append(errs, validateMetricTarget(s.Target, at.Child("target"))...)
	if s.Target.Value == nil && s.Target.AverageValue == nil {
		errs = append(errs, field.Required(at.Child("target", "averageValue"), eitherTarget))
	}
	return errs
}

func validateExternalMetric(s *autoscalingv2.ExternalMetricSource, at *field.Path) field.ErrorList {
	errs := validateMetricName(s.Metric, at.Child("metric"))
	errs = append(errs, validateMetricTarget(s.Target, at.Child("target"))...)
	switch {
	case s.Target.Value == nil && s.Target.AverageValue == nil:
		errs = append(errs, field.Required(at.Child("target", "averageValue"), eitherTarget))
	case s.Target.Value != nil && s.Target.AverageValue != nil:
		errs = append(errs, field.Forbidden(at.Child("target", "value"), "may not set both a target value for metric and a per-pod target"))
	}
	return errs
}

func validatePodsMetric(s *autoscalingv2.PodsMetricSource, at *field.Path) field.ErrorList {
	errs := validateMetricName(s.Metric, at.Child("metric"))
	errs = append(errs, validateMetricTarget(s.Target, at.Child("target"))...)
	if s.Target.AverageValue == nil {
		errs = append(errs, field.Required(at.Child("target", "averageValue"), "must specify a positive target averageValue"))
	}
	return errs
}

func validateResourceMetric(name string, t autoscalingv2.MetricTarget, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if name == "" {
		errs = append(errs, field.Required(at.Child("name"), "must specify a resource name"))
	}
	errs = append(errs, validateMetricTarget(t, at.Child("target"))...)
	at = at.Child("target")
	switch {
	case t.AverageUtilization == nil && t.AverageValue == nil:
		errs = append(errs, field.Required(at.Child("averageUtilization"), "must set either a target raw value or a target utilization"))
	case t.AverageUtilization != nil && t.AverageValue != nil:
		errs = append(errs, field.Forbidden(at.Child("averageValue"), "may not set both a target raw value and a target utilization"))
	}
	return errs
}

func validateMetricName(m autoscalingv2.MetricIdentifier, at *field.Path) field.ErrorList {
	if m.Name == "" {
		return field.ErrorList{field.Required(at.Child("name"), "must specify a metric name")}
	}
	return invalidEach(m.Name, at.Child("name"), path.ValidatePathSegmentName(m.Name, false))
}

func validateMetricTarget(t autoscalingv2.MetricTarget, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	switch t.Type {
	case "":
		errs = append(errs, field.Required(at.Child("type"), "must specify a metric target type"),
			field.Invalid(at.Child("type"), t.Type, "must be either Utilization, Value, or AverageValue"))
	case autoscalingv2.UtilizationMetricType, autoscalingv2.ValueMetricType, autoscalingv2.AverageValueMetricType:
	default:
		errs = append(errs, field.Invalid(at.Child("type"), t.Type, "must be either Utilization, Value, or AverageValue"))
	}
	if u := t.AverageUtilization; u != nil && *u < 1 {
		errs = append(errs, field.Invalid(at.Child("averageUtilization"), *u, "must be greater than 0"))
	}
	errs = append(errs, validatePositive(t.Value, at.Child("value"))...)
	return append(errs, validatePositive(t.AverageValue, at.Child("averageValue"))...)
}

func validatePositive(q *resource.Quantity, at *field.Path) field.ErrorList {
	if q == nil || q.Sign() == 1 {
		return nil
	}
	return field.ErrorList{field.Invalid(at, q, "must be positive")}
}

func validateScalingRules(r *autoscalingv2.HPAScalingRules, at *field.Path) field.ErrorList {
	if r == nil {
		return nil
	}
	var errs field.ErrorList
	if w := r.StabilizationWindowSeconds; w != nil {
		errs = append(errs, validateSeconds(*w, 0, maxStabilization, at.Child("stabilizationWindowSeconds"))...)
	}
	if p := r.SelectPolicy; p != nil {
		errs = append(errs, oneOf(*p, at.Child("selectPolicy"),
			autoscalingv2.DisabledPolicySelect, autoscalingv2.MaxChangePolicySelect, autoscalingv2.MinChangePolicySelect)...)
	}
	if len(r.Policies) == 0 {
		errs = append(errs, field.Required(at.Child("policies"), "must specify at least one Policy"))
	}
	errs = append(errs, each(r.Policies, at.Child("policies"), validateScalingPolicy)...)
	if t := r.Tolerance; t != nil && t.Sign() < 0 {
		errs = append(errs, field.Invalid(at.Child("tolerance"), t.String(), "must be greater than or equal to 0"))
	}
	return errs
}

func validateScalingPolicy(p *autoscalingv2.HPAScalingPolicy, at *field.Path) field.ErrorList {
	errs := oneOf(p.Type, at.Child("type"), autoscalingv2.PercentScalingPolicy, autoscalingv2.PodsScalingPolicy)
	if p.Value <= 0 {
		errs = append(errs, field.Invalid(at.Child("value"), p.Value, "must be greater than zero"))
	}
	return append(errs, validateSeconds(p.PeriodSeconds, 1, maxScalingPeriod, at.Child("periodSeconds"))...)
}

func validateSeconds(n, min, max int32, at *field.Path) field.ErrorList {
	switch {
	case n < min && min == 0:
		return field.ErrorList{field.Invalid(at, n, "must be greater than or equal to zero")}
	case n < min:
		return field.ErrorList{field.Invalid(at, n, "must be greater than zero")}
	case n > max:
		return field.ErrorList{field.Invalid(at, n, fmt.Sprintf("must be less than or equal to %d", max))}
	}
	return nil
}

func validateAutoscalerStatus(h, _ *autoscalingv2.HorizontalPodAutoscaler) field.ErrorList {
	errs := nonNegative(h.Status.CurrentReplicas, statusPath.Child("currentReplicas"))
	return append(errs, nonNegative(h.Status.DesiredReplicas, statusPath.Child("desiredReplicas"))...)
}
