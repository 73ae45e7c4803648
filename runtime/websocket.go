package runtime

import (
	"io"
	"net/http"

	"github.com/go-logr/logr"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	"k8s.io/klog/v2"
	"k8s.io/streaming/pkg/httpstream/wsstream"

	"proa/internal/hangup"
)

// webSocketProtocols are those of remote commands: each message begins with its
// channel, as a byte, or as a digit before text in base64. Version 5 adds a
// signal that closes one channel (KEP-4006), version 4 a Status as the command's
// end; before it there was a text, for failures only.
var webSocketProtocols = map[string]struct{ binary, structured bool }{
	"":                                              {true, false},
	wsstream.ChannelWebSocketProtocol:               {true, false},
	remotecommand.StreamProtocolV4Name:              {true, true},
	remotecommand.StreamProtocolV5Name:              {true, true},
	wsstream.Base64ChannelWebSocketProtocol:         {false, false},
	"v4." + wsstream.Base64ChannelWebSocketProtocol: {false, true},
}

// openWebSocket takes a client's WebSocket over.
func (s *streamServer) openWebSocket(w *hangup.Writer, req *http.Request, wanted wants) (*channels, error) {
	direction := func(on bool, t wsstream.ChannelType) wsstream.ChannelType {
		if on {
			return t
		}
		return wsstream.IgnoreChannel
	}
	types := []wsstream.ChannelType{
		remotecommand.StreamStdIn:  direction(wanted.in, wsstream.ReadChannel),
		remotecommand.StreamStdOut: direction(wanted.out, wsstream.WriteChannel),
		remotecommand.StreamStdErr: direction(wanted.err, wsstream.WriteChannel),
		remotecommand.StreamErr:    wsstream.WriteChannel,
		remotecommand.StreamResize: wsstream.ReadChannel,
	}
	known := map[string]wsstream.ChannelProtocolConfig{}
	for name, p := range webSocketProtocols {
		known[name] = wsstream.ChannelProtocolConfig{Binary: p.binary, Channels: types}
	}
	conn := wsstream.NewConn(known)
	conn.SetIdleTimeout(idleStream)
	// The library reports every end of a connection as an error.
	protocol, streams, err := conn.Open(w, req.WithContext(klog.NewContext(req.Context(), logr.Discard())))
	if err != nil {
		return nil, err
	}
	c := &channels{
		status: streams[remotecommand.StreamErr], structured: webSocketProtocols[protocol].structured,
		resize: streams[remotecommand.StreamResize], end: conn.Close,
	}
	if wanted.in {
		c.in = streams[remotecommand.StreamStdIn]
	}
	if wanted.out {
		c.out = streams[remotecommand.StreamStdOut]
	}
	if wanted.err {
		c.err = streams[remotecommand.StreamStdErr]
	}
	c.greet()
	return c, nil
}

// greet sends an empty message on the first channel that the client reads:
// it knows by that that the connection stands.
func (c *channels) greet() {
	for _, to := range []io.Writer{c.out, c.err, c.status} {
		if to != nil {
			_, _ = to.Write(nil) // a client that went away shows at the next write
			return
		}
	}
}
