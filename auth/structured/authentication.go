package structured

import (
	"context"
	"errors"
	"log/slog"
	"slices"

	apiserver "k8s.io/apiserver/pkg/apis/apiserver"
	"k8s.io/apiserver/pkg/apis/apiserver/validation"
	authenticationcel "k8s.io/apiserver/pkg/authentication/cel"

	"proa/auth"
)

// Authentication is what an AuthenticationConfiguration says.
type Authentication struct{ *current[authentication] }

type authentication struct {
	issuers   []*issuer
	anonymous *apiserver.AnonymousAuthConfig
}

// OpenAuthentication reads the file. reserved are issuers that it must not name,
// because they are the API's own.
func OpenAuthentication(file string, log *slog.Logger, reserved ...string) (*Authentication, error) {
	c, err := open(file, log, func(data []byte) (*authentication, error) { return buildAuthentication(file, data, reserved) })
	return &Authentication{c}, err
}

func buildAuthentication(file string, data []byte, reserved []string) (*authentication, error) {
	conf, err := decode[*apiserver.AuthenticationConfiguration](file, data)
	if err != nil {
		return nil, err
	}
	compiler := authenticationcel.NewDefaultCompiler()
	if errs := validation.ValidateAuthenticationConfiguration(compiler, conf, reserved); len(errs) > 0 {
		return nil, errs.ToAggregate()
	}
	out := &authentication{anonymous: conf.Anonymous}
	for _, j := range conf.JWT {
		mapper, errs := validation.CompileAndValidateJWTAuthenticator(compiler, j, reserved)
		if len(errs) > 0 {
			return nil, errs.ToAggregate()
		}
		i, err := newIssuer(j, mapper)
		if err != nil {
			return nil, err
		}
		out.issuers = append(out.issuers, i)
	}
	return out, nil
}

// Token is for auth.ForAPI: it asks the issuer that the token names.
func (a *Authentication) Token(ctx context.Context, token string) (auth.User, error) {
	var errs []error
	for _, i := range a.now.Load().issuers {
		u, err := i.user(ctx, token)
		if err == nil {
			return u, nil
		}
		if !errors.Is(err, auth.ErrNotOurs) {
			errs = append(errs, err)
		}
	}
	if len(errs) == 0 {
		return auth.User{}, auth.ErrNotOurs
	}
	return auth.User{}, errors.Join(errs...)
}

// Anonymous tells whether a request for a path needs no credentials.
func (a *Authentication) Anonymous(path string) bool {
	c := a.now.Load().anonymous
	switch {
	case c == nil:
		return true
	case !c.Enabled || len(c.Conditions) == 0:
		return c.Enabled
	}
	return slices.ContainsFunc(c.Conditions, func(a apiserver.AnonymousAuthCondition) bool { return a.Path == path })
}
