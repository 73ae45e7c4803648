package kubelet

import (
	"fmt"
	"maps"
	"time"

	corev1 "k8s.io/api/core/v1"
	helpers "k8s.io/component-helpers/resource"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"proa/kubelet/lifecycle"
	"proa/kubelet/spec"
)

// fit judges a resize that the pod asks for against the room on the node. One that
// has to wait is judged anew when a pod leaves.
func (w *worker) fit() {
	w.st.NoRoom = nil
	if len(w.st.Containers) > 0 && lifecycle.Resizing(w.st) {
		w.st.NoRoom = w.k.room(w.st.Pod)
	}
	w.deferred.Store(w.st.NoRoom != nil && w.st.NoRoom.Reason == corev1.PodReasonDeferred)
}

func (k *Kubelet) room(pod *corev1.Pod) *lifecycle.NoRoom {
	want := helpers.PodRequests(pod, helpers.PodResourcesOptions{})
	for _, name := range sortedNames(want) {
		q, limit := want[name], k.node.Allocatable[name]
		if q.Cmp(limit) > 0 {
			return &lifecycle.NoRoom{Reason: corev1.PodReasonInfeasible, Message: fmt.Sprintf(
				"Node didn't have enough capacity: %s, requested: %d, capacity: %d", name, plainAmount(name, q), plainAmount(name, limit))}
		}
	}
	if no := fits(pod, k.others(pod), k.node.Allocatable); no != nil {
		return &lifecycle.NoRoom{Reason: corev1.PodReasonDeferred, Message: no.Message}
	}
	return nil
}

// roomChanged wakes the pods whose resize waits for room.
func (k *Kubelet) roomChanged() {
	for _, w := range k.all() {
		if w.deferred.Load() {
			w.post(func(*worker) {})
		}
	}
}

// resize sets an instance's new resources. The pod's cgroup is made wide enough for
// both first, and is brought to its own measure after.
func (w *worker) resize(pod *corev1.Pod, a lifecycle.Action) {
	id, want := a.ID, *a.Container.Resources.DeepCopy()
	st := w.st.Resizes[id]
	st.Busy = true
	w.st.Resizes[id] = st
	before := w.asApplied(pod)
	w.k.effects.Go(func() {
		err := w.applyResources(before, pod, a)
		w.post(func(w *worker) {
			if err != nil {
				w.st.Resizes[id] = w.st.Resizes[id].Fail(time.Now(), retryFirst, retryLimit, corev1.PodReasonError, plain(err))
				return
			}
			delete(w.st.Resizes, id)
			w.st.Applied = maps.Clone(w.st.Applied)
			w.st.Applied[id] = want
		})
	})
}

// asApplied is the pod with the resources that its containers have now.
func (w *worker) asApplied(pod *corev1.Pod) *corev1.Pod {
	out := pod.DeepCopy()
	seen := w.seen.Load()
	spec.EachContainer(out, func(c *corev1.Container) {
		if st := seen.status(c.Name); st != nil && st.Resources != nil {
			c.Resources = *st.Resources.DeepCopy()
		}
	})
	return out
}

func (w *worker) applyResources(before, pod *corev1.Pod, a lifecycle.Action) error {
	path, target := spec.CgroupParent(pod, w.k.node), spec.PodResources(pod)
	if err := w.k.cgroups.Set(path, wider(spec.PodResources(before), target), 0); err != nil {
		return err
	}
	resources := &cri.ContainerResources{Linux: spec.ContainerResources(pod, a.Container, w.k.node)}
	if err := w.k.cfg.Runtime.UpdateContainerResources(w.live, a.ID, resources); err != nil {
		return err
	}
	if err := w.k.cgroups.Set(path, target, 0); err != nil {
		return err
	}
	return w.k.shareCPU()
}

// wider is at least both; 0 is no limit.
func wider(a, b *cri.LinuxContainerResources) *cri.LinuxContainerResources {
	widest := func(x, y int64) int64 {
		if x == 0 || y == 0 {
			return 0
		}
		return max(x, y)
	}
	return &cri.LinuxContainerResources{
		CpuPeriod: b.CpuPeriod, CpuShares: max(a.CpuShares, b.CpuShares),
		CpuQuota: widest(a.CpuQuota, b.CpuQuota), MemoryLimitInBytes: widest(a.MemoryLimitInBytes, b.MemoryLimitInBytes),
	}
}
