package resourceclaim

import (
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"

	"proa/client"
	"proa/reconcile"
)

// released is appended to the key of a claim that has just lost its allocation.
// Only then may its finalizer go while it lives: a scheduler sets it just before it
// allocates.
const released = "/released"

// Claims takes pods that need a claim no more out of it, and frees or deletes one
// that nobody uses.
func Claims() reconcile.Controller {
	return reconcile.Controller{
		Name:    "resource-claim-cleaner-controller",
		Source:  "resource_claim",
		Workers: 4,
		Watches: []reconcile.Watch{
			{Resource: client.Row[resourcev1.ResourceClaim](), Keys: onClaim},
			{Resource: client.Row[corev1.Pod](), Keys: claimsOfDone},
		},
		Decide: DecideClaim,
	}
}

func onClaim(_ client.View, e client.Event) []client.Key {
	if e.New == nil {
		return nil
	}
	keys := []client.Key{client.KeyOf(e.New)}
	if allocated(e.Old) && !allocated(e.New) {
		keys = append(keys, client.Key{Namespace: e.New.GetNamespace(), Name: e.New.GetName() + released})
	}
	return keys
}

// claimsOfDone wakes the claims of a pod that is done with them.
func claimsOfDone(_ client.View, e client.Event) (keys []client.Key) {
	p := e.Object().(*corev1.Pod)
	if e.New != nil && !done(p) {
		return nil
	}
	for _, name := range claimNames(p) {
		keys = append(keys, client.Key{Namespace: p.Namespace, Name: name})
	}
	return keys
}

// DecideClaim is the decision about one claim.
func DecideClaim(v client.View, _ time.Time, key client.Key) reconcile.Plan {
	name, justReleased := strings.CutSuffix(key.Name, released)
	c := client.Get[resourcev1.ResourceClaim](v, key.Namespace, name)
	if c == nil {
		return reconcile.Plan{}
	}
	users := slices.DeleteFunc(slices.Clone(c.Status.ReservedFor), func(r resourcev1.ResourceClaimConsumerReference) bool { return over(v, c.Namespace, r) })
	held := slices.Contains(c.Finalizers, resourcev1.Finalizer)
	unused := len(users) == 0
	switch {
	case len(users) < len(c.Status.ReservedFor), unused && held && c.DeletionTimestamp != nil && c.Status.Allocation != nil:
		return reconcile.Plan{Writes: []reconcile.Write{status(c, users)}}
	case unused && held && c.Status.Allocation == nil && (justReleased || c.DeletionTimestamp != nil):
		next := c.DeepCopy()
		next.Finalizers = slices.DeleteFunc(next.Finalizers, func(f string) bool { return f == resourcev1.Finalizer })
		return reconcile.Plan{Writes: []reconcile.Write{{Op: reconcile.Update, Object: next}}}
	case unused && c.DeletionTimestamp == nil && outlived(v, c):
		return reconcile.Plan{Writes: []reconcile.Write{{Op: reconcile.Delete, Object: c}}}
	}
	return reconcile.Plan{}
}

// over tells whether what a reservation names will not use the claim any more.
// What is no pod is left to who knows it.
func over(v client.View, namespace string, r resourcev1.ResourceClaimConsumerReference) bool {
	if r.APIGroup != "" || r.Resource != "pods" {
		return false
	}
	p := client.Get[corev1.Pod](v, namespace, r.Name)
	return p == nil || p.UID != r.UID || done(p)
}

// status writes a claim's users. With the last one goes what the scheduler
// allocated: the next one may be on another node.
func status(c *resourcev1.ResourceClaim, users []resourcev1.ResourceClaimConsumerReference) reconcile.Write {
	next := c.DeepCopy()
	next.Status.ReservedFor = users
	if len(users) == 0 {
		next.Status.ReservedFor = nil
		if slices.Contains(c.Finalizers, resourcev1.Finalizer) {
			next.Status.Allocation = nil
		}
	}
	return reconcile.Write{Op: reconcile.Update, Object: next, Subresource: "status"}
}

// outlived tells whether a claim was made for a pod that is done or another by
// now. Where there is no pod of that name the garbage collector sees to it.
func outlived(v client.View, c *resourcev1.ResourceClaim) bool {
	ref := ownerPod(c)
	if ref == nil {
		return false
	}
	p := client.Get[corev1.Pod](v, c.Namespace, ref.Name)
	return p != nil && (p.UID != ref.UID || done(p))
}
