package auth

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"sync"
	"time"
)

// proven remembers which leaf certificates led to which roots, since checking the
// signatures costs more than the rest of a request. It holds no secret and no
// decision: who a certificate is, it says itself.
var proven = provenLeaves{known: map[provenLeaf]proof{}}

const (
	// provenFor bounds how long a chain is believed without being looked at.
	provenFor = 10 * time.Minute
	// provenMost bounds the memory; beyond it everything is checked anew.
	provenMost = 1024
)

type provenLeaf struct {
	sum   [sha256.Size]byte
	roots *x509.CertPool
}

// proof is whom a certificate names, and until when it is believed.
type proof struct {
	user  User
	until time.Time
}

type provenLeaves struct {
	mu    sync.Mutex
	known map[provenLeaf]proof
}

// user is whom a proven certificate names. Users are shared and not changed.
func (p *provenLeaves) user(leaf *x509.Certificate, roots *x509.CertPool, now time.Time) (User, bool) {
	key := provenLeaf{sha256.Sum256(leaf.Raw), roots}
	p.mu.Lock()
	defer p.mu.Unlock()
	who, ok := p.known[key]
	return who.user, ok && now.Before(who.until)
}

// add remembers a verified certificate and returns whom it names. The common name
// is the user, organisations are the groups; the extra says which credential it
// was, as upstream does.
func (p *provenLeaves) add(leaf *x509.Certificate, roots *x509.CertPool, now time.Time) User {
	key, until := provenLeaf{sha256.Sum256(leaf.Raw), roots}, now.Add(provenFor)
	if leaf.NotAfter.Before(until) {
		until = leaf.NotAfter
	}
	u := User{Name: leaf.Subject.CommonName, Groups: leaf.Subject.Organization,
		Extra: map[string][]string{ExtraCredentialID: {"X509SHA256=" + hex.EncodeToString(key.sum[:])}}}
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.known) >= provenMost {
		clear(p.known)
	}
	p.known[key] = proof{u, until}
	return u
}
