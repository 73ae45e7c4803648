package custom

import (
	"fmt"

	structuralschema "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/defaulting"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/objectmeta"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/pruning"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// leniency says how an object that does not fit is brought into form.
type leniency struct {
	// stored objects lose metadata that is malformed, rather than being
	// refused: they may be older than the checks.
	stored bool
	// report asks for the paths of what was unknown.
	report bool
}

// coerce does for an unstructured object what decoding into a Go type does for
// others: metadata is checked, fields that the schema does not know go, and so
// do nulls where neither a default nor nullable explains them. It returns the
// paths of unknown fields if they are asked for.
func (v *version) coerce(u *unstructured.Unstructured, how leniency) ([]string, error) {
	content := u.Object
	for _, name := range []string{"kind", "apiVersion"} {
		if _, _, err := unstructured.NestedString(content, name); err != nil {
			return nil, err
		}
	}
	kind, apiVersion := content["kind"], content["apiVersion"]
	meta, found, unknown, err := objectmeta.GetObjectMetaWithOptions(content, objectmeta.ObjectMetaOptions{
		DropMalformedFields: how.stored, ReturnUnknownFieldPaths: how.report,
	})
	if err != nil {
		return nil, err
	}
	r, err := v.rules()
	if err != nil {
		return nil, err
	}
	if !v.def.keepsUnknown && r.structural != nil {
		unknown = append(unknown, pruning.PruneWithOptions(content, r.structural, true, structuralschema.UnknownFieldPathOptions{TrackUnknownFieldPaths: how.report})...)
		defaulting.PruneNonNullableNullsWithoutDefaults(content, r.structural)
	}
	ferr, more := objectmeta.CoerceWithOptions(nil, content, r.structural, false, objectmeta.CoerceOptions{
		DropInvalidFields: how.stored, ReturnUnknownFieldPaths: how.report,
	})
	if ferr != nil {
		return nil, ferr
	}
	restore(content, "kind", kind)
	restore(content, "apiVersion", apiVersion)
	if found {
		if how.stored && meta.Generation == 0 {
			meta.Generation = 1 // objects from before there were generations
		}
		if err := objectmeta.SetObjectMeta(content, meta); err != nil {
			return nil, err
		}
	}
	return append(unknown, more...), nil
}

func restore(content map[string]any, name string, value any) {
	if value != nil {
		content[name] = value
	}
}

// unknownFields words unknown paths as errors of strict decoding.
func unknownFields(paths []string) []error {
	var out []error
	for _, p := range paths {
		out = append(out, fmt.Errorf(`unknown field "%s"`, p))
	}
	return out
}

// fill sets defaults.
func (v *version) fill(u *unstructured.Unstructured) error {
	r, err := v.rules()
	if err == nil && r.structural != nil {
		defaulting.Default(u.Object, r.structural)
	}
	return err
}
