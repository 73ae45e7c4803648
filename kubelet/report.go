package kubelet

import (
	"context"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"proa/client"
	"proa/kubelet/lifecycle"
)

// lull is how long a change of status that nobody waits for (the first conditions,
// an address before anything runs) may wait for more changes, so that a pod that
// starts swiftly is reported once.
const lull = 100 * time.Millisecond

// report is the writing of a pod's status.
type report struct {
	busy  bool
	due   time.Time // when a change that may wait is written
	retry time.Time // after a failure
	tries int
	last  *corev1.PodStatus // the decision before
}

// tell sees to it that the API learns the status. It returns when to come back.
func (w *worker) tell(ctx context.Context, status *corev1.PodStatus) time.Time {
	r := &w.report
	w.changes(status)
	if r.busy || w.st.Gone || equality.Semantic.DeepEqual(&w.st.Pod.Status, status) {
		return time.Time{}
	}
	now := time.Now()
	if now.Before(r.retry) {
		return r.retry
	}
	if !urgent(&w.st.Pod.Status, status) {
		if r.due.IsZero() {
			r.due = now.Add(lull)
		}
		if now.Before(r.due) {
			return r.due
		}
	}
	r.busy, r.due = true, time.Time{}
	pod, next := w.st.Pod, *status
	w.k.effects.Go(func() {
		got, err := w.k.writeStatus(ctx, pod, &next)
		w.post(func(w *worker) { w.told(got, err) })
	})
	return time.Time{}
}

// urgent tells whether somebody may be waiting for the change: the phase,
// readiness, or what a container does.
func urgent(old, now *corev1.PodStatus) bool {
	if old.Phase != now.Phase && now.Phase != corev1.PodPending || old.Reason != now.Reason {
		return true
	}
	ready := func(s *corev1.PodStatus) bool {
		return slices.ContainsFunc(s.Conditions, func(c corev1.PodCondition) bool {
			return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
		})
	}
	if ready(old) != ready(now) || len(old.Conditions) > len(now.Conditions) {
		return true
	}
	return busyContainers(old.ContainerStatuses, now.ContainerStatuses) || busyContainers(old.InitContainerStatuses, now.InitContainerStatuses) ||
		busyContainers(old.EphemeralContainerStatuses, now.EphemeralContainerStatuses)
}

func busyContainers(old, now []corev1.ContainerStatus) bool {
	for i := range now {
		s := &now[i].State
		if len(old) <= i {
			if s.Waiting == nil {
				return true
			}
		} else if !equality.Semantic.DeepEqual(old[i].State, *s) {
			return true
		}
	}
	return false
}

func (w *worker) told(got *corev1.Pod, err error) {
	r := &w.report
	r.busy = false
	switch {
	case err == nil:
		r.tries, r.retry = 0, time.Time{}
		if got != nil {
			w.update(got)
		}
	case apierrors.IsNotFound(err):
		w.st.Gone = true
	default:
		r.tries++
		r.retry = time.Now().Add(min(50*time.Millisecond<<min(r.tries, 12), time.Minute))
		w.k.log.Debug("a pod's status could not be written and will be again", "pod", w.name(), "err", err)
	}
}

// writeStatus writes the kubelet's part of a status over what the API has now;
// conditions that others own are kept as they are there.
func (k *Kubelet) writeStatus(ctx context.Context, pod *corev1.Pod, status *corev1.PodStatus) (*corev1.Pod, error) {
	for range 5 {
		next := pod.DeepCopy()
		next.Status = merged(&pod.Status, status)
		got, err := k.cfg.Client.Update(ctx, next, "status")
		if err == nil {
			return got.(*corev1.Pod), nil
		}
		if !apierrors.IsConflict(err) {
			return nil, err
		}
		obj, err := k.cfg.Client.Get(ctx, client.Row[corev1.Pod](), client.KeyOf(pod))
		if err != nil {
			return nil, err
		}
		now := obj.(*corev1.Pod)
		if now.UID != pod.UID {
			return nil, apierrors.NewNotFound(corev1.Resource("pods"), pod.Name)
		}
		pod = now
	}
	return nil, fmt.Errorf("the pod changes too fast to write its status")
}

// owned are the conditions that the kubelet writes.
var owned = []corev1.PodConditionType{corev1.PodReadyToStartContainers, corev1.PodInitialized, corev1.PodReady, corev1.ContainersReady, corev1.PodScheduled,
	corev1.PodResizePending, corev1.PodResizeInProgress}

func merged(have, want *corev1.PodStatus) corev1.PodStatus {
	out := *want.DeepCopy()
	out.Conditions = nil
	for _, c := range want.Conditions {
		if slices.Contains(owned, c.Type) {
			out.Conditions = append(out.Conditions, c)
		}
	}
	for _, c := range have.Conditions {
		if !slices.Contains(owned, c.Type) && !slices.ContainsFunc(out.Conditions, func(o corev1.PodCondition) bool { return o.Type == c.Type }) {
			out.Conditions = append(out.Conditions, c)
		}
	}
	out.QOSClass, out.NominatedNodeName, out.Resize = have.QOSClass, have.NominatedNodeName, have.Resize
	out.ResourceClaimStatuses, out.ExtendedResourceClaimStatus = have.ResourceClaimStatuses, have.ExtendedResourceClaimStatus
	return out
}

// changes records the events of back-offs that have just begun, and of a pod that
// has just been ended by the node.
func (w *worker) changes(status *corev1.PodStatus) {
	last := w.report.last
	w.report.last = status
	if last == nil {
		last = &w.st.Pod.Status
	}
	w.backoffs(last.InitContainerStatuses, status.InitContainerStatuses, w.st.Pod.Spec.InitContainers)
	w.backoffs(last.ContainerStatuses, status.ContainerStatuses, w.st.Pod.Spec.Containers)
	if status.Reason != last.Reason && status.Phase == corev1.PodFailed && w.st.Pod.Status.Reason != status.Reason {
		w.k.events.Event(w.st.Pod, corev1.EventTypeWarning, status.Reason, status.Message)
	}
}

func (w *worker) backoffs(last, now []corev1.ContainerStatus, containers []corev1.Container) {
	for i := range now {
		s := now[i].State.Waiting
		if s == nil || i >= len(containers) || i < len(last) && last[i].State.Waiting != nil && last[i].State.Waiting.Reason == s.Reason {
			continue
		}
		c := &containers[i]
		switch s.Reason {
		case lifecycle.ReasonCrashLoop:
			w.k.container(w.st.Pod, c, corev1.EventTypeWarning, "BackOff", fmt.Sprintf("Back-off restarting failed container %s in pod %s_%s(%s)",
				c.Name, w.st.Pod.Name, w.st.Pod.Namespace, w.uid))
		case lifecycle.ReasonPullBackoff:
			w.k.container(w.st.Pod, c, corev1.EventTypeNormal, "BackOff", fmt.Sprintf("Back-off pulling image %q", c.Image))
			w.k.container(w.st.Pod, c, corev1.EventTypeWarning, "Failed", "Error: ImagePullBackOff")
		}
	}
}
