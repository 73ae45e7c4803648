package apiserver

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// check is one thing that a health endpoint looks at.
type check struct {
	name string
	run  func() error
}

// checks are those of /livez, /healthz or /readyz.
func (s *Server) checks(endpoint string) []check {
	out := []check{
		{"ping", func() error { return nil }},
		{"etcd", s.storeWorks},
	}
	if endpoint != "livez" {
		out = append(out, check{"poststarthook/bootstrap-controller", func() error {
			if !s.ready.Load() {
				return errors.New("not finished")
			}
			return nil
		}})
	}
	if endpoint == "readyz" {
		out = append(out, check{"shutdown", func() error {
			if s.stopping.Load() {
				return errors.New("process is shutting down")
			}
			return nil
		}})
	}
	return out
}

// healthWait is how long a datastore elsewhere may take to show that it works.
const healthWait = 2 * time.Second

// storeWorks reports a store that has closed, whose engine failed for good, or
// whose datastore does not answer.
func (s *Server) storeWorks() error {
	ctx, cancel := context.WithTimeout(context.Background(), healthWait)
	defer cancel()
	return s.cfg.Store.Healthy(ctx)
}

// serveHealth answers /readyz and its like: "ok", or with verbose or on failure
// a line a check; exclude leaves checks out; /readyz/NAME runs one.
func (s *Server) serveHealth(x *exchange, path string) {
	endpoint, only, one := strings.Cut(strings.TrimPrefix(path, "/"), "/")
	checks := s.checks(endpoint)
	query := x.r.URL.Query()
	if one {
		checks = slices.DeleteFunc(checks, func(c check) bool { return c.name != only })
		if len(checks) == 0 {
			x.fail(noPath())
			return
		}
	}
	var b strings.Builder
	failed := false
	for _, c := range checks {
		if slices.Contains(query["exclude"], c.name) {
			fmt.Fprintf(&b, "[+]%s excluded: ok\n", c.name)
			continue
		}
		if err := c.run(); err != nil {
			failed = true
			fmt.Fprintf(&b, "[-]%s failed: %v\n", c.name, err)
			continue
		}
		fmt.Fprintf(&b, "[+]%s ok\n", c.name)
	}
	_, verbose := query["verbose"]
	switch {
	case failed:
		x.text(http.StatusInternalServerError, b.String()+endpoint+" check failed\n")
	case verbose && !one:
		x.text(http.StatusOK, b.String()+endpoint+" check passed\n")
	default:
		x.text(http.StatusOK, "ok")
	}
}

func (x *exchange) text(code int, text string) {
	x.Header().Set("Content-Type", "text/plain; charset=utf-8")
	x.Header().Set("X-Content-Type-Options", "nosniff")
	x.Header().Set("Cache-Control", "no-cache, private")
	x.WriteHeader(code)
	_, _ = x.Write([]byte(text)) // a client that went away cannot be told
}

// json answers with a document that is not an API object.
func (x *exchange) json(code int, doc any) {
	data, err := json.MarshalIndent(doc, "", "  ")
	if err != nil {
		x.fail(apierrors.NewInternalError(err))
		return
	}
	x.raw(code, "application/json", data)
}

func (x *exchange) raw(code int, contentType string, data []byte) {
	x.Header().Set("Content-Type", contentType)
	x.Header().Set("Content-Length", strconv.Itoa(len(data)))
	x.WriteHeader(code)
	if x.r.Method != http.MethodHead {
		_, _ = x.Write(data) // as above
	}
}

func etag(data []byte) string {
	sum := sha256.Sum256(data)
	return `"` + strings.ToUpper(hex.EncodeToString(sum[:])) + `"`
}

// serveOpenID publishes what verifies service account tokens (OIDC discovery).
func (s *Server) serveOpenID(x *exchange, path string) {
	if s.cfg.Tokens == nil {
		x.fail(noPath())
		return
	}
	x.Header().Set("Cache-Control", "public, max-age=3600")
	if path == "/openid/v1/jwks" {
		keys, err := s.cfg.Tokens.JWKS()
		if err != nil {
			x.fail(apierrors.NewInternalError(err))
			return
		}
		x.raw(http.StatusOK, "application/jwk-set+json", keys)
		return
	}
	x.json(http.StatusOK, map[string]any{
		"issuer":                                s.cfg.Tokens.Issuer(),
		"jwks_uri":                              "https://" + s.cfg.ExternalHost + "/openid/v1/jwks",
		"response_types_supported":              []string{"id_token"},
		"subject_types_supported":               []string{"public"},
		"id_token_signing_alg_values_supported": []string{"RS256", "ES256"},
	})
}
