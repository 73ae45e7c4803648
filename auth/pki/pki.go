// Package pki holds a cluster's certificates: one authority, the serving and
// client certificates it signs, and the key that signs service account tokens.
//
// It promises that nothing expires while the program runs or is at rest: leaf
// certificates are made in memory when first needed and made anew when a third
// of their life is left; only the authority and the token key are kept, in
// files that only root can read, written whole or not at all.
package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"proa/internal/atomicfile"
)

const (
	authorityLife = 10 * 365 * 24 * time.Hour
	leafLife      = 365 * 24 * time.Hour
	// skew lets a certificate be used by a machine whose clock is behind.
	skew = 10 * time.Minute
)

// Authority signs a cluster's certificates.
type Authority struct {
	name string // of its files
	id   string
	cert *x509.Certificate
	key  crypto.Signer
	// pem and trusted are the certificate and, while a rotation is not finished,
	// that of the authority before.
	pem     []byte
	trusted []*x509.Certificate
	// chain leads from what it signs to the authority before.
	chain  [][]byte
	roots  *x509.CertPool
	tokens []*ecdsa.PrivateKey
}

// Open reads the authority in dir, or makes one where there is none. A half
// written or unreadable one is an error that names the file: making another
// would lock out every client there is.
func Open(dir string) (*Authority, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	a, err := openNamed(dir, ClusterAuthority)
	if err != nil {
		return nil, err
	}
	if a.tokens, err = keys(filepath.Join(dir, TokenKeys+".key")); err != nil {
		return nil, err
	}
	return a, a.readID(dir)
}

// openNamed reads, or makes, the authority whose files have that name.
func openNamed(dir, name string) (*Authority, error) {
	a := &Authority{name: name, roots: x509.NewCertPool()}
	k, err := keys(filepath.Join(dir, name+".key"))
	if err != nil {
		return nil, err
	}
	a.key = k[0]
	file := filepath.Join(dir, name+".crt")
	if _, err := os.Stat(file); errors.Is(err, fs.ErrNotExist) {
		own, err := a.selfSign(subjects[name])
		if err == nil {
			err = atomicfile.Write(file, own, 0o644)
		}
		if err != nil {
			return nil, err
		}
	}
	return a, a.read(dir)
}

// subjects are the common names of new authorities.
var subjects = map[string]string{ClusterAuthority: "proa-ca", FrontProxyAuthority: "front-proxy-ca"}

// read reads the authority's certificate: among those of the file, the one that
// belongs to the key.
func (a *Authority) read(dir string) (err error) {
	file := filepath.Join(dir, a.name+".crt")
	if a.pem, err = os.ReadFile(file); err != nil {
		return err
	}
	if a.trusted, err = parseAll(a.pem); err != nil {
		return fmt.Errorf("%s: %w; restore it from a backup", file, err)
	}
	for _, c := range a.trusted {
		a.roots.AddCert(c)
		if pub, ok := c.PublicKey.(*ecdsa.PublicKey); ok && pub.Equal(a.key.Public()) {
			a.cert = c
		}
	}
	if a.cert == nil {
		return fmt.Errorf("%s does not belong to the key beside it; restore both from a backup", file)
	}
	return a.readCross(crossFile(dir, a.name))
}

// PEM is the authority's certificate, and that of the one before it while a
// rotation is not finished.
func (a *Authority) PEM() []byte { return a.pem }

// Roots is the pool that clients and servers trust.
func (a *Authority) Roots() *x509.CertPool { return a.roots }

// TokenKeys are those of service account tokens: the first signs, all are good.
func (a *Authority) TokenKeys() []*ecdsa.PrivateKey { return a.tokens }

// Client makes a client certificate for a user, in PEM.
func (a *Authority) Client(user string, groups ...string) (certPEM, keyPEM []byte, err error) {
	c, err := a.issue(&x509.Certificate{
		Subject:     pkix.Name{CommonName: user, Organization: groups},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	if err != nil {
		return nil, nil, err
	}
	der, err := x509.MarshalECPrivateKey(c.PrivateKey.(*ecdsa.PrivateKey))
	if err != nil {
		return nil, nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Certificate[0]}),
		pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}), nil
}

