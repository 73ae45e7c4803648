package reconcile

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"proa/client"
	"proa/client/clienttest"
)

func configMap(name string) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name}}
}

func own() []Watch { return []Watch{{Resource: client.Row[corev1.ConfigMap]()}} }

// running runs controllers in a bubble of its own time while fn runs.
func running(t *testing.T, c *clienttest.Client, fn func(), controllers ...Controller) {
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- Run(ctx, c, slog.New(slog.DiscardHandler), controllers...) }()
		synctest.Wait()
		fn()
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

type journal struct {
	mu    sync.Mutex
	lines []string
}

func (j *journal) add(format string, args ...any) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.lines = append(j.lines, fmt.Sprintf(format, args...))
}

func (j *journal) text() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return strings.Join(j.lines, " ")
}

func TestEveryExistingObjectIsSeenOnceThenChanges(t *testing.T) {
	c, j := clienttest.New(configMap("a"), configMap("b")), &journal{}
	running(t, c, func() {
		if got := j.text(); got != "a b" {
			t.Errorf("at the start saw %q, want a b", got)
		}
		if _, err := c.Create(t.Context(), configMap("c")); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if got := j.text(); got != "a b c" {
			t.Errorf("then saw %q, want a b c", got)
		}
	}, Controller{Name: "x", Watches: own(), Decide: func(_ client.View, _ time.Time, key client.Key) Plan {
		j.add("%s", key.Name)
		return Plan{}
	}})
}

func TestAnyResourceIsFollowed(t *testing.T) {
	c, j := clienttest.New(configMap("a")), &journal{}
	keys := func(_ client.View, e client.Event) []client.Key {
		return []client.Key{{Name: e.Resource.Plural + "." + e.Object().GetName()}}
	}
	running(t, c, func() {
		if _, err := c.Create(t.Context(), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "s"}}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if got := j.text(); got != "configmaps.a secrets.s" {
			t.Errorf("saw %q", got)
		}
	}, Controller{Name: "x", Watches: []Watch{{Keys: keys}}, Decide: func(_ client.View, _ time.Time, key client.Key) Plan {
		j.add("%s", key.Name)
		return Plan{}
	}})
}

func TestAfterWakesOnTimeAndAChangeReplacesIt(t *testing.T) {
	c, j := clienttest.New(configMap("a")), &journal{}
	began := time.Time{}
	running(t, c, func() {
		time.Sleep(30 * time.Second)
		c.Inject(configMap("a")) // a change: the wish of 0s is void, the new one counts
		time.Sleep(59 * time.Second)
		if got := j.text(); got != "0s 30s" {
			t.Errorf("woken at %q, want 0s 30s", got)
		}
		time.Sleep(2 * time.Second)
		if got := j.text(); got != "0s 30s 1m30s" {
			t.Errorf("woken at %q, want 0s 30s 1m30s", got)
		}
	}, Controller{Name: "x", Watches: own(), Decide: func(_ client.View, now time.Time, _ client.Key) Plan {
		if began.IsZero() {
			began = now
		}
		j.add("%v", now.Sub(began).Round(time.Second))
		return Plan{After: time.Minute}
	}})
}

func TestFailuresBackOff(t *testing.T) {
	var times []time.Time
	var mu sync.Mutex
	running(t, clienttest.New(configMap("a")), func() { time.Sleep(4000 * time.Second) },
		Controller{Name: "x", Watches: own(), Decide: func(_ client.View, now time.Time, _ client.Key) Plan {
			mu.Lock()
			defer mu.Unlock()
			times = append(times, now)
			if len(times) == 3 {
				panic("on purpose")
			}
			return Plan{Err: errors.New("no")}
		}})
	want := firstRetry
	for i := 1; i < len(times); i++ {
		if got := times[i].Sub(times[i-1]); got != want {
			t.Fatalf("try %d came after %v, want %v", i, got, want)
		}
		want = min(2*want, longestRetry)
	}
	if len(times) < 20 || want != longestRetry {
		t.Errorf("%d tries, last pause %v", len(times), want)
	}
}

