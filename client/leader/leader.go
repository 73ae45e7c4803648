// Package leader lets one of several servers do what must not be done twice. A
// Lease object says who; the others watch it and step in when it is released, or
// has not been renewed for its duration.
//
// The clock that counts is the watcher's own, from when it saw the Lease change
// last, so that clocks which differ between machines do no harm. A leader that
// cannot renew stops its work before another may begin.
package leader

import (
	"context"
	"errors"
	"log/slog"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"proa/client"
)

// Config of an election.
type Config struct {
	Client client.Client
	// Namespace and Name are the Lease's; Identity is this server's name.
	Namespace, Name, Identity string
	Log                       *slog.Logger
	// Duration is how long a Lease lasts without being renewed, which happens
	// every third of it; 15 seconds if 0.
	Duration time.Duration
}

// Run stands for election until ctx ends and runs work while it leads. work must
// end when its context does. It returns when ctx ended, or with work's error.
func Run(ctx context.Context, c Config, work func(context.Context) error) error {
	if c.Duration == 0 {
		c.Duration = 15 * time.Second
	}
	e := &election{Config: c}
	wait := firstRetry // at the very first start the namespace is a moment away
	for ctx.Err() == nil {
		if err := e.acquire(ctx); err != nil {
			e.pause(ctx, wait, err)
			wait = min(2*wait, retry)
			continue
		}
		wait = firstRetry
		e.Log.Info("leading", "lease", c.Name)
		if err := e.lead(ctx, work); err != nil {
			return err
		}
	}
	return nil
}

type election struct {
	Config
	// held is the Lease as this server wrote it last.
	held *coordinationv1.Lease
}

// retry is the time between attempts when the API goes on to fail.
const (
	firstRetry = 50 * time.Millisecond
	retry      = 2 * time.Second
)

func (e *election) pause(ctx context.Context, wait time.Duration, err error) {
	if ctx.Err() == nil && wait == retry {
		e.Log.Warn("the election failed and is tried again", "lease", e.Name, "error", err)
	}
	select {
	case <-time.After(wait):
	case <-ctx.Done():
	}
}

// acquire waits until the Lease is this server's.
func (e *election) acquire(ctx context.Context) error {
	view, stream, err := e.Client.Watch(ctx, client.Scope{Resource: client.Row[coordinationv1.Lease](), Namespace: e.Namespace, Name: e.Name})
	if err != nil {
		return err
	}
	defer stream.Close()
	version, since := "", time.Now()
	for {
		now := client.Get[coordinationv1.Lease](view, e.Namespace, e.Name)
		if now != nil && now.ResourceVersion != version {
			version, since = now.ResourceVersion, time.Now()
		}
		left := time.Until(since.Add(e.lasts(now)))
		if left <= 0 || now == nil || e.free(now) {
			won, err := e.take(ctx, now)
			if won || err != nil {
				return err
			}
			left = retry // a change is on its way
		}
		wait, cancel := context.WithTimeout(ctx, left)
		_, next, err := stream.Next(wait)
		cancel()
		switch {
		case err == nil:
			view = next
		case ctx.Err() != nil:
			return ctx.Err()
		case !errors.Is(err, context.DeadlineExceeded):
			return err
		}
	}
}

func (e *election) lasts(l *coordinationv1.Lease) time.Duration {
	if l == nil || l.Spec.LeaseDurationSeconds == nil {
		return e.Duration
	}
	return time.Duration(*l.Spec.LeaseDurationSeconds) * time.Second
}

func (e *election) free(l *coordinationv1.Lease) bool {
	holder := ptr.Deref(l.Spec.HolderIdentity, "")
	return holder == "" || holder == e.Identity
}

// take writes the Lease unless somebody else did since it was read.
func (e *election) take(ctx context.Context, now *coordinationv1.Lease) (won bool, err error) {
	at := metav1.NewMicroTime(time.Now())
	next := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: e.Namespace, Name: e.Name}}
	if now != nil {
		next = now.DeepCopy()
	}
	if now == nil || !e.free(now) || ptr.Deref(now.Spec.HolderIdentity, "") == "" {
		next.Spec.AcquireTime = &at
		next.Spec.LeaseTransitions = ptr.To(ptr.Deref(next.Spec.LeaseTransitions, 0) + 1)
	}
	next.Spec.HolderIdentity = &e.Identity
	next.Spec.LeaseDurationSeconds = ptr.To(int32(max(e.Duration/time.Second, 1)))
	next.Spec.RenewTime = &at
	if now == nil {
		return e.wrote(e.Client.Create(ctx, next))
	}
	return e.wrote(e.Client.Update(ctx, next, ""))
}

func (e *election) wrote(obj client.Object, err error) (bool, error) {
	if lost(err) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	e.held = obj.(*coordinationv1.Lease)
	return true, nil
}

// lost tells that somebody else wrote the Lease first.
func lost(err error) bool { return apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err) }

// lead runs work while the Lease can be kept. Losing it is no error.
func (e *election) lead(ctx context.Context, work func(context.Context) error) error {
	working, stop := context.WithCancel(ctx)
	defer stop()
	ended := make(chan error, 1)
	go func() { ended <- work(working) }()
	tick := time.NewTicker(e.Duration / 3)
	defer tick.Stop()
	renewed := time.Now()
	for {
		select {
		case err := <-ended:
			return e.finish(ctx, err)
		case <-ctx.Done():
			return e.finish(ctx, <-ended)
		case <-tick.C:
		}
		attempt, cancel := context.WithTimeout(ctx, e.Duration/3)
		kept, err := e.take(attempt, e.held)
		cancel()
		if kept {
			renewed = time.Now()
			continue
		}
		if err != nil && ctx.Err() == nil && time.Since(renewed) < e.Duration*2/3 {
			continue
		}
		if ctx.Err() == nil {
			e.Log.Warn("no longer leading", "lease", e.Name, "error", err)
		}
		stop()
		if err := <-ended; err != nil && !errors.Is(err, context.Canceled) {
			e.Log.Warn("what ran under the lease ended with an error", "lease", e.Name, "error", err)
		}
		return nil
	}
}

// finish releases the Lease when the work has ended, and returns the work's
// error, if it has one of its own: that it was asked to end is none.
func (e *election) finish(ctx context.Context, err error) error {
	e.release()
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// release hands the Lease to whoever waits for it.
func (e *election) release() {
	next := e.held.DeepCopy()
	next.Spec.HolderIdentity = ptr.To("")
	next.Spec.LeaseDurationSeconds = ptr.To(int32(1))
	ctx, cancel := context.WithTimeout(context.Background(), retry)
	defer cancel()
	if _, err := e.Client.Update(ctx, next, ""); err != nil && !lost(err) {
		e.Log.Warn("the lease could not be released", "lease", e.Name, "error", err)
	}
}
