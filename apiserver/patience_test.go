package apiserver_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"golang.org/x/net/websocket"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"

	"proa/apiserver"
	"proa/auth"
	"proa/internal/hangup"
)

// few lets everybody do everything, with few seats.
func few(c *apiserver.Config) { c.Authorizer, c.MaxInFlight = auth.Always(auth.Allow), 20 }

// served checks that another user of the same priority level gets an answer.
func (h *harness) served(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for {
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, h.http.URL+"/api/v1/namespaces/default", nil)
		must(t, err)
		r.Header.Set("Authorization", "Bearer other")
		resp, err := h.http.Client().Do(r)
		must(t, err)
		resp.Body.Close()
		if resp.StatusCode == http.StatusOK {
			return
		}
		if resp.StatusCode != http.StatusTooManyRequests { // it may come back soon
			t.Fatalf("another user: %s", resp.Status)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// TestSlowBodiesHoldNoSeats has more clients than there are seats send bodies that
// stop half-way: others get their turn long before the time for bodies is over.
func TestSlowBodiesHoldNoSeats(t *testing.T) {
	h := start(t, few)
	for range 60 {
		conn := h.raw(t, "http/1.1")
		_, err := fmt.Fprint(conn, "POST /api/v1/namespaces/default/configmaps HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer slow\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n{")
		must(t, err)
	}
	begin := time.Now()
	h.served(t)
	if d := time.Since(begin); d > 25*time.Second {
		t.Errorf("another user waited %v", d)
	}
}

// TestDeafReadersHoldNoSeats has a client ask for more answers than there are seats
// and take nothing of them.
func TestDeafReadersHoldNoSeats(t *testing.T) {
	h := start(t, few)
	body := fmt.Appendf(nil, `{"metadata":{"name":"big"},"data":{"k":"%s"}}`, strings.Repeat("x", 64<<10))
	if w := h.call(http.MethodPost, "/api/v1/namespaces/default/configmaps", "application/json", body); w.Code != http.StatusCreated {
		t.Fatal(w.Code)
	}
	conn := h.raw(t, "h2")
	_, err := io.WriteString(conn, http2.ClientPreface)
	must(t, err)
	fr := http2.NewFramer(conn, conn)
	must(t, fr.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0}))
	go func() { _, _ = io.Copy(io.Discard, conn) }() // the frames, but no window for data
	var block strings.Builder
	enc := hpack.NewEncoder(&block)
	for i := range 60 {
		block.Reset()
		for _, f := range [][2]string{{":method", "GET"}, {":path", "/api/v1/namespaces/default/configmaps/big"}, {":scheme", "https"}, {":authority", "x"}, {"authorization", "Bearer deaf"}} {
			must(t, enc.WriteField(hpack.HeaderField{Name: f[0], Value: f[1], Sensitive: true}))
		}
		must(t, fr.WriteHeaders(http2.HeadersFrameParam{StreamID: uint32(2*i + 1), BlockFragment: []byte(block.String()), EndHeaders: true, EndStream: true}))
	}
	h.served(t)
}

// streaming is a kubelet that opens whatever a client wants and waits for its end.
func streaming(opened chan<- string) func(string) (http.Handler, error) {
	return func(string) (http.Handler, error) {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			ctx, cancel := context.WithCancel(r.Context())
			defer cancel()
			client := hangup.Watch(w, cancel)
			if r.Header.Get("Upgrade") == "websocket" {
				websocket.Handler(func(ws *websocket.Conn) {
					opened <- r.URL.Path
					go func() { _, _ = io.Copy(io.Discard, ws) }()
					<-ctx.Done()
				}).ServeHTTP(client, r)
				return
			}
			if strings.HasPrefix(r.URL.Path, "/containerLogs") {
				w.WriteHeader(http.StatusOK)
				_ = http.NewResponseController(w).Flush()
				opened <- r.URL.Path
				<-r.Context().Done()
				return
			}
			if _, err := httpstream.Handshake(r, w, []string{"v4.channel.k8s.io", "portforward.k8s.io"}); err != nil {
				return
			}
			conn := spdy.NewResponseUpgrader().UpgradeResponse(client, r, func(httpstream.Stream, <-chan struct{}) error { return nil })
			if conn == nil {
				return
			}
			defer conn.Close()
			opened <- r.URL.Path
			select {
			case <-ctx.Done():
			case <-conn.CloseChan():
			}
		}), nil
	}
}

