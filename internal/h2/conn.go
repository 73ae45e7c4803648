package h2

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"net/http"
	"sync"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// maxWindow is the largest that a flow-control window may become (RFC 9113, 6.9.1).
const maxWindow = 1<<31 - 1

// errGone is what a handler sees of a connection that has ended.
var errGone = errors.New("h2: the client is gone")

// conn is one connection. One goroutine reads it (serve), whoever has something to
// say writes (flush).
type conn struct {
	srv     *server
	tls     *tls.Conn
	state   *tls.ConnectionState
	remote  string
	handler http.Handler
	base    context.Context
	cancel  context.CancelFunc
	framer  *http2.Framer
	ended   chan struct{}
	running sync.WaitGroup // handlers and flushLoop

	mu       sync.Mutex // guards what is below, and the streams; never held while writing
	streams  map[uint32]*stream
	handlers uint32 // that run, those of streams that have ended or were reset among them
	lastID   uint32
	leaving  bool  // no more streams are taken
	err      error // why nothing more can be said

	// What is to be written.
	out      *[]byte
	flushing bool // somebody writes, or is about to
	more     chan struct{}
	dry      chan struct{} // holds something once nobody writes any more
	provoked int           // control frames in out
	waiting  []*stream
	enc      *hpack.Encoder
	block    bytes.Buffer
	extended time.Time // when the deadline of writing was set; of who is flushing

	// What the peer allows.
	window     int64
	peerWindow int64 // of new streams
	peerFrame  int

	// What the peer is allowed, and what was read of it and not granted anew.
	recv, eaten int64

	idleSince time.Time
	idleTimer *time.Timer
}

func newConn(base context.Context, s *server, t *tls.Conn, h http.Handler) *conn {
	state := t.ConnectionState()
	c := &conn{srv: s, tls: t, state: &state, remote: t.RemoteAddr().String(), handler: h,
		streams: map[uint32]*stream{}, ended: make(chan struct{}), more: make(chan struct{}, 1), dry: make(chan struct{}, 1),
		window: 65535, peerWindow: 65535, peerFrame: 16 << 10, recv: recvWindow}
	c.base, c.cancel = context.WithCancel(base)
	c.enc = hpack.NewEncoder(&c.block)
	c.framer = http2.NewFramer(io.Discard, t)
	c.framer.SetReuseFrames()
	c.framer.SetMaxReadFrameSize(readFrame)
	c.framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	c.framer.MaxHeaderListSize = s.maxHeader
	return c
}

// serve reads until the connection has ended.
func (c *conn) serve() {
	c.running.Go(c.flushLoop)
	err := c.greet()
	for err == nil {
		var f http2.Frame
		f, err = c.framer.ReadFrame()
		err = c.received(f, err)
	}
	c.end(err)
	close(c.ended)
	c.running.Wait()
}

// greet begins the conversation: the client's preface, our settings.
func (c *conn) greet() error {
	c.mu.Lock()
	c.appendFrame(http2.FrameSettings, 0, 0, settings(
		http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: c.srv.maxStreams},
		http2.Setting{ID: http2.SettingInitialWindowSize, Val: recvWindow},
		http2.Setting{ID: http2.SettingMaxFrameSize, Val: readFrame},
		http2.Setting{ID: http2.SettingMaxHeaderListSize, Val: c.srv.maxHeader}))
	c.grant(0, recvWindow-65535)
	c.rest()
	c.mu.Unlock()
	_ = c.tls.SetReadDeadline(time.Now().Add(greeting)) // it fails with the connection only
	preface := make([]byte, len(http2.ClientPreface))
	if _, err := io.ReadFull(c.tls, preface); err != nil {
		return err
	}
	if string(preface) != http2.ClientPreface {
		return http2.ConnectionError(http2.ErrCodeProtocol)
	}
	f, err := c.framer.ReadFrame()
	if err != nil {
		return err
	}
	if _, ok := f.(*http2.SettingsFrame); !ok {
		return http2.ConnectionError(http2.ErrCodeProtocol)
	}
	_ = c.tls.SetReadDeadline(time.Time{})
	return c.received(f, nil)
}

func settings(all ...http2.Setting) (payload []byte) {
	for _, s := range all {
		payload = binary.BigEndian.AppendUint16(payload, uint16(s.ID))
		payload = binary.BigEndian.AppendUint32(payload, s.Val)
	}
	return payload
}

