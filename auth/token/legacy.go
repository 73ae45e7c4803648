package token

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/go-jose/go-jose/v4/jwt"
	corev1 "k8s.io/api/core/v1"

	"proa/auth"
	"proa/client"
)

// legacyIssuer is in tokens that are kept in Secrets of the type
// kubernetes.io/service-account-token. They do not expire; they are good as long
// as the Secret holds them.
const legacyIssuer = "kubernetes/serviceaccount"

// Labels of Secrets that hold tokens, and their form: the day on which the token
// was used last, and that since which it is not good any more, because nobody had
// used it for long (KEP-2799).
const (
	LabelLastUsed     = "kubernetes.io/legacy-token-last-used"
	LabelInvalidSince = "kubernetes.io/legacy-token-invalid-since"
	Day               = time.DateOnly
)

// Track has used called at a token's first use in a day, UTC, with its Secret. It
// must be called before the first review.
func (i *Issuer) Track(used func(ctx context.Context, secret *corev1.Secret, day string)) {
	i.used = used
}

// noteUse tells of a use that the Secret does not know of. Another server's clock
// may be ahead.
func (i *Issuer) noteUse(ctx context.Context, secret *corev1.Secret) {
	now := i.now().UTC()
	today, noted := now.Format(Day), secret.Labels[LabelLastUsed]
	if i.used != nil && noted != today && noted != now.AddDate(0, 0, 1).Format(Day) {
		i.used(ctx, secret, today)
	}
}

type legacyClaims struct {
	jwt.Claims
	Namespace string `json:"kubernetes.io/serviceaccount/namespace"`
	Secret    string `json:"kubernetes.io/serviceaccount/secret.name"`
	Account   string `json:"kubernetes.io/serviceaccount/service-account.name"`
	UID       string `json:"kubernetes.io/serviceaccount/service-account.uid"`
}

// Legacy makes the token that a Secret of the type
// kubernetes.io/service-account-token holds.
func (i *Issuer) Legacy(sa *corev1.ServiceAccount, secret *corev1.Secret) (string, error) {
	return jwt.Signed(i.signer).Claims(legacyClaims{
		Claims:    jwt.Claims{Issuer: legacyIssuer, Subject: auth.ServiceAccountPrefix + sa.Namespace + ":" + sa.Name},
		Namespace: sa.Namespace, Secret: secret.Name, Account: sa.Name, UID: string(sa.UID),
	}).Serialize()
}

// reviewLegacy checks a token whose signature is good: it must be what its Secret
// holds now, and be of the account that is there now.
func (i *Issuer) reviewLegacy(ctx context.Context, parsed *jwt.JSONWebToken, token string, audiences []string) (auth.User, []string, error) {
	var c legacyClaims
	if err := parsed.Claims(i.jwks, &c); err != nil {
		return auth.User{}, nil, auth.ErrNotOurs
	}
	good := slices.DeleteFunc(slices.Clone(i.audiences), func(a string) bool { return !slices.Contains(audiences, a) })
	if len(good) == 0 {
		return auth.User{}, nil, errors.New("the token is for the API only")
	}
	if c.Subject != auth.ServiceAccountPrefix+c.Namespace+":"+c.Account {
		return auth.User{}, nil, errors.New("sub claim is invalid")
	}
	v := i.view()
	secret := client.Get[corev1.Secret](v, c.Namespace, c.Secret)
	if secret == nil || secret.DeletionTimestamp != nil ||
		subtle.ConstantTimeCompare(secret.Data[corev1.ServiceAccountTokenKey], []byte(token)) != 1 {
		return auth.User{}, nil, errors.New("service account token has been invalidated")
	}
	sa := client.Get[corev1.ServiceAccount](v, c.Namespace, c.Account)
	if sa == nil || string(sa.UID) != c.UID || sa.DeletionTimestamp != nil {
		return auth.User{}, nil, errors.New("the service account that the token is for has been deleted")
	}
	i.noteUse(ctx, secret)
	if secret.Labels[LabelInvalidSince] != "" {
		return auth.User{}, nil, fmt.Errorf("the token in secret %s/%s for service account %s/%s has been marked invalid. Use tokens from the TokenRequest API or manually created secret-based tokens, or remove the '%s' label from the secret to temporarily allow use of this token",
			c.Namespace, c.Secret, c.Namespace, c.Account, LabelInvalidSince)
	}
	return auth.User{
		Name: c.Subject, UID: c.UID,
		Groups: []string{auth.GroupServiceAccounts, auth.GroupServiceAccounts + ":" + c.Namespace},
	}, good, nil
}
