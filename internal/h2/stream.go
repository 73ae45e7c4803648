package h2

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/textproto"
	"net/url"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// stream is one request and its answer.
type stream struct {
	c       *conn
	id      uint32
	req     *http.Request
	cancel  context.CancelFunc
	refusal int // the status to answer with instead of asking the handler; 0 for none
	answer  response

	// Guarded by c.mu.
	window     int64 // what the peer takes
	err        error // why the stream has ended early
	remoteDone bool  // the peer has said all
	localDone  bool  // we have
	ready      chan struct{}
	waits      bool // it is in c.waiting
	body       body
	timers     [2]*time.Timer // deadlines of reading and of writing
}

// newStream makes a stream of a request's headers. c.mu is held.
func (c *conn) newStream(f *http2.MetaHeadersFrame) (*stream, error) {
	s := &stream{c: c, id: f.StreamID, window: c.peerWindow, remoteDone: f.StreamEnded()}
	r, err := c.request(f)
	if err != nil {
		return nil, http2.StreamError{StreamID: f.StreamID, Code: http2.ErrCodeProtocol, Cause: err}
	}
	if f.Truncated {
		s.refusal = http.StatusRequestHeaderFieldsTooLarge
	}
	if s.remoteDone {
		if r.ContentLength > 0 {
			return nil, http2.StreamError{StreamID: f.StreamID, Code: http2.ErrCodeProtocol}
		}
		r.Body, r.ContentLength = http.NoBody, 0
	} else {
		s.body = body{s: s, left: r.ContentLength, recv: recvWindow, expect: strings.EqualFold(r.Header.Get("Expect"), "100-continue")}
		r.Body = &s.body
	}
	ctx, cancel := context.WithCancel(c.base)
	s.req, s.cancel = r.WithContext(ctx), cancel
	s.answer = response{s: s, header: http.Header{}, length: -1, head: r.Method == http.MethodHead}
	return s, nil
}

var errMalformed = errors.New("malformed request")

// hopByHop are headers that HTTP/2 has no use for (RFC 9113, 8.2.2).
var hopByHop = map[string]bool{"Connection": true, "Proxy-Connection": true, "Keep-Alive": true, "Transfer-Encoding": true, "Upgrade": true}

// request reads a request's headers.
func (c *conn) request(f *http2.MetaHeadersFrame) (*http.Request, error) {
	r := &http.Request{Proto: "HTTP/2.0", ProtoMajor: 2, RemoteAddr: c.remote, TLS: c.state, Header: make(http.Header, len(f.Fields)), ContentLength: -1}
	path, scheme := "", ""
	values := make([]string, 0, len(f.Fields))
	for _, field := range f.Fields {
		switch field.Name {
		case ":method":
			r.Method = field.Value
		case ":path":
			path = field.Value
		case ":scheme":
			scheme = field.Value
		case ":authority":
			r.Host = field.Value
		case ":protocol":
			return nil, errMalformed // was not offered
		default:
			values = append(values, field.Value)
			addHeader(r.Header, http.CanonicalHeaderKey(field.Name), values[len(values)-1:len(values):len(values)])
		}
	}
	if err := checkHeader(r); err != nil && !f.Truncated {
		return nil, err
	}
	r.RequestURI = path
	if r.Method == http.MethodConnect {
		if path != "" || scheme != "" || r.Host == "" {
			return nil, errMalformed
		}
		r.URL, r.RequestURI = &url.URL{Host: r.Host}, r.Host
		return r, nil
	}
	if f.Truncated {
		path = "/"
	} else if r.Method == "" || path == "" || scheme != "https" && scheme != "http" {
		return nil, errMalformed
	}
	var err error
	r.URL, err = url.ParseRequestURI(path)
	return r, err
}

func addHeader(h http.Header, key string, value []string) {
	had := h[key]
	switch {
	case had == nil:
		h[key] = value
	case key == "Cookie": // it may come in pieces (RFC 9113, 8.2.3)
		h[key] = []string{had[0] + "; " + value[0]}
	default:
		h[key] = append(had, value[0])
	}
}

