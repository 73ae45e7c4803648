package apiserver

import (
	"net/http"
	"sync"
	"time"

	"proa/auth"
)

const (
	// patience is how long a request keeps its seats while nothing but its client
	// holds it up: a client that sends or takes slowly is no work.
	patience = time.Second
	// answerBuffer is about what a connection takes of an answer without its client.
	answerBuffer = 4 << 10
)

// taking watches a client take an answer: after patience the request's seats go to
// others, and once its time and stallTimeout are over the connection is cut. It is a
// timer of its own, since a deadline costs HTTP/2's one goroutine two messages.
type taking struct {
	mu    sync.Mutex
	timer *time.Timer
	cut   time.Time
	freed bool
	over  bool
}

// answering starts to watch the client when an answer becomes larger than what a
// connection takes without it. Watches and streams have means of their own.
func (x *exchange) answering(n int) {
	x.written += n
	if x.taking != nil || x.long || x.written <= answerBuffer {
		return
	}
	end, ok := x.r.Context().Deadline()
	if !ok {
		return
	}
	t := &taking{cut: end.Add(stallTimeout)}
	t.mu.Lock()
	t.timer = time.AfterFunc(patience, func() { t.late(x) })
	t.mu.Unlock()
	x.taking = t
}

func (t *taking) late(x *exchange) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case t.over:
	case !t.freed:
		t.freed = true
		x.settled()
		t.timer.Reset(time.Until(t.cut))
	default:
		// Not every connection has deadlines.
		_ = http.NewResponseController(x.ResponseWriter).SetWriteDeadline(time.Unix(1, 0))
	}
}

// taken ends the watch over the client.
func (x *exchange) taken() {
	if x.taking == nil {
		return
	}
	x.taking.mu.Lock()
	defer x.taking.mu.Unlock()
	x.taking.over = true
	x.taking.timer.Stop()
}

// turn is what a request needs to queue for its seats once more.
type turn struct {
	s *Server
	a *auth.Attributes
}

// awaiting runs what waits for the client's body. A request whose client takes
// longer than patience queues for its seats once more.
func (x *exchange) awaiting(read func()) error {
	ticket := x.ticket
	if ticket == nil {
		read()
		return nil
	}
	timer := time.AfterFunc(patience, ticket.Done)
	read()
	if timer.Stop() {
		return nil
	}
	again, _, err := x.turn.s.limits.fair.Enter(x.r.Context(), x.turn.a, x.turn.s.workOf(x))
	if err == nil {
		x.ticket = again
	}
	return err
}
