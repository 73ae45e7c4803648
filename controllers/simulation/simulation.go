// Package simulation plays the rest of a cluster for tests of controllers: it
// schedules pods and runs them as a kubelet would, in a bubble of simulated
// time, with delays and failures that the test chooses.
package simulation

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"proa/client"
	"proa/client/clienttest"
	"proa/reconcile"
)

// Cluster is a simulated cluster. Its fields may be set until Run.
type Cluster struct {
	*clienttest.Client
	T *testing.T
	// Start says how long a pod takes until it is ready; negative is for ever.
	// Nil is one second.
	Start func(p *corev1.Pod) time.Duration
	// Stop says how long a pod takes to end after its deletion; nil is one second.
	Stop func(p *corev1.Pod) time.Duration
	// Fate, if set, says how a pod ends by itself, and how long after it
	// became ready; "" is not at all.
	Fate func(p *corev1.Pod) (corev1.PodPhase, time.Duration)
	// Each is called after every change of the world.
	Each func(v client.View)
	// Nodes to spread pods over; 0 is one. Negative schedules nothing.
	Nodes int

	mu     sync.Mutex
	timers map[string]*time.Timer
	bound  int
}

// Run plays the cluster with the controllers while test runs.
func Run(t *testing.T, prepare func(c *Cluster), test func(ctx context.Context, c *Cluster), controllers ...reconcile.Controller) {
	synctest.Test(t, func(t *testing.T) {
		c := &Cluster{Client: clienttest.New(), T: t, timers: map[string]*time.Timer{}}
		if prepare != nil {
			prepare(c)
		}
		ctx, stop := context.WithCancel(t.Context())
		var out io.Writer = io.Discard
		if os.Getenv("SIMULATION_LOG") != "" {
			out = os.Stderr
		}
		view, stream, err := c.Watch(ctx, client.Scope{})
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		wg.Go(func() {
			if err := reconcile.Run(ctx, c, slog.New(slog.NewTextHandler(out, nil)), controllers...); err != nil {
				t.Error(err)
			}
		})
		wg.Go(func() { c.play(ctx, view, stream) })
		synctest.Wait()
		test(ctx, c)
		stop()
		wg.Wait()
		c.stopTimers()
	})
}

func (c *Cluster) play(ctx context.Context, view client.View, stream client.Stream) {
	for p := range client.List[corev1.Pod](view, "") {
		c.pod(p)
	}
	for {
		events, view, err := stream.Next(ctx)
		if err != nil {
			return
		}
		if c.Each != nil {
			c.Each(view)
		}
		for _, e := range events {
			if p, ok := e.New.(*corev1.Pod); ok {
				c.pod(p)
			}
		}
	}
}

// pod takes the next step with a pod: schedule it, start it, stop it.
func (c *Cluster) pod(p *corev1.Pod) {
	switch {
	case p.DeletionTimestamp != nil:
		c.after(p, "stop", delay(c.Stop, p), func(p *corev1.Pod) { c.remove(p) })
	case p.Spec.NodeName == "" && c.Nodes >= 0:
		c.after(p, "bind", time.Millisecond, c.bind)
	case p.Spec.NodeName != "" && p.Status.Phase != corev1.PodRunning && !finished(p):
		if d := delay(c.Start, p); d >= 0 {
			c.after(p, "start", d, c.start)
		}
	}
}

func finished(p *corev1.Pod) bool {
	return p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed
}

func delay(f func(*corev1.Pod) time.Duration, p *corev1.Pod) time.Duration {
	if f == nil {
		return time.Second
	}
	return f(p)
}

// after does a step once, later, with the pod as it is then.
func (c *Cluster) after(p *corev1.Pod, step string, d time.Duration, do func(*corev1.Pod)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	id := step + string(p.UID)
	if c.timers[id] != nil {
		return
	}
	c.timers[id] = time.AfterFunc(d, func() {
		now := client.Get[corev1.Pod](c.View(), p.Namespace, p.Name)
		if now != nil && now.UID == p.UID {
			do(now.DeepCopy())
		}
	})
}

