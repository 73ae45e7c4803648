package structured

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/google/cel-go/common/types"
	"github.com/google/cel-go/common/types/ref"
	"github.com/google/cel-go/common/types/traits"
	apiserver "k8s.io/apiserver/pkg/apis/apiserver"
	authenticationcel "k8s.io/apiserver/pkg/authentication/cel"

	"proa/auth"
)

var algorithms = []jose.SignatureAlgorithm{jose.RS256, jose.RS384, jose.RS512, jose.ES256, jose.ES384, jose.ES512, jose.PS256, jose.PS384, jose.PS512}

// issuer knows the tokens of one OpenID Connect issuer.
type issuer struct {
	conf   apiserver.JWTAuthenticator
	mapper authenticationcel.CELMapper
	keys   *keys
	now    func() time.Time
}

func newIssuer(conf apiserver.JWTAuthenticator, mapper authenticationcel.CELMapper) (*issuer, error) {
	k, err := newKeys(conf.Issuer)
	return &issuer{conf: conf, mapper: mapper, keys: k, now: time.Now}, err
}

// user checks a token and says whose it is: auth.ErrNotOurs if another issuer is
// named in it.
func (i *issuer) user(ctx context.Context, raw string) (auth.User, error) {
	token, err := jwt.ParseSigned(raw, algorithms)
	if err != nil {
		return auth.User{}, auth.ErrNotOurs
	}
	var std jwt.Claims
	if err := token.UnsafeClaimsWithoutVerification(&std); err != nil || std.Issuer != i.conf.Issuer.URL {
		return auth.User{}, auth.ErrNotOurs
	}
	claims, err := i.verified(ctx, token)
	if err != nil {
		return auth.User{}, fmt.Errorf("oidc: verify token: %w", err)
	}
	if err := i.judgeClaims(ctx, claims); err != nil {
		return auth.User{}, err
	}
	u, err := i.mapUser(ctx, claims)
	if err != nil {
		return u, err
	}
	return u, i.judgeUser(ctx, u)
}

// verified checks signature, audience and times.
func (i *issuer) verified(ctx context.Context, token *jwt.JSONWebToken) (claimSet, error) {
	key, err := i.keys.find(ctx, token.Headers[0].KeyID)
	if err != nil {
		return nil, err
	}
	var std jwt.Claims
	claims := claimSet{}
	if err := token.Claims(key, &std, &claims); err != nil {
		return nil, err
	}
	if !slices.ContainsFunc(i.conf.Issuer.Audiences, func(a string) bool { return slices.Contains(std.Audience, a) }) {
		return nil, fmt.Errorf("expected audience in %q got %q", i.conf.Issuer.Audiences, []string(std.Audience))
	}
	if std.Expiry == nil {
		return nil, errors.New("the token never expires")
	}
	return claims, std.ValidateWithLeeway(jwt.Expected{Time: i.now()}, 0)
}

// claimSet is a token's claims as JSON has them.
type claimSet map[string]any

func (c claimSet) cel() traits.Mapper {
	return types.DefaultTypeAdapter.NativeToValue(map[string]any(c)).(traits.Mapper)
}

func (c claimSet) text(name string) (string, error) {
	v, ok := c[name]
	if !ok {
		return "", fmt.Errorf("claim not present")
	}
	s, ok := v.(string)
	if !ok {
		return "", fmt.Errorf("the claim is a %T, not a string", v)
	}
	return s, nil
}

// list reads a claim that is a string or a list of them; an absent one is empty.
func (c claimSet) list(name string) (out []string, err error) {
	switch v := c[name].(type) {
	case nil:
		return nil, nil
	case string:
		return []string{v}, nil
	case []any:
		for _, e := range v {
			s, ok := e.(string)
			if !ok {
				return nil, fmt.Errorf("the claim holds a %T, not strings only", e)
			}
			out = append(out, s)
		}
		return out, nil
	default:
		return nil, fmt.Errorf("the claim is a %T, not a string or a list of them", v)
	}
}

func (i *issuer) judgeClaims(ctx context.Context, c claimSet) error {
	for _, r := range i.conf.ClaimValidationRules {
		if r.Claim == "" {
			continue
		}
		v, err := c.text(r.Claim)
		if err != nil {
			return fmt.Errorf("oidc: parse claim %s: %w", r.Claim, err)
		}
		if v != r.RequiredValue {
			return fmt.Errorf("oidc: required claim %s value does not match. Got = %s, want = %s", r.Claim, v, r.RequiredValue)
		}
	}
	if i.mapper.ClaimValidationRules == nil {
		return nil
	}
	results, err := i.mapper.ClaimValidationRules.EvalClaimMappings(ctx, c.cel())
	if err != nil {
		return fmt.Errorf("oidc: error evaluating claim validation expression: %w", err)
	}
	return judged("oidc: error evaluating claim validation expression", results)
}

// judged wants every rule to have said true.
func judged(what string, results []authenticationcel.EvaluationResult) error {
	for _, r := range results {
		if r.EvalResult == types.True {
			continue
		}
		message := ""
		switch e := r.ExpressionAccessor.(type) {
		case *authenticationcel.ClaimValidationCondition:
			message = e.Message
		case *authenticationcel.UserValidationCondition:
			message = e.Message
		}
		return fmt.Errorf("%s: validation expression '%s' failed: %s", what, r.ExpressionAccessor.GetExpression(), message)
	}
	return nil
}

