// Package deployment moves the pods of a Deployment from one template to the
// next through ReplicaSets, within the bounds that its strategy sets, and tells
// how far it has come.
//
// Every decision takes the next step that the world allows and no more; the
// ReplicaSets' own statuses say when another one is due.
package deployment

import (
	"math"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"

	"proa/client"
	"proa/controllers/own"
	"proa/controllers/pods"
	"proa/reconcile"
)

// Controller is the Deployment controller.
func Controller() reconcile.Controller {
	row := client.Row[appsv1.Deployment]()
	return reconcile.Controller{
		Name:    "deployment-controller",
		Workers: 5,
		Watches: []reconcile.Watch{
			{Resource: row},
			{Resource: client.Row[appsv1.ReplicaSet](), Keys: own.Wake(row, selects)},
			{Resource: client.Row[corev1.Pod](), Keys: lastPods},
		},
		Decide: Decide,
	}
}

func selects(owner client.Object) labels.Selector {
	return own.Selector(owner.(*appsv1.Deployment).Spec.Selector)
}

// lastPods wakes a Deployment that recreates its pods when one of them ends: it
// waits for the last.
func lastPods(v client.View, e client.Event) []client.Key {
	p := e.Object().(*corev1.Pod)
	if e.New != nil && !pods.Finished(p) {
		return nil
	}
	ref := metav1.GetControllerOfNoCopy(p)
	if ref == nil || ref.Kind != "ReplicaSet" {
		return nil
	}
	rs := client.Get[appsv1.ReplicaSet](v, p.Namespace, ref.Name)
	if rs == nil {
		return nil
	}
	if ref = metav1.GetControllerOfNoCopy(rs); ref == nil || ref.Kind != "Deployment" {
		return nil
	}
	d := client.Get[appsv1.Deployment](v, p.Namespace, ref.Name)
	if d == nil || d.Spec.Strategy.Type != appsv1.RecreateDeploymentStrategyType {
		return nil
	}
	return []client.Key{client.KeyOf(d)}
}

// rollout is a Deployment with its ReplicaSets at one moment.
type rollout struct {
	*appsv1.Deployment
	view client.View
	now  time.Time
	next *appsv1.ReplicaSet   // of the present template, or nil
	old  []*appsv1.ReplicaSet // the others, the oldest first

	replicas, maxSurge, maxUnavailable int32
}

// Decide is the controller's decision.
func Decide(v client.View, now time.Time, key client.Key) reconcile.Plan {
	d := client.Get[appsv1.Deployment](v, key.Namespace, key.Name)
	if d == nil {
		return reconcile.Plan{}
	}
	sets, claims := own.Claim[*appsv1.ReplicaSet](v, client.Row[appsv1.ReplicaSet](), client.Row[appsv1.Deployment](), d, own.Selector(d.Spec.Selector))
	if len(claims) > 0 {
		return reconcile.Plan{Writes: claims}
	}
	r := newRollout(d, sets, v, now)
	if d.DeletionTimestamp != nil {
		return r.report(r.status())
	}
	return r.step()
}

func newRollout(d *appsv1.Deployment, sets []*appsv1.ReplicaSet, v client.View, now time.Time) *rollout {
	r := &rollout{Deployment: d, view: v, now: now, replicas: 1}
	if d.Spec.Replicas != nil {
		r.replicas = *d.Spec.Replicas
	}
	r.maxSurge, r.maxUnavailable = bounds(d, r.replicas)
	slices.SortFunc(sets, func(a, b *appsv1.ReplicaSet) int {
		if c := a.CreationTimestamp.Compare(b.CreationTimestamp.Time); c != 0 {
			return c
		}
		return strings.Compare(a.Name, b.Name)
	})
	for _, rs := range sets {
		if r.next == nil && sameTemplate(&rs.Spec.Template, &d.Spec.Template) {
			r.next = rs
		} else {
			r.old = append(r.old, rs)
		}
	}
	return r
}

// bounds are maxSurge and maxUnavailable as numbers of pods: percentages of the
// surge round up, those of the unavailable down, and not both may be 0. Only a
// rolling update has them.
func bounds(d *appsv1.Deployment, replicas int32) (surge, unavailable int32) {
	if d.Spec.Strategy.Type == appsv1.RecreateDeploymentStrategyType || replicas == 0 {
		return 0, 0
	}
	quarter := intstr.FromString("25%")
	up, down := &quarter, &quarter
	if ru := d.Spec.Strategy.RollingUpdate; ru != nil {
		if ru.MaxSurge != nil {
			up = ru.MaxSurge
		}
		if ru.MaxUnavailable != nil {
			down = ru.MaxUnavailable
		}
	}
	surge = scaled(up, replicas, true)
	unavailable = min(scaled(down, replicas, false), replicas)
	if surge == 0 && unavailable == 0 {
		unavailable = 1
	}
	return surge, unavailable
}

func scaled(v *intstr.IntOrString, total int32, roundUp bool) int32 {
	n, err := intstr.GetScaledValueFromIntOrPercent(v, int(total), roundUp)
	if err != nil { // validation refuses it
		return 0
	}
	return int32(min(n, math.MaxInt32))
}

func (r *rollout) recreates() bool {
	return r.Spec.Strategy.Type == appsv1.RecreateDeploymentStrategyType
}

