// Package resourceclaim makes the ResourceClaims that pods ask for by template,
// and looks after claims: who uses one is noted in it, and one that nobody uses
// any more is free for others, or goes with the pod that it was made for
// (KEP-4381). Which devices a claim gets is not decided here.
package resourceclaim

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"proa/client"
	"proa/controllers/own"
	"proa/controllers/pods"
	"proa/reconcile"
)

// longestBase is how much of a claim's name is the pod's and its own: five random
// characters and a hyphen follow.
const longestBase = 57

// Pods makes pods' claims and notes their names in the pods' status.
func Pods() reconcile.Controller {
	return reconcile.Controller{
		Name:    "resource-claim-controller",
		Source:  "resource_claim",
		Workers: 4,
		Watches: []reconcile.Watch{
			{Resource: client.Row[corev1.Pod](), Keys: withClaims},
			{Resource: client.Row[resourcev1.ResourceClaim](), Keys: podsOfClaim},
			{Resource: client.Row[resourcev1.ResourceClaimTemplate](), Keys: podsOfTemplate},
		},
		Decide: DecidePod,
	}
}

func withClaims(_ client.View, e client.Event) []client.Key {
	if p, there := e.New.(*corev1.Pod); there && len(p.Spec.ResourceClaims) > 0 {
		return []client.Key{client.KeyOf(p)}
	}
	return nil
}

// podsOfClaim wakes the pod that a claim was made for, and when its allocation
// changes the pods that name it.
func podsOfClaim(v client.View, e client.Event) (keys []client.Key) {
	claim := e.Object().(*resourcev1.ResourceClaim)
	if ref := ownerPod(claim); ref != nil {
		return []client.Key{{Namespace: claim.Namespace, Name: ref.Name}}
	}
	if allocated(e.Old) == allocated(e.New) {
		return nil
	}
	for p := range client.List[corev1.Pod](v, claim.Namespace) {
		if slices.ContainsFunc(p.Spec.ResourceClaims, func(c corev1.PodResourceClaim) bool {
			return c.ResourceClaimName != nil && *c.ResourceClaimName == claim.Name
		}) {
			keys = append(keys, client.KeyOf(p))
		}
	}
	return keys
}

func allocated(obj client.Object) bool {
	c, _ := obj.(*resourcev1.ResourceClaim)
	return c != nil && c.Status.Allocation != nil
}

// podsOfTemplate wakes the pods that wait for a template.
func podsOfTemplate(v client.View, e client.Event) (keys []client.Key) {
	if e.New == nil {
		return nil
	}
	for p := range client.List[corev1.Pod](v, e.New.GetNamespace()) {
		if slices.ContainsFunc(p.Spec.ResourceClaims, func(c corev1.PodResourceClaim) bool {
			return c.ResourceClaimTemplateName != nil && *c.ResourceClaimTemplateName == e.New.GetName()
		}) {
			keys = append(keys, client.KeyOf(p))
		}
	}
	return keys
}

func ownerPod(claim *resourcev1.ResourceClaim) *metav1.OwnerReference {
	ref := metav1.GetControllerOfNoCopy(claim)
	if ref == nil || ref.Kind != "Pod" || ref.APIVersion != "v1" {
		return nil
	}
	return ref
}

// done tells whether a pod will use its claims no more: it has ended, or is being
// deleted and never had a node.
func done(p *corev1.Pod) bool {
	return pods.Finished(p) || p.DeletionTimestamp != nil && p.Spec.NodeName == ""
}

// DecidePod is the decision about one pod: its missing claims first, then their
// names, then its place in them if it came to its node without the scheduler.
func DecidePod(v client.View, _ time.Time, key client.Key) reconcile.Plan {
	p := client.Get[corev1.Pod](v, key.Namespace, key.Name)
	if p == nil || p.DeletionTimestamp != nil || done(p) {
		return reconcile.Plan{}
	}
	var plan reconcile.Plan
	statuses := slices.Clone(p.Status.ResourceClaimStatuses)
	for i := range p.Spec.ResourceClaims {
		c := &p.Spec.ResourceClaims[i]
		if c.ResourceClaimTemplateName == nil || settled(v, p, c.Name) {
			continue
		}
		if claim := made(v, p, c.Name); claim != nil {
			statuses = append(slices.DeleteFunc(statuses, func(s corev1.PodResourceClaimStatus) bool { return s.Name == c.Name }),
				corev1.PodResourceClaimStatus{Name: c.Name, ResourceClaimName: &claim.Name})
			continue
		}
		write, err := creation(v, p, c)
		if err != nil {
			return failed(p, c.Name, err)
		}
		plan.Writes = append(plan.Writes, write)
	}
	slices.SortFunc(statuses, func(a, b corev1.PodResourceClaimStatus) int { return cmp.Compare(a.Name, b.Name) })
	if !equality.Semantic.DeepEqual(statuses, p.Status.ResourceClaimStatuses) {
		next := p.DeepCopy()
		next.Status.ResourceClaimStatuses = statuses
		plan.Writes = append(plan.Writes, reconcile.Write{Op: reconcile.Update, Object: next, Subresource: "status"})
	}
	if len(plan.Writes) == 0 && p.Spec.NodeName != "" {
		plan.Writes = reservations(v, p)
	}
	return plan
}

