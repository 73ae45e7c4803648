package extension

import (
	"context"

	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"proa/auth"
)

// Authorizer is the server's authorizer as expressions ask it.
func Authorizer(a auth.Authorizer) authorizer.UnconditionalAuthorizer { return asked{a} }

type asked struct{ auth.Authorizer }

func (z asked) Authorize(ctx context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
	d, reason, err := z.Authorizer.Authorize(ctx, attributesOf(a))
	switch d {
	case auth.Allow:
		return authorizer.DecisionAllow, reason, err
	case auth.Deny:
		return authorizer.DecisionDeny, reason, err
	}
	return authorizer.DecisionNoOpinion, reason, err
}

func attributesOf(a authorizer.Attributes) auth.Attributes {
	out := auth.Attributes{
		User: userOf(a.GetUser()), Verb: a.GetVerb(), Group: a.GetAPIGroup(), Version: a.GetAPIVersion(),
		Resource: a.GetResource(), Subresource: a.GetSubresource(), Namespace: a.GetNamespace(), Name: a.GetName(),
		Path: a.GetPath(), ResourceRequest: a.IsResourceRequest(),
	}
	if rs, err := a.GetFieldSelector(); err == nil {
		for _, r := range rs {
			out.FieldSelector = joined(out.FieldSelector, r.Field+string(r.Operator)+fields.EscapeValue(r.Value))
		}
	}
	if rs, err := a.GetLabelSelector(); err == nil {
		for _, r := range rs {
			out.LabelSelector = joined(out.LabelSelector, r.String())
		}
	}
	return out
}

func joined(list, more string) string {
	if list == "" {
		return more
	}
	return list + "," + more
}

func userOf(u user.Info) auth.User {
	if u == nil {
		return auth.User{}
	}
	return auth.User{Name: u.GetName(), UID: u.GetUID(), Groups: u.GetGroups(), Extra: u.GetExtra()}
}
