package lifecycle

import (
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Waiting reasons that kubectl and controllers look for.
const (
	ReasonCreating     = "ContainerCreating"
	ReasonInitializing = "PodInitializing"
	ReasonCrashLoop    = "CrashLoopBackOff"
	ReasonPullBackoff  = "ImagePullBackOff"
	ReasonPullFailed   = "ErrImagePull"
	reasonLost         = "ContainerStatusUnknown"
	lostExitCode       = 137
)

// reported finds what the API holds about a container, or nil.
func (d *decider) reported(s *slot) *corev1.ContainerStatus {
	list := d.Pod.Status.ContainerStatuses
	switch s.kind {
	case regularInit, sidecar:
		list = d.Pod.Status.InitContainerStatuses
	case ephemeral:
		list = d.Pod.Status.EphemeralContainerStatuses
	}
	if i := slices.IndexFunc(list, func(c corev1.ContainerStatus) bool { return c.Name == s.spec.Name }); i >= 0 {
		return &list[i]
	}
	return nil
}

// reportedFor is reported, if it is about this very instance.
func (d *decider) reportedFor(s *slot, c *cri.ContainerStatus) *corev1.ContainerStatus {
	if old := d.reported(s); old != nil && old.ContainerID == d.containerID(c) {
		return old
	}
	return nil
}

func (d *decider) containerID(c *cri.ContainerStatus) string { return d.Runtime + "://" + c.Id }

// recall stands in for an instance that the API was told of and that the runtime
// has no record of any more (its state directory was lost): it has ended, so that
// restart policy, restart count and last state go on from it.
func (d *decider) recall(s *slot) {
	old := d.reported(s)
	if old == nil || old.ContainerID == "" || len(s.runs) > 1 {
		return
	}
	if len(s.runs) == 0 || s.runs[0].GetMetadata().GetAttempt() > uint32(old.RestartCount) {
		s.runs = append(s.runs, d.lost(old))
		return
	}
	if t := old.LastTerminationState.Terminated; t != nil && old.RestartCount > 0 && t.ContainerID != d.containerID(s.runs[0]) {
		s.runs = append(s.runs, ended(old, t, old.RestartCount-1))
	}
}

// lost is an instance that was last reported as old.
func (d *decider) lost(old *corev1.ContainerStatus) *cri.ContainerStatus {
	for _, t := range []*corev1.ContainerStateTerminated{old.State.Terminated, old.LastTerminationState.Terminated} {
		if t != nil && t.ContainerID == old.ContainerID {
			return ended(old, t, old.RestartCount)
		}
	}
	return ended(old, &corev1.ContainerStateTerminated{
		ExitCode: lostExitCode, Reason: reasonLost, Message: "The container could not be located when the pod was terminated", ContainerID: old.ContainerID,
	}, old.RestartCount)
}

// ended is a record made of what was reported.
func ended(old *corev1.ContainerStatus, t *corev1.ContainerStateTerminated, attempt int32) *cri.ContainerStatus {
	_, id, _ := strings.Cut(t.ContainerID, "://")
	c := &cri.ContainerStatus{
		Id: id, Metadata: &cri.ContainerMetadata{Name: old.Name, Attempt: uint32(attempt)},
		State: cri.ContainerState_CONTAINER_EXITED, ExitCode: t.ExitCode, Reason: t.Reason, Message: t.Message,
		ImageRef: old.ImageID, ImageId: old.ImageID, Image: &cri.ImageSpec{Image: old.Image},
	}
	if !t.FinishedAt.IsZero() {
		c.StartedAt, c.FinishedAt = t.StartedAt.UnixNano(), t.FinishedAt.UnixNano()
	}
	return c
}

// status is the whole status to report.
func (d *decider) status() corev1.PodStatus {
	old := &d.Pod.Status
	out := *old.DeepCopy()
	out.ObservedGeneration = d.Pod.Generation
	if out.StartTime == nil {
		t := metav1.NewTime(d.Now).Rfc3339Copy()
		out.StartTime = &t
	}
	out.InitContainerStatuses = d.statuses(d.inits)
	out.ContainerStatuses = d.statuses(d.mains)
	out.EphemeralContainerStatuses = d.statuses(d.ephemerals)
	d.addresses(&out)
	out.Phase = d.phase()
	if d.stop != nil && d.stop.Reason != "" {
		out.Reason, out.Message = d.stop.Reason, d.stop.Message
	}
	d.conditions(&out)
	return out
}

func (d *decider) addresses(out *corev1.PodStatus) {
	out.HostIP, out.HostIPs = "", nil
	for i, ip := range d.HostIPs {
		if i == 0 {
			out.HostIP = ip
		}
		out.HostIPs = append(out.HostIPs, corev1.HostIP{IP: ip})
	}
	ips := d.podIPs()
	if len(ips) == 0 {
		return // the last known address stays, as long as no other is known
	}
	out.PodIP, out.PodIPs = ips[0], nil
	for _, ip := range ips {
		out.PodIPs = append(out.PodIPs, corev1.PodIP{IP: ip})
	}
}

func (d *decider) podIPs() []string {
	if d.Pod.Spec.HostNetwork {
		return d.HostIPs
	}
	return SandboxIPs(d.sandbox)
}

// SandboxIPs lists a sandbox's addresses, the primary first.
func SandboxIPs(sb *cri.PodSandboxStatus) []string {
	n := sb.GetNetwork()
	if n.GetIp() == "" {
		return nil
	}
	ips := []string{n.Ip}
	for _, more := range n.AdditionalIps {
		ips = append(ips, more.Ip)
	}
	return ips
}

func (d *decider) statuses(slots []*slot) []corev1.ContainerStatus {
	var out []corev1.ContainerStatus
	for _, s := range slots {
		out = append(out, d.containerStatus(s))
	}
	return out
}

// containerStatus shows the newest instance that came as far as running, or why
// there is none.
func (d *decider) containerStatus(s *slot) corev1.ContainerStatus {
	shown := d.shown(s)
	started := false
	out := corev1.ContainerStatus{Name: s.spec.Name, Image: s.spec.Image, Started: &started}
	if len(shown) == 0 {
		out.State.Waiting = d.waiting(s)
		return out
	}
	c := shown[0]
	d.instance(&out, s, c)
	switch w := d.waiting(s); {
	case running(c):
		started = d.started(s)
		out.Ready = d.ready(s)
		out.State.Running = &corev1.ContainerStateRunning{StartedAt: stamp(c.StartedAt)}
	case w.Reason != ReasonCreating && w.Reason != ReasonInitializing:
		out.State.Waiting = w
		out.LastTerminationState.Terminated = d.terminated(c)
		return out
	default:
		out.State.Terminated = d.terminated(c)
		out.Ready = s.kind == regularInit && c.ExitCode == 0
	}
	if len(shown) > 1 {
		out.LastTerminationState.Terminated = d.terminated(shown[1])
	}
	return out
}

// shown leaves out instances that have not finished starting.
func (d *decider) shown(s *slot) []*cri.ContainerStatus {
	busy := d.Starts[s.spec.Name].Busy
	return slices.DeleteFunc(slices.Clone(s.runs), func(c *cri.ContainerStatus) bool {
		return created(c) || busy && running(c)
	})
}

func (d *decider) instance(out *corev1.ContainerStatus, s *slot, c *cri.ContainerStatus) {
	out.RestartCount = int32(c.GetMetadata().GetAttempt())
	out.ContainerID = d.containerID(c)
	out.ImageID = c.ImageRef
	if name := c.GetImage().GetUserSpecifiedImage(); name != "" {
		out.Image = name
	} else if name := c.GetImage().GetImage(); name != "" && !strings.HasPrefix(name, "sha256:") {
		out.Image = name
	}
	have := d.applied(s, c)
	out.Resources, out.AllocatedResources = have.DeepCopy(), s.spec.Resources.DeepCopy().Requests
	if d.NoRoom != nil {
		out.AllocatedResources = have.DeepCopy().Requests
	}
	if !running(c) {
		out.Resources = s.spec.Resources.DeepCopy()
	}
	if u := c.GetUser().GetLinux(); u != nil {
		out.User = &corev1.ContainerUser{Linux: &corev1.LinuxContainerUser{UID: u.Uid, GID: u.Gid, SupplementalGroups: u.SupplementalGroups}}
	}
	for _, m := range s.spec.VolumeMounts {
		v := corev1.VolumeMountStatus{Name: m.Name, MountPath: m.MountPath, ReadOnly: m.ReadOnly}
		if m.ReadOnly {
			mode := corev1.RecursiveReadOnlyDisabled
			v.RecursiveReadOnly = &mode
		}
		out.VolumeMounts = append(out.VolumeMounts, v)
	}
}

func (d *decider) terminated(c *cri.ContainerStatus) *corev1.ContainerStateTerminated {
	t := &corev1.ContainerStateTerminated{
		ExitCode: c.ExitCode, Reason: c.Reason, Message: c.Message, ContainerID: d.containerID(c),
		StartedAt: stamp(c.StartedAt), FinishedAt: stamp(c.FinishedAt),
	}
	if m := d.Messages[c.Id]; m != "" {
		t.Message = m
	}
	if t.Reason == "" {
		t.Reason = "Error"
		if t.ExitCode == 0 {
			t.Reason = "Completed"
		}
	}
	return t
}

func stamp(nano int64) metav1.Time {
	if nano == 0 {
		return metav1.Time{}
	}
	return metav1.NewTime(time.Unix(0, nano)).Rfc3339Copy()
}

// waiting says why a container does not run (yet).
func (d *decider) waiting(s *slot) *corev1.ContainerStateWaiting {
	st, img := d.Starts[s.spec.Name], d.Images[s.spec.Name]
	switch {
	case d.out.Terminating:
	case d.Now.Before(s.until):
		_, next := backoff(s.newest())
		return &corev1.ContainerStateWaiting{Reason: ReasonCrashLoop, Message: d.crashMessage(s, next)}
	case st.Failed():
		return &corev1.ContainerStateWaiting{Reason: st.Reason, Message: st.Message}
	case img.Failed() && img.Name == s.spec.Image && d.initialized(s):
		return d.imageWaiting(s, img)
	}
	if s.kind == mainContainer && len(d.inits) > 0 {
		return &corev1.ContainerStateWaiting{Reason: ReasonInitializing}
	}
	return &corev1.ContainerStateWaiting{Reason: ReasonCreating}
}

// showPullError is how long a failed pull shows its own reason before it shows
// that it waits.
const showPullError = 2 * time.Second

func (d *decider) imageWaiting(s *slot, img Image) *corev1.ContainerStateWaiting {
	if img.Reason == ReasonPullFailed {
		if turn := img.At.Add(showPullError); d.Now.Before(turn) {
			d.wake(turn)
		} else {
			return &corev1.ContainerStateWaiting{Reason: ReasonPullBackoff,
				Message: fmt.Sprintf("Back-off pulling image %q: %s: %s", s.spec.Image, img.Reason, img.Message)}
		}
	}
	return &corev1.ContainerStateWaiting{Reason: img.Reason, Message: img.Message}
}

func (d *decider) crashMessage(s *slot, next time.Duration) string {
	wait, _ := time.ParseDuration(s.newest().Annotations[AnnotationBackoff])
	return fmt.Sprintf("back-off %s restarting failed container=%s pod=%s_%s(%s)",
		min(wait, next), s.spec.Name, d.Pod.Name, d.Pod.Namespace, d.Pod.UID)
}

// initialized tells whether a container's turn has come, as far as init containers go.
func (d *decider) initialized(s *slot) bool {
	for _, i := range d.inits {
		if i == s {
			return true
		}
		if c := i.newest(); i.kind == regularInit && !(exited(c) && c.ExitCode == 0) || i.kind == sidecar && !d.started(i) {
			return false
		}
	}
	return true
}
