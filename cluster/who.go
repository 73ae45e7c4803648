package cluster

import (
	"context"
	"fmt"
	"time"

	"proa/apiserver"
	"proa/auth"
	"proa/auth/bootstraptoken"
	nodeauth "proa/auth/node"
	"proa/auth/rbac"
	"proa/auth/requestheader"
	"proa/auth/structured"
	"proa/auth/token"
	"proa/client"
)

// WhoConfig names the files that say who may, beside certificates, service
// accounts and RBAC. All may be empty.
type WhoConfig struct {
	// Authentication is an AuthenticationConfiguration, Authorization an
	// AuthorizationConfiguration; both are read anew when they change.
	Authentication, Authorization string
	// TokenWebhook is a kubeconfig that leads to a webhook that knows tokens.
	TokenWebhook string
	// Tokens is a CSV file of tokens.
	Tokens string
}

// who is what decides who a client is and what they may.
type who struct {
	tokens     *token.Issuer
	reviewer   auth.TokenReviewers
	anonymous  func(path string) bool
	authorizer auth.Authorizers
}

// world is the newest state, read past the API.
func (c *Cluster) world() client.View { return apiserver.View(c.store.Snapshot()) }

// openWho makes what knows bearer tokens and what decides. Both read the world as
// it is at each request.
func (c *Cluster) openWho() error {
	issuer := "https://kubernetes.default.svc." + c.cfg.ClusterDomain
	tokens, err := token.New(issuer, c.authority.TokenKeys(), c.world)
	if err != nil {
		return err
	}
	c.tokens = tokens
	if err := c.openReviewers(issuer); err != nil {
		return fmt.Errorf("authentication: %w", err)
	}
	if err := c.openAuthorizers(); err != nil {
		return fmt.Errorf("authorization: %w", err)
	}
	return nil
}

// openReviewers lines up what knows tokens, in upstream's order: what is asked
// over the network comes last.
func (c *Cluster) openReviewers(issuer string) error {
	add := func(know func(context.Context, string) (auth.User, error)) {
		c.reviewer = append(c.reviewer, auth.ForAPI{Audiences: []string{issuer}, Token: know})
	}
	if file := c.cfg.Who.Tokens; file != "" {
		t, err := structured.OpenTokenFile(file)
		if err != nil {
			return err
		}
		add(t.Token)
	}
	c.reviewer = append(c.reviewer, c.tokens)
	add(bootstraptoken.Reviewer{View: c.world, Now: time.Now}.Token)
	if file := c.cfg.Who.Authentication; file != "" {
		a, err := structured.OpenAuthentication(file, c.cfg.Log, issuer)
		if err != nil {
			return err
		}
		c.parts.Go("authentication configuration", a.Run)
		add(a.Token)
		c.anonymous = a.Anonymous
	}
	if file := c.cfg.Who.TokenWebhook; file != "" {
		w, err := structured.NewTokenWebhook(file, issuer)
		if err != nil {
			return err
		}
		c.reviewer = append(c.reviewer, w)
	}
	return nil
}

// openAuthorizers: system:masters is allowed everything first, so that no file and
// no role locks out the administrator.
func (c *Cluster) openAuthorizers() error {
	node, roles := nodeauth.New(c.world), rbac.Authorizer{View: c.world}
	c.authorizer = auth.Authorizers{auth.Masters{}, node, roles}
	if c.cfg.Who.Authorization == "" {
		return nil
	}
	a, err := structured.OpenAuthorization(c.cfg.Who.Authorization, c.cfg.Log, map[string]auth.Authorizer{
		"Node": node, "RBAC": roles, "AlwaysAllow": auth.Always(auth.Allow), "AlwaysDeny": auth.Always(auth.NoOpinion)})
	if err != nil {
		return err
	}
	c.parts.Go("authorization configuration", a.Run)
	c.authorizer = auth.Authorizers{auth.Masters{}, a}
	return nil
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
