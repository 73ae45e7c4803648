package api

import (
	"time"

	policyv1 "k8s.io/api/policy/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func policyRows() []*Resource {
	return []*Resource{podDisruptionBudgetRow()}
}

func podDisruptionBudgetRow() *Resource {
	spec, status := policyv1.PodDisruptionBudgetSpec{}.SwaggerDoc(), policyv1.PodDisruptionBudgetStatus{}.SwaggerDoc()
	return kind[*policyv1.PodDisruptionBudget]{
		GroupVersion: policyv1.SchemeGroupVersion, Plural: "poddisruptionbudgets", Short: []string{"pdb"}, Namespaced: true,
		List:           &policyv1.PodDisruptionBudgetList{},
		Name:           pathSegment,
		FreeFinalizers: true,
		Status:         true, Generation: true,
		Validate:       validatePodDisruptionBudget,
		ValidateStatus: validatePodDisruptionBudgetStatus,
		Columns: columns(nameColumn,
			column("Min Available", "string", spec["minAvailable"]),
			column("Max Unavailable", "string", spec["maxUnavailable"]),
			column("Allowed Disruptions", "integer", status["disruptionsAllowed"]),
			ageColumn),
		Cells: func(b *policyv1.PodDisruptionBudget, now time.Time) []any {
			return []any{b.Name, amountCell(b.Spec.MinAvailable), amountCell(b.Spec.MaxUnavailable),
				int64(b.Status.DisruptionsAllowed), age(b, now)}
		},
	}.row()
}

func amountCell(n *intstr.IntOrString) string {
	if n == nil {
		return "N/A"
	}
	return n.String()
}

func validatePodDisruptionBudget(b *policyv1.PodDisruptionBudget) field.ErrorList {
	var errs field.ErrorList
	s := &b.Spec
	if s.MinAvailable != nil && s.MaxUnavailable != nil {
		errs = append(errs, field.Invalid(specPath, *s, "minAvailable and maxUnavailable cannot be both set"))
	}
	errs = append(errs, validateShare(s.MinAvailable, specPath.Child("minAvailable"))...)
	errs = append(errs, validateShare(s.MaxUnavailable, specPath.Child("maxUnavailable"))...)
	errs = append(errs, checkSelector(s.Selector, specPath.Child("selector"))...)
	if p := s.UnhealthyPodEvictionPolicy; p != nil {
		errs = append(errs, oneOf(*p, specPath.Child("unhealthyPodEvictionPolicy"), policyv1.AlwaysAllow, policyv1.IfHealthyBudget)...)
	}
	return errs
}

func validatePodDisruptionBudgetStatus(b, _ *policyv1.PodDisruptionBudget) field.ErrorList {
	s := &b.Status
	errs := metavalidation.ValidateConditions(s.Conditions, statusPath.Child("conditions"))
	errs = append(errs, nonNegative(s.DisruptionsAllowed, statusPath.Child("disruptionsAllowed"))...)
	errs = append(errs, nonNegative(s.CurrentHealthy, statusPath.Child("currentHealthy"))...)
	errs = append(errs, nonNegative(s.DesiredHealthy, statusPath.Child("desiredHealthy"))...)
	return append(errs, nonNegative(s.ExpectedPods, statusPath.Child("expectedPods"))...)
}
