package lifecycle

import (
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// run moves a pod that shall live on: volumes, sandbox and images side by side,
// then the containers whose turn it is.
func (d *decider) run() {
	if d.due(d.Volumes) {
		d.act(Action{Do: MountVolumes})
	}
	if d.sandbox == nil {
		d.newSandbox()
		d.prefetch()
		return
	}
	d.prune()
	if d.initialize() {
		for _, s := range d.mains {
			d.keep(s)
		}
		for _, s := range d.ephemerals {
			d.keep(s)
		}
	}
	d.prefetch()
}

// newSandbox replaces a sandbox that died, once nothing runs in it any more.
func (d *decider) newSandbox() {
	if !d.killEach(d.slots(), d.Now.Add(d.grace()), "Pod sandbox changed, it will be killed and re-created.") {
		return
	}
	attempt := uint32(0)
	if old := NewestSandbox(d.Sandboxes); old != nil {
		attempt = old.GetMetadata().GetAttempt() + 1
	}
	if d.due(d.Sandbox) {
		d.act(Action{Do: RunSandbox, Attempt: attempt})
	}
}

// prune removes instances beyond the newest and the one before it, ones that were
// made but never started because the kubelet died in between, and old sandboxes
// that hold nothing any more.
func (d *decider) prune() {
	for _, s := range d.slots() {
		busy := d.Starts[s.spec.Name].Busy
		for i, c := range s.runs {
			if i > 1 && exited(c) || created(c) && !busy {
				d.remove(RemoveContainer, c.Id)
			}
		}
	}
	for _, sb := range d.Sandboxes {
		used := slices.ContainsFunc(d.Containers, func(c *cri.ContainerStatus) bool { return SandboxOf(c) == sb.Id })
		if sb != d.sandbox && !used {
			d.remove(RemoveSandbox, sb.Id)
		}
	}
}

func (d *decider) remove(do Verb, id string) {
	if d.due(d.Kills[id].Step) {
		d.act(Action{Do: do, ID: id})
	}
}

// initialize moves the init containers on and tells whether all are through.
func (d *decider) initialize() bool {
	far := d.progress()
	for i, s := range d.inits {
		c := s.newest()
		if s.kind == sidecar {
			d.keep(s)
			if i >= far && !d.started(s) {
				return false
			}
			continue
		}
		if i < far || exited(c) && d.here(c) && c.ExitCode == 0 {
			continue
		}
		d.keep(s)
		return false
	}
	return true
}

// progress is the index of the last init container that began in this sandbox;
// a main container that began means that all of them are behind.
func (d *decider) progress() int {
	for _, s := range d.mains {
		if d.here(s.newest()) {
			return len(d.inits)
		}
	}
	for i := len(d.inits) - 1; i >= 0; i-- {
		if d.here(d.inits[i].newest()) {
			return i
		}
	}
	return 0
}

// keep sees to it that a container whose turn it is runs, or has run its course.
func (d *decider) keep(s *slot) {
	c := s.newest()
	switch {
	case c == nil:
		d.start(s, time.Time{}, 0)
	case created(c):
		// A start under way, or prune removes it.
	case running(c) && d.here(c):
		d.check(s, c)
	case running(c):
		d.kill(s, c, d.Now.Add(d.grace()), "Pod sandbox changed, it will be killed and re-created.")
	case !d.here(c) && s.kind == regularInit, d.restarts(s):
		until, next := backoff(c)
		if !d.here(c) {
			until = time.Time{} // it went with its sandbox, or with the machine: no fault of its own
		}
		d.start(s, until, next)
	}
}

// check kills an instance that its probes or a change of its spec condemn.
func (d *decider) check(s *slot, c *cri.ContainerStatus) {
	p := d.Probes[c.Id]
	name := s.spec.Name
	switch {
	case c.Annotations[AnnotationHash] != Hash(s.spec):
		d.kill(s, c, d.Now.Add(d.grace()), fmt.Sprintf("Container %s definition changed, will be restarted", name))
	case p.Startup == Failure:
		d.kill(s, c, d.Now.Add(d.probeGrace(s.spec.StartupProbe)), fmt.Sprintf("Container %s failed startup probe, will be restarted", name))
	case p.Liveness == Failure:
		d.kill(s, c, d.Now.Add(d.probeGrace(s.spec.LivenessProbe)), fmt.Sprintf("Container %s failed liveness probe, will be restarted", name))
	case s.kind != regularInit && s.kind != ephemeral && d.resizing(s, c):
		d.resize(s, c)
	}
}

func (d *decider) probeGrace(p *corev1.Probe) time.Duration {
	if p != nil && p.TerminationGracePeriodSeconds != nil {
		return time.Duration(*p.TerminationGracePeriodSeconds) * time.Second
	}
	return d.grace()
}

// start begins a new instance as soon as back-off, image and volumes let it.
func (d *decider) start(s *slot, until time.Time, next time.Duration) {
	if d.Now.Before(until) {
		s.until = until
		d.wake(until)
		return
	}
	name := s.spec.Name
	if !d.due(d.Starts[name]) || !d.image(s) || !d.Volumes.Done {
		return
	}
	d.act(Action{Do: StartContainer, Container: s.spec, Sandbox: d.sandbox.Id, Attempt: d.nextAttempt(s), Backoff: next})
}

// nextAttempt counts on from the newest instance.
func (d *decider) nextAttempt(s *slot) uint32 {
	if c := s.newest(); c != nil {
		return c.GetMetadata().GetAttempt() + 1
	}
	return 0
}

// image brings a start's image and tells whether it is there.
func (d *decider) image(s *slot) bool {
	attempt, img := d.nextAttempt(s), d.Images[s.spec.Name]
	if img.Name != s.spec.Image {
		img = Image{}
	} else if img.Done && img.Attempt != attempt {
		img.Step = Step{}
	}
	if d.due(img.Step) {
		d.act(Action{Do: PullImage, Container: s.spec, Attempt: attempt})
	}
	return img.Done
}

// prefetch brings the images of containers that have never run here while
// others, or the sandbox, are still being made.
func (d *decider) prefetch() {
	for _, s := range d.slots() {
		if s.newest() == nil && !d.asked(s) {
			d.image(s)
		}
	}
}

func (d *decider) asked(s *slot) bool {
	for _, a := range d.out.Actions {
		if a.Container == s.spec {
			return true
		}
	}
	return d.Starts[s.spec.Name].Busy
}

// started tells whether a running instance has passed its startup probe; while a
// start is under way (postStart) it has not.
func (d *decider) started(s *slot) bool {
	c := s.newest()
	if !running(c) || d.Starts[s.spec.Name].Busy {
		return false
	}
	if s.spec.StartupProbe == nil || d.Probes[c.Id].Startup == Success {
		return true
	}
	old := d.reportedFor(s, c)
	return d.Probes[c.Id].Startup == Unknown && old != nil && old.Started != nil && *old.Started
}

// ready adds the readiness probe. A kubelet that has just started trusts what was
// reported of this same instance before, until a probe says otherwise.
func (d *decider) ready(s *slot) bool {
	c := s.newest()
	if !d.started(s) {
		return false
	}
	switch d.Probes[c.Id].Readiness {
	case Success:
		return true
	case Failure:
		return false
	}
	old := d.reportedFor(s, c)
	return s.spec.ReadinessProbe == nil || old != nil && old.Ready
}
