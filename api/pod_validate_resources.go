package api

import (
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	podresource "k8s.io/component-helpers/resource"
)

// resourceScope says which resources a list may name.
type resourceScope struct {
	name   func(name corev1.ResourceName, at *field.Path) field.ErrorList
	claims sets.Set[string] // nil: none may be named
	// bare lets huge pages stand without cpu or memory.
	bare bool
}

func inContainer(claims sets.Set[string]) resourceScope {
	return resourceScope{name: containerResource, claims: claims}
}

// podLevel is for the resources of a pod as a whole; strict lets only those in
// that the kubelet enforces there (KEP 2837).
func podLevel(strict bool) resourceScope {
	if !strict {
		return resourceScope{name: containerResource, bare: true}
	}
	return resourceScope{name: func(n corev1.ResourceName, at *field.Path) field.ErrorList {
		if errs := resourceName(n, at); len(errs) > 0 || podresource.IsSupportedPodLevelResource(n) {
			return errs
		}
		return field.ErrorList{field.NotSupported(at, n, sets.List(podresource.SupportedPodLevelResources()))}
	}}
}

// isHugePages, isNative and isExtended sort resource names: native ones have
// no prefix or are below kubernetes.io, the others are counted by device
// plugins and their like.
func isHugePages(n corev1.ResourceName) bool {
	return strings.HasPrefix(string(n), corev1.ResourceHugePagesPrefix)
}

func isNative(n corev1.ResourceName) bool {
	return !strings.Contains(string(n), "/") || strings.Contains(string(n), corev1.ResourceDefaultNamespacePrefix)
}

func isExtended(n corev1.ResourceName) bool {
	if isNative(n) || strings.HasPrefix(string(n), corev1.DefaultResourceRequestsPrefix) {
		return false
	}
	return len(validation.IsQualifiedName(corev1.DefaultResourceRequestsPrefix+string(n))) == 0
}

// overcommits tells resources whose limit may exceed the request.
func overcommits(n corev1.ResourceName) bool { return isNative(n) && !isHugePages(n) }

// isStandardContainerResource: the native ones that a container can ask for.
func isStandardContainerResource(n corev1.ResourceName) bool {
	return n == corev1.ResourceCPU || n == corev1.ResourceMemory || n == corev1.ResourceEphemeralStorage || isHugePages(n)
}

func containerResource(n corev1.ResourceName, at *field.Path) field.ErrorList {
	errs := resourceName(n, at)
	if len(errs) > 0 {
		return errs
	}
	switch {
	case !strings.Contains(string(n), "/") && !isStandardContainerResource(n):
		return field.ErrorList{field.Invalid(at, n, "must be a standard resource for containers")}
	case !isNative(n) && !isExtended(n):
		return field.ErrorList{field.Invalid(at, n, "doesn't follow extended resource name standard")}
	}
	return nil
}

// standardResources are the names without a prefix that mean something
// anywhere in the API.
var standardResources = sets.New("cpu", "memory", "ephemeral-storage", "storage", "pods", "services",
	"replicationcontrollers", "resourcequotas", "secrets", "configmaps", "persistentvolumeclaims",
	"requests.cpu", "requests.memory", "requests.storage", "requests.ephemeral-storage",
	"limits.cpu", "limits.memory", "limits.ephemeral-storage",
	"services.nodeports", "services.loadbalancers")

// resourceName judges any name of a resource.
func resourceName(n corev1.ResourceName, at *field.Path) field.ErrorList {
	if errs := invalidEach(n, at, validation.IsQualifiedName(string(n))); len(errs) > 0 {
		return errs
	}
	if !strings.Contains(string(n), "/") && !standardResources.Has(string(n)) &&
		!isHugePages(n) && !strings.HasPrefix(string(n), "requests."+corev1.ResourceHugePagesPrefix) {
		return field.ErrorList{field.Invalid(at, n, "must be a standard resource type or fully qualified")}
	}
	return nil
}

