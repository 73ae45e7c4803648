package job

import (
	"slices"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"proa/client"
	"proa/reconcile"
)

// Orphans takes the finalizer from pods whose Job is gone, or that were let go:
// nobody will count them. Its keys are pods.
func Orphans() reconcile.Controller {
	return reconcile.Controller{
		Name:    "job-orphan-controller",
		Workers: 5,
		Watches: []reconcile.Watch{
			{Resource: client.Row[corev1.Pod](), Keys: tracked},
			{Resource: client.Row[batchv1.Job](), Keys: podsOfGone},
		},
		Decide: decideOrphan,
	}
}

func tracked(v client.View, e client.Event) []client.Key {
	p, _ := e.New.(*corev1.Pod)
	if p == nil || !isOrphan(v, p) {
		return nil
	}
	return []client.Key{client.KeyOf(p)}
}

func podsOfGone(v client.View, e client.Event) (keys []client.Key) {
	if e.New != nil && e.Old != nil && e.New.GetUID() == e.Old.GetUID() || e.Old == nil {
		return nil
	}
	for p := range client.Index[corev1.Pod](v, "ownerUID", string(e.Old.GetUID())) {
		keys = append(keys, client.KeyOf(p))
	}
	return keys
}

// isOrphan tells whether a pod has the finalizer and no Job that would take it.
func isOrphan(v client.View, p *corev1.Pod) bool {
	if !slices.Contains(p.Finalizers, tracking) {
		return false
	}
	ref := metav1.GetControllerOfNoCopy(p)
	if ref == nil {
		return true
	}
	if ref.Kind != "Job" {
		return false
	}
	j := client.Get[batchv1.Job](v, p.Namespace, ref.Name)
	return j == nil || j.UID != ref.UID
}

func decideOrphan(v client.View, _ time.Time, key client.Key) reconcile.Plan {
	p := client.Get[corev1.Pod](v, key.Namespace, key.Name)
	if p == nil || !isOrphan(v, p) {
		return reconcile.Plan{}
	}
	return reconcile.Plan{Writes: []reconcile.Write{withoutFinalizer(p)}}
}
