// Package events records what happened to objects as Events, for people to
// read with kubectl describe.
//
// Recording never blocks and never fails for the caller: an Event goes into a
// bounded queue and is written later by Run; what does not fit is dropped and
// counted. Repetitions are folded as Kubernetes documents it: the same Event
// again raises its count, many that differ only in the message become one
// "(combined from similar events)", and an object that causes more than 25
// Events is held to one every five minutes.
package events

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	"k8s.io/client-go/tools/record/util"

	"proa/api"
	"proa/client"
)

const (
	queueLength  = 1000
	flushTime    = 2 * time.Second  // for what is queued when Run is told to stop
	writeTries   = 12               // for a server that cannot be reached
	longestPause = 10 * time.Second // between two tries
)

// Recorder records the Events of one component. It is safe for concurrent use.
type Recorder struct {
	component, host string
	*pump
}

// pump is what the recorders of one process share: the queue, and the memory of
// recent Events that repetitions are folded with.
type pump struct {
	client  client.Client
	log     *slog.Logger
	queue   chan *corev1.Event
	recent  *record.EventCorrelator
	dropped atomic.Uint64
	named   atomic.Int64 // the newest instant used in a name, in ns
}

// New returns a recorder for a component ("kubelet"); host is the node that it
// runs on, or "". Nothing is written before Run.
func New(c client.Client, component, host string, log *slog.Logger) *Recorder {
	return &Recorder{component: component, host: host, pump: &pump{
		client: c,
		log:    log,
		queue:  make(chan *corev1.Event, queueLength),
		recent: record.NewEventCorrelatorWithOptions(record.CorrelatorOptions{Clock: realClock{}}),
	}}
}

// realClock is time as this process sees it; in tests that is synctest's.
type realClock struct{}

func (realClock) Now() time.Time                  { return time.Now() }
func (realClock) Since(t time.Time) time.Duration { return time.Since(t) }

// For returns a recorder of another component that shares r's queue and Run.
func (r *Recorder) For(component string) *Recorder {
	return &Recorder{component: component, host: r.host, pump: r.pump}
}

// Event records something about an object. The eventtype is
// corev1.EventTypeNormal or EventTypeWarning.
func (r *Recorder) Event(obj client.Object, eventtype, reason, message string) {
	r.About(Reference(r.client.Registry(), obj), eventtype, reason, message)
}

// Eventf is Event with a format.
func (r *Recorder) Eventf(obj client.Object, eventtype, reason, format string, args ...any) {
	r.Event(obj, eventtype, reason, fmt.Sprintf(format, args...))
}

// About records something about what a reference names, which may be a part of
// an object (FieldPath "spec.containers{app}").
func (r *Recorder) About(ref corev1.ObjectReference, eventtype, reason, message string) {
	select {
	case r.queue <- r.make(ref, eventtype, reason, message):
	default:
		if n := r.dropped.Add(1); n&(n-1) == 0 {
			r.log.Warn("events are dropped: they come faster than they can be written", "dropped", n)
		}
	}
}

// Dropped is how many Events did not fit into the queue.
func (r *Recorder) Dropped() uint64 { return r.dropped.Load() }

// Reference names an object as an Event's involvedObject does.
func Reference(reg *api.Registry, obj client.Object) corev1.ObjectReference {
	gvk := obj.GetObjectKind().GroupVersionKind()
	if row := reg.Of(obj); row != nil && gvk.Kind == "" {
		gvk = row.GVK()
	}
	apiVersion, kind := gvk.ToAPIVersionAndKind()
	return corev1.ObjectReference{
		APIVersion:      apiVersion,
		Kind:            kind,
		Namespace:       obj.GetNamespace(),
		Name:            obj.GetName(),
		UID:             obj.GetUID(),
		ResourceVersion: obj.GetResourceVersion(),
	}
}

