package deployment

import (
	"cmp"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/rand"

	"proa/client"
	"proa/controllers/own"
	"proa/reconcile"
)

const (
	revisionAnnotation = "deployment.kubernetes.io/revision"
	historyAnnotation  = "deployment.kubernetes.io/revision-history"
	// longestHistory bounds the history annotation, in characters.
	longestHistory = 2000
)

// uncopied are the Deployment's annotations that its ReplicaSets do not get.
var uncopied = []string{
	corev1.LastAppliedConfigAnnotation, revisionAnnotation, historyAnnotation, desiredAnnotation, maxAnnotation,
	appsv1.DeprecatedRollbackTo,
}

const hashLabel = appsv1.DefaultDeploymentUniqueLabelKey

// sameTemplate compares two templates but for the hash label.
func sameTemplate(a, b *corev1.PodTemplateSpec) bool {
	return equality.Semantic.DeepEqual(withoutHash(a), withoutHash(b))
}

func withoutHash(t *corev1.PodTemplateSpec) *corev1.PodTemplateSpec {
	if _, ok := t.Labels[hashLabel]; !ok {
		return t
	}
	shallow := *t
	shallow.Labels = maps.Clone(t.Labels)
	delete(shallow.Labels, hashLabel)
	return &shallow
}

// templateHash names a template. It is made of the JSON form, so a field that a
// later version adds does not change the name of what does not use it.
func templateHash(t *corev1.PodTemplateSpec, collisions *int32) string {
	h := fnv.New32a()
	_ = json.NewEncoder(h).Encode(t) // neither a hash nor an API type fails
	if collisions != nil {
		_, _ = fmt.Fprint(h, *collisions)
	}
	return rand.SafeEncodeString(strconv.FormatUint(uint64(h.Sum32()), 10))
}

func revision(obj client.Object) int64 {
	n, err := strconv.ParseInt(obj.GetAnnotations()[revisionAnnotation], 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// nextRevision is one more than any old ReplicaSet has.
func (r *rollout) nextRevision() int64 {
	var n int64
	for _, rs := range r.old {
		n = max(n, revision(rs))
	}
	return n + 1
}

// annotate brings the new ReplicaSet's annotations up to date: those of the
// Deployment, and its revision, which goes up when an older template is taken
// up again.
func (r *rollout) annotate(rs *appsv1.ReplicaSet) {
	notes := maps.Clone(rs.Annotations)
	if notes == nil {
		notes = map[string]string{}
	}
	for k, v := range r.Annotations {
		if !slices.Contains(uncopied, k) {
			notes[k] = v
		}
	}
	if was, is := revision(rs), r.nextRevision(); was < is {
		notes[revisionAnnotation] = strconv.FormatInt(is, 10)
		if was > 0 {
			notes[historyAnnotation] = appendHistory(notes[historyAnnotation], was)
		}
	}
	rs.Annotations = notes
}

func appendHistory(history string, revision int64) string {
	list := strings.Split(strings.Trim(history+","+strconv.FormatInt(revision, 10), ","), ",")
	for len(strings.Join(list, ",")) > longestHistory {
		list = list[1:]
	}
	return strings.Join(list, ",")
}

// syncBooks is the write that makes the new ReplicaSet's annotations and
// minReadySeconds, or the Deployment's revision, what they should be.
func (r *rollout) syncBooks() (reconcile.Write, bool) {
	rs := r.next.DeepCopy()
	r.annotate(rs)
	rs.Spec.MinReadySeconds = r.Spec.MinReadySeconds
	if rs.Spec.MinReadySeconds != r.next.Spec.MinReadySeconds || !maps.Equal(rs.Annotations, r.next.Annotations) {
		return reconcile.Write{Op: reconcile.Update, Object: rs}, true
	}
	if is := rs.Annotations[revisionAnnotation]; r.Annotations[revisionAnnotation] != is {
		d := r.DeepCopy()
		if d.Annotations == nil {
			d.Annotations = map[string]string{}
		}
		d.Annotations[revisionAnnotation] = is
		// Any other change of annotations would raise the generation.
		return reconcile.Write{Op: reconcile.Update, Object: d, Subresource: "status"}, true
	}
	return reconcile.Write{}, false
}

// create makes the new ReplicaSet with n pods. Where its name is taken by
// something else, the collision is counted, which gives the next try another
// name.
func (r *rollout) create(n int32, status *appsv1.DeploymentStatus) []reconcile.Write {
	rs := r.newSet(n)
	if client.Get[appsv1.ReplicaSet](r.view, rs.Namespace, rs.Name) != nil {
		count := int32(1)
		if status.CollisionCount != nil {
			count += *status.CollisionCount
		}
		status.CollisionCount = &count
		return nil
	}
	failed := *status.DeepCopy()
	r.progress(status, corev1.ConditionTrue, "NewReplicaSetCreated", fmt.Sprintf("Created new replica set %q", rs.Name))
	return []reconcile.Write{{
		Op:     reconcile.Create,
		Object: rs,
		OnDone: func(client.Object) []reconcile.Event { return r.scaled(rs.Name, 0, n) },
		OnError: func(err error) reconcile.Plan {
			message := fmt.Sprintf("Failed to create new replica set %q: %v", rs.Name, err)
			r.progress(&failed, corev1.ConditionFalse, "ReplicaSetCreateError", message)
			plan := r.report(failed)
			plan.Events = append(plan.Events, reconcile.Warning(r.Deployment, "ReplicaSetCreateError", message))
			return plan
		},
	}}
}

func (r *rollout) newSet(n int32) *appsv1.ReplicaSet {
	t := r.Spec.Template.DeepCopy()
	hash := templateHash(t, r.Status.CollisionCount)
	t.Labels = with(t.Labels, hashLabel, hash)
	sel := r.Spec.Selector.DeepCopy()
	sel.MatchLabels = with(sel.MatchLabels, hashLabel, hash)
	rs := &appsv1.ReplicaSet{
		ObjectMeta: metav1.ObjectMeta{
			Namespace:       r.Namespace,
			Name:            r.Name + "-" + hash,
			Labels:          maps.Clone(t.Labels),
			OwnerReferences: []metav1.OwnerReference{*own.Ref(client.Row[appsv1.Deployment](), r.Deployment)},
		},
		Spec: appsv1.ReplicaSetSpec{Replicas: &n, MinReadySeconds: r.Spec.MinReadySeconds, Selector: sel, Template: *t},
	}
	r.annotate(rs)
	r.notes(rs)
	return rs
}

func with(m map[string]string, k, v string) map[string]string {
	if m == nil {
		m = map[string]string{}
	}
	m[k] = v
	return m
}

// trimHistory deletes the oldest empty ReplicaSets beyond the history's limit.
func (r *rollout) trimHistory() []reconcile.Write {
	limit := r.Spec.RevisionHistoryLimit
	if limit == nil || *limit == math.MaxInt32 {
		return nil
	}
	old := slices.DeleteFunc(slices.Clone(r.old), func(rs *appsv1.ReplicaSet) bool { return rs.DeletionTimestamp != nil })
	slices.SortStableFunc(old, func(a, b *appsv1.ReplicaSet) int { return cmp.Compare(revision(a), revision(b)) })
	var writes []reconcile.Write
	for _, rs := range old[:max(len(old)-int(*limit), 0)] {
		if rs.Status.Replicas == 0 && size(rs) == 0 && rs.Status.ObservedGeneration >= rs.Generation {
			writes = append(writes, reconcile.Write{Op: reconcile.Delete, Object: rs})
		}
	}
	return writes
}
