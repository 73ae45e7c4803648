package kubelet

import (
	"context"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"proa/kubelet/lifecycle"
)

// worker carries out what lifecycle decides for one pod. Its goroutine owns all
// fields below st; others hand it functions by post and read seen.
type worker struct {
	k   *Kubelet
	uid types.UID

	mu    sync.Mutex
	mail  []func(*worker)
	ended bool
	wake  chan struct{}

	seen     atomic.Pointer[snapshot] // for the kubelet's server
	deferred atomic.Bool              // a resize of the pod waits for room
	left     atomic.Bool              // the API does not know the pod any more
	files    sync.Mutex               // held while an effect changes the pod's files

	st       lifecycle.State
	obs      *observation
	stale    bool      // the runtime is to be asked again
	blind    time.Time // when to ask again after it did not answer
	retried  int
	live     context.Context // ends when the pod is to end: nothing new starts
	cancel   context.CancelFunc
	kills    map[string]context.CancelFunc // stops under way, by container ID
	probes   map[string]*prober            // by container ID
	report   report
	renew    time.Time // when a token of a volume is to be renewed
	remount  bool      // contents of volumes are to be brought up to date
	mounting bool
	waiters  []waiter // who wants to know of exits
}

// snapshot is a pod as its worker last saw it; it is never changed.
type snapshot struct {
	pod        *corev1.Pod // with the newest status, reported or not
	sandboxes  []*cri.PodSandboxStatus
	containers []*cri.ContainerStatus
}

// start makes the worker of a pod and lets it go. o is what the runtime has of
// the pod, if anything is known yet.
func (k *Kubelet) start(ctx context.Context, pod *corev1.Pod, o *observation) *worker {
	w := &worker{
		k: k, uid: pod.UID, wake: make(chan struct{}, 1),
		st: lifecycle.State{
			Pod: pod, Runtime: k.runtime, HostIPs: k.node.HostIPs,
			Messages: map[string]string{}, Images: map[string]lifecycle.Image{}, Starts: map[string]lifecycle.Step{},
			Kills: map[string]lifecycle.Kill{}, Probes: map[string]lifecycle.Probes{},
			Applied: map[string]corev1.ResourceRequirements{}, Resizes: map[string]lifecycle.Step{},
		},
		kills: map[string]context.CancelFunc{}, probes: map[string]*prober{},
		stale: o == nil,
	}
	w.live, w.cancel = context.WithCancel(ctx)
	if o == nil {
		w.st.Stop = k.admit(pod)
	}
	w.see(orEmpty(o))
	w.publish(&pod.Status)
	k.mu.Lock()
	k.workers[pod.UID] = w
	k.mu.Unlock()
	k.refs.follow(ctx, w, pod)
	k.effects.Go(func() { w.run(ctx) })
	return w
}

func orEmpty(o *observation) *observation {
	if o == nil {
		return &observation{}
	}
	return o
}

// post hands the worker something to do before its next decision; it returns
// false if the worker has ended. Safe for concurrent use; never blocks.
func (w *worker) post(f func(*worker)) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ended {
		return false
	}
	w.mail = append(w.mail, f)
	select {
	case w.wake <- struct{}{}:
	default:
	}
	return true
}

func (w *worker) read() {
	w.mu.Lock()
	mail := w.mail
	w.mail = nil
	w.mu.Unlock()
	for _, f := range mail {
		f(w)
	}
}

// look has the runtime asked again before the next decision.
func (w *worker) look() { w.stale = true }

// update takes a newer state of the pod from the API. What failed with the old
// spec is tried at once with the new one.
func (w *worker) update(p *corev1.Pod) {
	old := w.st.Pod
	if !newer(p, old) {
		return
	}
	w.st.Pod = p
	if p.Generation != old.Generation {
		w.retry()
		clear(w.st.Resizes)
	}
	if len(p.Spec.Volumes) > 0 && (!sameMap(p.Labels, old.Labels) || !sameMap(p.Annotations, old.Annotations)) {
		w.remount = true
	}
	if p.Generation != old.Generation {
		w.k.refs.follow(w.live, w, p)
	}
}

func sameMap(a, b map[string]string) bool {
	if len(a) != len(b) {
		return false
	}
	for k, v := range a {
		if b[k] != v {
			return false
		}
	}
	return true
}

// newer compares resource versions; ones that are not numbers count as newer.
func newer(a, b *corev1.Pod) bool {
	x, err1 := strconv.ParseUint(a.ResourceVersion, 10, 64)
	y, err2 := strconv.ParseUint(b.ResourceVersion, 10, 64)
	return err1 != nil || err2 != nil || x > y
}

// retry clears the waits of steps that failed, because what they failed at may
// have changed.
func (w *worker) retry() {
	again := func(s lifecycle.Step) lifecycle.Step {
		s.Retry = time.Time{}
		return s
	}
	w.st.Volumes, w.st.Sandbox = again(w.st.Volumes), again(w.st.Sandbox)
	for name, s := range w.st.Starts {
		w.st.Starts[name] = again(s)
	}
}

