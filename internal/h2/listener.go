package h2

import (
	"net"
	"sync"
)

// Gather returns a listener whose connections can hold the records of TLS back
// until several are written at once. An http.Server that Configure was called for
// makes use of it; for others nothing changes.
func Gather(l net.Listener) net.Listener { return listener{l} }

type listener struct{ net.Listener }

func (l listener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &gatherer{Conn: c}, nil
}

// gatherer is a connection below TLS.
type gatherer struct {
	net.Conn
	mu      sync.Mutex
	holding bool
	held    []byte
}

func (g *gatherer) Write(p []byte) (int, error) {
	g.mu.Lock()
	if g.holding {
		defer g.mu.Unlock()
		g.held = append(g.held, p...)
		return len(p), nil
	}
	g.mu.Unlock()
	return g.Conn.Write(p)
}

// hold keeps what is written in buf from now on.
func (g *gatherer) hold(buf []byte) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.holding, g.held = true, buf
}

// release writes what was held, and returns its buffer.
func (g *gatherer) release() ([]byte, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	held := g.held
	g.holding, g.held = false, nil
	_, err := g.Conn.Write(held)
	return held[:0], err
}
