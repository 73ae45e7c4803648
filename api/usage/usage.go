// Package usage says what an object counts for in the ResourceQuotas of its
// namespace. Admission charges it, the quota controller adds it up.
package usage

import (
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
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

// Of is what one object counts for in its namespace's quotas.
func Of(row *api.Resource, obj api.Object) corev1.ResourceList {
	one := *resource.NewQuantity(1, resource.DecimalSI)
	out := corev1.ResourceList{}
	count := row.Plural
	if row.Group != "" {
		count += "." + row.Group
	}
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
	case *corev1.ConfigMap, *corev1.Secret, *corev1.ReplicationController, *corev1.ResourceQuota:
		out[corev1.ResourceName(row.Plural)] = one
	}
	out[corev1.ResourceName("count/"+count)] = one
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
	pod, isPod := obj.(*corev1.Pod)
	needs := scopes(quota)
	if len(needs) > 0 && !isPod {
		return false
	}
	for _, s := range needs {
		if !matchesScope(pod, s) {
			return false
		}
	}
	return true
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
