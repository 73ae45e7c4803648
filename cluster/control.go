package cluster

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"os"
	"time"

	"proa/control"
)

// startControl opens the socket for the commands of this machine.
func (c *Cluster) startControl(context.Context) error {
	l, err := control.Listen(c.cfg.RunDir)
	if err != nil {
		return err
	}
	srv := &http.Server{Handler: c.controlHandler(), ReadHeaderTimeout: 10 * time.Second,
		ErrorLog: slog.NewLogLogger(c.cfg.Log.Handler(), slog.LevelDebug)}
	c.parts.Go("control socket", func(ctx context.Context) error {
		return serveUntil(ctx, srv, func() error { return srv.Serve(l) })
	})
	c.instance = control.Instance{DataDir: c.cfg.DataDir, RunDir: c.cfg.RunDir, Kubeconfig: c.cfg.Kubeconfig,
		Server: c.url(), PID: os.Getpid(), Started: c.started}
	if !c.cfg.NoNode {
		c.instance.Node = c.cfg.NodeName
	}
	leave, err := c.instance.Enter()
	if err != nil {
		return err
	}
	c.parts.Closer("register of instances", func() error { leave(); return nil })
	return nil
}

func (c *Cluster) controlHandler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, _ *http.Request) { answer(w, c.instance) })
	mux.HandleFunc("POST /stop", c.handleStop)
	mux.HandleFunc("GET /snapshot", c.handleSnapshot)
	mux.HandleFunc("POST /secrets/rotate-key", c.handleRotate)
	mux.HandleFunc("POST /secrets/rewrite", c.handleRewrite)
	if n := c.node.Load(); n != nil {
		control.ServeImages(mux, n.images)
	}
	return mux
}

func (c *Cluster) handleStop(w http.ResponseWriter, r *http.Request) {
	select {
	case c.stop <- stopRequest{pods: r.URL.Query().Get("pods") == "true"}:
		answer(w, c.instance)
	default:
		http.Error(w, "it is stopping already", http.StatusConflict)
	}
}

func answer(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v) // it fails when the client is gone
}