// received deals with one frame, or with the error of reading it. The error that
// it returns ends the connection.
func (c *conn) received(f http2.Frame, err error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err == nil {
		err = c.frame(f)
	}
	var one http2.StreamError
	if errors.As(err, &one) {
		c.resetStream(one.StreamID, one.Code)
		err = nil
	}
	if err == nil {
		err = c.err
	}
	return err
}

func (c *conn) frame(f http2.Frame) error {
	switch f := f.(type) {
	case *http2.MetaHeadersFrame:
		return c.headers(f)
	case *http2.DataFrame:
		return c.data(f)
	case *http2.WindowUpdateFrame:
		return c.windowUpdate(f)
	case *http2.RSTStreamFrame:
		if f.StreamID > c.lastID {
			return http2.ConnectionError(http2.ErrCodeProtocol)
		}
		if s := c.streams[f.StreamID]; s != nil {
			s.abort(errGone)
		}
	case *http2.SettingsFrame:
		return c.settings(f)
	case *http2.PingFrame:
		if !f.IsAck() {
			c.control(http2.FramePing, http2.FlagPingAck, 0, f.Data[:])
		}
	case *http2.GoAwayFrame:
		c.leaving = true
		c.kick()
	case *http2.PushPromiseFrame:
		return http2.ConnectionError(http2.ErrCodeProtocol)
	}
	return nil // PRIORITY, and what later versions may add
}

func (c *conn) settings(f *http2.SettingsFrame) error {
	if f.IsAck() {
		return nil
	}
	if f.NumSettings() > 100 || f.HasDuplicates() {
		return http2.ConnectionError(http2.ErrCodeProtocol)
	}
	err := f.ForeachSetting(func(s http2.Setting) error {
		if err := s.Valid(); err != nil {
			return err
		}
		switch s.ID {
		case http2.SettingHeaderTableSize:
			c.enc.SetMaxDynamicTableSize(s.Val)
		case http2.SettingMaxFrameSize:
			c.peerFrame = int(min(s.Val, gathered))
		case http2.SettingInitialWindowSize:
			grown := int64(s.Val) - c.peerWindow
			c.peerWindow = int64(s.Val)
			for _, st := range c.streams {
				if st.window += grown; st.window > maxWindow {
					return http2.ConnectionError(http2.ErrCodeFlowControl)
				}
			}
			c.wakeWaiting()
		}
		return nil
	})
	if err == nil {
		c.control(http2.FrameSettings, http2.FlagSettingsAck, 0, nil)
	}
	return err
}

func (c *conn) windowUpdate(f *http2.WindowUpdateFrame) error {
	if f.StreamID == 0 {
		if c.window += int64(f.Increment); c.window > maxWindow {
			return http2.ConnectionError(http2.ErrCodeFlowControl)
		}
		c.wakeWaiting()
		return nil
	}
	if f.StreamID > c.lastID {
		return http2.ConnectionError(http2.ErrCodeProtocol)
	}
	s := c.streams[f.StreamID]
	if s == nil {
		return nil // it has ended
	}
	if s.window += int64(f.Increment); s.window > maxWindow {
		return http2.StreamError{StreamID: s.id, Code: http2.ErrCodeFlowControl}
	}
	s.wake()
	return nil
}

// headers begins a request, or ends one with trailers.
func (c *conn) headers(f *http2.MetaHeadersFrame) error {
	id := f.StreamID
	if s := c.streams[id]; s != nil {
		return s.trailers(f)
	}
	switch {
	case id%2 == 0:
		return http2.ConnectionError(http2.ErrCodeProtocol)
	case id <= c.lastID:
		return http2.StreamError{StreamID: id, Code: http2.ErrCodeStreamClosed}
	case c.leaving:
		return nil // what GOAWAY has told the client to send elsewhere
	}
	c.lastID = id
	if uint32(len(c.streams)) >= c.srv.maxStreams || c.handlers >= 2*c.srv.maxStreams {
		c.reset(id, http2.ErrCodeRefusedStream)
		return nil
	}
	s, err := c.newStream(f)
	if err != nil {
		return err
	}
	c.streams[id] = s
	c.handlers++
	c.running.Add(1)
	c.srv.workers.do(s)
	return nil
}

