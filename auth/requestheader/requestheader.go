// Package requestheader authenticates requests that come through a proxy in
// front of the API: the proxy shows a client certificate of an authority of its
// own, and says in headers whom it speaks for.
//
// Headers are believed only beside such a certificate, and are taken off every
// request, so that nobody further in can be fooled by them.
package requestheader

import (
	"crypto/x509"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"proa/auth"
)

// Config says which proxies are believed, and what their headers are called.
type Config struct {
	// Roots certify proxies; asked at each request.
	Roots func() *x509.CertPool
	// AllowedNames are the common names of proxies; empty allows every
	// certificate that the roots vouch for.
	AllowedNames []string
	// The headers to look in, in order. Of users and UIDs the first that is
	// there counts; groups are collected.
	UserHeaders, UIDHeaders, GroupHeaders []string
	// ExtraPrefixes begin the headers that hold the user's extra values.
	ExtraPrefixes []string
}

// Defaults fills in the customary header names, those that this server itself
// uses as a proxy.
func (c Config) Defaults() Config {
	set := func(list *[]string, name string) {
		if len(*list) == 0 {
			*list = []string{name}
		}
	}
	set(&c.UserHeaders, "X-Remote-User")
	set(&c.UIDHeaders, "X-Remote-Uid")
	set(&c.GroupHeaders, "X-Remote-Group")
	set(&c.ExtraPrefixes, "X-Remote-Extra-")
	return c
}

// Published is the configuration as extension API servers read it, from the
// ConfigMap kube-system/extension-apiserver-authentication. ca is in PEM.
func (c Config) Published(ca []byte) map[string]string {
	return map[string]string{
		"requestheader-client-ca-file":       string(ca),
		"requestheader-allowed-names":        list(c.AllowedNames),
		"requestheader-username-headers":     list(c.UserHeaders),
		"requestheader-uid-headers":          list(c.UIDHeaders),
		"requestheader-group-headers":        list(c.GroupHeaders),
		"requestheader-extra-headers-prefix": list(c.ExtraPrefixes),
	}
}

func list(names []string) string {
	data, _ := json.Marshal(append([]string{}, names...)) // strings cannot fail
	return string(data)
}

// Authenticator is an auth.Authenticator. It goes before all others, since the
// certificate that a proxy shows is not the user's.
type Authenticator struct{ Config }

// Authenticate returns the user that a trusted proxy names.
func (a Authenticator) Authenticate(r *http.Request) (auth.User, bool, error) {
	user := a.named(r.Header)
	a.strip(r.Header)
	if user.Name == "" || r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
		return auth.User{}, false, nil
	}
	leaf := r.TLS.PeerCertificates[0]
	if err := verify(r.TLS.PeerCertificates, a.Roots()); err != nil {
		return auth.User{}, false, nil // a client's own certificate is the next authenticator's
	}
	if len(a.AllowedNames) > 0 && !slices.Contains(a.AllowedNames, leaf.Subject.CommonName) {
		return auth.User{}, false, fmt.Errorf("x509: subject with cn=%s is not in the allowed list", leaf.Subject.CommonName)
	}
	return user, true, nil
}

func verify(chain []*x509.Certificate, roots *x509.CertPool) error {
	between := x509.NewCertPool()
	for _, c := range chain[1:] {
		between.AddCert(c)
	}
	_, err := chain[0].Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, CurrentTime: time.Now(),
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	return err
}

func (a Authenticator) named(h http.Header) auth.User {
	u := auth.User{Name: first(h, a.UserHeaders), UID: first(h, a.UIDHeaders)}
	for _, name := range a.GroupHeaders {
		u.Groups = append(u.Groups, h.Values(name)...)
	}
	for name, values := range h {
		if k, ok := a.extraKey(name); ok {
			if u.Extra == nil {
				u.Extra = map[string][]string{}
			}
			u.Extra[k] = append(u.Extra[k], values...)
		}
	}
	return u
}

func first(h http.Header, names []string) string {
	for _, name := range names {
		if v := h.Get(name); v != "" {
			return v
		}
	}
	return ""
}

// extraKey is the key that a header of an extra value stands for: keys may hold
// characters that header names cannot, so they come percent-encoded.
func (a Authenticator) extraKey(header string) (string, bool) {
	for _, prefix := range a.ExtraPrefixes {
		if len(header) < len(prefix) || !strings.EqualFold(header[:len(prefix)], prefix) {
			continue
		}
		k := strings.ToLower(header[len(prefix):])
		if decoded, err := url.PathUnescape(k); err == nil {
			k = decoded
		}
		return k, true
	}
	return "", false
}

func (a Authenticator) strip(h http.Header) {
	for _, name := range slices.Concat(a.UserHeaders, a.UIDHeaders, a.GroupHeaders) {
		h.Del(name)
	}
	for name := range h {
		if _, ok := a.extraKey(name); ok {
			h.Del(name)
		}
	}
}
