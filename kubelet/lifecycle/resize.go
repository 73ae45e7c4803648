package lifecycle

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// applied is what an instance has: as this kubelet set it, or as was reported of
// it before, or as it was started with.
func (d *decider) applied(s *slot, c *cri.ContainerStatus) *corev1.ResourceRequirements {
	if r, ok := d.Applied[c.Id]; ok {
		return &r
	}
	if old := d.reportedFor(s, c); old != nil && old.Resources != nil {
		r := old.Resources.DeepCopy()
		r.Claims = s.spec.Resources.Claims // not reported
		return r
	}
	return &s.spec.Resources
}

// resizing tells an instance whose resources are not the ones that are asked for
// (KEP-1287).
func (d *decider) resizing(s *slot, c *cri.ContainerStatus) bool {
	return running(c) && !d.Starts[s.spec.Name].Busy && !sameAmounts(d.applied(s, c), &s.spec.Resources)
}

func sameAmounts(a, b *corev1.ResourceRequirements) bool {
	return equality.Semantic.DeepEqual(a.Requests, b.Requests) && equality.Semantic.DeepEqual(a.Limits, b.Limits)
}

// resize brings new resources to a running instance, or restarts it where its
// resize policy says so.
func (d *decider) resize(s *slot, c *cri.ContainerStatus) {
	if d.NoRoom != nil {
		return
	}
	if needsRestart(s.spec, d.applied(s, c)) {
		d.kill(s, c, d.Now.Add(d.grace()), fmt.Sprintf("Container %s resize requires restart", s.spec.Name))
		return
	}
	if d.due(d.Resizes[c.Id]) {
		d.act(Action{Do: ResizeContainer, ID: c.Id, Container: s.spec})
	}
}

func needsRestart(c *corev1.Container, have *corev1.ResourceRequirements) bool {
	for _, p := range c.ResizePolicy {
		changed := !equality.Semantic.DeepEqual(amount(have, p.ResourceName), amount(&c.Resources, p.ResourceName))
		if p.RestartPolicy == corev1.RestartContainer && changed {
			return true
		}
	}
	return false
}

func amount(r *corev1.ResourceRequirements, name corev1.ResourceName) corev1.ResourceList {
	out := corev1.ResourceList{}
	if q, ok := r.Requests[name]; ok {
		out["requests"] = q
	}
	if q, ok := r.Limits[name]; ok {
		out["limits"] = q
	}
	return out
}

// Resizing tells whether any running container's resources differ from the spec's.
func Resizing(s State) bool {
	d := &decider{State: s}
	d.index()
	return d.anyResizing()
}

func (d *decider) anyResizing() bool {
	for _, s := range d.slots() {
		if s.kind != regularInit && s.kind != ephemeral && len(s.runs) > 0 && d.resizing(s, s.newest()) {
			return true
		}
	}
	return false
}

// resizeConditions shows how far a resize is; a pod without one has neither.
func (d *decider) resizeConditions(out *corev1.PodStatus, set func(corev1.PodCondition)) {
	asked := d.anyResizing() && !d.out.Terminating
	if asked && d.NoRoom != nil {
		set(corev1.PodCondition{Type: corev1.PodResizePending, Status: corev1.ConditionTrue, Reason: d.NoRoom.Reason, Message: d.NoRoom.Message})
	} else {
		drop(out, corev1.PodResizePending)
	}
	if !asked || d.NoRoom != nil {
		drop(out, corev1.PodResizeInProgress)
		return
	}
	c := corev1.PodCondition{Type: corev1.PodResizeInProgress, Status: corev1.ConditionTrue}
	for _, st := range d.Resizes {
		if st.Failed() {
			c.Reason, c.Message = corev1.PodReasonError, st.Message
		}
	}
	set(c)
}

func drop(out *corev1.PodStatus, t corev1.PodConditionType) {
	if i := findCondition(out.Conditions, t); i >= 0 {
		out.Conditions = append(out.Conditions[:i], out.Conditions[i+1:]...)
	}
}