func (c *conn) data(f *http2.DataFrame) error {
	n := int64(f.Length)
	if c.recv -= n; c.recv < 0 {
		return http2.ConnectionError(http2.ErrCodeFlowControl)
	}
	s := c.streams[f.StreamID]
	if s == nil || s.remoteDone {
		c.eat(n)
		switch {
		case f.StreamID > c.lastID && c.leaving:
			return nil // as its headers
		case f.StreamID > c.lastID:
			return http2.ConnectionError(http2.ErrCodeProtocol)
		}
		return http2.StreamError{StreamID: f.StreamID, Code: http2.ErrCodeStreamClosed}
	}
	return s.received(f, n)
}

// eat notes that so much of bodies was read, and lets the peer send as much.
// c.mu is held.
func (c *conn) eat(n int64) {
	if c.eaten += n; c.eaten >= recvWindow/2 {
		c.grant(0, uint32(c.eaten))
		c.recv += c.eaten
		c.eaten = 0
	}
}

// resetStream ends one stream with an error. c.mu is held.
func (c *conn) resetStream(id uint32, code http2.ErrCode) {
	c.lastID = max(c.lastID, id) // a request that was no good
	c.reset(id, code)
	if s := c.streams[id]; s != nil {
		s.abort(http2.StreamError{StreamID: id, Code: code})
	}
}

// leave takes no more requests and ends when those under way have.
func (c *conn) leave() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.leaving || c.err != nil {
		return
	}
	c.goAway(http2.ErrCodeNo)
	c.kick()
}

// goAway says that no more requests are taken. c.mu is held.
func (c *conn) goAway(code http2.ErrCode) {
	c.leaving = true
	payload := binary.BigEndian.AppendUint32(nil, c.lastID)
	c.appendFrame(http2.FrameGoAway, 0, 0, binary.BigEndian.AppendUint32(payload, uint32(code)))
}

// fail ends the connection for those who write; reading ends by it, too. c.mu is
// held.
func (c *conn) fail(err error) {
	if c.err == nil {
		c.err = err
		c.wakeWaiting()
		_ = c.tls.SetReadDeadline(time.Unix(1, 0)) // it fails with the connection only
	}
}

// linger is how long a client that broke the rules may take to read why.
const linger = time.Second

// end tells the peer why, if there is a reason, and ends all that is under way.
func (c *conn) end(err error) {
	c.mu.Lock()
	if c.err != nil {
		err = c.err
	}
	for _, s := range c.streams {
		s.abort(errGone)
	}
	var code http2.ConnectionError
	why := errors.As(err, &code)
	if errors.Is(err, http2.ErrFrameTooLarge) {
		why, code = true, http2.ConnectionError(http2.ErrCodeFrameSize)
	}
	if why {
		c.err = nil // for as long as it takes to say so
		c.goAway(http2.ErrCode(code))
		_ = c.tls.NetConn().SetWriteDeadline(time.Now().Add(linger)) // as above
		c.kick()
		for c.flushing && c.err == nil {
			c.mu.Unlock()
			<-c.dry
			c.mu.Lock()
		}
	}
	if c.err == nil {
		c.err = errGone
	}
	c.wakeWaiting()
	if c.idleTimer != nil {
		c.idleTimer.Stop()
	}
	c.mu.Unlock()
	c.cancel()
	if why {
		_ = c.tls.CloseWrite() // as above
		_ = c.tls.NetConn().SetReadDeadline(time.Now().Add(linger))
		_, _ = io.Copy(io.Discard, c.tls.NetConn())
	}
	_ = c.tls.Close() // it may have ended already
}

// rest notes that no request is under way. c.mu is held.
func (c *conn) rest() {
	if c.leaving {
		c.kick()
	}
	if c.srv.idle <= 0 || c.err != nil {
		return
	}
	c.idleSince = time.Now()
	if c.idleTimer == nil {
		c.idleTimer = time.AfterFunc(c.srv.idle, c.rested)
	}
}

// rested ends a connection that has been idle for long enough. The timer goes on
// while requests come and go, so that they need not touch it.
func (c *conn) rested() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.idleTimer = nil
	if len(c.streams) > 0 || c.err != nil || c.leaving {
		return
	}
	if left := c.srv.idle - time.Since(c.idleSince); left > 0 {
		c.idleTimer = time.AfterFunc(left, c.rested)
		return
	}
	c.goAway(http2.ErrCodeNo)
	c.kick()
}
