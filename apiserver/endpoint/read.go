package endpoint

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"strconv"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/internalversion"
	internalvalidation "k8s.io/apimachinery/pkg/apis/meta/internalversion/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"proa/store"
)

// futureWait is how long a read that names a revision waits for it.
const futureWait = 3 * time.Second

// ListOptions are those of a list or watch as the client sent them.
type ListOptions = metav1.ListOptions

// List is a page of records at one revision.
type List struct {
	Records   []*store.Record
	Revision  uint64
	Continue  string
	Remaining *int64
}

// Meta is the list's metadata on the wire.
func (l List) Meta() metav1.ListMeta {
	return metav1.ListMeta{ResourceVersion: formatRevision(l.Revision), Continue: l.Continue, RemainingItemCount: l.Remaining}
}

// Get reads one record, at least as new as opts.ResourceVersion.
func (e *Endpoint) Get(ctx context.Context, q Request, resourceVersion string) (*store.Record, error) {
	world, err := e.atLeast(ctx, resourceVersion)
	if err != nil {
		return nil, err
	}
	rec := world.Get(q.key())
	if rec == nil {
		return nil, q.notFound()
	}
	return rec, nil
}

// List reads a page.
func (e *Endpoint) List(ctx context.Context, q Request, opts ListOptions) (List, error) {
	if err := validateListOptions(opts); err != nil {
		return List{}, err
	}
	scope := store.Scope{Resource: q.Served.Key(), Namespace: q.Namespace, Name: q.Name}
	sel, err := newSelection(ctx, q.Served, opts.LabelSelector, opts.FieldSelector, &scope)
	if err != nil {
		return List{}, err
	}
	world, c, err := e.worldOf(ctx, scope.Resource, opts)
	if err != nil {
		return List{}, err
	}
	if err := sel.prepare(candidates(world, scope, sel, c.after(scope))); err != nil {
		return List{}, internal(err)
	}
	return page(world, scope, sel, c, opts.Limit)
}

// worldOf is the snapshot that a list reads, and where in it it begins.
// See "Resource versions" in the Kubernetes API concepts for the table of cases.
func (e *Endpoint) worldOf(ctx context.Context, resource string, opts ListOptions) (store.Snapshot, continuation, error) {
	if opts.Continue != "" {
		return e.continued(ctx, resource, opts)
	}
	rev, err := parseRevision(opts.ResourceVersion)
	if err != nil {
		return nil, continuation{}, err
	}
	exact := opts.ResourceVersionMatch == metav1.ResourceVersionMatchExact || opts.ResourceVersionMatch == "" && opts.Limit > 0
	begun := continuation{Begun: e.Now().Unix()}
	if rev > 0 && exact {
		world, err := e.past(ctx, resource, rev)
		return world, begun, err
	}
	world, err := e.atLeast(ctx, opts.ResourceVersion)
	return world, begun, err
}

// atLeast is a world that is not older than a resource version: "" asks for the
// newest there is anywhere, "0" for any.
func (e *Endpoint) atLeast(ctx context.Context, resourceVersion string) (store.Snapshot, error) {
	if resourceVersion == "" {
		return e.latest(ctx)
	}
	rev, err := parseRevision(resourceVersion)
	if err != nil {
		return nil, err
	}
	if err := e.reach(ctx, rev); err != nil {
		return nil, err
	}
	return e.Store.Snapshot(), nil
}

// latest is the world that shows all that was written before, by any server.
func (e *Endpoint) latest(ctx context.Context) (store.Snapshot, error) {
	world, err := e.Store.Latest(ctx)
	return world, storeError(Request{}, err)
}

func (e *Endpoint) past(ctx context.Context, resource string, rev uint64) (store.Snapshot, error) {
	if err := e.reach(ctx, rev); err != nil {
		return nil, err
	}
	world, err := e.Store.SnapshotAt(rev, resource)
	if errors.Is(err, store.ErrExpired) {
		return nil, apierrors.NewResourceExpired("The resourceVersion for the provided list is too old.")
	}
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	return world, nil
}

func (e *Endpoint) reach(ctx context.Context, rev uint64) error {
	if rev == 0 || rev <= e.Store.Snapshot().Revision() {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, futureWait)
	defer cancel()
	if err := e.Store.WaitFor(ctx, rev); err != nil {
		return tooLarge(rev, e.Store.Snapshot().Revision())
	}
	return nil
}

func tooLarge(rev, current uint64) error {
	err := apierrors.NewTimeoutError(fmt.Sprintf("Too large resource version: %d, current: %d", rev, current), 1)
	err.ErrStatus.Details.Causes = []metav1.StatusCause{{
		Type: metav1.CauseTypeResourceVersionTooLarge, Message: "Too large resource version",
	}}
	return err
}

func parseRevision(s string) (uint64, error) {
	if s == "" || s == "0" {
		return 0, nil
	}
	rev, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		errs := field.ErrorList{field.Invalid(field.NewPath("resourceVersion"), s, err.Error())}
		return 0, apierrors.NewInvalid(schema.GroupKind{Group: metav1.GroupName, Kind: "ListOptions"}, "", errs)
	}
	return rev, nil
}

func validateListOptions(o ListOptions) error {
	internal := internalversion.ListOptions{
		Watch: o.Watch, ResourceVersion: o.ResourceVersion, ResourceVersionMatch: o.ResourceVersionMatch,
		Limit: o.Limit, Continue: o.Continue, SendInitialEvents: o.SendInitialEvents,
	}
	if errs := internalvalidation.ValidateListOptions(&internal, true); len(errs) > 0 {
		return apierrors.NewInvalid(schema.GroupKind{Group: metav1.GroupName, Kind: "ListOptions"}, "", errs)
	}
	return nil
}