func (c *Cluster) stopTimers() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, t := range c.timers {
		t.Stop()
	}
}

func (c *Cluster) bind(p *corev1.Pod) {
	if p.DeletionTimestamp != nil || p.Spec.NodeName != "" {
		return
	}
	c.mu.Lock()
	node := fmt.Sprint("node-", c.bound%max(c.Nodes, 1))
	c.bound++
	c.mu.Unlock()
	if name := pinned(p); name != "" {
		node = name
	}
	_, err := c.Post(context.Background(), client.Row[corev1.Pod](), client.KeyOf(p), "binding", &corev1.Binding{
		ObjectMeta: metav1.ObjectMeta{Namespace: p.Namespace, Name: p.Name, UID: p.UID},
		Target:     corev1.ObjectReference{Kind: "Node", Name: node},
	})
	if err != nil {
		c.T.Error(err)
	}
}

// pinned is the only node that a pod's affinity names, or "".
func pinned(p *corev1.Pod) string {
	if a := p.Spec.Affinity; a != nil && a.NodeAffinity != nil && a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution != nil {
		for _, t := range a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms {
			if len(t.MatchFields) > 0 {
				return t.MatchFields[0].Values[0]
			}
		}
	}
	return ""
}

func (c *Cluster) start(p *corev1.Pod) {
	if p.DeletionTimestamp == nil {
		c.SetReady(p, true)
		if c.Fate == nil {
			return
		}
		if phase, d := c.Fate(p); phase != "" {
			c.after(p, "fate", d, func(p *corev1.Pod) { c.SetPhase(p, phase) })
		}
	}
}

func (c *Cluster) remove(p *corev1.Pod) {
	zero := int64(0)
	uid := p.UID
	err := c.Delete(context.Background(), client.Row[corev1.Pod](), client.KeyOf(p),
		metav1.DeleteOptions{GracePeriodSeconds: &zero, Preconditions: &metav1.Preconditions{UID: &uid}})
	if err != nil {
		c.T.Error(err)
	}
}

// SetReady makes a pod run, ready or not.
func (c *Cluster) SetReady(p *corev1.Pod, ready bool) {
	p = client.Get[corev1.Pod](c.View(), p.Namespace, p.Name).DeepCopy()
	p.Status.Phase = corev1.PodRunning
	p.Status.PodIP = fmt.Sprintf("10.42.%d.%d", p.UID[0], p.UID[1])
	p.Status.PodIPs = []corev1.PodIP{{IP: p.Status.PodIP}}
	SetCondition(p, corev1.PodReady, ready)
	c.status(p)
}

// SetPhase ends a pod.
func (c *Cluster) SetPhase(p *corev1.Pod, phase corev1.PodPhase) {
	p = client.Get[corev1.Pod](c.View(), p.Namespace, p.Name).DeepCopy()
	p.Status.Phase = phase
	SetCondition(p, corev1.PodReady, false)
	c.status(p)
}

func (c *Cluster) status(p *corev1.Pod) {
	p.ResourceVersion = ""
	if _, err := c.Update(context.Background(), p, "status"); err != nil {
		c.T.Error(err)
	}
}

// SetCondition sets a pod's condition, and its time if it changes.
func SetCondition(p *corev1.Pod, t corev1.PodConditionType, value bool) {
	status := corev1.ConditionFalse
	if value {
		status = corev1.ConditionTrue
	}
	for i := range p.Status.Conditions {
		if c := &p.Status.Conditions[i]; c.Type == t {
			if c.Status != status {
				c.Status, c.LastTransitionTime = status, metav1.Now()
			}
			return
		}
	}
	p.Status.Conditions = append(p.Status.Conditions, corev1.PodCondition{Type: t, Status: status, LastTransitionTime: metav1.Now()})
}
