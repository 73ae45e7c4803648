package custom

import (
	"fmt"
	"math"
	"strings"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"proa/api"
)

// scalePaths are where a version keeps its replicas; nil where it has none.
type scalePaths struct {
	apiextensionsv1.CustomResourceSubresourceScale
}

func pathParts(path string) []string { return strings.Split(strings.TrimPrefix(path, "."), ".") }

// get reads the scale; found tells whether the spec names a number.
func (s *scalePaths) get(obj api.Object) (spec, status int32, selector string, found bool, err error) {
	content := obj.(*unstructured.Unstructured).Object
	wanted, found, err := unstructured.NestedInt64(content, pathParts(s.SpecReplicasPath)...)
	if err != nil {
		return 0, 0, "", false, err
	}
	have, _, err := unstructured.NestedInt64(content, pathParts(s.StatusReplicasPath)...)
	if err != nil {
		return 0, 0, "", false, err
	}
	if p := s.LabelSelectorPath; p != nil && *p != "" {
		if selector, _, err = unstructured.NestedString(content, pathParts(*p)...); err != nil {
			return 0, 0, "", false, err
		}
	}
	return int32(wanted), int32(have), selector, found, nil
}

func (s *scalePaths) set(obj api.Object, replicas int32) error {
	return unstructured.SetNestedField(obj.(*unstructured.Unstructured).Object, int64(replicas), pathParts(s.SpecReplicasPath)...)
}

// validate judges the numbers that the scale is read from.
func (s *scalePaths) validate(u *unstructured.Unstructured, withSpec bool) field.ErrorList {
	if s == nil {
		return nil
	}
	var errs field.ErrorList
	if withSpec {
		errs = validateReplicas(u, s.SpecReplicasPath)
	}
	errs = append(errs, validateReplicas(u, s.StatusReplicasPath)...)
	if p := s.LabelSelectorPath; p != nil {
		if text, _, err := unstructured.NestedString(u.Object, pathParts(*p)...); err != nil {
			errs = append(errs, field.Invalid(field.NewPath(*p), text, err.Error()))
		}
	}
	return errs
}

func validateReplicas(u *unstructured.Unstructured, path string) field.ErrorList {
	at := field.NewPath(path)
	n, _, err := unstructured.NestedInt64(u.Object, pathParts(path)...)
	switch {
	case err != nil:
		return field.ErrorList{field.Invalid(at, n, err.Error())}
	case n < 0:
		return field.ErrorList{field.Invalid(at, n, "should be a non-negative integer")}
	case n > math.MaxInt32:
		return field.ErrorList{field.Invalid(at, n, fmt.Sprintf("should be less than or equal to %v", math.MaxInt32))}
	}
	return nil
}
