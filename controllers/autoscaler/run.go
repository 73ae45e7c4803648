package autoscaler

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"proa/api"
	"proa/client"
	"proa/client/events"
)

// Period is how often an autoscaler's metrics are read.
const Period = 15 * time.Second

// Metrics reads what the metrics API groups serve.
type Metrics interface {
	// Read is the reading of one metric of an autoscaler, whose target's pods a
	// selector names.
	Read(ctx context.Context, namespace, selector string, m *autoscalingv2.MetricSpec) Reading
}

// Config is what Run needs.
type Config struct {
	Client  client.Client
	Metrics Metrics
	Log     *slog.Logger
	// Period is how often metrics are read; 0 is Period.
	Period time.Duration
}

type loop struct {
	Config
	row    *api.Resource
	events *events.Recorder
	due    map[client.Key]time.Time
	memory map[types.UID]Memory
}

// Run keeps every autoscaler's target at its size until ctx ends.
func Run(ctx context.Context, c Config) error {
	if c.Period == 0 {
		c.Period = Period
	}
	l := &loop{Config: c, row: client.Row[autoscalingv2.HorizontalPodAutoscaler](),
		due: map[client.Key]time.Time{}, memory: map[types.UID]Memory{}}
	l.events = events.New(c.Client, "horizontal-pod-autoscaler", "", c.Log)
	var recorder sync.WaitGroup
	recorder.Go(func() { _ = l.events.Run(ctx) }) // which ends with ctx
	defer recorder.Wait()
	view, stream, err := c.Client.Watch(ctx, client.All[autoscalingv2.HorizontalPodAutoscaler]())
	if err != nil {
		return err
	}
	defer stream.Close()
	for h := range client.List[autoscalingv2.HorizontalPodAutoscaler](view, "") {
		l.due[client.KeyOf(h)] = time.Now()
	}
	for ctx.Err() == nil {
		if err := l.wait(ctx, stream); err != nil {
			return err
		}
		l.pass(ctx)
	}
	return nil
}

// wait is until an autoscaler changes or is due.
func (l *loop) wait(ctx context.Context, stream client.Stream) error {
	next := ctx
	if at, some := l.next(); some {
		var cancel context.CancelFunc
		next, cancel = context.WithDeadline(ctx, at)
		defer cancel()
	}
	list, _, err := stream.Next(next)
	switch {
	case ctx.Err() != nil || err != nil && errors.Is(next.Err(), context.DeadlineExceeded):
		return nil
	case err != nil:
		return err
	}
	for _, e := range list {
		l.noticed(e)
	}
	return nil
}

func (l *loop) noticed(e client.Event) {
	key := client.KeyOf(e.Object())
	switch {
	case e.New == nil:
		delete(l.due, key)
		delete(l.memory, e.Old.GetUID())
	case e.Old == nil || e.Old.GetGeneration() != e.New.GetGeneration():
		l.due[key] = time.Now()
	}
}

func (l *loop) next() (at time.Time, some bool) {
	for _, t := range l.due {
		if !some || t.Before(at) {
			at, some = t, true
		}
	}
	return at, some
}

func (l *loop) pass(ctx context.Context) {
	now := time.Now()
	for key, at := range l.due {
		if at.After(now) || ctx.Err() != nil {
			continue
		}
		l.due[key] = now.Add(l.Period)
		if h := client.Get[autoscalingv2.HorizontalPodAutoscaler](l.Client.View(), key.Namespace, key.Name); h != nil && h.DeletionTimestamp == nil {
			l.one(ctx, h, now)
		}
	}
}

// one reads, decides and writes for one autoscaler.
func (l *loop) one(ctx context.Context, h *autoscalingv2.HorizontalPodAutoscaler, now time.Time) {
	in := Input{HPA: h, Memory: l.memory[h.UID], Now: now}
	row, obj, err := l.target(h)
	if err == nil {
		s := row.Subresource("scale").Scale
		in.Target.Spec, in.Target.Status, in.Target.Selector = s.Get(obj)
		in.Pods = l.pods(h.Namespace, in.Target.Selector)
		in.Readings = l.read(ctx, h, in.Target)
	}
	in.Target.Err = err
	if ctx.Err() != nil {
		return
	}
	out := Decide(in)
	if out.Rescale != nil {
		err := l.rescale(ctx, row, h, *out.Rescale)
		out.rescaled(h, now, err)
		if err != nil {
			out.Memory = in.Memory
		}
	}
	l.memory[h.UID] = out.Memory
	for _, e := range out.Events {
		l.events.Event(e.Regarding, e.Type, e.Reason, e.Message)
	}
	l.report(ctx, h, out.Status)
}

func (l *loop) target(h *autoscalingv2.HorizontalPodAutoscaler) (*api.Resource, client.Object, error) {
	ref := h.Spec.ScaleTargetRef
	gv, err := schema.ParseGroupVersion(ref.APIVersion)
	if err != nil {
		return nil, nil, fmt.Errorf("invalid API version in scale target reference: %w", err)
	}
	s, ok := l.Client.Registry().ByGVK(gv.WithKind(ref.Kind))
	if !ok {
		return nil, nil, fmt.Errorf("no matches for kind %q in version %q", ref.Kind, ref.APIVersion)
	}
	if sub := s.Subresource("scale"); sub == nil || sub.Scale == nil {
		return nil, nil, fmt.Errorf("%s has no scale", s.GR())
	}
	obj := l.Client.View().Get(s.Resource, h.Namespace, ref.Name)
	if obj == nil {
		return nil, nil, apierrors.NewNotFound(s.GR(), ref.Name)
	}
	return s.Resource, obj, nil
}

func (l *loop) pods(namespace, selector string) []*corev1.Pod {
	sel, err := labels.Parse(selector)
	if err != nil || selector == "" {
		return nil
	}
	var out []*corev1.Pod
	for p := range client.List[corev1.Pod](l.Client.View(), namespace) {
		if sel.Matches(labels.Set(p.Labels)) {
			out = append(out, p)
		}
	}
	return out
}

func (l *loop) read(ctx context.Context, h *autoscalingv2.HorizontalPodAutoscaler, t Target) []Reading {
	out := make([]Reading, len(h.Spec.Metrics))
	for i := range h.Spec.Metrics {
		out[i] = l.Metrics.Read(ctx, h.Namespace, t.Selector, &h.Spec.Metrics[i])
	}
	return out
}

func (l *loop) rescale(ctx context.Context, row *api.Resource, h *autoscalingv2.HorizontalPodAutoscaler, to int32) error {
	key := client.Key{Namespace: h.Namespace, Name: h.Spec.ScaleTargetRef.Name}
	_, err := l.Client.Post(ctx, row, key, "scale", &autoscalingv1.Scale{
		ObjectMeta: metav1.ObjectMeta{Namespace: key.Namespace, Name: key.Name}, Spec: autoscalingv1.ScaleSpec{Replicas: to}})
	return err
}

// report writes a status that changed. A conflict leaves it to the next time.
func (l *loop) report(ctx context.Context, h *autoscalingv2.HorizontalPodAutoscaler, s autoscalingv2.HorizontalPodAutoscalerStatus) {
	if equality.Semantic.DeepEqual(h.Status, s) {
		return
	}
	next := h.DeepCopy()
	next.Status = s
	if _, err := l.Client.Update(ctx, next, "status"); err != nil && !apierrors.IsConflict(err) && !apierrors.IsNotFound(err) && ctx.Err() == nil {
		l.Log.Warn("status of an autoscaler", "autoscaler", client.KeyOf(h), "error", err)
	}
}
