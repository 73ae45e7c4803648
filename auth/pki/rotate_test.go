package pki

import (
	"crypto/tls"
	"crypto/x509"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// meets tells whether a client that trusts roots accepts what the authority's
// server shows, and the authority what the client shows.
func meets(t *testing.T, server *Authority, roots *x509.CertPool, cert, key []byte) error {
	t.Helper()
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	here, there := net.Pipe()
	defer here.Close()
	serving := server.Serving("proa", func() []string { return []string{"localhost"} })
	done := make(chan error, 1)
	go func() {
		defer there.Close()
		done <- tls.Server(there, &tls.Config{GetCertificate: serving.GetCertificate, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: server.Roots(), MaxVersion: tls.VersionTLS12}).Handshake()
	}()
	if err := tls.Client(here, &tls.Config{RootCAs: roots, ServerName: "localhost", Certificates: []tls.Certificate{pair}, MaxVersion: tls.VersionTLS12}).Handshake(); err != nil {
		here.Close()
		<-done
		return err
	}
	return <-done
}

// TestRotateAuthority: both the old and the new are good until the rotation is
// finished, for clients of before and after.
func TestRotateAuthority(t *testing.T) {
	dir := t.TempDir()
	old := open(t, dir)
	oldCert, oldKey, err := old.Client("ann")
	if err != nil {
		t.Fatal(err)
	}
	if err := Rotate(dir, ClusterAuthority); err != nil {
		t.Fatal(err)
	}
	both := open(t, dir)
	newCert, newKey, err := both.Client("ann")
	if err != nil {
		t.Fatal(err)
	}
	if both.ID() != old.ID() || !both.NeedsRenewal(oldCert, time.Now()) || both.NeedsRenewal(newCert, time.Now()) {
		t.Error("the cluster's name changed, or the old certificate need not be renewed")
	}
	for what, roots := range map[string]*x509.CertPool{"old": old.Roots(), "new": both.Roots()} {
		if err := meets(t, both, roots, oldCert, oldKey); err != nil {
			t.Errorf("%s roots, old certificate: %v", what, err)
		}
		if err := meets(t, both, roots, newCert, newKey); err != nil {
			t.Errorf("%s roots, new certificate: %v", what, err)
		}
	}
	if err := Rotate(dir, ClusterAuthority); err == nil || !strings.Contains(err.Error(), "finish") {
		t.Errorf("a second rotation before the first is finished: %v", err)
	}
	if err := Finish(dir, ClusterAuthority); err != nil {
		t.Fatal(err)
	}
	only := open(t, dir)
	if meets(t, only, both.Roots(), oldCert, oldKey) == nil || meets(t, only, old.Roots(), newCert, newKey) == nil {
		t.Error("the old authority is still good after the rotation was finished")
	}
	if err := meets(t, only, only.Roots(), newCert, newKey); err != nil || only.ID() != old.ID() {
		t.Errorf("the new authority alone: %v", err)
	}
	if err := Rotate(dir, ClusterAuthority); err != nil {
		t.Errorf("rotating again: %v", err)
	}
}

// TestRotationInterrupted: whatever was written when the machine stopped, the
// authority opens and clients of before are served.
func TestRotationInterrupted(t *testing.T) {
	from, to := t.TempDir(), t.TempDir()
	old := open(t, from)
	cert, key, err := old.Client("ann")
	if err != nil {
		t.Fatal(err)
	}
	copyAll(t, from, to)
	if err := Rotate(to, ClusterAuthority); err != nil {
		t.Fatal(err)
	}
	for _, written := range [][]string{{}, {idFile}, {idFile, "ca-cross.crt"}, {idFile, "ca-cross.crt", "ca.crt"}, {idFile, "ca-cross.crt", "ca.crt", "ca.key"}} {
		dir := t.TempDir()
		copyAll(t, from, dir)
		for _, name := range written {
			copyFile(t, filepath.Join(to, name), filepath.Join(dir, name))
		}
		a := open(t, dir)
		if err := meets(t, a, old.Roots(), cert, key); err != nil || a.ID() != old.ID() {
			t.Errorf("after %v were written: %v", written, err)
		}
	}
}

func TestRotateTokenKeys(t *testing.T) {
	dir := t.TempDir()
	old := open(t, dir).TokenKeys()
	if err := Rotate(dir, TokenKeys); err != nil {
		t.Fatal(err)
	}
	if got := open(t, dir).TokenKeys(); len(got) != 2 || got[0].Equal(old[0]) || !got[1].Equal(old[0]) {
		t.Errorf("there are %d keys, and the first must be new, the second the old", len(got))
	}
	if err := Finish(dir, TokenKeys); err != nil {
		t.Fatal(err)
	}
	if got := open(t, dir).TokenKeys(); len(got) != 1 || got[0].Equal(old[0]) {
		t.Errorf("%d keys are left", len(got))
	}
}

func TestInspect(t *testing.T) {
	dir := t.TempDir()
	a := open(t, dir)
	if _, err := OpenFrontProxy(dir); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "kubeconfig")
	if _, err := a.Kubeconfig(file, "https://localhost", "ann"); err != nil {
		t.Fatal(err)
	}
	if err := Rotate(dir, ClusterAuthority); err != nil {
		t.Fatal(err)
	}
	found, err := Inspect(dir, file)
	if err != nil {
		t.Fatal(err)
	}
	count := map[string]int{}
	for _, c := range found {
		count[c.Name]++
		if c.Expires.Before(time.Now().Add(360*24*time.Hour)) || c.Use == "" || c.Renewal == "" {
			t.Errorf("%+v", c)
		}
	}
	if count["ca"] != 2 || count["front-proxy-ca"] != 1 || count["kubeconfig"] != 1 {
		t.Errorf("found %v", count)
	}
	before, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := RenewKubeconfig(dir, file, "ann"); err != nil {
		t.Fatal(err)
	}
	if after, err := os.ReadFile(file); err != nil || string(after) == string(before) {
		t.Errorf("the kubeconfig is as before, %v", err)
	}
}

func copyAll(t *testing.T, from, to string) {
	t.Helper()
	list, err := os.ReadDir(from)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range list {
		copyFile(t, filepath.Join(from, e.Name()), filepath.Join(to, e.Name()))
	}
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	data, err := os.ReadFile(from)
	if err == nil {
		err = os.WriteFile(to, data, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}
