package apiserver

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"runtime/debug"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"proa/auth"
)

const (
	// requestTimeout is the time that a request other than a watch or stream
	// has, unless it asks for less.
	requestTimeout = 60 * time.Second
	// bodyTimeout is the time that a client has to send its body.
	bodyTimeout = 30 * time.Second
)

// serve is the way of every request: what is asked, room for one more, who asks,
// may they, and then the answer.
func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	t := parseTarget(r.Method, r.URL)
	x := &exchange{ResponseWriter: w, r: r, t: t}
	start := time.Now()
	defer func() { s.metrics.observe(x, time.Since(start)) }()
	defer s.recoverPanic(x)

	long := t.long(r.URL.Query())
	if !long {
		ctx, cancel := context.WithTimeout(r.Context(), timeoutOf(r))
		defer cancel()
		x.r = r.WithContext(ctx)
	}
	user, err := s.authenticate(x)
	if err != nil {
		x.fail(err)
		return
	}
	release, err := s.limits.enter(x.r.Context(), t, user, long)
	if err != nil {
		x.fail(err)
		return
	}
	defer release()
	if t.mutates() {
		growStack()
	}
	if user, err = s.impersonate(x.r, user); err == nil {
		err = s.authorize(x.r, user, x.t)
	}
	if err != nil {
		x.fail(err)
		return
	}
	s.dispatch(x, user)
}

// growStack makes the request's goroutine room for a write at once, while there
// is little to move: the merge of managed fields recurses deeply, and growing in
// steps below it took a fifth of a create's CPU time.
//
//go:noinline
func growStack() {
	var room [24 << 10]byte
	touch(&room)
}

//go:noinline
func touch(room *[24 << 10]byte) { room[0] = 1 }

func timeoutOf(r *http.Request) time.Duration {
	if v := r.URL.Query().Get("timeout"); v != "" {
		if d, err := time.ParseDuration(v); err == nil && d > 0 && d < requestTimeout {
			return d
		}
	}
	return requestTimeout
}

// recoverPanic keeps a panic to its own request.
func (s *Server) recoverPanic(x *exchange) {
	p := recover()
	if p == nil {
		return
	}
	if err, ok := p.(error); ok && errors.Is(err, http.ErrAbortHandler) {
		panic(p) // the way to cut a connection; net/http keeps quiet about it
	}
	s.cfg.Log.Error("a request panicked", "method", x.r.Method, "path", x.r.URL.Path, "panic", p, "stack", string(debug.Stack()))
	if x.status != 0 {
		panic(http.ErrAbortHandler)
	}
	x.fail(apierrors.NewInternalError(errors.New("the server panicked while it handled this request; its log says where")))
}

func (s *Server) authenticate(x *exchange) (auth.User, error) {
	if s.cfg.Authenticator == nil {
		return auth.Anonymous(), nil
	}
	user, ok, err := s.cfg.Authenticator.Authenticate(x.r)
	x.r.Header.Del("Authorization") // nobody further in needs it
	if err != nil {
		s.cfg.Log.Debug("authentication failed", "path", x.r.URL.Path, "err", err)
		return user, apierrors.NewUnauthorized("Unauthorized")
	}
	if !ok {
		return auth.Anonymous(), nil
	}
	return user, nil
}

func (s *Server) authorize(r *http.Request, u auth.User, t target) error {
	a := auth.Attributes{User: u, Verb: t.Verb, Path: t.Path}
	if t.Resource {
		a = auth.Attributes{
			User: u, Verb: t.Verb, Group: t.Group, Version: t.Version, Resource: t.Plural, Subresource: t.Subresource,
			Namespace: t.Namespace, Name: t.Name, ResourceRequest: true,
			FieldSelector: r.URL.Query().Get("fieldSelector"), LabelSelector: r.URL.Query().Get("labelSelector"),
		}
	}
	d, reason, err := s.cfg.Authorizer.Authorize(r.Context(), a)
	if err != nil && d != auth.Allow {
		return forbidden(a, err.Error())
	}
	if d != auth.Allow {
		return forbidden(a, reason)
	}
	return nil
}

