package fairness

import (
	"cmp"
	"slices"
	"sync"
	"time"

	"proa/auth"
)

// Reasons for a refusal, as the metrics of upstream name them.
const (
	ReasonQueueFull   = "queue-full"
	ReasonNoSeats     = "concurrency-limit"
	ReasonTimeout     = "time-out"
	ReasonCancelled   = "cancelled"
	ReasonNotRejected = ""
)

// limits are what a priority level may use, in seats.
type limits struct {
	exempt bool
	// nominal is the level's share. It always gets reserve, which is what it
	// does not lend; with borrowing it may have most.
	nominal, reserve, most int
	// Without queues a request that finds no seat is refused.
	queues, hand, length int
}

// dispatcher shares the server's seats among the levels. Its lock guards all
// levels, since what one borrows another lends; nothing happens under it but
// arithmetic.
type dispatcher struct {
	mu      sync.Mutex
	total   int
	levels  []*level
	taken   int // seats that are in use or reserved
	waiting int // tickets in queues
	round   uint64
}

// level is a priority level's state.
type level struct {
	name string
	limits
	gone    bool // its object was deleted; it ends when it is empty
	queues  []queue
	inUse   int // seats
	running int // tickets
	waiting int // tickets
	// virtual is the start tag of the ticket that was dispatched last
	// (start-time fair queueing, Goyal et al. 1996), in seat-seconds.
	virtual float64
	// mean is how long a ticket holds its seats, in seconds, smoothed.
	mean  float64
	tried uint64 // the dispatcher's round in which it had nothing to run
}

// queue holds the waiting tickets of the flows that were dealt to it.
type queue struct {
	tickets []*ticket
	seats   int     // of waiting and running tickets
	start   float64 // start tag of the next ticket, in seat-seconds
	running int
}

// work is what a request is thought to cost.
type work struct {
	seats int
	// extra is what is charged to the flow beside the time that the seats are
	// held, in seat-seconds: what others do because of the request.
	extra float64
}

// ticket is one request in a level.
type ticket struct {
	level *level
	queue int // -1 in a level without queues
	flow  uint64
	work
	schema *schema
	// For the dumps: the flow, and what is asked.
	who, user, verb string
	path            *auth.Attributes
	arrived         time.Time
	started         time.Time
	charged         float64
	state           ticketState
	ready           chan struct{} // closed when the ticket may run; made if it must wait
}

type ticketState uint8

const (
	stateWaiting ticketState = iota
	stateRunning
	stateOver
)

// arrive lets the ticket run, has it wait (state tells), or refuses it.
func (d *dispatcher) arrive(t *ticket, now time.Time) (refused string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	l := t.level
	t.arrived, t.queue = now, -1
	if l.exempt {
		d.begin(t, now)
		return ReasonNotRejected
	}
	t.seats = max(1, min(t.seats, l.most))
	if len(l.queues) == 0 {
		if !d.admits(l, t.seats) {
			return ReasonNoSeats
		}
		d.begin(t, now)
		return ReasonNotRejected
	}
	t.queue = l.choose(t.flow)
	q := &l.queues[t.queue]
	if len(q.tickets) == 0 {
		q.start = max(q.start, l.virtual)
	}
	if d.waiting == 0 && d.fits(l, t.seats) {
		q.seats += t.seats
		d.begin(t, now)
		return ReasonNotRejected
	}
	if len(q.tickets) >= l.length {
		return ReasonQueueFull
	}
	t.ready = make(chan struct{})
	q.tickets = append(q.tickets, t)
	q.seats += t.seats
	l.waiting++
	d.waiting++
	d.dispatch(now)
	return ReasonNotRejected
}

// admits tells whether a level without queues may take seats at this moment: it
// does not take what one below its share waits for.
func (d *dispatcher) admits(l *level, seats int) bool {
	if !d.fits(l, seats) {
		return false
	}
	return l.inUse+seats <= l.reserve || !slices.ContainsFunc(d.levels, func(o *level) bool {
		return o.waiting > 0 && o.inUse < o.nominal
	})
}

// fits tells whether the seats are there: out of the level's own reserve, or
// out of what no level reserves or uses. A level that has nothing running may
// always run a narrow request, so that none is locked out whole.
func (d *dispatcher) fits(l *level, seats int) bool {
	after := l.inUse + seats
	switch {
	case after <= l.reserve || after == 1:
		return true
	case after > l.most:
		return false
	}
	return d.taken+after-max(l.inUse, l.reserve) <= d.total
}

// use changes the seats that a level uses.
func (d *dispatcher) use(l *level, seats int) {
	if l.exempt {
		l.inUse += seats
		return
	}
	d.taken -= max(l.inUse, l.reserve)
	l.inUse += seats
	d.taken += max(l.inUse, l.reserve)
}

// begin gives the ticket its seats and charges its queue.
func (d *dispatcher) begin(t *ticket, now time.Time) {
	l := t.level
	d.use(l, t.seats)
	l.running++
	t.state, t.started = stateRunning, now
	if t.schema != nil {
		t.schema.dispatched.Add(1)
	}
	if t.queue < 0 {
		return
	}
	q := &l.queues[t.queue]
	q.running++
	l.virtual = max(l.virtual, q.start)
	t.charged = float64(t.seats)*l.mean + t.extra
	q.start += t.charged
}

// finish takes the ticket's seats back and corrects what its queue was charged.
// It returns false when that was done before.
func (d *dispatcher) finish(t *ticket, now time.Time) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if t.state != stateRunning {
		return false
	}
	t.state = stateOver
	l := t.level
	d.use(l, -t.seats)
	l.running--
	held := now.Sub(t.started).Seconds()
	if t.queue >= 0 {
		q := &l.queues[t.queue]
		q.running--
		q.seats -= t.seats
		q.start += float64(t.seats)*held + t.extra - t.charged
		l.mean += (held - l.mean) / 16
	}
	d.sweep(l)
	if d.waiting > 0 {
		d.dispatch(now)
	}
	return true
}

