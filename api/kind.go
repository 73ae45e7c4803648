package api

import (
	"reflect"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// kind is a row as the kind's own Go type sees it: what a built-in row is
// written in. row turns it into a Resource and adds what follows from the type:
// Kind and Singular from its name, metadata validation, the status endpoint,
// the generation.
//
// Fields that are not explained here mean what they mean in Resource.
type kind[P Object] struct {
	GroupVersion      schema.GroupVersion
	Plural            string
	Short, Categories []string
	Namespaced        bool
	Verbs             []string
	// List is an empty list of the kind.
	List     runtime.Object
	Versions []Version

	// Name judges metadata.name; nil asks for a DNS subdomain.
	Name apivalidation.ValidateNameFunc
	// Status says that the struct's Status field is written through the
	// endpoint "status" only, and everything else not through it.
	Status bool
	// StatusOnCreate lets a create write the status too (nodes).
	StatusOnCreate bool
	// FreeFinalizers lets finalizers be any qualified name; kinds of the older
	// groups want a domain in front, or one that Kubernetes reserves.
	FreeFinalizers bool
	// Generation says that metadata.generation counts changes of what is
	// neither metadata nor status.
	Generation bool

	// Default, and the hooks below it, run after what Status and Generation
	// bring; the generation is counted after PrepareUpdate.
	Default        func(obj P)
	PrepareCreate  func(obj P)
	Settle         func(obj P)
	PrepareUpdate  func(obj, old P)
	Validate       func(obj P) field.ErrorList
	ValidateNew    func(obj P) field.ErrorList
	ValidateUpdate func(obj, old P) field.ErrorList
	// PrepareStatus and ValidateStatus are those of the status endpoint.
	PrepareStatus  func(obj, old P)
	ValidateStatus func(obj, old P) field.ErrorList

	Deprecated          string
	Warnings            func(obj, old P) []string
	Graceful            func(obj P, asked *int64) (int64, bool)
	Deleting            func(obj P)
	AllowCreateOnUpdate bool
	DefaultPropagation  metav1.DeletionPropagation
	Subresources        []Subresource

	Columns []metav1.TableColumnDefinition
	Cells   func(obj P, now time.Time) []any
	// Fields must have the same keys for every object: FieldNames are read
	// off an empty one.
	Fields  func(obj P) fields.Set
	Indexes map[string]func(obj P) []string
}

func (k kind[P]) row() *Resource {
	typ := reflect.TypeFor[P]().Elem()
	list := reflect.TypeOf(k.List).Elem()
	r := &Resource{
		Group: k.GroupVersion.Group, Version: k.GroupVersion.Version, Kind: typ.Name(),
		Plural: k.Plural, Singular: strings.ToLower(typ.Name()),
		Short: k.Short, Categories: k.Categories, Namespaced: k.Namespaced, Verbs: k.Verbs,
		Deprecated: k.Deprecated,

		New:      func() Object { return reflect.New(typ).Interface().(Object) },
		NewList:  func() runtime.Object { return reflect.New(list).Interface().(runtime.Object) },
		Versions: k.Versions,

		Default:        on(k.Default),
		PrepareCreate:  k.prepareCreate,
		PrepareUpdate:  k.prepareUpdate,
		Validate:       k.validate,
		ValidateUpdate: k.validateUpdate,

		AllowCreateOnUpdate: k.AllowCreateOnUpdate, DefaultPropagation: k.DefaultPropagation,
		Subresources: slices.Clone(k.Subresources),
		Columns:      k.Columns, Indexes: map[string]func(Object) []string{},
	}
	if k.Status {
		r.Subresources = append([]Subresource{k.status()}, r.Subresources...)
	}
	k.addOptional(r)
	return r
}

// addOptional sets those functions that stay nil where the kind has none.
func (k kind[P]) addOptional(r *Resource) {
	if f := k.Warnings; f != nil {
		r.Warnings = func(obj, old Object) []string {
			was, _ := old.(P) // nil on create
			return f(obj.(P), was)
		}
	}
	if f := k.Graceful; f != nil {
		r.Graceful = func(obj Object, asked *int64) (int64, bool) { return f(obj.(P), asked) }
	}
	if f := k.ValidateNew; f != nil {
		r.ValidateNew = func(obj Object) field.ErrorList { return f(obj.(P)) }
	}
	if f := k.Settle; f != nil {
		r.Settle = on(f)
	}
	if f := k.Deleting; f != nil {
		r.Deleting = on(f)
	}
	if f := k.Cells; f != nil {
		r.Cells = func(obj Object, now time.Time) []any { return f(obj.(P), now) }
	}
	if f := k.Fields; f != nil {
		r.Fields = func(obj Object) fields.Set { return f(obj.(P)) }
		for name := range r.Fields(r.New()) {
			r.FieldNames = append(r.FieldNames, name)
		}
		slices.Sort(r.FieldNames)
	}
	for name, f := range k.Indexes {
		r.Indexes[name] = func(obj Object) []string { return f(obj.(P)) }
	}
}

func (k kind[P]) prepareCreate(obj Object) {
	if k.Status && !k.StatusOnCreate {
		statusOf(obj).SetZero()
	}
	obj.SetGeneration(0)
	if k.Generation {
		obj.SetGeneration(1)
	}
	if k.PrepareCreate != nil {
		k.PrepareCreate(obj.(P))
	}
}

func (k kind[P]) prepareUpdate(obj, old Object) {
	if k.Status {
		statusOf(obj).Set(statusOf(old))
	}
	obj.SetGeneration(old.GetGeneration())
	if k.PrepareUpdate != nil {
		k.PrepareUpdate(obj.(P), old.(P))
	}
	if k.Generation && contentChanged(obj, old) {
		obj.SetGeneration(old.GetGeneration() + 1)
	}
}

func (k kind[P]) validate(obj Object) field.ErrorList {
	name := k.Name
	if name == nil {
		name = apivalidation.NameIsDNSSubdomain
	}
	errs := apivalidation.ValidateObjectMetaAccessor(obj, k.Namespaced, name, metaPath)
	errs = append(errs, k.validateFinalizers(obj)...)
	if k.Validate != nil {
		errs = append(errs, k.Validate(obj.(P))...)
	}
	return errs
}

func (k kind[P]) validateFinalizers(obj Object) field.ErrorList {
	if k.FreeFinalizers {
		return nil
	}
	return validateFinalizers(obj.GetFinalizers(), metaPath.Child("finalizers"))
}

func (k kind[P]) validateUpdate(obj, old Object) field.ErrorList {
	errs := apivalidation.ValidateObjectMetaAccessorUpdate(obj, old, metaPath)
	if k.ValidateUpdate != nil {
		errs = append(errs, k.ValidateUpdate(obj.(P), old.(P))...)
	}
	return errs
}

func (k kind[P]) status() Subresource {
	return endpoint("status", []string{"get", "patch", "update"},
		func(obj, old P) {
			keepContent(obj, old)
			obj.SetGeneration(old.GetGeneration())
			if k.PrepareStatus != nil {
				k.PrepareStatus(obj, old)
			}
		},
		func(obj, old P) field.ErrorList {
			errs := apivalidation.ValidateObjectMetaAccessorUpdate(obj, old, metaPath)
			errs = append(errs, apivalidation.ValidateFinalizers(obj.GetFinalizers(), metaPath.Child("finalizers"))...)
			errs = append(errs, k.validateFinalizers(obj)...)
			if k.ValidateStatus != nil {
				errs = append(errs, k.ValidateStatus(obj, old)...)
			}
			return errs
		})
}

// endpoint is a subresource that writes the parent.
func endpoint[P Object](name string, verbs []string, prepare func(obj, old P), validate func(obj, old P) field.ErrorList) Subresource {
	s := Subresource{Name: name, Verbs: verbs}
	if prepare != nil {
		s.PrepareUpdate = func(obj, old Object) { prepare(obj.(P), old.(P)) }
	}
	if validate != nil {
		s.ValidateUpdate = func(obj, old Object) field.ErrorList { return validate(obj.(P), old.(P)) }
	}
	return s
}

// scaleEndpoint is the subresource "scale" of a kind that has replicas.
func scaleEndpoint[P Object](get func(obj P) (spec, status int32, selector string), set func(obj P, replicas int32)) Subresource {
	return Subresource{
		Name:  "scale",
		Kind:  schema.GroupVersionKind{Group: "autoscaling", Version: "v1", Kind: "Scale"},
		Verbs: []string{"get", "patch", "update"},
		Scale: &ScalePaths{
			Get: func(obj Object) (int32, int32, string) { return get(obj.(P)) },
			Set: func(obj Object, replicas int32) { set(obj.(P), replicas) },
		},
	}
}

func on[P Object](f func(P)) func(Object) {
	if f == nil {
		return func(Object) {}
	}
	return func(obj Object) { f(obj.(P)) }
}

// statusOf is the addressable Status field of an object.
func statusOf(obj Object) reflect.Value {
	return reflect.ValueOf(obj).Elem().FieldByName("Status")
}

// isContent tells the fields that are neither metadata nor status.
func isContent(f reflect.StructField) bool {
	return f.Name != "TypeMeta" && f.Name != "ObjectMeta" && f.Name != "Status"
}

// keepContent takes all content from old.
func keepContent(obj, old Object) {
	v, was := reflect.ValueOf(obj).Elem(), reflect.ValueOf(old).Elem()
	for i := range v.NumField() {
		if isContent(v.Type().Field(i)) {
			v.Field(i).Set(was.Field(i))
		}
	}
}

// contentChanged tells whether content differs, quantities and empty lists
// compared by meaning.
func contentChanged(obj, old Object) bool {
	v, was := reflect.ValueOf(obj).Elem(), reflect.ValueOf(old).Elem()
	for i := range v.NumField() {
		if isContent(v.Type().Field(i)) && !equality.Semantic.DeepEqual(v.Field(i).Interface(), was.Field(i).Interface()) {
			return true
		}
	}
	return false
}

// complete adds what every row has, built in or not: the index "ownerUID" and
// a table.
func (r *Resource) complete() {
	if r.Indexes == nil {
		r.Indexes = map[string]func(Object) []string{}
	}
	r.Indexes["ownerUID"] = ownerUIDs
	if r.Columns == nil {
		r.Columns = []metav1.TableColumnDefinition{nameColumn, ageColumn}
		r.Cells = func(obj Object, now time.Time) []any { return []any{obj.GetName(), age(obj, now)} }
	}
	if r.Singular == "" {
		r.Singular = strings.ToLower(r.Kind)
	}
}

// orphan files an object that nobody controls under its namespace, for
// controllers that adopt what their selectors match.
func orphan[P Object](obj P) []string {
	if metav1.GetControllerOfNoCopy(obj) != nil {
		return nil
	}
	return []string{obj.GetNamespace()}
}

func ownerUIDs(obj Object) []string {
	refs := obj.GetOwnerReferences()
	if len(refs) == 0 {
		return nil
	}
	out := make([]string, 0, len(refs))
	for _, ref := range refs {
		out = append(out, string(ref.UID))
	}
	return out
}
