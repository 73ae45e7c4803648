package cluster

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"time"

	"proa/auth"
	"proa/doctor"
	"proa/kubelet"
)

// startKubeletPort serves the kubelet to who comes over the network: metrics
// scrapers, and tools that speak to nodes. The API itself reaches it in process.
func (c *Cluster) startKubeletPort(_ context.Context, n *node) error {
	l, err := net.Listen("tcp", net.JoinHostPort(c.cfg.BindAddress, strconv.Itoa(doctor.KubeletPort)))
	if err != nil {
		return fmt.Errorf("kubelet: %w", err)
	}
	cert := c.authority.Serving(auth.NodeUserPrefix+c.cfg.NodeName, c.nodeNames)
	who := auth.Authenticators{auth.ClientCertificates{Roots: c.authority.Roots}, auth.BearerTokens{Tokens: c.reviewer}}
	srv := &http.Server{
		Handler: kubelet.Guard(n.kubelet.Handler(), c.cfg.NodeName, who, c.authorizer),
		TLSConfig: &tls.Config{
			MinVersion: tls.VersionTLS12, GetCertificate: cert.GetCertificate,
			ClientAuth: tls.RequestClientCert, ClientCAs: c.authority.Roots(), NextProtos: []string{"h2", "http/1.1"},
		},
		ErrorLog:          slog.NewLogLogger(c.cfg.Log.Handler(), slog.LevelDebug),
		ReadHeaderTimeout: 30 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 1 << 20,
	}
	c.parts.Go("kubelet port", func(ctx context.Context) error {
		return serveUntil(ctx, srv, func() error { return srv.ServeTLS(l, "", "") })
	})
	return nil
}

// nodeNames are the hosts that the kubelet's certificate is good for.
func (c *Cluster) nodeNames() []string {
	out := []string{c.cfg.NodeName, "localhost", "127.0.0.1"}
	for _, a := range c.addresses {
		out = append(out, a.String())
	}
	return unique(out)
}