// leave takes a waiting ticket out of its queue. It returns false when the
// ticket runs already.
func (d *dispatcher) leave(t *ticket, now time.Time) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if t.state != stateWaiting {
		return false
	}
	q := &t.level.queues[t.queue]
	if i := slices.Index(q.tickets, t); i >= 0 {
		q.tickets = slices.Delete(q.tickets, i, i+1)
	}
	d.unqueue(t)
	t.state = stateOver
	q.seats -= t.seats
	d.sweep(t.level)
	if d.waiting > 0 {
		d.dispatch(now) // the head may have been too wide for what is free
	}
	return true
}

func (d *dispatcher) unqueue(t *ticket) {
	t.level.waiting--
	d.waiting--
}

// dispatch starts waiting tickets as far as there are seats: always one of the
// level that uses the smallest part of its share. Once such a level must wait
// for seats, the others get none but out of their own reserve, so that seats
// come together for it.
func (d *dispatcher) dispatch(now time.Time) {
	for d.waiting > 0 {
		t := d.next()
		if t == nil {
			return
		}
		q := &t.level.queues[t.queue]
		q.tickets[0] = nil
		q.tickets = q.tickets[1:]
		d.unqueue(t)
		d.begin(t, now)
		close(t.ready)
	}
}

// next finds the ticket that is to run now, or nil.
func (d *dispatcher) next() *ticket {
	d.round++
	for hungry := false; ; {
		var best *level
		for _, l := range d.levels {
			if l.waiting > 0 && l.tried != d.round && (best == nil || l.load() < best.load()) {
				best = l
			}
		}
		if best == nil {
			return nil
		}
		best.tried = d.round
		t := best.head()
		if d.fits(best, t.seats) && (!hungry || best.inUse+t.seats <= best.reserve) {
			return t
		}
		hungry = hungry || best.inUse < best.nominal
	}
}

// load is the part of its share that a level uses.
func (l *level) load() float64 { return float64(l.inUse) / float64(max(l.nominal, 1)) }

// head is the first ticket of the queue whose turn it is: the one with the
// smallest start tag.
func (l *level) head() *ticket {
	var best *queue
	for i := range l.queues {
		if q := &l.queues[i]; len(q.tickets) > 0 && (best == nil || q.start < best.start) {
			best = q
		}
	}
	return best.tickets[0]
}

// choose deals the flow its hand of queues and takes the one with the least in
// it (shuffle sharding): a flow that fills its queues shares not all of them
// with any other.
func (l *level) choose(flow uint64) int {
	best, dealt := -1, [maxHand]int{}
	for i := range l.hand {
		card := deal(&flow, len(l.queues), dealt[:i])
		dealt[i] = card
		if q := &l.queues[card]; best < 0 || q.seats < l.queues[best].seats {
			best = card
		}
	}
	return best
}

// maxHand bounds the hand, as does the API.
const maxHand = 32

// deal draws a card that has not been dealt.
func deal(state *uint64, deck int, dealt []int) int {
	for {
		*state = mix(*state)
		card := int(*state % uint64(deck))
		if !slices.Contains(dealt, card) {
			return card
		}
	}
}

// mix is the step of SplitMix64 (Steele, Lea, Flood 2014).
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// set gives the levels these limits, by name. Levels that are not named end
// when they are empty. Tickets keep the queue that they are in.
func (d *dispatcher) set(total int, want map[string]limits, now time.Time) map[string]*level {
	d.mu.Lock()
	defer d.mu.Unlock()
	out := make(map[string]*level, len(want))
	for _, l := range d.levels {
		lim, kept := want[l.name]
		if !kept || l.gone || lim.exempt != l.exempt || !l.resize(lim) {
			l.gone = true
			l.reserve = 0
			continue
		}
		l.limits = lim
		out[l.name] = l
	}
	for name, lim := range want {
		if out[name] == nil {
			out[name] = &level{name: name, limits: lim, queues: make([]queue, lim.queues), mean: firstMean}
			d.levels = append(d.levels, out[name])
		}
	}
	slices.SortFunc(d.levels, func(a, b *level) int { return cmp.Compare(a.name, b.name) })
	d.levels = slices.DeleteFunc(d.levels, (*level).ended)
	d.total, d.taken = total, 0
	for _, l := range d.levels {
		if !l.exempt {
			d.taken += max(l.inUse, l.reserve)
		}
	}
	d.dispatch(now)
	return out
}

// firstMean is what a request is thought to take before any was seen, in
// seconds.
const firstMean = 0.005

// resize changes the number of queues, which can be done while nothing is in
// them; else a new level stands beside the old until that is empty.
func (l *level) resize(lim limits) bool {
	if len(l.queues) == lim.queues {
		return true
	}
	if l.running+l.waiting > 0 {
		return false
	}
	l.queues = make([]queue, lim.queues)
	return true
}

func (l *level) ended() bool { return l.gone && l.running+l.waiting == 0 }

// sweep forgets a level that was to end.
func (d *dispatcher) sweep(l *level) {
	if !l.ended() {
		return
	}
	d.levels = slices.DeleteFunc(d.levels, func(o *level) bool { return o == l })
	d.taken -= max(0, l.reserve)
}

// wait is how long the requests that wait in a level will have taken to get
// seats, by what it did before.
func (l *level) wait() time.Duration {
	seats := 0
	for i := range l.queues {
		seats += l.queues[i].seats
	}
	return time.Duration(float64(seats) * l.mean / float64(max(l.nominal, 1)) * float64(time.Second))
}
