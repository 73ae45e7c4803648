package runtime

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/transport/spdy"
	utilexec "k8s.io/client-go/util/exec"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// executors speak the protocols of kubectl, new and old.
func executors(t *testing.T, w *world, path string) map[string]func() remotecommand.Executor {
	t.Helper()
	server := httptest.NewServer(w.Streams())
	t.Cleanup(server.Close)
	u, err := url.Parse(server.URL + path)
	must(t, err)
	return map[string]func() remotecommand.Executor{
		"websocket": func() remotecommand.Executor {
			e, err := remotecommand.NewWebSocketExecutor(&rest.Config{}, "GET", u.String())
			must(t, err)
			return e
		},
		"spdy": func() remotecommand.Executor {
			e, err := remotecommand.NewSPDYExecutor(&rest.Config{}, "POST", u)
			must(t, err)
			return e
		},
	}
}

func TestExecStreams(t *testing.T) {
	w := newWorld(t)
	pod, _ := w.pod("a")
	id := w.start(pod, containerConfig("c", "sleep"))
	for _, protocol := range []string{"websocket", "spdy"} {
		run := func(opts remotecommand.StreamOptions, cmd ...string) error {
			resp, err := w.Exec(ctx, &runtimeapi.ExecRequest{ContainerId: id, Cmd: append([]string{"box"}, cmd...), Tty: opts.Tty,
				Stdin: opts.Stdin != nil, Stdout: true, Stderr: !opts.Tty})
			must(t, err)
			if !strings.HasPrefix(resp.Url, "/exec/") {
				t.Fatalf("URL %q", resp.Url)
			}
			c, cancel := context.WithTimeout(ctx, 20*time.Second)
			defer cancel()
			return executors(t, w, resp.Url)[protocol]().StreamWithContext(c, opts)
		}
		var out, errOut bytes.Buffer
		must(t, run(remotecommand.StreamOptions{Stdout: &out, Stderr: &errOut}, "count", "1"))
		if out.String() != "out 0\n" || errOut.String() != "err 0\n" {
			t.Errorf("%s: %q %q", protocol, out.String(), errOut.String())
		}
		var exit utilexec.CodeExitError
		if err := run(remotecommand.StreamOptions{Stdout: &out, Stderr: &errOut}, "exit", "9"); !errors.As(err, &exit) || exit.Code != 9 {
			t.Errorf("%s: exit: %v", protocol, err)
		}
		out.Reset()
		big := strings.Repeat("0123456789abcdef", 1<<16)
		must(t, run(remotecommand.StreamOptions{Stdin: strings.NewReader(big), Stdout: &out, Stderr: &errOut}, "cat"))
		if out.String() != big {
			t.Errorf("%s: cat returned %d of %d bytes", protocol, out.Len(), len(big))
		}
		out.Reset()
		sizes := &sizeQueue{sizes: []remotecommand.TerminalSize{{Width: 91, Height: 33}}}
		in, typist := io.Pipe()
		seen := &waiter{}
		go func() {
			seen.wait("hello")
			fmt.Fprint(typist, "abc\r")
			seen.wait("you said abc")
			fmt.Fprint(typist, "quit\r")
		}()
		must(t, run(remotecommand.StreamOptions{Stdin: in, Stdout: seen, Tty: true, TerminalSizeQueue: sizes}, "echo1"))
		if got := seen.String(); !strings.Contains(got, "you said abc\r\n") {
			t.Errorf("%s: terminal: %q", protocol, got)
		}
	}
}

// waiter is a Writer whose content can be waited for.
type waiter struct {
	mu   sync.Mutex
	buf  bytes.Buffer
	cond *sync.Cond
}

func (w *waiter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.cond != nil {
		defer w.cond.Broadcast()
	}
	return w.buf.Write(p)
}

func (w *waiter) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.buf.String()
}

func (w *waiter) seen(text string) <-chan struct{} {
	ch := make(chan struct{})
	go func() {
		w.wait(text)
		close(ch)
	}()
	return ch
}

func (w *waiter) wait(text string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.cond == nil {
		w.cond = sync.NewCond(&w.mu)
	}
	for !strings.Contains(w.buf.String(), text) {
		w.cond.Wait()
	}
}

type sizeQueue struct{ sizes []remotecommand.TerminalSize }

func (q *sizeQueue) Next() *remotecommand.TerminalSize {
	if len(q.sizes) == 0 {
		return nil
	}
	s := q.sizes[0]
	q.sizes = q.sizes[1:]
	return &s
}

