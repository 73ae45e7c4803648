// Package endpoint is the API without HTTP: the verbs on stored resources as Go
// calls. Both the HTTP front and the in-process client go through it, so that
// defaults, validation, admission, managed fields and concurrency rules hold for
// everybody.
//
// What goes in is an object of the storage version that the caller gives away;
// what comes out is a shared record, or an object where nothing was stored.
// Errors are those of k8s.io/apimachinery/pkg/api/errors.
package endpoint

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strconv"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"proa/api"
	"proa/apiserver/admission"
	"proa/apiserver/codec"
	"proa/apiserver/fieldmanager"
	"proa/auth"
	"proa/store"
)

// Endpoint serves the verbs.
type Endpoint struct {
	Store     store.Interface
	Registry  *api.Registry
	Admission admission.Chain
	Fields    *fieldmanager.Managers
	// Tokens issues tokens, Reviewer finds out whose they are.
	Tokens   auth.TokenIssuer
	Reviewer auth.TokenReviewer
	// Authorizer answers access reviews.
	Authorizer auth.Authorizer
	// Rules yields what RBAC grants a user in a namespace, each with the reason;
	// nil where there is no RBAC.
	Rules func(u auth.User, namespace string) iter.Seq2[rbacv1.PolicyRule, string]
	// IncompleteRules says that others than RBAC decide, too.
	IncompleteRules bool
	// Now is the clock.
	Now func() time.Time
}

// Request says who asks for what.
type Request struct {
	User                         auth.User
	Served                       api.Served
	Namespace, Name, Subresource string
	// Manager is the field manager: the client's choice or its program's name.
	Manager string
	// Validation is the field validation: Strict, Warn or Ignore.
	Validation string
	DryRun     bool
	// Given are the options as the client sent them, which is what webhooks see.
	Given metav1.UpdateOptions
	// Bare requests are the server's own: no webhook or policy sees them.
	Bare bool
	// Warn adds a warning to the answer, Annotate a note to the audit event;
	// either may be nil. Both may be called from several goroutines.
	Warn     func(text string)
	Annotate func(key, value string)

	// admitted says that admission had its say already, on what the client sent
	// to a subresource; only the last steps before the commit remain.
	admitted bool
	// applied says that the managed fields are already those of the new state.
	applied bool
}

// Result is the outcome of a write: the stored record, or where there is none
// (dry run, a deletion, an answered review) the object. A custom resource has
// both: the record may be of another version.
type Result struct {
	Record  *store.Record
	object  api.Object
	Created bool
	// Deleted says that the object is gone, rather than on its way.
	Deleted bool
}

// Object is the result's object, shared.
func (r Result) Object() (api.Object, error) {
	if r.Record != nil && r.object == nil {
		return r.Record.Object()
	}
	return r.object, nil
}

func (q Request) key() store.Key {
	return store.Key{Resource: q.Served.Key(), Namespace: q.Namespace, Name: q.Name}
}

func (q Request) warn(texts ...string) {
	if q.Warn == nil {
		return
	}
	for _, t := range texts {
		q.Warn(t)
	}
}

func (q Request) notFound() error { return apierrors.NewNotFound(q.Served.GR(), q.Name) }

func (q Request) conflict(format string, args ...any) error {
	return apierrors.NewConflict(q.Served.GR(), q.Name, fmt.Errorf(format, args...))
}

func (q Request) modified() error {
	return q.conflict("the object has been modified; please apply your changes to the latest version and try again")
}

func (e *Endpoint) admissionRequest(q Request, op admission.Operation, obj, old api.Object, world store.Snapshot) *admission.Request {
	return &admission.Request{
		Op: op, Resource: q.Served.Resource, As: q.Served.As, Subresource: q.Subresource, Namespace: q.Namespace, Name: q.Name,
		Object: obj, Old: old, User: q.User, DryRun: q.DryRun, Bare: q.Bare, World: world, Options: q.options(op),
		Warn: func(t string) { q.warn(t) }, Annotate: q.Annotate,
	}
}

