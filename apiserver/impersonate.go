package apiserver

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"proa/auth"
)

const (
	headerUser  = "Impersonate-User"
	headerUID   = "Impersonate-Uid"
	headerGroup = "Impersonate-Group"
	headerExtra = "Impersonate-Extra-"
	// nodeNameExtra is where a service account's token says which node its pod
	// is on.
	nodeNameExtra = "authentication.kubernetes.io/node-name"
)

// impersonate makes the request another user's, if the sender may: by one of the
// constrained ways (KEP-5284), which grant an action as somebody else and no
// more, or by the old one, which grants the whole identity. The headers are taken
// away, so that nobody further in behaves otherwise because of them.
func (s *Server) impersonate(r *http.Request, from auth.User, a auth.Attributes) (auth.User, error) {
	to, err := wantedUser(r.Header)
	if err != nil || to == nil {
		return from, err
	}
	var first error
	for _, way := range impersonations {
		if !way.suits(*to, from) {
			continue
		}
		i := impersonation{s: s, ctx: r.Context(), way: way, from: from}
		user, err := i.try(*to, a)
		if err == nil {
			return user, nil
		}
		if first == nil {
			first = err
		}
	}
	return from, first
}

// wantedUser reads the headers; nil where there are none.
func wantedUser(h http.Header) (*auth.User, error) {
	to := &auth.User{Name: h.Get(headerUser), UID: h.Get(headerUID), Groups: slices.Clone(h[headerGroup])}
	for k, values := range h {
		name, ok := strings.CutPrefix(k, headerExtra)
		if !ok {
			continue
		}
		if to.Extra == nil {
			to.Extra = map[string][]string{}
		}
		name = strings.ToLower(name)
		if plain, err := url.PathUnescape(name); err == nil {
			name = plain
		}
		to.Extra[name] = append(to.Extra[name], values...)
		delete(h, k)
	}
	for _, k := range []string{headerUser, headerUID, headerGroup} {
		h.Del(k)
	}
	switch {
	case to.Name != "":
		return to, nil
	case to.UID != "" || len(to.Groups) > 0 || to.Extra != nil:
		return nil, apierrors.NewBadRequest(fmt.Sprintf("requested %#v without impersonating a user name", *to))
	}
	return nil, nil
}

// way is one of the ways to be allowed an impersonation. The name is empty for
// the old one.
type way struct {
	name  string
	suits func(to, from auth.User) bool
}

var impersonations = []way{
	{"associated-node", func(to, from auth.User) bool {
		_, _, account := accountOf(from.Name)
		node, ok := nodeOf(to.Name)
		return ok && account && onlyNamed(to) && slices.Equal(from.Extra[nodeNameExtra], []string{node})
	}},
	{"arbitrary-node", func(to, _ auth.User) bool { _, ok := nodeOf(to.Name); return ok && onlyNamed(to) }},
	{"serviceaccount", func(to, _ auth.User) bool { _, _, ok := accountOf(to.Name); return ok && onlyNamed(to) }},
	{"user-info", func(to, _ auth.User) bool {
		_, node := nodeOf(to.Name)
		_, _, account := accountOf(to.Name)
		return !node && !account
	}},
	{"", func(_, _ auth.User) bool { return true }},
}

func onlyNamed(u auth.User) bool { return u.UID == "" && len(u.Groups) == 0 && len(u.Extra) == 0 }

func nodeOf(user string) (string, bool) {
	name, ok := strings.CutPrefix(user, auth.NodeUserPrefix)
	return name, ok && len(validation.IsDNS1123Subdomain(name)) == 0
}

func accountOf(user string) (namespace, name string, ok bool) {
	rest, ok := strings.CutPrefix(user, auth.ServiceAccountPrefix)
	if !ok {
		return "", "", false
	}
	namespace, name, ok = strings.Cut(rest, ":")
	return namespace, name, ok && len(validation.IsDNS1123Label(namespace)) == 0 && len(validation.IsDNS1123Subdomain(name)) == 0
}

// impersonation is one attempt by one way.
type impersonation struct {
	s    *Server
	ctx  context.Context
	way  way
	from auth.User
}

