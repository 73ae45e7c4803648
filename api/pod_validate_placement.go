package api

import (
	"slices"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func validatePodPlacement(s *corev1.PodSpec, at *field.Path) field.ErrorList {
	return slices.Concat(
		validateAffinity(s.Affinity, at.Child("affinity")),
		each(s.Tolerations, at.Child("tolerations"), validateToleration),
		validateSpread(s.TopologySpreadConstraints, at.Child("topologySpreadConstraints")),
	)
}

func validateAffinity(a *corev1.Affinity, at *field.Path) field.ErrorList {
	if a == nil {
		return nil
	}
	var errs field.ErrorList
	const must, should = "requiredDuringSchedulingIgnoredDuringExecution", "preferredDuringSchedulingIgnoredDuringExecution"
	if n := a.NodeAffinity; n != nil {
		at := at.Child("nodeAffinity")
		errs = append(errs, validateNodeSelector(n.RequiredDuringSchedulingIgnoredDuringExecution, at.Child(must))...)
		errs = append(errs, each(n.PreferredDuringSchedulingIgnoredDuringExecution, at.Child(should), validatePreference)...)
	}
	if p := a.PodAffinity; p != nil {
		at := at.Child("podAffinity")
		errs = append(errs, each(p.RequiredDuringSchedulingIgnoredDuringExecution, at.Child(must), validateAffinityTerm)...)
		errs = append(errs, each(p.PreferredDuringSchedulingIgnoredDuringExecution, at.Child(should), validateWeightedTerm)...)
	}
	if p := a.PodAntiAffinity; p != nil {
		at := at.Child("podAntiAffinity")
		errs = append(errs, each(p.RequiredDuringSchedulingIgnoredDuringExecution, at.Child(must), validateAffinityTerm)...)
		errs = append(errs, each(p.PreferredDuringSchedulingIgnoredDuringExecution, at.Child(should), validateWeightedTerm)...)
	}
	return errs
}

// validateNodeSelector also judges the affinity of volumes.
func validateNodeSelector(s *corev1.NodeSelector, at *field.Path) field.ErrorList {
	if s == nil {
		return nil
	}
	at = at.Child("nodeSelectorTerms")
	if len(s.NodeSelectorTerms) == 0 {
		return field.ErrorList{field.Required(at, "must have at least one node selector term")}
	}
	return each(s.NodeSelectorTerms, at, validateNodeTerm)
}

func validateNodeTerm(t *corev1.NodeSelectorTerm, at *field.Path) field.ErrorList {
	return append(
		each(t.MatchExpressions, at.Child("matchExpressions"), validateNodeRequirement),
		each(t.MatchFields, at.Child("matchFields"), validateNodeField)...)
}

// validateWish judges a term that need not match: of its values there are only
// warnings.
func validateWish(t *corev1.NodeSelectorTerm, at *field.Path) field.ErrorList {
	return append(
		each(t.MatchExpressions, at.Child("matchExpressions"), validateNodeExpression),
		each(t.MatchFields, at.Child("matchFields"), validateNodeField)...)
}

func validateNodeExpression(r *corev1.NodeSelectorRequirement, at *field.Path) field.ErrorList {
	return append(validateNodeOperator(r, at), metavalidation.ValidateLabelName(r.Key, at.Child("key"))...)
}

func validateNodeRequirement(r *corev1.NodeSelectorRequirement, at *field.Path) field.ErrorList {
	errs := validateNodeExpression(r, at)
	for i, v := range r.Values {
		errs = append(errs, invalidEach(v, at.Child("values").Index(i), validation.IsValidLabelValue(v))...)
	}
	return errs
}

func validateNodeOperator(r *corev1.NodeSelectorRequirement, at *field.Path) field.ErrorList {
	values := at.Child("values")
	switch r.Operator {
	case corev1.NodeSelectorOpIn, corev1.NodeSelectorOpNotIn:
		if len(r.Values) == 0 {
			return field.ErrorList{field.Required(values, "must be specified when `operator` is 'In' or 'NotIn'")}
		}
	case corev1.NodeSelectorOpExists, corev1.NodeSelectorOpDoesNotExist:
		if len(r.Values) > 0 {
			return field.ErrorList{field.Forbidden(values, "may not be specified when `operator` is 'Exists' or 'DoesNotExist'")}
		}
	case corev1.NodeSelectorOpGt, corev1.NodeSelectorOpLt:
		if len(r.Values) != 1 {
			return field.ErrorList{field.Required(values, "must be specified single value when `operator` is 'Lt' or 'Gt'")}
		}
	default:
		return field.ErrorList{field.Invalid(at.Child("operator"), r.Operator, "not a valid selector operator")}
	}
	return nil
}

// validateNodeField: only the node's name can be matched as a field.
func validateNodeField(r *corev1.NodeSelectorRequirement, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	switch r.Operator {
	case corev1.NodeSelectorOpIn, corev1.NodeSelectorOpNotIn:
		if len(r.Values) != 1 {
			errs = append(errs, field.Required(at.Child("values"), "must be only one value when `operator` is 'In' or 'NotIn' for node field selector"))
		}
	default:
		errs = append(errs, field.Invalid(at.Child("operator"), r.Operator, "not a valid selector operator"))
	}
	if r.Key != metav1.ObjectNameField {
		return append(errs, field.Invalid(at.Child("key"), r.Key, "not a valid field selector key"))
	}
	for i, v := range r.Values {
		errs = append(errs, invalidEach(v, at.Child("values").Index(i), dnsName(v))...)
	}
	return errs
}

func validateWeight(w int32, at *field.Path) field.ErrorList {
	if w < 1 || w > 100 {
		return field.ErrorList{field.Invalid(at.Child("weight"), w, "must be in the range 1-100")}
	}
	return nil
}

func validatePreference(p *corev1.PreferredSchedulingTerm, at *field.Path) field.ErrorList {
	return append(validateWeight(p.Weight, at), validateWish(&p.Preference, at.Child("preference"))...)
}

func validateWeightedTerm(t *corev1.WeightedPodAffinityTerm, at *field.Path) field.ErrorList {
	return append(validateWeight(t.Weight, at), validateAffinityTerm(&t.PodAffinityTerm, at.Child("podAffinityTerm"))...)
}

func validateAffinityTerm(t *corev1.PodAffinityTerm, at *field.Path) field.ErrorList {
	errs := slices.Concat(
		checkSelector(t.LabelSelector, at.Child("labelSelector")),
		checkSelector(t.NamespaceSelector, at.Child("namespaceSelector")),
	)
	for _, ns := range t.Namespaces {
		errs = append(errs, invalidEach(ns, at.Child("namespace"), validation.IsDNS1123Label(ns))...)
	}
	errs = append(errs, validateMatchKeys(t, at)...)
	if t.TopologyKey == "" {
		errs = append(errs, field.Required(at.Child("topologyKey"), "can not be empty"))
	}
	return append(errs, metavalidation.ValidateLabelName(t.TopologyKey, at.Child("topologyKey"))...)
}

// validateMatchKeys judges the two lists of KEP 3633.
func validateMatchKeys(t *corev1.PodAffinityTerm, at *field.Path) field.ErrorList {
	errs := validateLabelKeys(t.MatchLabelKeys, t.LabelSelector, at.Child("matchLabelKeys"))
	errs = append(errs, validateLabelKeys(t.MismatchLabelKeys, t.LabelSelector, at.Child("mismatchLabelKeys"))...)
	errs = append(errs, validateMatchedOnce(t.MatchLabelKeys, t.LabelSelector, at)...)
	for i, k := range t.MatchLabelKeys {
		if slices.Contains(t.MismatchLabelKeys, k) {
			errs = append(errs, field.Invalid(at.Child("matchLabelKeys").Index(i), k, "exists in both matchLabelKeys and mismatchLabelKeys"))
		}
	}
	return errs
}

// validateMatchedOnce: the API merges a match label key into the selector, so a
// selector that has it twice had it before.
func validateMatchedOnce(keys []string, sel *metav1.LabelSelector, at *field.Path) field.ErrorList {
	if sel == nil {
		return nil
	}
	seen, last := sets.KeySet(sel.MatchLabels), map[string]int{}
	for i, key := range keys {
		last[key] = i
	}
	var errs field.ErrorList
	for _, e := range sel.MatchExpressions {
		if i, ok := last[e.Key]; ok && seen.Has(e.Key) {
			errs = append(errs, field.Invalid(at.Index(i), e.Key, "exists in both matchLabelKeys and labelSelector"))
		}
		seen.Insert(e.Key)
	}
	return errs
}

func validateLabelKeys(keys []string, sel *metav1.LabelSelector, at *field.Path) field.ErrorList {
	if len(keys) == 0 {
		return nil
	}
	if sel == nil {
		return field.ErrorList{field.Forbidden(at, "must not be specified when labelSelector is not set")}
	}
	var errs field.ErrorList
	for i, k := range keys {
		errs = append(errs, metavalidation.ValidateLabelName(k, at.Index(i))...)
	}
	return errs
}

func validateToleration(t *corev1.Toleration, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if t.Key != "" {
		errs = metavalidation.ValidateLabelName(t.Key, at.Child("key"))
	} else if t.Operator != corev1.TolerationOpExists {
		errs = append(errs, field.Invalid(at.Child("operator"), t.Operator, "operator must be Exists when `key` is empty, which means \"match all values and all keys\""))
	}
	if t.TolerationSeconds != nil && t.Effect != corev1.TaintEffectNoExecute {
		errs = append(errs, field.Invalid(at.Child("effect"), t.Effect, "effect must be 'NoExecute' when `tolerationSeconds` is set"))
	}
	errs = append(errs, validateTolerationValue(t, at)...)
	if t.Effect == "" {
		return errs
	}
	return append(errs, validateEffect(t.Effect, at.Child("effect"))...)
}

func validateTolerationValue(t *corev1.Toleration, at *field.Path) field.ErrorList {
	switch t.Operator {
	case corev1.TolerationOpEqual, "":
		return invalidEach(t.Value, at.Child("operator"), validation.IsValidLabelValue(t.Value))
	case corev1.TolerationOpExists:
		if t.Value != "" {
			return field.ErrorList{field.Invalid(at.Child("operator"), t.Value, "value must be empty when `operator` is 'Exists'")}
		}
		return nil
	case corev1.TolerationOpLt, corev1.TolerationOpGt:
		if _, err := strconv.ParseInt(t.Value, 10, 64); err != nil {
			return field.ErrorList{field.Invalid(at.Child("value"), t.Value, "must be a decimal integer of 64 bits")}
		}
		return nil
	}
	return field.ErrorList{field.NotSupported(at.Child("operator"), t.Operator,
		[]corev1.TolerationOperator{corev1.TolerationOpEqual, corev1.TolerationOpExists, corev1.TolerationOpLt, corev1.TolerationOpGt})}
}

func validateEffect(e corev1.TaintEffect, at *field.Path) field.ErrorList {
	return requiredOneOf(e, at, corev1.TaintEffectNoSchedule, corev1.TaintEffectPreferNoSchedule, corev1.TaintEffectNoExecute)
}

func validateSpread(list []corev1.TopologySpreadConstraint, at *field.Path) field.ErrorList {
	rest := list
	return each(list, at, func(c *corev1.TopologySpreadConstraint, at *field.Path) field.ErrorList {
		errs := validateSpreadCounts(c, at)
		if c.TopologyKey == "" {
			errs = append(errs, field.Required(at.Child("topologyKey"), "can not be empty"))
		}
		errs = append(errs, oneOf(c.WhenUnsatisfiable, at.Child("whenUnsatisfiable"), corev1.DoNotSchedule, corev1.ScheduleAnyway)...)
		rest = rest[1:]
		if slices.ContainsFunc(rest, func(r corev1.TopologySpreadConstraint) bool {
			return r.TopologyKey == c.TopologyKey && r.WhenUnsatisfiable == c.WhenUnsatisfiable
		}) {
			errs = append(errs, field.Duplicate(at.Child("{topologyKey, whenUnsatisfiable}"), "{"+c.TopologyKey+", "+string(c.WhenUnsatisfiable)+"}"))
		}
		for name, p := range inOrder(map[string]*corev1.NodeInclusionPolicy{"nodeAffinityPolicy": c.NodeAffinityPolicy, "nodeTaintsPolicy": c.NodeTaintsPolicy}) {
			if p != nil {
				errs = append(errs, oneOf(*p, at.Child(name), corev1.NodeInclusionPolicyHonor, corev1.NodeInclusionPolicyIgnore)...)
			}
		}
		errs = append(errs, validateLabelKeys(c.MatchLabelKeys, c.LabelSelector, at.Child("matchLabelKeys"))...)
		errs = append(errs, validateMatchedOnce(c.MatchLabelKeys, c.LabelSelector, at)...)
		return append(errs, checkSelector(c.LabelSelector, at.Child("labelSelector"))...)
	})
}

func validateSpreadCounts(c *corev1.TopologySpreadConstraint, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if c.MaxSkew <= 0 {
		errs = append(errs, field.Invalid(at.Child("maxSkew"), c.MaxSkew, "must be greater than 0"))
	}
	if c.MinDomains == nil {
		return errs
	}
	if *c.MinDomains <= 0 {
		errs = append(errs, field.Invalid(at.Child("minDomains"), *c.MinDomains, "must be greater than 0"))
	}
	if c.WhenUnsatisfiable != corev1.DoNotSchedule {
		errs = append(errs, field.Invalid(at.Child("minDomains"), *c.MinDomains, "can only use minDomains if whenUnsatisfiable=DoNotSchedule, not "+string(c.WhenUnsatisfiable)))
	}
	return errs
}
