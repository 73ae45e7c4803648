package runtime

import (
	"bufio"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	goruntime "runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/websocket"
	"k8s.io/client-go/tools/portforward"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"
)

// client is a connection to the stream server that a test can cut.
type client struct {
	net.Conn
	r *bufio.Reader
}

// upgraded asks for a stream and takes the connection over.
func upgraded(t *testing.T, server *httptest.Server, path string, header ...string) *client {
	t.Helper()
	conn, err := net.Dial("tcp", server.Listener.Addr().String())
	must(t, err)
	t.Cleanup(func() { conn.Close() })
	fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\n%s\r\n\r\n", path, strings.Join(header, "\r\n"))
	c := &client{conn, bufio.NewReader(conn)}
	resp, err := http.ReadResponse(c.r, nil)
	must(t, err)
	if resp.StatusCode != http.StatusSwitchingProtocols {
		body, _ := io.ReadAll(resp.Body)
		t.Fatalf("%s: %s", resp.Status, body)
	}
	return c
}

func (c *client) Read(p []byte) (int, error) { return c.r.Read(p) }

func (c *client) spdy(t *testing.T) httpstream.Connection {
	t.Helper()
	conn, err := spdy.NewClientConnection(c)
	must(t, err)
	return conn
}

// stream opens one and does not wait for the answer.
func open(t *testing.T, conn httpstream.Connection, header ...string) httpstream.Stream {
	t.Helper()
	h := http.Header{}
	for i := 0; i < len(header); i += 2 {
		h.Set(header[i], header[i+1])
	}
	s, err := conn.CreateStream(h)
	must(t, err)
	return s
}

const spdyHeader, spdyV4, spdyForward = "Upgrade: SPDY/3.1", "X-Stream-Protocol-Version: v4.channel.k8s.io", "X-Stream-Protocol-Version: portforward.k8s.io"

// calm waits until what a stream had started has ended; some that earlier tests left
// may be there before.
func (w *world) calm(what string, before, processes int) {
	w.t.Helper()
	var left []string
	var n int
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		left, n = ofStreams(), len(pidsBelow(w.version.dir("memory", "/"+w.cfg.CgroupRoot)))
		if len(left) <= before && n == processes {
			return
		}
	}
	w.t.Fatalf("%s: %d processes, %d before; %d goroutines are left\n%s", what, n, processes, len(left), strings.Join(left, "\n\n"))
}

// ofStreams are the stacks of the goroutines that serve a stream, on either side.
func ofStreams() (out []string) {
	buf := make([]byte, 4<<20)
	for _, stack := range strings.Split(string(buf[:goruntime.Stack(buf, true)]), "\n\n") {
		for _, part := range []string{"runtime.(*streamServer)", "runtime.(*pipes)", "runtime.streamer", "runtime.(*forwarding)", "spdystream", "wsstream", "/websocket."} {
			if strings.Contains(stack, part) {
				out = append(out, stack)
				break
			}
		}
	}
	return out
}

// TestAbandonedExec: whatever the protocol, a client that vanishes leaves no
// process, goroutine or connection; nor does one that opens what it did not ask for.
func TestAbandonedExec(t *testing.T) {
	w := newWorld(t)
	pod, _ := w.pod("a")
	id := w.start(pod, containerConfig("c", "sleep"))
	server := httptest.NewServer(w.Streams())
	defer server.Close()
	processes := len(pidsBelow(w.version.dir("memory", "/"+w.cfg.CgroupRoot)))
	socket := func(protocol string) func(string) {
		return func(path string) {
			config, err := websocket.NewConfig("ws://"+server.Listener.Addr().String()+path, "http://x/")
			must(t, err)
			config.Protocol = []string{protocol}
			ws, err := websocket.DialConfig(config)
			must(t, err)
			w.await(processes + 1)
			ws.Close()
		}
	}
	for name, vanish := range map[string]func(path string){
		"v5.channel.k8s.io":        socket("v5.channel.k8s.io"),
		"v4.channel.k8s.io":        socket("v4.channel.k8s.io"),
		"v4.base64.channel.k8s.io": socket("v4.base64.channel.k8s.io"),
		"base64.channel.k8s.io":    socket("base64.channel.k8s.io"),
		"SPDY": func(path string) {
			c := upgraded(t, server, path, spdyHeader, spdyV4)
			conn := c.spdy(t)
			for _, kind := range []string{"error", "stdin", "stdout"} {
				open(t, conn, "streamType", kind)
			}
			w.await(processes + 1)
			c.Close()
		},
		"SPDY without its streams": func(path string) {
			c := upgraded(t, server, path, spdyHeader, spdyV4)
			open(t, c.spdy(t), "streamType", "error")
			c.Close()
		},
		"SPDY with more": func(path string) {
			c := upgraded(t, server, path, spdyHeader, spdyV4)
			conn := c.spdy(t)
			for _, kind := range []string{"error", "stdin", "stdout"} {
				open(t, conn, "streamType", kind)
			}
			for _, kind := range []string{"stdin", "error", "nonsense", "stderr"} {
				h := http.Header{}
				h.Set("streamType", kind)
				if _, err := conn.CreateStream(h); err == nil {
					t.Errorf("a stream too many was taken: %s", kind)
				}
			}
			c.Close()
		},
	} {
		before := len(ofStreams())
		resp, err := w.Exec(ctx, &runtimeapi.ExecRequest{ContainerId: id, Cmd: []string{"box", "sleep"}, Stdin: true, Stdout: true})
		must(t, err)
		vanish(resp.Url)
		server.CloseClientConnections()
		w.calm(name, before, processes)
	}
}

