package endpoint

import (
	"encoding/base64"
	"testing"
)

// FuzzContinue reads made-up tokens: what is taken for one is written as one that
// reads the same, so that a client cannot make a list go on where it never was.
func FuzzContinue(f *testing.F) {
	f.Add(encodeContinue(continuation{Revision: 7, Namespace: "a", Name: "b", Seen: 500, Begun: 1}))
	for _, text := range []string{`{"rv":18446744073709551615,"n":"x"}`, `{"n":"x","s":-1}`, `{"n":"\u0000"}`, `{"rv":1e3,"n":"x"}`, `[]`, `null`, `{"n":"x","new":true,"t":9223372036854775807}`} {
		f.Add(base64.RawURLEncoding.EncodeToString([]byte(text)))
	}
	f.Add("%%%")
	f.Fuzz(func(t *testing.T, token string) {
		c, err := decodeContinue(token)
		if err != nil {
			return
		}
		again, err := decodeContinue(encodeContinue(c))
		if err != nil || again != c {
			t.Errorf("%q: %+v became %+v, %v", token, c, again, err)
		}
		if c.Name == "" || c.Seen < 0 {
			t.Errorf("%q was taken for %+v", token, c)
		}
	})
}