func (i *issuer) mapUser(ctx context.Context, c claimSet) (u auth.User, err error) {
	if u.Name, err = i.username(ctx, c); err != nil {
		return u, err
	}
	if u.Groups, err = i.groups(ctx, c); err != nil {
		return u, err
	}
	if u.UID, err = i.uid(ctx, c); err != nil {
		return u, err
	}
	u.Extra, err = i.extra(ctx, c)
	return u, err
}

func evaluated(ctx context.Context, what string, m authenticationcel.ClaimsMapper, c claimSet) (ref.Val, error) {
	got, err := m.EvalClaimMapping(ctx, c.cel())
	if err != nil {
		return nil, fmt.Errorf("oidc: error evaluating %s claim expression: %w", what, err)
	}
	return got.EvalResult, nil
}

func (i *issuer) username(ctx context.Context, c claimSet) (string, error) {
	m := i.conf.ClaimMappings.Username
	if i.mapper.Username != nil {
		v, err := evaluated(ctx, "username", i.mapper.Username, c)
		if err != nil {
			return "", err
		}
		if s, ok := v.Value().(string); ok && s != "" {
			return s, nil
		}
		return "", errors.New("oidc: empty username via CEL expression is not allowed")
	}
	name, err := c.text(m.Claim)
	if err != nil {
		return "", fmt.Errorf("oidc: parse username claims %q: %w", m.Claim, err)
	}
	if m.Claim == "email" {
		if v, ok := c["email_verified"]; ok && v != true {
			return "", errors.New("oidc: email not verified")
		}
	}
	return prefixed(m.Prefix, name), nil
}

func prefixed(prefix *string, name string) string {
	if prefix == nil {
		return name
	}
	return *prefix + name
}

func (i *issuer) groups(ctx context.Context, c claimSet) ([]string, error) {
	m := i.conf.ClaimMappings.Groups
	if i.mapper.Groups != nil {
		v, err := evaluated(ctx, "groups", i.mapper.Groups, c)
		if err != nil {
			return nil, err
		}
		return texts(v)
	}
	if m.Claim == "" {
		return nil, nil
	}
	groups, err := c.list(m.Claim)
	if err != nil {
		return nil, fmt.Errorf("oidc: parse groups claim %q: %w", m.Claim, err)
	}
	for n := range groups {
		groups[n] = prefixed(m.Prefix, groups[n])
	}
	return groups, nil
}

func (i *issuer) uid(ctx context.Context, c claimSet) (string, error) {
	m := i.conf.ClaimMappings.UID
	switch {
	case i.mapper.UID != nil:
		v, err := evaluated(ctx, "uid", i.mapper.UID, c)
		if err != nil {
			return "", err
		}
		s, ok := v.Value().(string)
		if !ok {
			return "", errors.New("oidc: error evaluating uid claim expression: it must return a string")
		}
		return s, nil
	case m.Claim == "":
		return "", nil
	}
	uid, err := c.text(m.Claim)
	if err != nil {
		return "", fmt.Errorf("oidc: parse uid claim %q: %w", m.Claim, err)
	}
	return uid, nil
}

func (i *issuer) extra(ctx context.Context, c claimSet) (map[string][]string, error) {
	if i.mapper.Extra == nil {
		return nil, nil
	}
	results, err := i.mapper.Extra.EvalClaimMappings(ctx, c.cel())
	if err != nil {
		return nil, fmt.Errorf("oidc: error evaluating extra claim expression: %w", err)
	}
	out := map[string][]string{}
	for _, r := range results {
		e, ok := r.ExpressionAccessor.(*authenticationcel.ExtraMappingExpression)
		if !ok {
			return nil, fmt.Errorf("oidc: invalid type %T of an extra mapping", r.ExpressionAccessor)
		}
		values, err := texts(r.EvalResult)
		if err != nil {
			return nil, fmt.Errorf("oidc: extra mapping %q: %w", e.Key, err)
		}
		if len(values) > 0 {
			out[e.Key] = values
		}
	}
	return out, nil
}

// texts reads a string, a list of them or null; empty ones are left out.
func texts(v ref.Val) ([]string, error) {
	var raw any
	data, err := json.Marshal(native(v))
	if err == nil {
		err = json.Unmarshal(data, &raw)
	}
	if err != nil {
		return nil, fmt.Errorf("oidc: %w", err)
	}
	list, err := claimSet{"": raw}.list("")
	if err != nil {
		return nil, fmt.Errorf("oidc: an expression must return a string or a list of strings: %w", err)
	}
	return slices.DeleteFunc(list, func(s string) bool { return s == "" }), nil
}

// native turns what an expression returned into plain Go values.
func native(v ref.Val) any {
	switch v := v.(type) {
	case types.Null:
		return nil
	case traits.Lister:
		out := []any{}
		for it := v.Iterator(); it.HasNext() == types.True; {
			out = append(out, native(it.Next()))
		}
		return out
	}
	return v.Value()
}

func (i *issuer) judgeUser(ctx context.Context, u auth.User) error {
	if i.mapper.UserValidationRules == nil {
		return nil
	}
	groups, extra := u.Groups, u.Extra
	if groups == nil {
		groups = []string{}
	}
	if extra == nil {
		extra = map[string][]string{}
	}
	value := types.DefaultTypeAdapter.NativeToValue(map[string]any{"username": u.Name, "uid": u.UID, "groups": groups, "extra": extra})
	results, err := i.mapper.UserValidationRules.EvalUser(ctx, value.(traits.Mapper))
	if err != nil {
		return fmt.Errorf("oidc: error evaluating user info validation rule: %w", err)
	}
	return judged("oidc: error evaluating user info validation rule", results)
}