// forbidden words a refusal as upstream does: who may not do what, where.
func forbidden(a auth.Attributes, reason string) error {
	if !a.ResourceRequest {
		return apierrors.NewForbidden(noResource, "", because(fmt.Sprintf("User %q cannot %s path %q", a.User.Name, a.Verb, a.Path), reason))
	}
	resource := a.Resource
	if a.Subresource != "" {
		resource += "/" + a.Subresource
	}
	msg := fmt.Sprintf("User %q cannot %s resource %q in API group %q", a.User.Name, a.Verb, resource, a.Group)
	if a.Namespace != "" && a.Resource != "namespaces" {
		msg += fmt.Sprintf(" in the namespace %q", a.Namespace)
	} else {
		msg += " at the cluster scope"
	}
	return apierrors.NewForbidden(schema.GroupResource{Group: a.Group, Resource: a.Resource}, a.Name, because(msg, reason))
}

func because(msg, reason string) error {
	if reason == "" {
		return errors.New(msg)
	}
	return fmt.Errorf("%s: %s", msg, reason)
}

const (
	headerUser  = "Impersonate-User"
	headerUID   = "Impersonate-Uid"
	headerGroup = "Impersonate-Group"
	headerExtra = "Impersonate-Extra-"
)

// impersonate makes the request another user's, if each part of that identity is
// one that the sender may impersonate.
func (s *Server) impersonate(r *http.Request, from auth.User) (auth.User, error) {
	name := r.Header.Get(headerUser)
	if name == "" {
		if r.Header.Get(headerGroup) != "" || r.Header.Get(headerUID) != "" {
			return from, apierrors.NewBadRequest("impersonating a group, uid or extra needs " + headerUser + " too")
		}
		return from, nil
	}
	to := auth.User{Name: name, UID: r.Header.Get(headerUID), Groups: r.Header.Values(headerGroup), Extra: extraOf(r.Header)}
	for _, a := range impersonations(to) {
		a.User, a.Verb, a.ResourceRequest = from, "impersonate", true
		if d, reason, err := s.cfg.Authorizer.Authorize(r.Context(), a); d != auth.Allow {
			if err != nil {
				reason = err.Error()
			}
			return from, forbidden(a, reason)
		}
	}
	return withImplied(to), nil
}

func extraOf(h http.Header) map[string][]string {
	var out map[string][]string
	for k, v := range h {
		if name, ok := strings.CutPrefix(k, headerExtra); ok {
			if out == nil {
				out = map[string][]string{}
			}
			out[strings.ToLower(name)] = v
		}
	}
	return out
}

// impersonations are the access checks that an identity takes.
func impersonations(to auth.User) []auth.Attributes {
	var out []auth.Attributes
	if rest, ok := strings.CutPrefix(to.Name, auth.ServiceAccountPrefix); ok {
		ns, name, _ := strings.Cut(rest, ":")
		out = append(out, auth.Attributes{Version: "v1", Resource: "serviceaccounts", Namespace: ns, Name: name})
	} else {
		out = append(out, auth.Attributes{Version: "v1", Resource: "users", Name: to.Name})
	}
	for _, g := range to.Groups {
		out = append(out, auth.Attributes{Version: "v1", Resource: "groups", Name: g})
	}
	if to.UID != "" {
		out = append(out, auth.Attributes{Group: "authentication.k8s.io", Version: "v1", Resource: "uids", Name: to.UID})
	}
	for k, values := range to.Extra {
		for _, v := range values {
			out = append(out, auth.Attributes{Group: "authentication.k8s.io", Version: "v1", Resource: "userextras", Subresource: k, Name: v})
		}
	}
	return out
}

// withImplied adds the groups that an identity has by its name.
func withImplied(u auth.User) auth.User {
	if rest, ok := strings.CutPrefix(u.Name, auth.ServiceAccountPrefix); ok && len(u.Groups) == 0 {
		ns, _, _ := strings.Cut(rest, ":")
		u.Groups = []string{auth.GroupServiceAccounts, auth.GroupServiceAccounts + ":" + ns}
	}
	switch {
	case u.Name == auth.UserAnonymous && !u.In(auth.GroupUnauthenticated):
		u.Groups = append(u.Groups, auth.GroupUnauthenticated)
	case u.Name != auth.UserAnonymous && !u.In(auth.GroupAuthenticated) && !u.In(auth.GroupUnauthenticated):
		u.Groups = append(u.Groups, auth.GroupAuthenticated)
	}
	return u
}
