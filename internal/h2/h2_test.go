package h2

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// serve starts a server, and returns it with a client that speaks HTTP/2 only.
func serve(t *testing.T, handler http.HandlerFunc, change ...func(*http.Server)) (*httptest.Server, *http.Client) {
	t.Helper()
	srv := httptest.NewUnstartedServer(handler)
	srv.EnableHTTP2, srv.Listener = true, Gather(srv.Listener)
	srv.Config.ErrorLog = log.New(io.Discard, "", 0)
	for _, f := range change {
		f(srv.Config)
	}
	Configure(srv.Config)
	srv.StartTLS()
	t.Cleanup(srv.Close)
	return srv, client(t, srv)
}

func client(t *testing.T, srv *httptest.Server) *http.Client {
	t.Helper()
	tr := srv.Client().Transport.(*http.Transport).Clone()
	tr.ForceAttemptHTTP2 = true
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, resp *http.Response, err error) string {
	t.Helper()
	must(t, err)
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	must(t, err)
	if resp.ProtoMajor != 2 {
		t.Errorf("%s", resp.Proto)
	}
	return string(data)
}

// TestExchange compares what a handler and a client see with net/http's own server.
func TestExchange(t *testing.T) {
	handler := func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		w.Header().Set("X-Seen", fmt.Sprint(r.Method, " ", r.URL, " ", r.RequestURI, " ", r.ContentLength, " ", r.Header["Cookie"], r.Header["X-Two"], r.Trailer, r.TLS != nil, r.Proto))
		w.Header().Add("Warning", "one")
		w.Header().Add("Warning", "two")
		switch r.URL.Path {
		case "/empty":
		case "/none":
			w.WriteHeader(http.StatusNoContent)
		case "/large":
			_, _ = w.Write(bytes.Repeat([]byte("0123456789abcdef"), 1<<14))
		case "/flushed":
			w.(http.Flusher).Flush()
			_, _ = io.WriteString(w, "later")
		case "/trailer":
			w.Header().Set("Trailer", "X-After")
			_, _ = w.Write(body)
			w.Header().Set("X-After", "all")
			w.Header().Set(http.TrailerPrefix+"X-More", "of it")
		default:
			w.WriteHeader(http.StatusCreated)
			w.Header().Set("X-Late", "not sent")
			_, _ = w.Write(body)
		}
	}
	own, _ := serve(t, handler)
	theirs := httptest.NewUnstartedServer(http.HandlerFunc(handler))
	theirs.EnableHTTP2 = true
	theirs.StartTLS()
	defer theirs.Close()
	clients := []*http.Client{client(t, own), client(t, theirs)}
	for _, method := range []string{"GET", "HEAD", "POST", "PUT"} {
		for _, path := range []string{"/", "/empty?a=b%20c", "/none", "/large", "/flushed", "/trailer"} {
			for _, size := range []int{0, 10, 300_000} {
				var seen [2]string
				for i, srv := range []*httptest.Server{own, theirs} {
					seen[i] = exchange(t, clients[i], method, srv.URL+path, size)
				}
				if seen[0] != seen[1] {
					t.Errorf("%s %s with %d bytes:\n%s\nnet/http:\n%s", method, path, size, seen[0], seen[1])
				}
			}
		}
	}
}

func exchange(t *testing.T, client *http.Client, method, url string, size int) string {
	t.Helper()
	var body io.Reader
	if size > 0 && method != "GET" && method != "HEAD" {
		body = strings.NewReader(strings.Repeat("x", size))
	}
	r, err := http.NewRequestWithContext(t.Context(), method, url, body)
	must(t, err)
	r.Header.Set("Cookie", "a=1; b=2")
	r.Header["X-Two"] = []string{"1", "2"}
	if method == http.MethodPut {
		r.Header.Set("Expect", "100-continue")
	}
	resp, err := client.Do(r)
	must(t, err)
	data := read(t, resp, nil)
	resp.Header.Del("Date")
	return fmt.Sprintf("%d %d %v %v %d bytes %.20q", resp.StatusCode, resp.ContentLength, resp.Header, resp.Trailer, len(data), data)
}

// TestMany has many requests with bodies in both directions at once on one
// connection: each gets its own.
func TestMany(t *testing.T) {
	srv, client := serve(t, func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(w, r.Body) })
	var wg sync.WaitGroup
	for i := range 100 {
		wg.Go(func() {
			text := strings.Repeat(fmt.Sprintf("%d,", i), 1+i*1000)
			resp, err := client.Post(srv.URL, "text/plain", strings.NewReader(text))
			if err != nil {
				t.Error(err)
				return
			}
			defer resp.Body.Close()
			if got, err := io.ReadAll(resp.Body); err != nil || string(got) != text {
				t.Errorf("%d: %d bytes of %d, %v", i, len(got), len(text), err)
			}
		})
	}
	wg.Wait()
}