// ofStreams are the stacks of the goroutines that serve a stream, on either side.
func ofStreams() (out []string) {
	buf := make([]byte, 4<<20)
	for _, stack := range strings.Split(string(buf[:runtime.Stack(buf, true)]), "\n\n") {
		for _, part := range []string{"apiserver.(*Server).serve(", "apiserver_test.streaming", "spdystream", "wsstream", "/websocket."} {
			if strings.Contains(stack, part) {
				out = append(out, stack)
				break
			}
		}
	}
	return out
}

// TestAbandonedStreams: a client that vanishes leaves nothing of its stream in the
// server, nor at the kubelet, whatever it spoke.
func TestAbandonedStreams(t *testing.T) {
	opened := make(chan string, 10)
	h := start(t, func(c *apiserver.Config) { c.Node = streaming(opened) })
	onNode(t, h, "n1", "a")
	_, err := h.Client(auth.System("test")).Create(t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}})
	must(t, err)
	const pod = "/api/v1/namespaces/default/pods/p"
	const command = "?command=x&stdin=1&stdout=1"
	socket := func(protocol string) []string {
		return []string{"Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Origin: http://x", "Sec-WebSocket-Protocol: " + protocol}
	}
	spdyOf := func(protocol string) []string {
		return []string{"Upgrade: SPDY/3.1", "X-Stream-Protocol-Version: " + protocol}
	}
	h.well(t)
	for name, c := range map[string]struct {
		path   string
		header []string
	}{
		"exec v5":                    {pod + "/exec" + command, socket("v5.channel.k8s.io")},
		"exec v4":                    {pod + "/exec" + command, socket("v4.channel.k8s.io")},
		"attach base64":              {pod + "/attach?stdout=1", socket("v4.base64.channel.k8s.io")},
		"exec SPDY":                  {pod + "/exec" + command, spdyOf("v4.channel.k8s.io")},
		"port-forward SPDY":          {pod + "/portforward", spdyOf("portforward.k8s.io")},
		"port-forward, tunnelled":    {pod + "/portforward", socket("SPDY/3.1+portforward.k8s.io")},
		"log":                        {pod + "/log?follow=1", nil},
		"the node's own, by a proxy": {"/api/v1/nodes/n1/proxy/exec/default/p/a" + command, spdyOf("v4.channel.k8s.io")},
	} {
		conn := h.raw(t, "http/1.1")
		connection := "Connection: Upgrade\r\n"
		if c.header == nil {
			connection = ""
		}
		_, err := fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer root\r\n%s%s\r\n\r\n", c.path, connection, strings.Join(c.header, "\r\n"))
		must(t, err)
		select {
		case <-opened:
		case <-time.After(20 * time.Second):
			answer := make([]byte, 1000)
			_ = conn.SetReadDeadline(time.Now().Add(time.Second))
			n, _ := conn.Read(answer)
			t.Errorf("%s: nothing was opened: %s", name, answer[:n])
		}
		conn.Close()
		end := time.Now().Add(20 * time.Second)
		for len(ofStreams()) > 0 && time.Now().Before(end) {
			time.Sleep(5 * time.Millisecond)
		}
		if left := ofStreams(); len(left) > 0 {
			t.Fatalf("%s: %d goroutines are left\n%s", name, len(left), strings.Join(left, "\n\n"))
		}
	}
}

// TestManyTerms: a selector without bounds is refused, and a list stops when its
// client is gone.
func TestManyTerms(t *testing.T) {
	h := start(t)
	h.fill(t, 3)
	selector := func(n int) string { return strings.Repeat("a!=b,", n) + "a!=b" }
	for n, want := range map[int]int{10: http.StatusOK, 9_000: http.StatusOK, 10_000: http.StatusBadRequest} {
		if w := h.call(http.MethodGet, "/api/v1/configmaps?labelSelector="+selector(n), "application/json", nil); w.Code != want {
			t.Errorf("%d terms: %d", n, w.Code)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, target := range []string{"/api/v1/configmaps?labelSelector=" + selector(9), "/api/v1/configmaps?fieldSelector=metadata.name!%3Dx"} {
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, target, nil)
		must(t, err)
		r.Header.Set("Authorization", "Bearer root")
		w := &sink{header: http.Header{}}
		h.Handler().ServeHTTP(w, r)
		if w.code != http.StatusGatewayTimeout {
			t.Errorf("%s of a client that is gone: %d", target, w.code)
		}
	}
}
