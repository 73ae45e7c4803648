package apiserver_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// raw is a TLS connection with nothing on it yet.
func (h *harness) raw(t *testing.T, protos ...string) *tls.Conn {
	t.Helper()
	conn, err := tls.Dial("tcp", h.http.Listener.Addr().String(), &tls.Config{InsecureSkipVerify: true, NextProtos: protos})
	must(t, err)
	t.Cleanup(func() { conn.Close() })
	return conn
}

// well checks that an ordinary client is served, and soon.
func (h *harness) well(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, h.http.URL+"/api/v1/namespaces/default", nil)
	must(t, err)
	r.Header.Set("Authorization", "Bearer root")
	resp, err := h.http.Client().Do(r)
	must(t, err)
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Errorf("an ordinary client: %s", resp.Status)
	}
}

// TestDuplicateKeys has field validation judge them.
func TestDuplicateKeys(t *testing.T) {
	h := start(t)
	body := []byte(`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"x","name":"y"},"data":{}}`)
	post := func(validation string) int {
		return h.call(http.MethodPost, "/api/v1/namespaces/default/configmaps?dryRun=All&fieldValidation="+validation, "application/json", body).Code
	}
	if strict, warn := post("Strict"), post("Warn"); strict != http.StatusBadRequest || warn != http.StatusCreated {
		t.Errorf("Strict %d, Warn %d", strict, warn)
	}
}

// TestSlowBody announces a body and sends a byte of it: other clients are
// served meanwhile, and the connection's end ends the request.
func TestSlowBody(t *testing.T) {
	h := start(t)
	for range 50 {
		conn := h.raw(t, "http/1.1")
		_, err := fmt.Fprint(conn, "POST /api/v1/namespaces/default/configmaps HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer root\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n{")
		must(t, err)
	}
	h.well(t)
}

// TestHugeHeaders sends a header beyond any limit.
func TestHugeHeaders(t *testing.T) {
	h := start(t)
	conn := h.raw(t, "http/1.1")
	_, _ = fmt.Fprintf(conn, "GET /api HTTP/1.1\r\nHost: x\r\nX-A: %s\r\n\r\n", strings.Repeat("a", 2<<20)) // it may hang up half-way
	_ = conn.SetReadDeadline(time.Now().Add(10 * time.Second))
	if resp, err := http.ReadResponse(bufio.NewReader(conn), nil); err == nil && resp.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
		t.Errorf("%s", resp.Status)
	}
	w := h.call(http.MethodGet, "/api/v1/namespaces/default/configmaps?labelSelector="+strings.Repeat("a", 500_000), "", nil)
	if w.Code != http.StatusBadRequest {
		t.Errorf("a URL of half a megabyte: %d", w.Code)
	}
	h.well(t)
}

// TestRapidReset opens and cancels streams as fast as it can (CVE-2023-44487).
func TestRapidReset(t *testing.T) {
	h := start(t)
	before := runtime.NumGoroutine()
	conn := h.raw(t, "h2")
	_, err := io.WriteString(conn, http2.ClientPreface)
	must(t, err)
	fr := http2.NewFramer(conn, conn)
	must(t, fr.WriteSettings())
	go func() { _, _ = io.Copy(io.Discard, conn) }() // ends with the connection
	var block strings.Builder
	enc := hpack.NewEncoder(&block)
	for _, f := range [][2]string{{":method", "GET"}, {":path", "/api/v1/pods?watch=1"}, {":scheme", "https"}, {":authority", "x"}, {"authorization", "Bearer root"}} {
		must(t, enc.WriteField(hpack.HeaderField{Name: f[0], Value: f[1], Sensitive: true}))
	}
	for id := uint32(1); id < 20_000; id += 2 {
		if fr.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: []byte(block.String()), EndHeaders: true, EndStream: true}) != nil ||
			fr.WriteRSTStream(id, http2.ErrCodeCancel) != nil {
			break // the server hung up, which is an answer
		}
		if most := runtime.NumGoroutine() - before; most > 1500 {
			t.Fatalf("%d goroutines serve one connection", most)
		}
	}
	h.well(t)
	conn.Close()
	eventually(t, "end of the streams", func() bool { return runtime.NumGoroutine() < before+50 })
}

// TestIdleWatches opens many watches and lets half of the clients vanish: what
// the rest cost is bounded, and they go on.
func TestIdleWatches(t *testing.T) {
	h := start(t)
	const conns, each = 10, 200
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapInuse + m.StackInuse
	}
	before := heap()
	ctx, vanish := context.WithCancel(t.Context())
	var one *http.Response
	var open []io.Closer
	for i := range conns {
		tr := &http2.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DialTLSContext: func(ctx context.Context, network, addr string, cfg *tls.Config) (net.Conn, error) {
			return (&tls.Dialer{Config: cfg}).DialContext(ctx, network, addr)
		}}
		defer tr.CloseIdleConnections()
		for range each {
			c := t.Context()
			if i%2 == 1 {
				c = ctx
			}
			r, err := http.NewRequestWithContext(c, http.MethodGet, h.http.URL+"/api/v1/namespaces/default/configmaps?watch=1&resourceVersion=0&allowWatchBookmarks=true", nil)
			must(t, err)
			r.Header.Set("Authorization", "Bearer root")
			resp, err := tr.RoundTrip(r)
			must(t, err)
			open = append(open, resp.Body)
			if one == nil {
				one = resp
			}
		}
	}
	if per := int64(heap()-before) / (conns * each); per > 120<<10 {
		t.Errorf("a watch and its client take %d KiB", per>>10)
	}
	vanish()
	h.well(t)
	w := h.call(http.MethodPost, "/api/v1/namespaces/default/configmaps", "application/json", []byte(`{"metadata":{"name":"seen"}}`))
	if w.Code != http.StatusCreated {
		t.Fatal(w.Code)
	}
	line, err := bufio.NewReader(one.Body).ReadString('\n')
	if err != nil || !strings.Contains(line, `"seen"`) {
		t.Errorf("%q, %v", line, err)
	}
	for _, b := range open {
		b.Close()
	}
}