// eventually waits for something to be so.
func eventually(t *testing.T, what string, so func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !so(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("no %s", what)
		}
	}
}

// TestCancel: who gives up ends the request's context, the reading of its body and
// its writing.
func TestCancel(t *testing.T) {
	began, ended := make(chan bool, 1), make(chan error, 3)
	srv, _ := serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.(http.Flusher).Flush()
		began <- true
		<-r.Context().Done()
		ended <- r.Context().Err()
		_, err := r.Body.Read(make([]byte, 1))
		ended <- err
		_, err = w.Write(make([]byte, 2*held))
		ended <- err
	})
	p := dial(t, srv)
	p.post(1)
	<-began
	must(t, p.WriteRSTStream(1, http2.ErrCodeCancel))
	for range 3 {
		if err := <-ended; err == nil || err == io.EOF {
			t.Errorf("%v", err)
		}
	}
}

// TestDeadlines: a body that does not come and an answer that is not taken end at
// the handler's deadlines, and only they do.
func TestDeadlines(t *testing.T) {
	ended := make(chan error, 1)
	srv, client := serve(t, func(w http.ResponseWriter, r *http.Request) {
		ctl := http.NewResponseController(w)
		if r.URL.Path == "/read" {
			_ = ctl.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
			_, err := io.ReadAll(r.Body)
			ended <- err
			return
		}
		_ = ctl.Flush() // the client has an answer before it is cut off
		_ = ctl.SetWriteDeadline(time.Now().Add(time.Hour))
		_ = ctl.SetWriteDeadline(time.Time{})
		_ = ctl.SetWriteDeadline(time.Now().Add(10 * time.Millisecond))
		for {
			if _, err := w.Write(make([]byte, 1<<20)); err != nil {
				ended <- err
				return
			}
		}
	})
	never, w := io.Pipe()
	defer w.Close()
	resp, err := client.Post(srv.URL+"/read", "", never)
	must(t, err)
	resp.Body.Close()
	if err := <-ended; !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("reading: %v", err)
	}
	resp, err = client.Get(srv.URL + "/write")
	must(t, err)
	defer resp.Body.Close()
	if err := <-ended; !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("writing: %v", err)
	}
	if _, err := io.Copy(io.Discard, resp.Body); err == nil {
		t.Error("an answer that was cut off looks whole")
	}
}

// TestBroken: of a handler that panics, or that says less than it announced, the
// client hears an error; others on the connection go on.
func TestBroken(t *testing.T) {
	srv, client := serve(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/panic":
			_, _ = w.Write(make([]byte, 2*held))
			panic("on purpose")
		case "/abort":
			panic(http.ErrAbortHandler)
		case "/short":
			w.Header().Set("Content-Length", "10")
			_, _ = io.WriteString(w, "four")
		case "/long":
			w.Header().Set("Content-Length", "4")
			if _, err := io.WriteString(w, "four and more"); !errors.Is(err, http.ErrContentLength) {
				t.Errorf("more than was announced: %v", err)
			}
		}
	})
	for _, path := range []string{"/panic", "/abort", "/short", "/long"} {
		resp, err := client.Get(srv.URL + path)
		if err == nil {
			_, err = io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
		}
		if err == nil {
			t.Errorf("%s looks whole", path)
		}
		resp, err = client.Get(srv.URL + "/")
		read(t, resp, err)
	}
}

// TestEvents: each flush arrives by itself, in order, on many streams at once.
func TestEvents(t *testing.T) {
	const streams, events = 50, 40
	var turn [events]chan struct{}
	for i := range turn {
		turn[i] = make(chan struct{})
	}
	srv, client := serve(t, func(w http.ResponseWriter, r *http.Request) {
		for i := range events {
			<-turn[i]
			fmt.Fprintf(w, "event %d\n", i)
			w.(http.Flusher).Flush()
		}
	})
	var seen [events]atomic.Int64
	var wg sync.WaitGroup
	for range streams {
		wg.Go(func() {
			resp, err := client.Get(srv.URL)
			if err != nil {
				t.Error(err)
				return
			}
			defer resp.Body.Close()
			for i := range events {
				var n int
				if _, err := fmt.Fscanf(resp.Body, "event %d\n", &n); err != nil || n != i {
					t.Errorf("event %d: %d, %v", i, n, err)
					return
				}
				seen[i].Add(1)
			}
		})
	}
	for i := range events {
		close(turn[i])
		eventually(t, fmt.Sprint("event ", i), func() bool { return seen[i].Load() == streams || t.Failed() })
	}
	wg.Wait()
}

