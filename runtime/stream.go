package runtime

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/cri-streaming/pkg/streaming/portforward"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	"k8s.io/streaming/pkg/httpstream/wsstream"

	"proa/runtime/wire"
)

// Streams serves the URLs that Exec, Attach and PortForward return, by SPDY and
// WebSocket. Each is good for one request within a minute.
func (r *Runtime) Streams() http.Handler { return &r.streams }

// tokenLife and maxTokens bound what promised streams may cost.
const (
	tokenLife = time.Minute
	maxTokens = 1000
)

// streamServer knows the streams that were promised and not asked for yet.
type streamServer struct {
	streamer streamer
	mu       sync.Mutex
	promised map[string]promise
}

type promise struct {
	kind    string // the path's first element
	request any
	until   time.Time
}

// promise returns the URL of a stream to be.
func (s *streamServer) promise(kind string, request any) (string, error) {
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	maps.DeleteFunc(s.promised, func(_ string, p promise) bool { return now.After(p.until) })
	if len(s.promised) >= maxTokens {
		return "", status.Error(codes.ResourceExhausted, "too many streams were asked for and not opened")
	}
	token := newID()[:32]
	s.promised[token] = promise{kind: kind, request: request, until: now.Add(tokenLife)}
	return "/" + kind + "/" + token, nil
}

func (s *streamServer) take(path string) (any, bool) {
	kind, token, _ := strings.Cut(strings.TrimPrefix(path, "/"), "/")
	s.mu.Lock()
	defer s.mu.Unlock()
	p, ok := s.promised[token]
	if !ok || p.kind != kind || time.Now().After(p.until) {
		return nil, false
	}
	delete(s.promised, token)
	return p.request, true
}

func (s *streamServer) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	promised, ok := s.take(req.URL.Path)
	if !ok {
		http.NotFound(w, req)
		return
	}
	const idle, creation = 4 * time.Hour, remotecommand.DefaultStreamCreationTimeout
	modern := wsstream.IsWebSocketRequestWithStreamCloseProtocol(req)
	switch r := promised.(type) {
	case *runtimeapi.ExecRequest:
		opts := &remotecommand.Options{Stdin: r.Stdin, Stdout: r.Stdout, Stderr: r.Stderr, TTY: r.Tty}
		if modern {
			s.serveWebSocket(w, req, opts, func(ctx context.Context, c *channels) error {
				return s.streamer.Exec(ctx, r.ContainerId, r.Cmd, c.in, c.out, c.err, r.Tty, c.resize)
			})
			return
		}
		remotecommand.ServeExec(w, req, s.streamer, "", "", r.ContainerId, r.Cmd, opts, idle, creation, remotecommand.SupportedStreamingProtocols)
	case *runtimeapi.AttachRequest:
		opts := &remotecommand.Options{Stdin: r.Stdin, Stdout: r.Stdout, Stderr: r.Stderr, TTY: r.Tty}
		if modern {
			s.serveWebSocket(w, req, opts, func(ctx context.Context, c *channels) error {
				return s.streamer.Attach(ctx, r.ContainerId, c.in, c.out, c.err, r.Tty, c.resize)
			})
			return
		}
		remotecommand.ServeAttach(w, req, s.streamer, "", "", r.ContainerId, opts, idle, creation, remotecommand.SupportedStreamingProtocols)
	case *runtimeapi.PortForwardRequest:
		opts, err := portforward.BuildV4Options(r.Port)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		portforward.ServePortForward(w, req, s.streamer, r.PodSandboxId, "", opts, idle, creation, portforward.SupportedProtocols)
	}
}

// streamer runs what a stream URL stands for.
type streamer struct{ r *Runtime }

// ExecInContainer and AttachContainer are what the older protocols' library
// calls.
func (s streamer) ExecInContainer(ctx context.Context, _, _, id string, cmd []string, in io.Reader, out, errOut io.WriteCloser, tty bool, resize <-chan remotecommand.TerminalSize, _ time.Duration) error {
	return s.Exec(ctx, id, cmd, in, out, errOut, tty, resize)
}

func (s streamer) AttachContainer(ctx context.Context, _, _, id string, in io.Reader, out, errOut io.WriteCloser, tty bool, resize <-chan remotecommand.TerminalSize) error {
	return s.Attach(ctx, id, in, out, errOut, tty, resize)
}

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
func (s streamer) PortForward(ctx context.Context, sandbox, _ string, port int32, stream io.ReadWriteCloser) error {
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
