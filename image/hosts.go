package image

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"time"

	"github.com/pelletier/go-toml/v2"
)

// How a registry is reached can be configured as for containerd: a directory
// with one subdirectory a registry ("docker.io", "registry.local:5000", or
// "_default" for all others), in it a file hosts.toml:
//
//	server = "https://registry-1.docker.io"
//	[host."https://mirror.local"]
//	capabilities = ["pull", "resolve"]
//	ca = "mirror.pem"
//
// Hosts are tried in order, then the server. The directories are
// /etc/proa/certs.d and, for machines that have it, /etc/containerd/certs.d;
// the first that configures the registry counts.

// endpoint is one server that may have a registry's content.
type endpoint struct {
	base    *url.URL // scheme, host, and the path before the repository ("/v2")
	own     bool     // the registry itself, which gets the credentials
	resolve bool     // may answer what a tag stands for
	header  http.Header
	client  *http.Transport
}

// hostsFile is hosts.toml.
type hostsFile struct {
	Server string `toml:"server"`
	hostSettings
	Host map[string]hostSettings `toml:"host"`
}

type hostSettings struct {
	Capabilities []string       `toml:"capabilities"`
	CA           any            `toml:"ca"`     // a path or several
	Client       any            `toml:"client"` // a path, or pairs of certificate and key
	SkipVerify   bool           `toml:"skip_verify"`
	OverridePath bool           `toml:"override_path"`
	Header       map[string]any `toml:"header"`
}

// endpoints returns where to look for a registry's content, in order.
func (s *Store) endpoints(registry string) ([]*endpoint, error) {
	server := "https://" + registry
	if registry == "docker.io" {
		server = "https://registry-1.docker.io"
	}
	path, data, err := s.hostsFile(registry)
	if err != nil {
		return nil, err
	}
	var f hostsFile
	if err := toml.Unmarshal(data, &f); err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", path, err)
	}
	var out []*endpoint
	for _, name := range hostOrder(f, string(data)) {
		e, err := newEndpoint(name, f.Host[name], filepath.Dir(path))
		if err != nil {
			return nil, fmt.Errorf("%s: host %q: %w", path, name, err)
		}
		out = append(out, e)
	}
	if f.Server != "" {
		server = f.Server
	}
	own, err := newEndpoint(server, f.hostSettings, filepath.Dir(path))
	if err != nil {
		return nil, fmt.Errorf("%s: server %q: %w", path, server, err)
	}
	own.own, own.resolve = true, true
	return append(out, own), nil
}

// hostsFile finds the file for a registry; there may be none.
func (s *Store) hostsFile(registry string) (path string, data []byte, err error) {
	host, port, _ := strings.Cut(registry, ":")
	for _, dir := range s.hosts {
		for _, name := range []string{registry, host + "_" + port + "_", "_default"} {
			path := filepath.Join(dir, name, "hosts.toml")
			data, err := os.ReadFile(path)
			if err == nil || !errors.Is(err, fs.ErrNotExist) {
				return path, data, err
			}
		}
	}
	return "", nil, nil
}

// hostOrder returns the hosts in the order of the file, which the decoded map
// does not have.
func hostOrder(f hostsFile, text string) (names []string) {
	for name := range f.Host {
		names = append(names, name)
	}
	sort.Slice(names, func(i, j int) bool {
		return strings.Index(text, `"`+names[i]+`"`) < strings.Index(text, `"`+names[j]+`"`)
	})
	return names
}

func newEndpoint(server string, h hostSettings, dir string) (*endpoint, error) {
	if !strings.Contains(server, "://") {
		server = "https://" + server
	}
	u, err := url.Parse(server)
	if err != nil {
		return nil, err
	}
	if u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return nil, errors.New("it is no http or https URL")
	}
	if u.Path = strings.TrimRight(u.Path, "/"); !h.OverridePath && !strings.HasSuffix(u.Path, "/v2") {
		u.Path += "/v2"
	}
	config, err := h.tls(dir)
	if err != nil {
		return nil, err
	}
	e := &endpoint{base: u, header: http.Header{}, resolve: len(h.Capabilities) == 0 || slices.Contains(h.Capabilities, "resolve")}
	for k, v := range h.Header {
		e.header[http.CanonicalHeaderKey(k)] = texts(v)
	}
	e.client = &http.Transport{Proxy: http.ProxyFromEnvironment, TLSClientConfig: config, ForceAttemptHTTP2: true, MaxIdleConnsPerHost: 4,
		TLSHandshakeTimeout: 20 * time.Second, ResponseHeaderTimeout: 60 * time.Second,
		DialContext: (&net.Dialer{Timeout: 20 * time.Second}).DialContext}
	return e, nil
}

// plain tells that http will do: it was asked for, or the host is this machine.
func (e *endpoint) plain() bool {
	host := e.base.Hostname()
	ip := net.ParseIP(host)
	return e.base.Scheme == "http" || host == "localhost" || ip != nil && ip.IsLoopback()
}

// RoundTrip keeps credentials and content off unprotected connections that
// nobody asked for.
func (e *endpoint) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Scheme == "http" && !e.plain() && r.URL.Host == e.base.Host {
		return nil, fmt.Errorf("%s is to be reached by https only", e.base.Host)
	}
	if r.URL.Host == e.base.Host {
		for k, v := range e.header {
			r.Header[k] = v
		}
	}
	return e.client.RoundTrip(r)
}

func (h hostSettings) tls(dir string) (*tls.Config, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: h.SkipVerify}
	for _, ca := range texts(h.CA) {
		pem, err := os.ReadFile(inDir(dir, ca))
		if err != nil {
			return nil, err
		}
		if c.RootCAs == nil {
			if c.RootCAs, err = x509.SystemCertPool(); err != nil {
				c.RootCAs = x509.NewCertPool()
			}
		}
		if !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s holds no certificate in PEM form", ca)
		}
	}
	for _, pair := range pairs(h.Client) {
		cert, err := tls.LoadX509KeyPair(inDir(dir, pair[0]), inDir(dir, pair[1]))
		if err != nil {
			return nil, err
		}
		c.Certificates = append(c.Certificates, cert)
	}
	return c, nil
}

func inDir(dir, path string) string {
	if filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(dir, path)
}

// texts reads a value that may be one text or a list of them.
func texts(v any) (out []string) {
	switch v := v.(type) {
	case string:
		return []string{v}
	case []any:
		for _, x := range v {
			if t, ok := x.(string); ok {
				out = append(out, t)
			}
		}
	}
	return out
}

// pairs reads certificates with their keys: one file with both, a list of such
// files, or a list of pairs.
func pairs(v any) (out [][2]string) {
	list, ok := v.([]any)
	if !ok {
		list = []any{v}
	}
	for _, x := range list {
		switch t := texts(x); len(t) {
		case 1:
			out = append(out, [2]string{t[0], t[0]})
		case 2:
			out = append(out, [2]string{t[0], t[1]})
		}
	}
	return out
}
