package runtime

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/go-logr/logr"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	"k8s.io/klog/v2"
	"k8s.io/streaming/pkg/httpstream/wsstream"
	utilexec "k8s.io/utils/exec"
)

// protocolV5 is the remote command protocol of today's clients: binary messages
// on one WebSocket, each beginning with its channel's number, and a signal that
// closes one of them (KEP-4006).
const protocolV5 = remotecommand.StreamProtocolV5Name

// channels are a client's ends; nil where the client has none.
type channels struct {
	in     io.Reader
	out    io.WriteCloser
	err    io.WriteCloser
	resize <-chan remotecommand.TerminalSize
}

// serveWebSocket runs a command on a client's channels and sends how it ended.
// A client that goes away ends the command.
func (s *streamServer) serveWebSocket(w http.ResponseWriter, req *http.Request, opts *remotecommand.Options, run func(context.Context, *channels) error) {
	direction := func(on bool, t wsstream.ChannelType) wsstream.ChannelType {
		if on {
			return t
		}
		return wsstream.IgnoreChannel
	}
	conn := wsstream.NewConn(map[string]wsstream.ChannelProtocolConfig{protocolV5: {Binary: true, Channels: []wsstream.ChannelType{
		remotecommand.StreamStdIn:  direction(opts.Stdin, wsstream.ReadChannel),
		remotecommand.StreamStdOut: direction(opts.Stdout, wsstream.WriteChannel),
		remotecommand.StreamStdErr: direction(opts.Stderr, wsstream.WriteChannel),
		remotecommand.StreamErr:    wsstream.WriteChannel,
		remotecommand.StreamResize: wsstream.ReadChannel,
	}}})
	// The library reports every end of a connection as an error.
	_, streams, err := conn.Open(w, req.WithContext(klog.NewContext(req.Context(), logr.Discard())))
	if err != nil {
		s.streamer.r.log.Debug("a stream could not be opened", "err", err)
		return
	}
	defer conn.Close()
	ctx, cancel := context.WithCancel(req.Context())
	defer cancel()
	resize := make(chan remotecommand.TerminalSize)
	go func() {
		defer cancel() // the channel ends with the connection
		readSizes(ctx, streams[remotecommand.StreamResize], resize)
	}()
	c := &channels{resize: resize}
	if opts.Stdin {
		c.in = streams[remotecommand.StreamStdIn]
	}
	if opts.Stdout {
		c.out = streams[remotecommand.StreamStdOut]
	}
	if opts.Stderr {
		c.err = streams[remotecommand.StreamStdErr]
	}
	end, err := json.Marshal(endStatus(run(ctx, c)))
	if err == nil {
		_, _ = streams[remotecommand.StreamErr].Write(end)
	}
}

func readSizes(ctx context.Context, from io.Reader, to chan<- remotecommand.TerminalSize) {
	defer close(to)
	for decoder := json.NewDecoder(from); ; {
		var size remotecommand.TerminalSize
		if decoder.Decode(&size) != nil {
			return
		}
		select {
		case to <- size:
		case <-ctx.Done():
			return
		}
	}
}

// endStatus is how clients are told an exit code or what went wrong.
func endStatus(err error) *metav1.Status {
	var exit utilexec.ExitError
	switch {
	case err == nil:
		return &metav1.Status{Status: metav1.StatusSuccess}
	case errors.As(err, &exit):
		return &metav1.Status{Status: metav1.StatusFailure, Reason: remotecommand.NonZeroExitCodeReason,
			Message: fmt.Sprintf("command terminated with non-zero exit code: %v", exit),
			Details: &metav1.StatusDetails{Causes: []metav1.StatusCause{{Type: remotecommand.ExitCodeCauseType, Message: fmt.Sprint(exit.ExitStatus())}}}}
	}
	return &metav1.Status{Status: metav1.StatusFailure, Reason: metav1.StatusReasonInternalError, Code: http.StatusInternalServerError,
		Message: fmt.Sprintf("Internal error occurred: %v", err)}
}
