package admission

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sort"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"

	"proa/api/usage"
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
	whole := usage.Of(r.Resource, r.Object)
	change := maps.Clone(whole)
	if r.Old != nil {
		usage.Subtract(change, usage.Of(r.Resource, r.Old))
	}
	for rec, quota := range every[*corev1.ResourceQuota](r.World, "resourcequotas", r.Namespace) {
		if !usage.InScope(quota, r.Object) {
			continue
		}
		delta := change
		if r.Old != nil && !usage.InScope(quota, r.Old) {
			delta = whole // the update brings it into the quota's scope
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
	usage.Named(out, c.Resources.Requests, c.Resources.Limits)
	return out
}
