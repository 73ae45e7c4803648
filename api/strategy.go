package api

import (
	"k8s.io/apimachinery/pkg/api/equality"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/api/validation/path"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// metaPath and specPath root the paths of most errors.
var (
	metaPath   = field.NewPath("metadata")
	specPath   = field.NewPath("spec")
	statusPath = field.NewPath("status")
)

// The checks of names that kinds choose from.
var (
	subdomainName = apivalidation.NameIsDNSSubdomain
	labelName     = apivalidation.NameIsDNSLabel
	pathSegment   = path.ValidatePathSegmentName
)

// named puts the checks of metadata that every stored kind has before the
// row's own.
func named(r *Resource, names apivalidation.ValidateNameFunc) *Resource {
	validate, update := r.Validate, r.ValidateUpdate
	r.Validate = func(obj Object) field.ErrorList {
		errs := apivalidation.ValidateObjectMetaAccessor(obj, r.Namespaced, names, metaPath)
		if validate != nil {
			errs = append(errs, validate(obj)...)
		}
		return errs
	}
	r.ValidateUpdate = func(obj, old Object) field.ErrorList {
		errs := apivalidation.ValidateObjectMetaAccessorUpdate(obj, old, metaPath)
		if update != nil {
			errs = append(errs, update(obj, old)...)
		}
		return errs
	}
	return r
}

// specOnly gives a row whose kind has a spec and no status a generation that
// counts changes of the spec.
func specOnly[P Object, S any](r *Resource, spec func(P) *S) *Resource {
	create, update := r.PrepareCreate, r.PrepareUpdate
	r.PrepareCreate = func(obj Object) {
		obj.SetGeneration(1)
		if create != nil {
			create(obj)
		}
	}
	r.PrepareUpdate = func(obj, old Object) {
		if update != nil {
			update(obj, old)
		}
		obj.SetGeneration(old.GetGeneration())
		if !equality.Semantic.DeepEqual(spec(obj.(P)), spec(old.(P))) {
			obj.SetGeneration(old.GetGeneration() + 1)
		}
	}
	return r
}

// specAndStatus separates the two halves of a kind: the object's own endpoint
// writes the spec and the "status" endpoint, which it adds, the status; the
// generation counts changes of the spec.
func specAndStatus[P Object, S, T any](r *Resource, parts func(P) (*S, *T)) *Resource {
	create, update := r.PrepareCreate, r.PrepareUpdate
	r.PrepareCreate = func(obj Object) {
		_, status := parts(obj.(P))
		*status = *new(T)
		if create != nil {
			create(obj)
		}
	}
	r.PrepareUpdate = func(obj, old Object) {
		_, status := parts(obj.(P))
		_, kept := parts(old.(P))
		*status = *kept
		if update != nil {
			update(obj, old)
		}
	}
	specOnly(r, func(obj P) *S { spec, _ := parts(obj); return spec })
	r.Subresources = append([]Subresource{statusOf(r, parts)}, r.Subresources...)
	return r
}

// statusOf is the "status" endpoint, which takes everything but the status and
// the metadata from what is there.
func statusOf[P Object, S, T any](r *Resource, parts func(P) (*S, *T)) Subresource {
	return Subresource{
		Name:  "status",
		Verbs: []string{"get", "patch", "update"},
		PrepareUpdate: func(obj, old Object) {
			spec, _ := parts(obj.(P))
			kept, _ := parts(old.(P))
			*spec = *kept
			obj.SetGeneration(old.GetGeneration())
		},
		ValidateUpdate: func(obj, old Object) field.ErrorList {
			return apivalidation.ValidateObjectMetaAccessorUpdate(obj, old, metaPath)
		},
	}
}

// statusRule adds a judgement of the written status to a row's "status"
// endpoint.
func statusRule[P Object](r *Resource, rule func(obj, old P) field.ErrorList) *Resource {
	sub := r.Subresource("status")
	before := sub.ValidateUpdate
	sub.ValidateUpdate = func(obj, old Object) field.ErrorList {
		return append(before(obj, old), rule(obj.(P), old.(P))...)
	}
	return r
}

// immutable refuses a change of a field.
func immutable(now, before any, at *field.Path) field.ErrorList {
	return apivalidation.ValidateImmutableField(now, before, at)
}

// nonNegative refuses numbers below zero.
func nonNegative(n int64, at *field.Path) field.ErrorList {
	return apivalidation.ValidateNonnegativeField(n, at)
}

// oneOf refuses values outside a set.
func oneOf[S ~string](value S, at *field.Path, supported ...S) field.ErrorList {
	for _, s := range supported {
		if value == s {
			return nil
		}
	}
	return field.ErrorList{field.NotSupported(at, value, supported)}
}

// unset sets a pointer that is nil to a default value.
func unset[T any](p **T, value T) {
	if *p == nil {
		*p = &value
	}
}

// empty sets a field that has its zero value to a default value.
func empty[T comparable](p *T, value T) {
	var zero T
	if *p == zero {
		*p = value
	}
}