// NeedsRenewal tells whether a leaf certificate in PEM is unreadable, was
// signed by another authority or has less than a third of its life left.
func (a *Authority) NeedsRenewal(certPEM []byte, now time.Time) bool {
	c, err := parse(certPEM)
	return err != nil || c.CheckSignatureFrom(a.cert) != nil || old(c, now)
}

func old(c *x509.Certificate, now time.Time) bool {
	return now.After(c.NotAfter.Add(-leafLife / 3))
}

// Server is a serving certificate that renews itself in the handshake.
type Server struct {
	authority *Authority
	name      string
	hosts     func() []string

	mu        sync.Mutex
	current   *tls.Certificate
	hostsThen []string
}

// Serving returns the certificate of a server with the common name, good for
// the DNS names and IP addresses that hosts returns; when those change, so does
// the certificate.
func (a *Authority) Serving(name string, hosts func() []string) *Server {
	return &Server{authority: a, name: name, hosts: hosts}
}

// GetCertificate is for tls.Config.
func (s *Server) GetCertificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	hosts := s.hosts()
	if s.current != nil && slices.Equal(hosts, s.hostsThen) && !old(s.current.Leaf, time.Now()) {
		return s.current, nil
	}
	template := &x509.Certificate{
		Subject:     pkix.Name{CommonName: s.name},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	for _, h := range hosts {
		if ip := net.ParseIP(h); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, h)
		}
	}
	c, err := s.authority.issue(template)
	if err != nil {
		return nil, err
	}
	s.current, s.hostsThen = c, slices.Clone(hosts)
	return c, nil
}

func (a *Authority) issue(t *x509.Certificate) (*tls.Certificate, error) {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	t.NotBefore, t.NotAfter = now.Add(-skew), now.Add(leafLife)
	if t.NotAfter.After(a.cert.NotAfter) {
		t.NotAfter = a.cert.NotAfter
	}
	t.KeyUsage = x509.KeyUsageDigitalSignature
	t.BasicConstraintsValid = true
	if t.SerialNumber, err = serial(); err != nil {
		return nil, err
	}
	der, err := x509.CreateCertificate(rand.Reader, t, a.cert, k.Public(), a.key)
	if err != nil {
		return nil, err
	}
	leaf, err := x509.ParseCertificate(der)
	return &tls.Certificate{Certificate: append([][]byte{der}, a.chain...), PrivateKey: k, Leaf: leaf}, err
}

func (a *Authority) selfSign(name string) ([]byte, error) {
	n, err := serial()
	if err != nil {
		return nil, err
	}
	now := time.Now()
	t := &x509.Certificate{
		SerialNumber: n, Subject: pkix.Name{CommonName: name},
		NotBefore: now.Add(-skew), NotAfter: now.Add(authorityLife),
		IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign | x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, t, t, a.key.Public(), a.key)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), err
}

// keys reads EC private keys, or makes one where the file is absent.
func keys(file string) ([]*ecdsa.PrivateKey, error) {
	if _, err := os.Stat(file); errors.Is(err, fs.ErrNotExist) {
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return nil, err
		}
		return []*ecdsa.PrivateKey{k}, writeKeys(file, []*ecdsa.PrivateKey{k})
	}
	return readKeys(file)
}

func readKeys(file string) (out []*ecdsa.PrivateKey, err error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		k, err := x509.ParseECPrivateKey(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("%s: %w; restore it from a backup", file, err)
		}
		out = append(out, k)
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("%s holds no PEM block; restore it from a backup", file)
	}
	return out, nil
}

func parse(data []byte) (*x509.Certificate, error) {
	block, _ := pem.Decode(data)
	if block == nil {
		return nil, errors.New("no PEM block")
	}
	return x509.ParseCertificate(block.Bytes)
}

func serial() (*big.Int, error) {
	return rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
}
