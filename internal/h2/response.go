package h2

import (
	"io"
	"net/http"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/http/httpguts"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// held is how much of an answer is held back, in bytes, in case it is all.
const held = 4 << 10

// response is the http.ResponseWriter of a stream. It belongs to the handler's
// goroutine; sent alone is guarded by the connection's lock.
type response struct {
	s       *stream
	header  http.Header
	status  int // 0 until WriteHeader
	fields  []hpack.HeaderField
	head    bool  // of a HEAD request
	length  int64 // announced; -1 for none
	wrote   int64
	buf     []byte
	sent    bool // the headers are
	trailer []string
}

func (w *response) Header() http.Header { return w.header }

// WriteHeader fixes the status and the headers; 1xx are sent at once.
func (w *response) WriteHeader(code int) {
	if code < 100 || code > 999 {
		panic("h2: invalid status " + strconv.Itoa(code))
	}
	if w.status != 0 {
		return
	}
	if code < 200 {
		w.inform(code)
		return
	}
	w.status = code
	w.fix()
}

// inform sends a status that is not the answer yet.
func (w *response) inform(code int) {
	fields := appendFields([]hpack.HeaderField{{Name: ":status", Value: strconv.Itoa(code)}}, w.header)
	c := w.s.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if w.s.err == nil && c.err == nil {
		c.appendHeaders(w.s.id, fields, false)
		c.flush()
	}
}

// fix keeps the headers as they are now.
func (w *response) fix() {
	w.fields = append(make([]hpack.HeaderField, 0, len(w.header)+4), hpack.HeaderField{Name: ":status", Value: statusText(w.status)})
	if v := w.header["Content-Length"]; len(v) > 0 {
		if n, err := strconv.ParseUint(v[0], 10, 63); err == nil {
			w.length = int64(n)
		} else {
			delete(w.header, "Content-Length")
		}
	}
	for _, list := range w.header["Trailer"] {
		for name := range strings.SplitSeq(list, ",") {
			w.trailer = append(w.trailer, http.CanonicalHeaderKey(strings.TrimSpace(name)))
		}
	}
	w.fields = appendFields(w.fields, w.header)
	if _, ok := w.header["Date"]; !ok {
		w.fields = append(w.fields, hpack.HeaderField{Name: "date", Value: date()})
	}
}

func statusText(code int) string {
	switch code {
	case http.StatusOK:
		return "200"
	case http.StatusCreated:
		return "201"
	}
	return strconv.Itoa(code)
}

// appendFields adds those headers that HTTP/2 may carry.
func appendFields(dst []hpack.HeaderField, h http.Header) []hpack.HeaderField {
	for key, values := range h {
		if hopByHop[key] || strings.HasPrefix(key, http.TrailerPrefix) {
			continue
		}
		name := lower(key)
		if name == "" {
			continue
		}
		for _, v := range values {
			if httpguts.ValidHeaderFieldValue(v) {
				dst = append(dst, hpack.HeaderField{Name: name, Value: v})
			}
		}
	}
	return dst
}

// mayHaveBody tells statuses whose answers have bodies.
func mayHaveBody(status int) bool {
	return status >= 200 && status != http.StatusNoContent && status != http.StatusNotModified
}

func (w *response) Write(p []byte) (int, error) {
	if w.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	if !mayHaveBody(w.status) {
		return 0, http.ErrBodyNotAllowed
	}
	if w.wrote += int64(len(p)); w.length >= 0 && w.wrote > w.length {
		return 0, http.ErrContentLength
	}
	if len(w.buf)+len(p) <= held {
		if w.buf == nil {
			w.buf = make([]byte, 0, max(len(p), int(min(max(w.length, 0), held))))
		}
		w.buf = append(w.buf, p...)
		return len(p), nil
	}
	err := w.push(false, w.take(), p)
	w.s.c.flushNow()
	return len(p), err
}

// WriteString is io.StringWriter's.
func (w *response) WriteString(p string) (int, error) { return w.Write([]byte(p)) }

// take empties the buffer.
func (w *response) take() []byte {
	b := w.buf
	w.buf = w.buf[:0]
	return b
}

// Flush is http.Flusher's.
func (w *response) Flush() { _ = w.FlushError() } // the error is FlushError's

// FlushError sends what was written so far.
func (w *response) FlushError() error {
	if w.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	err := w.push(false, w.take())
	c := w.s.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.streams) > 1 && !c.flushing {
		c.mu.Unlock()
		runtime.Gosched() // others that have something to say, of the same event perhaps, say it in one
		c.mu.Lock()
	}
	c.flush()
	return err
}

// SetReadDeadline is what http.ResponseController calls, as are the next two.
func (w *response) SetReadDeadline(at time.Time) error { w.s.deadline(reading, at); return nil }

