package lifecycle

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// world is a node in miniature: it carries actions out with chance as its
// runtime, and checks what must hold after every step.
type world struct {
	t       *testing.T
	r       *rand.Rand
	s       State
	next    int
	pending []func() // effects under way; any of them may be the next to end
	trace   []string
	best    corev1.PodPhase
	inited  map[string]bool // regular init containers that succeeded, by sandbox/name
	deleted bool
	exits   float64 // chance of an exit a step
}

func randomPod(r *rand.Rand) *corev1.Pod {
	always := corev1.ContainerRestartPolicyAlways
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "ns", UID: "u", Generation: 1}}
	p.Spec.RestartPolicy = []corev1.RestartPolicy{corev1.RestartPolicyAlways, corev1.RestartPolicyOnFailure, corev1.RestartPolicyNever}[r.IntN(3)]
	for i := range r.IntN(4) {
		c := corev1.Container{Name: fmt.Sprintf("init%d", i), Image: "i"}
		if r.IntN(2) == 0 {
			c.RestartPolicy = &always
			if r.IntN(2) == 0 {
				c.StartupProbe = &corev1.Probe{}
			}
		}
		p.Spec.InitContainers = append(p.Spec.InitContainers, c)
	}
	for i := range 1 + r.IntN(3) {
		c := corev1.Container{Name: fmt.Sprintf("main%d", i), Image: "i"}
		if r.IntN(3) == 0 {
			c.LivenessProbe = &corev1.Probe{}
		}
		p.Spec.Containers = append(p.Spec.Containers, c)
	}
	return p
}

func newWorld(t *testing.T, seed uint64) *world {
	r := rand.New(rand.NewPCG(seed, 1))
	w := &world{t: t, r: r, inited: map[string]bool{}, exits: 0.2}
	w.s = State{Pod: randomPod(r), Now: time.Unix(1_000_000, 0), Runtime: "r", HostIPs: []string{"192.0.2.1"}}
	w.forget()
	return w
}

// forget is a restart of the kubelet: effects under way are cut off, memory is lost.
func (w *world) forget() {
	s := State{Pod: w.s.Pod, Now: w.s.Now, Runtime: w.s.Runtime, HostIPs: w.s.HostIPs, Sandboxes: w.s.Sandboxes, Containers: w.s.Containers, Gone: w.s.Gone}
	s.Images, s.Starts, s.Kills, s.Probes = map[string]Image{}, map[string]Step{}, map[string]Kill{}, map[string]Probes{}
	w.s, w.pending = s, nil
}

func (w *world) fatal(format string, args ...any) {
	w.t.Helper()
	w.t.Fatalf(format+"\n%s", append(args, strings.Join(w.trace, "\n"))...)
}

func (w *world) note(format string, args ...any) {
	w.trace = append(w.trace, fmt.Sprintf(format, args...))
}

// turn decides once, begins what was decided and lets something happen.
func (w *world) turn() (done bool) {
	d := Decide(w.s)
	w.s.Deadline = d.Deadline
	w.check(&d)
	for _, a := range d.Actions {
		w.note("%s %s %s attempt %d", a.Do, a.ID, name(a), a.Attempt)
		w.begin(a)
	}
	if d.Done {
		return true
	}
	if w.r.IntN(3) > 0 {
		w.s.Pod = w.s.Pod.DeepCopy()
		w.s.Pod.Status = d.Status // reported
	}
	w.happen(&d)
	return false
}

func name(a Action) string {
	if a.Container == nil {
		return ""
	}
	return a.Container.Name
}

func (w *world) happen(d *Decision) {
	switch {
	case len(w.pending) > 0 && w.r.IntN(4) > 0:
		i := w.r.IntN(len(w.pending))
		end := w.pending[i]
		w.pending = slices.Delete(w.pending, i, i+1)
		end()
	case w.r.Float64() < w.exits:
		w.exitOne()
	case w.r.IntN(60) == 0 && len(w.s.Sandboxes) > 0:
		w.note("sandbox dies")
		w.sandboxDies()
	case w.r.IntN(60) == 0:
		w.note("kubelet restarts")
		w.forget()
	case !d.Wake.IsZero():
		w.s.Now = d.Wake
	default:
		w.s.Now = w.s.Now.Add(time.Duration(w.r.IntN(2000)) * time.Millisecond)
	}
	for id, p := range w.s.Probes { // started or failing now and then
		if w.r.IntN(3) == 0 {
			p.Startup = Success
		}
		if w.exits > 0 && w.r.IntN(100) == 0 {
			p.Liveness = Failure
		}
		w.s.Probes[id] = p
	}
}

