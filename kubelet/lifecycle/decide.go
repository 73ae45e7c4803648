package lifecycle

import (
	"cmp"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Decide says what comes next for a pod.
func Decide(s State) Decision {
	d := &decider{State: s}
	d.index()
	if d.ending() {
		d.terminate()
	} else {
		d.run()
	}
	d.out.Status = d.status()
	d.confirm()
	return d.out
}

// decider works one State off.
type decider struct {
	State
	sandbox    *cri.PodSandboxStatus // the newest, if ready
	inits      []*slot               // sidecars among them
	mains      []*slot
	ephemerals []*slot
	stop       *Stop
	out        Decision
}

type kind uint8

const (
	regularInit kind = iota
	sidecar
	mainContainer
	ephemeral
)

// slot is one container of the spec with its instances, newest first.
type slot struct {
	spec *corev1.Container
	kind kind
	runs []*cri.ContainerStatus
	// until is set while a restart waits for its back-off.
	until time.Time
}

func (d *decider) index() {
	runs := map[string][]*cri.ContainerStatus{}
	for _, c := range d.Containers {
		runs[c.GetMetadata().GetName()] = append(runs[c.GetMetadata().GetName()], c)
	}
	for _, list := range runs {
		slices.SortStableFunc(list, newestFirst)
	}
	fill := func(c *corev1.Container, k kind) *slot {
		s := &slot{spec: c, kind: k, runs: runs[c.Name]}
		d.recall(s)
		return s
	}
	spec := &d.Pod.Spec
	for i := range spec.InitContainers {
		k := regularInit
		if IsSidecar(&spec.InitContainers[i]) {
			k = sidecar
		}
		d.inits = append(d.inits, fill(&spec.InitContainers[i], k))
	}
	for i := range spec.Containers {
		d.mains = append(d.mains, fill(&spec.Containers[i], mainContainer))
	}
	for i := range spec.EphemeralContainers {
		d.ephemerals = append(d.ephemerals, fill((*corev1.Container)(&spec.EphemeralContainers[i].EphemeralContainerCommon), ephemeral))
	}
	if sb := NewestSandbox(d.Sandboxes); sb != nil && sb.State == cri.PodSandboxState_SANDBOX_READY {
		d.sandbox = sb
	}
}

func newestFirst(a, b *cri.ContainerStatus) int {
	return cmp.Or(cmp.Compare(b.GetMetadata().GetAttempt(), a.GetMetadata().GetAttempt()), cmp.Compare(b.CreatedAt, a.CreatedAt))
}

// NewestSandbox is the one that counts, or nil.
func NewestSandbox(list []*cri.PodSandboxStatus) *cri.PodSandboxStatus {
	if len(list) == 0 {
		return nil
	}
	return slices.MaxFunc(list, func(a, b *cri.PodSandboxStatus) int {
		return cmp.Or(cmp.Compare(a.GetMetadata().GetAttempt(), b.GetMetadata().GetAttempt()), cmp.Compare(a.CreatedAt, b.CreatedAt))
	})
}

// IsSidecar tells an init container that keeps running beside the main ones (KEP-753).
func IsSidecar(c *corev1.Container) bool {
	return c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways
}

func (d *decider) slots() []*slot { return slices.Concat(d.inits, d.mains, d.ephemerals) }

// newest is the last instance, or nil.
func (s *slot) newest() *cri.ContainerStatus {
	if len(s.runs) == 0 {
		return nil
	}
	return s.runs[0]
}

func running(c *cri.ContainerStatus) bool {
	return c != nil && c.State == cri.ContainerState_CONTAINER_RUNNING
}

// exited counts an instance whose state the runtime lost as well.
func exited(c *cri.ContainerStatus) bool {
	return c != nil && (c.State == cri.ContainerState_CONTAINER_EXITED || c.State == cri.ContainerState_CONTAINER_UNKNOWN)
}

func created(c *cri.ContainerStatus) bool {
	return c != nil && c.State == cri.ContainerState_CONTAINER_CREATED
}

// here tells whether an instance belongs to the sandbox that is ready.
func (d *decider) here(c *cri.ContainerStatus) bool {
	return c != nil && d.sandbox != nil && SandboxOf(c) == d.sandbox.Id
}

// LabelSandbox is where the kubelet notes a container's sandbox: a CRI
// ContainerStatus does not tell.
const LabelSandbox = "proa.sandbox.id"

// SandboxOf is the ID of the sandbox that a container was made in.
func SandboxOf(c *cri.ContainerStatus) string { return c.Labels[LabelSandbox] }

func (d *decider) act(a Action) { d.out.Actions = append(d.out.Actions, a) }

// wake keeps the earliest time.
func (d *decider) wake(t time.Time) {
	if d.out.Wake.IsZero() || t.Before(d.out.Wake) {
		d.out.Wake = t
	}
}

// due tells whether a step may be tried now, and arranges to come back if it must wait.
func (d *decider) due(s Step) bool {
	if s.Busy || s.Done {
		return false
	}
	if d.Now.Before(s.Retry) {
		d.wake(s.Retry)
		return false
	}
	return true
}

// ending tells whether the pod has to go, and notes why.
func (d *decider) ending() bool {
	if d.Stop != nil {
		d.stop = d.Stop
	} else if terminal(d.Pod.Status.Phase) {
		d.stop = &Stop{Reason: d.Pod.Status.Reason, Message: d.Pod.Status.Message}
	} else if d.overdue() {
		d.stop = &Stop{Reason: "DeadlineExceeded", Message: "Pod was active on the node longer than the specified deadline"}
	}
	return d.Gone || d.Pod.DeletionTimestamp != nil || d.stop != nil || !d.Deadline.IsZero() || d.finished()
}

func terminal(p corev1.PodPhase) bool { return p == corev1.PodSucceeded || p == corev1.PodFailed }

func (d *decider) overdue() bool {
	limit := d.Pod.Spec.ActiveDeadlineSeconds
	if limit == nil || d.Pod.Status.StartTime == nil {
		return false
	}
	at := d.Pod.Status.StartTime.Add(time.Duration(*limit) * time.Second)
	if d.Now.Before(at) {
		d.wake(at)
		return false
	}
	return true
}

// finished tells whether every main container ran its course, or an init
// container failed for good.
func (d *decider) finished() bool {
	for _, s := range d.inits {
		if s.kind == regularInit && d.failedForGood(s) {
			return true
		}
	}
	for _, s := range d.mains {
		if !d.over(s) {
			return false
		}
	}
	return len(d.mains) > 0
}

func (d *decider) failedForGood(s *slot) bool {
	return d.over(s) && s.newest().ExitCode != 0
}

// over tells whether a container has ended and will not be restarted.
func (d *decider) over(s *slot) bool {
	return exited(s.newest()) && !d.Starts[s.spec.Name].Busy && !d.restarts(s)
}