// TestShutdown: requests under way end by themselves, then the connection does.
func TestShutdown(t *testing.T) {
	began, let := make(chan bool, 1), make(chan bool)
	srv, client := serve(t, func(w http.ResponseWriter, r *http.Request) {
		began <- true
		<-let
		_, _ = io.WriteString(w, "done")
	})
	got := make(chan string, 1)
	go func() {
		resp, err := client.Get(srv.URL)
		if err != nil {
			got <- err.Error()
			return
		}
		defer resp.Body.Close()
		data, _ := io.ReadAll(resp.Body)
		got <- string(data)
	}()
	<-began
	down := make(chan error, 1)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	go func() { down <- srv.Config.Shutdown(ctx) }()
	eventually(t, "end of taking requests", func() bool {
		conn, err := net.Dial("tcp", srv.Listener.Addr().String())
		if err == nil {
			conn.Close()
		}
		return err != nil
	})
	close(let)
	if text := <-got; text != "done" {
		t.Errorf("%q", text)
	}
	must(t, <-down)
}

// TestIdle: a connection without requests is closed after the idle time, and its
// goroutines go with it.
func TestIdle(t *testing.T) {
	before := runtime.NumGoroutine()
	srv, _ := serve(t, func(http.ResponseWriter, *http.Request) {}, func(s *http.Server) { s.IdleTimeout = 50 * time.Millisecond })
	p := dial(t, srv)
	p.get(1, "/")
	for {
		f, err := p.ReadFrame()
		if err != nil {
			t.Fatalf("no farewell: %v", err)
		}
		if g, ok := f.(*http2.GoAwayFrame); ok {
			if g.ErrCode != http2.ErrCodeNo {
				t.Errorf("%v", g.ErrCode)
			}
			break
		}
	}
	p.conn.Close()
	srv.Close()
	eventually(t, "end of the goroutines", func() bool { return runtime.NumGoroutine() <= before })
}

// peer is a client that says what it likes.
type peer struct {
	*http2.Framer
	t     *testing.T
	conn  *tls.Conn
	block bytes.Buffer
	enc   *hpack.Encoder
}

func dial(t *testing.T, srv *httptest.Server, settings ...http2.Setting) *peer {
	t.Helper()
	conn, err := tls.Dial("tcp", srv.Listener.Addr().String(), &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}})
	must(t, err)
	t.Cleanup(func() { conn.Close() })
	must(t, conn.SetDeadline(time.Now().Add(30*time.Second)))
	p := &peer{Framer: http2.NewFramer(conn, conn), t: t, conn: conn}
	p.ReadMetaHeaders, p.AllowIllegalWrites = hpack.NewDecoder(4096, nil), true
	p.enc = hpack.NewEncoder(&p.block)
	_, err = io.WriteString(conn, http2.ClientPreface)
	must(t, err)
	must(t, p.WriteSettings(settings...))
	return p
}

func (p *peer) headers(id uint32, end bool, fields ...string) {
	p.block.Reset()
	for i := 0; i < len(fields); i += 2 {
		must(p.t, p.enc.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]}))
	}
	_ = p.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: p.block.Bytes(), EndHeaders: true, EndStream: end}) // it may be cut off
}

func (p *peer) get(id uint32, path string) {
	p.headers(id, true, ":method", "GET", ":path", path, ":scheme", "https", ":authority", "x")
}

func (p *peer) post(id uint32, more ...string) {
	p.headers(id, false, append([]string{":method", "POST", ":path", "/", ":scheme", "https", ":authority", "x"}, more...)...)
}

// answer is what comes of a stream: its status, the code of a reset or a farewell.
func (p *peer) answer(id uint32) string {
	for {
		f, err := p.ReadFrame()
		switch f := f.(type) {
		case nil:
			return fmt.Sprint("gone: ", err)
		case *http2.MetaHeadersFrame:
			if f.StreamID == id {
				return f.PseudoValue("status")
			}
		case *http2.RSTStreamFrame:
			if f.StreamID == id {
				return f.ErrCode.String()
			}
		case *http2.GoAwayFrame:
			return "farewell " + f.ErrCode.String()
		}
	}
}

