package pki

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"proa/internal/atomicfile"
)

// What can be rotated, by the names of their files.
const (
	ClusterAuthority    = "ca"
	FrontProxyAuthority = "front-proxy-ca"
	TokenKeys           = "service-account"
)

// idFile keeps what the cluster was called before its first rotation.
const idFile = "cluster-id"

// Rotate makes a new authority, or a new key for tokens, that signs from the next
// start on. What the old one has signed stays good, and those who know only the
// old authority trust the new one, by a certificate of the old for the new that
// servers show; Finish ends that. A second rotation before it is refused, since
// it would leave clients behind.
//
// The files are written one by one so that the authority opens after a crash
// between any two.
func Rotate(dir, what string) error {
	switch what {
	case TokenKeys:
		return rotateTokens(dir)
	case ClusterAuthority, FrontProxyAuthority:
		return rotateAuthority(dir, what)
	}
	return fmt.Errorf("%q cannot be rotated", what)
}

// Finish drops what Rotate has replaced: certificates and tokens that the old
// one has signed are refused from the next start on.
func Finish(dir, what string) error {
	switch what {
	case TokenKeys:
		keys, err := readKeys(filepath.Join(dir, TokenKeys+".key"))
		if err != nil {
			return err
		}
		return writeKeys(filepath.Join(dir, TokenKeys+".key"), keys[:1])
	case ClusterAuthority, FrontProxyAuthority:
		a, err := openNamed(dir, what)
		if err != nil {
			return err
		}
		if err := atomicfile.Write(filepath.Join(dir, what+".crt"), encode(a.cert.Raw), 0o644); err != nil {
			return err
		}
		if err := os.Remove(crossFile(dir, what)); !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	}
	return fmt.Errorf("%q cannot be rotated", what)
}

func rotateTokens(dir string) error {
	file := filepath.Join(dir, TokenKeys+".key")
	keys, err := readKeys(file)
	if err != nil {
		return err
	}
	if len(keys) > 1 {
		return errUnfinished
	}
	next, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	return writeKeys(file, append([]*ecdsa.PrivateKey{next}, keys...))
}

var errUnfinished = errors.New("the rotation before is not finished: finish it first")

func rotateAuthority(dir, name string) error {
	old, err := openNamed(dir, name)
	if err != nil {
		return err
	}
	if len(old.trusted) > 1 {
		return errUnfinished
	}
	if err := keepID(dir, old); err != nil {
		return err
	}
	next := &Authority{name: fmt.Sprintf("%s-%d", old.cert.Subject.CommonName, time.Now().Unix())}
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	next.key = k
	own, err := next.selfSign(next.name)
	if err != nil {
		return err
	}
	if next.cert, err = parse(own); err != nil {
		return err
	}
	cross, err := old.vouch(next)
	if err != nil {
		return err
	}
	if err := atomicfile.Write(crossFile(dir, name), cross, 0o644); err != nil {
		return err
	}
	if err := atomicfile.Write(filepath.Join(dir, name+".crt"), append(own, old.pem...), 0o644); err != nil {
		return err
	}
	return writeKeys(filepath.Join(dir, name+".key"), []*ecdsa.PrivateKey{k}) // from here on it signs
}

func crossFile(dir, name string) string { return filepath.Join(dir, name+"-cross.crt") }

// vouch certifies another authority.
func (a *Authority) vouch(next *Authority) ([]byte, error) {
	n, err := serial()
	if err != nil {
		return nil, err
	}
	t := &x509.Certificate{
		SerialNumber: n, Subject: pkix.Name{CommonName: next.name}, NotBefore: time.Now().Add(-skew), NotAfter: a.cert.NotAfter,
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign | x509.KeyUsageDigitalSignature,
		SubjectKeyId: next.cert.SubjectKeyId,
	}
	der, err := x509.CreateCertificate(rand.Reader, t, a.cert, next.key.Public(), a.key)
	return encode(der), err
}

// readCross reads the certificate of the old authority for this one; there is
// none where nothing was rotated, and one that does not fit is left over from a
// rotation that did not happen.
func (a *Authority) readCross(file string) error {
	data, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	c, err := parse(data)
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	if pub, ok := c.PublicKey.(*ecdsa.PublicKey); ok && pub.Equal(a.key.Public()) {
		a.chain = [][]byte{c.Raw}
	}
	return nil
}

// ID tells this cluster from others for as long as it lives, whatever is rotated.
func (a *Authority) ID() string { return a.id }

func (a *Authority) readID(dir string) error {
	data, err := os.ReadFile(filepath.Join(dir, idFile))
	if errors.Is(err, fs.ErrNotExist) {
		sum := sha256.Sum256(a.pem)
		a.id = "sha256:" + hex.EncodeToString(sum[:])
		return nil
	}
	a.id = string(data)
	return err
}

// keepID writes down who the cluster is, as long as its authority still says so.
func keepID(dir string, a *Authority) error {
	file := filepath.Join(dir, idFile)
	if _, err := os.Stat(file); a.name != ClusterAuthority || !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := a.readID(dir); err != nil {
		return err
	}
	return atomicfile.Write(file, []byte(a.id), 0o644)
}

func encode(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// parseAll reads all certificates of a file.
func parseAll(data []byte) (out []*x509.Certificate, err error) {
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		out = append(out, c)
	}
	if len(out) == 0 {
		return nil, errors.New("no PEM block")
	}
	return out, nil
}

func writeKeys(file string, keys []*ecdsa.PrivateKey) error {
	var data []byte
	for _, k := range keys {
		der, err := x509.MarshalECPrivateKey(k)
		if err != nil {
			return err
		}
		data = append(data, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der})...)
	}
	return atomicfile.Write(file, data, 0o600)
}
