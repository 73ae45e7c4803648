// Package usage says what an object counts for in the ResourceQuotas of its
// namespace. Admission charges it, the quota controller adds it up.
package usage

import (
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	resourcehelper "k8s.io/component-helpers/resource"

	"proa/api"
)

// Named files requests and limits under the names that quotas know them by.
func Named(out corev1.ResourceList, requests, limits corev1.ResourceList) {
	for name, q := range requests {
		switch name {
		case corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceEphemeralStorage:
			Add(out, name, q)
			Add(out, "requests."+name, q)
		default:
			Add(out, "requests."+name, q)
			if strings.HasPrefix(string(name), corev1.ResourceHugePagesPrefix) {
				Add(out, name, q)
			}
		}
	}
	for name, q := range limits {
		Add(out, "limits."+name, q)
	}
}

// Add adds to one of the quantities.
func Add(to corev1.ResourceList, name corev1.ResourceName, q resource.Quantity) {
	have := to[name]
	have.Add(q)
	to[name] = have
}

// Counts tells whether any object of a kind may count for a quota.
func Counts(quota *corev1.ResourceQuota, row *api.Resource) bool {
	for name := range quota.Spec.Hard {
		if of := kindOf(name); of == "" || of == row.Key() || name == countOf(row) || string(name) == row.Plural {
			return true
		}
	}
	return false
}

// kindOf is the key of the kind that a quantity is of: pods for all compute
// resources, and for what is counted by its name something that no kind has.
func kindOf(name corev1.ResourceName) string {
	s := string(name)
	switch {
	case strings.HasPrefix(s, "count/"), name == corev1.ResourceConfigMaps, name == corev1.ResourceSecrets,
		name == corev1.ResourceReplicationControllers, name == corev1.ResourceQuotas:
		return "-"
	case strings.HasPrefix(s, "services"):
		return "services"
	case name == corev1.ResourcePersistentVolumeClaims, name == corev1.ResourceRequestsStorage, strings.Contains(s, ".storageclass.storage.k8s.io/"):
		return "persistentvolumeclaims"
	case strings.HasSuffix(s, devices):
		return "resource.k8s.io/resourceclaims"
	}
	return "pods"
}

// devices ends the name of what claims ask of a device class.
const devices = ".deviceclass.resource.k8s.io/devices"

// countOf is the name of the number of objects of a kind.
func countOf(row *api.Resource) corev1.ResourceName {
	return corev1.ResourceName("count/" + row.GR().String())
}

// Of is what one object counts for in its namespace's quotas.
func Of(row *api.Resource, obj api.Object) corev1.ResourceList {
	one := *resource.NewQuantity(1, resource.DecimalSI)
	out := corev1.ResourceList{}
	switch o := obj.(type) {
	case *corev1.Pod:
		out[corev1.ResourceName("count/pods")] = one // those that have ended, too
		if o.Status.Phase == corev1.PodSucceeded || o.Status.Phase == corev1.PodFailed {
			return out
		}
		opts := resourcehelper.PodResourcesOptions{}
		Named(out, resourcehelper.PodRequests(o, opts), resourcehelper.PodLimits(o, opts))
		out[corev1.ResourcePods] = one
		return out
	case *corev1.Service:
		serviceUsage(out, o)
	case *corev1.PersistentVolumeClaim:
		claimUsage(out, o)
	case *resourcev1.ResourceClaim:
		deviceUsage(out, o)
	case *corev1.ConfigMap, *corev1.Secret, *corev1.ReplicationController, *corev1.ResourceQuota:
		out[corev1.ResourceName(row.Plural)] = one
	}
	out[countOf(row)] = one
	return out
}

func serviceUsage(out corev1.ResourceList, s *corev1.Service) {
	one, ports := *resource.NewQuantity(1, resource.DecimalSI), int64(0)
	out[corev1.ResourceServices] = one
	switch s.Spec.Type {
	case corev1.ServiceTypeNodePort:
		ports = int64(len(s.Spec.Ports))
	case corev1.ServiceTypeLoadBalancer:
		out[corev1.ResourceServicesLoadBalancers] = one
		if api.NeedsNodePorts(s) {
			ports = int64(len(s.Spec.Ports))
		}
	}
	out[corev1.ResourceServicesNodePorts] = *resource.NewQuantity(ports, resource.DecimalSI)
}

// deviceUsage is how many devices of each class a claim may get at most: of the
// requests of which one is chosen, the one that asks for most.
func deviceUsage(out corev1.ResourceList, c *resourcev1.ResourceClaim) {
	for _, r := range c.Spec.Devices.Requests {
		most := map[string]int64{}
		if e := r.Exactly; e != nil {
			most[e.DeviceClassName] = deviceCount(e.AllocationMode, e.Count)
		}
		for _, s := range r.FirstAvailable {
			most[s.DeviceClassName] = max(most[s.DeviceClassName], deviceCount(s.AllocationMode, s.Count))
		}
		for class, n := range most {
			Add(out, corev1.ResourceName(class+devices), *resource.NewQuantity(n, resource.DecimalSI))
		}
	}
}

func deviceCount(mode resourcev1.DeviceAllocationMode, n int64) int64 {
	if mode == resourcev1.DeviceAllocationModeAll {
		return resourcev1.AllocationResultsMaxSize
	}
	return n
}