// page walks the scope from a key on until the limit is reached.
func page(world store.Snapshot, scope store.Scope, sel Selection, from continuation, limit int64) (List, error) {
	out := List{Revision: world.Revision()}
	if sel.all() && scope.Name == "" {
		n := int64(world.Count(scope))
		if limit > 0 {
			n = min(n, limit)
		}
		out.Records = make([]*store.Record, 0, n)
	}
	for rec := range candidates(world, scope, sel, from.after(scope)) {
		ok, err := sel.matches(rec)
		if err != nil {
			return List{}, internal(err)
		}
		if !ok {
			continue
		}
		if limit > 0 && int64(len(out.Records)) == limit {
			last := out.Records[limit-1].Key()
			next := continuation{Revision: world.Revision(), Namespace: last.Namespace, Name: last.Name, Begun: from.Begun, Seen: from.Seen + limit}
			out.Continue = encodeContinue(next)
			if sel.all() && scope.Name == "" {
				left := max(int64(world.Count(scope))-next.Seen, 1)
				out.Remaining = &left
			}
			return out, nil
		}
		out.Records = append(out.Records, rec)
	}
	return out, nil
}

// candidates yields the scope, by an index where a field selector names one.
func candidates(world store.Snapshot, scope store.Scope, sel Selection, after store.Key) iter.Seq[*store.Record] {
	if node, ok := sel.fields.RequiresExactMatch("spec.nodeName"); ok && node != "" && after == (store.Key{}) && sel.row.Indexes["nodeName"] != nil {
		return inScope(world.Index(scope.Resource, "nodeName", node), scope)
	}
	return world.List(scope, after)
}

func inScope(seq iter.Seq[*store.Record], s store.Scope) iter.Seq[*store.Record] {
	return func(yield func(*store.Record) bool) {
		for rec := range seq {
			k := rec.Key()
			if (s.Namespace != "" && s.Namespace != k.Namespace) || (s.Name != "" && s.Name != k.Name) {
				continue
			}
			if !yield(rec) {
				return
			}
		}
	}
}

// continuation is what a continue token holds. Clients treat it as opaque.
type continuation struct {
	Revision  uint64 `json:"rv"`
	Namespace string `json:"ns,omitempty"`
	Name      string `json:"n"`
	// Seen is how many objects the pages before have shown.
	Seen int64 `json:"s,omitempty"`
	// Newest says that the list goes on at whatever revision is newest.
	Newest bool `json:"new,omitempty"`
	// Begun is when the list began, in seconds since 1970.
	Begun int64 `json:"t"`
}

// continueLife is how long a list may take from its first page to its last. The
// API promises "five to fifteen minutes" (ListOptions.continue), and clients
// count on an end as well as on a beginning: a list that goes on for an hour
// shows a world of an hour ago.
const continueLife = 5 * time.Minute

// after is the key that the list goes on after; the zero key is the start.
func (c continuation) after(scope store.Scope) store.Key {
	if c.Name == "" {
		return store.Key{}
	}
	return store.Key{Resource: scope.Resource, Namespace: c.Namespace, Name: c.Name}
}

func encodeContinue(c continuation) string {
	data, _ := json.Marshal(c) // three scalars cannot fail
	return base64.RawURLEncoding.EncodeToString(data)
}

// decodeContinue reads a token, which may be anything.
func decodeContinue(token string) (c continuation, err error) {
	data, err := base64.RawURLEncoding.DecodeString(token)
	if err == nil {
		err = json.Unmarshal(data, &c)
	}
	if err != nil || c.Name == "" || c.Seen < 0 {
		return c, apierrors.NewBadRequest("continue key is not valid: it must be one that a list of this server returned")
	}
	return c, nil
}

func (e *Endpoint) continued(ctx context.Context, resource string, opts ListOptions) (store.Snapshot, continuation, error) {
	if opts.ResourceVersion != "" && opts.ResourceVersion != "0" {
		return nil, continuation{}, apierrors.NewBadRequest("specifying resource version is not allowed when using continue")
	}
	c, err := decodeContinue(opts.Continue)
	if err != nil {
		return nil, c, err
	}
	now := e.Now()
	if c.Newest {
		c.Begun = now.Unix()
		world, err := e.latest(ctx)
		return world, c, err
	}
	if now.Sub(time.Unix(c.Begun, 0)) > continueLife {
		return nil, c, expiredContinue(c)
	}
	if err := e.reach(ctx, c.Revision); err != nil { // it may be another server's
		return nil, c, err
	}
	world, err := e.Store.SnapshotAt(c.Revision, resource)
	if errors.Is(err, store.ErrExpired) {
		return nil, c, expiredContinue(c)
	}
	if err != nil {
		return nil, c, apierrors.NewBadRequest("continue key is not valid: " + err.Error())
	}
	return world, c, nil
}

// expiredContinue offers a token that goes on inconsistently, at the newest
// revision.
func expiredContinue(c continuation) error {
	c.Newest = true
	err := apierrors.NewResourceExpired("The provided continue parameter is too old to display a consistent list result: " +
		"start the list again without it, or use the continue token of this answer to see the rest as it is now.")
	err.ErrStatus.ListMeta.Continue = encodeContinue(c)
	return err
}
