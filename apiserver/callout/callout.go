// Package callout is how the server reaches what extends it: admission and
// conversion webhooks, and aggregated API servers.
//
// What it promises:
//   - A Service is resolved when a connection is made: to one of its ready
//     endpoints, trying the others when it does not answer.
//   - TLS is verified for <name>.<namespace>.svc, or for the URL's host.
//   - Connections are kept and shared (HTTP/2 where the other side speaks it),
//     and let go when nobody used them for a while; the number of targets kept
//     is bounded.
//   - Redirects are not followed: whoever configured a target said where to go.
//
// Time limits come from the caller's context.
package callout

import (
	"container/list"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"path"
	"strconv"
	"sync"
	"time"

	"proa/store"
)

const (
	// maxTargets bounds how many targets' connections are kept.
	maxTargets = 256
	// keepUnused is how long a target's transport outlives its last use;
	// connections without a request are closed after idleConnection.
	keepUnused     = 10 * time.Minute
	idleConnection = 90 * time.Second
	// dialTimeout is for one address; a Service's others are tried after.
	dialTimeout = 5 * time.Second
	// pingAfter is how long an HTTP/2 connection may be silent before it is
	// asked whether it is still there.
	pingAfter, pingTimeout = 30 * time.Second, 15 * time.Second
	maxHeaderBytes         = 64 << 10
	defaultPort            = 443
)

// Target names what to call: a URL, or a Service.
type Target struct {
	URL     string
	Service *Service
	// CABundle is PEM; empty stands for the system's roots.
	CABundle              []byte
	InsecureSkipTLSVerify bool
	// ShowClientCert presents the pool's client certificate.
	ShowClientCert bool
	// OnlyHTTP1 is for protocols that take the connection over (Upgrade).
	OnlyHTTP1 bool
}

// Service is a Service's port and the path there. Port 0 stands for 443.
type Service struct {
	Namespace, Name, Path string
	Port                  int32
}

func (s *Service) host() string { return s.Name + "." + s.Namespace + ".svc" }

// Config is what a Pool needs.
type Config struct {
	// World resolves Services.
	World func() store.Snapshot
	// ClientCert is asked at each handshake with a target that wants it; nil
	// where the server has none.
	ClientCert func() (*tls.Certificate, error)
	Log        *slog.Logger
}

// Pool keeps one transport for each target.
type Pool struct {
	cfg Config
	now func() time.Time

	mu     sync.Mutex
	byKey  map[key]*list.Element
	recent list.List // of *entry, the last used first
}

// key is everything by which a connection differs; the path is not of it.
type key struct {
	scheme, host       string
	namespace, service string
	port               int32
	ca                 [sha256.Size]byte
	insecure, cert, h1 bool
}

type entry struct {
	key       key
	transport *http.Transport
	used      time.Time
}

// New makes a Pool. It starts nothing.
func New(c Config) *Pool {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return &Pool{cfg: c, now: time.Now, byKey: map[key]*list.Element{}}
}

// Client returns a client for the target and the URL to call. Errors are of the
// target's description; whether it can be reached shows at the call.
func (p *Pool) Client(t Target) (*http.Client, *url.URL, error) {
	rt, u, err := p.Transport(t)
	if err != nil {
		return nil, nil, err
	}
	stay := func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &http.Client{Transport: rt, CheckRedirect: stay}, u, nil
}

// Transport is Client without the client.
func (p *Pool) Transport(t Target) (http.RoundTripper, *url.URL, error) {
	u, err := t.url()
	if err != nil {
		return nil, nil, err
	}
	k := t.key(u)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.sweep()
	if e, ok := p.byKey[k]; ok {
		e.Value.(*entry).used = p.now()
		p.recent.MoveToFront(e)
		return e.Value.(*entry).transport, u, nil
	}
	tr, err := p.transport(t, u)
	if err != nil {
		return nil, nil, err
	}
	p.byKey[k] = p.recent.PushFront(&entry{key: k, transport: tr, used: p.now()})
	return tr, u, nil
}

