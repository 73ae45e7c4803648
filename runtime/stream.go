package runtime

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"

	"k8s.io/cri-streaming/pkg/streaming"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"

	"proa/runtime/wire"
)

func newStreams(r *Runtime) (streaming.Server, error) {
	config := streaming.DefaultConfig
	config.BaseURL = &url.URL{Path: "/"}
	return streaming.NewServer(config, streamer{r})
}

// Streams serves the URLs that Exec, Attach and PortForward return, by SPDY and
// WebSocket. Each is good for one request within a minute.
func (r *Runtime) Streams() http.Handler { return r.streams }

// streamer runs what a stream URL stands for.
type streamer struct{ r *Runtime }

func (s streamer) Exec(ctx context.Context, id string, cmd []string, in io.Reader, out, errOut io.WriteCloser, tty bool, resize <-chan remotecommand.TerminalSize) error {
	rec, err := s.r.runningContainer(id)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	code, err := s.r.exec(ctx, rec, cmd, streamIO(ctx, in, out, errOut, tty, resize))
	if err == nil && code != 0 {
		return exitError(code)
	}
	return err
}

func (s streamer) Attach(ctx context.Context, id string, in io.Reader, out, errOut io.WriteCloser, tty bool, resize <-chan remotecommand.TerminalSize) error {
	rec, err := s.r.runningContainer(id)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	return s.r.attach(ctx, rec, streamIO(ctx, in, out, errOut, tty, resize))
}

// streamIO keeps interfaces that hold nothing nil.
func streamIO(ctx context.Context, in io.Reader, out, errOut io.WriteCloser, tty bool, resize <-chan remotecommand.TerminalSize) stdio {
	std := stdio{in: in, tty: tty}
	if out != nil {
		std.out = out
	}
	if errOut != nil && !tty {
		std.err = errOut
	}
	if resize != nil {
		sizes := make(chan wire.Size)
		std.resize = sizes
		go func() {
			defer close(sizes)
			for {
				select {
				case s, ok := <-resize:
					if !ok {
						return
					}
					select {
					case sizes <- wire.Size{Width: s.Width, Height: s.Height}:
					case <-ctx.Done():
						return
					}
				case <-ctx.Done():
					return
				}
			}
		}()
	}
	return std
}

// PortForward joins a stream with a connection that the shim makes from within
// the pod's network.
func (s streamer) PortForward(ctx context.Context, sandbox string, port int32, stream io.ReadWriteCloser) error {
	if port <= 0 || port > 65535 {
		return invalid("port %d", port)
	}
	_, files, err := s.r.call(ctx, sandbox, &wire.Request{Op: wire.OpDial, Port: uint16(port)})
	if err != nil {
		return fmt.Errorf("connect to port %d in the pod: %w", port, err)
	}
	defer wire.CloseAll(files)
	if len(files) != 1 {
		return fmt.Errorf("connect to port %d in the pod: the shim sent no connection", port)
	}
	conn, err := net.FileConn(files[0])
	if err != nil {
		return err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	return join(conn.(*net.TCPConn), stream)
}

// join copies both ways until the pod's side ends, or the client's and then the
// pod's.
func join(pod *net.TCPConn, client io.ReadWriteCloser) error {
	go func() {
		_, _ = io.Copy(pod, client)
		_ = pod.CloseWrite()
	}()
	_, err := io.Copy(client, pod)
	return err
}
