package pki

import (
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"sync"
	"time"
)

// FrontProxyName is the common name by which extension API servers know this
// server as the proxy in front of them.
const FrontProxyName = "front-proxy-client"

// OpenFrontProxy reads, or makes, the authority that vouches for the proxy in
// front of extension API servers. It is one of its own: whoever it certifies may
// speak for any user.
func OpenFrontProxy(dir string) (*Authority, error) {
	return openNamed(dir, FrontProxyAuthority)
}

// Identity is a client certificate kept in memory that renews itself at use.
type Identity struct {
	authority *Authority
	subject   pkix.Name

	mu      sync.Mutex
	current *tls.Certificate
}

// Identity returns the client certificate of a user.
func (a *Authority) Identity(user string, groups ...string) *Identity {
	return &Identity{authority: a, subject: pkix.Name{CommonName: user, Organization: groups}}
}

// Certificate is the certificate to show now.
func (i *Identity) Certificate() (*tls.Certificate, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.current != nil && !old(i.current.Leaf, time.Now()) {
		return i.current, nil
	}
	c, err := i.authority.issue(&x509.Certificate{Subject: i.subject, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	if err != nil {
		return nil, err
	}
	i.current = c
	return c, nil
}
