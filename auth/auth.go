// Package auth says who sent a request and whether they may. It holds the terms
// (User, Attributes, Decision) and the two contracts that the request path asks;
// the sub-packages hold certificates (pki), service account tokens (token) and
// the decisions (rbac, node).
package auth

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
)

// User is an authenticated identity.
type User struct {
	Name, UID string
	Groups    []string
	Extra     map[string][]string
}

// Names that Kubernetes gives a meaning.
const (
	GroupMasters         = "system:masters"
	GroupAuthenticated   = "system:authenticated"
	GroupUnauthenticated = "system:unauthenticated"
	GroupNodes           = "system:nodes"
	GroupServiceAccounts = "system:serviceaccounts"
	UserAnonymous        = "system:anonymous"
	NodeUserPrefix       = "system:node:"
	ServiceAccountPrefix = "system:serviceaccount:"
	// ExtraCredentialID says by which certificate or token a user came.
	ExtraCredentialID = "authentication.kubernetes.io/credential-id"
)

// In tells whether the user is in the group.
func (u User) In(group string) bool {
	for _, g := range u.Groups {
		if g == group {
			return true
		}
	}
	return false
}

// Node returns the node's name if the user is one.
func (u User) Node() (string, bool) {
	name, ok := strings.CutPrefix(u.Name, NodeUserPrefix)
	return name, ok && name != "" && u.In(GroupNodes)
}

// Anonymous is who sends a request without credentials.
func Anonymous() User { return User{Name: UserAnonymous, Groups: []string{GroupUnauthenticated}} }

// System is an identity of the control plane itself, as the in-process
// components have it; the name is upstream's ("system:kube-scheduler").
func System(name string) User {
	return User{Name: name, Groups: []string{GroupMasters, GroupAuthenticated}}
}

// Attributes are what a request asks to do.
type Attributes struct {
	User            User
	Verb            string
	Group, Version  string
	Resource        string
	Subresource     string
	Namespace, Name string
	// Path is the URL path of a request that is not about a resource.
	Path                         string
	ResourceRequest              bool
	FieldSelector, LabelSelector string
}

// Decision is an authoriser's answer.
type Decision int

const (
	Deny Decision = iota
	Allow
	NoOpinion
)

// Authenticator finds out who sent a request. ok is false when it carries no
// credentials that this authenticator knows; err says why those that it carries
// are not good, which makes the request 401.
type Authenticator interface {
	Authenticate(r *http.Request) (user User, ok bool, err error)
}

// Authorizer decides; the text says why not.
type Authorizer interface {
	Authorize(ctx context.Context, a Attributes) (Decision, string, error)
}

// TokenReviewer finds out whose a bearer token is.
type TokenReviewer interface {
	// Review returns the user of a token and those of the asked audiences that
	// it is good for; no asked audiences stand for the API's own. ErrNotOurs is
	// its word for a token that another reviewer may know.
	Review(ctx context.Context, token string, audiences []string) (User, []string, error)
}

// TokenIssuer makes and checks service account tokens.
type TokenIssuer interface {
	TokenReviewer
	Issue(ctx context.Context, sa *corev1.ServiceAccount, req *authenticationv1.TokenRequest) (*authenticationv1.TokenRequest, error)
	JWKS() ([]byte, error)
	Issuer() string
}

// Authorizers asks each in turn; the first opinion counts, none is Deny.
type Authorizers []Authorizer

func (as Authorizers) Authorize(ctx context.Context, a Attributes) (Decision, string, error) {
	var reasons []string
	var errs []error
	for _, z := range as {
		d, reason, err := z.Authorize(ctx, a)
		if d != NoOpinion {
			return d, reason, err
		}
		if reason != "" {
			reasons = append(reasons, reason)
		}
		errs = append(errs, err)
	}
	return Deny, strings.Join(reasons, ", "), errors.Join(errs...)
}

// Masters allows system:masters everything.
type Masters struct{}

func (Masters) Authorize(_ context.Context, a Attributes) (Decision, string, error) {
	if a.User.In(GroupMasters) {
		return Allow, "", nil
	}
	return NoOpinion, "", nil
}

// Authenticators asks each in turn and adds system:authenticated.
type Authenticators []Authenticator

func (as Authenticators) Authenticate(r *http.Request) (User, bool, error) {
	var errs []error
	for _, a := range as {
		u, ok, err := a.Authenticate(r)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if ok {
			if !u.In(GroupAuthenticated) && !u.In(GroupUnauthenticated) {
				u.Groups = append(u.Groups[:len(u.Groups):len(u.Groups)], GroupAuthenticated)
			}
			return u, true, nil
		}
	}
	return User{}, false, errors.Join(errs...)
}

// ClientCertificates authenticates by a TLS client certificate: the common name
// is the user, organisations are the groups. Roots is asked at each request, so
// that a CA may change while running.
type ClientCertificates struct{ Roots func() *x509.CertPool }

func (c ClientCertificates) Authenticate(r *http.Request) (User, bool, error) {
	if r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
		return User{}, false, nil
	}
	leaf, roots, now := r.TLS.PeerCertificates[0], c.Roots(), time.Now()
	who, ok := proven.user(leaf, roots, now)
	if !ok {
		if err := verify(r.TLS.PeerCertificates, roots, now); err != nil {
			return User{}, false, fmt.Errorf("verifying certificate SN=%s: %w", leaf.SerialNumber, err)
		}
		who = proven.add(leaf, roots, now)
	}
	return who, who.Name != "", nil
}

// verify checks that a client's chain, leaf first, leads to one of the roots.
func verify(chain []*x509.Certificate, roots *x509.CertPool, now time.Time) error {
	inter := x509.NewCertPool()
	for _, ic := range chain[1:] {
		inter.AddCert(ic)
	}
	_, err := chain[0].Verify(x509.VerifyOptions{
		Roots: roots, Intermediates: inter, CurrentTime: now,
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	return err
}