// make builds the Event. One about an object without a namespace lives in
// "default".
func (r *Recorder) make(ref corev1.ObjectReference, eventtype, reason, message string) *corev1.Event {
	now := metav1.Now()
	namespace := ref.Namespace
	if namespace == "" {
		namespace = metav1.NamespaceDefault
	}
	return &corev1.Event{
		ObjectMeta: metav1.ObjectMeta{
			Name:      util.GenerateEventName(ref.Name, r.instant(now.Time)),
			Namespace: namespace,
		},
		InvolvedObject:      ref,
		Type:                eventtype,
		Reason:              reason,
		Message:             message,
		FirstTimestamp:      now,
		LastTimestamp:       now,
		Count:               1,
		Source:              corev1.EventSource{Component: r.component, Host: r.host},
		ReportingController: r.component,
		ReportingInstance:   r.host,
	}
}

// instant is now in nanoseconds, moved on so that no two Events share a name.
func (p *pump) instant(now time.Time) int64 {
	for {
		last := p.named.Load()
		next := max(now.UnixNano(), last+1)
		if p.named.CompareAndSwap(last, next) {
			return next
		}
	}
}

// Run writes queued Events until ctx ends, and then, for at most two seconds,
// those that are still queued. It is called once for a recorder and all that
// For made of it.
func (r *Recorder) Run(ctx context.Context) error {
	for {
		select {
		case e := <-r.queue:
			r.write(ctx, e)
		case <-ctx.Done():
			return r.flush(context.WithoutCancel(ctx))
		}
	}
}

func (p *pump) flush(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, flushTime)
	defer cancel()
	for ctx.Err() == nil {
		select {
		case e := <-p.queue:
			p.write(ctx, e)
		default:
			return nil
		}
	}
	return nil
}

// write folds one Event into the recent ones and sends what comes out.
func (p *pump) write(ctx context.Context, e *corev1.Event) {
	folded, err := p.recent.EventCorrelate(e)
	if err != nil {
		p.log.Error("an event cannot be folded into earlier ones", "error", err, "reason", e.Reason)
		return
	}
	if folded.Skip {
		return
	}
	stored, err := p.persist(ctx, folded)
	switch {
	case err == nil:
		p.recent.UpdateState(stored)
	case ctx.Err() == nil && !isRefusal(err):
		p.log.Warn("an event could not be written", "error", err, "reason", e.Reason, "message", e.Message)
	}
}

// persist tries again while the server cannot be reached; what the server
// refuses (its namespace is going away, say) is given up at once.
func (p *pump) persist(ctx context.Context, folded *record.EventCorrelateResult) (*corev1.Event, error) {
	pause := 100 * time.Millisecond
	for try := 1; ; try++ {
		stored, err := p.send(ctx, folded.Event, folded.Patch)
		if err == nil || isRefusal(err) || try == writeTries {
			return stored, err
		}
		select {
		case <-time.After(pause):
			pause = min(2*pause, longestPause)
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// send raises the count of the Event that is there already, or creates one.
func (p *pump) send(ctx context.Context, e *corev1.Event, patch []byte) (*corev1.Event, error) {
	if e.Count > 1 {
		row := client.Row[corev1.Event]()
		stored, err := p.client.Patch(ctx, row, client.KeyOf(e), "", client.Patch{Type: types.StrategicMergePatchType, Data: patch})
		if !apierrors.IsNotFound(err) {
			return asEvent(stored), err
		}
	}
	fresh := e.DeepCopy()
	fresh.ResourceVersion = ""
	stored, err := p.client.Create(ctx, fresh)
	return asEvent(stored), err
}

func asEvent(obj client.Object) *corev1.Event {
	e, _ := obj.(*corev1.Event)
	return e
}

// isRefusal tells an answer of the server from a failure to reach it.
func isRefusal(err error) bool {
	var status apierrors.APIStatus
	if !errors.As(err, &status) {
		return false
	}
	return !apierrors.IsTooManyRequests(err) && !apierrors.IsServerTimeout(err) &&
		!apierrors.IsServiceUnavailable(err) && !apierrors.IsInternalError(err)
}