// await waits for a number of processes.
func (w *world) await(processes int) {
	w.t.Helper()
	for end := time.Now().Add(20 * time.Second); len(pidsBelow(w.version.dir("memory", "/"+w.cfg.CgroupRoot))) < processes; time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			w.t.Fatal("the command does not start")
		}
	}
}

// TestAbandonedForward: a client that vanishes while the pod's side says nothing
// leaves no connection.
func TestAbandonedForward(t *testing.T) {
	w := newWorld(t)
	pod, _ := w.pod("a")
	id := w.start(pod, containerConfig("c", "listen", "8080"))
	w.logged(id, "stdout F ready")
	server := httptest.NewServer(w.Streams())
	defer server.Close()
	processes := len(pidsBelow(w.version.dir("memory", "/"+w.cfg.CgroupRoot)))
	for name, vanish := range map[string]func(path string){
		"SPDY": func(path string) {
			c := upgraded(t, server, path, spdyHeader, spdyForward)
			conn := c.spdy(t)
			for i := range 20 { // the pod waits for a line of each
				id := fmt.Sprint(i)
				open(t, conn, "streamType", "error", "port", "8080", "requestID", id)
				open(t, conn, "streamType", "data", "port", "8080", "requestID", id)
			}
			open(t, conn, "streamType", "error", "port", "8080", "requestID", "half")
			c.Close()
		},
		"WebSocket": func(path string) {
			config, err := websocket.NewConfig("ws://"+server.Listener.Addr().String()+path, "http://x/")
			must(t, err)
			config.Protocol = []string{"v4." + "base64.channel.k8s.io"}
			ws, err := websocket.DialConfig(config)
			must(t, err)
			var text string
			must(t, websocket.Message.Receive(ws, &text)) // "0" and the port
			ws.Close()
		},
	} {
		before := len(ofStreams())
		resp, err := w.PortForward(ctx, &runtimeapi.PortForwardRequest{PodSandboxId: pod, Port: []int32{8080}})
		must(t, err)
		vanish(resp.Url)
		server.CloseClientConnections()
		w.calm(name, before, processes)
	}
}

// TestOldForwarding speaks the WebSocket forms of port-forward, and SPDY without
// the IDs that older clients do not send.
func TestOldForwarding(t *testing.T) {
	w := newWorld(t)
	pod, _ := w.pod("a")
	id := w.start(pod, containerConfig("c", "listen", "8080"))
	w.logged(id, "stdout F ready")
	server := httptest.NewServer(w.Streams())
	defer server.Close()
	path := func() string {
		resp, err := w.PortForward(ctx, &runtimeapi.PortForwardRequest{PodSandboxId: pod, Port: []int32{8080}})
		must(t, err)
		return resp.Url
	}
	for _, protocol := range []string{"v4.channel.k8s.io", "v4.base64.channel.k8s.io"} {
		config, err := websocket.NewConfig("ws://"+server.Listener.Addr().String()+path(), "http://x/")
		must(t, err)
		config.Protocol = []string{protocol}
		ws, err := websocket.DialConfig(config)
		must(t, err)
		said := []byte("\x00hi\n")
		if strings.Contains(protocol, "base64") {
			said = []byte("0" + base64.StdEncoding.EncodeToString([]byte("hi\n")))
			must(t, websocket.Message.Send(ws, string(said)))
		} else {
			must(t, websocket.Message.Send(ws, said))
		}
		var got strings.Builder
		for !strings.Contains(got.String(), "pod says hi\n") {
			var frame []byte
			if err := websocket.Message.Receive(ws, &frame); err != nil {
				t.Fatalf("%s: %q, %v", protocol, got.String(), err)
			}
			if strings.Contains(protocol, "base64") {
				text, err := base64.StdEncoding.DecodeString(string(frame[1:]))
				must(t, err)
				frame = append(frame[:1:1], text...)
			}
			if frame[0]&1 == 0 {
				got.Write(frame[1:])
			}
		}
		ws.Close()
	}
	conn := upgraded(t, server, path(), spdyHeader, "X-Stream-Protocol-Version: "+portforward.PortForwardProtocolV1Name).spdy(t)
	defer conn.Close()
	open(t, conn, "streamType", "error", "port", "8080")
	data := open(t, conn, "streamType", "data", "port", "8080")
	fmt.Fprintln(data, "hi")
	if got, _ := io.ReadAll(data); string(got) != "pod says hi\n" {
		t.Errorf("without IDs: %q", got)
	}
}
