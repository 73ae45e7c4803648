// Package bootstraptoken knows the tokens by which new nodes introduce
// themselves: Secrets bootstrap-token-<id> in kube-system of the type
// bootstrap.kubernetes.io/token, good until they expire or are deleted
// (https://kubernetes.io/docs/reference/access-authn-authz/bootstrap-tokens/).
package bootstraptoken

import (
	"context"
	"crypto/subtle"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"proa/auth"
	"proa/client"
)

// Namespace and NamePrefix are where the Secrets are and what they are called.
const (
	Namespace  = metav1.NamespaceSystem
	NamePrefix = "bootstrap-token-"
)

// Keys of a Secret's data.
const (
	keyID     = "token-id"
	keySecret = "token-secret"
	keyExpiry = "expiration"
	keyGroups = "auth-extra-groups"
	// UsageAuthentication and UsageSigning say what a token is for.
	UsageAuthentication = "usage-bootstrap-authentication"
	UsageSigning        = "usage-bootstrap-signing"
)

const (
	userPrefix = "system:bootstrap:"
	group      = "system:bootstrappers"
)

var (
	form      = regexp.MustCompile(`^([a-z0-9]{6})\.([a-z0-9]{16})$`)
	idForm    = regexp.MustCompile(`^[a-z0-9]{6}$`)
	groupForm = regexp.MustCompile(`^system:bootstrappers:[a-z0-9:-]{0,255}[a-z0-9]$`)
)

// Token is what a Secret says.
type Token struct {
	ID, Secret string
	// Expires is zero for a token that does not.
	Expires time.Time
	Groups  []string
	usages  map[string]bool
}

// For tells whether the token has the usage.
func (t Token) For(usage string) bool { return t.usages[usage] }

// Expired tells whether the token's time is over.
func (t Token) Expired(now time.Time) bool { return !t.Expires.IsZero() && !now.Before(t.Expires) }

// Read takes a Secret apart. A Secret that is no proper token is an error, and
// good for nothing.
func Read(s *corev1.Secret) (Token, error) {
	t := Token{ID: string(s.Data[keyID]), Secret: string(s.Data[keySecret]), usages: map[string]bool{}}
	switch {
	case s.Type != corev1.SecretTypeBootstrapToken:
		return t, fmt.Errorf("has the type %q", s.Type)
	case s.Namespace != Namespace || s.Name != NamePrefix+t.ID || !idForm.MatchString(t.ID):
		return t, fmt.Errorf("the token's ID %q and the Secret's name do not agree", t.ID)
	case !form.MatchString(t.ID + "." + t.Secret):
		return t, fmt.Errorf("%s must have 16 characters of a-z and 0-9", keySecret)
	}
	if e := string(s.Data[keyExpiry]); e != "" {
		var err error
		if t.Expires, err = time.Parse(time.RFC3339, e); err != nil {
			return t, fmt.Errorf("%s: %w", keyExpiry, err)
		}
	}
	for _, usage := range []string{UsageAuthentication, UsageSigning} {
		t.usages[usage] = string(s.Data[usage]) == "true"
	}
	t.Groups = []string{group}
	for _, g := range strings.Split(string(s.Data[keyGroups]), ",") {
		if g == "" {
			continue
		}
		if !groupForm.MatchString(g) {
			return t, fmt.Errorf("%s: %q must begin with %s:", keyGroups, g, group)
		}
		t.Groups = append(t.Groups, g)
	}
	slices.Sort(t.Groups)
	t.Groups = slices.Compact(t.Groups)
	return t, nil
}

// Reviewer finds the user of a bootstrap token.
type Reviewer struct {
	View func() client.View
	Now  func() time.Time
}

// Token is for auth.ForAPI.
func (r Reviewer) Token(_ context.Context, token string) (auth.User, error) {
	parts := form.FindStringSubmatch(token)
	if parts == nil {
		return auth.User{}, auth.ErrNotOurs
	}
	secret := client.Get[corev1.Secret](r.View(), Namespace, NamePrefix+parts[1])
	if secret == nil || secret.DeletionTimestamp != nil {
		return auth.User{}, auth.ErrNotOurs
	}
	t, err := Read(secret)
	if err != nil || subtle.ConstantTimeCompare([]byte(t.Secret), []byte(parts[2])) != 1 || t.Expired(r.Now()) || !t.For(UsageAuthentication) {
		return auth.User{}, auth.ErrNotOurs
	}
	return auth.User{Name: userPrefix + t.ID, Groups: t.Groups}, nil
}