// TestRules: what breaks the protocol's rules ends the stream or the connection
// with the code that RFC 9113 has for it, and hurts nobody else.
func TestRules(t *testing.T) {
	srv, client := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			panic(http.ErrAbortHandler)
		}
	}, func(s *http.Server) { s.MaxHeaderBytes = 10_000 })
	big := strings.Repeat("x", 1000)
	for name, c := range map[string]struct {
		do   func(p *peer)
		want string
	}{
		"an ordinary request":   {func(p *peer) { p.get(1, "/") }, "200"},
		"no path":               {func(p *peer) { p.headers(1, true, ":method", "GET", ":scheme", "https") }, "PROTOCOL_ERROR"},
		"no method":             {func(p *peer) { p.headers(1, true, ":path", "/", ":scheme", "https") }, "PROTOCOL_ERROR"},
		"two paths":             {func(p *peer) { p.headers(1, true, ":path", "/", ":path", "/", ":method", "GET") }, "PROTOCOL_ERROR"},
		"a header of HTTP/1":    {func(p *peer) { p.post(1, "connection", "close") }, "PROTOCOL_ERROR"},
		"capital letters":       {func(p *peer) { p.post(1, "X-A", "b") }, "PROTOCOL_ERROR"},
		"too many headers":      {func(p *peer) { p.post(1, slices.Repeat([]string{"a", big}, 11)...) }, "431"},
		"an even number":        {func(p *peer) { p.get(2, "/") }, "farewell PROTOCOL_ERROR"},
		"a number that was":     {func(p *peer) { p.get(3, "/"); p.get(1, "/") }, "STREAM_CLOSED"},
		"data of no stream":     {func(p *peer) { _ = p.WriteData(1, true, []byte("x")) }, "farewell PROTOCOL_ERROR"},
		"a reset of no stream":  {func(p *peer) { _ = p.WriteRSTStream(1, http2.ErrCodeCancel) }, "farewell PROTOCOL_ERROR"},
		"a window of no stream": {func(p *peer) { _ = p.WriteWindowUpdate(1, 1) }, "farewell PROTOCOL_ERROR"},
		"a window of nothing":   {func(p *peer) { p.post(1); _ = p.WriteWindowUpdate(1, 0) }, "PROTOCOL_ERROR"},
		"a window too large":    {func(p *peer) { p.post(1); _ = p.WriteWindowUpdate(1, 1<<31-1) }, "FLOW_CONTROL_ERROR"},
		"all windows too large": {func(p *peer) { _ = p.WriteWindowUpdate(0, 1<<31-1) }, "farewell FLOW_CONTROL_ERROR"},
		"more than announced":   {func(p *peer) { p.post(1, "content-length", "1"); _ = p.WriteData(1, true, []byte("xy")) }, "PROTOCOL_ERROR"},
		"less than announced":   {func(p *peer) { p.post(1, "content-length", "3"); _ = p.WriteData(1, true, []byte("xy")) }, "PROTOCOL_ERROR"},
		"two lengths":           {func(p *peer) { p.post(1, "content-length", "3", "content-length", "4") }, "PROTOCOL_ERROR"},
		"a length and no body": {func(p *peer) {
			p.headers(1, true, ":method", "PUT", ":path", "/", ":scheme", "https", "content-length", "3")
		}, "PROTOCOL_ERROR"},
		"trailers that go on":    {func(p *peer) { p.post(1); p.headers(1, false, "a", "b") }, "PROTOCOL_ERROR"},
		"trailers of the method": {func(p *peer) { p.post(1); p.headers(1, true, ":method", "GET") }, "PROTOCOL_ERROR"},
		"good trailers":          {func(p *peer) { p.post(1); p.headers(1, true, "a", "b") }, "200"},
		"frames too large":       {func(p *peer) { p.post(1); _ = p.WriteData(1, false, make([]byte, readFrame+1)) }, "farewell FRAME_SIZE_ERROR"},
		"a push": {func(p *peer) {
			_ = p.WritePushPromise(http2.PushPromiseParam{StreamID: 1, PromiseID: 2, EndHeaders: true})
		}, "farewell PROTOCOL_ERROR"},
		"settings without sense": {func(p *peer) { _ = p.WriteSettings(http2.Setting{ID: http2.SettingMaxFrameSize, Val: 1}) }, "farewell PROTOCOL_ERROR"},
		"endless headers": {func(p *peer) {
			_ = p.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: []byte{0x82}})
			for p.WriteContinuation(1, false, make([]byte, 16<<10)) == nil {
			}
		}, "farewell PROTOCOL_ERROR"},
	} {
		p := dial(t, srv)
		must(t, p.conn.SetDeadline(time.Now().Add(60*time.Second)))
		c.do(p)
		if got := p.answer(1); got != c.want && !(strings.HasPrefix(c.want, "farewell") && strings.HasPrefix(got, "gone")) {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
		p.conn.Close()
	}
	resp, err := client.Get(srv.URL)
	read(t, resp, err)
}

