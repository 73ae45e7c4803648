package volume

import (
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"proa/client"
	"proa/controllers/own"
	"proa/controllers/pods"
	"proa/reconcile"
)

// Ephemeral makes the claims of pods' generic ephemeral volumes; a pod owns
// them, so they go with it (KEP-1698).
func Ephemeral() reconcile.Controller {
	return reconcile.Controller{
		Name:   "ephemeral-volume-controller",
		Source: "ephemeral_volume",
		Watches: []reconcile.Watch{
			{Resource: client.Row[corev1.Pod](), Keys: withEphemeral},
			{Resource: client.Row[corev1.PersistentVolumeClaim](), Keys: ownerOf},
		},
		Decide: decideEphemeral,
	}
}

func withEphemeral(_ client.View, e client.Event) []client.Key {
	if p, there := e.New.(*corev1.Pod); there && e.Old == nil {
		for i := range p.Spec.Volumes {
			if p.Spec.Volumes[i].Ephemeral != nil {
				return []client.Key{client.KeyOf(p)}
			}
		}
	}
	return nil
}

// ownerOf wakes the pod whose claim was deleted: it makes another.
func ownerOf(_ client.View, e client.Event) []client.Key {
	ref := metav1.GetControllerOfNoCopy(e.Object())
	if e.New != nil || ref == nil || ref.Kind != "Pod" {
		return nil
	}
	return []client.Key{{Namespace: e.Old.GetNamespace(), Name: ref.Name}}
}

func decideEphemeral(v client.View, _ time.Time, key client.Key) reconcile.Plan {
	p := client.Get[corev1.Pod](v, key.Namespace, key.Name)
	var plan reconcile.Plan
	if p == nil || p.DeletionTimestamp != nil || pods.Finished(p) {
		return plan
	}
	for i := range p.Spec.Volumes {
		vol := &p.Spec.Volumes[i]
		if vol.Ephemeral == nil {
			continue
		}
		name := p.Name + "-" + vol.Name
		claim := client.Get[corev1.PersistentVolumeClaim](v, p.Namespace, name)
		switch {
		case claim == nil:
			plan.Writes = append(plan.Writes, makeClaim(p, vol, name))
		case !own.IsController(p, claim):
			message := fmt.Sprintf("PVC %s/%s was not created for pod %s/%s (pod is not owner)", p.Namespace, name, p.Namespace, p.Name)
			plan.Events = append(plan.Events, reconcile.Warning(p, "EphemeralVolumeCreation", message))
		}
	}
	return plan
}

func makeClaim(p *corev1.Pod, vol *corev1.Volume, name string) reconcile.Write {
	t := vol.Ephemeral.VolumeClaimTemplate
	ref := own.Ref(client.Row[corev1.Pod](), p)
	return reconcile.Write{
		Op: reconcile.Create, Optional: true,
		Object: &corev1.PersistentVolumeClaim{
			ObjectMeta: metav1.ObjectMeta{Namespace: p.Namespace, Name: name, Labels: t.Labels, Annotations: t.Annotations,
				OwnerReferences: []metav1.OwnerReference{*ref}},
			Spec: t.Spec,
		},
		OnError: func(err error) reconcile.Plan {
			return reconcile.Plan{Events: []reconcile.Event{reconcile.Warning(p, "EphemeralVolumeCreation",
				fmt.Sprintf("create PVC %s: %v", name, err))}}
		},
	}
}
