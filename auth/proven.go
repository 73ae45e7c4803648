package auth

import (
	"crypto/sha256"
	"crypto/x509"
	"sync"
	"time"
)

// proven remembers which leaf certificates led to which roots, since checking the
// signatures costs more than the rest of a request. It holds no secret and no
// decision: who a certificate is, it says itself.
var proven = provenLeaves{until: map[provenLeaf]time.Time{}}

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

type provenLeaves struct {
	mu    sync.Mutex
	until map[provenLeaf]time.Time
}

func (p *provenLeaves) has(leaf *x509.Certificate, roots *x509.CertPool, now time.Time) bool {
	key := provenLeaf{sha256.Sum256(leaf.Raw), roots}
	p.mu.Lock()
	defer p.mu.Unlock()
	return now.Before(p.until[key])
}

func (p *provenLeaves) add(leaf *x509.Certificate, roots *x509.CertPool, now time.Time) {
	key, until := provenLeaf{sha256.Sum256(leaf.Raw), roots}, now.Add(provenFor)
	if leaf.NotAfter.Before(until) {
		until = leaf.NotAfter
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.until) >= provenMost {
		clear(p.until)
	}
	p.until[key] = until
}
