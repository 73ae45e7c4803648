package cluster

import (
	"context"
	"time"

	"proa/apiserver"
	"proa/auth"
	"proa/auth/bootstraptoken"
	nodeauth "proa/auth/node"
	"proa/auth/rbac"
	"proa/auth/requestheader"
	"proa/auth/token"
	"proa/client"
)

// who is what decides who a client is and what they may.
type who struct {
	tokens     *token.Issuer
	reviewer   auth.TokenReviewers
	authorizer auth.Authorizers
}

// world is the newest state, read past the API.
func (c *Cluster) world() client.View { return apiserver.View(c.store.Snapshot()) }

// openTokens makes what knows bearer tokens and what decides. Both read the world
// as it is at each request.
func (c *Cluster) openTokens() (*token.Issuer, error) {
	issuer := "https://kubernetes.default.svc." + c.cfg.ClusterDomain
	tokens, err := token.New(issuer, c.authority.TokenKey(), c.world)
	if err != nil {
		return nil, err
	}
	bootstrap := bootstraptoken.Reviewer{View: c.world, Now: time.Now}
	c.tokens = tokens
	c.reviewer = auth.TokenReviewers{tokens, auth.ForAPI{Audiences: []string{issuer}, Token: bootstrap.Token}}
	c.authorizer = auth.Authorizers{auth.Masters{}, nodeauth.New(c.world), rbac.Authorizer{View: c.world}}
	return tokens, nil
}

func (c *Cluster) authenticator(proxies requestheader.Config) auth.Authenticators {
	return auth.Authenticators{
		requestheader.Authenticator{Config: proxies},
		auth.ClientCertificates{Roots: c.authority.Roots},
		auth.BearerTokens{Tokens: c.reviewer},
	}
}

// may is the API's authoriser for the control plane's own questions.
func (c *Cluster) may(a auth.Attributes) bool {
	d, _, err := c.authorizer.Authorize(context.Background(), a)
	return d == auth.Allow && err == nil
}