// checkHeader reads what the protocol itself needs of the headers.
func checkHeader(r *http.Request) error {
	for key, values := range r.Header {
		switch {
		case hopByHop[key], key == "Te" && (len(values) != 1 || values[0] != "trailers"):
			return errMalformed
		case key == "Content-Length":
			n, err := strconv.ParseUint(values[0], 10, 63)
			if err != nil || len(values) != 1 {
				return errMalformed
			}
			r.ContentLength = int64(n)
		}
	}
	if r.Host == "" {
		r.Host = r.Header.Get("Host")
	}
	delete(r.Header, "Host")
	for _, list := range r.Header["Trailer"] {
		for name := range strings.SplitSeq(list, ",") {
			if r.Trailer == nil {
				r.Trailer = http.Header{}
			}
			r.Trailer[http.CanonicalHeaderKey(textproto.TrimString(name))] = nil
		}
	}
	delete(r.Header, "Trailer")
	return nil
}

// handle runs the handler and ends the answer.
func (s *stream) handle() {
	c := s.c
	defer c.running.Done()
	whole := s.call()
	s.answer.finish(whole)
	s.cancel()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, t := range s.timers {
		if t != nil {
			t.Stop()
		}
	}
	c.handlers--
	c.eat(int64(len(s.body.data)))
	s.body.data = nil
	if s.err == nil && !s.remoteDone {
		c.reset(s.id, http2.ErrCodeNo) // the rest of the body is of no use (RFC 9113, 8.1)
	}
	s.abort(errGone)
}

// call calls the handler. It returns false where that panicked.
func (s *stream) call() (whole bool) {
	defer func() {
		p := recover()
		if err, ok := p.(error); p == nil || ok && errors.Is(err, http.ErrAbortHandler) {
			return
		}
		s.c.srv.logf("h2: panic serving %s: %v\n%s", s.c.remote, p, debug.Stack())
	}()
	if s.refusal != 0 {
		s.answer.WriteHeader(s.refusal)
		return true
	}
	s.c.handler.ServeHTTP(&s.answer, s.req)
	return true
}

// abort ends the stream on both sides; what was not done fails. c.mu is held.
func (s *stream) abort(err error) {
	if s.err != nil {
		return
	}
	s.err = err
	s.remoteDone, s.localDone = true, true
	s.body.end(err)
	s.wake()
	s.cancel()
	delete(s.c.streams, s.id)
	if len(s.c.streams) == 0 {
		s.c.rest()
	}
}

// trailers ends the body of a request. c.mu is held.
func (s *stream) trailers(f *http2.MetaHeadersFrame) error {
	switch {
	case s.remoteDone:
		return http2.StreamError{StreamID: s.id, Code: http2.ErrCodeStreamClosed}
	case !f.StreamEnded() || len(f.PseudoFields()) > 0:
		return http2.StreamError{StreamID: s.id, Code: http2.ErrCodeProtocol}
	}
	for _, field := range f.RegularFields() {
		s.body.trailer = append(s.body.trailer, hpack.HeaderField{Name: http.CanonicalHeaderKey(field.Name), Value: field.Value})
	}
	return s.endOfBody()
}

// received takes a piece of the body; n is what it takes of the windows. c.mu is
// held.
func (s *stream) received(f *http2.DataFrame, n int64) error {
	b := &s.body
	data := f.Data()
	if b.recv -= n; b.recv < 0 {
		s.c.eat(n)
		return http2.StreamError{StreamID: s.id, Code: http2.ErrCodeFlowControl}
	}
	if b.left >= 0 {
		if b.left -= int64(len(data)); b.left < 0 {
			s.c.eat(n)
			return http2.StreamError{StreamID: s.id, Code: http2.ErrCodeProtocol}
		}
	}
	b.eat(n - int64(len(data))) // padding
	if b.err == nil {
		b.data = append(b.data, data...)
	} else {
		b.eat(int64(len(data))) // nobody reads it
	}
	b.wake()
	if f.StreamEnded() {
		return s.endOfBody()
	}
	return nil
}

