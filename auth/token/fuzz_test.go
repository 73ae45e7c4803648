package token

import (
	"encoding/base64"
	"strings"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
)

// forged are the ways of old to have a token believed that nobody signed.
func forged(token string) map[string]string {
	part := strings.Split(token, ".")
	enc := base64.RawURLEncoding.EncodeToString
	head := func(h string) string { return enc([]byte(h)) + "." + part[1] + "." }
	return map[string]string{
		"no algorithm":              head(`{"alg":"none"}`),
		"no algorithm, but signed":  head(`{"alg":"none"}`) + part[2],
		"an HMAC by the public key": head(`{"alg":"HS256"}`) + part[2],
		"another key":               head(`{"alg":"ES256","kid":"other"}`) + part[2],
		"a key of its own":          head(`{"alg":"ES256","jwk":{"kty":"oct","k":"AAAA"}}`) + part[2],
		"a key from elsewhere":      head(`{"alg":"ES256","jku":"https://example.org/keys"}`) + part[2],
		"an unknown critical field": head(`{"alg":"ES256","crit":["exp"]}`) + part[2],
		"an empty signature":        part[0] + "." + part[1] + ".",
		"a zero signature":          part[0] + "." + part[1] + "." + enc(make([]byte, 64)),
		"other claims":              part[0] + "." + enc([]byte(`{"iss":"`+url+`","sub":"system:serviceaccount:kube-system:admin"}`)) + "." + part[2],
		"two signatures":            token + "." + part[2],
		"JSON form":                 `{"payload":"` + part[1] + `","signatures":[{"protected":"` + part[0] + `","signature":"` + part[2] + `"}]}`,
		"huge":                      part[0] + "." + strings.Repeat(part[1], 10_000) + "." + part[2],
		"many dots":                 strings.Repeat(".", 1_000_000),
		"a deep header":             head(strings.Repeat(`{"a":`, 100_000)),
		"nothing":                   "",
	}
}

func TestForgedTokens(t *testing.T) {
	f := setup(t)
	good := f.issue(t, authenticationv1.TokenRequestSpec{})
	if _, _, err := f.Review(t.Context(), good, nil); err != nil {
		t.Fatal(err)
	}
	for name, token := range forged(good) {
		if u, _, err := f.Review(t.Context(), token, nil); err == nil {
			t.Errorf("%s: believed to be %+v", name, u)
		}
	}
}

// FuzzReview: whatever is made of a token, nobody else comes of it.
func FuzzReview(f *testing.F) {
	x := setup(f)
	good := x.issue(f, authenticationv1.TokenRequestSpec{})
	f.Add(good)
	for name, token := range forged(good) {
		if name != "many dots" && name != "huge" && name != "a deep header" {
			f.Add(token)
		}
	}
	f.Fuzz(func(t *testing.T, token string) {
		u, _, err := x.Review(t.Context(), token, nil)
		if err == nil && u.Name != "system:serviceaccount:shop:till" {
			t.Errorf("%q is believed to be %+v", token, u)
		}
	})
}