// options are the operation's as admission shows them.
func (q Request) options(op admission.Operation) runtime.Object {
	kind := metav1.TypeMeta{APIVersion: "meta.k8s.io/v1"}
	switch op {
	case admission.Create:
		kind.Kind = "CreateOptions"
		return &metav1.CreateOptions{TypeMeta: kind, DryRun: q.Given.DryRun, FieldManager: q.Given.FieldManager, FieldValidation: q.Given.FieldValidation}
	case admission.Update:
		kind.Kind = "UpdateOptions"
		return &metav1.UpdateOptions{TypeMeta: kind, DryRun: q.Given.DryRun, FieldManager: q.Given.FieldManager, FieldValidation: q.Given.FieldValidation}
	}
	return nil
}

// admit runs admission over what a client sent to a subresource that takes a kind
// of its own, and returns it as admission left it.
func (e *Endpoint) admit(ctx context.Context, q Request, op admission.Operation, obj, old api.Object) (api.Object, error) {
	ar := e.admissionRequest(q, op, obj, old, e.Store.Snapshot())
	if err := e.Admission.Mutate(ctx, ar); err != nil {
		return nil, err
	}
	return ar.Object, e.Admission.Validate(ctx, ar)
}

// live finds the record that a request names in a world, with its object.
func live(ctx context.Context, world store.Snapshot, q Request) (*store.Record, api.Object, error) {
	rec := world.Get(q.key())
	if rec == nil {
		return nil, nil, q.notFound()
	}
	obj, err := codec.Shown(ctx, q.Served, rec)
	if err != nil {
		return nil, nil, internal(err)
	}
	return rec, obj, nil
}

// internal is the answer where the fault is the server's; an error that is an
// answer already stays as it is.
func internal(err error) error {
	var known apierrors.APIStatus
	if errors.As(err, &known) {
		return err
	}
	return apierrors.NewInternalError(err)
}

// stored is the form that an object is kept in. The object is given away.
func stored(ctx context.Context, q Request, obj api.Object) (api.Object, error) {
	if q.Served.Custom == nil {
		return obj, nil
	}
	return q.Served.Custom.Keep(ctx, obj)
}

// result is the outcome of a committed write.
func (q Request) result(rec *store.Record, obj api.Object) Result {
	if q.Served.Custom != nil {
		if rv := formatRevision(rec.Revision()); obj.GetResourceVersion() != rv {
			obj.SetResourceVersion(rv) // another version's object than the one that the store has
		}
		return Result{Record: rec, object: obj}
	}
	return Result{Record: rec}
}

// encode makes the storage bytes of a new state.
func (e *Endpoint) encode(obj api.Object, key store.Key) ([]byte, error) {
	return codec.Storage{Registry: e.Registry}.Encode(key.Resource, obj)
}

// TimedOut is the answer to a request whose context has ended.
func TimedOut(err error) error {
	return apierrors.NewTimeoutError("request did not complete within requested timeout - "+err.Error(), 0)
}

// storeError turns what the store says into what a client is told.
func storeError(q Request, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, store.ErrConflict):
		return q.modified()
	case errors.Is(err, store.ErrNoSpace):
		s := apierrors.NewInternalError(err)
		s.ErrStatus.Code, s.ErrStatus.Reason = 507, metav1.StatusReasonUnknown
		s.ErrStatus.Message = "the disk that holds the cluster's state is full: writes are refused until space is freed, deletes still work"
		return s
	case errors.Is(err, store.ErrTooLarge):
		return apierrors.NewRequestEntityTooLargeError(err.Error())
	case errors.Is(err, store.ErrClosed), errors.Is(err, store.ErrUnavailable):
		return apierrors.NewServiceUnavailable(err.Error())
	case errors.Is(err, store.ErrUnconfirmed):
		return apierrors.NewTimeoutError(err.Error(), 0) // no Retry-After: clients would send it again unasked
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return TimedOut(err)
	}
	return apierrors.NewInternalError(err)
}

// foreign tells a conflict on a key other than the request's own, which asks for
// another attempt, and not for the client's attention.
func foreign(q Request, err error) bool {
	var c *store.ConflictError
	return errors.As(err, &c) && c.Key != q.key()
}

func formatRevision(rev uint64) string { return strconv.FormatUint(rev, 10) }
