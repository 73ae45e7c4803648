// Package admission holds what the API decides about a write beyond the object
// itself: may it be in this namespace, what does the cluster fill in, does it fit
// a quota. Each plugin is a function of the request and the world at one
// revision; what it wants written besides goes into the same transaction.
//
// The order is upstream's recommended one (see
// https://kubernetes.io/docs/reference/access-authn-authz/admission-controllers/).
package admission

import (
	"context"
	"iter"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"

	"proa/api"
	"proa/auth"
	"proa/store"
)

// Operation is what a request does.
type Operation string

const (
	Create  Operation = "CREATE"
	Update  Operation = "UPDATE"
	Delete  Operation = "DELETE"
	Connect Operation = "CONNECT"
)

// Request is one write on its way into the store.
type Request struct {
	Op       Operation
	Resource *api.Resource
	// As is the version that the client speaks; nil is the storage version.
	As              *api.Version
	Subresource     string
	Namespace, Name string
	// Generated says that the server chose the name.
	Generated bool
	// Object is the new state, which Mutate and Finish may change; nil on
	// delete. For a subresource that takes another kind, it is that body. Old
	// is the stored state and must not be changed; nil on create.
	Object, Old api.Object
	// Stream is what a CONNECT asks for (*corev1.PodExecOptions, ...); its
	// Object and Old are nil.
	Stream runtime.Object
	// Options are the operation's, as the client sent them: CreateOptions,
	// UpdateOptions or DeleteOptions of meta.k8s.io/v1; nil on CONNECT.
	Options runtime.Object
	User    auth.User
	DryRun  bool
	// Bare requests are the server's own, made for it to work at all: webhooks
	// and policies have no say.
	Bare bool
	// World is the state that the decision is made on.
	World store.Snapshot
	// Warn adds a warning to the answer, Annotate a note to the audit event; both
	// may be called from several goroutines.
	Warn     func(text string)
	Annotate func(key, value string)
	// Round is 1 when the mutating plugins run again.
	Round int

	also    []store.Write
	done    []func()
	again   bool
	changed bool
	memory  map[string]any
}

// Replace gives the request another object: a webhook or a policy has changed
// it. The built-in plugins have another look at it then.
func (r *Request) Replace(obj api.Object) { r.Object, r.changed, r.again = obj, true, true }

// Changed tells whether Replace was called, which means that defaults and what
// the system fills in have to be looked after again.
func (r *Request) Changed() bool { return r.changed }

// Remember keeps something of a plugin for its next round.
func (r *Request) Remember(plugin string, v any) {
	if r.memory == nil {
		r.memory = map[string]any{}
	}
	r.memory[plugin] = v
}

// Remembered returns it, or nil.
func (r *Request) Remembered(plugin string) any { return r.memory[plugin] }

// Also adds a write to the request's transaction. Its precondition is what makes
// a decision hold: when it fails, the request is decided again.
func (r *Request) Also(w store.Write) { r.also = append(r.also, w) }

// Writes returns what Also added.
func (r *Request) Writes() []store.Write { return r.also }

// OnDone has f called when the attempt is over, committed or not.
func (r *Request) OnDone(f func()) { r.done = append(r.done, f) }

// Done calls what OnDone collected.
func (r *Request) Done() {
	for _, f := range r.done {
		f()
	}
	r.done = nil
}

// Is tells whether the request is about the resource itself or, with a second
// argument, one of its subresources.
func (r *Request) Is(key string, subresource ...string) bool {
	sub := ""
	if len(subresource) > 0 {
		sub = subresource[0]
	}
	return r.Resource.Key() == key && r.Subresource == sub
}

// note leaves a note in the audit event, if there is one.
func (r *Request) note(key, value string) {
	if r.Annotate != nil {
		r.Annotate(key, value)
	}
}

// Forbidden is the answer of a plugin that refuses.
func (r *Request) Forbidden(err error) error {
	return apierrors.NewForbidden(r.Resource.GR(), r.Name, err)
}

// Plugin is one admission decision. Nil functions have nothing to say.
type Plugin struct {
	Name string
	// Mutate fills in the object before it is validated.
	Mutate func(ctx context.Context, r *Request) error
	// Validate judges it after.
	Validate func(ctx context.Context, r *Request) error
	// Finish is the last step before the commit and is repeated when the
	// commit finds that the world has moved on: it allocates, and adds writes
	// whose preconditions guard what it decided.
	Finish func(ctx context.Context, r *Request) error
	// Finishes tells which requests Finish has anything to do with.
	Finishes func(r *Request) bool
	// broken says why the plugin cannot be on.
	broken error
}

// Chain is the plugins in order.
type Chain []Plugin

// Mutate runs every plugin's Mutate, and all of them once more when a webhook or
// a policy changed the object: it may now be something that an earlier plugin has
// a say in.
func (c Chain) Mutate(ctx context.Context, r *Request) error {
	if err := c.mutate(ctx, r); err != nil || !r.again {
		return err
	}
	r.Round++
	return c.mutate(ctx, r)
}

func (c Chain) mutate(ctx context.Context, r *Request) error {
	for _, p := range c {
		if p.Mutate != nil {
			if err := p.Mutate(ctx, r); err != nil {
				return err
			}
		}
	}
	return nil
}

// Validate runs every plugin's Validate.
func (c Chain) Validate(ctx context.Context, r *Request) error {
	for _, p := range c {
		if p.Validate != nil {
			if err := p.Validate(ctx, r); err != nil {
				return err
			}
		}
	}
	return nil
}

// Finishes tells whether any plugin has a last step for the request.
func (c Chain) Finishes(r *Request) bool {
	for _, p := range c {
		if p.Finish != nil && p.Finishes(r) {
			return true
		}
	}
	return false
}

// Finish runs the last steps.
func (c Chain) Finish(ctx context.Context, r *Request) error {
	for _, p := range c {
		if p.Finish != nil && p.Finishes(r) {
			if err := p.Finish(ctx, r); err != nil {
				return err
			}
		}
	}
	return nil
}

// lookup reads one object of the world, or nil.
func lookup[P api.Object](s store.Snapshot, resource, namespace, name string) (none P) {
	rec := s.Get(store.Key{Resource: resource, Namespace: namespace, Name: name})
	if rec == nil {
		return none
	}
	obj, err := rec.Object()
	if err != nil {
		return none
	}
	p, _ := obj.(P)
	return p
}

// every yields the objects of a scope of the world.
func every[P api.Object](s store.Snapshot, resource, namespace string) iter.Seq2[*store.Record, P] {
	return func(yield func(*store.Record, P) bool) {
		for rec := range s.List(store.Scope{Resource: resource, Namespace: namespace}, store.Key{}) {
			obj, err := rec.Object()
			if err != nil {
				continue
			}
			if p, ok := obj.(P); ok && !yield(rec, p) {
				return
			}
		}
	}
}
