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
	"k8s.io/streaming/pkg/httpstream/wsstream"

	"proa/internal/hangup"
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

// idleStream is the time after which a stream on which nothing goes is ended;
// creation is the time that a client has to open what it wants.
const idleStream, creation = 4 * time.Hour, 30 * time.Second

// lastWords is the time that a client has to take how its command ended.
const lastWords = 10 * time.Second

func (s *streamServer) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	promised, ok := s.take(req.URL.Path)
	if !ok {
		http.NotFound(w, req)
		return
	}
	ctx, cancel := context.WithCancel(req.Context())
	defer cancel()
	client := hangup.Watch(w, cancel)
	defer context.AfterFunc(ctx, func() { // ends a write that the client does not take
		if conn := client.Conn(); conn != nil {
			conn.Close()
		}
	})()
	req = req.WithContext(ctx)
	switch r := promised.(type) {
	case *runtimeapi.ExecRequest:
		wanted := wants{in: r.Stdin, out: r.Stdout, err: r.Stderr, tty: r.Tty}
		s.serveCommand(client, req, wanted, func(ctx context.Context, c *channels) error {
			return s.streamer.exec(ctx, r.ContainerId, r.Cmd, c, r.Tty)
		})
	case *runtimeapi.AttachRequest:
		wanted := wants{in: r.Stdin, out: r.Stdout, err: r.Stderr, tty: r.Tty}
		s.serveCommand(client, req, wanted, func(ctx context.Context, c *channels) error {
			return s.streamer.attach(ctx, r.ContainerId, c, r.Tty)
		})
	case *runtimeapi.PortForwardRequest:
		s.serveForward(client, req, r)
	}
}

// serveCommand opens a client's channels, runs a command on them and tells how it
// ended. A client that goes away ends the command.
func (s *streamServer) serveCommand(w *hangup.Writer, req *http.Request, wanted wants, run func(context.Context, *channels) error) {
	open := s.openSPDY
	if wsstream.IsWebSocketRequest(req) {
		open = s.openWebSocket
	}
	c, err := open(w, req, wanted)
	if err != nil {
		s.streamer.r.log.Debug("a stream could not be opened", "err", err)
		return
	}
	defer c.close()
	err = run(req.Context(), c)
	_ = w.Conn().SetWriteDeadline(time.Now().Add(lastWords))
	c.tell(err)
}

// streamer runs what a stream URL stands for.
type streamer struct{ r *Runtime }

func (s streamer) exec(ctx context.Context, id string, cmd []string, c *channels, tty bool) error {
	rec, err := s.r.runningContainer(id)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	code, err := s.r.exec(ctx, rec, cmd, c.stdio(ctx, tty))
	if err != nil {
		return fmt.Errorf("error executing command in container: %w", err)
	}
	if code != 0 {
		return exitError(code)
	}
	return nil
}

func (s streamer) attach(ctx context.Context, id string, c *channels, tty bool) error {
	rec, err := s.r.runningContainer(id)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if err := s.r.attach(ctx, rec, c.stdio(ctx, tty)); err != nil {
		return fmt.Errorf("error attaching to container: %w", err)
	}
	return nil
}

// forward joins a stream with a connection that the shim makes from within
// the pod's network.
func (s streamer) forward(ctx context.Context, sandbox string, port int32, stream io.ReadWriteCloser) error {
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