// isWhole tells resources that come in whole units.
func isWhole(n corev1.ResourceName) bool {
	switch n {
	case corev1.ResourcePods, corev1.ResourceQuotas, corev1.ResourceServices, corev1.ResourceReplicationControllers,
		corev1.ResourceSecrets, corev1.ResourceConfigMaps, corev1.ResourcePersistentVolumeClaims,
		corev1.ResourceServicesNodePorts, corev1.ResourceServicesLoadBalancers:
		return true
	}
	return isExtended(n) || strings.HasPrefix(string(n), "count/")
}

func validateAmount(n corev1.ResourceName, q resource.Quantity, at *field.Path) field.ErrorList {
	if q.Sign() < 0 {
		return field.ErrorList{field.Invalid(at, q.String(), "must be greater than or equal to 0")}
	}
	if isWhole(n) && q.MilliValue()%1000 != 0 {
		return field.ErrorList{field.Invalid(at, q, "must be an integer")}
	}
	return nil
}

func validateResources(r *corev1.ResourceRequirements, scope resourceScope, at *field.Path) field.ErrorList {
	limits, requests := at.Child("limits"), at.Child("requests")
	errs := slices.Concat(
		eachResource(r.Limits, scope, limits),
		eachResource(r.Requests, scope, requests),
		validateBounds(r, at),
	)
	if !scope.bare && asksHugePagesAlone(r) {
		errs = append(errs, field.Forbidden(at, "HugePages require cpu or memory"))
	}
	seen := sets.New[string]()
	return append(errs, each(r.Claims, at.Child("claims"), func(c *corev1.ResourceClaim, at *field.Path) field.ErrorList {
		errs := validateNamedClaim(c, seen, at)
		if c.Name != "" && !scope.claims.Has(c.Name) {
			err := field.NotFound(at, c.Name)
			err.Detail = "must be one of the names in pod.spec.resourceClaims: " + strings.Join(sets.List(scope.claims), ", ")
			if len(scope.claims) == 0 {
				err.Detail = "must be one of the names in pod.spec.resourceClaims which is empty"
			}
			errs = append(errs, err)
		}
		return errs
	})...)
}

// validateNamedClaim: a claim is named whole, or by its requests, each once.
func validateNamedClaim(c *corev1.ResourceClaim, seen sets.Set[string], at *field.Path) field.ErrorList {
	switch {
	case c.Name == "":
		return field.ErrorList{field.Required(at, "")}
	case seen.Has(c.Name):
		return field.ErrorList{field.Duplicate(at, c.Name)}
	case c.Request != "":
		return append(invalidEach(c.Request, at.Child("request"), validation.IsDNS1123Label(c.Request)), unique(seen, c.Name+"/"+c.Request, at)...)
	}
	var errs field.ErrorList
	for key := range seen {
		if strings.HasPrefix(key, c.Name+"/") {
			errs = append(errs, field.Duplicate(at, c.Name))
		}
	}
	seen.Insert(c.Name)
	return errs
}

func eachResource(list corev1.ResourceList, scope resourceScope, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	for _, name := range sortedNames(list) {
		at := at.Key(string(name))
		errs = append(errs, scope.name(name, at)...)
		errs = append(errs, validateAmount(name, list[name], at)...)
		if q := list[name]; isHugePages(name) {
			errs = append(errs, validateHugePages(name, q, at)...)
		}
	}
	return errs
}

func sortedNames(list corev1.ResourceList) []corev1.ResourceName {
	return sets.List(sets.KeySet(list))
}

// validateHugePages: the size in the name is positive and divides the amount.
func validateHugePages(name corev1.ResourceName, q resource.Quantity, at *field.Path) field.ErrorList {
	size, err := resource.ParseQuantity(strings.TrimPrefix(string(name), corev1.ResourceHugePagesPrefix))
	if err != nil || size.Sign() <= 0 {
		return field.ErrorList{field.Invalid(at, name, "must name a huge page size")}
	}
	if q.Value()%size.Value() != 0 {
		return field.ErrorList{field.Invalid(at, q.String(), "must be a multiple of the page size")}
	}
	return nil
}