// referred is told when a ConfigMap or Secret that the pod uses has changed.
func (w *worker) referred() {
	w.remount = true
	w.retry()
}

func (w *worker) run(ctx context.Context) {
	defer w.stop()
	timer := time.NewTimer(time.Hour)
	timer.Stop()
	for {
		w.read()
		wake, done := w.step(ctx)
		if done {
			return
		}
		timer.Stop()
		if !wake.IsZero() {
			timer.Reset(max(time.Until(wake), 0))
		}
		select {
		case <-ctx.Done():
			return
		case <-w.wake:
		case <-timer.C:
		}
	}
}

// stop lets go of what the worker holds; the pod's containers are not touched.
func (w *worker) stop() {
	w.cancel()
	w.mu.Lock()
	w.ended = true
	w.mu.Unlock()
	w.read()
	w.wakeWaiters(true)
	w.k.roomChanged()
	for _, p := range w.probes {
		p.stop()
	}
	w.k.refs.drop(w)
	w.k.logs.forget(w)
	w.k.mu.Lock()
	delete(w.k.workers, w.uid)
	w.k.mu.Unlock()
}

// step is one turn: look, decide, report, act. It returns when to come back at
// the latest.
func (w *worker) step(ctx context.Context) (wake time.Time, done bool) {
	if w.stale && !w.ask(ctx) {
		return w.blind, false
	}
	w.st.Now = time.Now()
	w.fit()
	d := lifecycle.Decide(w.st)
	w.st.Deadline = d.Deadline
	if d.Terminating {
		w.cancel()
	}
	w.publish(&d.Status)
	w.attend(ctx, &d)
	wake = earliest(d.Wake, w.tell(ctx, &d.Status), w.refresh(ctx, d.Terminating))
	for _, a := range d.Actions {
		w.act(ctx, a)
	}
	return wake, d.Done
}

func earliest(times ...time.Time) time.Time {
	times = slices.DeleteFunc(times, time.Time.IsZero)
	if len(times) == 0 {
		return time.Time{}
	}
	return slices.MinFunc(times, time.Time.Compare)
}

// ask brings the observation up to date. Without one there is no decision: a
// container that is not seen might be started twice.
func (w *worker) ask(ctx context.Context) bool {
	if time.Now().Before(w.blind) {
		return false
	}
	o, err := w.k.observe(ctx, w.uid, w.obs)
	if err != nil {
		w.retried++
		w.blind = time.Now().Add(min(100*time.Millisecond<<min(w.retried, 10), 30*time.Second))
		if ctx.Err() == nil {
			w.k.log.Warn("the runtime does not answer", "pod", w.name(), "err", err)
		}
		return false
	}
	w.stale, w.retried, w.blind = false, 0, time.Time{}
	w.see(o)
	return true
}

// see takes an observation in, and the last words of instances that have ended.
func (w *worker) see(o *observation) {
	w.obs = o
	w.st.Sandboxes, w.st.Containers = o.sandboxes, o.containers
	words := make(map[string]string, len(o.containers))
	for _, c := range o.containers {
		if c.State != cri.ContainerState_CONTAINER_EXITED {
			continue
		}
		text, ok := w.st.Messages[c.Id]
		if !ok {
			text = w.k.lastWords(w.st.Pod, c, len(w.st.Pod.Spec.Containers))
		}
		words[c.Id] = text
	}
	w.st.Messages = words
	w.wakeWaiters(false)
	w.k.logs.follow(w)
}

// publish shows the pod to the kubelet's server.
func (w *worker) publish(status *corev1.PodStatus) {
	pod := *w.st.Pod
	pod.Status = *status
	w.seen.Store(&snapshot{&pod, w.st.Sandboxes, w.st.Containers})
}

func (w *worker) name() string { return w.st.Pod.Namespace + "/" + w.st.Pod.Name }

// refresh brings the content of volumes up to date when something it is made of
// has changed, or a token is due.
func (w *worker) refresh(ctx context.Context, terminating bool) time.Time {
	if terminating || !w.st.Volumes.Done {
		return time.Time{}
	}
	due := !w.renew.IsZero() && !time.Now().Before(w.renew)
	if w.mounting || !due && !w.remount {
		return w.renew
	}
	w.mounting, w.remount = true, false
	pod := w.st.Pod
	w.k.effects.Go(func() {
		renew, err := w.setup(w.live, pod)
		w.post(func(w *worker) {
			w.mounting = false
			w.renew = renew
			if err != nil && w.live.Err() == nil {
				w.mountFailed(pod, err)
				w.renew = time.Now().Add(time.Minute)
			}
		})
	})
	return time.Time{}
}
