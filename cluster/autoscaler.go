package cluster

import (
	"context"
	"crypto/tls"
	"net/http"
	"time"

	"proa/controllers/autoscaler"
)

// autoscalerUser may read metrics, by the default roles.
const autoscalerUser = "system:serviceaccount:kube-system:horizontal-pod-autoscaler"

// startAutoscaler: metrics come from servers behind the API, so they are read
// through its front like anybody else's.
func (c *Cluster) startAutoscaler() {
	identity := c.authority.Identity(autoscalerUser)
	transport := &http.Transport{
		TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: c.authority.Roots(),
			GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return identity.Certificate() }},
		ForceAttemptHTTP2: true, IdleConnTimeout: time.Minute,
	}
	c.parts.Go("autoscaler", func(ctx context.Context) error {
		defer transport.CloseIdleConnections()
		return autoscaler.Run(ctx, autoscaler.Config{Client: c.Client("system:kube-controller-manager"), Log: c.cfg.Log,
			Metrics: &autoscaler.API{Base: c.url(), HTTP: &http.Client{Transport: transport}}})
	})
}
