package apiserver

import (
	"bufio"
	"errors"
	"net"
	"net/http"
	"strings"

	"github.com/gorilla/websocket"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/klog/v2"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"
)

// tunnelPrefix begins the WebSocket protocols in whose messages the bytes of a SPDY
// connection travel (KEP-4006).
const tunnelPrefix = spdy.HeaderSpdy31 + "+"

// tunnel has the kubelet speak SPDY within the client's WebSocket.
func tunnel(w http.ResponseWriter, r *http.Request, kubelet http.Handler) {
	inner := r.Clone(r.Context())
	inner.Method, inner.Body = http.MethodPost, http.NoBody
	for _, name := range []string{"Sec-Websocket-Protocol", "Sec-Websocket-Key", "Sec-Websocket-Version", "Sec-Websocket-Extensions", httpstream.HeaderProtocolVersion} {
		inner.Header.Del(name)
	}
	inner.Header.Set(httpstream.HeaderUpgrade, spdy.HeaderSpdy31)
	for _, p := range websocket.Subprotocols(r) {
		if name, ok := strings.CutPrefix(p, tunnelPrefix); ok {
			inner.Header.Add(httpstream.HeaderProtocolVersion, name)
		}
	}
	kubelet.ServeHTTP(&tunnelled{outer: w, r: r, header: http.Header{}}, inner)
}

// tunnelled is the ResponseWriter of a request whose connection is to be a tunnel:
// the client's WebSocket is accepted when the kubelet has switched protocols. Any
// other answer goes to the client as it is.
type tunnelled struct {
	outer    http.ResponseWriter
	r        *http.Request
	header   http.Header
	switched bool
	answered bool
}

func (t *tunnelled) Header() http.Header { return t.header }

func (t *tunnelled) WriteHeader(code int) {
	switch {
	case t.switched, t.answered:
	case code == http.StatusSwitchingProtocols:
		t.switched = true
	default:
		t.answered = true
		for name, values := range t.header {
			t.outer.Header()[name] = values
		}
		t.outer.WriteHeader(code)
	}
}

func (t *tunnelled) Write(p []byte) (int, error) {
	if t.switched {
		return 0, http.ErrHijacked
	}
	t.WriteHeader(http.StatusOK)
	return t.outer.Write(p)
}

// Hijack accepts the WebSocket, by the protocol that the kubelet chose.
func (t *tunnelled) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	if !t.switched {
		return nil, nil, errors.New("the kubelet did not switch protocols")
	}
	upgrader := websocket.Upgrader{
		CheckOrigin:  func(*http.Request) bool { return true }, // who may is settled; browsers have no credentials here
		Subprotocols: []string{tunnelPrefix + t.header.Get(httpstream.HeaderProtocolVersion)},
	}
	ws, err := upgrader.Upgrade(t.outer, t.r, nil)
	if err != nil {
		return nil, nil, err
	}
	conn := portforward.NewTunnelingConnectionWithLogger(klog.FromContext(t.r.Context()), ws)
	return conn, bufio.NewReadWriter(bufio.NewReader(conn), bufio.NewWriter(conn)), nil
}
