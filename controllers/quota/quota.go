// Package quota adds up what a namespace uses of its ResourceQuotas. Admission
// charges what is created; this controller finds what deletions, ends of pods
// and changes of a quota give back.
package quota

import (
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/resource"

	"proa/api"
	"proa/api/usage"
	"proa/client"
	"proa/controllers/pods"
	"proa/reconcile"
)

type controller struct{ registry *api.Registry }

// Controller is the resource quota controller.
func Controller(registry *api.Registry) reconcile.Controller {
	c := &controller{registry}
	return reconcile.Controller{
		Name:    "resourcequota-controller",
		Workers: 5,
		Pace:    500 * time.Millisecond,
		Watches: []reconcile.Watch{{Keys: keys}},
		Decide:  c.decide,
	}
}

// keys wakes a changed quota, and those of a namespace in which something came,
// went or counts for something else.
func keys(v client.View, e client.Event) []client.Key {
	if _, ok := e.Object().(*corev1.ResourceQuota); ok {
		return []client.Key{client.KeyOf(e.Object())}
	}
	namespace := e.Object().GetNamespace()
	if namespace == "" || e.Old != nil && e.New != nil && sameUse(e) {
		return nil
	}
	var out []client.Key
	for q := range client.List[corev1.ResourceQuota](v, namespace) {
		if usage.Counts(q, e.Resource) {
			out = append(out, client.KeyOf(q))
		}
	}
	return out
}

func sameUse(e client.Event) bool {
	switch was := e.Old.(type) {
	case *corev1.Pod:
		is := e.New.(*corev1.Pod)
		return pods.Finished(was) == pods.Finished(is) && was.Generation == is.Generation
	case *corev1.PersistentVolumeClaim:
		return equality.Semantic.DeepEqual(usage.Of(e.Resource, e.Old), usage.Of(e.Resource, e.New)) &&
			slices.Equal(usage.AttributesClasses(was), usage.AttributesClasses(e.New.(*corev1.PersistentVolumeClaim)))
	case *corev1.Service, *resourcev1.ResourceClaim:
		return equality.Semantic.DeepEqual(usage.Of(e.Resource, e.Old), usage.Of(e.Resource, e.New))
	}
	return true
}

func (c *controller) decide(v client.View, _ time.Time, key client.Key) reconcile.Plan {
	q := client.Get[corev1.ResourceQuota](v, key.Namespace, key.Name)
	if q == nil || q.DeletionTimestamp != nil {
		return reconcile.Plan{}
	}
	used := corev1.ResourceList{}
	for name := range q.Spec.Hard {
		used[name] = *resource.NewQuantity(0, resource.DecimalSI)
	}
	for _, row := range c.registry.All() {
		if !row.Namespaced || row.NewList == nil || !usage.Counts(q, row) {
			continue
		}
		for obj := range v.List(row, q.Namespace) {
			if usage.InScope(q, obj) {
				addTo(used, usage.Of(row, obj))
			}
		}
	}
	if equality.Semantic.DeepEqual(used, q.Status.Used) && equality.Semantic.DeepEqual(q.Spec.Hard, q.Status.Hard) {
		return reconcile.Plan{}
	}
	next := q.DeepCopy()
	next.Status = corev1.ResourceQuotaStatus{Hard: q.DeepCopy().Spec.Hard, Used: used}
	return reconcile.Plan{Writes: []reconcile.Write{{Op: reconcile.Update, Object: next, Subresource: "status"}}}
}

// addTo adds those quantities that the quota counts.
func addTo(used, more corev1.ResourceList) {
	for name, n := range more {
		if _, counts := used[name]; counts {
			usage.Add(used, name, n)
		}
	}
}
