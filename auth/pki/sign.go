package pki

import (
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"time"
)

// Requested is what a certificate signing request may decide of its certificate.
type Requested struct {
	Request *x509.CertificateRequest
	Usage   x509.KeyUsage
	Ext     []x509.ExtKeyUsage
	Life    time.Duration
}

// longLife is from where on a certificate's life includes the time before it was
// made for which it is good, too; a shorter one would lose too much of it.
const longLife = 8 * time.Hour

// Sign makes the certificate, in PEM. It never makes an authority, and nothing
// that outlives this one.
func (a *Authority) Sign(r Requested, now time.Time) ([]byte, error) {
	n, err := serial()
	if err != nil {
		return nil, err
	}
	t := &x509.Certificate{
		SerialNumber: n, Subject: r.Request.Subject, RawSubject: r.Request.RawSubject,
		DNSNames: r.Request.DNSNames, IPAddresses: r.Request.IPAddresses, EmailAddresses: r.Request.EmailAddresses, URIs: r.Request.URIs,
		NotBefore: now.Add(-signedSkew), NotAfter: now.Add(r.Life), KeyUsage: r.Usage, ExtKeyUsage: r.Ext, BasicConstraintsValid: true,
	}
	if r.Life >= longLife {
		t.NotAfter = t.NotBefore.Add(r.Life)
	}
	if t.NotAfter.After(a.cert.NotAfter) {
		t.NotAfter = a.cert.NotAfter
	}
	der, err := x509.CreateCertificate(rand.Reader, t, a.cert, r.Request.PublicKey, a.key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), nil
}

// signedSkew is shorter than the shortest life that can be asked for.
const signedSkew = 5 * time.Minute