func (w *world) exitOne() {
	var running []*cri.ContainerStatus
	for _, c := range w.s.Containers {
		if c.State == cri.ContainerState_CONTAINER_RUNNING {
			running = append(running, c)
		}
	}
	if len(running) > 0 {
		c := running[w.r.IntN(len(running))]
		w.exit(c.Id, int32(w.r.IntN(2)))
	}
}

func (w *world) exit(id string, code int32) {
	w.change(id, func(c *cri.ContainerStatus) {
		if c.State != cri.ContainerState_CONTAINER_RUNNING {
			return
		}
		w.note("%s exits with %d", c.Metadata.Name, code)
		c.State, c.ExitCode, c.FinishedAt = cri.ContainerState_CONTAINER_EXITED, code, w.s.Now.UnixNano()
		if code == 0 {
			w.inited[SandboxOf(c)+"/"+c.Metadata.Name] = true
		}
	})
}

func (w *world) change(id string, f func(*cri.ContainerStatus)) {
	w.s.Containers = slices.Clone(w.s.Containers)
	for i, c := range w.s.Containers {
		if c.Id == id {
			next := proto.Clone(c).(*cri.ContainerStatus)
			f(next)
			w.s.Containers[i] = next
		}
	}
}

func (w *world) sandboxDies() {
	w.s.Sandboxes = slices.Clone(w.s.Sandboxes)
	for i, sb := range w.s.Sandboxes {
		next := proto.Clone(sb).(*cri.PodSandboxStatus)
		next.State = cri.PodSandboxState_SANDBOX_NOTREADY
		w.s.Sandboxes[i] = next
	}
	for _, c := range w.s.Containers {
		w.exit(c.Id, 137)
	}
}

// later queues the end of an effect; the kubelet's restart cuts it off.
func (w *world) later(end func()) { w.pending = append(w.pending, end) }

func (w *world) fails() bool { return w.r.IntN(8) == 0 }

func (w *world) begin(a Action) {
	once := func(step *Step, effect func()) {
		if step.Busy {
			w.fatal("%s is started while it is under way", a.Do)
		}
		step.Busy = true
		w.later(func() {
			if w.fails() {
				*step = step.Fail(w.s.Now, time.Second, time.Minute, "Broken", "by chance")
				return
			}
			effect()
			*step = Step{Done: a.Do != RunSandbox && a.Do != StopSandbox}
		})
	}
	switch a.Do {
	case MountVolumes:
		once(&w.s.Volumes, func() {})
	case RunSandbox:
		once(&w.s.Sandbox, func() { w.makeSandbox(a.Attempt) })
	case StopSandbox:
		once(&w.s.SandboxStop, w.sandboxDies)
	case Drain:
		once(&w.s.Drain, func() {})
	case Cleanup:
		once(&w.s.Cleanup, func() {})
	case DeletePod:
		once(&w.s.Delete, func() { w.s.Gone = true })
	case RemoveAll:
		once(&w.s.Remove, func() { w.s.Sandboxes, w.s.Containers = nil, nil })
	case PullImage:
		w.pull(a)
	case StartContainer:
		w.start(a)
	case KillContainer:
		w.kill(a)
	case RemoveContainer, RemoveSandbox:
		w.s.Containers = slices.DeleteFunc(slices.Clone(w.s.Containers), func(c *cri.ContainerStatus) bool { return c.Id == a.ID })
		w.s.Sandboxes = slices.DeleteFunc(slices.Clone(w.s.Sandboxes), func(s *cri.PodSandboxStatus) bool { return s.Id == a.ID })
	}
}

func (w *world) makeSandbox(attempt uint32) {
	w.next++
	w.s.Sandboxes = append(slices.Clone(w.s.Sandboxes), &cri.PodSandboxStatus{Id: fmt.Sprintf("sb%d", w.next), State: cri.PodSandboxState_SANDBOX_READY,
		Metadata: &cri.PodSandboxMetadata{Name: "p", Attempt: attempt}, CreatedAt: w.s.Now.UnixNano(), Network: &cri.PodSandboxNetworkStatus{Ip: fmt.Sprintf("10.0.0.%d", w.next)}})
}

