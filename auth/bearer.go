package auth

import (
	"context"
	"encoding/base64"
	"errors"
	"net/http"
	"slices"
	"strings"
	"unicode/utf8"
)

// ErrNotOurs is a TokenReviewer's word for a token that it knows nothing of.
var ErrNotOurs = errors.New("the token was not issued here")

// errInvalidToken is what a client is told of a token that nobody knows.
var errInvalidToken = errors.New("invalid bearer token")

// TokenReviewers asks each in turn; the first that knows the token's user counts.
type TokenReviewers []TokenReviewer

func (rs TokenReviewers) Review(ctx context.Context, token string, audiences []string) (User, []string, error) {
	var errs []error
	for _, r := range rs {
		u, good, err := r.Review(ctx, token, audiences)
		if err == nil {
			return u, good, nil
		}
		if !errors.Is(err, ErrNotOurs) {
			errs = append(errs, err)
		}
	}
	if len(errs) == 0 {
		return User{}, nil, ErrNotOurs
	}
	return User{}, nil, errors.Join(errs...)
}

// ForAPI is a reviewer of tokens that name no audience: they are good for the
// API's own audiences only.
type ForAPI struct {
	Audiences []string
	Token     func(ctx context.Context, token string) (User, error)
}

func (f ForAPI) Review(ctx context.Context, token string, asked []string) (User, []string, error) {
	good := f.Audiences
	if len(asked) > 0 {
		good = slices.DeleteFunc(slices.Clone(f.Audiences), func(a string) bool { return !slices.Contains(asked, a) })
		if len(good) == 0 {
			return User{}, nil, ErrNotOurs
		}
	}
	u, err := f.Token(ctx, token)
	return u, good, err
}

// BearerTokens authenticates by the token in the Authorization header, or in the
// WebSocket subprotocol that browsers use for it.
type BearerTokens struct{ Tokens TokenReviewer }

func (b BearerTokens) Authenticate(r *http.Request) (User, bool, error) {
	token, ok := bearer(r)
	if !ok {
		return User{}, false, nil
	}
	u, _, err := b.Tokens.Review(r.Context(), token, nil)
	if errors.Is(err, ErrNotOurs) {
		return User{}, false, errInvalidToken
	}
	return u, err == nil, err
}

func bearer(r *http.Request) (string, bool) {
	scheme, token, _ := strings.Cut(strings.TrimSpace(r.Header.Get("Authorization")), " ")
	if token = strings.TrimSpace(token); strings.EqualFold(scheme, "bearer") && token != "" {
		return token, true
	}
	return webSocketToken(r.Header)
}

// webSocketProtocol carries a token, base64url-encoded without padding, where a
// browser's script cannot set headers.
const webSocketProtocol = "base64url.bearer.authorization.k8s.io."

// webSocketToken takes the token out of the offered protocols, which must leave
// at least one other.
func webSocketToken(h http.Header) (string, bool) {
	if !strings.EqualFold(h.Get("Upgrade"), "websocket") {
		return "", false
	}
	token, rest := "", []string(nil)
	for _, line := range h.Values("Sec-Websocket-Protocol") {
		for _, p := range strings.Split(line, ",") {
			p = strings.TrimSpace(p)
			coded, ok := strings.CutPrefix(p, webSocketProtocol)
			if !ok {
				rest = append(rest, p)
				continue
			}
			if raw, err := base64.RawURLEncoding.DecodeString(coded); err == nil && utf8.Valid(raw) && token == "" {
				token = string(raw)
			}
		}
	}
	if token == "" || len(rest) == 0 {
		return "", false
	}
	h.Set("Sec-Websocket-Protocol", strings.Join(rest, ","))
	return token, true
}
