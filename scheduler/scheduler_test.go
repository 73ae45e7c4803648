package scheduler

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"proa/api"
	"proa/client"
	"proa/client/clienttest"
)

// running is a scheduler on a fake server until the test ends.
type running struct {
	*clienttest.Client
	t      *testing.T
	writes atomic.Int64
	mu     sync.Mutex
	fail   func(verb string, obj client.Object, sub string) error
}

func run(t *testing.T, objs ...client.Object) *running {
	r := &running{Client: clienttest.New(), t: t}
	r.Fault = r.fault
	for _, obj := range objs {
		r.Inject(obj)
	}
	r.start(r.Client)
	return r
}

func (r *running) start(c client.Client) {
	ctx, cancel := context.WithCancel(context.Background())
	stopped := make(chan error, 1)
	go func() { stopped <- New(Config{Client: c}).Run(ctx) }()
	r.t.Cleanup(func() {
		cancel()
		if err := <-stopped; !errors.Is(err, context.Canceled) {
			r.t.Errorf("Run: %v", err)
		}
	})
	synctest.Wait()
}

func (r *running) fault(verb string, obj client.Object, sub string) error {
	r.writes.Add(1)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.fail != nil {
		return r.fail(verb, obj, sub)
	}
	return nil
}

func (r *running) add(p *corev1.Pod) {
	r.t.Helper()
	if _, err := r.Create(r.t.Context(), p); err != nil {
		r.t.Fatal(err)
	}
	synctest.Wait()
}

func (r *running) pod(name string) *corev1.Pod {
	return client.Get[corev1.Pod](r.View(), "default", name)
}

// change writes a pod's successor.
func (r *running) change(name string, f func(*corev1.Pod)) {
	r.t.Helper()
	p := r.pod(name).DeepCopy()
	f(p)
	if _, err := r.Update(r.t.Context(), p, ""); err != nil {
		r.t.Fatal(err)
	}
	synctest.Wait()
}

func (r *running) eventReasons() string {
	var out []string
	for e := range client.List[corev1.Event](r.View(), "") {
		out = append(out, e.InvolvedObject.Name+" "+e.Reason+": "+e.Message)
	}
	return strings.Join(out, "\n")
}

// valid makes a pod one that the API takes.
func valid(p *corev1.Pod) {
	p.UID = ""
	p.Spec.Containers[0].TerminationMessagePolicy = corev1.TerminationMessageReadFile
}

func TestPodIsBound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := run(t, aNode("a", "z"))
		r.add(aPod("p", valid, cpu("1")))
		if got := r.pod("p").Spec.NodeName; got != "a" {
			t.Fatalf("on %q", got)
		}
		if got := r.eventReasons(); got != "p Scheduled: Successfully assigned default/p to a" {
			t.Error(got)
		}
		other := aPod("q", valid)
		other.Spec.SchedulerName = "somebody-else"
		r.add(other)
		time.Sleep(time.Minute)
		if got := r.pod("q").Spec.NodeName; got != "" {
			t.Errorf("somebody else's pod put on %q", got)
		}
	})
}

func TestPodWaitsForRoomWithoutPolling(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := run(t, aNode("a", "z"), aPod("x", cpu("3"), on("a")))
		r.add(aPod("p", valid, cpu("2")))
		const message = "0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod."
		c := condition(r.pod("p"), corev1.PodScheduled)
		if c == nil || c.Status != corev1.ConditionFalse || c.Reason != "Unschedulable" || c.Message != message {
			t.Fatalf("condition %+v", c)
		}
		if got := r.eventReasons(); got != "p FailedScheduling: "+message {
			t.Error(got)
		}
		before := r.writes.Load()
		time.Sleep(24 * time.Hour)
		if n := r.writes.Load() - before; n != 0 {
			t.Errorf("%d writes in a day in which nothing happened", n)
		}
		if err := r.Delete(t.Context(), client.Row[corev1.Pod](), client.Key{Namespace: "default", Name: "x"}, metav1.DeleteOptions{GracePeriodSeconds: new(int64)}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if got := r.pod("p").Spec.NodeName; got != "a" {
			t.Errorf("room came free, but the pod is on %q", got)
		}
	})
}