func (w *world) pull(a Action) {
	img := w.s.Images[a.Container.Name]
	if img.Busy {
		w.fatal("an image is pulled twice at once")
	}
	w.s.Images[a.Container.Name] = Image{Name: a.Container.Image, Attempt: a.Attempt, Step: Step{Busy: true, Failures: img.Failures}}
	w.later(func() {
		img := w.s.Images[a.Container.Name]
		if w.fails() {
			img.Step = img.Step.Fail(w.s.Now, 10*time.Second, 5*time.Minute, ReasonPullFailed, "by chance")
		} else {
			img.Step = Step{Done: true}
		}
		w.s.Images[a.Container.Name] = img
	})
}

func (w *world) start(a Action) {
	name := a.Container.Name
	w.mayStart(a)
	st := w.s.Starts[name]
	st.Busy = true
	w.s.Starts[name] = st
	w.later(func() { w.create(a) })
}

// create is the first half of a start; a kubelet that dies after it leaves an
// instance that never ran.
func (w *world) create(a Action) {
	w.next++
	id, name := fmt.Sprintf("c%d", w.next), a.Container.Name
	w.s.Containers = append(slices.Clone(w.s.Containers), &cri.ContainerStatus{
		Id: id, Metadata: &cri.ContainerMetadata{Name: name, Attempt: a.Attempt}, State: cri.ContainerState_CONTAINER_CREATED,
		CreatedAt: w.s.Now.UnixNano(), Labels: map[string]string{LabelSandbox: a.Sandbox},
		Annotations: map[string]string{AnnotationHash: Hash(a.Container), AnnotationBackoff: a.Backoff.String()},
	})
	w.later(func() {
		delete(w.s.Starts, name)
		if w.fails() || !w.alive(a.Sandbox) {
			w.change(id, func(c *cri.ContainerStatus) {
				c.State, c.ExitCode, c.FinishedAt = cri.ContainerState_CONTAINER_EXITED, 128, w.s.Now.UnixNano()
			})
			return
		}
		w.change(id, func(c *cri.ContainerStatus) {
			c.State, c.StartedAt = cri.ContainerState_CONTAINER_RUNNING, w.s.Now.UnixNano()
		})
		w.s.Probes[id] = Probes{}
	})
}

func (w *world) alive(sandbox string) bool {
	return slices.ContainsFunc(w.s.Sandboxes, func(s *cri.PodSandboxStatus) bool {
		return s.Id == sandbox && s.State == cri.PodSandboxState_SANDBOX_READY
	})
}

// mayStart checks a start against the promises.
func (w *world) mayStart(a Action) {
	name := a.Container.Name
	if w.s.Starts[name].Busy {
		w.fatal("%s is started twice at once", name)
	}
	for _, c := range w.s.Containers {
		if c.Metadata.Name == name && c.State == cri.ContainerState_CONTAINER_RUNNING {
			w.fatal("%s is started while an instance runs", name)
		}
		if c.Metadata.Name == name && c.Metadata.Attempt >= a.Attempt && c.State != cri.ContainerState_CONTAINER_CREATED {
			w.fatal("%s: attempt %d was used before", name, a.Attempt)
		}
	}
	if terminal(w.s.Pod.Status.Phase) || w.s.Pod.DeletionTimestamp != nil {
		w.fatal("%s is started in a pod that ends", name)
	}
	for i := range w.s.Pod.Spec.InitContainers {
		init := &w.s.Pod.Spec.InitContainers[i]
		if init.Name == name {
			break
		}
		if !IsSidecar(init) && !w.inited[a.Sandbox+"/"+init.Name] {
			w.fatal("%s is started before %s has succeeded", name, init.Name)
		}
	}
	w.mayRestart(a)
}

