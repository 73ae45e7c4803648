package apiserver

import (
	"bufio"
	"context"
	"errors"
	"net"
	"net/http"
	"net/url"
	"os"
	"sync"

	"golang.org/x/sys/unix"
	utilproxy "k8s.io/apiserver/pkg/util/proxy"
	"k8s.io/streaming/pkg/httpstream/wsstream"

	"proa/internal/hangup"
)

// upgrade passes exec, attach and port-forward on. Kubelets and runtimes speak
// SPDY and the older WebSocket protocols; what clients speak since v1.30, the
// closing WebSocket protocol v5 and SPDY tunnelled in WebSocket, ends here
// (KEP-4006).
func upgrade(w http.ResponseWriter, r *http.Request, kubelet http.Handler) {
	switch {
	case wsstream.IsWebSocketRequestWithStreamCloseProtocol(r):
		t := inMemory(kubelet)
		defer t.CloseIdleConnections()
		u := url.URL{Scheme: "http", Host: "kubelet", Path: r.URL.Path, RawQuery: r.URL.RawQuery}
		utilproxy.NewStreamTranslatorHandler(&u, t, 0, streamOptions(r.URL.Query())).ServeHTTP(w, r)
	case wsstream.IsWebSocketRequestWithTunnelingProtocol(r):
		tunnel(w, r, kubelet)
	default:
		kubelet.ServeHTTP(w, r)
	}
}

// streamOptions reads the kubelet's form of the options, see execQuery.
func streamOptions(q url.Values) utilproxy.Options {
	return utilproxy.Options{Stdin: isTrue(q.Get("input")), Stdout: isTrue(q.Get("output")),
		Stderr: isTrue(q.Get("error")) && !isTrue(q.Get("tty")), Tty: isTrue(q.Get("tty"))}
}

// inMemory is a transport whose connections end at the handler, by a socket
// pair: an upgraded connection needs two real ends.
func inMemory(handler http.Handler) *http.Transport {
	return &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) {
		near, far, err := socketPair()
		if err != nil {
			return nil, err
		}
		l := &oneConn{conn: far, closed: make(chan struct{})}
		srv := &http.Server{Handler: handler, ConnState: func(_ net.Conn, s http.ConnState) {
			if s == http.StateHijacked || s == http.StateClosed {
				l.Close() // Serve ends; whoever took the connection over closes it
			}
		}}
		go func() { _ = srv.Serve(l) }()
		return near, nil
	}}
}

func socketPair() (near, far net.Conn, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	if near, err = fileConn(fds[0]); err != nil {
		unix.Close(fds[1])
		return nil, nil, err
	}
	if far, err = fileConn(fds[1]); err != nil {
		near.Close()
	}
	return near, far, err
}

func fileConn(fd int) (net.Conn, error) {
	f := os.NewFile(uintptr(fd), "stream")
	defer f.Close() // FileConn duplicates it
	return net.FileConn(f)
}

// oneConn is a listener that yields one connection.
type oneConn struct {
	mu     sync.Mutex
	conn   net.Conn
	once   sync.Once
	closed chan struct{}
}

var errListenerDone = errors.New("the listener's one connection is taken")

func (l *oneConn) Accept() (net.Conn, error) {
	l.mu.Lock()
	conn := l.conn
	l.conn = nil
	l.mu.Unlock()
	if conn != nil {
		return conn, nil
	}
	<-l.closed
	return nil, errListenerDone
}

func (l *oneConn) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

func (l *oneConn) Addr() net.Addr { return &net.UnixAddr{Net: "unix"} }

// Hijack hands the connection to whoever upgrades it. When its client goes, the
// request's context ends.
func (x *exchange) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, rw, err := http.NewResponseController(x.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	if x.status == 0 {
		x.status = http.StatusSwitchingProtocols // from here on, nobody tells
	}
	if x.hangup != nil {
		conn, rw = hangup.Wrap(conn, rw, x.hangup)
	}
	return conn, rw, nil
}
