package structured

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	authorizationv1beta1 "k8s.io/api/authorization/v1beta1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	apiserver "k8s.io/apiserver/pkg/apis/apiserver"
	"k8s.io/apiserver/pkg/apis/apiserver/validation"
	authorizationcel "k8s.io/apiserver/pkg/authorization/cel"

	"proa/auth"
)

// Authorization is what an AuthorizationConfiguration says.
type Authorization struct{ *current[auth.Authorizers] }

// OpenAuthorization reads the file. builtin are the authorisers that it names by
// type alone: Node, RBAC, AlwaysAllow, AlwaysDeny.
func OpenAuthorization(file string, log *slog.Logger, builtin map[string]auth.Authorizer) (*Authorization, error) {
	c, err := open(file, log, func(data []byte) (*auth.Authorizers, error) { return buildAuthorization(file, data, builtin, log) })
	return &Authorization{c}, err
}

// Authorize asks the authorisers that the file lists now.
func (a *Authorization) Authorize(ctx context.Context, at auth.Attributes) (auth.Decision, string, error) {
	return a.now.Load().Authorize(ctx, at)
}

func buildAuthorization(file string, data []byte, builtin map[string]auth.Authorizer, log *slog.Logger) (*auth.Authorizers, error) {
	conf, err := decode[*apiserver.AuthorizationConfiguration](file, data)
	if err != nil {
		return nil, err
	}
	compiler := authorizationcel.NewDefaultCompiler()
	types := sets.KeySet(builtin)
	types.Insert(string(apiserver.TypeWebhook))
	errs := validation.ValidateAuthorizationConfiguration(compiler, nil, conf, types, sets.New(string(apiserver.TypeWebhook)))
	if len(errs) > 0 {
		return nil, errs.ToAggregate()
	}
	out := auth.Authorizers{}
	for _, c := range conf.Authorizers {
		if c.Webhook == nil {
			out = append(out, builtin[string(c.Type)])
			continue
		}
		w, err := newAuthorizationWebhook(c, compiler, log)
		if err != nil {
			return nil, err
		}
		out = append(out, w)
	}
	return &out, nil
}

// authorizationWebhook asks by SubjectAccessReview.
type authorizationWebhook struct {
	name    string
	conf    *apiserver.WebhookConfiguration
	remote  *Webhook
	matcher *authorizationcel.CELMatcher
	answers *answers[authorizationv1.SubjectAccessReviewStatus]
	log     *slog.Logger
}

func newAuthorizationWebhook(c apiserver.AuthorizerConfiguration, compiler authorizationcel.Compiler, log *slog.Logger) (*authorizationWebhook, error) {
	if c.Webhook.ConnectionInfo.Type != apiserver.AuthorizationWebhookConnectionInfoTypeKubeConfigFile {
		return nil, fmt.Errorf("webhook %s: connectionInfo.type must be %s here", c.Name, apiserver.AuthorizationWebhookConnectionInfoTypeKubeConfigFile)
	}
	r, err := NewWebhook(*c.Webhook.ConnectionInfo.KubeConfigFile, c.Webhook.Timeout.Duration)
	if err != nil {
		return nil, err
	}
	matcher, errs := validation.ValidateAndCompileMatchConditions(compiler, c.Webhook.MatchConditions)
	if len(errs) > 0 {
		return nil, errs.ToAggregate()
	}
	return &authorizationWebhook{c.Name, c.Webhook, r, matcher, newAnswers[authorizationv1.SubjectAccessReviewStatus](time.Now), log}, nil
}

// failed is the decision when there is no answer.
func (w *authorizationWebhook) failed(err error) (auth.Decision, string, error) {
	w.log.Warn("an authorization webhook failed", "name", w.name, "err", err)
	if w.conf.FailurePolicy == apiserver.FailurePolicyDeny {
		return auth.Deny, "", err
	}
	return auth.NoOpinion, "", err
}

// Authorize implements auth.Authorizer.
func (w *authorizationWebhook) Authorize(ctx context.Context, a auth.Attributes) (auth.Decision, string, error) {
	review := auth.AccessReview(a)
	if w.matcher != nil {
		matches, err := w.matcher.Eval(ctx, review)
		if err != nil {
			return w.failed(err)
		}
		if !matches {
			return auth.NoOpinion, "", nil
		}
	}
	data, err := json.Marshal(review.Spec)
	if err != nil {
		return auth.Deny, "", err
	}
	key := sha256.Sum256(data)
	s, ok := w.answers.get(key)
	if !ok {
		if s, err = w.ask(ctx, review); err != nil {
			return w.failed(err)
		}
		w.remember(key, s)
	}
	switch {
	case s.Denied && s.Allowed:
		return auth.Deny, "", errors.New("webhook subject access review returned both allow and deny response")
	case s.Denied:
		return auth.Deny, s.Reason, nil
	case s.Allowed:
		return auth.Allow, s.Reason, nil
	}
	return auth.NoOpinion, s.Reason, nil
}

func (w *authorizationWebhook) remember(key [sha256.Size]byte, s authorizationv1.SubjectAccessReviewStatus) {
	switch {
	case s.Allowed && w.conf.CacheAuthorizedRequests:
		w.answers.put(key, s, w.conf.AuthorizedTTL.Duration)
	case !s.Allowed && w.conf.CacheUnauthorizedRequests:
		w.answers.put(key, s, w.conf.UnauthorizedTTL.Duration)
	}
}

func (w *authorizationWebhook) ask(ctx context.Context, review *authorizationv1.SubjectAccessReview) (authorizationv1.SubjectAccessReviewStatus, error) {
	var got authorizationv1.SubjectAccessReview
	review.TypeMeta = metav1.TypeMeta{APIVersion: "authorization.k8s.io/" + w.conf.SubjectAccessReviewVersion, Kind: "SubjectAccessReview"}
	var body any = review
	if w.conf.SubjectAccessReviewVersion == "v1beta1" {
		body = beta(review)
	}
	err := w.remote.Ask(ctx, body, &got)
	return got.Status, err
}

// beta is the review as v1beta1 has it: groups have another name there, and there
// are no selectors.
func beta(r *authorizationv1.SubjectAccessReview) *authorizationv1beta1.SubjectAccessReview {
	s := authorizationv1beta1.SubjectAccessReviewSpec{User: r.Spec.User, UID: r.Spec.UID, Groups: r.Spec.Groups}
	for k, v := range r.Spec.Extra {
		if s.Extra == nil {
			s.Extra = map[string]authorizationv1beta1.ExtraValue{}
		}
		s.Extra[strings.ToLower(k)] = authorizationv1beta1.ExtraValue(v)
	}
	if a := r.Spec.ResourceAttributes; a != nil {
		s.ResourceAttributes = &authorizationv1beta1.ResourceAttributes{Namespace: a.Namespace, Verb: a.Verb, Group: a.Group,
			Version: a.Version, Resource: a.Resource, Subresource: a.Subresource, Name: a.Name}
	}
	if a := r.Spec.NonResourceAttributes; a != nil {
		s.NonResourceAttributes = &authorizationv1beta1.NonResourceAttributes{Path: a.Path, Verb: a.Verb}
	}
	return &authorizationv1beta1.SubjectAccessReview{TypeMeta: r.TypeMeta, Spec: s}
}
