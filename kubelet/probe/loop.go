package probe

import (
	"context"
	"errors"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// Verdict is what a probe's answers so far amount to.
type Verdict uint8

const (
	Undecided Verdict = iota
	Healthy
	Unhealthy
)

// Count applies success and failure thresholds to a series of answers.
type Count struct {
	success, failure int
	last             Verdict
	run              int
}

// NewCount takes the thresholds of a probe.
func NewCount(p *corev1.Probe) *Count {
	return &Count{success: max(int(p.SuccessThreshold), 1), failure: max(int(p.FailureThreshold), 1)}
}

// Add counts one answer and returns the verdict it leads to, or Undecided while
// the series is too short to change anything.
func (c *Count) Add(ok bool) Verdict {
	v, need := Healthy, c.success
	if !ok {
		v, need = Unhealthy, c.failure
	}
	if v != c.last {
		c.last, c.run = v, 0
	}
	c.run++
	if c.run < need {
		return Undecided
	}
	return v
}

// Loop probes until ctx ends: first after the initial delay, then every period.
// ask probes once. report is told each verdict that Count arrives at; failed is
// told of each answer that is not well. startedAt is when the container started.
func Loop(ctx context.Context, p *corev1.Probe, startedAt time.Time, ask func(context.Context) error, report func(Verdict), failed func(error)) {
	count := NewCount(p)
	timer := time.NewTimer(time.Until(startedAt.Add(time.Duration(p.InitialDelaySeconds) * time.Second)))
	defer timer.Stop()
	period := time.Duration(max(p.PeriodSeconds, 1)) * time.Second
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		next := time.Now().Add(period)
		err := ask(ctx)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			failed(err)
		}
		var bad Failed
		if err == nil || errors.As(err, &bad) { // an answer; anything else decides nothing
			if v := count.Add(err == nil); v != Undecided {
				report(v)
			}
		}
		timer.Reset(time.Until(next))
	}
}
