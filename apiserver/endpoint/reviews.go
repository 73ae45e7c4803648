package endpoint

import (
	"context"
	"errors"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"proa/api"
	"proa/auth"
)

// Review answers a question of one of the review kinds. Nothing is stored.
func (e *Endpoint) Review(ctx context.Context, q Request, obj api.Object) (Result, error) {
	if err := checkNamespace(&q, obj); err != nil {
		return Result{}, err
	}
	if q.Served.Default != nil {
		q.Served.Default(obj)
	}
	if err := validateCreate(q, obj); err != nil {
		return Result{}, err
	}
	obj.SetCreationTimestamp(metav1.NewTime(e.Now()).Rfc3339Copy())
	err := e.answer(ctx, q, obj)
	return Result{object: obj, Created: true}, err
}

func (e *Endpoint) answer(ctx context.Context, q Request, obj api.Object) error {
	switch r := obj.(type) {
	case *authenticationv1.TokenReview:
		return e.reviewToken(ctx, r)
	case *authenticationv1.SelfSubjectReview:
		r.Status.UserInfo = userInfo(q.User)
	case *authorizationv1.SubjectAccessReview:
		e.reviewAccess(ctx, userOf(r.Spec), r.Spec.ResourceAttributes, r.Spec.NonResourceAttributes, &r.Status)
	case *authorizationv1.LocalSubjectAccessReview:
		e.reviewAccess(ctx, userOf(r.Spec), r.Spec.ResourceAttributes, r.Spec.NonResourceAttributes, &r.Status)
	case *authorizationv1.SelfSubjectAccessReview:
		e.reviewAccess(ctx, q.User, r.Spec.ResourceAttributes, r.Spec.NonResourceAttributes, &r.Status)
	case *authorizationv1.SelfSubjectRulesReview:
		return e.reviewRules(q.User, r)
	default:
		return apierrors.NewMethodNotSupported(q.Served.GR(), "create")
	}
	return nil
}

func (e *Endpoint) reviewToken(ctx context.Context, r *authenticationv1.TokenReview) error {
	if r.Spec.Token == "" {
		return apierrors.NewBadRequest("token is required for TokenReview in authentication")
	}
	if e.Reviewer == nil {
		return apierrors.NewServiceUnavailable("this server has no token authentication")
	}
	user, audiences, err := e.Reviewer.Review(ctx, r.Spec.Token, r.Spec.Audiences)
	if errors.Is(err, auth.ErrNotOurs) {
		err = errors.New("invalid bearer token")
	}
	if err != nil {
		r.Status = authenticationv1.TokenReviewStatus{Error: err.Error()}
		return nil
	}
	if !user.In(auth.GroupAuthenticated) {
		user.Groups = append(user.Groups[:len(user.Groups):len(user.Groups)], auth.GroupAuthenticated)
	}
	r.Status = authenticationv1.TokenReviewStatus{Authenticated: true, User: userInfo(user), Audiences: audiences}
	return nil
}

func userInfo(u auth.User) authenticationv1.UserInfo {
	info := authenticationv1.UserInfo{Username: u.Name, UID: u.UID, Groups: u.Groups}
	for k, v := range u.Extra {
		if info.Extra == nil {
			info.Extra = map[string]authenticationv1.ExtraValue{}
		}
		info.Extra[k] = v
	}
	return info
}

func userOf(s authorizationv1.SubjectAccessReviewSpec) auth.User {
	u := auth.User{Name: s.User, UID: s.UID, Groups: s.Groups}
	for k, v := range s.Extra {
		if u.Extra == nil {
			u.Extra = map[string][]string{}
		}
		u.Extra[k] = v
	}
	return u
}

func (e *Endpoint) reviewAccess(ctx context.Context, u auth.User, res *authorizationv1.ResourceAttributes, path *authorizationv1.NonResourceAttributes, out *authorizationv1.SubjectAccessReviewStatus) {
	a := auth.Attributes{User: u}
	if res != nil {
		a.ResourceRequest = true
		a.Verb, a.Group, a.Version, a.Resource = res.Verb, res.Group, res.Version, res.Resource
		a.Subresource, a.Namespace, a.Name = res.Subresource, res.Namespace, res.Name
		a.FieldSelector, a.LabelSelector = auth.SelectorTexts(res)
	} else if path != nil {
		a.Path, a.Verb = path.Path, path.Verb
	}
	d, reason, err := e.Authorizer.Authorize(ctx, a)
	*out = authorizationv1.SubjectAccessReviewStatus{Allowed: d == auth.Allow, Reason: reason}
	if err != nil {
		out.EvaluationError = err.Error()
	}
}

