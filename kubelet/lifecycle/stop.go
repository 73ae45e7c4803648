package lifecycle

import (
	"fmt"
	"slices"
	"time"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// grace is the time that a termination gives the processes.
func (d *decider) grace() time.Duration {
	seconds := int64(30)
	if g := d.Pod.Spec.TerminationGracePeriodSeconds; g != nil {
		seconds = *g
	}
	if g := d.Pod.DeletionGracePeriodSeconds; g != nil {
		seconds = *g
	}
	if d.stop != nil && d.stop.Grace != nil {
		seconds = *d.stop.Grace
	}
	return time.Duration(max(seconds, 1)) * time.Second
}

// terminate ends a pod: traffic leaves, containers stop (sidecars last, in
// reverse order), the sandbox goes, then what the node held for it. A second
// delete may shorten the grace period, nothing lengthens it.
func (d *decider) terminate() {
	d.out.Terminating, d.out.Wake = true, time.Time{}
	d.out.Deadline = d.Now.Add(d.grace())
	if !d.Deadline.IsZero() && d.Deadline.Before(d.out.Deadline) {
		d.out.Deadline = d.Deadline
	}
	if !d.drained() || !d.stopContainers() || !d.stopSandbox() {
		return
	}
	if d.due(d.Cleanup) {
		d.act(Action{Do: Cleanup})
	}
}

// confirm is the last part of a termination. It follows status because a pod
// leaves the API only after its terminal status has arrived there.
func (d *decider) confirm() {
	if !d.out.Terminating || !d.Cleanup.Done {
		return
	}
	switch {
	case d.Gone && d.Remove.Done:
		d.out.Done = true
	case d.Gone:
		if d.due(d.Remove) {
			d.act(Action{Do: RemoveAll})
		}
	case d.Pod.DeletionTimestamp != nil && terminal(d.Pod.Status.Phase):
		if d.due(d.Delete) {
			d.act(Action{Do: DeletePod})
		}
	}
}

// drained waits for new connections to go elsewhere, if any process could still
// take some.
func (d *decider) drained() bool {
	if !slices.ContainsFunc(d.Containers, running) || d.Drain.Done || len(d.Kills) > 0 {
		return true
	}
	if d.due(d.Drain) {
		d.act(Action{Do: Drain, Deadline: d.out.Deadline})
	}
	return false
}

func (d *decider) stopContainers() bool {
	if d.starting() || !d.killUnknown() {
		return false
	}
	first := slices.Concat(d.mains, d.ephemerals)
	for _, s := range d.inits {
		if s.kind == regularInit {
			first = append(first, s)
		}
	}
	if !d.killEach(first, d.out.Deadline, "") {
		return false
	}
	for _, s := range slices.Backward(d.inits) {
		if !d.killEach([]*slot{s}, d.out.Deadline, "") {
			return false
		}
	}
	return true
}

// starting waits for effects that could still bring a process or a mount about;
// they are being cancelled.
func (d *decider) starting() bool {
	if d.Sandbox.Busy || d.Volumes.Busy {
		return true
	}
	for _, s := range d.Starts {
		if s.Busy {
			return true
		}
	}
	return false
}

// killUnknown ends instances of containers that the spec does not name (a pod
// that the API lost and that is known by its runtime record only).
func (d *decider) killUnknown() bool {
	gone := true
	for _, c := range d.Containers {
		if running(c) && !d.named(c.GetMetadata().GetName()) {
			d.kill(nil, c, d.out.Deadline, fmt.Sprintf("Stopping container %s", c.GetMetadata().GetName()))
			gone = false
		}
	}
	return gone
}

func (d *decider) named(name string) bool {
	return slices.ContainsFunc(d.slots(), func(s *slot) bool { return s.spec.Name == name })
}

// killEach stops every running instance and tells whether none is left. An empty
// message is the ordinary one.
func (d *decider) killEach(slots []*slot, deadline time.Time, message string) bool {
	gone := true
	for _, s := range slots {
		text := message
		if text == "" {
			text = "Stopping container " + s.spec.Name
		}
		for _, c := range s.runs {
			if running(c) {
				d.kill(s, c, deadline, text)
				gone = false
			}
		}
	}
	return gone
}

// kill stops an instance, or shortens a stop under way.
func (d *decider) kill(s *slot, c *cri.ContainerStatus, deadline time.Time, message string) {
	k := d.Kills[c.Id]
	if k.Busy && !deadline.Before(k.Deadline.Add(-time.Second)) {
		return
	}
	if !k.Busy && !d.due(k.Step) {
		return
	}
	a := Action{Do: KillContainer, ID: c.Id, Deadline: deadline, Message: message}
	if s != nil {
		a.Container = s.spec
	}
	d.act(a)
}

func (d *decider) stopSandbox() bool {
	ready := false
	for _, sb := range d.Sandboxes {
		if sb.State != cri.PodSandboxState_SANDBOX_READY {
			continue
		}
		ready = true
		if d.due(d.SandboxStop) {
			d.act(Action{Do: StopSandbox, ID: sb.Id})
		}
	}
	return !ready
}