func failed(p *corev1.Pod, name string, err error) reconcile.Plan {
	return reconcile.Plan{
		Events: []reconcile.Event{reconcile.Warning(p, "FailedResourceClaimCreation", fmt.Sprintf("PodResourceClaim %s: %v", name, err))},
		Err:    err,
	}
}

// nameOf is the claim that a pod's status names for one of its own; known is false
// where it says nothing. An empty name is a claim that is not needed.
func nameOf(p *corev1.Pod, name string) (claim string, known bool) {
	for _, s := range p.Status.ResourceClaimStatuses {
		if s.Name == name {
			if s.ResourceClaimName == nil {
				return "", true
			}
			return *s.ResourceClaimName, true
		}
	}
	return "", false
}

// settled tells whether a pod's claim is there, or not needed.
func settled(v client.View, p *corev1.Pod, name string) bool {
	claim, known := nameOf(p, name)
	if !known || claim == "" {
		return known
	}
	c := client.Get[resourcev1.ResourceClaim](v, p.Namespace, claim)
	return c != nil && own.IsController(p, c)
}

// made is the claim that was made for one of a pod's, or nil.
func made(v client.View, p *corev1.Pod, name string) *resourcev1.ResourceClaim {
	for _, c := range own.Of[*resourcev1.ResourceClaim](v, client.Row[resourcev1.ResourceClaim](), p) {
		if c.Annotations[resourcev1.PodResourceClaimAnnotation] == name && c.DeletionTimestamp == nil {
			return c
		}
	}
	return nil
}

func creation(v client.View, p *corev1.Pod, c *corev1.PodResourceClaim) (reconcile.Write, error) {
	t := client.Get[resourcev1.ResourceClaimTemplate](v, p.Namespace, *c.ResourceClaimTemplateName)
	if t == nil {
		return reconcile.Write{}, fmt.Errorf("resource claim template %q: resourceclaimtemplate.resource.k8s.io %q not found", *c.ResourceClaimTemplateName, *c.ResourceClaimTemplateName)
	}
	notes := maps.Clone(t.Spec.Annotations)
	if notes == nil {
		notes = map[string]string{}
	}
	notes[resourcev1.PodResourceClaimAnnotation] = c.Name
	ref := own.Ref(client.Row[corev1.Pod](), p)
	ref.BlockOwnerDeletion = nil
	return reconcile.Write{
		Op: reconcile.Create,
		Object: &resourcev1.ResourceClaim{
			ObjectMeta: metav1.ObjectMeta{Namespace: p.Namespace, GenerateName: base(p.Name, c.Name), Labels: maps.Clone(t.Spec.Labels),
				Annotations: notes, OwnerReferences: []metav1.OwnerReference{*ref}},
			Spec: *t.Spec.Spec.DeepCopy(),
		},
		OnError: func(err error) reconcile.Plan {
			plan := failed(p, c.Name, fmt.Errorf("create ResourceClaim: %w", err))
			plan.Err = nil // the write's own error has it tried again
			return plan
		},
	}, nil
}

// base is the part of a claim's name that is not random. Where both names are too
// long together each keeps its share.
func base(pod, claim string) string {
	whole := len(pod) + len(claim) + 2
	if whole <= longestBase {
		return pod + "-" + claim + "-"
	}
	return pod[:len(pod)*longestBase/whole] + "-" + claim[:len(claim)*longestBase/whole]
}

// reservations note a pod that has a node in those of its claims that are
// allocated and do not know of it.
func reservations(v client.View, p *corev1.Pod) (writes []reconcile.Write) {
	for _, name := range claimNames(p) {
		c := client.Get[resourcev1.ResourceClaim](v, p.Namespace, name)
		if c == nil || c.Status.Allocation == nil || len(c.Status.ReservedFor) >= resourcev1.ResourceClaimReservedForMaxSize ||
			slices.ContainsFunc(c.Status.ReservedFor, func(r resourcev1.ResourceClaimConsumerReference) bool { return r.UID == p.UID }) {
			continue
		}
		next := c.DeepCopy()
		next.Status.ReservedFor = append(next.Status.ReservedFor, resourcev1.ResourceClaimConsumerReference{Resource: "pods", Name: p.Name, UID: p.UID})
		writes = append(writes, reconcile.Write{Op: reconcile.Update, Object: next, Subresource: "status"})
	}
	return writes
}

// claimNames are the claims that a pod uses, as far as they are known.
func claimNames(p *corev1.Pod) (names []string) {
	for _, c := range p.Spec.ResourceClaims {
		if c.ResourceClaimName != nil {
			names = append(names, *c.ResourceClaimName)
		} else if name, _ := nameOf(p, c.Name); name != "" {
			names = append(names, name)
		}
	}
	if s := p.Status.ExtendedResourceClaimStatus; s != nil {
		names = append(names, s.ResourceClaimName)
	}
	return names
}
