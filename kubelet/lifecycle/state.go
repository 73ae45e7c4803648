// Package lifecycle decides what happens next to a pod on its node: from the pod
// as the API has it, what the container runtime reports, the results of probes and
// the outcome of earlier steps, to the next steps and the status to report.
//
// Decide is pure. It is level-triggered: it sees what is, and calling it again
// with the same State gives the same Decision, so whoever drives it may call it as
// often as it likes and start only what is not under way yet. What it promises:
//
//   - At most one instance of a container runs or starts at any time.
//   - Init containers run one after the other, in order, each to success, before
//     any main container starts; a sidecar counts as soon as it has started.
//   - A container restarts only as its restart policy allows, after a back-off
//     that is read from the record of the instance before (so it outlives the
//     kubelet's memory).
//   - A phase that is Succeeded or Failed is final, and is reported only when
//     nothing of the pod runs any more.
package lifecycle

import (
	"time"

	corev1 "k8s.io/api/core/v1"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Annotations that the kubelet puts on CRI containers to find its decisions again
// after a restart.
const (
	AnnotationHash    = "io.kubernetes.container.hash"
	AnnotationBackoff = "proa.container.backoff" // a Go duration: the wait after this instance's exit
)

// State is what is known about a pod at one moment.
type State struct {
	Pod *corev1.Pod // as the API has it, status included
	// Gone means that the API does not know the pod any more.
	Gone bool
	Now  time.Time
	// Runtime is the runtime's name, the scheme of container IDs.
	Runtime string
	HostIPs []string

	// Stop ends the pod although the API wants it to run (admission, eviction).
	Stop *Stop
	// Deadline is when the grace period of a termination under way ends; it is
	// carried over from the Decision before.
	Deadline time.Time

	Sandboxes  []*cri.PodSandboxStatus
	Containers []*cri.ContainerStatus
	// Messages are the termination messages of exited containers, by ID.
	Messages map[string]string

	// Applied are the resources that instances have, by container ID, as far as
	// this kubelet knows; NoRoom is why a pod's new resources cannot be had.
	Applied map[string]corev1.ResourceRequirements
	NoRoom  *NoRoom

	// Steps under way and their outcome.
	Volumes, Sandbox, Drain, SandboxStop, Cleanup, Delete, Remove Step

	Images  map[string]Image  // by container name
	Starts  map[string]Step   // by container name
	Kills   map[string]Kill   // by container ID
	Probes  map[string]Probes // by container ID
	Resizes map[string]Step   // by container ID
}

// NoRoom is the answer to a resize that the node cannot grant now
// (corev1.PodReasonDeferred) or ever (corev1.PodReasonInfeasible).
type NoRoom struct{ Reason, Message string }

// Step is an effect: idle (zero), under way, done, or failed.
type Step struct {
	Busy, Done      bool
	Reason, Message string // of the failure, as a container's waiting state shows it
	Failures        int
	At, Retry       time.Time // of the last failure, and before which not to try again
}

// Failed says that the last try failed.
func (s Step) Failed() bool { return s.Failures > 0 && !s.Done }

// Fail is the step after one more failure, with the wait doubled from first up to limit.
func (s Step) Fail(now time.Time, first, limit time.Duration, reason, message string) Step {
	wait := limit
	if s.Failures < 16 {
		wait = min(first<<s.Failures, limit)
	}
	return Step{Failures: s.Failures + 1, Reason: reason, Message: message, At: now, Retry: now.Add(wait)}
}

// Image is the step of bringing a container's image onto the node for one start.
type Image struct {
	Step
	Name    string // the image that the step was for
	Attempt uint32
	Ref     string // the runtime's name for it, once done
}

// Kill is a container's stop under way.
type Kill struct {
	Step
	Deadline time.Time
}

// Stop is a reason for a pod to end that the node found.
type Stop struct {
	Reason, Message string
	// Grace overrides the pod's own grace period if set.
	Grace *int64
}

// Result is what a probe has found.
type Result uint8

const (
	Unknown Result = iota
	Success
	Failure
)

// Probes are the results for one container instance. Message tells the failure.
type Probes struct {
	Startup, Liveness, Readiness Result
}

// Verb says what an Action does.
type Verb uint8

const (
	MountVolumes    Verb = iota + 1
	RunSandbox           // Attempt
	PullImage            // Container, Attempt
	StartContainer       // Container, Attempt, Backoff
	KillContainer        // ID, Container (nil when the spec no longer has it), Deadline, Message
	ResizeContainer      // ID, Container
	Drain                // traffic leaves before the processes do
	StopSandbox          // ID
	RemoveContainer      // ID
	RemoveSandbox        // ID
	Cleanup              // volumes, cgroup
	DeletePod            // from the API
	RemoveAll            // sandboxes, containers, logs
)

var verbs = [...]string{"", "MountVolumes", "RunSandbox", "PullImage", "StartContainer", "KillContainer", "ResizeContainer", "Drain",
	"StopSandbox", "RemoveContainer", "RemoveSandbox", "Cleanup", "DeletePod", "RemoveAll"}

func (v Verb) String() string { return verbs[v] }

// Action is an effect to be started now.
type Action struct {
	Do        Verb
	Container *corev1.Container
	ID        string // of a container or sandbox
	Sandbox   string // that a container starts in
	Attempt   uint32
	Backoff   time.Duration // recorded with a new container: the wait after its exit
	Deadline  time.Time
	Message   string // of the event that tells the user why
}

// Decision is what comes next.
type Decision struct {
	Actions []Action
	Status  corev1.PodStatus
	// Wake is when to decide again even if nothing happens; zero is never.
	Wake time.Time
	// Terminating says that nothing new may start: starts under way are to be
	// cancelled.
	Terminating bool
	// Deadline is to be handed back with the next State.
	Deadline time.Time
	// Done means that nothing of the pod is left on the node and in the API.
	Done bool
}
