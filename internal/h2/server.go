// Package h2 serves HTTP/2 (RFC 9113) to the handlers of a net/http server. It
// promises what net/http's own HTTP/2 does, for less: a frame is written by the
// goroutine that made it, together with what others have made meanwhile, and
// handlers run on goroutines whose stacks have grown already. Frames are read by
// golang.org/x/net/http2's Framer, which holds the limits of headers.
//
// What a connection holds is bounded: requests under way, header lists, bodies
// that nobody reads, answers that the peer does not take, and control frames that
// it provokes. A peer that takes nothing for a while is cut off.
package h2

import (
	"context"
	"crypto/tls"
	"log"
	"net/http"
	"sync"
	"time"
)

const (
	// maxStreams is how many requests a connection may have under way.
	maxStreams = 250
	// stall is how long the peer may take nothing of what is written to it.
	stall = 30 * time.Second
	// greeting is how long a client may take to begin.
	greeting = 10 * time.Second
	// recvWindow is how much of bodies may be here unread, of a stream and of a
	// connection, in bytes.
	recvWindow = 1 << 20
	// readFrame is the largest frame that is read, in bytes.
	readFrame = 64 << 10
	// gathered is the number of bytes from which who has more waits until the
	// peer has taken some.
	gathered = 64 << 10
	// provoked bounds the control frames that wait to be written.
	provoked = 10_000
)

// server is what the connections of one http.Server share.
type server struct {
	maxStreams uint32
	maxHeader  uint32
	idle       time.Duration // zero is for ever
	stall      time.Duration
	log        *log.Logger
	workers    workers

	mu      sync.Mutex
	conns   map[*conn]struct{}
	closing bool
}

// Configure has srv serve HTTP/2 with this package, where a client chooses it on a
// TLS connection. It heeds IdleTimeout, MaxHeaderBytes, ErrorLog, and of
// srv.HTTP2 MaxConcurrentStreams and WriteByteTimeout. It must be called before
// srv serves.
func Configure(srv *http.Server) {
	s := &server{maxStreams: maxStreams, maxHeader: http.DefaultMaxHeaderBytes, idle: srv.IdleTimeout, stall: stall,
		log: srv.ErrorLog, conns: map[*conn]struct{}{}}
	if srv.MaxHeaderBytes > 0 {
		s.maxHeader = uint32(srv.MaxHeaderBytes)
	}
	if c := srv.HTTP2; c != nil && c.MaxConcurrentStreams > 0 {
		s.maxStreams = uint32(c.MaxConcurrentStreams)
	}
	if c := srv.HTTP2; c != nil && c.WriteByteTimeout > 0 {
		s.stall = c.WriteByteTimeout
	}
	if srv.TLSNextProto == nil {
		srv.TLSNextProto = map[string]func(*http.Server, *tls.Conn, http.Handler){}
	}
	srv.TLSNextProto["h2"] = s.serve
	srv.RegisterOnShutdown(s.shutdown)
}

// serve serves one connection, until it has ended and its handlers have returned.
func (s *server) serve(_ *http.Server, t *tls.Conn, h http.Handler) {
	base := context.Background()
	if b, ok := h.(interface{ BaseContext() context.Context }); ok {
		base = b.BaseContext()
	}
	c := newConn(base, s, t, h)
	if !s.add(c) {
		_ = t.Close() // shutting down
		return
	}
	defer s.remove(c)
	c.serve()
}

func (s *server) add(c *conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing {
		return false
	}
	s.conns[c] = struct{}{}
	s.workers.keep(true)
	return true
}

func (s *server) remove(c *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c)
	if len(s.conns) == 0 {
		s.workers.keep(false)
	}
}

// shutdown lets requests under way end, and takes no more.
func (s *server) shutdown() {
	s.mu.Lock()
	s.closing = true
	var all []*conn
	for c := range s.conns {
		all = append(all, c)
	}
	s.mu.Unlock()
	for _, c := range all {
		c.leave()
	}
}

func (s *server) logf(format string, args ...any) {
	if s.log != nil {
		s.log.Printf(format, args...)
		return
	}
	log.Printf(format, args...)
}

// maxIdle is how many goroutines wait for requests.
const maxIdle = 24

// workers run handlers on goroutines that stay, since a stack that grows anew for
// each request is a fourth of a small one's time.
type workers struct {
	mu   sync.Mutex
	idle []chan *stream
	open bool
}

// do runs the stream's handler, on the worker that was the last to become idle.
func (w *workers) do(s *stream) {
	w.mu.Lock()
	n := len(w.idle)
	if n == 0 {
		w.mu.Unlock()
		go w.work(s)
		return
	}
	next := w.idle[n-1]
	w.idle = w.idle[:n-1]
	w.mu.Unlock()
	next <- s
}

func (w *workers) work(s *stream) {
	jobs := make(chan *stream, 1)
	for ok := true; ok; s, ok = <-jobs {
		s.handle()
		s = nil
		w.mu.Lock()
		if !w.open || len(w.idle) == maxIdle {
			w.mu.Unlock()
			return
		}
		w.idle = append(w.idle, jobs)
		w.mu.Unlock()
	}
}

// keep tells whether there may be idle ones from now on.
func (w *workers) keep(open bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.open = open; open {
		return
	}
	for _, jobs := range w.idle {
		close(jobs)
	}
	w.idle = nil
}
