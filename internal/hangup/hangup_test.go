package hangup

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"
)

// TestGone: a handler that took the connection over hears of the client's end, and
// not of a deadline; what the client had sent already is not lost.
func TestGone(t *testing.T) {
	gone, got := make(chan struct{}), make(chan string, 1)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		watched := Watch(w, func() { close(gone) })
		conn, rw, err := watched.Hijack()
		if err != nil || watched.Conn() != conn {
			t.Error(err)
			return
		}
		text := make([]byte, 5)
		_, _ = io.ReadFull(rw, text)
		got <- string(text)
		_ = conn.SetReadDeadline(time.Unix(1, 0))
		if _, err := conn.Read(text); err == nil {
			t.Error("a read past its deadline")
		}
		select {
		case <-gone:
			t.Error("a deadline was taken for an end")
		default:
		}
		_ = conn.SetReadDeadline(time.Time{})
		_, _ = io.Copy(io.Discard, rw)
		_ = conn.Close()
	}))
	defer srv.Close()
	conn, err := net.Dial("tcp", srv.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(conn, "GET / HTTP/1.1\r\nHost: x\r\n\r\nearly") // in one packet with the request
	if text := <-got; text != "early" {
		t.Errorf("%q", text)
	}
	conn.Close()
	select {
	case <-gone:
	case <-time.After(10 * time.Second):
		t.Error("the end was not noticed")
	}
}

// TestBuffered: what the server had read ahead comes first.
func TestBuffered(t *testing.T) {
	near, far := net.Pipe()
	defer far.Close()
	r := bufio.NewReader(near)
	go func() { fmt.Fprint(far, "ahead") }()
	if _, err := r.Peek(5); err != nil {
		t.Fatal(err)
	}
	c, rw := Wrap(near, bufio.NewReadWriter(r, bufio.NewWriter(near)), func() {})
	defer c.Close()
	go func() { fmt.Fprint(far, " behind") }()
	text := make([]byte, 12)
	if _, err := io.ReadFull(rw, text); err != nil || string(text) != "ahead behind" {
		t.Errorf("%q, %v", text, err)
	}
}