// try checks the action as somebody else, and then each part of the identity.
func (i impersonation) try(to auth.User, a auth.Attributes) (auth.User, error) {
	if i.way.name != "" {
		on := a
		on.User, on.Verb = i.from, "impersonate-on:"+i.way.name+":"+a.Verb
		if err := i.may(on); err != nil {
			return to, err
		}
		if err := i.fit(to); err != nil {
			return to, err
		}
	}
	for _, part := range i.parts(to) {
		if err := i.may(part); err != nil {
			return to, err
		}
	}
	return withImplied(to, i.way.name != ""), nil
}

func (i impersonation) may(a auth.Attributes) error {
	if i.way.name == "associated-node" { // decided for the account, whichever node it is on
		a.User.Extra = nil
		if strings.HasPrefix(a.Verb, "impersonate:") {
			a.Name = "*"
		}
	}
	d, reason, err := i.s.cfg.Authorizer.Authorize(i.ctx, a)
	if d == auth.Allow {
		return nil
	}
	if err != nil {
		reason = strings.TrimSuffix(err.Error()+": "+reason, ": ")
	}
	return forbidden(a, reason)
}

// part is the access check for one part of an identity.
func (i impersonation) part(group, resource, name string) auth.Attributes {
	verb := "impersonate"
	if i.way.name != "" {
		verb, group = "impersonate:"+i.way.name, "authentication.k8s.io"
	}
	return auth.Attributes{User: i.from, Verb: verb, Group: group, Version: "v1", Resource: resource, Name: name, ResourceRequest: true}
}

func (i impersonation) parts(to auth.User) []auth.Attributes {
	user := i.part("", "users", to.Name)
	if name, ok := nodeOf(to.Name); ok && i.way.name != "" {
		user.Resource, user.Name = "nodes", name
	}
	if ns, name, ok := accountOf(to.Name); ok {
		user.Resource, user.Namespace, user.Name = "serviceaccounts", ns, name
	}
	out := []auth.Attributes{user}
	if to.UID != "" {
		out = append(out, i.part("authentication.k8s.io", "uids", to.UID))
	}
	for _, g := range to.Groups {
		out = append(out, i.part("", "groups", g))
	}
	for k, values := range to.Extra {
		for _, v := range values {
			extra := i.part("authentication.k8s.io", "userextras", v)
			extra.Subresource = k
			out = append(out, extra)
		}
	}
	return out
}

// fit refuses what no constrained way gives.
func (i impersonation) fit(to auth.User) error {
	no := func(resource, name string, err error) error {
		return forbidden(i.part("", resource, name), err.Error())
	}
	if slices.Contains(to.Groups, "") {
		return no("groups", "", errors.New("impersonating the empty string group is not allowed"))
	}
	if to.In(auth.GroupMasters) {
		return no("groups", auth.GroupMasters, errors.New("impersonating the system:masters group is not allowed"))
	}
	for k, values := range to.Extra {
		if err := fitExtra(k, values); err != nil {
			return no("userextras", "", err)
		}
	}
	return nil
}

func fitExtra(key string, values []string) error {
	switch err := validation.IsDomainPrefixedPath(field.NewPath("extra", "key"), key).ToAggregate(); {
	case key == "":
		return errors.New("impersonating the empty string key in extra is not allowed")
	case err != nil:
		return fmt.Errorf("impersonating an invalid key in extra is not allowed: %w", err)
	case len(values) == 0:
		return errors.New("impersonating empty values in extra is not allowed")
	case slices.Contains(values, ""):
		return errors.New("impersonating the empty string value in extra is not allowed")
	}
	return nil
}

// withImplied adds the groups that an identity has by its name.
func withImplied(u auth.User, constrained bool) auth.User {
	if ns, _, ok := accountOf(u.Name); ok && len(u.Groups) == 0 {
		u.Groups = []string{auth.GroupServiceAccounts, auth.GroupServiceAccounts + ":" + ns}
	}
	if _, ok := nodeOf(u.Name); ok && constrained {
		u.Groups = []string{auth.GroupNodes}
	}
	switch {
	case u.Name == auth.UserAnonymous && !u.In(auth.GroupUnauthenticated):
		u.Groups = append(u.Groups, auth.GroupUnauthenticated)
	case u.Name != auth.UserAnonymous && !u.In(auth.GroupAuthenticated) && !u.In(auth.GroupUnauthenticated):
		u.Groups = append(u.Groups, auth.GroupAuthenticated)
	}
	return u
}