func TestBackOff(t *testing.T) {
	for attempts, want := range map[int]time.Duration{1: time.Second, 2: 2 * time.Second, 4: 8 * time.Second, 5: 10 * time.Second, 100: 10 * time.Second} {
		if got := backOff(attempts); got != want {
			t.Errorf("after %d attempts %v, want %v", attempts, got, want)
		}
	}
	synctest.Test(t, func(t *testing.T) {
		r := run(t)
		r.add(aPod("p", valid))
		if c := condition(r.pod("p"), corev1.PodScheduled); c == nil || c.Message != "no nodes available to schedule pods" {
			t.Fatalf("condition %+v", c)
		}
		start := time.Now()
		r.Inject(aNode("a", "z"))
		synctest.Wait()
		if r.pod("p").Spec.NodeName != "" {
			t.Fatal("no back-off")
		}
		time.Sleep(firstBackOff)
		synctest.Wait()
		if r.pod("p").Spec.NodeName != "a" || time.Since(start) != firstBackOff {
			t.Errorf("on %q after %v", r.pod("p").Spec.NodeName, time.Since(start))
		}
	})
}

func TestGates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := run(t, aNode("a", "z"))
		r.add(aPod("p", valid, spec(t, "schedulingGates: [{name: example.com/wait}]")))
		time.Sleep(time.Minute)
		if got := r.pod("p").Spec.NodeName; got != "" {
			t.Fatalf("gated, but on %q", got)
		}
		r.change("p", func(p *corev1.Pod) { p.Spec.SchedulingGates = nil })
		if got := r.pod("p").Spec.NodeName; got != "a" {
			t.Errorf("on %q", got)
		}
	})
}

func TestPreemptionMakesRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		grace := func(p *corev1.Pod) {
			seconds := int64(30)
			p.Spec.TerminationGracePeriodSeconds = &seconds
		}
		r := run(t, aNode("a", "z"), aPod("x", cpu("3"), on("a"), grace))
		r.add(aPod("p", valid, cpu("2"), priority(100)))
		p, x := r.pod("p"), r.pod("x")
		if p.Status.NominatedNodeName != "a" || p.Spec.NodeName != "" {
			t.Fatalf("nominated %q, on %q", p.Status.NominatedNodeName, p.Spec.NodeName)
		}
		if c := condition(x, corev1.DisruptionTarget); x.DeletionTimestamp == nil || c == nil || c.Reason != "PreemptionByScheduler" {
			t.Fatalf("victim %v %+v", x.DeletionTimestamp, c)
		}
		r.add(aPod("small", valid, cpu("1500m")))
		time.Sleep(10 * time.Second)
		if got := r.pod("small").Spec.NodeName; got != "" {
			t.Errorf("the room was given away to a lesser pod")
		}
		zero := int64(0)
		if err := r.Delete(t.Context(), client.Row[corev1.Pod](), client.KeyOf(x), metav1.DeleteOptions{GracePeriodSeconds: &zero}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(longestBackOff)
		synctest.Wait()
		if got := r.pod("p").Spec.NodeName; got != "a" {
			t.Errorf("on %q", got)
		}
		if got := r.eventReasons(); !strings.Contains(got, "x Preempted: Preempted by pod "+string(p.UID)+" on node a") {
			t.Error(got)
		}
	})
}

func TestRefusedBindingIsTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := run(t, aNode("a", "z"))
		tries := 0
		r.fail = func(verb string, _ client.Object, sub string) error {
			if sub != "binding" {
				return nil
			}
			if tries++; tries < 3 {
				return errors.New("the server is on fire")
			}
			return nil
		}
		r.add(aPod("p", valid, cpu("3")))
		time.Sleep(3 * time.Second)
		synctest.Wait()
		if got := r.pod("p").Spec.NodeName; got != "a" || tries != 3 {
			t.Errorf("on %q after %d tries", got, tries)
		}
	})
}

// What was decided counts before anybody has confirmed it.
func TestDecisionsCountAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &running{Client: clienttest.New(), t: t}
		release := make(chan struct{})
		r.start(&slowBinding{Client: r.Client, release: release})
		for i := range 6 {
			r.Inject(aPod(numbered("p", i), cpu("1")))
		}
		r.Inject(aNode("a", "z"))
		time.Sleep(5 * time.Second)
		close(release)
		time.Sleep(5 * time.Second)
		bound := 0
		for p := range client.List[corev1.Pod](r.View(), "") {
			if p.Spec.NodeName != "" {
				bound++
			}
		}
		if bound != 4 {
			t.Errorf("%d pods of 1 CPU on a node of 4", bound)
		}
	})
}

type slowBinding struct {
	*clienttest.Client
	release chan struct{}
}

func (s *slowBinding) Post(ctx context.Context, r *api.Resource, key client.Key, sub string, body client.Object) (client.Object, error) {
	<-s.release
	return s.Client.Post(ctx, r, key, sub, body)
}