// Close lets go of all connections that carry no request.
func (p *Pool) Close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.recent.Len() > 0 {
		p.drop(p.recent.Back())
	}
}

// sweep drops what nobody used for long and what is too much. It is run at each
// use rather than by a clock: a transport that waits for the next sweep has no
// open connections any more.
func (p *Pool) sweep() {
	for e := p.recent.Back(); e != nil; e = p.recent.Back() {
		if p.recent.Len() < maxTargets && p.now().Sub(e.Value.(*entry).used) < keepUnused {
			return
		}
		p.drop(e)
	}
}

func (p *Pool) drop(e *list.Element) {
	old := p.recent.Remove(e).(*entry)
	delete(p.byKey, old.key)
	old.transport.CloseIdleConnections()
}

func (t Target) url() (*url.URL, error) {
	if s := t.Service; s != nil {
		port := s.Port
		if port == 0 {
			port = defaultPort
		}
		u := &url.URL{Scheme: "https", Host: net.JoinHostPort(s.host(), strconv.Itoa(int(port)))}
		ref, err := url.ParseRequestURI("/")
		if s.Path != "" {
			ref, err = url.ParseRequestURI(s.Path)
		}
		if err != nil {
			return nil, fmt.Errorf("the path of service %s/%s: %w", s.Namespace, s.Name, err)
		}
		u.Path, u.RawPath, u.RawQuery = ref.Path, ref.RawPath, ref.RawQuery
		return u, nil
	}
	if t.URL == "" {
		return nil, errors.New("webhook configuration must have either service or URL")
	}
	u, err := url.Parse(t.URL)
	if err != nil {
		return nil, fmt.Errorf("unparsable webhook URL: %w", err)
	}
	// As upstream's client joins it: many a webhook is registered with two
	// slashes where its server has one.
	if joined := path.Join("/", u.Path); joined != u.Path {
		u.Path, u.RawPath = joined, ""
	}
	return u, nil
}

func (t Target) key(u *url.URL) key {
	k := key{
		scheme: u.Scheme, host: u.Host, ca: sha256.Sum256(t.CABundle),
		insecure: t.InsecureSkipTLSVerify, cert: t.ShowClientCert, h1: t.OnlyHTTP1,
	}
	if t.Service != nil {
		k.namespace, k.service, k.port = t.Service.Namespace, t.Service.Name, t.Service.Port
	}
	return k
}

func (p *Pool) transport(t Target, u *url.URL) (*http.Transport, error) {
	conf, err := p.tls(t, u)
	if err != nil {
		return nil, err
	}
	tr := &http.Transport{
		TLSClientConfig: conf, ForceAttemptHTTP2: !t.OnlyHTTP1, MaxIdleConnsPerHost: 32,
		IdleConnTimeout: idleConnection, TLSHandshakeTimeout: 10 * time.Second, MaxResponseHeaderBytes: maxHeaderBytes,
		HTTP2: &http.HTTP2Config{SendPingTimeout: pingAfter, PingTimeout: pingTimeout},
	}
	dialer := &net.Dialer{Timeout: dialTimeout, KeepAlive: 30 * time.Second}
	if t.Service == nil {
		tr.Proxy, tr.DialContext = http.ProxyFromEnvironment, dialer.DialContext
		return tr, nil
	}
	svc := *t.Service
	tr.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
		return p.dial(ctx, dialer, svc)
	}
	return tr, nil
}

func (p *Pool) tls(t Target, u *url.URL) (*tls.Config, error) {
	conf := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: u.Hostname(), InsecureSkipVerify: t.InsecureSkipTLSVerify}
	if len(t.CABundle) > 0 {
		conf.RootCAs = x509.NewCertPool()
		if !conf.RootCAs.AppendCertsFromPEM(t.CABundle) {
			return nil, errors.New("unable to load root certificates: unable to parse bytes as PEM block")
		}
	}
	if t.ShowClientCert && p.cfg.ClientCert != nil {
		conf.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return p.cfg.ClientCert() }
	}
	return conf, nil
}
