package api

import (
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func limitRangeRow() *Resource {
	return kind[*corev1.LimitRange]{
		GroupVersion: corev1.SchemeGroupVersion, Plural: "limitranges", Short: []string{"limits"}, Namespaced: true,
		List:     &corev1.LimitRangeList{},
		Default:  defaultLimitRange,
		Validate: validateLimitRange,
		Columns: columns(nameColumn,
			column("Created At", "date", metaDoc["creationTimestamp"])),
		Cells: func(l *corev1.LimitRange, _ time.Time) []any {
			return []any{l.Name, l.CreationTimestamp.UTC().Format(time.RFC3339)}
		},
	}.row()
}

// defaultLimitRange: of a container's limits each stands for the next where
// that is not given: max for default, default (then min) for defaultRequest.
func defaultLimitRange(l *corev1.LimitRange) {
	for i := range l.Spec.Limits {
		item := &l.Spec.Limits[i]
		if item.Type != corev1.LimitTypeContainer {
			continue
		}
		item.Default = withMissing(item.Default, item.Max)
		item.DefaultRequest = withMissing(item.DefaultRequest, item.Default)
		item.DefaultRequest = withMissing(item.DefaultRequest, item.Min)
	}
}

func withMissing(list, from corev1.ResourceList) corev1.ResourceList {
	if list == nil {
		list = corev1.ResourceList{}
	}
	for name, q := range from {
		if _, ok := list[name]; !ok {
			list[name] = q.DeepCopy()
		}
	}
	return list
}

func validateLimitRange(l *corev1.LimitRange) field.ErrorList {
	seen := sets.New[corev1.LimitType]()
	return each(l.Spec.Limits, specPath.Child("limits"), func(i *corev1.LimitRangeItem, at *field.Path) field.ErrorList {
		errs := append(validateLimitType(i.Type, at.Child("type")), unique(seen, i.Type, at.Child("type"))...)
		if i.Type == corev1.LimitTypePersistentVolumeClaim {
			_, min := i.Min[corev1.ResourceStorage]
			_, max := i.Max[corev1.ResourceStorage]
			if !min && !max {
				errs = append(errs, field.Required(at.Child("limits"), "either minimum or maximum storage value is required, but neither was provided"))
			}
		}
		for _, list := range []struct {
			name string
			list corev1.ResourceList
		}{{"max", i.Max}, {"min", i.Min}, {"default", i.Default}, {"defaultRequest", i.DefaultRequest}, {"maxLimitRequestRatio", i.MaxLimitRequestRatio}} {
			if i.Type == corev1.LimitTypePod && strings.HasPrefix(list.name, "default") {
				if len(list.list) > 0 {
					errs = append(errs, field.Forbidden(at.Child(list.name), "may not be specified when `type` is 'Pod'"))
				}
				continue
			}
			for _, n := range sortedNames(list.list) {
				errs = append(errs, limitName(i.Type)(n, at.Child(list.name).Key(string(n)))...)
			}
		}
		return append(errs, validateLimitOrder(i, at)...)
	})
}

func validateLimitType(t corev1.LimitType, at *field.Path) field.ErrorList {
	if errs := invalidEach(t, at, validation.IsQualifiedName(string(t))); len(errs) > 0 || strings.Contains(string(t), "/") {
		return errs
	}
	switch t {
	case corev1.LimitTypePod, corev1.LimitTypeContainer, corev1.LimitTypePersistentVolumeClaim:
		return nil
	}
	return field.ErrorList{field.Invalid(at, t, "must be a standard limit type or fully qualified")}
}

// limitName: limits of pods and containers name what those can ask for.
func limitName(t corev1.LimitType) func(corev1.ResourceName, *field.Path) field.ErrorList {
	if t == corev1.LimitTypePod || t == corev1.LimitTypeContainer {
		return containerResource
	}
	return resourceName
}

// validateLimitOrder: min <= defaultRequest <= default <= max, and a ratio
// that min and max can meet.
func validateLimitOrder(i *corev1.LimitRangeItem, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	order := []struct {
		name, word string
		list       corev1.ResourceList
	}{{"min", "min", i.Min}, {"defaultRequest", "default request", i.DefaultRequest}, {"default", "default", i.Default}, {"max", "max", i.Max}}
	for low := range order {
		for high := low + 1; high < len(order); high++ {
			for _, name := range sortedNames(order[low].list) {
				q := order[low].list[name]
				most, ok := order[high].list[name]
				if ok && q.Cmp(most) > 0 {
					where := order[low].name // of a default below the minimum it is the default's
					if low == 0 && high < len(order)-1 {
						where = order[high].name
					}
					errs = append(errs, field.Invalid(at.Child(where).Key(string(name)), q.String(),
						order[low].word+" value "+q.String()+" is greater than "+order[high].word+" value "+most.String()))
				}
			}
		}
	}
	return append(errs, validateRatio(i, at.Child("maxLimitRequestRatio"))...)
}

func validateRatio(i *corev1.LimitRangeItem, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	one := resource.MustParse("1")
	for _, name := range sortedNames(i.MaxLimitRequestRatio) {
		ratio := i.MaxLimitRequestRatio[name]
		if ratio.Cmp(one) < 0 {
			errs = append(errs, field.Invalid(at.Key(string(name)), ratio.String(), "ratio "+ratio.String()+" is less than 1"))
		}
		low, hasLow := i.Min[name]
		high, hasHigh := i.Max[name]
		if hasLow && hasHigh && low.Sign() != 0 && ratio.AsApproximateFloat64() > high.AsApproximateFloat64()/low.AsApproximateFloat64() {
			errs = append(errs, field.Invalid(at.Key(string(name)), ratio.String(), "ratio "+ratio.String()+" is greater than max/min"))
		}
	}
	return errs
}

func resourceQuotaRow() *Resource {
	return kind[*corev1.ResourceQuota]{
		GroupVersion: corev1.SchemeGroupVersion, Plural: "resourcequotas", Short: []string{"quota"}, Namespaced: true,
		List:     &corev1.ResourceQuotaList{},
		Warnings: warnQuota,
		Status:   true,
		Default: func(q *corev1.ResourceQuota) {
			roundUp(q.Spec.Hard)
			roundUp(q.Status.Hard)
			roundUp(q.Status.Used)
		},
		Validate:       validateQuota,
		ValidateUpdate: validateQuotaUpdate,
		ValidateStatus: func(q, _ *corev1.ResourceQuota) field.ErrorList {
			return append(validateResourceList(q.Status.Hard, quotaName, statusPath.Child("hard")),
				validateResourceList(q.Status.Used, quotaName, statusPath.Child("used"))...)
		},
		Columns: columns(nameColumn,
			column("Request", "string", "Used and hard amounts of what can be requested."),
			column("Limit", "string", "Used and hard amounts of what can be limited."),
			ageColumn),
		Cells: quotaCells,
	}.row()
}

func quotaCells(q *corev1.ResourceQuota, now time.Time) []any {
	var requests, limits []string
	for _, name := range sortedNames(q.Status.Hard) {
		used, hard := q.Status.Used[name], q.Status.Hard[name]
		cell := string(name) + ": " + used.String() + "/" + hard.String()
		if strings.HasPrefix(string(name), "limits") {
			limits = append(limits, cell)
		} else {
			requests = append(requests, cell)
		}
	}
	return []any{q.Name, strings.Join(requests, ", "), strings.Join(limits, ", "), age(q, now)}
}

func quotaName(n corev1.ResourceName, at *field.Path) field.ErrorList { return resourceName(n, at) }

var quotaScopes = []corev1.ResourceQuotaScope{corev1.ResourceQuotaScopeBestEffort, corev1.ResourceQuotaScopeCrossNamespacePodAffinity,
	corev1.ResourceQuotaScopeNotBestEffort, corev1.ResourceQuotaScopeNotTerminating, corev1.ResourceQuotaScopePriorityClass,
	corev1.ResourceQuotaScopeTerminating, corev1.ResourceQuotaScopeVolumeAttributesClass}

func validateQuota(q *corev1.ResourceQuota) field.ErrorList {
	return slices.Concat(
		validateResourceList(q.Spec.Hard, quotaName, specPath.Child("hard")),
		validateScopes(&q.Spec, specPath.Child("scopes")),
		validateScopeSelector(&q.Spec, specPath.Child("scopeSelector")),
	)
}

// isScoped tells whether what a scope selects has the resource. Resources that
// are none of Kubernetes' own are nobody's to judge.
func isScoped(scope corev1.ResourceQuotaScope, name corev1.ResourceName) bool {
	ofPods, ofClaims, count := false, false, false
	switch name {
	case corev1.ResourcePods:
		ofPods, count = true, true
	case corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceLimitsCPU, corev1.ResourceLimitsMemory, corev1.ResourceRequestsCPU, corev1.ResourceRequestsMemory:
		ofPods = true
	case corev1.ResourcePersistentVolumeClaims, corev1.ResourceRequestsStorage:
		ofClaims = true
	case corev1.ResourceEphemeralStorage, corev1.ResourceLimitsEphemeralStorage, corev1.ResourceRequestsEphemeralStorage, corev1.ResourceQuotas, corev1.ResourceServices,
		corev1.ResourceReplicationControllers, corev1.ResourceSecrets, corev1.ResourceConfigMaps, corev1.ResourceServicesNodePorts, corev1.ResourceServicesLoadBalancers:
	default:
		if !isHugePages(name) {
			return true
		}
	}
	switch scope {
	case corev1.ResourceQuotaScopeBestEffort:
		return count
	case corev1.ResourceQuotaScopeVolumeAttributesClass:
		return ofClaims
	}
	return ofPods || !slices.Contains(quotaScopes, scope)
}

// unscoped refuses, once for each, limits of what a scope does not select.
func unscoped(s *corev1.ResourceQuotaSpec, scope corev1.ResourceQuotaScope, shown any, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	for _, name := range sortedNames(s.Hard) {
		if !isScoped(scope, name) {
			errs = append(errs, field.Invalid(at, shown, "unsupported scope applied to resource"))
		}
	}
	return errs
}

func validateScopes(spec *corev1.ResourceQuotaSpec, at *field.Path) field.ErrorList {
	scopes := spec.Scopes
	var errs field.ErrorList
	for _, s := range scopes {
		if !slices.Contains(quotaScopes, s) {
			errs = append(errs, field.Invalid(at, scopes, "unsupported scope"))
		}
		errs = append(errs, unscoped(spec, s, scopes, at)...)
	}
	for _, pair := range [][2]corev1.ResourceQuotaScope{
		{corev1.ResourceQuotaScopeBestEffort, corev1.ResourceQuotaScopeNotBestEffort},
		{corev1.ResourceQuotaScopeTerminating, corev1.ResourceQuotaScopeNotTerminating},
	} {
		if slices.Contains(scopes, pair[0]) && slices.Contains(scopes, pair[1]) {
			errs = append(errs, field.Invalid(at, scopes, "conflicting scopes"))
		}
	}
	return errs
}

func validateScopeSelector(spec *corev1.ResourceQuotaSpec, at *field.Path) field.ErrorList {
	s := spec.ScopeSelector
	if s == nil {
		return nil
	}
	at = at.Child("matchExpressions") // without an index: so it is published
	return each(s.MatchExpressions, at, func(r *corev1.ScopedResourceSelectorRequirement, _ *field.Path) field.ErrorList {
		var errs field.ErrorList
		if !slices.Contains(quotaScopes, r.ScopeName) {
			errs = append(errs, field.Invalid(at.Child("scopeName"), r.ScopeName, "unsupported scope"))
		}
		errs = append(errs, unscoped(spec, r.ScopeName, s, at)...)
		named := r.ScopeName == corev1.ResourceQuotaScopePriorityClass || r.ScopeName == corev1.ResourceQuotaScopeVolumeAttributesClass
		if !named && slices.Contains(quotaScopes, r.ScopeName) && r.Operator != corev1.ScopeSelectorOpExists {
			errs = append(errs, field.Invalid(at.Child("operator"), r.Operator, "must be 'Exists' when scope is any of ResourceQuotaScopeTerminating, ResourceQuotaScopeNotTerminating, ResourceQuotaScopeBestEffort, ResourceQuotaScopeNotBestEffort or ResourceQuotaScopeCrossNamespacePodAffinity"))
		}
		switch r.Operator {
		case corev1.ScopeSelectorOpIn, corev1.ScopeSelectorOpNotIn:
			if len(r.Values) == 0 {
				errs = append(errs, field.Required(at.Child("values"), "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector"))
			}
		case corev1.ScopeSelectorOpExists, corev1.ScopeSelectorOpDoesNotExist:
			if len(r.Values) > 0 {
				errs = append(errs, field.Invalid(at.Child("values"), r.Values, "must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector"))
			}
		default:
			errs = append(errs, field.Invalid(at.Child("operator"), r.Operator, "not a valid selector operator"))
		}
		return errs
	})
}

func validateQuotaUpdate(q, old *corev1.ResourceQuota) field.ErrorList {
	same := func(a, b any) bool { return equality.Semantic.DeepEqual(a, b) }
	if !same(sets.New(q.Spec.Scopes...), sets.New(old.Spec.Scopes...)) {
		return field.ErrorList{field.Invalid(specPath.Child("scopes"), q.Spec.Scopes, "field is immutable")}
	}
	return nil
}