func claimUsage(out corev1.ResourceList, c *corev1.PersistentVolumeClaim) {
	one := *resource.NewQuantity(1, resource.DecimalSI)
	out[corev1.ResourcePersistentVolumeClaims] = one
	storage := c.Spec.Resources.Requests[corev1.ResourceStorage]
	out[corev1.ResourceRequestsStorage] = storage
	if name := c.Spec.StorageClassName; name != nil && *name != "" {
		prefix := corev1.ResourceName(*name + ".storageclass.storage.k8s.io/")
		out[prefix+corev1.ResourceRequestsStorage] = storage
		out[prefix+corev1.ResourcePersistentVolumeClaims] = one
	}
}

// InScope tells whether a quota's scopes hold for an object.
func InScope(quota *corev1.ResourceQuota, obj api.Object) bool {
	for _, s := range scopes(quota) {
		in := false
		switch o := obj.(type) {
		case *corev1.Pod:
			in = matchesScope(o, s)
		case *corev1.PersistentVolumeClaim:
			in = s.ScopeName == corev1.ResourceQuotaScopeVolumeAttributesClass && matchesAny(AttributesClasses(o), s)
		}
		if !in {
			return false
		}
	}
	return true
}

// AttributesClasses are the VolumeAttributesClasses that a claim has, wants or is
// on its way to.
func AttributesClasses(c *corev1.PersistentVolumeClaim) (names []string) {
	list := []*string{c.Spec.VolumeAttributesClassName, c.Status.CurrentVolumeAttributesClassName}
	if m := c.Status.ModifyVolumeStatus; m != nil {
		list = append(list, &m.TargetVolumeAttributesClassName)
	}
	for _, name := range list {
		if name != nil && *name != "" {
			names = append(names, *name)
		}
	}
	return names
}

// matchesAny tells whether a scope's requirement holds for one of some names, or
// where there is none for none.
func matchesAny(names []string, s corev1.ScopedResourceSelectorRequirement) bool {
	switch s.Operator {
	case corev1.ScopeSelectorOpExists:
		return len(names) > 0
	case corev1.ScopeSelectorOpDoesNotExist:
		return len(names) == 0
	case corev1.ScopeSelectorOpIn:
		return slices.ContainsFunc(names, func(n string) bool { return slices.Contains(s.Values, n) })
	case corev1.ScopeSelectorOpNotIn:
		return len(names) == 0 || slices.ContainsFunc(names, func(n string) bool { return !slices.Contains(s.Values, n) })
	}
	return false
}

func scopes(quota *corev1.ResourceQuota) []corev1.ScopedResourceSelectorRequirement {
	var out []corev1.ScopedResourceSelectorRequirement
	for _, s := range quota.Spec.Scopes {
		out = append(out, corev1.ScopedResourceSelectorRequirement{ScopeName: s, Operator: corev1.ScopeSelectorOpExists})
	}
	if quota.Spec.ScopeSelector != nil {
		out = append(out, quota.Spec.ScopeSelector.MatchExpressions...)
	}
	return out
}

func matchesScope(pod *corev1.Pod, s corev1.ScopedResourceSelectorRequirement) bool {
	switch s.ScopeName {
	case corev1.ResourceQuotaScopeTerminating:
		return pod.Spec.ActiveDeadlineSeconds != nil
	case corev1.ResourceQuotaScopeNotTerminating:
		return pod.Spec.ActiveDeadlineSeconds == nil
	case corev1.ResourceQuotaScopeBestEffort:
		return bestEffort(pod)
	case corev1.ResourceQuotaScopeNotBestEffort:
		return !bestEffort(pod)
	case corev1.ResourceQuotaScopePriorityClass:
		name := pod.Spec.PriorityClassName
		switch s.Operator {
		case corev1.ScopeSelectorOpIn:
			return slices.Contains(s.Values, name)
		case corev1.ScopeSelectorOpNotIn:
			return !slices.Contains(s.Values, name)
		case corev1.ScopeSelectorOpExists:
			return name != ""
		case corev1.ScopeSelectorOpDoesNotExist:
			return name == ""
		}
	case corev1.ResourceQuotaScopeCrossNamespacePodAffinity:
		return crossesNamespaces(pod)
	}
	return false
}

// bestEffort tells a pod that states neither requests nor limits.
func bestEffort(pod *corev1.Pod) bool {
	for _, c := range slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers) {
		for _, list := range []corev1.ResourceList{c.Resources.Requests, c.Resources.Limits} {
			for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
				if q, set := list[name]; set && !q.IsZero() {
					return false
				}
			}
		}
	}
	return true
}

func crossesNamespaces(pod *corev1.Pod) bool {
	if pod.Spec.Affinity == nil {
		return false
	}
	var terms []corev1.PodAffinityTerm
	if a := pod.Spec.Affinity.PodAffinity; a != nil {
		terms = append(terms, a.RequiredDuringSchedulingIgnoredDuringExecution...)
		for _, w := range a.PreferredDuringSchedulingIgnoredDuringExecution {
			terms = append(terms, w.PodAffinityTerm)
		}
	}
	if a := pod.Spec.Affinity.PodAntiAffinity; a != nil {
		terms = append(terms, a.RequiredDuringSchedulingIgnoredDuringExecution...)
		for _, w := range a.PreferredDuringSchedulingIgnoredDuringExecution {
			terms = append(terms, w.PodAffinityTerm)
		}
	}
	return slices.ContainsFunc(terms, func(t corev1.PodAffinityTerm) bool {
		return len(t.Namespaces) > 0 || t.NamespaceSelector != nil
	})
}

// Subtract takes quantities away; what is not there becomes negative.
func Subtract(from, what corev1.ResourceList) {
	for name, q := range what {
		have := from[name]
		have.Sub(q)
		from[name] = have
	}
}
