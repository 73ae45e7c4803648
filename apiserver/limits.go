package apiserver

import (
	"context"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"proa/auth"
)

const (
	// readSeats and writeSeats are how many short requests run at once;
	// longSeats is the number of watches and streams that may be open.
	readSeats, writeSeats, longSeats = 400, 200, 20000
	// queueFactor is how many wait for each seat; further ones are refused.
	queueFactor = 8
	queueWait   = 15 * time.Second
)

// limits bounds the requests in flight, so that overload is answered with 429
// and not with memory.
type limits struct{ read, write, long *seats }

func newLimits() limits {
	return limits{newSeats(readSeats, queueFactor*readSeats), newSeats(writeSeats, queueFactor*writeSeats), newSeats(longSeats, 0)}
}

// enter takes a seat and returns how to leave it. system:masters are never kept
// out, so that a flooded server can still be operated.
func (l limits) enter(ctx context.Context, t target, u auth.User, long bool) (func(), error) {
	s := l.read
	switch {
	case u.In(auth.GroupMasters):
		return func() {}, nil
	case long:
		s = l.long
	case t.mutates():
		s = l.write
	}
	return s.take(ctx)
}

// seats is a counted semaphore with a bounded queue.
type seats struct{ free, queue chan struct{} }

func newSeats(n, queued int) *seats {
	return &seats{make(chan struct{}, n), make(chan struct{}, queued)}
}

func (s *seats) take(ctx context.Context) (func(), error) {
	select {
	case s.free <- struct{}{}:
		return s.leave, nil
	default:
	}
	select {
	case s.queue <- struct{}{}:
	default:
		return nil, tooMany()
	}
	defer func() { <-s.queue }()
	timer := time.NewTimer(queueWait)
	defer timer.Stop()
	select {
	case s.free <- struct{}{}:
		return s.leave, nil
	case <-ctx.Done():
	case <-timer.C:
	}
	return nil, tooMany()
}

func (s *seats) leave() { <-s.free }

func tooMany() error {
	return apierrors.NewTooManyRequests("too many requests are in flight, please try again later", 1)
}
