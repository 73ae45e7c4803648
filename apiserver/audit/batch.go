package audit

import (
	"context"
	"log/slog"
	"sync/atomic"
	"time"

	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"
)

// BatchConfig bounds what waits to be sent. Zeros stand for upstream's
// defaults.
type BatchConfig struct {
	// Buffer is how many events may wait, 10,000; further ones are dropped.
	Buffer int
	// Size is how many are sent at once, 400, and Wait how long the first of
	// them waits for the rest, 30 seconds.
	Size int
	Wait time.Duration
}

// sender hands a group of events on.
type sender func(ctx context.Context, events []*auditv1.Event) error

// Batch hands events on in groups, from a goroutine of its own, and never keeps
// anybody waiting. It implements Sink.
type Batch struct {
	cfg     BatchConfig
	events  chan *auditv1.Event
	send    sender
	log     *slog.Logger
	dropped atomic.Uint64
}

// NewBatch returns a Batch that hands on to send. Run does the work.
func NewBatch(c BatchConfig, log *slog.Logger, send sender) *Batch {
	if c.Buffer <= 0 {
		c.Buffer = 10_000
	}
	if c.Size <= 0 {
		c.Size = 400
	}
	if c.Wait <= 0 {
		c.Wait = 30 * time.Second
	}
	return &Batch{cfg: c, events: make(chan *auditv1.Event, c.Buffer), send: send, log: log}
}

// Put takes the event, or drops it when the buffer is full.
func (b *Batch) Put(ev *auditv1.Event) error {
	select {
	case b.events <- ev:
	default:
		b.dropped.Add(1)
	}
	return nil
}

// Dropped counts the events that were lost.
func (b *Batch) Dropped() uint64 { return b.dropped.Load() }

// lastWords is how long sending may take once the server ends.
const lastWords = 5 * time.Second

// Run sends until ctx ends, and then what is left.
func (b *Batch) Run(ctx context.Context) error {
	last, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	stop := context.AfterFunc(ctx, func() { time.AfterFunc(lastWords, cancel) })
	defer stop()
	for ctx.Err() == nil {
		b.handOn(last, b.collect(ctx))
	}
	for group := b.ready(); len(group) > 0; group = b.ready() {
		b.handOn(last, group)
	}
	return nil
}

// ready is what waits already.
func (b *Batch) ready() (group []*auditv1.Event) {
	for len(group) < b.cfg.Size {
		select {
		case ev := <-b.events:
			group = append(group, ev)
		default:
			return group
		}
	}
	return group
}

// collect waits for a first event, and then for a full group or the end of the
// wait.
func (b *Batch) collect(ctx context.Context) (group []*auditv1.Event) {
	select {
	case ev := <-b.events:
		group = append(group, ev)
	case <-ctx.Done():
		return nil
	}
	timer := time.NewTimer(b.cfg.Wait)
	defer timer.Stop()
	for len(group) < b.cfg.Size {
		select {
		case ev := <-b.events:
			group = append(group, ev)
		case <-timer.C:
			return group
		case <-ctx.Done():
			return group
		}
	}
	return group
}

func (b *Batch) handOn(ctx context.Context, group []*auditv1.Event) {
	if len(group) == 0 {
		return
	}
	if err := b.send(ctx, group); err != nil {
		b.dropped.Add(uint64(len(group)))
		b.log.Error("audit events could not be sent", "events", len(group), "err", err)
	}
}
