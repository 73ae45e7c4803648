// Package namespace empties a namespace that is being deleted, of every kind of
// object that is served, pods first, and then lets it go. What keeps it is told
// in its conditions.
package namespace

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"proa/api"
	"proa/client"
	"proa/reconcile"
)

// batch is how many objects one decision deletes at most.
const batch = 500

type controller struct{ registry *api.Registry }

// Controller is the namespace controller.
func Controller(registry *api.Registry) reconcile.Controller {
	c := &controller{registry}
	return reconcile.Controller{
		Name:    "namespace-controller",
		Workers: 10,
		Watches: []reconcile.Watch{{Keys: keys}},
		Decide:  c.decide,
	}
}

// keys: whatever happens in a namespace that is being deleted wakes it.
func keys(v client.View, e client.Event) []client.Key {
	name := e.Object().GetNamespace()
	if ns, ok := e.Object().(*corev1.Namespace); ok {
		name = ns.Name
	}
	if name == "" {
		return nil
	}
	ns := client.Get[corev1.Namespace](v, "", name)
	if ns == nil || ns.DeletionTimestamp == nil {
		return nil
	}
	return []client.Key{{Name: name}}
}

// content is what a namespace still holds of one resource.
type content struct {
	row        *api.Resource
	objects    []client.Object
	finalizers map[string]int
}

func (c *controller) contents(v client.View, namespace string) []content {
	var out []content
	for _, row := range c.registry.All() {
		if !row.Namespaced || row.NewList == nil {
			continue
		}
		found := content{row: row, objects: slices.Collect(v.List(row, namespace)), finalizers: map[string]int{}}
		for _, obj := range found.objects {
			for _, f := range obj.GetFinalizers() {
				found.finalizers[f]++
			}
		}
		if len(found.objects) > 0 {
			out = append(out, found)
		}
	}
	return out
}

func (c *controller) decide(v client.View, now time.Time, key client.Key) reconcile.Plan {
	ns := client.Get[corev1.Namespace](v, "", key.Name)
	if ns == nil || ns.DeletionTimestamp == nil || !slices.Contains(ns.Spec.Finalizers, corev1.FinalizerKubernetes) {
		return reconcile.Plan{}
	}
	found := c.contents(v, ns.Name)
	if len(found) == 0 {
		return reconcile.Plan{Writes: []reconcile.Write{finalize(ns)}}
	}
	victims, failure := next(found), ""
	if len(victims) > 0 {
		failure = failed(ns) // until deletes have been seen to succeed
	}
	plan := reconcile.Plan{Parallel: true, Writes: statusWrites(ns, describe(ns, found, failure, now))}
	for _, obj := range victims {
		background := metav1.DeletePropagationBackground
		plan.Writes = append(plan.Writes, reconcile.Write{
			Op: reconcile.Delete, Object: obj,
			Delete: metav1.DeleteOptions{PropagationPolicy: &background},
			OnError: func(err error) reconcile.Plan {
				latest := ns.DeepCopy()
				latest.ResourceVersion = "" // the status was written by this very plan
				return reconcile.Plan{Writes: statusWrites(latest, describe(latest, found, err.Error(), now))}
			},
		})
	}
	return plan
}

// failed is the failure that the namespace tells of, or "".
func failed(ns *corev1.Namespace) string {
	for _, c := range ns.Status.Conditions {
		if c.Type == corev1.NamespaceDeletionContentFailure && c.Status == corev1.ConditionTrue {
			return c.Message
		}
	}
	return ""
}

// next are the objects to delete now: pods before everything that they may
// need, such as network policies (KEP-5080).
func next(found []content) []client.Object {
	for _, c := range found {
		if c.row.Key() == "pods" {
			found = []content{c}
			break
		}
	}
	var out []client.Object
	for _, c := range found {
		for _, obj := range c.objects {
			if obj.GetDeletionTimestamp() == nil && len(out) < batch {
				out = append(out, obj)
			}
		}
	}
	return out
}

func finalize(ns *corev1.Namespace) reconcile.Write {
	ns = ns.DeepCopy()
	ns.Spec.Finalizers = slices.DeleteFunc(ns.Spec.Finalizers, func(f corev1.FinalizerName) bool { return f == corev1.FinalizerKubernetes })
	return reconcile.Write{Op: reconcile.Update, Object: ns, Subresource: "finalize"}
}

// describe is the namespace's status: what remains, and what failed.
func describe(ns *corev1.Namespace, found []content, failure string, now time.Time) corev1.NamespaceStatus {
	status := *ns.Status.DeepCopy()
	status.Phase = corev1.NamespaceTerminating
	remaining, held := texts(found)
	for _, c := range []struct {
		t                        corev1.NamespaceConditionType
		yes, no, message, noText string
	}{
		{corev1.NamespaceDeletionDiscoveryFailure, "DiscoveryFailed", "ResourcesDiscovered", "", "All resources successfully discovered"},
		{corev1.NamespaceDeletionGVParsingFailure, "GroupVersionParsingFailed", "ParsedGroupVersions", "", "All legacy kube types successfully parsed"},
		{corev1.NamespaceDeletionContentFailure, "ContentDeletionFailed", "ContentDeleted", failure, "All content successfully deleted, may be waiting on finalization"},
		{corev1.NamespaceContentRemaining, "SomeResourcesRemain", "ContentRemoved", remaining, "All content successfully removed"},
		{corev1.NamespaceFinalizersRemaining, "SomeFinalizersRemain", "ContentHasNoFinalizers", held, "All content-preserving finalizers finished"},
	} {
		if c.message != "" {
			set(&status, c.t, corev1.ConditionTrue, c.yes, c.message, now)
		} else {
			set(&status, c.t, corev1.ConditionFalse, c.no, c.noText, now)
		}
	}
	return status
}

// texts say which resources and which finalizers remain, "" for none.
func texts(found []content) (remaining, held string) {
	finalizers := map[string]int{}
	var kinds []string
	for _, c := range found {
		kinds = append(kinds, fmt.Sprintf("%s has %d resource instances", c.row.GR(), len(c.objects)))
		for f, n := range c.finalizers {
			finalizers[f] += n
		}
	}
	var names []string
	for _, f := range slices.Sorted(maps.Keys(finalizers)) {
		names = append(names, fmt.Sprintf("%s in %d resource instances", f, finalizers[f]))
	}
	if len(kinds) > 0 {
		remaining = "Some resources are remaining: " + strings.Join(kinds, ", ")
	}
	if len(names) > 0 {
		held = "Some content in the namespace has finalizers remaining: " + strings.Join(names, ", ")
	}
	return remaining, held
}

func set(s *corev1.NamespaceStatus, t corev1.NamespaceConditionType, status corev1.ConditionStatus, reason, message string, now time.Time) {
	i := slices.IndexFunc(s.Conditions, func(c corev1.NamespaceCondition) bool { return c.Type == t })
	if i < 0 {
		i = len(s.Conditions)
		s.Conditions = append(s.Conditions, corev1.NamespaceCondition{Type: t})
	}
	c := &s.Conditions[i]
	if c.Status != status {
		c.LastTransitionTime = metav1.NewTime(now)
	}
	c.Status, c.Reason, c.Message = status, reason, message
}

func statusWrites(ns *corev1.Namespace, status corev1.NamespaceStatus) []reconcile.Write {
	if equality.Semantic.DeepEqual(ns.Status, status) {
		return nil
	}
	next := ns.DeepCopy()
	next.Status = status
	return []reconcile.Write{{Op: reconcile.Update, Object: next, Subresource: "status"}}
}