// all are the ReplicaSets, the new one last.
func (r *rollout) all() []*appsv1.ReplicaSet {
	if r.next == nil {
		return r.old
	}
	return append(slices.Clone(r.old), r.next)
}

func active(sets []*appsv1.ReplicaSet) []*appsv1.ReplicaSet {
	return slices.DeleteFunc(slices.Clone(sets), func(rs *appsv1.ReplicaSet) bool { return size(rs) == 0 })
}

// size is how many pods a ReplicaSet is asked to have.
func size(rs *appsv1.ReplicaSet) int32 {
	if rs == nil {
		return 0
	}
	if rs.Spec.Replicas == nil {
		return 1
	}
	return *rs.Spec.Replicas
}

func sum(sets []*appsv1.ReplicaSet, of func(*appsv1.ReplicaSet) int32) (n int32) {
	for _, rs := range sets {
		n += of(rs)
	}
	return n
}

// step is the next thing to do: first what keeps the books (the new
// ReplicaSet's annotations, the Deployment's revision), then scaling.
func (r *rollout) step() reconcile.Plan {
	status := r.status()
	if !r.notePause(&status) && r.next != nil {
		if write, ok := r.syncBooks(); ok {
			return reconcile.Plan{Writes: []reconcile.Write{write}}
		}
	}
	var writes []reconcile.Write
	switch {
	case r.Spec.Paused || r.isScaling():
		writes = r.spread()
		if r.Spec.Paused {
			writes = append(writes, r.trimHistory()...)
		}
		plan := r.report(status)
		plan.Writes = append(writes, plan.Writes...)
		return plan
	case r.recreates():
		writes = r.recreate(&status)
	default:
		writes = r.roll(&status)
	}
	if complete(r, &status) {
		writes = append(writes, r.trimHistory()...)
	}
	after := r.judgeProgress(&status)
	plan := r.report(status)
	plan.Writes = append(writes, plan.Writes...)
	plan.After = after
	return plan
}

// recreate takes all old pods down before it brings new ones up.
func (r *rollout) recreate(status *appsv1.DeploymentStatus) []reconcile.Write {
	var writes []reconcile.Write
	for _, rs := range active(r.old) {
		writes = append(writes, r.scale(rs, 0))
	}
	if len(writes) > 0 || r.oldPodsRun() {
		return writes
	}
	if r.next == nil {
		return r.create(r.replicas, status)
	}
	if size(r.next) != r.replicas {
		writes = append(writes, r.scale(r.next, r.replicas))
	}
	return writes
}

func (r *rollout) oldPodsRun() bool {
	for _, rs := range r.old {
		for _, p := range own.Of[*corev1.Pod](r.view, client.Row[corev1.Pod](), rs) {
			if !pods.Finished(p) {
				return true
			}
		}
	}
	return false
}

// roll brings new pods up and old ones down, a step at a time.
func (r *rollout) roll(status *appsv1.DeploymentStatus) []reconcile.Write {
	want := r.nextSize()
	if r.next == nil {
		return r.create(want, status)
	}
	if want != size(r.next) {
		return []reconcile.Write{r.scale(r.next, want)}
	}
	return r.shrinkOld()
}

// nextSize is how large the new ReplicaSet may be now. A pod that its ReplicaSet
// has yet to delete still takes the place of another, and one that has not seen
// its newest size yet may be making pods for the one before.
func (r *rollout) nextSize() int32 {
	have := size(r.next)
	switch {
	case have >= r.replicas:
		return r.replicas
	case slices.ContainsFunc(r.old, unseen):
		return have
	}
	room := r.replicas + r.maxSurge - sum(r.all(), r.taken)
	return have + max(min(room, r.replicas-have), 0)
}

// unseen tells that a ReplicaSet's controller, which leaves one alone that is being
// deleted, has yet to act on its newest size.
func unseen(rs *appsv1.ReplicaSet) bool {
	return rs.DeletionTimestamp == nil && rs.Status.ObservedGeneration < rs.Generation
}

func (r *rollout) taken(rs *appsv1.ReplicaSet) int32 {
	n := int32(0)
	for _, p := range own.Of[*corev1.Pod](r.view, client.Row[corev1.Pod](), rs) {
		if pods.Active(p) {
			n++
		}
	}
	return max(n, size(rs))
}

// shrinkOld takes from the old ReplicaSets what the bound on unavailable pods
// lets go: first pods that are not available anyway, then available ones.
func (r *rollout) shrinkOld() []reconcile.Write {
	minAvailable := r.replicas - r.maxUnavailable
	pending := max(size(r.next)-r.next.Status.AvailableReplicas, 0)
	budget := sum(r.all(), size) - minAvailable - pending
	if budget <= 0 {
		return nil
	}
	target := map[*appsv1.ReplicaSet]int32{}
	for _, rs := range r.old {
		target[rs] = size(rs)
		sick := min(max(size(rs)-rs.Status.AvailableReplicas, 0), budget)
		target[rs] -= sick
		budget -= sick
	}
	spare := sum(r.all(), func(rs *appsv1.ReplicaSet) int32 { return rs.Status.AvailableReplicas }) - minAvailable
	spare = min(spare, budget)
	var writes []reconcile.Write
	for _, rs := range r.old {
		gone := min(target[rs], max(spare, 0))
		target[rs] -= gone
		spare -= gone
		if target[rs] != size(rs) {
			writes = append(writes, r.scale(rs, target[rs]))
		}
	}
	return writes
}
