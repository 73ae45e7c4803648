package deployment

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strconv"

	appsv1 "k8s.io/api/apps/v1"

	"proa/client"
	"proa/reconcile"
)

// The annotations of a ReplicaSet by which a change of the Deployment's size in
// the middle of a rollout is noticed and shared out.
const (
	desiredAnnotation = "deployment.kubernetes.io/desired-replicas"
	maxAnnotation     = "deployment.kubernetes.io/max-replicas"
)

// isScaling tells whether the Deployment's size was changed since its
// ReplicaSets were last scaled. One that recreates its pods and has several
// active ReplicaSets first takes the old ones down.
func (r *rollout) isScaling() bool {
	sets := active(r.all())
	if r.recreates() && len(sets) > 1 {
		return false
	}
	return slices.ContainsFunc(sets, func(rs *appsv1.ReplicaSet) bool {
		n, ok := number(rs, desiredAnnotation)
		return ok && n != r.replicas
	})
}

func number(rs *appsv1.ReplicaSet, annotation string) (int32, bool) {
	n, err := strconv.ParseInt(rs.Annotations[annotation], 10, 32)
	return int32(n), err == nil
}

// spread brings the ReplicaSets to the Deployment's size without moving the
// rollout on: the only one gets it all, several share the change in proportion
// to their sizes.
func (r *rollout) spread() []reconcile.Write {
	sets := active(r.all())
	switch {
	case len(sets) <= 1:
		return r.resize(r.activeOrLatest(sets), r.replicas)
	case r.saturated():
		var writes []reconcile.Write
		for _, rs := range active(r.old) {
			writes = append(writes, r.scale(rs, 0))
		}
		return writes
	case r.recreates():
		return nil
	}
	return r.share(sets)
}

func (r *rollout) activeOrLatest(sets []*appsv1.ReplicaSet) *appsv1.ReplicaSet {
	switch {
	case len(sets) == 1:
		return sets[0]
	case r.next != nil:
		return r.next
	case len(r.old) > 0:
		return r.old[len(r.old)-1]
	}
	return nil
}

// resize is scale where something is to be changed, the annotations included.
func (r *rollout) resize(rs *appsv1.ReplicaSet, n int32) []reconcile.Write {
	if rs == nil || size(rs) == n && !r.notes(rs.DeepCopy()) {
		return nil
	}
	return []reconcile.Write{r.scale(rs, n)}
}

// saturated tells whether the new ReplicaSet does the whole job already.
func (r *rollout) saturated() bool {
	if r.next == nil {
		return false
	}
	desired, ok := number(r.next, desiredAnnotation)
	return ok && desired == r.replicas && size(r.next) == r.replicas && r.next.Status.AvailableReplicas == r.replicas
}

// share divides a change of size among several ReplicaSets; the largest gets
// what rounding leaves. Growing, the newer of two equals comes first;
// shrinking, the older.
func (r *rollout) share(sets []*appsv1.ReplicaSet) []reconcile.Write {
	allowed := int32(0)
	if r.replicas > 0 {
		allowed = r.replicas + r.maxSurge
	}
	change := allowed - sum(sets, size)
	slices.SortStableFunc(sets, func(a, b *appsv1.ReplicaSet) int {
		age := a.CreationTimestamp.Compare(b.CreationTimestamp.Time)
		if change > 0 {
			age = -age
		}
		return cmp.Or(cmp.Compare(size(b), size(a)), age)
	})
	target, left := make([]int32, len(sets)), change
	for i, rs := range sets {
		part := r.part(rs, change)
		if change > 0 {
			part = max(min(part, left), 0)
		} else {
			part = min(max(part, left), 0)
		}
		target[i] = size(rs) + part
		left -= part
	}
	target[0] = max(target[0]+left, 0)
	var writes []reconcile.Write
	for i, rs := range sets {
		writes = append(writes, r.resize(rs, target[i])...)
	}
	return writes
}

// part is a ReplicaSet's share of a change: it is to keep its proportion of
// the largest size that the Deployment may have, then and now.
func (r *rollout) part(rs *appsv1.ReplicaSet, change int32) int32 {
	if change == 0 {
		return 0
	}
	if r.replicas == 0 {
		return -size(rs)
	}
	was, ok := number(rs, maxAnnotation)
	if !ok || was == 0 {
		was = max(r.Status.Replicas, 1)
	}
	return int32(math.Round(float64(size(rs))*float64(r.replicas+r.maxSurge)/float64(was))) - size(rs)
}

// notes brings a ReplicaSet's annotations about sizes up to date and tells
// whether that changed them.
func (r *rollout) notes(rs *appsv1.ReplicaSet) bool {
	desired, most := strconv.Itoa(int(r.replicas)), strconv.Itoa(int(r.replicas+r.maxSurge))
	if rs.Annotations[desiredAnnotation] == desired && rs.Annotations[maxAnnotation] == most {
		return false
	}
	if rs.Annotations == nil {
		rs.Annotations = map[string]string{}
	}
	rs.Annotations[desiredAnnotation], rs.Annotations[maxAnnotation] = desired, most
	return true
}

// scale is the write that gives a ReplicaSet another size.
func (r *rollout) scale(rs *appsv1.ReplicaSet, n int32) reconcile.Write {
	from := size(rs)
	rs = rs.DeepCopy()
	rs.Spec.Replicas = &n
	r.notes(rs)
	return reconcile.Write{Op: reconcile.Update, Object: rs, OnDone: func(client.Object) []reconcile.Event {
		return r.scaled(rs.Name, from, n)
	}}
}

func (r *rollout) scaled(name string, from, to int32) []reconcile.Event {
	if from == to {
		return nil
	}
	direction := "up"
	if to < from {
		direction = "down"
	}
	message := fmt.Sprintf("Scaled %s replica set %s from %d to %d", direction, name, from, to)
	return []reconcile.Event{reconcile.Normal(r.Deployment, "ScalingReplicaSet", message)}
}
