package apiserver

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"reflect"
	"runtime/debug"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"

	"proa/apiserver/audit"
	"proa/auth"
)

const (
	// requestTimeout is the time that a request other than a watch or stream
	// has, unless it asks for less.
	requestTimeout = 60 * time.Second
	// bodyTimeout is the time that a client has to send its body.
	bodyTimeout = 30 * time.Second
)

// serve is the way of every request: what is asked, who asks, their turn, may
// they, and then the answer.
func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	t := parseTarget(r.Method, r.URL)
	x := &exchange{ResponseWriter: w, r: r, t: t}
	long := t.long(x.query())
	x.long = long
	defer s.begin(x, long)()
	defer x.audited()
	defer x.taken()
	defer s.recoverPanic(x)

	if !long {
		timeout, err := timeoutOf(x.query())
		if err != nil {
			x.fail(err)
			return
		}
		ctx, cancel := context.WithTimeout(r.Context(), timeout)
		defer cancel()
		x.r = r.WithContext(ctx)
	} else {
		ctx, cancel := context.WithCancel(r.Context())
		defer context.AfterFunc(s.draining, cancel)()
		defer cancel()
		x.r, x.hangup = r.WithContext(ctx), cancel
	}
	user, leave, err := s.letIn(x, long)
	if err != nil {
		x.fail(err)
		return
	}
	defer leave()
	s.dispatch(x, user)
}

// letIn finds out who asks, waits for their turn and sees whether they may.
func (s *Server) letIn(x *exchange, long bool) (user auth.User, leave func(), err error) {
	user, err = s.authenticate(x)
	a := x.attributes(user)
	if aerr := s.audit(x, &a); err != nil || aerr != nil {
		return user, nil, cmp.Or(err, aerr)
	}
	if a.User, err = s.impersonate(x.r, user, a); err != nil {
		return user, nil, err
	}
	if x.entry != nil && !reflect.DeepEqual(user, a.User) {
		x.entry.Impersonated(a.User)
	}
	user = a.User
	if leave, err = s.admit(x, &a, long); err != nil {
		return user, nil, err
	}
	if x.t.mutates() {
		growStack()
	}
	if err = s.authorize(x, a); err != nil {
		leave()
		return user, nil, err
	}
	return user, leave, nil
}

// audit begins the request's record. The error says that it cannot be recorded,
// where that must keep it from being served.
func (s *Server) audit(x *exchange, a *auth.Attributes) error {
	if x.entry = s.cfg.Audit.Begin(x.r, a); x.entry == nil {
		return nil
	}
	x.Header().Set(audit.HeaderID, x.entry.ID())
	if err := x.entry.Stage(auditv1.StageRequestReceived); err != nil {
		return apierrors.NewInternalError(errors.New("audit failed"))
	}
	return nil
}

// audited ends the request's record.
func (x *exchange) audited() {
	if x.entry != nil {
		x.entry.Status(x.status, x.failure)
		_ = x.entry.Stage(auditv1.StageResponseComplete) // too late to refuse
	}
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

// timeoutOf is the time that a request has.
func timeoutOf(query url.Values) (time.Duration, error) {
	v := query.Get("timeout")
	if v == "" {
		return requestTimeout, nil
	}
	d, err := time.ParseDuration(v)
	if err != nil {
		return 0, apierrors.NewBadRequest("invalid timeout specified in the request URL - " + err.Error())
	}
	if d <= 0 {
		d = requestTimeout
	}
	return min(d, requestTimeout), nil
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
	x.entry.Status(http.StatusInternalServerError, &metav1.Status{Status: metav1.StatusFailure, Reason: metav1.StatusReasonInternalError,
		Message: fmt.Sprintf("APIServer panic'd: %v", p)})
	_ = x.entry.Stage(auditv1.StagePanic) // too late to refuse
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
	if !ok && s.cfg.Anonymous != nil && !s.cfg.Anonymous(x.r.URL.Path) {
		return user, apierrors.NewUnauthorized("Unauthorized")
	}
	if !ok {
		return auth.Anonymous(), nil
	}
	return user, nil
}

// attributes are what the request asks to do, for those who judge it.
func (x *exchange) attributes(u auth.User) auth.Attributes {
	t := x.t
	if !t.Resource {
		return auth.Attributes{User: u, Verb: t.Verb, Path: t.Path}
	}
	return auth.Attributes{
		User: u, Verb: t.Verb, Group: t.Group, Version: t.Version, Resource: t.Plural, Subresource: t.Subresource,
		Namespace: t.Namespace, Name: t.Name, ResourceRequest: true,
		FieldSelector: x.query().Get("fieldSelector"), LabelSelector: x.query().Get("labelSelector"),
	}
}

func (s *Server) authorize(x *exchange, a auth.Attributes) error {
	d, reason, err := s.cfg.Authorizer.Authorize(x.r.Context(), a)
	if err != nil && d != auth.Allow {
		reason = err.Error()
	}
	if x.entry != nil {
		x.entry.Annotate("authorization.k8s.io/decision", map[bool]string{true: "allow", false: "forbid"}[d == auth.Allow])
		x.entry.Annotate("authorization.k8s.io/reason", reason)
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
