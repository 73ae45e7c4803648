package apiserver

import (
	"bufio"
	"net"
	"net/http"

	"k8s.io/streaming/pkg/httpstream/wsstream"

	"proa/internal/hangup"
)

// upgrade passes exec, attach and port-forward on. Kubelets here speak what clients
// do, WebSocket in all its protocols and SPDY, but for SPDY within WebSockets
// (KEP-4006), which ends here.
func upgrade(w http.ResponseWriter, r *http.Request, kubelet http.Handler) {
	if wsstream.IsWebSocketRequestWithTunnelingProtocol(r) {
		tunnel(w, r, kubelet)
		return
	}
	kubelet.ServeHTTP(w, r)
}

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
