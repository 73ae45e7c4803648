package structured

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
	"golang.org/x/sync/singleflight"
	apiserver "k8s.io/apiserver/pkg/apis/apiserver"
)

const (
	// fetchTimeout bounds a question to the issuer; maxDocument its answer.
	fetchTimeout = 10 * time.Second
	maxDocument  = 1 << 20
	// refetch is the least time between two looks for keys that are not known,
	// so that forged tokens cannot make the issuer busy.
	refetch = 10 * time.Second
)

// keys are an issuer's public keys. They are fetched when the first token comes,
// and again when one is signed with a key that is not among them.
type keys struct {
	issuer, discovery string
	client            *http.Client
	now               func() time.Time

	fetches singleflight.Group // who comes meanwhile wants the same
	mu      sync.Mutex
	set     jose.JSONWebKeySet
	asked   time.Time
	err     error
}

func newKeys(i apiserver.Issuer) (*keys, error) {
	tlsConf := &tls.Config{MinVersion: tls.VersionTLS12}
	if i.CertificateAuthority != "" {
		tlsConf.RootCAs = x509.NewCertPool()
		if !tlsConf.RootCAs.AppendCertsFromPEM([]byte(i.CertificateAuthority)) {
			return nil, fmt.Errorf("issuer %s: certificateAuthority holds no certificate", i.URL)
		}
	}
	k := &keys{issuer: i.URL, discovery: i.DiscoveryURL, now: time.Now, client: &http.Client{Timeout: fetchTimeout,
		Transport: &http.Transport{TLSClientConfig: tlsConf, Proxy: http.ProxyFromEnvironment, IdleConnTimeout: time.Minute, ForceAttemptHTTP2: true}}}
	if k.discovery == "" {
		k.discovery = strings.TrimSuffix(i.URL, "/") + "/.well-known/openid-configuration"
	}
	return k, nil
}

// find returns the key with the ID; one without an ID may be any.
func (k *keys) find(ctx context.Context, id string) (any, error) {
	key, due, _ := k.known(id)
	if key != nil {
		return key, nil
	}
	if due {
		_, _, _ = k.fetches.Do("", func() (any, error) { k.refresh(ctx); return nil, nil })
	}
	key, _, err := k.known(id)
	switch {
	case key != nil:
		return key, nil
	case err != nil:
		return nil, err
	}
	return nil, errors.New("failed to verify signature: the issuer has no such key")
}

// refresh fetches the keys; on failure the old ones stay.
func (k *keys) refresh(ctx context.Context) {
	set, err := k.fetch(ctx)
	k.mu.Lock()
	defer k.mu.Unlock()
	if err == nil {
		k.set = set
	}
	k.asked, k.err = k.now(), err
}

// known looks among the keys that are there, and tells whether it is time to ask
// for others and how that went last.
func (k *keys) known(id string) (key any, due bool, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	due, err = k.asked.IsZero() || k.now().Sub(k.asked) >= refetch, k.err
	if id == "" && len(k.set.Keys) > 0 {
		return k.set, due, err
	}
	if found := k.set.Key(id); len(found) > 0 {
		return found[0], due, err
	}
	return nil, due, err
}

// fetch asks the issuer where its keys are, and then for them.
func (k *keys) fetch(ctx context.Context) (set jose.JSONWebKeySet, err error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), fetchTimeout)
	defer cancel()
	var doc struct {
		Issuer string `json:"issuer"`
		JWKS   string `json:"jwks_uri"`
	}
	if err := k.get(ctx, k.discovery, &doc); err != nil {
		return set, err
	}
	if doc.Issuer != k.issuer {
		return set, fmt.Errorf("oidc: issuer did not match the issuer returned by provider, expected %q got %q", k.issuer, doc.Issuer)
	}
	return set, k.get(ctx, doc.JWKS, &set)
}

func (k *keys) get(ctx context.Context, url string, into any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := k.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answered %s", url, resp.Status)
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxDocument)).Decode(into); err != nil {
		return fmt.Errorf("%s: %w", url, err)
	}
	return nil
}