// SetWriteDeadline ends the stream at that time if the handler still runs.
func (w *response) SetWriteDeadline(at time.Time) error { w.s.deadline(writing, at); return nil }

// EnableFullDuplex changes nothing: HTTP/2 is.
func (w *response) EnableFullDuplex() error { return nil }

// finish ends the answer; of one that is not whole the client hears that.
func (w *response) finish(whole bool) {
	if whole && w.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	short := w.length >= 0 && w.wrote < w.length && !w.head && mayHaveBody(w.status)
	if !whole || short {
		c := w.s.c
		c.mu.Lock()
		defer c.mu.Unlock()
		if w.s.err == nil {
			c.reset(w.s.id, http2.ErrCodeInternal)
			w.s.abort(errGone)
		}
		return
	}
	if !w.sent && w.length < 0 && mayHaveBody(w.status) && (!w.head || w.wrote > 0) {
		w.fields = append(w.fields, hpack.HeaderField{Name: "content-length", Value: strconv.FormatInt(w.wrote, 10)})
	}
	_ = w.push(true, w.take()) // a client that went away cannot be told
	w.s.c.flushNow()
}

// push adds the headers, unless they were sent, and the pieces of the body to what
// is to be written. The end says that this is all.
func (w *response) push(end bool, pieces ...[]byte) error {
	s, c := w.s, w.s.c
	n := 0
	for _, p := range pieces {
		n += len(p)
	}
	trailer := w.trailers(end)
	if !w.sent && n > 0 {
		w.sniff(pieces)
	}
	if w.head {
		n, pieces = 0, nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case s.err != nil:
		return s.err
	case c.err != nil:
		return c.err
	case s.localDone:
		return errGone // by a handler that has returned
	}
	if !w.sent {
		w.sent = true
		c.appendHeaders(s.id, w.fields, end && n == 0 && trailer == nil)
		w.fields = nil
	} else if end && n == 0 && trailer == nil {
		c.appendFrame(http2.FrameData, http2.FlagDataEndStream, s.id, nil)
	}
	for _, p := range pieces {
		for len(p) > 0 {
			took, err := s.reserve(len(p))
			if err != nil {
				return err
			}
			flags := http2.Flags(0)
			if n -= took; n == 0 && end && trailer == nil {
				flags = http2.FlagDataEndStream
			}
			c.appendFrame(http2.FrameData, flags, s.id, p[:took])
			p = p[took:]
		}
	}
	if trailer != nil {
		c.appendHeaders(s.id, trailer, true)
	}
	if end {
		s.localDone = true
		if s.remoteDone {
			s.abort(errGone) // as is right, for it is over
		}
	}
	return nil
}

// sniff finds out the type of a body whose handler has not said it.
func (w *response) sniff(pieces [][]byte) {
	for _, f := range w.fields {
		if f.Name == "content-type" || f.Name == "content-encoding" {
			return
		}
	}
	for _, p := range pieces {
		if len(p) > 0 {
			w.fields = append(w.fields, hpack.HeaderField{Name: "content-type", Value: http.DetectContentType(p)})
			return
		}
	}
}

// trailers are what follows the body.
func (w *response) trailers(end bool) (fields []hpack.HeaderField) {
	if !end {
		return nil
	}
	out := http.Header{}
	for _, key := range w.trailer {
		out[key] = w.header[key]
	}
	for key, values := range w.header {
		if name, ok := strings.CutPrefix(key, http.TrailerPrefix); ok {
			out[http.CanonicalHeaderKey(name)] = values
		}
	}
	return appendFields(nil, out)
}

var _ io.StringWriter = (*response)(nil)

// now is the date header of the current second.
var now atomic.Pointer[dated]

type dated struct {
	second int64
	text   string
}

func date() string {
	t := time.Now()
	if d := now.Load(); d != nil && d.second == t.Unix() {
		return d.text
	}
	d := &dated{t.Unix(), t.UTC().Format(http.TimeFormat)}
	now.Store(d)
	return d.text
}

// lowered are names of headers as HTTP/2 has them, "" for what is none. Handlers
// choose from few.
var lowered struct {
	sync.RWMutex
	names map[string]string
}

// maxLowered bounds lowered.
const maxLowered = 500

func lower(key string) string {
	lowered.RLock()
	name, ok := lowered.names[key]
	lowered.RUnlock()
	if ok {
		return name
	}
	if httpguts.ValidHeaderFieldName(key) {
		name = strings.ToLower(key)
	}
	lowered.Lock()
	defer lowered.Unlock()
	if lowered.names == nil {
		lowered.names = map[string]string{}
	}
	if len(lowered.names) < maxLowered {
		lowered.names[key] = name
	}
	return name
}
