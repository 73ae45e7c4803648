package fairness

import (
	"context"
	"hash/maphash"
	"log/slog"
	"strconv"
	"sync/atomic"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apiserver/pkg/apis/flowcontrol/bootstrap"

	"proa/auth"
)

// Config of a Fairness.
type Config struct {
	// Seats is how many requests of ordinary size run at once in all levels
	// that are not exempt.
	Seats int
	// Wait bounds the time in a queue; 15 seconds if zero.
	Wait time.Duration
	Now  func() time.Time
	Log  *slog.Logger
}

// DefaultSeats is upstream's sum of --max-requests-inflight and
// --max-mutating-requests-inflight.
const DefaultSeats = 600

const defaultWait = 15 * time.Second

// Fairness admits requests. It works from New on, with the objects that every
// cluster has; Run follows the stored ones.
type Fairness struct {
	seats   int
	wait    time.Duration
	now     func() time.Time
	log     *slog.Logger
	d       dispatcher
	config  atomic.Pointer[config]
	metrics *Metrics
}

// New returns a Fairness that follows the mandatory and suggested objects until
// Run has read the stored ones.
func New(c Config) *Fairness {
	f := &Fairness{seats: c.Seats, wait: c.Wait, now: c.Now, log: c.Log}
	if f.seats <= 0 {
		f.seats = DefaultSeats
	}
	if f.wait <= 0 {
		f.wait = defaultWait
	}
	if f.now == nil {
		f.now = time.Now
	}
	if f.log == nil {
		f.log = slog.New(slog.DiscardHandler)
	}
	f.metrics = newMetrics(f)
	f.compile(bootstrap.SuggestedFlowSchemas, bootstrap.SuggestedPriorityLevelConfigurations, f.now())
	return f
}

// Metrics are Prometheus' collectors.
func (f *Fairness) Metrics() *Metrics { return f.metrics }

// Work is what a request is thought to cost.
type Work struct {
	// Seats is how many seats it holds while it runs, at least one.
	Seats int
	// Extra is what others do because of it, in seat-seconds: it is charged to
	// the flow.
	Extra float64
}

// Ticket is a request that was let in. Done must be called once it is over.
type Ticket struct {
	f *Fairness
	t ticket
}

// FlowSchema and PriorityLevel are the UIDs that the response headers name.
func (t *Ticket) FlowSchema() string    { return t.t.schema.uid }
func (t *Ticket) PriorityLevel() string { return t.t.schema.levelUID }

// Classified is how a request was classified, whether it was let in or not.
type Classified struct{ FlowSchema, PriorityLevel string }

// Enter waits until the request may run. The error is a Status for the client:
// 429 with the time after which to come back.
func (f *Fairness) Enter(ctx context.Context, a *auth.Attributes, w Work) (*Ticket, Classified, error) {
	s := f.classify(a)
	now := f.now()
	t := &Ticket{f: f, t: ticket{level: s.level, work: work{max(w.Seats, 1), w.Extra}, schema: s}}
	flow := s.flow(a)
	t.t.flow = maphash.String(s.flows, flow)
	t.t.who, t.t.user, t.t.verb = flow, a.User.Name, a.Verb
	t.t.path = a
	class := Classified{s.uid, s.levelUID}
	refused := f.d.arrive(&t.t, now)
	if refused == ReasonNotRejected && t.t.ready != nil {
		refused = f.await(ctx, &t.t)
	}
	f.metrics.waited(s, f.now().Sub(now), refused)
	if refused != ReasonNotRejected {
		return nil, class, f.refusal(&t.t)
	}
	return t, class, nil
}

// classify finds the first schema that the request matches.
func (f *Fairness) classify(a *auth.Attributes) *schema {
	c := f.config.Load()
	for _, s := range c.schemas {
		if s.matches(a) {
			return s
		}
	}
	return c.last
}

// await waits in the queue.
func (f *Fairness) await(ctx context.Context, t *ticket) (refused string) {
	timer := time.NewTimer(f.wait)
	defer timer.Stop()
	select {
	case <-t.ready:
		return ReasonNotRejected
	case <-timer.C:
		refused = ReasonTimeout
	case <-ctx.Done():
		refused = ReasonCancelled
	}
	if !f.d.leave(t, f.now()) {
		return ReasonNotRejected // it was let in meanwhile
	}
	return refused
}

// Bounds of what refused clients are told to wait, in seconds.
const minRetry, maxRetry = 1, 32

func (f *Fairness) refusal(t *ticket) error {
	f.d.mu.Lock()
	wait := t.level.wait()
	f.d.mu.Unlock()
	seconds := min(max(int(wait/time.Second), minRetry), maxRetry)
	return apierrors.NewTooManyRequests("too many requests, please try again later.", seconds)
}

// Done gives the seats back. It may be called more than once.
func (t *Ticket) Done() {
	now := t.f.now()
	if t.f.d.finish(&t.t, now) {
		t.f.metrics.ran(t.t.schema, now.Sub(t.t.started))
	}
}

// pathOf is the request in the dumps.
func pathOf(a *auth.Attributes) string {
	if !a.ResourceRequest {
		return a.Path
	}
	path := a.Resource
	if a.Namespace != "" {
		path = a.Namespace + "/" + path
	}
	if a.Name != "" {
		path += "/" + strconv.Quote(a.Name)
	}
	return path
}
