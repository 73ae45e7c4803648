package token

import (
	"crypto/subtle"
	"errors"
	"slices"

	"github.com/go-jose/go-jose/v4/jwt"
	corev1 "k8s.io/api/core/v1"

	"proa/auth"
	"proa/client"
)

// legacyIssuer is in tokens that are kept in Secrets of the type
// kubernetes.io/service-account-token. They do not expire; they are good as long
// as the Secret holds them.
const legacyIssuer = "kubernetes/serviceaccount"

// legacyInvalid is set on a Secret whose token nobody used for long.
const legacyInvalid = "kubernetes.io/legacy-token-invalid-since"

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
func (i *Issuer) reviewLegacy(parsed *jwt.JSONWebToken, token string, audiences []string) (auth.User, []string, error) {
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
	if _, invalid := secret.Labels[legacyInvalid]; invalid {
		return auth.User{}, nil, errors.New("the token in secret " + c.Namespace + "/" + c.Secret + " has been marked invalid. Use tokens from the TokenRequest API or manually created secret-based tokens, or remove the 'kubernetes.io/legacy-token-invalid-since' label from the secret to temporarily allow use of this token")
	}
	sa := client.Get[corev1.ServiceAccount](v, c.Namespace, c.Account)
	if sa == nil || string(sa.UID) != c.UID || sa.DeletionTimestamp != nil {
		return auth.User{}, nil, errors.New("the service account that the token is for has been deleted")
	}
	return auth.User{
		Name: c.Subject, UID: c.UID,
		Groups: []string{auth.GroupServiceAccounts, auth.GroupServiceAccounts + ":" + c.Namespace},
	}, good, nil
}
