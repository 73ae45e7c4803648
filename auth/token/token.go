// Package token makes and checks service account tokens: signed JWTs bound to
// an audience, a lifetime and, if asked, to a Pod, Secret or Node (KEP-1205).
// A token is good only while everything it is bound to exists with the same
// UID, so deleting a pod takes its tokens with it.
package token

import (
	"context"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/google/uuid"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"proa/auth"
	"proa/client"
)

// Lifetimes, in seconds: the default of a TokenRequest, and what a kubelet's
// request of 3607 is stretched to, so that clients which never read their token
// file again keep working (upstream's service-account-extend-token-expiration).
const (
	defaultSeconds  = 3600
	kubeletSeconds  = 3607
	extendedSeconds = 365 * 24 * 3600
)

// Issuer implements auth.TokenIssuer.
type Issuer struct {
	url       string
	audiences []string
	signer    jose.Signer
	jwks      jose.JSONWebKeySet
	view      func() client.View
	now       func() time.Time
	used      func(ctx context.Context, secret *corev1.Secret, day string)
}

var _ auth.TokenIssuer = (*Issuer)(nil)

// New returns an issuer known by its URL, which is also the API's audience. The
// first key signs; tokens that any of them has signed are good. It looks up what
// tokens are bound to in view.
func New(url string, keys []*ecdsa.PrivateKey, view func() client.View) (*Issuer, error) {
	i := &Issuer{url: url, audiences: []string{url}, view: view, now: time.Now}
	for _, key := range keys {
		der, err := x509.MarshalPKIXPublicKey(key.Public())
		if err != nil {
			return nil, err
		}
		sum := sha256.Sum256(der)
		id := base64.RawURLEncoding.EncodeToString(sum[:])
		i.jwks.Keys = append(i.jwks.Keys, jose.JSONWebKey{Key: key.Public(), KeyID: id, Algorithm: string(jose.ES256), Use: "sig"})
	}
	var err error
	i.signer, err = jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: keys[0], KeyID: i.jwks.Keys[0].KeyID}}, nil)
	return i, err
}

// Issuer is the URL in the tokens.
func (i *Issuer) Issuer() string { return i.url }

// JWKS is the public key set for OpenID discovery.
func (i *Issuer) JWKS() ([]byte, error) { return json.Marshal(i.jwks) }

// ref is an object that a token is bound to.
type ref struct {
	Name string `json:"name"`
	UID  string `json:"uid,omitempty"`
}

// bound is the claim kubernetes.io.
type bound struct {
	Namespace string           `json:"namespace,omitempty"`
	Account   ref              `json:"serviceaccount,omitzero"`
	Pod       *ref             `json:"pod,omitempty"`
	Secret    *ref             `json:"secret,omitempty"`
	Node      *ref             `json:"node,omitempty"`
	WarnAfter *jwt.NumericDate `json:"warnafter,omitempty"`
}

type claims struct {
	jwt.Claims
	Kubernetes bound `json:"kubernetes.io,omitzero"`
}

