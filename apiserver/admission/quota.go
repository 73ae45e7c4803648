package admission

import (
	"context"
	"fmt"
	"slices"
	"sort"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/resource"
	resourcehelper "k8s.io/component-helpers/resource"

	"proa/api"
	"proa/store"
)

// resourceQuota counts what a namespace uses. The quota's status is written in
// the transaction of the object that it counts, so that no two requests can take
// the same remainder. What deletions give back, the quota controller finds.
func resourceQuota() Plugin {
	return Plugin{Name: "ResourceQuota", Finish: quotaFinish, Finishes: quotaConcerns}
}

func quotaConcerns(r *Request) bool {
	counts := r.Op == Create && r.Subresource == "" || r.Op == Update && (r.Subresource == "" || r.Is("pods", "resize"))
	return counts && r.Namespace != "" && r.Resource.NewList != nil && !r.Is("resourcequotas") &&
		r.World.Count(store.Scope{Resource: "resourcequotas", Namespace: r.Namespace}) > 0
}

func quotaFinish(_ context.Context, r *Request) error {
	delta := Usage(r.Resource, r.Object)
	if r.Old != nil {
		subtract(delta, Usage(r.Resource, r.Old))
	}
	for rec, quota := range every[*corev1.ResourceQuota](r.World, "resourcequotas", r.Namespace) {
		if !InScope(quota, r.Object) {
			continue
		}
		next, err := charge(r, quota, delta)
		if err != nil {
			return r.Forbidden(err)
		}
		if next != nil && !r.DryRun {
			r.Also(store.Write{Key: rec.Key(), Object: next, Expect: rec.Revision()})
		}
	}
	return nil
}

// charge adds a delta to a quota, or says that it does not fit. It returns nil
// where the quota does not count any of it.
func charge(r *Request, quota *corev1.ResourceQuota, delta corev1.ResourceList) (*corev1.ResourceQuota, error) {
	if missing := unspecified(r, quota); len(missing) > 0 {
		return nil, fmt.Errorf("failed quota: %s: must specify %s", quota.Name, strings.Join(missing, "; "))
	}
	next := quota.DeepCopy()
	over, asked, unknown := []string{}, corev1.ResourceList{}, []string{}
	for name, hard := range quota.Spec.Hard {
		more, counted := delta[name]
		if !counted || more.IsZero() {
			continue
		}
		used, known := quota.Status.Used[name]
		if !known {
			unknown = append(unknown, string(name))
			continue
		}
		sum := used.DeepCopy()
		sum.Add(more)
		if more.Sign() > 0 && sum.Cmp(hard) > 0 {
			over = append(over, string(name))
		}
		asked[name] = more
		next.Status.Used[name] = sum
	}
	sort.Strings(over)
	switch {
	case len(unknown) > 0:
		sort.Strings(unknown)
		return nil, fmt.Errorf("status unknown for quota: %s, resources: %s", quota.Name, strings.Join(unknown, ","))
	case len(over) > 0:
		return nil, fmt.Errorf("exceeded quota: %s, requested: %s, used: %s, limited: %s",
			quota.Name, words(over, asked), words(over, quota.Status.Used), words(over, quota.Spec.Hard))
	case equality.Semantic.DeepEqual(next.Status, quota.Status):
		return nil, nil
	}
	return next, nil
}

func words(names []string, list corev1.ResourceList) string {
	out := make([]string, len(names))
	for i, n := range names {
		q := list[corev1.ResourceName(n)]
		out[i] = n + "=" + q.String()
	}
	return strings.Join(out, ",")
}

// computeNames are the compute resources that every container must state once a
// quota counts them.
var computeNames = map[corev1.ResourceName]bool{
	corev1.ResourceCPU: true, corev1.ResourceMemory: true, corev1.ResourceRequestsCPU: true,
	corev1.ResourceRequestsMemory: true, corev1.ResourceLimitsCPU: true, corev1.ResourceLimitsMemory: true,
}

func unspecified(r *Request, quota *corev1.ResourceQuota) []string {
	pod, ok := r.Object.(*corev1.Pod)
	if !ok || r.Op != Create {
		return nil
	}
	var out []string
	for name := range quota.Spec.Hard {
		if !computeNames[name] {
			continue
		}
		var bad []string
		for _, c := range slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers) {
			if _, set := perContainer(c)[name]; !set {
				bad = append(bad, c.Name)
			}
		}
		if len(bad) > 0 {
			out = append(out, fmt.Sprintf("%s for: %s", name, strings.Join(bad, ",")))
		}
	}
	sort.Strings(out)
	return out
}

func perContainer(c corev1.Container) corev1.ResourceList {
	out := corev1.ResourceList{}
	named(out, c.Resources.Requests, c.Resources.Limits)
	return out
}

// named files requests and limits under the names that quotas know them by.
func named(out corev1.ResourceList, requests, limits corev1.ResourceList) {
	for name, q := range requests {
		switch name {
		case corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceEphemeralStorage:
			add(out, name, q)
			add(out, "requests."+name, q)
		default:
			add(out, "requests."+name, q)
			if strings.HasPrefix(string(name), corev1.ResourceHugePagesPrefix) {
				add(out, name, q)
			}
		}
	}
	for name, q := range limits {
		add(out, "limits."+name, q)
	}
}

func add(to corev1.ResourceList, name corev1.ResourceName, q resource.Quantity) {
	have := to[name]
	have.Add(q)
	to[name] = have
}

func subtract(from, what corev1.ResourceList) {
	for name, q := range what {
		have := from[name]
		have.Sub(q)
		from[name] = have
	}
}

// Usage is what one object counts for in its namespace's quotas.
func Usage(row *api.Resource, obj api.Object) corev1.ResourceList {
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
		named(out, resourcehelper.PodRequests(o, opts), resourcehelper.PodLimits(o, opts))
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