func TestConflictIsDecidedAgainAtOnce(t *testing.T) {
	c, tries := clienttest.New(configMap("a")), 0
	c.Fault = func(verb string, obj client.Object, _ string) error {
		if _, isEvent := obj.(*corev1.Event); isEvent {
			t.Error("a conflict was reported")
		}
		if verb == "update" && tries == 1 { // somebody else writes between the decision and the write
			c.Inject(configMap("a"))
		}
		return nil
	}
	began := time.Time{}
	running(t, c, func() {
		a := c.View().Get(client.Row[corev1.ConfigMap](), "ns", "a").(*corev1.ConfigMap)
		// One that conflicts, one that writes, one that the write wakes; and
		// one more where the other's write is seen only after the second began.
		if tries < 3 || tries > 4 || a.Data["k"] != "v" {
			t.Errorf("after %d tries data is %v, want 3 or 4 tries and k=v", tries, a.Data)
		}
	}, Controller{Name: "x", Watches: own(), Decide: func(v client.View, now time.Time, key client.Key) Plan {
		tries++
		if began.IsZero() {
			began = now
		}
		if now != began {
			t.Errorf("try %d came %v later", tries, now.Sub(began))
		}
		a := client.Get[corev1.ConfigMap](v, "ns", "a").DeepCopy()
		if a.Data["k"] == "v" {
			return Plan{}
		}
		a.Data = map[string]string{"k": "v"}
		return Plan{Writes: []Write{{Op: Update, Object: a}}}
	}})
}

func TestPartOfOneKeyIsNeverDecidedTwiceAtOnce(t *testing.T) {
	c := clienttest.New()
	var at [3]atomic.Int32
	var most, now atomic.Int32
	running(t, c, func() {
		for round := range 20 {
			for i := range 3 {
				cm := configMap(fmt.Sprint(i))
				cm.Data = map[string]string{"round": fmt.Sprint(round)}
				c.Inject(cm)
			}
			time.Sleep(time.Millisecond)
		}
		time.Sleep(time.Minute)
		if most.Load() != 2 {
			t.Errorf("at most %d workers ran, want 2", most.Load())
		}
	}, Controller{Name: "x", Workers: 2, Watches: own(), Decide: func(_ client.View, _ time.Time, key client.Key) Plan {
		i := key.Name[0] - '0'
		if at[i].Add(1) != 1 {
			t.Errorf("key %s is decided twice at once", key)
		}
		most.Store(max(most.Load(), now.Add(1)))
		time.Sleep(10 * time.Millisecond)
		now.Add(-1)
		at[i].Add(-1)
		return Plan{}
	}})
}

func makeMany(n int, onError func(error) Plan) func(client.View, time.Time, client.Key) Plan {
	return func(v client.View, _ time.Time, _ client.Key) Plan {
		p := Plan{Parallel: true}
		have := len(slices.Collect(client.List[corev1.Secret](v, "ns")))
		for i := have; i < n; i++ {
			s := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", GenerateName: "s-"}}
			p.Writes = append(p.Writes, Write{Op: Create, Object: s, OnError: onError})
		}
		return p
	}
}

func TestParallelCreatesStartSlowly(t *testing.T) {
	c := clienttest.New(configMap("a"))
	var tried atomic.Int32
	c.Fault = func(verb string, obj client.Object, _ string) error {
		if _, ok := obj.(*corev1.Secret); ok && tried.Add(1) > 3 {
			return apierrors.NewForbidden(client.Row[corev1.Secret]().GR(), "s", errors.New("exceeded quota"))
		}
		return nil
	}
	onError := func(err error) Plan {
		cm := configMap("a")
		cm.Data = map[string]string{"failed": "yes"}
		return Plan{Writes: []Write{{Op: Update, Object: cm}}, Events: []Event{Warning(cm, "FailedCreate", err.Error())}}
	}
	running(t, c, func() {
		time.Sleep(time.Millisecond) // before the first retry
		if n := tried.Load(); n != 1+2+4 && n != 1+2+4+1 {
			t.Errorf("%d creates were tried, want batches of 1, 2 and 4", n)
		}
		if a := client.Get[corev1.ConfigMap](c.View(), "ns", "a"); a.Data["failed"] != "yes" {
			t.Error("OnError's write was not applied")
		}
		if e := slices.Collect(client.List[corev1.Event](c.View(), "ns")); len(e) == 0 || e[0].Source.Component != "x" {
			t.Errorf("OnError's event was not recorded: %v", e)
		}
	}, Controller{Name: "x", Watches: own(), Decide: makeMany(100, onError)})
}

