package apiserver

import (
	"context"
	"errors"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"proa/auth"
	"proa/client"
	"proa/store"
)

// expireEvery is the shortest time between two sweeps, where Events live longer
// than that.
const expireEvery = 5 * time.Minute

// expireEvents removes Events that are old. While there are none it sleeps until
// the first comes.
func (s *Server) expireEvents(ctx context.Context) error {
	c := s.Client(auth.System("system:apiserver"))
	scope := store.Scope{Resource: "events"}
	for ctx.Err() == nil {
		world, w := s.cfg.Store.SnapshotAndWatch(scope)
		if world.Count(scope) == 0 {
			_, _, err := w.Next(ctx)
			w.Close()
			if err != nil && ctx.Err() == nil && !errors.Is(err, store.ErrExpired) {
				return err
			}
			continue
		}
		w.Close()
		next := s.sweepEvents(ctx, c, world)
		sleep(ctx, min(s.cfg.EventTTL, max(next.Sub(s.cfg.Now()), expireEvery)))
	}
	return nil
}

func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// sweepEvents deletes what has expired and returns when the next will.
func (s *Server) sweepEvents(ctx context.Context, c client.Client, world store.Snapshot) time.Time {
	row, now := s.cfg.Registry.ByKey("events"), s.cfg.Now()
	next := now.Add(s.cfg.EventTTL)
	var group errgroup.Group
	group.SetLimit(32)
	for rec := range world.List(store.Scope{Resource: "events"}, store.Key{}) {
		ev, ok := objectOf(rec).(*corev1.Event)
		if !ok {
			continue
		}
		if end := lastSeen(ev, now.Add(s.cfg.EventTTL)).Add(s.cfg.EventTTL); end.After(now) {
			if end.Before(next) {
				next = end
			}
			continue
		}
		group.Go(func() error {
			uid, rv := ev.UID, ev.ResourceVersion
			err := c.Delete(ctx, row, client.KeyOf(ev), metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &uid, ResourceVersion: &rv}})
			if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) && ctx.Err() == nil {
				s.cfg.Log.Warn("an old Event could not be removed", "event", client.KeyOf(ev), "err", err)
			}
			return nil
		})
	}
	_ = group.Wait() // the functions report by themselves
	return next
}

// lastSeen is when an Event was last written, as far as it says. What it says of
// a time after latest comes from a clock that was wrong, or from a client that
// means to stay, and counts for nothing: no Event outlives its time by more than
// that.
func lastSeen(ev *corev1.Event, latest time.Time) (t time.Time) {
	later := func(u time.Time) {
		if u.After(t) && !u.After(latest) {
			t = u
		}
	}
	later(ev.CreationTimestamp.Time)
	later(ev.LastTimestamp.Time)
	later(ev.EventTime.Time)
	if ev.Series != nil {
		later(ev.Series.LastObservedTime.Time)
	}
	return t
}
