package structured

import (
	"context"
	"crypto/sha256"
	"encoding/csv"
	"fmt"
	"os"
	"strings"

	"proa/auth"
)

// TokenFile knows the tokens of a file in CSV: token, user, UID and, in one
// quoted field, groups. It holds digests, so that looking one up takes the same
// time whatever it is.
type TokenFile struct {
	users map[[sha256.Size]byte]auth.User
}

// OpenTokenFile reads the file once; it is not read again.
func OpenTokenFile(file string) (*TokenFile, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	r := csv.NewReader(f)
	r.FieldsPerRecord, r.Comment = -1, '#'
	lines, err := r.ReadAll()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	t := &TokenFile{map[[sha256.Size]byte]auth.User{}}
	for n, l := range lines {
		if len(l) < 3 || l[0] == "" || l[1] == "" {
			return nil, fmt.Errorf("%s, entry %d: a token, a user name and a UID are needed", file, n+1)
		}
		u := auth.User{Name: l[1], UID: l[2]}
		if len(l) > 3 && l[3] != "" {
			u.Groups = strings.Split(l[3], ",")
		}
		t.users[sha256.Sum256([]byte(l[0]))] = u
	}
	return t, nil
}

// Token is for auth.ForAPI.
func (t *TokenFile) Token(_ context.Context, token string) (auth.User, error) {
	if u, ok := t.users[sha256.Sum256([]byte(token))]; ok {
		return u, nil
	}
	return auth.User{}, auth.ErrNotOurs
}