func (w *world) mayRestart(a Action) {
	var last *cri.ContainerStatus
	for _, c := range w.s.Containers {
		if c.Metadata.Name == a.Container.Name && (last == nil || c.Metadata.Attempt > last.Metadata.Attempt) {
			last = c
		}
	}
	main := slices.ContainsFunc(w.s.Pod.Spec.Containers, func(c corev1.Container) bool { return c.Name == a.Container.Name })
	if last == nil || !main {
		return
	}
	p := w.s.Pod.Spec.RestartPolicy
	if p == corev1.RestartPolicyNever || p == corev1.RestartPolicyOnFailure && last.ExitCode == 0 {
		w.fatal("%s is restarted after exit %d under policy %s", a.Container.Name, last.ExitCode, p)
	}
	wait, _ := time.ParseDuration(last.Annotations[AnnotationBackoff])
	if w.alive(SandboxOf(last)) && w.s.Now.Before(time.Unix(0, last.FinishedAt).Add(wait)) && last.FinishedAt-last.StartedAt < int64(calm) {
		w.fatal("%s is restarted before its back-off of %v is over", a.Container.Name, wait)
	}
}

func (w *world) kill(a Action) {
	for _, c := range w.s.Containers {
		ends := !w.s.Deadline.IsZero() || w.s.Probes[a.ID].Liveness == Failure || !w.alive(SandboxOf(c))
		if c.Id == a.ID && !ends {
			w.fatal("%s is killed for no reason: %s", c.Metadata.Name, a.Message)
		}
	}
	w.s.Kills[a.ID] = Kill{Step: Step{Busy: true}, Deadline: a.Deadline}
	w.later(func() {
		delete(w.s.Kills, a.ID)
		w.exit(a.ID, 137)
	})
}

var order = map[corev1.PodPhase]int{"": 0, corev1.PodPending: 1, corev1.PodRunning: 2, corev1.PodSucceeded: 3, corev1.PodFailed: 3}

// check holds a decision against what must be true of any.
func (w *world) check(d *Decision) {
	old, now := w.s.Pod.Status.Phase, d.Status.Phase
	if order[now] < order[old] || terminal(old) && now != old {
		w.fatal("the phase goes from %s to %s", old, now)
	}
	if terminal(now) {
		for _, c := range w.s.Containers {
			if c.State == cri.ContainerState_CONTAINER_RUNNING {
				w.fatal("the pod has %s and %s runs", now, c.Metadata.Name)
			}
		}
	}
	again := Decide(w.s)
	if len(again.Actions) != len(d.Actions) || again.Status.Phase != now {
		w.fatal("a second look decides otherwise")
	}
	for _, s := range d.Status.ContainerStatuses {
		if n := count(s.State); n != 1 {
			w.fatal("%s has %d states", s.Name, n)
		}
		if s.Ready && s.State.Running == nil {
			w.fatal("%s is ready and does not run", s.Name)
		}
	}
}

func count(s corev1.ContainerState) (n int) {
	for _, set := range []bool{s.Waiting != nil, s.Running != nil, s.Terminated != nil} {
		if set {
			n++
		}
	}
	return n
}

// TestSimulation lets many pods live through chance, then asks that each comes to
// rest: it runs while nothing happens to it, and leaves when it is deleted.
func TestSimulation(t *testing.T) {
	seeds := 120
	if testing.Short() {
		seeds = 60
	}
	for seed := range uint64(seeds) {
		w := newWorld(t, seed)
		w.note("seed %d policy %s, %d init, %d main", seed, w.s.Pod.Spec.RestartPolicy, len(w.s.Pod.Spec.InitContainers), len(w.s.Pod.Spec.Containers))
		for range w.r.IntN(250) {
			if w.turn() {
				w.fatal("a pod is done that nobody deleted")
			}
		}
		w.exits = 0
		if w.r.IntN(4) > 0 {
			w.s.Pod = w.s.Pod.DeepCopy()
			now := metav1.NewTime(w.s.Now)
			grace := int64(w.r.IntN(60))
			w.s.Pod.DeletionTimestamp, w.s.Pod.DeletionGracePeriodSeconds = &now, &grace
		} else {
			w.s.Gone = true
		}
		w.note("deleted")
		done := false
		for range 3000 {
			if done = w.turn(); done {
				break
			}
		}
		if !done || len(w.s.Containers) > 0 || len(w.s.Sandboxes) > 0 {
			w.fatal("the pod does not go away")
		}
	}
}