func (s *stream) endOfBody() error {
	s.remoteDone = true
	if s.body.left > 0 {
		s.body.end(io.ErrUnexpectedEOF)
		return http2.StreamError{StreamID: s.id, Code: http2.ErrCodeProtocol}
	}
	s.body.end(io.EOF)
	return nil
}

// body is a request's body. All of it is guarded by the connection's lock.
type body struct {
	s       *stream
	data    []byte // not yet read
	err     error  // after the data
	ready   chan struct{}
	left    int64 // of the announced length; -1 where there was none
	recv    int64 // what the peer may send
	eaten   int64 // what was read and not granted anew
	expect  bool  // the client waits for 100 Continue
	trailer []hpack.HeaderField
}

// Read is io.Reader's.
func (b *body) Read(p []byte) (int, error) {
	c := b.s.c
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(b.data) == 0 && b.err == nil {
		if b.expect && !b.s.answer.sent {
			b.expect = false
			c.appendHeaders(b.s.id, []hpack.HeaderField{{Name: ":status", Value: "100"}}, false)
			c.flush()
			continue // the body may have come while the lock was not held
		}
		if b.ready == nil {
			b.ready = make(chan struct{}, 1)
		}
		c.mu.Unlock()
		<-b.ready
		c.mu.Lock()
	}
	if len(b.data) == 0 {
		return 0, b.end(b.err)
	}
	n := copy(p, b.data)
	if b.data = b.data[n:]; len(b.data) == 0 {
		b.data = nil
	}
	b.eat(int64(n))
	return n, nil
}

// Close has what still comes thrown away.
func (b *body) Close() error {
	c := b.s.c
	c.mu.Lock()
	defer c.mu.Unlock()
	b.eat(int64(len(b.data)))
	b.data = nil
	b.end(http.ErrBodyReadAfterClose)
	return nil
}

// end says what follows the data, unless that was said before; it returns what
// was. c.mu is held.
func (b *body) end(err error) error {
	if b.err == nil {
		b.err = err
		b.wake()
	}
	if b.err == io.EOF && len(b.data) == 0 {
		for _, f := range b.trailer {
			if _, announced := b.s.req.Trailer[f.Name]; announced {
				b.s.req.Trailer.Add(f.Name, f.Value)
			}
		}
		b.trailer = nil
	}
	return b.err
}

// eat lets the peer send as much as was read. c.mu is held.
func (b *body) eat(n int64) {
	if n == 0 || b.s == nil {
		return
	}
	c := b.s.c
	c.eat(n)
	if b.s.remoteDone {
		return
	}
	if b.eaten += n; b.eaten >= recvWindow/2 {
		c.grant(b.s.id, uint32(b.eaten))
		b.recv += b.eaten
		b.eaten = 0
	}
}

func (b *body) wake() {
	select {
	case b.ready <- struct{}{}:
	default:
	}
}

// The deadlines of a stream, in stream.timers.
const (
	reading = iota
	writing
)

// deadline has the stream fail at a time; zero is never.
func (s *stream) deadline(which int, at time.Time) {
	c := s.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if s.err != nil || which == reading && s.remoteDone {
		return
	}
	t := s.timers[which]
	switch {
	case at.IsZero() && t == nil:
	case at.IsZero():
		t.Stop()
	case t == nil:
		s.timers[which] = time.AfterFunc(time.Until(at), func() { s.late(which) })
	default:
		t.Reset(time.Until(at))
	}
}

func (s *stream) late(which int) {
	c := s.c
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case s.err != nil:
	case which == reading:
		s.body.end(os.ErrDeadlineExceeded)
	default:
		c.reset(s.id, http2.ErrCodeInternal)
		s.abort(os.ErrDeadlineExceeded)
	}
}