func TestTerminalSize(t *testing.T) {
	w := newWorld(t)
	pod, _ := w.pod("a")
	config := containerConfig("c", "echo1")
	config.Tty, config.Stdin = true, true
	id := w.start(pod, config)
	w.logged(id, "stdout F hello\r")
	resp, err := w.Attach(ctx, &runtimeapi.AttachRequest{ContainerId: id, Stdin: true, Stdout: true, Tty: true})
	must(t, err)
	in, typist := io.Pipe()
	seen := &waiter{}
	done := make(chan error, 1)
	go func() {
		done <- executors(t, w, resp.Url)["websocket"]().StreamWithContext(ctx, remotecommand.StreamOptions{Stdin: in, Stdout: seen, Tty: true,
			TerminalSizeQueue: &sizeQueue{sizes: []remotecommand.TerminalSize{{Width: 77, Height: 22}}}})
	}()
	go fmt.Fprint(typist, "one\n")
	select {
	case err := <-done:
		t.Fatalf("attach: %v", err)
	case <-seen.seen("you said one"):
	}
	rec, err := w.runningContainer(id)
	must(t, err)
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		size := w.terminalSize(rec.PID)
		if size == "77x22" {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("size %s", size)
		}
	}
	go fmt.Fprint(typist, "quit\n")
	if err := <-done; err != nil {
		t.Errorf("attach: %v", err)
	}
	if s := w.ended(id); s.ExitCode != 0 {
		t.Errorf("status: %v", s)
	}
}

func TestAttach(t *testing.T) {
	w := newWorld(t)
	pod, _ := w.pod("a")
	config := containerConfig("c", "echo1")
	config.Stdin, config.StdinOnce = true, true
	id := w.start(pod, config)
	w.logged(id, "stdout F hello")
	resp, err := w.Attach(ctx, &runtimeapi.AttachRequest{ContainerId: id, Stdin: true, Stdout: true, Stderr: true})
	must(t, err)
	seen := &waiter{}
	err = executors(t, w, resp.Url)["spdy"]().StreamWithContext(ctx, remotecommand.StreamOptions{
		Stdin: strings.NewReader("one\ntwo\n"), Stdout: seen, Stderr: io.Discard})
	must(t, err)
	if s := w.ended(id); s.ExitCode != 0 { // stdinOnce: its input ended with the client's
		t.Errorf("status: %v", s)
	}
	if got := seen.String(); got != "you said one\nyou said two\n" {
		t.Errorf("attached: %q", got)
	}
	w.logged(id, "stdout F you said two")
}

func TestPortForward(t *testing.T) {
	w := newWorld(t)
	pod, _ := w.pod("a")
	id := w.start(pod, containerConfig("c", "listen", "8080"))
	w.logged(id, "stdout F ready")
	for _, port := range []int32{8080, 8081} {
		resp, err := w.PortForward(ctx, &runtimeapi.PortForwardRequest{PodSandboxId: pod, Port: []int32{port}})
		must(t, err)
		server := httptest.NewServer(w.Streams())
		u, err := url.Parse(server.URL + resp.Url)
		must(t, err)
		transport, upgrader, err := spdy.RoundTripperFor(&rest.Config{})
		must(t, err)
		dialer := spdy.NewDialer(upgrader, &http.Client{Transport: transport}, "POST", u)
		conn, _, err := dialer.Dial(portforward.PortForwardProtocolV1Name)
		must(t, err)
		headers := http.Header{}
		headers.Set("streamType", "error")
		headers.Set("port", fmt.Sprint(port))
		headers.Set("requestID", "1")
		errStream, err := conn.CreateStream(headers)
		must(t, err)
		errStream.Close()
		headers.Set("streamType", "data")
		data, err := conn.CreateStream(headers)
		var got []byte
		if err == nil { // a refused connection may reset it before it is there
			fmt.Fprintln(data, "hi")
			got, _ = io.ReadAll(data)
		} else if port == 8080 {
			t.Error(err)
		}
		problem, _ := io.ReadAll(errStream)
		if port == 8080 && string(got) != "pod says hi\n" {
			t.Errorf("forwarded: %q, %s", got, problem)
		}
		if port == 8081 && !strings.Contains(string(problem), "refused") {
			t.Errorf("closed port: %q, %q", got, problem)
		}
		conn.Close()
		server.Close()
	}
}

// TestSlowClient: an attached client that reads nothing does not hold the
// container up for long, and not the log.
func TestSlowClient(t *testing.T) {
	w := newWorld(t)
	pod, _ := w.pod("a")
	config := containerConfig("c", "echo1")
	config.Stdin = true
	id := w.start(pod, config)
	rec, err := w.runningContainer(id)
	must(t, err)
	c, cancel := context.WithCancel(ctx)
	defer cancel()
	stuck := make(chan struct{})
	in, typist := io.Pipe()
	defer typist.Close()
	done := make(chan error, 1)
	go func() { done <- w.attach(c, rec, stdio{in: in, out: blocked(stuck)}) }()
	go func() {
		line := strings.Repeat("z", 1000) + "\n"
		for range 500 {
			fmt.Fprint(typist, line)
		}
		fmt.Fprint(typist, "quit\n")
	}()
	begin := time.Now()
	s := w.ended(id)
	if s.ExitCode != 0 || time.Since(begin) > 15*time.Second {
		t.Errorf("ended after %v: %v", time.Since(begin), s)
	}
	if got := len(w.log(id)); got != 501 {
		t.Errorf("%d lines in the log", got)
	}
	close(stuck)
	<-done
}

// blocked is a Writer that waits.
type blocked chan struct{}

func (b blocked) Write(p []byte) (int, error) {
	<-b
	return len(p), nil
}
