package etcd

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"proa/store"
	"proa/store/etcd/etcdtest"
)

func withRev(revision uint64) clientv3.OpOption { return clientv3.WithRev(int64(revision)) }

// proxy is a network between a store and etcd that can be cut.
type proxy struct {
	url, to string

	mu    sync.Mutex
	l     net.Listener
	conns map[net.Conn]bool
	wg    sync.WaitGroup
}

func newProxy(t *testing.T, to string) *proxy {
	t.Helper()
	p := &proxy{to: strings.TrimPrefix(to, "http://"), conns: map[net.Conn]bool{}, url: "http://127.0.0.1:0"}
	p.open(t)
	t.Cleanup(func() { p.close(); p.wg.Wait() })
	return p
}

func (p *proxy) open(t *testing.T) {
	l, err := net.Listen("tcp", strings.TrimPrefix(p.url, "http://"))
	if err != nil {
		t.Error(err)
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.l, p.url = l, "http://"+l.Addr().String()
	p.wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			p.wg.Go(func() { p.pass(c) })
		}
	})
}

func (p *proxy) pass(c net.Conn) {
	to, err := net.Dial("tcp", p.to)
	if err != nil {
		c.Close()
		return
	}
	p.mu.Lock()
	p.conns[c], p.conns[to] = true, true
	p.mu.Unlock()
	p.wg.Go(func() { io.Copy(to, c); to.Close() })
	io.Copy(c, to)
	c.Close()
}

// close cuts what is connected and refuses what comes.
func (p *proxy) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.l.Close()
	for c := range p.conns {
		c.Close()
	}
	clear(p.conns)
}

// authority makes certificates in a directory.
type authority struct {
	dir, file string
	cert      *x509.Certificate
	key       *ecdsa.PrivateKey
}

func newAuthority(t *testing.T, name string) *authority {
	t.Helper()
	a := &authority{dir: t.TempDir()}
	a.cert = &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	a.file, _, a.key = a.write(t, name, a.cert, a.cert, nil)
	return a
}

// write signs a certificate and puts it and its key into files.
func (a *authority) write(t *testing.T, name string, cert, parent *x509.Certificate, by *ecdsa.PrivateKey) (certFile, keyFile string, key *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if by == nil {
		by = key
	}
	der, err := x509.CreateCertificate(rand.Reader, cert, parent, key.Public(), by)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	certFile, keyFile = filepath.Join(a.dir, name+".crt"), filepath.Join(a.dir, name+".key")
	for file, block := range map[string]*pem.Block{certFile: {Type: "CERTIFICATE", Bytes: der}, keyFile: {Type: "EC PRIVATE KEY", Bytes: raw}} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return certFile, keyFile, key
}

func (a *authority) issue(t *testing.T, name string) (certFile, keyFile string) {
	t.Helper()
	cert := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
	certFile, keyFile, _ = a.write(t, name, cert, a.cert, a.key)
	return certFile, keyFile
}

// With TLS both sides show certificates, and a server with another authority or
// a client without a certificate gets nowhere.
func TestTLS(t *testing.T) {
	ours, other := newAuthority(t, "ours"), newAuthority(t, "other")
	serverCert, serverKey := ours.issue(t, "server")
	server := etcdtest.StartTLS(t, "--cert-file", serverCert, "--key-file", serverKey, "--client-cert-auth", "--trusted-ca-file", ours.file)
	c := Config{Endpoints: []string{server.URL}, CA: ours.file}
	c.Cert, c.Key = ours.issue(t, "client")
	must(t, storeOn(t, c), cm("a", "1", 0))

	openWait = 2 * time.Second
	defer func() { openWait = 20 * time.Second }()
	if _, err := Open(Config{Endpoints: c.Endpoints, CA: ours.file}); !errors.Is(err, store.ErrUnavailable) || !strings.Contains(err.Error(), "certificate required") {
		t.Errorf("without a certificate: %v", err)
	}
	c.CA = other.file
	if _, err := Open(c); !errors.Is(err, store.ErrUnavailable) || !strings.Contains(err.Error(), "unknown authority") {
		t.Errorf("with another authority: %v", err)
	}
}
