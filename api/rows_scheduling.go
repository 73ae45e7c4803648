package api

import (
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// The system's own priority classes, and what is left to users below them.
const (
	SystemNodeCritical    = "system-node-critical"
	SystemClusterCritical = "system-cluster-critical"

	SystemCriticalPriority      = 2_000_000_000
	HighestUserPriority         = 1_000_000_000
	systemPriorityPrefix        = "system-"
	SystemNodeCriticalPriority  = SystemCriticalPriority + 1000
	maxUserPriorityMessage      = "maximum allowed value of a user defined priority is 1000000000"
	reservedPriorityNameMessage = "priority class names with 'system-' prefix are reserved for system use only. error: %s is not a known system priority class"
)

func schedulingRows() []*Resource {
	return []*Resource{priorityClassRow()}
}

func priorityClassRow() *Resource {
	doc := schedulingv1.PriorityClass{}.SwaggerDoc()
	return kind[*schedulingv1.PriorityClass]{
		GroupVersion: schedulingv1.SchemeGroupVersion, Plural: "priorityclasses", Short: []string{"pc"},
		List: &schedulingv1.PriorityClassList{},
		Default: func(c *schedulingv1.PriorityClass) {
			unset(&c.PreemptionPolicy, corev1.PreemptLowerPriority)
		},
		PrepareCreate:  func(c *schedulingv1.PriorityClass) { c.Generation = 1 },
		Validate:       validatePriorityClass,
		ValidateNew:    validateNewPriorityClass,
		ValidateUpdate: validatePriorityClassUpdate,
		Columns: columns(nameColumn,
			column("Value", "integer", doc["value"]),
			column("Global-Default", "boolean", doc["globalDefault"]),
			ageColumn,
			column("PreemptionPolicy", "string", doc["preemptionPolicy"])),
		Cells: func(c *schedulingv1.PriorityClass, now time.Time) []any {
			return []any{c.Name, int64(c.Value), c.GlobalDefault, age(c, now), string(deref(c.PreemptionPolicy, corev1.PreemptLowerPriority))}
		},
	}.row()
}

func validatePriorityClass(c *schedulingv1.PriorityClass) field.ErrorList {
	var errs field.ErrorList
	if strings.HasPrefix(c.Name, systemPriorityPrefix) {
		errs = append(errs, validateSystemPriority(c)...)
	} else if c.Value > HighestUserPriority {
		errs = append(errs, field.Forbidden(field.NewPath("value"), maxUserPriorityMessage))
	}
	return errs
}

func validateNewPriorityClass(c *schedulingv1.PriorityClass) field.ErrorList {
	if p := c.PreemptionPolicy; p != nil {
		return oneOf(*p, field.NewPath("preemptionPolicy"), corev1.PreemptLowerPriority, corev1.PreemptNever)
	}
	return nil
}

func validateSystemPriority(c *schedulingv1.PriorityClass) field.ErrorList {
	known := map[string]int32{SystemNodeCritical: SystemNodeCriticalPriority, SystemClusterCritical: SystemCriticalPriority}
	value, ok := known[c.Name]
	problem := ""
	switch {
	case !ok:
		problem = fmt.Sprintf(reservedPriorityNameMessage, c.Name)
	case value != c.Value:
		problem = fmt.Sprintf("priority class names with 'system-' prefix are reserved for system use only. error: value of %v PriorityClass must be %v", c.Name, value)
	case c.GlobalDefault:
		problem = fmt.Sprintf("priority class names with 'system-' prefix are reserved for system use only. error: globalDefault of %v PriorityClass must be false", c.Name)
	default:
		return nil
	}
	return field.ErrorList{field.Forbidden(metaPath.Child("name"), problem)}
}

func validatePriorityClassUpdate(c, old *schedulingv1.PriorityClass) field.ErrorList {
	var errs field.ErrorList
	if c.Value != old.Value {
		errs = append(errs, field.Forbidden(field.NewPath("value"), "may not be changed in an update."))
	}
	return append(errs, immutable(c.PreemptionPolicy, old.PreemptionPolicy, field.NewPath("preemptionPolicy"))...)
}

func nodeRows() []*Resource {
	return []*Resource{runtimeClassRow()}
}

func runtimeClassRow() *Resource {
	doc := nodev1.RuntimeClass{}.SwaggerDoc()
	return kind[*nodev1.RuntimeClass]{
		GroupVersion: nodev1.SchemeGroupVersion, Plural: "runtimeclasses",
		List:           &nodev1.RuntimeClassList{},
		Warnings:       warnRuntimeClass,
		FreeFinalizers: true,
		Validate:       validateRuntimeClass,
		ValidateUpdate: func(c, old *nodev1.RuntimeClass) field.ErrorList {
			return immutable(c.Handler, old.Handler, field.NewPath("handler"))
		},
		Columns: columns(nameColumn, column("Handler", "string", doc["handler"]), ageColumn),
		Cells: func(c *nodev1.RuntimeClass, now time.Time) []any {
			return []any{c.Name, c.Handler, age(c, now)}
		},
	}.row()
}

func validateRuntimeClass(c *nodev1.RuntimeClass) field.ErrorList {
	errs := named(c.Handler, dnsLabel, field.NewPath("handler"))
	if c.Overhead != nil { // judged, and published, as a container's limits
		errs = append(errs, validateResources(&corev1.ResourceRequirements{Limits: c.Overhead.PodFixed}, inContainer(nil), field.NewPath("overhead"))...)
	}
	if s := c.Scheduling; s != nil {
		at := field.NewPath("scheduling")
		errs = append(errs, metavalidation.ValidateLabels(s.NodeSelector, at.Child("nodeSelector"))...)
		errs = append(errs, each(s.Tolerations, at.Child("tolerations"), validateToleration)...)
		for i, t := range s.Tolerations {
			if slices.ContainsFunc(s.Tolerations[:i], func(o corev1.Toleration) bool { return equality.Semantic.DeepEqual(o, t) }) {
				errs = append(errs, field.Duplicate(at.Child("tolerations").Index(i), ""))
			}
		}
	}
	return errs
}
