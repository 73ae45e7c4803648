package api

import (
	"context"
	"sync/atomic"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Object is an API object: a pointer to a wire type of k8s.io/api, or
// *unstructured.Unstructured for a custom resource. An Object that has been
// handed to or read from the store is immutable; whoever wants to change it
// makes a DeepCopy first.
type Object interface {
	metav1.Object
	runtime.Object
}

// Resource is the row of one kind.
type Resource struct {
	// Group, Version and Kind name the storage version, which is the version
	// of the type New makes.
	Group, Version, Kind string
	// Plural is the resource's name in URLs ("pods"); Singular, Short and
	// Categories are what kubectl also accepts for it.
	Plural, Singular  string
	Short, Categories []string
	// Namespaced tells the scope.
	Namespaced bool
	// Verbs lists what discovery shows and the request path accepts; nil
	// stands for all of StandardVerbs.
	Verbs []string

	// New and NewList make empty objects of the storage version.
	New     func() Object
	NewList func() runtime.Object
	// Versions lists the further served versions, if any.
	Versions []Version
	// Schema is a custom resource's OpenAPI v3 schema at any version that it
	// has, as JSON. It is nil for built-in kinds, whose Go types say it.
	Schema func(version string) []byte
	// Custom is what only rows have that were made of a
	// CustomResourceDefinition; nil for built-in kinds.
	Custom *Custom

	// Default fills unset fields of a decoded object as the published API
	// documents. It must be idempotent.
	Default func(obj Object)
	// PrepareCreate puts a new object into the state that creation promises
	// (status cleared, generation 1, ...), before defaults are filled in.
	PrepareCreate func(obj Object)
	// Settle writes what follows from all the rest of a new object, when
	// admission has had its say (a pod's qosClass).
	Settle func(obj Object)
	// PrepareUpdate makes obj, which a client sent, the successor of old:
	// what this endpoint does not write is taken from old, and the generation
	// goes up when the spec changed.
	PrepareUpdate func(obj, old Object)
	// Validate judges a whole object; ValidateUpdate what changed, and is run
	// after Validate. Errors carry upstream's paths and reasons.
	Validate       func(obj Object) field.ErrorList
	ValidateUpdate func(obj, old Object) field.ErrorList
	// ValidateNew judges what only new objects are judged by, after Validate.
	ValidateNew func(obj Object) field.ErrorList
	// Conditional says that a PUT must name the resourceVersion that it was made
	// from.
	Conditional bool
	// Ratchets says that ValidateUpdate judges the whole object itself, and
	// forgives what was wrong before: Validate is for creates only.
	Ratchets bool
	// Deprecated is what everybody is warned of who asks for the kind; empty for
	// most.
	Deprecated string
	// Warnings are sent to the client in Warning headers; old is nil on create.
	Warnings func(obj, old Object) []string
	// Graceful decides a delete that names no grace period of its own or that
	// names one: it returns the seconds to wait, and whether the object stays
	// with a deletionTimestamp until somebody confirms with grace 0. Nil means
	// deletes are immediate (finalizers aside).
	Graceful func(obj Object, asked *int64) (seconds int64, stays bool)
	// Deleting changes what else a delete changes when it marks an object with
	// a deletionTimestamp (a namespace becomes Terminating).
	Deleting func(obj Object)
	// AllowCreateOnUpdate lets PUT create (leases, endpoints and others).
	AllowCreateOnUpdate bool
	// DefaultPropagation is the policy of a delete that names none:
	// Background unless set (Jobs orphan in their v1 API).
	DefaultPropagation metav1.DeletionPropagation

	// Subresources lists what hangs below an object, "status" and "scale"
	// among them.
	Subresources []Subresource

	// Columns and Cells make kubectl's table; Cells returns one value a
	// column. Columns with Priority > 0 show with -o wide.
	Columns []metav1.TableColumnDefinition
	Cells   func(obj Object, now time.Time) []any
	// Fields are the selectable fields beside metadata.name and
	// metadata.namespace; FieldNames lists their names, for the error that an
	// unknown one gets.
	Fields     func(obj Object) fields.Set
	FieldNames []string
	// Indexes lets readers find objects by something other than their name:
	// index name to the values that an object is found under. The store keeps
	// them current.
	Indexes map[string]func(obj Object) []string
}

// Custom is how objects of a CustomResourceDefinition's kind pass between the
// form that is stored and the versions that are served. Each version has a row
// of its own, whose hooks are all for objects of that version; the rows share
// one Key and one store. What is stored may be of any version that the
// definition has had, and may be older than its schema.
type Custom struct {
	// Siblings are the rows of the other served versions; only the storage
	// version's row has them. Unserved says that the storage version itself is
	// kept from clients.
	Siblings []*Resource
	Unserved bool
	// Versions lists all that objects and managed fields may be of, served or
	// not.
	Versions []string
	// Show makes objects of the row's version of stored ones, which it does not
	// change: converted, pruned and with defaults. Keep makes the form to store
	// of one of the row's version, which it takes over.
	// A webhook may be asked for both, for as long as ctx lasts.
	Show func(ctx context.Context, stored []Object) ([]Object, error)
	Keep func(ctx context.Context, obj Object) (Object, error)
	// Convert makes a copy of an object in any of Versions.
	Convert func(obj Object, version string) (Object, error)
	// Coerce brings what a client sent into the schema's form: metadata is
	// checked, unknown fields go. With report it names those fields.
	Coerce func(obj Object, report bool) (unknown []error, err error)
	// Judge stands in the place of ValidateUpdate, for the object or for its
	// status. It tells warn of what breaks a rule but did so before.
	Judge func(obj, old Object, status bool, warn func(...string)) field.ErrorList
	// Relabels says that conversion may change labels and annotations, so that
	// selectors must look at what is shown.
	Relabels bool
	// Notices are warnings that every answer carries (a deprecated version).
	Notices []string
	// Closing says that the kind is on its way out: no object may be created.
	Closing *atomic.Bool
	// Edition is different for each state of the definition; answers encoded
	// under one are no good under the next.
	Edition string
	// Life ends when the row is taken out of the registry.
	Life context.Context
}

// Version is a served version that is not the storage version.
type Version struct {
	Group, Version, Kind string
	New                  func() Object
	NewList              func() runtime.Object
	// ToStorage and FromStorage convert whole objects, losing nothing.
	ToStorage   func(obj Object) (Object, error)
	FromStorage func(obj Object) (Object, error)
	// Default fills unset fields before ToStorage.
	Default func(obj Object)
	// Strict judges what this version asks for and the storage version does not;
	// both objects are of the storage version, and old is nil on create.
	Strict func(obj, old Object) field.ErrorList
	// FieldNames says what this version calls the row's selectable fields,
	// where it calls them otherwise: its name to the row's.
	FieldNames map[string]string
}

// Subresource is an endpoint below an object.
type Subresource struct {
	Name string
	// Kind is what it takes or gives, where that is not the parent's kind
	// (autoscaling/v1 Scale, policy/v1 Eviction, ...).
	Kind schema.GroupVersionKind
	// Verbs it accepts: get, update, patch, create, delete.
	Verbs []string
	// PrepareUpdate, ValidateUpdate: as in Resource, for writes through this
	// endpoint that write the parent (status, ephemeralcontainers, resize).
	// They stand in the place of the Resource's Validate and ValidateUpdate.
	PrepareUpdate  func(obj, old Object)
	ValidateUpdate func(obj, old Object) field.ErrorList
	// GetScale and SetScale serve "scale" (replicas and selector paths).
	Scale *ScalePaths
}

// ScalePaths reads and writes the autoscaling/v1 Scale of an object.
type ScalePaths struct {
	Get func(obj Object) (spec, status int32, selector string)
	Set func(obj Object, replicas int32)
	// Check, where an object may have no scale to read, tells why; named is
	// false where all that is missing is the wished number of replicas, at Path.
	Check func(obj Object) (named bool, err error)
	Path  string
}

// StandardVerbs are the verbs of an ordinary stored kind, in the order that
// discovery lists them.
var StandardVerbs = []string{"create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"}

// GVK, GVR and GR name the row as Kubernetes' libraries do.
func (r *Resource) GVK() schema.GroupVersionKind {
	return schema.GroupVersionKind{Group: r.Group, Version: r.Version, Kind: r.Kind}
}

func (r *Resource) GVR() schema.GroupVersionResource {
	return schema.GroupVersionResource{Group: r.Group, Version: r.Version, Resource: r.Plural}
}

func (r *Resource) GR() schema.GroupResource {
	return schema.GroupResource{Group: r.Group, Resource: r.Plural}
}

// Key is the resource's name in store keys and logs: "pods", "apps/deployments".
// It does not name a version: objects outlive versions.
func (r *Resource) Key() string {
	if r.Group == "" {
		return r.Plural
	}
	return r.Group + "/" + r.Plural
}

// Subresource finds the named endpoint, or nil.
func (r *Resource) Subresource(name string) *Subresource {
	for i := range r.Subresources {
		if r.Subresources[i].Name == name {
			return &r.Subresources[i]
		}
	}
	return nil
}
