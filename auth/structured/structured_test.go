package structured

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"

	"proa/auth"
)

// provider is an OpenID Connect issuer over TLS.
type provider struct {
	*httptest.Server
	key    *ecdsa.PrivateKey
	id     atomic.Value
	served atomic.Int64
}

func newProvider(t *testing.T) *provider {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p := &provider{key: key}
	p.id.Store("one")
	mux := http.NewServeMux()
	mux.HandleFunc("/.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, `{"issuer":%q,"jwks_uri":%q}`, p.URL, p.URL+"/keys")
	})
	mux.HandleFunc("/keys", func(w http.ResponseWriter, _ *http.Request) {
		p.served.Add(1)
		_ = json.NewEncoder(w).Encode(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: key.Public(), KeyID: p.id.Load().(string), Algorithm: "ES256", Use: "sig"}}})
	})
	p.Server = httptest.NewTLSServer(mux)
	t.Cleanup(p.Close)
	return p
}

func (p *provider) ca() string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: p.Certificate().Raw}))
}

// token signs claims; iss, aud and exp are filled in where they are not given.
func (p *provider) token(t *testing.T, claims map[string]any) string {
	t.Helper()
	all := map[string]any{"iss": p.URL, "aud": "proa", "exp": time.Now().Add(time.Hour).Unix()}
	for k, v := range claims {
		all[k] = v
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: p.key, KeyID: p.id.Load().(string)}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := jwt.Signed(signer).Claims(all).Serialize()
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func indent(text string) string {
	return "      " + strings.ReplaceAll(strings.TrimSpace(text), "\n", "\n      ")
}

func write(t *testing.T, file, text string) string {
	t.Helper()
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

const head = "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthenticationConfiguration\n"

func (p *provider) config(rest string) string {
	return head + "jwt:\n- issuer:\n    url: " + p.URL + "\n    audiences: [proa, other]\n    audienceMatchPolicy: MatchAny\n    certificateAuthority: |\n" + indent(p.ca()) + "\n" + rest
}

const byClaims = `  claimValidationRules:
  - {claim: tenant, requiredValue: shop}
  claimMappings:
    username: {claim: email, prefix: "oidc:"}
    groups: {claim: teams, prefix: "team:"}
    uid: {claim: sub}
`

const byExpressions = `  claimValidationRules:
  - {expression: 'claims.level > 2', message: too low}
  claimMappings:
    username: {expression: '"x:" + claims.name'}
    groups: {expression: 'claims.roles.split(",")'}
    extra:
    - {key: example.com/level, valueExpression: 'string(claims.level)'}
  userValidationRules:
  - {expression: '!user.username.startsWith("x:system:")', message: reserved}
`

// TestIssuersTokens plays an issuer, with claims mapped plainly and by
// expressions.
func TestIssuersTokens(t *testing.T) {
	p := newProvider(t)
	other := newProvider(t)
	ann := map[string]any{"email": "ann@a", "email_verified": true, "teams": []string{"a", "b"}, "sub": "7", "tenant": "shop"}
	with := func(base map[string]any, k string, v any) map[string]any {
		out := map[string]any{k: v}
		for k, v := range base {
			if _, ok := out[k]; !ok {
				out[k] = v
			}
		}
		return out
	}
	ben := map[string]any{"name": "ben", "roles": "r1,r2", "level": 3}
	forged := p.token(t, ann)
	forged = forged[:len(forged)-4] + "AAAA"
	for _, c := range []struct{ name, conf, token, want string }{
		{"plain", byClaims, p.token(t, ann), "oidc:ann@a 7 [team:a team:b] map[]"},
		{"one group as text", byClaims, p.token(t, with(ann, "teams", "a")), "oidc:ann@a 7 [team:a] map[]"},
		{"not verified", byClaims, p.token(t, with(ann, "email_verified", false)), "oidc: email not verified"},
		{"another tenant", byClaims, p.token(t, with(ann, "tenant", "x")), "oidc: required claim tenant value does not match. Got = x, want = shop"},
		{"another audience", byClaims, p.token(t, with(ann, "aud", "they")), `oidc: verify token: expected audience in ["proa" "other"] got ["they"]`},
		{"expired", byClaims, p.token(t, with(ann, "exp", time.Now().Add(-time.Minute).Unix())), "oidc: verify token: go-jose/go-jose/jwt: validation failed, token is expired (exp)"},
		{"forged", byClaims, forged, "oidc: verify token: go-jose/go-jose: error in cryptographic primitive"},
		{"of another issuer", byClaims, other.token(t, ann), auth.ErrNotOurs.Error()},
		{"no token at all", byClaims, "x", auth.ErrNotOurs.Error()},
		{"by expressions", byExpressions, p.token(t, ben), "x:ben  [r1 r2] map[example.com/level:[3]]"},
		{"a rule says no", byExpressions, p.token(t, with(ben, "level", 1)), "oidc: error evaluating claim validation expression: validation expression 'claims.level > 2' failed: too low"},
		{"a rule about the user", byExpressions, p.token(t, with(ben, "name", "system:x")), "reserved"},
		{"a claim that is missing", byExpressions, p.token(t, map[string]any{"level": 3, "roles": ""}), "oidc: error evaluating username claim expression"},
	} {
		t.Run(c.name, func(t *testing.T) {
			a, err := OpenAuthentication(write(t, filepath.Join(t.TempDir(), "c"), p.config(c.conf)), slog.New(slog.DiscardHandler))
			if err != nil {
				t.Fatal(err)
			}
			u, err := a.Token(t.Context(), c.token)
			got := fmt.Sprint(u.Name, " ", u.UID, " ", u.Groups, " ", u.Extra)
			if err != nil {
				got = err.Error()
			}
			if !strings.Contains(got, c.want) {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
}

// TestKeysAreFetchedWhenNeeded: once for many tokens, again for a new key, and not
// for every forged one.
func TestKeysAreFetchedWhenNeeded(t *testing.T) {
	p := newProvider(t)
	a, err := OpenAuthentication(write(t, filepath.Join(t.TempDir(), "c"), p.config("  claimMappings:\n    username: {claim: sub, prefix: \"\"}\n")), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	k := a.now.Load().issuers[0].keys
	now := time.Now()
	k.now = func() time.Time { return now }
	first := p.token(t, map[string]any{"sub": "ann"})
	for range 3 {
		if _, err := a.Token(t.Context(), first); err != nil {
			t.Fatal(err)
		}
	}
	p.id.Store("two")
	second := p.token(t, map[string]any{"sub": "ann"})
	for range 3 {
		if _, err := a.Token(t.Context(), second); err == nil {
			t.Error("a key that cannot be known yet")
		}
	}
	if n := p.served.Load(); n != 1 {
		t.Errorf("%d fetches, want 1", n)
	}
	now = now.Add(refetch)
	if _, err := a.Token(t.Context(), second); err != nil {
		t.Error(err)
	}
	if n := p.served.Load(); n != 2 {
		t.Errorf("%d fetches, want 2", n)
	}
}

// TestTheFileIsReadAnew replaces the file by a better, a wrong and another one.
func TestTheFileIsReadAnew(t *testing.T) {
	file := write(t, filepath.Join(t.TempDir(), "c"), head)
	a, err := OpenAuthentication(file, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	await := func(what string, cond func() bool) {
		t.Helper()
		for end := time.Now().Add(10 * time.Second); !cond(); time.Sleep(5 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatal(what)
			}
		}
	}
	if !a.Anonymous("/x") {
		t.Error("without a word about it, nobody is let in without credentials")
	}
	write(t, file, head+"anonymous:\n  enabled: true\n  conditions:\n  - path: /healthz\n")
	await("the conditions do not hold", func() bool { return a.Anonymous("/healthz") && !a.Anonymous("/x") })
	write(t, file, head+"anonymous: {enabled: sometimes}\n")
	write(t, file, head+"nonsense: true\n")
	time.Sleep(20 * time.Millisecond)
	if !a.Anonymous("/healthz") || a.Anonymous("/x") {
		t.Error("a wrong file took effect")
	}
	write(t, file, head+"anonymous: {enabled: false}\n")
	await("the last file does not hold", func() bool { return !a.Anonymous("/healthz") })
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestWrongFiles(t *testing.T) {
	for name, text := range map[string]string{
		"another kind":   "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthorizationConfiguration\n",
		"unknown fields": head + "nonsense: true\n",
		"no audience":    head + "jwt:\n- issuer: {url: https://a}\n  claimMappings:\n    username: {claim: sub, prefix: \"\"}\n",
		"bad CEL":        head + "jwt:\n- issuer: {url: https://a, audiences: [b]}\n  claimMappings:\n    username: {expression: 'claims.('}\n",
		"a reserved URL": head + "jwt:\n- issuer: {url: https://own, audiences: [b]}\n  claimMappings:\n    username: {claim: sub, prefix: \"\"}\n",
		"nothing":        "",
	} {
		if _, err := OpenAuthentication(write(t, filepath.Join(t.TempDir(), "c"), text), slog.New(slog.DiscardHandler), "https://own"); err == nil {
			t.Errorf("%s was taken", name)
		}
	}
}

// webhook answers reviews over TLS and returns the kubeconfig that leads to it.
func webhook(t *testing.T, f http.HandlerFunc) string {
	t.Helper()
	s := httptest.NewTLSServer(f)
	t.Cleanup(s.Close)
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
	data, err := json.Marshal(ca)
	if err != nil {
		t.Fatal(err)
	}
	return write(t, filepath.Join(t.TempDir(), "kubeconfig"), fmt.Sprintf(`{"apiVersion":"v1","kind":"Config","current-context":"c",
"clusters":[{"name":"c","cluster":{"server":%q,"certificate-authority-data":%s}}],"contexts":[{"name":"c","context":{"cluster":"c","user":"u"}}],"users":[{"name":"u","user":{"token":"t"}}]}`, s.URL+"/review", data))
}

// TestAuthorizationWebhook goes through its answers, conditions and failures.
// judgement answers reviews, and counts them.
func judgement(calls *atomic.Int64) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		calls.Add(1)
		var in authorizationv1.SubjectAccessReview
		if err := json.NewDecoder(r.Body).Decode(&in); err != nil || r.URL.Path != "/review" || r.Header.Get("Authorization") != "Bearer t" || in.APIVersion != "authorization.k8s.io/v1" {
			http.Error(w, "bad", http.StatusBadRequest)
			return
		}
		switch in.Spec.User {
		case "ann":
			in.Status = authorizationv1.SubjectAccessReviewStatus{Allowed: true, Reason: "she is"}
		case "ben":
			in.Status = authorizationv1.SubjectAccessReviewStatus{Denied: true, Reason: "he is not"}
		case "liar":
			in.Status = authorizationv1.SubjectAccessReviewStatus{Denied: true, Allowed: true}
		case "down":
			http.Error(w, "down", http.StatusBadGateway)
			return
		}
		_ = json.NewEncoder(w).Encode(in)
	}
}

// oneWebhook is a configuration with a webhook that fails by the policy.
func oneWebhook(kubeconfig, policy string) string {
	return `apiVersion: apiserver.config.k8s.io/v1
kind: AuthorizationConfiguration
authorizers:
- type: Webhook
  name: own
  webhook:
    timeout: 3s
    authorizedTTL: 5m
    unauthorizedTTL: 30s
    subjectAccessReviewVersion: v1
    matchConditionSubjectAccessReviewVersion: v1
    failurePolicy: ` + policy + `
    connectionInfo: {type: KubeConfigFile, kubeConfigFile: ` + kubeconfig + `}
    matchConditions:
    - expression: "has(request.resourceAttributes) && request.resourceAttributes.namespace == 'shop'"
- type: RBAC
  name: rbac
`
}

func TestAuthorizationWebhook(t *testing.T) {
	var calls atomic.Int64
	kubeconfig := webhook(t, judgement(&calls))
	rbac := map[string]auth.Authorizer{"RBAC": auth.Always(auth.NoOpinion), "Node": auth.Always(auth.NoOpinion)}
	open := func(policy string) *Authorization {
		a, err := OpenAuthorization(write(t, filepath.Join(t.TempDir(), "c"), oneWebhook(kubeconfig, policy)), slog.New(slog.DiscardHandler), rbac)
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	ask := func(a *Authorization, user, namespace string) auth.Decision {
		d, _, _ := a.Authorize(t.Context(), auth.Attributes{User: auth.User{Name: user}, Verb: "get", Resource: "pods", Namespace: namespace, ResourceRequest: true, FieldSelector: "spec.nodeName=a"})
		return d
	}
	a := open("NoOpinion")
	for range 3 {
		if d := ask(a, "ann", "shop"); d != auth.Allow {
			t.Error("ann:", d)
		}
	}
	if n := calls.Load(); n != 1 {
		t.Errorf("%d calls for one question", n)
	}
	for user, want := range map[string]auth.Decision{"ben": auth.Deny, "liar": auth.Deny, "nobody": auth.Deny} {
		if d := ask(a, user, "shop"); d != want {
			t.Errorf("%s: %v", user, d)
		}
	}
	before := calls.Load()
	if d := ask(a, "ann", "elsewhere"); d == auth.Allow || calls.Load() != before {
		t.Error("asked although the condition does not hold")
	}
	w := (*open("Deny").now.Load())[0]
	if d, _, err := w.Authorize(t.Context(), auth.Attributes{User: auth.User{Name: "down"}, Verb: "get", Resource: "pods", Namespace: "shop", ResourceRequest: true}); d != auth.Deny || err == nil {
		t.Errorf("down, failing closed: %v %v", d, err)
	}
	w = (*a.now.Load())[0]
	if d, _, err := w.Authorize(t.Context(), auth.Attributes{User: auth.User{Name: "down"}, Verb: "get", Resource: "pods", Namespace: "shop", ResourceRequest: true}); d != auth.NoOpinion || err == nil {
		t.Errorf("down, failing open: %v %v", d, err)
	}
}

func TestTokenWebhook(t *testing.T) {
	var calls atomic.Int64
	w, err := NewTokenWebhook(webhook(t, func(w http.ResponseWriter, r *http.Request) {
		calls.Add(1)
		var in authenticationv1.TokenReview
		if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
			http.Error(w, "bad", http.StatusBadRequest)
			return
		}
		in.Status.Authenticated = in.Spec.Token == "good"
		in.Status.User = authenticationv1.UserInfo{Username: "ann", Groups: []string{"dev"}, Extra: map[string]authenticationv1.ExtraValue{"a": {"b"}}}
		_ = json.NewEncoder(w).Encode(in)
	}), "api")
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		u, good, err := w.Review(t.Context(), "good", nil)
		if err != nil || u.Name != "ann" || !u.In("dev") || len(good) != 1 || u.Extra["a"][0] != "b" {
			t.Errorf("%+v %v %v", u, good, err)
		}
	}
	if n := calls.Load(); n != 1 {
		t.Errorf("%d calls for one token", n)
	}
	for token, audience := range map[string]string{"bad": "api", "good": "vault"} {
		if _, _, err := w.Review(t.Context(), token, []string{audience}); !errors.Is(err, auth.ErrNotOurs) {
			t.Errorf("%s for %s: %v", token, audience, err)
		}
	}
}

func TestTokenFile(t *testing.T) {
	f, err := OpenTokenFile(write(t, filepath.Join(t.TempDir(), "t"), "# comment\nsecret1,ann,7,\"dev,ops\"\nsecret2,ben,8\n"))
	if err != nil {
		t.Fatal(err)
	}
	for token, want := range map[string]string{"secret1": "{ann 7 [dev ops] map[]}", "secret2": "{ben 8 [] map[]}", "secret3": auth.ErrNotOurs.Error()} {
		u, err := f.Token(t.Context(), token)
		got := fmt.Sprint(u)
		if err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("%s: %s, want %s", token, got, want)
		}
	}
	if _, err := OpenTokenFile(write(t, filepath.Join(t.TempDir(), "t"), "secret1,ann\n")); err == nil {
		t.Error("a line without a UID was taken")
	}
}