// reviewRules lists what RBAC grants. Other authorisers do not list what they
// would allow, so the answer is incomplete where there are any.
func (e *Endpoint) reviewRules(u auth.User, r *authorizationv1.SelfSubjectRulesReview) error {
	if r.Spec.Namespace == "" {
		return apierrors.NewBadRequest("no namespace on request")
	}
	r.Status = authorizationv1.SubjectRulesReviewStatus{
		ResourceRules: []authorizationv1.ResourceRule{}, NonResourceRules: []authorizationv1.NonResourceRule{},
	}
	if u.In(auth.GroupMasters) {
		addRule(&r.Status, rbacv1.PolicyRule{Verbs: all, APIGroups: all, Resources: all})
		addRule(&r.Status, rbacv1.PolicyRule{Verbs: all, NonResourceURLs: all})
	}
	if _, node := u.Node(); node {
		r.Status.Incomplete, r.Status.EvaluationError = true, "node authorizer does not support user rule resolution"
	}
	if e.IncompleteRules {
		r.Status.Incomplete, r.Status.EvaluationError = true, "webhook authorizer does not support user rule resolution"
	}
	if e.Rules == nil {
		r.Status.Incomplete = true
		return nil
	}
	for rule := range e.Rules(u, r.Spec.Namespace) {
		addRule(&r.Status, rule)
	}
	return nil
}

var all = []string{"*"}

func addRule(to *authorizationv1.SubjectRulesReviewStatus, rule rbacv1.PolicyRule) {
	if len(rule.Resources) > 0 {
		to.ResourceRules = append(to.ResourceRules, authorizationv1.ResourceRule{
			Verbs: rule.Verbs, APIGroups: rule.APIGroups, Resources: rule.Resources, ResourceNames: rule.ResourceNames,
		})
	}
	if len(rule.NonResourceURLs) > 0 {
		to.NonResourceRules = append(to.NonResourceRules, authorizationv1.NonResourceRule{Verbs: rule.Verbs, NonResourceURLs: rule.NonResourceURLs})
	}
}

// IssueToken makes a token for the service account that the request names.
func (e *Endpoint) IssueToken(ctx context.Context, q Request, req *authenticationv1.TokenRequest) (*authenticationv1.TokenRequest, error) {
	_, obj, err := live(ctx, e.Store.Snapshot(), q)
	if err != nil {
		return nil, err
	}
	if e.Tokens == nil {
		return nil, apierrors.NewServiceUnavailable("this server issues no tokens")
	}
	sa := obj.(*corev1.ServiceAccount)
	if req.UID != "" && req.UID != sa.UID {
		return nil, q.conflict("the UID in the token request (%s) does not match the UID of the service account (%s)", req.UID, sa.UID)
	}
	req, err = admitBody(ctx, e, q, req, authenticationv1.SchemeGroupVersion.WithKind("TokenRequest"))
	if err != nil {
		return nil, err
	}
	req.Name, req.Namespace = sa.Name, sa.Namespace
	req.CreationTimestamp = metav1.NewTime(e.Now()).Rfc3339Copy()
	if errs := validateTokenRequest(req); len(errs) > 0 {
		return nil, apierrors.NewInvalid(authenticationv1.SchemeGroupVersion.WithKind("TokenRequest").GroupKind(), "", errs)
	}
	return e.Tokens.Issue(ctx, sa, req)
}

const (
	defaultTokenSeconds = 3600
	minTokenSeconds     = 600
	maxTokenSeconds     = 1 << 32
)

func validateTokenRequest(req *authenticationv1.TokenRequest) (errs field.ErrorList) {
	if req.Spec.ExpirationSeconds == nil {
		s := int64(defaultTokenSeconds)
		req.Spec.ExpirationSeconds = &s
	}
	at := field.NewPath("spec", "expirationSeconds")
	if s := *req.Spec.ExpirationSeconds; s < minTokenSeconds {
		errs = append(errs, field.Invalid(at, s, "may not specify a duration less than 10 minutes"))
	} else if s > maxTokenSeconds {
		errs = append(errs, field.Invalid(at, s, "may not specify a duration larger than 2^32 seconds"))
	}
	return errs
}
