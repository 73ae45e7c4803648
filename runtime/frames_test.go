package runtime

import (
	"bufio"
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"proa/internal/hangup"
)

// taken is the ResponseWriter of a connection that is taken over at once.
type taken struct {
	header http.Header
	conn   net.Conn
}

func (w *taken) Header() http.Header         { return w.header }
func (w *taken) Write(p []byte) (int, error) { return len(p), nil }
func (w *taken) WriteHeader(int)             {}
func (w *taken) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return w.conn, bufio.NewReadWriter(bufio.NewReader(w.conn), bufio.NewWriter(w.conn)), nil
}

// pair is a connection's two ends.
func socketPair(t *testing.T) (near, far net.Conn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	must(t, err)
	ends := make([]net.Conn, 2)
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "end")
		ends[i], err = net.FileConn(f)
		f.Close()
		must(t, err)
	}
	return ends[0], ends[1]
}

// request asks for a stream by one of the protocols.
func streamRequest(t *testing.T, kind byte) *http.Request {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://x/", nil)
	must(t, err)
	r.Header.Set("Connection", "Upgrade")
	if kind%4 == 0 {
		r.Header.Set("Upgrade", "SPDY/3.1")
		r.Header.Set("X-Stream-Protocol-Version", "v4.channel.k8s.io")
		return r
	}
	r.Header.Set("Upgrade", "websocket")
	r.Header.Set("Sec-Websocket-Version", "13")
	r.Header.Set("Sec-Websocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")
	r.Header.Set("Origin", "http://x")
	r.Header.Set("Sec-Websocket-Protocol", []string{"v5.channel.k8s.io", "v4.channel.k8s.io", "v4.base64.channel.k8s.io"}[kind%4-1])
	return r
}

// FuzzFrames sends made-up frames to an exec and a port-forward by every protocol:
// whatever they say, the stream ends with its client.
func FuzzFrames(f *testing.F) {
	f.Add(byte(0), []byte("\x80\x03\x00\x01\x01\x00\x00\x00"))                                           // a SPDY SYN_STREAM that stops
	f.Add(byte(0), []byte("\x80\x03\x00\x04\x00\x00\x00\x08\x00\x00\x00\x01\x00\x00\x00\x01"))           // settings
	f.Add(byte(0), []byte("\x00\x00\x00\x01\x00\x00\x00\x02hi\x80\x03\x00\x07\x00\x00\x00\x08aaaabbbb")) // data of no stream, go away
	f.Add(byte(0), []byte("\x88\x03\x00\b\x00\x00\x00\b\x00\x00\x00\x01\x00\x00\x00\x01"))               // of no version
	f.Add(byte(1), []byte("\x82\x83\x01\x02\x03\x04\x01j\x6a"))                                          // input
	f.Add(byte(1), []byte("\x82\x82\x00\x00\x00\x00\xff\x00\x82\x82\x00\x00\x00\x00\xff\x63"))           // closing channels
	f.Add(byte(2), []byte("\x82\x8d\x00\x00\x00\x00\x04{\"Width\":1e9}"))                                // a size that is none
	f.Add(byte(3), []byte("\x81\x86\x00\x00\x00\x000!!!!!"))                                             // no base64
	f.Add(byte(3), []byte("\x02\xff\x7f\xff\xff\xff\xff\xff\xff\xff\x00\x00\x00\x00"))                   // a frame of 2⁶³ bytes
	s := &streamServer{streamer: streamer{r: &Runtime{log: slog.New(slog.DiscardHandler)}}}
	f.Fuzz(func(t *testing.T, kind byte, frames []byte) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		near, far := socketPair(t)
		defer near.Close()
		defer far.Close()
		w := hangup.Watch(&taken{http.Header{}, far}, cancel)
		r := streamRequest(t, kind).WithContext(ctx)
		done := make(chan struct{})
		go func() {
			defer close(done)
			echo := func(ctx context.Context, port int32, stream io.ReadWriteCloser) error {
				_, _ = io.Copy(stream, stream)
				return ctx.Err()
			}
			switch {
			case kind < 128:
				s.serveCommand(w, r, wants{in: true, out: true, tty: kind >= 64}, func(ctx context.Context, c *channels) error {
					std := c.stdio(ctx, kind >= 64)
					if std.in != nil && std.out != nil {
						_, _ = io.Copy(std.out, std.in)
					}
					return ctx.Err()
				})
			case kind%4 == 0:
				r.Header.Set("X-Stream-Protocol-Version", "portforward.k8s.io")
				_ = forwardSPDY(w, r, echo)
			default:
				r.Header.Set("Sec-Websocket-Protocol", "v4.channel.k8s.io")
				_ = forwardWebSocket(w, r, []int32{80, 81}, echo)
			}
		}()
		go func() { _, _ = io.Copy(io.Discard, near) }()
		_ = near.SetWriteDeadline(time.Now().Add(5 * time.Second))
		_, _ = near.Write(frames)
		_ = near.(*net.UnixConn).CloseWrite()
		select {
		case <-done:
		case <-time.After(20 * time.Second):
			t.Fatalf("kind %d: the stream goes on after its client: %q", kind, frames)
		}
	})
}

// FuzzCgroupFiles reads made-up cgroup files: a number or none, and no others than
// are written there.
func FuzzCgroupFiles(f *testing.F) {
	for _, text := range []string{"max\n", "18446744073709551615\n", "-1", "usage_usec 5\nuser_usec x\n", "1\n2\n\n-3\n", "anon 1\nanon 2\n", "\x00"} {
		f.Add([]byte(text))
	}
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, content []byte) {
		path := filepath.Join(dir, "file")
		must(t, os.WriteFile(path, content, 0o600))
		for _, pid := range readPIDs(path) {
			if pid <= 0 {
				t.Errorf("%q names process %d", content, pid)
			}
		}
		values, err := keyed(path)
		must(t, err)
		for k := range values {
			if !strings.Contains(string(content), k) {
				t.Errorf("%q has %q", content, k)
			}
		}
		if n, err := number(path); err == nil && n != 0 && !strings.Contains(string(content), strconv.FormatUint(n, 10)) {
			t.Errorf("%q is %d", content, n)
		}
	})
}
