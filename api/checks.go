package api

import (
	"iter"
	"maps"
	"slices"

	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// The roots of most errors' paths.
var (
	metaPath   = field.NewPath("metadata")
	specPath   = field.NewPath("spec")
	statusPath = field.NewPath("status")
)

// immutable refuses a change of a field.
func immutable(now, before any, at *field.Path) field.ErrorList {
	return apivalidation.ValidateImmutableField(now, before, at)
}

// nonNegative refuses numbers below zero.
func nonNegative[N ~int32 | ~int64](n N, at *field.Path) field.ErrorList {
	return apivalidation.ValidateNonnegativeField(int64(n), at)
}

// nonNegativePtr lets an unset number pass.
func nonNegativePtr[N ~int32 | ~int64](n *N, at *field.Path) field.ErrorList {
	if n == nil {
		return nil
	}
	return nonNegative(*n, at)
}

// oneOf refuses values outside a set, the empty value too.
func oneOf[S ~string](value S, at *field.Path, supported ...S) field.ErrorList {
	if slices.Contains(supported, value) {
		return nil
	}
	return field.ErrorList{field.NotSupported(at, value, supported)}
}

// requiredOneOf is oneOf with an answer of its own for the empty value.
func requiredOneOf[S ~string](value S, at *field.Path, supported ...S) field.ErrorList {
	if value == "" {
		return field.ErrorList{field.Required(at, "")}
	}
	return oneOf(value, at, supported...)
}

// inOrder goes through a map by its keys: an object's errors are the same each
// time.
func inOrder[V any](m map[string]V) iter.Seq2[string, V] {
	return func(yield func(string, V) bool) {
		for _, key := range slices.Sorted(maps.Keys(m)) {
			if !yield(key, m[key]) {
				return
			}
		}
	}
}

// invalidEach makes one error of each message.
func invalidEach(value any, at *field.Path, messages []string) field.ErrorList {
	var errs field.ErrorList
	for _, m := range messages {
		errs = append(errs, field.Invalid(at, value, m))
	}
	return errs
}

// checkSelector judges a label selector's form.
func checkSelector(s *metav1.LabelSelector, at *field.Path) field.ErrorList {
	return metavalidation.ValidateLabelSelector(s, metavalidation.LabelSelectorValidationOptions{}, at)
}

// unset gives a pointer that is nil a default value.
func unset[T any](p **T, value T) {
	if *p == nil {
		*p = &value
	}
}

// empty gives a field that has its zero value a default value.
func empty[T comparable](p *T, value T) {
	var zero T
	if *p == zero {
		*p = value
	}
}

// deref reads through a pointer, or gives what stands for nil.
func deref[T any](p *T, otherwise T) T {
	if p == nil {
		return otherwise
	}
	return *p
}
