package apiserver

import (
	"math"
	"strconv"
	"sync"
	"sync/atomic"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"proa/apiserver/fairness"
	"proa/auth"
	"proa/store"
)

const (
	// maxLong is the number of watches and streams that may be open.
	maxLong = 100_000
	// objectsPerSeat is how many objects of a list take one seat more, up to
	// maxListSeats. Listing copies encoded bytes, so that a thousand take about
	// as long as a write.
	objectsPerSeat, maxListSeats = 1000, 10
	// watcherCost is what showing a change to one watcher takes, in seconds.
	watcherCost = 20e-6
)

// Headers by which a client sees how its request was classified.
const (
	headerFlowSchema    = "X-Kubernetes-Pf-Flowschema-Uid"
	headerPriorityLevel = "X-Kubernetes-Pf-Prioritylevel-Uid"
)

// limits bounds what is under way, so that overload is answered with 429 and
// not with memory: requests by priority and fairness, watches and streams by
// their number.
type limits struct {
	fair *fairness.Fairness
	long shares
	// watches counts those that are open, by resource.
	watches sync.Map
}

func newLimits(c *Config, m *metrics) *limits {
	l := &limits{fair: fairness.New(fairness.Config{Seats: c.MaxInFlight, Now: c.Now, Log: c.Log})}
	m.registry.MustRegister(l.fair.Metrics())
	return l
}

// admit waits for the request's turn. Streams other than watches hold no seats,
// since they last as long as somebody likes; a watch holds them until it has
// sent the state that it begins with (exchange.settled).
func (s *Server) admit(x *exchange, a *auth.Attributes, long bool) (leave func(), err error) {
	done := func() {}
	if long {
		if done = s.limits.open(a.User); done == nil {
			return nil, apierrors.NewTooManyRequests("too many watches and streams are open, please try again later.", 1)
		}
		if x.t.Verb != "watch" {
			return done, nil
		}
	}
	ticket, class, err := s.limits.fair.Enter(x.r.Context(), a, s.workOf(x))
	h := x.Header()
	h[headerFlowSchema], h[headerPriorityLevel] = []string{class.FlowSchema}, []string{class.PriorityLevel}
	if err != nil {
		done()
		return nil, err
	}
	x.ticket, x.turn = ticket, turn{s, a}
	return func() { x.ticket.Done(); done() }, nil
}

// shares counts the watches and streams that are open, by user.
type shares struct {
	mu   sync.Mutex
	all  int
	each map[string]int
}

// open takes a place for a user, and returns what gives it back, or nil if there is
// none: a user may have as many places as are free, so that those who take all they
// get leave some to others. Administrators always find one.
func (l *limits) open(u auth.User) (done func()) {
	s := &l.long
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.each[u.Name] >= maxLong-s.all && !u.In(auth.GroupMasters) {
		return nil
	}
	if s.each == nil {
		s.each = map[string]int{}
	}
	s.all++
	s.each[u.Name]++
	return func() { s.close(u.Name) }
}

func (s *shares) close(user string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all--
	if s.each[user]--; s.each[user] == 0 {
		delete(s.each, user)
	}
}

// settled gives back the seats of a request that goes on without costing much.
func (x *exchange) settled() {
	if x.ticket != nil {
		x.ticket.Done()
	}
}

// workOf estimates what a request costs.
func (s *Server) workOf(x *exchange) fairness.Work {
	t := x.t
	if !t.Resource {
		return fairness.Work{Seats: 1}
	}
	switch {
	case t.mutates():
		return fairness.Work{Seats: 1, Extra: float64(s.limits.watching(t).Load()) * watcherCost}
	case t.Verb == "list", t.Verb == "watch" && beginsWithState(x):
		return fairness.Work{Seats: min(1+s.listed(x)/objectsPerSeat, maxListSeats)}
	}
	return fairness.Work{Seats: 1}
}

func beginsWithState(x *exchange) bool {
	q := x.query()
	rv := q.Get("resourceVersion")
	return rv == "" || rv == "0" || isTrue(q.Get("sendInitialEvents"))
}

// listed is about how many objects a list looks at.
func (s *Server) listed(x *exchange) int {
	if x.t.Name != "" {
		return 1
	}
	n := s.cfg.Store.Snapshot().Count(store.Scope{Resource: x.t.key(), Namespace: x.t.Namespace})
	if v := x.query().Get("limit"); v != "" {
		if limit, err := strconv.Atoi(v); err == nil && limit > 0 && limit < math.MaxInt32 {
			return min(n, limit)
		}
	}
	return n
}

// watching is the number of watches of a resource.
func (l *limits) watching(t target) *atomic.Int64 {
	if n, ok := l.watches.Load(t.key()); ok {
		return n.(*atomic.Int64)
	}
	return new(atomic.Int64)
}

// watched counts a watch of a resource that is served until the result is called.
func (l *limits) watched(key string) func() {
	n, _ := l.watches.LoadOrStore(key, new(atomic.Int64))
	n.(*atomic.Int64).Add(1)
	return func() { n.(*atomic.Int64).Add(-1) }
}

// key is the resource's name in the store.
func (t target) key() string {
	if t.Group == "" {
		return t.Plural
	}
	return t.Group + "/" + t.Plural
}