// TestDrain ends watches and fails readyz while ordinary requests go on.
func TestDrain(t *testing.T) {
	h := start(t)
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, h.http.URL+"/api/v1/pods?watch=1", nil)
	must(t, err)
	r.Header.Set("Authorization", "Bearer root")
	resp, err := h.http.Client().Do(r)
	must(t, err)
	defer resp.Body.Close()
	h.Drain()
	ended := make(chan error, 1)
	go func() { _, err := io.Copy(io.Discard, resp.Body); ended <- err }()
	select {
	case err := <-ended:
		must(t, err)
	case <-time.After(10 * time.Second):
		t.Error("the watch goes on")
	}
	if w := h.call(http.MethodGet, "/readyz", "", nil); w.Code != http.StatusInternalServerError {
		t.Errorf("readyz: %d", w.Code)
	}
	h.well(t)
}

// deaf opens watches on one connection and never reads a byte of them.
func (h *harness) deaf(t *testing.T, streams int) {
	t.Helper()
	conn := h.raw(t, "h2")
	_, err := io.WriteString(conn, http2.ClientPreface)
	must(t, err)
	fr := http2.NewFramer(conn, conn)
	must(t, fr.WriteSettings())
	var block strings.Builder
	enc := hpack.NewEncoder(&block)
	for i := range streams {
		block.Reset()
		for _, f := range [][2]string{{":method", "GET"}, {":path", "/api/v1/configmaps?watch=1&allowWatchBookmarks=true"}, {":scheme", "https"}, {":authority", "x"}, {"authorization", "Bearer root"}} {
			must(t, enc.WriteField(hpack.HeaderField{Name: f[0], Value: f[1], Sensitive: true}))
		}
		must(t, fr.WriteHeaders(http2.HeadersFrameParam{StreamID: uint32(2*i + 1), BlockFragment: []byte(block.String()), EndHeaders: true, EndStream: true}))
	}
}

// usual is how long an ordinary request takes: the median of some.
func (h *harness) usual(t *testing.T) time.Duration {
	t.Helper()
	var took []time.Duration
	for range 21 {
		begin := time.Now()
		h.well(t)
		took = append(took, time.Since(begin))
	}
	slices.Sort(took)
	return took[len(took)/2]
}

// TestDeafWatches opens watches that nobody reads and makes them fall behind:
// what they hold is bounded, who reads sees everything, and others wait no longer
// than before.
func TestDeafWatches(t *testing.T) {
	const conns, each, writes = 8, 200, 200
	h := start(t)
	heap := func() int64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapInuse + m.StackInuse)
	}
	undisturbed, before := h.usual(t), heap()
	for range conns {
		h.deaf(t, each)
	}
	eventually(t, "watches", func() bool { return h.watching(t) >= conns*each })
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, h.http.URL+"/api/v1/configmaps?watch=1", nil)
	must(t, err)
	r.Header.Set("Authorization", "Bearer root")
	reader, err := h.http.Client().Do(r)
	must(t, err)
	defer reader.Body.Close()
	text := strings.Repeat("x", 16<<10)
	for i := range writes {
		body := fmt.Appendf(nil, `{"metadata":{"name":"w%d"},"data":{"k":"%s"}}`, i, text)
		if w := h.call(http.MethodPost, "/api/v1/namespaces/default/configmaps", "application/json", body); w.Code != http.StatusCreated {
			t.Fatal(w.Code)
		}
	}
	lines := bufio.NewReaderSize(reader.Body, 1<<20)
	for i := range writes {
		line, err := lines.ReadString('\n')
		if want := fmt.Sprintf(`"name":"w%d"`, i); err != nil || !strings.Contains(line, want) {
			t.Fatalf("event %d: %.200s, %v", i, line, err)
		}
	}
	if d := h.usual(t); d > 20*undisturbed+time.Second {
		t.Errorf("an ordinary request takes %v, undisturbed %v", d, undisturbed)
	}
	if per := (heap() - before) / (conns * each); per > 200<<10 {
		t.Errorf("a watch that nobody reads holds %d kB", per>>10)
	}
}

// watching is the number of open watches, by the metrics.
func (h *harness) watching(t *testing.T) (n int) {
	t.Helper()
	for line := range strings.Lines(h.call(http.MethodGet, "/metrics", "", nil).Body.String()) {
		if strings.HasPrefix(line, "apiserver_longrunning_requests{") && strings.Contains(line, `verb="WATCH"`) {
			value, err := strconv.ParseFloat(strings.TrimSpace(line[strings.LastIndex(line, "}")+1:]), 64)
			must(t, err)
			n += int(value)
		}
	}
	return n
}
