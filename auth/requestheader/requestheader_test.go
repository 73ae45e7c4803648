package requestheader

import (
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"reflect"
	"testing"

	"proa/auth"
	"proa/auth/pki"
)

func authority(t *testing.T) *pki.Authority {
	t.Helper()
	a, err := pki.OpenFrontProxy(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// from is a request over TLS with the identity's certificate.
func from(t *testing.T, id *pki.Identity, headers http.Header) *http.Request {
	t.Helper()
	r := &http.Request{Header: headers}
	if id == nil {
		return r
	}
	cert, err := id.Certificate()
	if err != nil {
		t.Fatal(err)
	}
	r.TLS = &tls.ConnectionState{PeerCertificates: []*x509.Certificate{cert.Leaf}}
	return r
}

func headers() http.Header {
	h := http.Header{"X-Remote-User": {"jane"}, "X-Remote-Uid": {"7"}, "X-Remote-Group": {"a", "b"}, "Accept": {"*/*"}}
	h.Set("X-Remote-Extra-Example.com%2fScope", "read")
	return h
}

func TestAuthenticate(t *testing.T) {
	front, other := authority(t), authority(t)
	a := Authenticator{Config{Roots: front.Roots, AllowedNames: []string{pki.FrontProxyName}}.Defaults()}
	jane := auth.User{Name: "jane", UID: "7", Groups: []string{"a", "b"}, Extra: map[string][]string{"example.com/scope": {"read"}}}
	for _, c := range []struct {
		what    string
		id      *pki.Identity
		headers http.Header
		user    auth.User
		ok, bad bool
	}{
		{"a trusted proxy", front.Identity(pki.FrontProxyName), headers(), jane, true, false},
		{"a name that is not allowed", front.Identity("somebody"), headers(), auth.User{}, false, true},
		{"another authority", other.Identity(pki.FrontProxyName), headers(), auth.User{}, false, false},
		{"no certificate", nil, headers(), auth.User{}, false, false},
		{"no user", front.Identity(pki.FrontProxyName), http.Header{"X-Remote-Group": {"system:masters"}}, auth.User{}, false, false},
	} {
		t.Run(c.what, func(t *testing.T) {
			r := from(t, c.id, c.headers)
			user, ok, err := a.Authenticate(r)
			if !reflect.DeepEqual(user, c.user) || ok != c.ok || (err != nil) != c.bad {
				t.Errorf("got %+v, %v, %v", user, ok, err)
			}
			for name := range r.Header {
				if name != "Accept" {
					t.Errorf("header %s is still there", name)
				}
			}
		})
	}
}

func TestPublished(t *testing.T) {
	got := Config{AllowedNames: []string{"front"}}.Defaults().Published([]byte("PEM"))
	want := map[string]string{
		"requestheader-client-ca-file": "PEM", "requestheader-allowed-names": `["front"]`,
		"requestheader-username-headers": `["X-Remote-User"]`, "requestheader-uid-headers": `["X-Remote-Uid"]`,
		"requestheader-group-headers": `["X-Remote-Group"]`, "requestheader-extra-headers-prefix": `["X-Remote-Extra-"]`,
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %v", got)
	}
	if none := (Config{}).Published(nil)["requestheader-allowed-names"]; none != "[]" {
		t.Errorf("no allowed names are published as %q", none)
	}
}
