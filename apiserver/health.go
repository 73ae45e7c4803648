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
	run  func(ctx context.Context) error
}

// startHooks are upstream's names for what is done here by the time that Run says
// it is ready: objects that every cluster has are there, the store's world is in
// memory with the definitions in it, and what follows it is running. Monitoring
// asks for some of them by name.
var startHooks = []string{
	"start-apiserver-admission-initializer", "generic-apiserver-start-informers", "priority-and-fairness-config-consumer",
	"priority-and-fairness-filter", "storage-object-count-tracker-hook", "start-apiextensions-informers",
	"start-apiextensions-controllers", "crd-informer-synced", "start-system-namespaces-controller",
	"start-cluster-authentication-info-controller", "start-service-ip-repair-controllers", "rbac/bootstrap-roles",
	"scheduling/bootstrap-system-priority-classes", "priority-and-fairness-config-producer", "bootstrap-controller",
	"start-kube-aggregator-informers", "apiservice-registration-controller", "apiservice-status-local-available-controller",
	"apiservice-status-remote-available-controller", "apiservice-discovery-controller", "kube-apiserver-autoregistration",
	"apiservice-openapi-controller", "apiservice-openapiv3-controller", "storage-readiness",
}

// checks are those of /livez, /healthz or /readyz, under upstream's names as far
// as there is the like here.
func (s *Server) checks(endpoint string) []check {
	done := func(b func() bool) func(context.Context) error {
		return func(context.Context) error {
			if !b() {
				return errors.New("not finished")
			}
			return nil
		}
	}
	works := func(context.Context) error { return nil } // whoever answers does
	out := []check{{"ping", works}, {"log", works}, {"etcd", s.cfg.Store.Healthy}}
	if endpoint == "readyz" {
		out = append(out, check{"etcd-readiness", s.cfg.Store.Healthy}, check{"informer-sync", done(s.ready.Load)})
	}
	for _, hook := range startHooks {
		out = append(out, check{"poststarthook/" + hook, done(s.ready.Load)})
	}
	out = append(out, check{"autoregister-completion", done(s.aggregate.Complete)})
	if s.cfg.Checks != nil {
		for name, run := range s.cfg.Checks() {
			out = append(out, check{name, run})
		}
	}
	if endpoint == "readyz" {
		out = append(out, check{"shutdown", func(context.Context) error {
			if s.stopping.Load() {
				return errors.New("process is shutting down")
			}
			return nil
		}})
	}
	return out
}

// healthTimeout is the time that all checks of a request have; a datastore
// elsewhere may take it.
const healthTimeout = 2 * time.Second

// serveHealth answers /readyz and its like: "ok", or with verbose or on failure
// a line a check; exclude leaves checks out; /readyz/NAME runs one. Why a check
// failed is for the log: anybody may ask.
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
	text, failed := s.runChecks(x.r.Context(), endpoint, checks, query["exclude"])
	if !one {
		text += s.spaceLine()
	}
	_, verbose := query["verbose"]
	switch {
	case failed:
		x.text(http.StatusInternalServerError, text+endpoint+" check failed\n")
	case verbose && !one:
		x.text(http.StatusOK, text+endpoint+" check passed\n")
	default:
		x.text(http.StatusOK, "ok")
	}
}

func (s *Server) runChecks(ctx context.Context, endpoint string, checks []check, exclude []string) (text string, failed bool) {
	ctx, cancel := context.WithTimeout(ctx, healthTimeout)
	defer cancel()
	var b strings.Builder
	for _, c := range checks {
		if i := slices.Index(exclude, c.name); i >= 0 {
			exclude = slices.Delete(slices.Clone(exclude), i, i+1)
			fmt.Fprintf(&b, "[+]%s excluded: ok\n", c.name)
			continue
		}
		err := c.run(ctx)
		s.metrics.checked(c.name, endpoint, err)
		if err != nil {
			failed = true
			s.cfg.Log.Warn("a health check failed", "endpoint", endpoint, "check", c.name, "err", err)
			fmt.Fprintf(&b, "[-]%s failed: reason withheld\n", c.name)
			continue
		}
		fmt.Fprintf(&b, "[+]%s ok\n", c.name)
	}
	if len(exclude) > 0 {
		fmt.Fprintf(&b, "warn: some health checks cannot be excluded: no matches for %q\n", exclude)
	}
	return b.String(), failed
}

// spaceLine warns of a full disk. It fails no check: reads and deletes work, and
// whoever is to free the space needs them.
func (s *Server) spaceLine() string {
	if s.cfg.Store.Room() == nil {
		return ""
	}
	return "warn: the disk that holds the cluster's state is full, creates and updates are refused: free space there or delete objects\n"
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
	keys, err := s.cfg.Tokens.JWKS()
	if err != nil {
		x.fail(apierrors.NewInternalError(err))
		return
	}
	if path == "/openid/v1/jwks" {
		x.raw(http.StatusOK, "application/jwk-set+json", keys)
		return
	}
	x.json(http.StatusOK, map[string]any{
		"issuer":                                s.cfg.Tokens.Issuer(),
		"jwks_uri":                              "https://" + s.cfg.ExternalHost + "/openid/v1/jwks",
		"response_types_supported":              []string{"id_token"},
		"subject_types_supported":               []string{"public"},
		"id_token_signing_alg_values_supported": algorithms(keys),
	})
}

// algorithms are those that the keys of a set sign with.
func algorithms(jwks []byte) []string {
	var set struct {
		Keys []struct {
			Alg string `json:"alg"`
		} `json:"keys"`
	}
	if json.Unmarshal(jwks, &set) != nil { // it is our own work
		return nil
	}
	var out []string
	for _, k := range set.Keys {
		if !slices.Contains(out, k.Alg) {
			out = append(out, k.Alg)
		}
	}
	slices.Sort(out)
	return out
}
