package h2

import (
	"encoding/binary"
	"slices"
	"sync"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// record is the most that one TLS record holds, in bytes.
const record = 16 << 10

// buffers are for what is to be written; a connection that is idle has none.
var buffers = sync.Pool{New: func() any { b := make([]byte, 0, gathered+record); return &b }}

// largest is the capacity up to which a buffer is kept.
const largest = 4 * gathered

// appendFrame adds a frame to what is to be written. c.mu is held.
func (c *conn) appendFrame(kind http2.FrameType, flags http2.Flags, id uint32, payload []byte) {
	if c.out == nil {
		c.out = buffers.Get().(*[]byte)
	}
	n := len(payload)
	b := append(*c.out, byte(n>>16), byte(n>>8), byte(n), byte(kind), byte(flags))
	b = binary.BigEndian.AppendUint32(b, id)
	*c.out = append(b, payload...)
}

// control adds a small frame that the peer has provoked, which the connection's
// own goroutine writes: who reads must never wait for the peer to read. c.mu is held.
func (c *conn) control(kind http2.FrameType, flags http2.Flags, id uint32, payload []byte) {
	if c.err != nil {
		return
	}
	if c.provoked++; c.provoked > provoked {
		c.fail(http2.ConnectionError(http2.ErrCodeEnhanceYourCalm))
		return
	}
	c.appendFrame(kind, flags, id, payload)
	c.kick()
}

func (c *conn) reset(id uint32, code http2.ErrCode) {
	c.control(http2.FrameRSTStream, 0, id, binary.BigEndian.AppendUint32(nil, uint32(code)))
}

func (c *conn) grant(id, n uint32) {
	c.control(http2.FrameWindowUpdate, 0, id, binary.BigEndian.AppendUint32(nil, n))
}

// appendHeaders adds a header block. c.mu is held: the order in which blocks are
// compressed is that in which they are sent.
func (c *conn) appendHeaders(id uint32, fields []hpack.HeaderField, end bool) {
	c.block.Reset()
	for _, f := range fields {
		_ = c.enc.WriteField(f) // into memory
	}
	block, kind, flags := c.block.Bytes(), http2.FrameHeaders, http2.Flags(0)
	if end {
		flags = http2.FlagHeadersEndStream
	}
	for {
		n := min(len(block), c.peerFrame)
		if n == len(block) {
			flags |= http2.FlagHeadersEndHeaders
		}
		c.appendFrame(kind, flags, id, block[:n])
		if block = block[n:]; len(block) == 0 {
			return
		}
		kind, flags = http2.FrameContinuation, 0
	}
}

// pending is how many bytes wait to be written. c.mu is held.
func (c *conn) pending() int {
	if c.out == nil {
		return 0
	}
	return len(*c.out)
}

// flush writes what has gathered. Where somebody is at it, they are left to it;
// what gathers during the writing the connection's own goroutine writes. c.mu is
// held, but not while writing.
func (c *conn) flush() {
	if c.flushing || c.pending() == 0 || c.err != nil {
		return
	}
	c.flushing = true
	c.writeOut()
	if c.err == nil && (c.pending() > 0 || c.over()) {
		c.more <- struct{}{}
		return
	}
	c.flushed()
}

func (c *conn) flushNow() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.flush()
}

// flushed notes that nobody writes. c.mu is held.
func (c *conn) flushed() {
	c.flushing = false
	select {
	case c.dry <- struct{}{}:
	default:
	}
}

// over tells that the connection is to end, and nothing keeps it. c.mu is held.
func (c *conn) over() bool { return c.leaving && len(c.streams) == 0 }

// kick has the connection's own goroutine write. c.mu is held.
func (c *conn) kick() {
	if c.flushing || c.err != nil {
		return
	}
	c.flushing = true
	c.more <- struct{}{}
}

// flushLoop writes for those who cannot, until the connection ends.
func (c *conn) flushLoop() {
	for {
		select {
		case <-c.more:
		case <-c.ended:
			return
		}
		c.mu.Lock()
		for c.pending() > 0 && c.err == nil {
			c.writeOut()
		}
		over := c.over()
		c.flushed()
		c.mu.Unlock()
		if over {
			_ = c.tls.CloseWrite() // a client that is gone has what it wanted
			_ = c.tls.SetReadDeadline(time.Now().Add(linger))
		}
	}
}

// writeOut writes once. c.mu is held, but not while writing; c.flushing says that
// nobody else does.
func (c *conn) writeOut() {
	buf := c.out
	c.out, c.provoked = nil, 0
	c.wakeWaiting()
	c.mu.Unlock()
	err := c.send(*buf)
	if cap(*buf) <= largest {
		*buf = (*buf)[:0]
		buffers.Put(buf)
	}
	c.mu.Lock()
	if err != nil {
		c.fail(err)
	}
}

// send writes bytes to the peer: of several TLS records, at once.
func (c *conn) send(p []byte) error {
	if now := time.Now(); now.Sub(c.extended) > c.srv.stall/8 {
		c.extended = now
		_ = c.tls.SetWriteDeadline(now.Add(c.srv.stall)) // it fails with the connection only
	}
	g, ok := c.tls.NetConn().(*gatherer)
	if !ok || len(p) <= record {
		_, err := c.tls.Write(p)
		return err
	}
	held := buffers.Get().(*[]byte)
	defer buffers.Put(held)
	g.hold(*held)
	_, err := c.tls.Write(p)
	buf, werr := g.release()
	if *held = buf; cap(buf) > largest {
		*held = make([]byte, 0, gathered+record)
	}
	if err == nil {
		err = werr
	}
	return err
}

// wakeWaiting lets those who wait for room or for the peer's window look again.
// c.mu is held.
func (c *conn) wakeWaiting() {
	for _, s := range c.waiting {
		s.waits = false
		s.wake()
	}
	c.waiting = slices.Delete(c.waiting, 0, len(c.waiting))
}

func (s *stream) wake() {
	select {
	case s.ready <- struct{}{}:
	default:
	}
}

// reserve waits until some of want bytes may be sent, and takes them from the
// peer's windows. c.mu is held, but not while waiting.
func (s *stream) reserve(want int) (int, error) {
	c := s.c
	for {
		switch {
		case s.err != nil:
			return 0, s.err
		case c.err != nil:
			return 0, c.err
		}
		room := gathered - c.pending()
		if n := int(min(int64(want), int64(room), c.window, s.window)); n > 0 {
			n = min(n, c.peerFrame)
			c.window -= int64(n)
			s.window -= int64(n)
			return n, nil
		}
		if !c.flushing && c.pending() > 0 {
			c.flush()
			continue
		}
		if s.ready == nil {
			s.ready = make(chan struct{}, 1)
		}
		if !s.waits {
			s.waits, c.waiting = true, append(c.waiting, s)
		}
		c.mu.Unlock()
		<-s.ready
		c.mu.Lock()
	}
}