// validateBounds: a request is at most the limit, and equal to it where the
// resource cannot be overcommitted.
func validateBounds(r *corev1.ResourceRequirements, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	for _, name := range sortedNames(r.Requests) {
		request := r.Requests[name]
		limit, ok := r.Limits[name]
		switch {
		case !ok && !overcommits(name):
			errs = append(errs, field.Required(at.Child("limits"), "Limit must be set for non overcommitable resources"))
		case ok && overcommits(name) && request.Cmp(limit) > 0:
			errs = append(errs, field.Invalid(at.Child("requests"), request.String(),
				"must be less than or equal to "+string(name)+" limit of "+limit.String()))
		case ok && !overcommits(name) && request.Cmp(limit) != 0:
			errs = append(errs, field.Invalid(at.Child("requests"), request.String(),
				"must be equal to "+string(name)+" limit of "+limit.String()))
		}
	}
	return errs
}

func asksHugePagesAlone(r *corev1.ResourceRequirements) bool {
	huge, base := false, false
	for _, list := range []corev1.ResourceList{r.Limits, r.Requests} {
		for n := range list {
			huge = huge || isHugePages(n)
			base = base || n == corev1.ResourceCPU || n == corev1.ResourceMemory
		}
	}
	return huge && !base
}

// validatePodResources judges the resources of the pod as a whole.
func validatePodResources(s *corev1.PodSpec, claims sets.Set[string], at *field.Path) field.ErrorList {
	if s.Resources == nil {
		return nil
	}
	if s.OS != nil && s.OS.Name == corev1.Windows {
		return field.ErrorList{field.Forbidden(at, "may not be set for a windows pod")}
	}
	var errs field.ErrorList
	if s.Resources.Claims != nil {
		errs = append(errs, field.Forbidden(at.Child("claims"), "claims may not be set for Resources at pod-level"))
	}
	scope := podLevel(true)
	scope.claims = claims
	errs = append(errs, validateResources(s.Resources, scope, at)...)
	pod := &corev1.Pod{Spec: *s}
	sum := podresource.AggregateContainerRequests(pod, podresource.PodResourcesOptions{})
	for _, name := range sortedNames(s.Resources.Requests) {
		q, total := s.Resources.Requests[name], sum[name]
		if total.Cmp(q) > 0 {
			errs = append(errs, field.Invalid(at.Child("requests").Key(string(name)), q.String(),
				"must be greater than or equal to aggregate container requests of "+total.String()))
		}
	}
	for c := range containers(s) {
		for _, name := range sortedNames(c.Resources.Limits) {
			q, limit := c.Resources.Limits[name], s.Resources.Limits[name]
			if _, ok := s.Resources.Limits[name]; ok && q.Cmp(limit) > 0 {
				errs = append(errs, field.Invalid(at.Child("limits").Key(string(name)), limit.String(),
					"must be greater than or equal to the limit of container "+c.Name+", "+q.String()))
			}
		}
	}
	return errs
}

// validateResizePolicy: all but duplicates is published without the index.
func validateResizePolicy(list []corev1.ContainerResizePolicy, restart corev1.RestartPolicy, all *field.Path) field.ErrorList {
	seen := sets.New[corev1.ResourceName]()
	return each(list, all, func(p *corev1.ContainerResizePolicy, at *field.Path) field.ErrorList {
		errs := unique(seen, p.ResourceName, at)
		errs = append(errs, requiredOneOf(p.ResourceName, all, corev1.ResourceCPU, corev1.ResourceMemory)...)
		errs = append(errs, requiredOneOf(p.RestartPolicy, all, corev1.NotRequired, corev1.RestartContainer)...)
		if restart == corev1.RestartPolicyNever && p.RestartPolicy != corev1.NotRequired {
			errs = append(errs, field.Invalid(all, p.RestartPolicy, "must be 'NotRequired' when pod `restartPolicy` is 'Never'"))
		}
		return errs
	})
}

// validateResourceList judges a list of any resources (nodes, quotas, limits).
func validateResourceList(list corev1.ResourceList, name func(corev1.ResourceName, *field.Path) field.ErrorList, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	for _, n := range sortedNames(list) {
		errs = append(errs, name(n, at.Key(string(n)))...)
		errs = append(errs, validateAmount(n, list[n], at.Key(string(n)))...)
	}
	return errs
}