// Issue answers a TokenRequest for a service account.
func (i *Issuer) Issue(_ context.Context, sa *corev1.ServiceAccount, req *authenticationv1.TokenRequest) (*authenticationv1.TokenRequest, error) {
	out := req.DeepCopy()
	if len(out.Spec.Audiences) == 0 {
		out.Spec.Audiences = slices.Clone(i.audiences)
	}
	seconds := int64(defaultSeconds)
	if out.Spec.ExpirationSeconds != nil {
		seconds = *out.Spec.ExpirationSeconds
	}
	k := bound{Namespace: sa.Namespace, Account: ref{sa.Name, string(sa.UID)}}
	if err := i.bind(&k, sa, out.Spec.BoundObjectRef); err != nil {
		return nil, err
	}
	now := i.now()
	life := seconds
	if seconds == kubeletSeconds && k.Pod != nil && slices.Equal(out.Spec.Audiences, i.audiences) {
		life, k.WarnAfter = extendedSeconds, jwt.NewNumericDate(now.Add(time.Duration(seconds)*time.Second))
	}
	c := claims{Kubernetes: k, Claims: jwt.Claims{
		ID: uuid.NewString(), Issuer: i.url, Subject: auth.ServiceAccountPrefix + sa.Namespace + ":" + sa.Name,
		Audience: out.Spec.Audiences, IssuedAt: jwt.NewNumericDate(now), NotBefore: jwt.NewNumericDate(now),
		Expiry: jwt.NewNumericDate(now.Add(time.Duration(life) * time.Second)),
	}}
	raw, err := jwt.Signed(i.signer).Claims(c).Serialize()
	if err != nil {
		return nil, err
	}
	out.Status = authenticationv1.TokenRequestStatus{
		Token: raw, ExpirationTimestamp: metav1.NewTime(now.Add(time.Duration(seconds) * time.Second)),
	}
	return out, nil
}

// bind records what the token is to be bound to, which must exist and, if it is
// a pod, run as this service account. The reference is given the object's UID.
func (i *Issuer) bind(k *bound, sa *corev1.ServiceAccount, to *authenticationv1.BoundObjectReference) error {
	if to == nil {
		return nil
	}
	v, kind := i.view(), schema.FromAPIVersionAndKind(to.APIVersion, to.Kind)
	if kind.Group != "" {
		return apierrors.NewBadRequest(fmt.Sprintf("cannot bind token to object of type %s", kind))
	}
	switch kind.Kind {
	case "Pod":
		pod := client.Get[corev1.Pod](v, sa.Namespace, to.Name)
		if pod == nil {
			return apierrors.NewNotFound(corev1.Resource("pods"), to.Name)
		}
		if pod.Spec.ServiceAccountName != sa.Name {
			return apierrors.NewBadRequest(fmt.Sprintf("cannot bind token for serviceaccount %q to pod running with different serviceaccount name.", sa.Name))
		}
		k.Pod = &ref{pod.Name, string(pod.UID)}
		if node := client.Get[corev1.Node](v, "", pod.Spec.NodeName); node != nil {
			k.Node = &ref{node.Name, string(node.UID)}
		}
		return sameUID(pod, to)
	case "Secret":
		secret := client.Get[corev1.Secret](v, sa.Namespace, to.Name)
		if secret == nil {
			return apierrors.NewNotFound(corev1.Resource("secrets"), to.Name)
		}
		k.Secret = &ref{secret.Name, string(secret.UID)}
		return sameUID(secret, to)
	case "Node":
		node := client.Get[corev1.Node](v, "", to.Name)
		if node == nil {
			return apierrors.NewNotFound(corev1.Resource("nodes"), to.Name)
		}
		k.Node = &ref{node.Name, string(node.UID)}
		return sameUID(node, to)
	}
	return apierrors.NewBadRequest(fmt.Sprintf("cannot bind token to object of type %s", kind))
}

func sameUID(obj client.Object, to *authenticationv1.BoundObjectReference) error {
	if to.UID == "" {
		to.UID = obj.GetUID()
	}
	if to.UID == obj.GetUID() {
		return nil
	}
	return apierrors.NewConflict(corev1.Resource(to.Kind), to.Name,
		fmt.Errorf("the UID in the bound object reference (%s) does not match the UID in record. The object might have been deleted and then recreated", to.UID))
}

