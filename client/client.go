// Package client is how everything above the API reaches it: controllers, the
// scheduler, the kubelet, the Service proxy and DNS. There are two
// implementations with the same promises: in process, straight into the request
// path (admission, validation, optimistic concurrency and all), and over HTTP
// for a node that runs elsewhere.
//
// Errors are those of k8s.io/apimachinery/pkg/api/errors in both.
package client

import (
	"context"
	"iter"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"proa/api"
)

// Object is any API object. What a View or an Event shows is shared and must
// not be changed: DeepCopy first.
type Object = api.Object

// Key names an object of a known resource.
type Key struct{ Namespace, Name string }

func (k Key) String() string {
	if k.Namespace == "" {
		return k.Name
	}
	return k.Namespace + "/" + k.Name
}

// KeyOf returns the object's key.
func KeyOf(obj Object) Key { return Key{Namespace: obj.GetNamespace(), Name: obj.GetName()} }

// View is the world, or what the client follows of it, at one revision.
type View interface {
	Revision() uint64
	// Get returns nil where there is none.
	Get(r *api.Resource, namespace, name string) Object
	// List yields in order of namespace and name; an empty namespace is all.
	List(r *api.Resource, namespace string) iter.Seq[Object]
	// Index yields the objects that r.Indexes[index] files under value.
	Index(r *api.Resource, index, value string) iter.Seq[Object]
}

// Event is one change. For a deletion New is nil; for an addition Old is nil.
type Event struct {
	Resource *api.Resource
	Old, New Object
	Revision uint64
}

// Object is the newest state that the event shows: New, or for a deletion Old.
func (e Event) Object() Object {
	if e.New != nil {
		return e.New
	}
	return e.Old
}

// Scope is what a watch follows. FieldSelector is an exact match on one
// selectable field ("spec.nodeName=a"), for a node that must see its own pods
// only; in process it filters as well.
type Scope struct {
	Resource        *api.Resource
	Namespace, Name string
	FieldSelector   string
}

// Stream yields events, each once, in order, with no gap from the View that
// came with it. Over HTTP it relists by itself after a break and yields the
// differences, so a consumer never sees "expired".
type Stream interface {
	// Next waits for events; View is the world right after them.
	Next(ctx context.Context) ([]Event, View, error)
	Close()
}

// Client reads and writes as one identity.
type Client interface {
	// View is the newest world. In process it holds every resource; over HTTP
	// those scopes that this client watches. It shows every write that this
	// client completed before: over HTTP it waits for them.
	View() View
	// Watch is the world and everything that changes after it.
	Watch(ctx context.Context, scopes ...Scope) (View, Stream, error)

	// Get reads the newest state from the server, past any cache.
	Get(ctx context.Context, r *api.Resource, key Key) (Object, error)
	// Create, Update and Patch return the object as stored. subresource is ""
	// for the object itself. Update needs the resourceVersion it was read at,
	// unless it means to overwrite.
	Create(ctx context.Context, obj Object) (Object, error)
	Update(ctx context.Context, obj Object, subresource string) (Object, error)
	Patch(ctx context.Context, r *api.Resource, key Key, subresource string, p Patch) (Object, error)
	Delete(ctx context.Context, r *api.Resource, key Key, opts metav1.DeleteOptions) error
	// Post creates at a subresource: binding, eviction, token.
	Post(ctx context.Context, r *api.Resource, key Key, subresource string, body Object) (Object, error)
	// Registry is the table of kinds that this client reads with.
	Registry() *api.Registry
}

// Patch is a patch of one of the types of apimachinery's types.PatchType.
type Patch struct {
	Type         types.PatchType
	Data         []byte
	FieldManager string // needed for apply
	Force        bool
}

// pointer ties a kind's struct to the pointer that implements Object, so that
// callers write Get[corev1.Pod](v, ns, name) and receive a *corev1.Pod.
type pointer[T any] interface {
	*T
	Object
}

// Row returns the built-in row of a Go type.
func Row[T any, P pointer[T]]() *api.Resource {
	return api.Builtin().ByType(P(new(T)))
}

// Get returns nil where there is none.
func Get[T any, P pointer[T]](v View, namespace, name string) P {
	p, _ := v.Get(Row[T, P](), namespace, name).(P)
	return p
}

// List yields objects of one type; an empty namespace is all.
func List[T any, P pointer[T]](v View, namespace string) iter.Seq[P] {
	return as[P](v.List(Row[T, P](), namespace))
}

// Index yields objects of one type by one of its row's indexes.
func Index[T any, P pointer[T]](v View, index, value string) iter.Seq[P] {
	return as[P](v.Index(Row[T, P](), index, value))
}

func as[P Object](seq iter.Seq[Object]) iter.Seq[P] {
	return func(yield func(P) bool) {
		for obj := range seq {
			if p, ok := obj.(P); ok && !yield(p) {
				return
			}
		}
	}
}

// Watch scopes for a typed resource.
func All[T any, P pointer[T]]() Scope { return Scope{Resource: Row[T, P]()} }