func TestManyCreatesAllHappen(t *testing.T) {
	c := clienttest.New(configMap("a"))
	running(t, c, func() {
		if n := len(slices.Collect(client.List[corev1.Secret](c.View(), "ns"))); n != 500 {
			t.Errorf("%d made, want 500", n)
		}
	}, Controller{Name: "x", Watches: own(), Decide: makeMany(500, nil)})
}

func TestTerminatingNamespaceEndsTheAttempt(t *testing.T) {
	c, tries := clienttest.New(configMap("a")), atomic.Int32{}
	c.Fault = func(verb string, obj client.Object, _ string) error {
		tries.Add(1)
		err := apierrors.NewForbidden(client.Row[corev1.Secret]().GR(), "s", errors.New("being terminated"))
		err.ErrStatus.Details.Causes = []metav1.StatusCause{{Type: corev1.NamespaceTerminatingCause}}
		return err
	}
	running(t, c, func() {
		time.Sleep(time.Hour)
		if n := tries.Load(); n != 1 {
			t.Errorf("%d tries, want 1", n)
		}
	}, Controller{Name: "x", Watches: own(), Decide: makeMany(1, nil)})
}

func TestIdleHasNoWorkers(t *testing.T) {
	var before int
	running(t, clienttest.New(configMap("a"), configMap("b")), func() {
		before = runtime.NumGoroutine()
		time.Sleep(time.Hour)
		buf := make([]byte, 1<<16)
		stacks := string(buf[:runtime.Stack(buf, true)])
		if strings.Contains(stacks, "(*queue).drain") {
			t.Errorf("a worker is alive with nothing to do:\n%s", stacks)
		}
		if after := runtime.NumGoroutine(); after > before {
			t.Errorf("goroutines grew from %d to %d", before, after)
		}
	}, Controller{Name: "x", Workers: 5, Watches: own(), Decide: func(client.View, time.Time, client.Key) Plan { return Plan{} }})
}

// Of optional writes that go together one may fail, and the rest is done.
func TestOptionalWritesGoTogetherAndOn(t *testing.T) {
	c := clienttest.New(configMap("a"), configMap("b"), configMap("c"), configMap("d"))
	c.Fault = func(verb string, obj client.Object, _ string) error {
		if verb == "update" && obj.GetName() == "b" {
			return errors.New("no")
		}
		return nil
	}
	running(t, c, func() {
		for _, name := range []string{"a", "c", "d"} {
			if got := client.Get[corev1.ConfigMap](c.View(), "ns", name).Data["x"]; got != "1" {
				t.Errorf("%s has %q", name, got)
			}
		}
	}, Controller{Name: "x", Watches: []Watch{{Resource: client.Row[corev1.ConfigMap](), Keys: func(client.View, client.Event) []client.Key { return []client.Key{{Name: "all"}} }}},
		Decide: func(v client.View, _ time.Time, _ client.Key) Plan {
			plan := Plan{Parallel: true}
			for m := range client.List[corev1.ConfigMap](v, "ns") {
				if m.Data["x"] == "" {
					next := m.DeepCopy()
					next.Data = map[string]string{"x": "1"}
					plan.Writes = append(plan.Writes, Write{Op: Update, Object: next, Optional: true})
				}
			}
			return plan
		}})
}

// Wakes within a pace become one decision when it is over; the first is decided at
// once, and what rests leaves nothing behind.
func TestPaceFoldsWakes(t *testing.T) {
	c, j := clienttest.New(), &journal{}
	began := time.Time{}
	running(t, c, func() {
		began = time.Now()
		for range 25 {
			c.Inject(configMap("a"))
			time.Sleep(100 * time.Millisecond)
		}
		time.Sleep(time.Hour)
		c.Inject(configMap("a"))
		synctest.Wait()
		if got := j.text(); got != "0s 1s 2s 3s 1h0m2.5s" {
			t.Errorf("decided at %q", got)
		}
	}, Controller{Name: "x", Pace: time.Second, Watches: own(), Decide: func(_ client.View, now time.Time, _ client.Key) Plan {
		j.add("%v", now.Sub(began))
		return Plan{}
	}})
}