// TestWindows: nothing is sent beyond the client's windows, of the stream and of the
// connection, and all once they grow.
func TestWindows(t *testing.T) {
	const size = 300_000
	srv, _ := serve(t, func(w http.ResponseWriter, r *http.Request) { _, _ = w.Write(make([]byte, size)) })
	p := dial(t, srv, http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1000})
	p.get(1, "/")
	p.get(3, "/")
	got, ended, window := map[uint32]int{}, 0, 2000
	for ended < 2 {
		f, err := p.ReadFrame()
		must(t, err)
		switch f := f.(type) {
		case *http2.DataFrame:
			got[f.StreamID] += len(f.Data())
			if got[1]+got[3] > window {
				t.Fatalf("%d bytes within a window of %d", got[1]+got[3], window)
			}
			if f.StreamEnded() {
				ended++
			}
			if got[1]+got[3] == window && window == 2000 {
				window = 65535
				must(t, p.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: size}))
			} else if got[1]+got[3] == window {
				window = 2 * size
				must(t, p.WriteWindowUpdate(0, 2*size))
			}
		case *http2.RSTStreamFrame, *http2.GoAwayFrame:
			t.Fatalf("%v", f)
		}
	}
	if got[1] != size || got[3] != size {
		t.Errorf("%v", got)
	}
}

// TestDeaf: a client that reads nothing holds no more than its share, and is cut
// off; what it provokes is bounded, too.
func TestDeaf(t *testing.T) {
	var running, wrote atomic.Int64
	srv, client := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/flood" {
			return
		}
		running.Add(1)
		defer running.Add(-1)
		for {
			n, err := w.Write(make([]byte, 64<<10))
			if err != nil {
				return
			}
			wrote.Add(int64(n))
		}
	}, func(s *http.Server) { s.HTTP2 = &http.HTTP2Config{WriteByteTimeout: 200 * time.Millisecond} })
	p := dial(t, srv, http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1<<31 - 1})
	must(t, p.WriteWindowUpdate(0, 1<<30))
	for id := uint32(1); id < 100; id += 2 {
		p.get(id, "/flood")
	}
	eventually(t, "handlers", func() bool { return wrote.Load() > 0 })
	eventually(t, "end of the handlers", func() bool { return running.Load() == 0 })
	if n := wrote.Load(); n > 64<<20 { // the kernel's buffers on both sides among it
		t.Errorf("%d bytes for a client that reads nothing", n)
	}
	pings := dial(t, srv)
	many := bytes.Repeat([]byte{0, 0, 8, byte(http2.FramePing), 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8}, 1000)
	for err := error(nil); err == nil; _, err = pings.conn.Write(many) {
	}
	resp, err := client.Get(srv.URL)
	read(t, resp, err)
}

// TestTooMany: streams beyond the limit are refused so that a client tries again,
// and streams that were reset count while their handlers run.
func TestTooMany(t *testing.T) {
	let := make(chan struct{})
	var running atomic.Int64
	srv, _ := serve(t, func(w http.ResponseWriter, r *http.Request) {
		running.Add(1)
		defer running.Add(-1)
		<-let
	}, func(s *http.Server) { s.HTTP2 = &http.HTTP2Config{MaxConcurrentStreams: 3} })
	p := dial(t, srv)
	for _, id := range []uint32{1, 3, 5, 7, 9, 11} {
		p.get(id, "/")
		must(t, p.WriteRSTStream(id, http2.ErrCodeCancel))
	}
	p.get(13, "/")
	if got := p.answer(13); got != "REFUSED_STREAM" {
		t.Errorf("%s", got)
	}
	if n := running.Load(); n > 6 {
		t.Errorf("%d handlers", n)
	}
	close(let)
	eventually(t, "end of the handlers", func() bool { return running.Load() == 0 })
	for id := uint32(15); ; id += 2 { // the last of them may still be returning
		p.get(id, "/")
		if got := p.answer(id); got == "200" {
			return
		} else if got != "REFUSED_STREAM" {
			t.Fatal(got)
		}
	}
}
