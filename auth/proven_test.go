package auth

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"math/big"
	"net/http"
	"reflect"
	"testing"
	"time"
)

// issue makes a certificate signed by a parent, or by itself.
func issue(t *testing.T, name string, parent *x509.Certificate, signer *ecdsa.PrivateKey, ends time.Time) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name, Organization: []string{"g"}},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: ends, IsCA: parent == nil, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	if parent == nil {
		parent, signer = c, key
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, &key.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	out, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return out, key
}

// TestProvenCertificates: a certificate that was believed once is not believed
// under other roots, nor after its end, nor is another in its name.
func TestProvenCertificates(t *testing.T) {
	ca, key := issue(t, "ca", nil, nil, time.Now().Add(time.Hour))
	leaf, _ := issue(t, "alice", ca, key, time.Now().Add(time.Hour))
	roots := x509.NewCertPool()
	roots.AddCert(ca)
	ask := func(leaf *x509.Certificate, roots *x509.CertPool) error {
		r := &http.Request{TLS: &tls.ConnectionState{PeerCertificates: []*x509.Certificate{leaf}}}
		u, ok, err := ClientCertificates{Roots: func() *x509.CertPool { return roots }}.Authenticate(r)
		sum := sha256.Sum256(leaf.Raw)
		id := map[string][]string{"authentication.kubernetes.io/credential-id": {"X509SHA256=" + hex.EncodeToString(sum[:])}}
		if err == nil && (!ok || u.Name != "alice" || !reflect.DeepEqual(u.Extra, id)) {
			t.Errorf("authenticated as %+v, %v", u, ok)
		}
		return err
	}
	for range 2 {
		if err := ask(leaf, roots); err != nil {
			t.Fatal(err)
		}
	}
	if ask(leaf, x509.NewCertPool()) == nil {
		t.Error("believed under roots that do not know its issuer")
	}
	otherCA, otherKey := issue(t, "ca", nil, nil, time.Now().Add(time.Hour))
	if forged, _ := issue(t, "alice", otherCA, otherKey, time.Now().Add(time.Hour)); ask(forged, roots) == nil {
		t.Error("another issuer's certificate in the same name was believed")
	}
	if _, ok := proven.user(leaf, roots, leaf.NotAfter); ok {
		t.Error("still proven at its end")
	}
}
