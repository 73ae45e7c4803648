package apiserver_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/websocket"
)

// backend echoes WebSocket messages and bodies, and tells when a client has left.
func backend(left chan<- string) *httptest.Server {
	return httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/socket":
			websocket.Handler(func(ws *websocket.Conn) {
				for text := ""; text != "bye" && websocket.Message.Receive(ws, &text) == nil; {
					_ = websocket.Message.Send(ws, text)
				}
				left <- "socket"
			}).ServeHTTP(w, r)
		case "/hang":
			_, _ = io.Copy(w, r.Body)
			w.WriteHeader(http.StatusOK)
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
			left <- "hang"
		case "/half":
			w.Header().Set("Content-Length", "100")
			fmt.Fprint(w, "half")
		case "/body":
			n, err := io.Copy(io.Discard, r.Body)
			if err != nil {
				left <- "body"
				return
			}
			fmt.Fprintf(w, "%d %v", n, r.TransferEncoding)
		}
	}))
}

const podProxy = "/api/v1/namespaces/default/pods/p/proxy"

// TestProxiedSocket: a WebSocket through the proxy carries both ways, and each end's
// end is the other's.
func TestProxiedSocket(t *testing.T) {
	left := make(chan string, 10)
	app := backend(left)
	defer app.Close()
	h := proxied(t, app)
	dial := func() *websocket.Conn {
		config, err := websocket.NewConfig(strings.Replace(h.http.URL, "https", "wss", 1)+podProxy+"/socket", "http://x/")
		must(t, err)
		config.TlsConfig = &tls.Config{InsecureSkipVerify: true}
		config.Header.Set("Authorization", "Bearer root")
		ws, err := websocket.DialConfig(config)
		must(t, err)
		return ws
	}
	ws := dial()
	must(t, websocket.Message.Send(ws, "hello"))
	var got string
	if err := websocket.Message.Receive(ws, &got); err != nil || got != "hello" {
		t.Errorf("%q, %v", got, err)
	}
	ws.Close()
	await(t, left, "socket")
	other := dial()
	defer other.Close()
	must(t, websocket.Message.Send(other, "bye"))
	must(t, websocket.Message.Receive(other, &got))
	_ = other.SetReadDeadline(time.Now().Add(20 * time.Second))
	if err := websocket.Message.Receive(other, &got); err == nil || isTimeout(err) {
		t.Errorf("the backend's end did not show: %v", err)
	}
}

func isTimeout(err error) bool {
	n, ok := err.(net.Error)
	return ok && n.Timeout()
}

func await(t *testing.T, left <-chan string, what string) {
	t.Helper()
	select {
	case got := <-left:
		if got != what {
			t.Errorf("%s ended, want %s", got, what)
		}
	case <-time.After(20 * time.Second):
		t.Errorf("%s does not end", what)
	}
}

// TestProxiedBodies: chunked bodies pass; one that stops
// half-way, either way, is not taken for a whole one, and nothing stays.
func TestProxiedBodies(t *testing.T) {
	left := make(chan string, 10)
	app := backend(left)
	defer app.Close()
	h := proxied(t, app)
	request := func(path, rest string) (*bufio.Reader, io.Closer) {
		conn := h.raw(t, "http/1.1")
		_, err := fmt.Fprintf(conn, "POST %s%s HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer root\r\n%s", podProxy, path, rest)
		must(t, err)
		_ = conn.SetReadDeadline(time.Now().Add(20 * time.Second))
		return bufio.NewReader(conn), conn
	}
	r, conn := request("/body", "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n")
	resp, err := http.ReadResponse(r, nil)
	must(t, err)
	text, err := io.ReadAll(resp.Body)
	if err != nil || string(text) != "5 [chunked]" {
		t.Errorf("%s %q, %v", resp.Status, text, err)
	}
	conn.Close()
	_, conn = request("/body", "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
	conn.Close()
	await(t, left, "body")
	_, conn = request("/body", "Content-Length: 10\r\n\r\nabc")
	conn.Close()
	await(t, left, "body")
	r, conn = request("/hang", "Content-Length: 0\r\n\r\n")
	resp, err = http.ReadResponse(r, nil)
	must(t, err)
	conn.Close()
	await(t, left, "hang")
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	half, err := http.NewRequestWithContext(ctx, http.MethodGet, h.http.URL+podProxy+"/half", nil)
	must(t, err)
	half.Header.Set("Authorization", "Bearer root")
	if resp, err := h.http.Client().Do(half); err == nil {
		if text, err := io.ReadAll(resp.Body); err == nil {
			t.Errorf("half an answer looks whole: %s %q", resp.Status, text)
		}
		resp.Body.Close()
	}
	eventually(t, "end of what the requests left", func() bool { return len(ofStreams()) == 0 })
}

// TestProxiedRedirects: where a backend sends its clients leads through the proxy as
// long as it is the backend's own, and elsewhere as it is.
func TestProxiedRedirects(t *testing.T) {
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Location", r.URL.Query().Get("to"))
		w.WriteHeader(http.StatusMovedPermanently)
	}))
	defer app.Close()
	h := proxied(t, app)
	for to, want := range map[string]string{
		"/there":                          podProxy + "/there",
		"/there?x=y":                      podProxy + "/there?x=y",
		"http://" + podAt + ":8080/there": podProxy + "/there",
		"https://elsewhere.test/there":    "https://elsewhere.test/there",
	} {
		w := h.callWith(http.MethodGet, podProxy+"/x?to="+strings.NewReplacer(":", "%3A", "?", "%3F", "=", "%3D").Replace(to), nil)
		if got := w.Header().Get("Location"); w.Code != http.StatusMovedPermanently || got != want {
			t.Errorf("to %s: %d, %s, want %s", to, w.Code, got, want)
		}
	}
}
