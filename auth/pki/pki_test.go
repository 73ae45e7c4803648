package pki

import (
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"proa/auth"
)

func open(t *testing.T, dir string) *Authority {
	t.Helper()
	a, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// A certificate made before a restart must authenticate after it.
func TestClientOverTLSAfterRestart(t *testing.T) {
	dir := t.TempDir()
	cert, key, err := open(t, dir).Client("ann", "ops", "dev")
	if err != nil {
		t.Fatal(err)
	}
	a := open(t, dir)
	var got auth.User
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		got, _, err = auth.ClientCertificates{Roots: a.Roots}.Authenticate(r)
	}))
	hosts := []string{"127.0.0.1"}
	serving := a.Serving("proa", func() []string { return hosts })
	srv.Listener = tls.NewListener(srv.Listener, &tls.Config{GetCertificate: serving.GetCertificate, ClientAuth: tls.RequestClientCert})
	srv.Start()
	defer srv.Close()
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	c := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: a.Roots(), Certificates: []tls.Certificate{pair}}}}
	if _, err := c.Get(strings.Replace(srv.URL, "http:", "https:", 1)); err != nil {
		t.Fatal(err)
	}
	if err != nil || got.Name != "ann" || !got.In("ops") || !got.In("dev") {
		t.Errorf("got %+v, %v", got, err)
	}
}

func TestStrangersCertificateIsRefused(t *testing.T) {
	cert, key, err := open(t, t.TempDir()).Client("ann")
	if err != nil {
		t.Fatal(err)
	}
	pair, _ := tls.X509KeyPair(cert, key)
	leaf, _ := x509.ParseCertificate(pair.Certificate[0])
	r := httptest.NewRequest("GET", "/", nil)
	r.TLS = &tls.ConnectionState{PeerCertificates: []*x509.Certificate{leaf}}
	if _, ok, err := (auth.ClientCertificates{Roots: open(t, t.TempDir()).Roots}).Authenticate(r); ok || err == nil {
		t.Errorf("accepted: %v", err)
	}
}

func TestServingFollowsItsHostsAndItsAge(t *testing.T) {
	hosts := []string{"a.example", "10.0.0.1"}
	s := open(t, t.TempDir()).Serving("proa", func() []string { return hosts })
	first, err := s.GetCertificate(nil)
	if err != nil {
		t.Fatal(err)
	}
	if again, _ := s.GetCertificate(nil); again != first {
		t.Error("made anew without need")
	}
	hosts = append(hosts, "10.0.0.2")
	second, _ := s.GetCertificate(nil)
	if second == first || second.Leaf.VerifyHostname("10.0.0.2") != nil || second.Leaf.VerifyHostname("a.example") != nil {
		t.Error("does not name its hosts")
	}
	second.Leaf.NotAfter = time.Now().Add(leafLife / 4)
	if third, _ := s.GetCertificate(nil); third == second {
		t.Error("not renewed when old")
	}
}

func TestDamagedAuthorityIsNamed(t *testing.T) {
	for _, file := range []string{"ca.key", "ca.crt", "service-account.key"} {
		dir := t.TempDir()
		open(t, dir)
		if err := os.WriteFile(filepath.Join(dir, file), []byte("damaged"), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(dir); err == nil || !strings.Contains(err.Error(), file) || !strings.Contains(err.Error(), "backup") {
			t.Errorf("%s: %v", file, err)
		}
	}
}

func TestKubeconfigIsLeftAloneWhileGood(t *testing.T) {
	a, file := open(t, t.TempDir()), filepath.Join(t.TempDir(), "sub", "config")
	for i, want := range []bool{true, false} {
		if wrote, err := a.Kubeconfig(file, "https://127.0.0.1:6443", "admin", auth.GroupMasters); err != nil || wrote != want {
			t.Errorf("call %d: wrote %v, %v", i, wrote, err)
		}
	}
	if wrote, _ := a.Kubeconfig(file, "https://127.0.0.1:7443", "admin"); !wrote {
		t.Error("kept the address of another server")
	}
}
