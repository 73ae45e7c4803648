package runtime

import (
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"

	"proa/internal/hangup"
)

// openSPDY takes a client's connection over and waits for the streams that it
// wants. What else it opens is refused, then and later, so that a connection holds
// what was asked for and no more.
func (s *streamServer) openSPDY(w *hangup.Writer, req *http.Request, wanted wants) (*channels, error) {
	protocol, err := httpstream.Handshake(req, w, remotecommand.SupportedStreamingProtocols)
	if err != nil {
		return nil, err // which the client was told
	}
	a := accepting{streams: map[string]httpstream.Stream{}, complete: make(chan struct{})}
	a.wanted = wanted.streams(protocol)
	a.left = len(a.wanted)
	conn := spdy.NewResponseUpgrader().UpgradeResponse(w, req, a.accept)
	if conn == nil {
		return nil, errors.New("the connection could not be taken over")
	}
	conn.SetIdleTimeout(idleStream)
	late := time.NewTimer(creation)
	defer late.Stop()
	select {
	case <-a.complete:
		go func() { // a frame that makes no sense ends the reading, and nothing else
			select {
			case <-conn.CloseChan():
				_ = w.Conn().Close()
			case <-req.Context().Done():
			}
		}()
		return a.channels(conn, protocol == remotecommand.StreamProtocolV4Name), nil
	case <-conn.CloseChan():
		err = errors.New("the client ended the connection, or sent what is no frame")
	case <-req.Context().Done():
		err = req.Context().Err()
	case <-late.C:
		err = errors.New("the client did not open its streams in time")
	}
	_ = conn.Close() // it failed already
	_ = w.Conn().Close()
	return nil, err
}

// streams are the types of the streams that the client is to open.
func (w wants) streams(protocol string) map[string]bool {
	sized := protocol == remotecommand.StreamProtocolV4Name || protocol == remotecommand.StreamProtocolV3Name
	out := map[string]bool{remotecommand.StreamTypeError: true}
	for name, on := range map[string]bool{
		remotecommand.StreamTypeStdin: w.in, remotecommand.StreamTypeStdout: w.out, remotecommand.StreamTypeStderr: w.err,
		remotecommand.StreamTypeResize: w.tty && sized,
	} {
		if on {
			out[name] = true
		}
	}
	return out
}

// accepting collects the streams of a connection.
type accepting struct {
	mu       sync.Mutex
	wanted   map[string]bool
	streams  map[string]httpstream.Stream
	left     int
	complete chan struct{} // closed when all are there and the client knows
}

// accept takes one stream. It must not wait: the connection's other frames do.
func (a *accepting) accept(stream httpstream.Stream, replied <-chan struct{}) error {
	kind := stream.Headers().Get(remotecommand.StreamType)
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.wanted[kind] {
		return fmt.Errorf("unexpected stream type %q", kind)
	}
	delete(a.wanted, kind)
	a.streams[kind] = stream
	go func() {
		<-replied // follows at once
		a.mu.Lock()
		defer a.mu.Unlock()
		if a.left--; a.left == 0 {
			close(a.complete)
		}
	}()
	return nil
}

func (a *accepting) channels(conn httpstream.Connection, structured bool) *channels {
	a.mu.Lock()
	defer a.mu.Unlock()
	c := &channels{status: a.streams[remotecommand.StreamTypeError], structured: structured, end: conn.Close}
	// Interfaces that hold nothing are to be nil.
	if s := a.streams[remotecommand.StreamTypeStdin]; s != nil {
		c.in = s
	}
	if s := a.streams[remotecommand.StreamTypeStdout]; s != nil {
		c.out = s
	}
	if s := a.streams[remotecommand.StreamTypeStderr]; s != nil {
		c.err = s
	}
	if s := a.streams[remotecommand.StreamTypeResize]; s != nil {
		c.resize = s
	}
	return c
}
