package cluster

import (
	"crypto/x509"
	"fmt"
	"os"

	"proa/auth/pki"
	"proa/auth/requestheader"
)

// RequestHeader names further proxies in front of the API, beside this server
// itself, and what their headers are called.
type RequestHeader struct {
	// ClientCAFile holds the authorities of their certificates, in PEM.
	ClientCAFile string
	// AllowedNames are the common names of their certificates; none allows all.
	AllowedNames []string
	// UserHeaders, UIDHeaders, GroupHeaders and ExtraPrefixes default to
	// X-Remote-User, -Uid, -Group and -Extra-.
	UserHeaders, UIDHeaders, GroupHeaders, ExtraPrefixes []string
}

// frontProxies says whose headers are believed, and by which authorities (PEM).
// This server is always among them: servers behind it call back with its word.
func (c *Cluster) frontProxies() (requestheader.Config, []byte, error) {
	h := c.cfg.RequestHeader
	conf := requestheader.Config{UserHeaders: h.UserHeaders, UIDHeaders: h.UIDHeaders, GroupHeaders: h.GroupHeaders,
		ExtraPrefixes: h.ExtraPrefixes, AllowedNames: []string{pki.FrontProxyName}}.Defaults()
	roots, authorities := x509.NewCertPool(), c.frontProxy.PEM()
	if h.ClientCAFile != "" {
		data, err := os.ReadFile(h.ClientCAFile)
		if err != nil {
			return conf, nil, fmt.Errorf("--requestheader-client-ca-file: %w", err)
		}
		if !x509.NewCertPool().AppendCertsFromPEM(data) {
			return conf, nil, fmt.Errorf("--requestheader-client-ca-file: %s holds no certificate", h.ClientCAFile)
		}
		authorities = append(append([]byte{}, authorities...), data...)
		conf.AllowedNames = append(conf.AllowedNames, h.AllowedNames...)
		if len(h.AllowedNames) == 0 {
			conf.AllowedNames = nil
		}
	}
	roots.AppendCertsFromPEM(authorities)
	conf.Roots = func() *x509.CertPool { return roots }
	return conf, authorities, nil
}

// extensionAuthentication is what servers behind this one read of it.
func (c *Cluster) extensionAuthentication(conf requestheader.Config, authorities []byte) map[string]string {
	out := conf.Published(authorities)
	out["client-ca-file"] = string(c.authority.PEM())
	return out
}

// clientAuthorities are named in the TLS handshake, so that clients know which
// certificate to show.
func (c *Cluster) clientAuthorities(authorities []byte) *x509.CertPool {
	pool := c.authority.Roots().Clone()
	pool.AppendCertsFromPEM(authorities)
	return pool
}
