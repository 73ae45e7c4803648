package runtime

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/go-logr/logr"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/cri-streaming/pkg/streaming/portforward"
	"k8s.io/klog/v2"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"
	"k8s.io/streaming/pkg/httpstream/wsstream"

	"proa/internal/hangup"
)

// maxForwarded is how many connections one client may have open to a pod by one
// port-forward; each holds a descriptor here.
const maxForwarded = 1000

// serveForward joins a client's streams with ports of a pod, by SPDY as many as the
// client opens, by WebSocket one for each port that the request names.
func (s *streamServer) serveForward(w *hangup.Writer, req *http.Request, r *runtimeapi.PortForwardRequest) {
	dial := func(ctx context.Context, port int32, stream io.ReadWriteCloser) error {
		return s.streamer.forward(ctx, r.PodSandboxId, port, stream)
	}
	serve := forwardSPDY
	if wsstream.IsWebSocketRequest(req) {
		serve = func(w *hangup.Writer, req *http.Request, dial dialer) error {
			return forwardWebSocket(w, req, r.Port, dial)
		}
	}
	if err := serve(w, req, dial); err != nil {
		s.streamer.r.log.Debug("a port could not be forwarded", "err", err)
	}
}

// dialer joins a stream with a pod's port until either ends, or ctx.
type dialer func(ctx context.Context, port int32, stream io.ReadWriteCloser) error

// forwarding are the pairs of streams of one client's connection: one for data and
// one for errors, which name each other by a request's ID.
type forwarding struct {
	ctx  context.Context
	dial dialer

	mu    sync.Mutex
	conn  httpstream.Connection
	pairs map[string]*pair
	busy  sync.WaitGroup
}

// pair is half there until both its streams are.
type pair struct {
	data, errors httpstream.Stream
	late         *time.Timer
}

func forwardSPDY(w *hangup.Writer, req *http.Request, dial dialer) error {
	if _, err := httpstream.Handshake(req, w, portforward.SupportedProtocols); err != nil {
		return err // which the client was told
	}
	f := &forwarding{ctx: req.Context(), dial: dial, pairs: map[string]*pair{}}
	f.mu.Lock() // streams wait for the connection to be known
	f.conn = spdy.NewResponseUpgrader().UpgradeResponse(w, req, f.accept)
	f.mu.Unlock()
	if f.conn == nil {
		return errors.New("the connection could not be taken over")
	}
	f.conn.SetIdleTimeout(idleStream)
	select {
	case <-f.conn.CloseChan():
	case <-f.ctx.Done():
	}
	_ = f.conn.Close() // it ended already
	_ = w.Conn().Close()
	f.end()
	f.busy.Wait()
	return nil
}

// accept takes one stream and starts forwarding once its other half is there. It
// must not wait: the connection's other frames do.
func (f *forwarding) accept(stream httpstream.Stream, _ <-chan struct{}) error {
	port, err := strconv.ParseUint(stream.Headers().Get(portforward.PortHeader), 10, 16)
	if err != nil || port == 0 {
		return fmt.Errorf("header %q names no port", portforward.PortHeader)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	id := requestID(stream)
	p := f.pairs[id]
	if p == nil && len(f.pairs) >= maxForwarded {
		return errors.New("too many connections are forwarded")
	}
	if p == nil {
		p = &pair{}
	}
	switch kind := stream.Headers().Get(portforward.StreamType); {
	case kind == portforward.StreamTypeData && p.data == nil:
		p.data = stream
	case kind == portforward.StreamTypeError && p.errors == nil:
		p.errors = stream
	default:
		return fmt.Errorf("unexpected stream type %q", kind)
	}
	f.pairs[id] = p
	if !p.whole() {
		p.late = time.AfterFunc(creation, func() { f.expire(id, p) })
		return nil
	}
	p.late.Stop() // or else expire finds the pair whole
	f.busy.Go(func() { f.run(id, p, int32(port)) })
	return nil
}

func (p *pair) whole() bool { return p.data != nil && p.errors != nil }

// requestID names a pair. Clients from before there were IDs open the stream for
// errors right before that for data.
func requestID(stream httpstream.Stream) string {
	if id := stream.Headers().Get(portforward.PortForwardRequestIDHeader); id != "" {
		return id
	}
	n := stream.Identifier()
	if stream.Headers().Get(portforward.StreamType) == portforward.StreamTypeData {
		n -= 2
	}
	return "#" + strconv.Itoa(int(n))
}

func (f *forwarding) run(id string, p *pair, port int32) {
	err := f.dial(f.ctx, port, p.data)
	if err != nil {
		fmt.Fprintf(p.errors, "error forwarding port %d to pod: %v", port, err)
		_ = p.data.Reset() // the client opens new ones for its next try
		_ = p.errors.Reset()
	}
	_ = p.data.Close() // the connection may be gone
	_ = p.errors.Close()
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.pairs, id)
	f.conn.RemoveStreams(p.data, p.errors)
}

// expire gives up a pair whose other half did not come in time.
func (f *forwarding) expire(id string, p *pair) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if p.whole() || f.pairs[id] != p {
		return
	}
	delete(f.pairs, id)
	one := p.data
	if one == nil {
		one = p.errors
	}
	f.conn.RemoveStreams(one)
	go func() { _ = one.Reset() }() // which the client may be slow to take
}

// end gives up what is half there.
func (f *forwarding) end() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, p := range f.pairs {
		p.late.Stop()
	}
}

// forwardWebSocket serves the channels that old clients speak: for each port one
// for data and one for errors, each beginning with the port's number.
func forwardWebSocket(w *hangup.Writer, req *http.Request, ports []int32, dial dialer) error {
	var types []wsstream.ChannelType
	for range ports {
		types = append(types, wsstream.ReadWriteChannel, wsstream.WriteChannel)
	}
	known := map[string]wsstream.ChannelProtocolConfig{}
	for name, binary := range map[string]bool{"": true, "v4." + wsstream.ChannelWebSocketProtocol: true, "v4." + wsstream.Base64ChannelWebSocketProtocol: false} {
		known[name] = wsstream.ChannelProtocolConfig{Binary: binary, Channels: types}
	}
	conn := wsstream.NewConn(known)
	conn.SetIdleTimeout(idleStream)
	_, streams, err := conn.Open(w, req.WithContext(klog.NewContext(req.Context(), logr.Discard())))
	if err != nil {
		return err
	}
	defer conn.Close()
	var busy sync.WaitGroup
	for i, port := range ports {
		data, problems := streams[2*i], streams[2*i+1]
		busy.Go(func() {
			number := binary.LittleEndian.AppendUint16(nil, uint16(port))
			_, _ = data.Write(number) // a client that went away shows at the next write
			_, _ = problems.Write(number)
			if err := dial(req.Context(), port, data); err != nil {
				fmt.Fprintf(problems, "error forwarding port %d to pod: %v", port, err)
			}
			_ = data.Close()
			_ = problems.Close()
		})
	}
	busy.Wait()
	return nil
}
