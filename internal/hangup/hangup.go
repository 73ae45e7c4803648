// Package hangup tells when the other end of a connection that was taken over
// from an HTTP server is gone. net/http tells by the request's context as long as
// the connection is its own; after a Hijack nobody does, and what runs for a
// client that vanished would run for ever.
package hangup

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
)

// conn is a connection that tells of its end.
type conn struct {
	net.Conn
	once sync.Once
	gone func()
}

// Wrap returns the connection, and its buffers as Hijack gave them, so that gone
// is called once when reading or writing fails, or somebody closes it. It is
// noticed only while somebody reads or writes.
func Wrap(c net.Conn, rw *bufio.ReadWriter, gone func()) (net.Conn, *bufio.ReadWriter) {
	w := &conn{Conn: c, gone: gone}
	from := io.Reader(w)
	if rw != nil && rw.Reader.Buffered() > 0 {
		head, _ := rw.Peek(rw.Reader.Buffered()) // that much is there
		from = io.MultiReader(bytes.NewReader(bytes.Clone(head)), w)
	}
	return w, bufio.NewReadWriter(bufio.NewReader(from), bufio.NewWriter(w))
}

func (c *conn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.judge(err)
	return n, err
}

func (c *conn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.judge(err)
	return n, err
}

func (c *conn) Close() error {
	c.once.Do(c.gone)
	return c.Conn.Close()
}

func (c *conn) judge(err error) {
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		c.once.Do(c.gone)
	}
}

// Writer is a ResponseWriter whose Hijack wraps the connection.
type Writer struct {
	http.ResponseWriter
	gone func()

	mu   sync.Mutex
	conn net.Conn
}

// Watch has gone called when the connection that is taken over from w ends.
func Watch(w http.ResponseWriter, gone func()) *Writer {
	return &Writer{ResponseWriter: w, gone: gone}
}

// Hijack implements http.Hijacker.
func (w *Writer) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	c, rw, err := http.NewResponseController(w.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	c, rw = Wrap(c, rw, w.gone)
	w.mu.Lock()
	w.conn = c
	w.mu.Unlock()
	return c, rw, nil
}

// Conn is the connection that was taken over, or nil.
func (w *Writer) Conn() net.Conn {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.conn
}