// Review checks a token: auth.ErrNotOurs for one of another issuer or key, else
// what is wrong with it.
func (i *Issuer) Review(ctx context.Context, token string, audiences []string) (auth.User, []string, error) {
	if len(audiences) == 0 {
		audiences = i.audiences
	}
	parsed, err := jwt.ParseSigned(token, []jose.SignatureAlgorithm{jose.ES256})
	if err != nil {
		return auth.User{}, nil, auth.ErrNotOurs
	}
	var c claims
	if err := parsed.Claims(i.jwks, &c); err != nil {
		return auth.User{}, nil, auth.ErrNotOurs
	}
	if c.Issuer == legacyIssuer {
		return i.reviewLegacy(ctx, parsed, token, audiences)
	}
	if c.Issuer != i.url {
		return auth.User{}, nil, auth.ErrNotOurs
	}
	now := i.now()
	switch err := c.ValidateWithLeeway(jwt.Expected{Time: now}, 0); {
	case errors.Is(err, jwt.ErrExpired):
		return auth.User{}, nil, errors.New("service account token has expired")
	case err != nil:
		return auth.User{}, nil, fmt.Errorf("service account token is not valid yet")
	}
	var good []string
	for _, a := range audiences {
		if slices.Contains(c.Audience, a) {
			good = append(good, a)
		}
	}
	if len(good) == 0 {
		return auth.User{}, nil, fmt.Errorf("token audiences %q is invalid for the target audiences %q", []string(c.Audience), audiences)
	}
	if err := i.alive(c.Kubernetes); err != nil {
		return auth.User{}, nil, err
	}
	return user(c), good, nil
}

// alive checks that what the token is bound to is still there.
func (i *Issuer) alive(k bound) error {
	v := i.view()
	checks := []struct {
		what string
		ref  *ref
		obj  func(name string) client.Object
	}{
		{"service account", &k.Account, func(n string) client.Object { return present(client.Get[corev1.ServiceAccount](v, k.Namespace, n)) }},
		{"pod", k.Pod, func(n string) client.Object { return present(client.Get[corev1.Pod](v, k.Namespace, n)) }},
		{"secret", k.Secret, func(n string) client.Object { return present(client.Get[corev1.Secret](v, k.Namespace, n)) }},
	}
	if k.Pod == nil { // a pod's token lives with the pod, whatever becomes of the node
		checks = append(checks, struct {
			what string
			ref  *ref
			obj  func(name string) client.Object
		}{"node", k.Node, func(n string) client.Object { return present(client.Get[corev1.Node](v, "", n)) }})
	}
	for _, c := range checks {
		if c.ref == nil {
			continue
		}
		obj := c.obj(c.ref.Name)
		if obj == nil || string(obj.GetUID()) != c.ref.UID {
			return fmt.Errorf("the %s %q that the token is bound to no longer exists", c.what, c.ref.Name)
		}
		if d := obj.GetDeletionTimestamp(); d != nil && d.Add(time.Minute).Before(i.now()) {
			return fmt.Errorf("the %s %q that the token is bound to has been deleted", c.what, c.ref.Name)
		}
	}
	return nil
}

// present turns a nil pointer of a type into a nil Object.
func present[T any, P interface {
	*T
	client.Object
}](p P) client.Object {
	if p == nil {
		return nil
	}
	return p
}

func user(c claims) auth.User {
	k := c.Kubernetes
	u := auth.User{
		Name: auth.ServiceAccountPrefix + k.Namespace + ":" + k.Account.Name, UID: k.Account.UID,
		Groups: []string{auth.GroupServiceAccounts, auth.GroupServiceAccounts + ":" + k.Namespace},
		Extra:  map[string][]string{auth.ExtraCredentialID: {"JTI=" + c.ID}},
	}
	for what, r := range map[string]*ref{"pod": k.Pod, "node": k.Node} {
		if r != nil {
			u.Extra["authentication.kubernetes.io/"+what+"-name"] = []string{r.Name}
			u.Extra["authentication.kubernetes.io/"+what+"-uid"] = []string{r.UID}
		}
	}
	return u
}

// AccountOf splits the user name of a service account.
func AccountOf(user string) (namespace, name string, ok bool) {
	rest, ok := strings.CutPrefix(user, auth.ServiceAccountPrefix)
	if !ok {
		return "", "", false
	}
	namespace, name, ok = strings.Cut(rest, ":")
	return namespace, name, ok && namespace != "" && name != ""
}
