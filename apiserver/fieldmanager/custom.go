package fieldmanager

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/kube-openapi/pkg/schemaconv"
	"k8s.io/kube-openapi/pkg/validation/spec"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"
	smd "sigs.k8s.io/structured-merge-diff/v6/schema"
	"sigs.k8s.io/structured-merge-diff/v6/typed"

	"proa/api"
	"proa/api/openapi"
)

// customTypes are the types of a custom resource's versions, by their schemas.
// What has no schema is deduced from the values.
type customTypes struct {
	group   string
	known   map[string]typed.ParseableType // by version
	deduced managedfields.TypeConverter
}

func newCustomTypes(row *api.Resource) (managedfields.TypeConverter, error) {
	models := map[string]*spec.Schema{}
	for _, version := range row.Custom.Versions {
		raw := row.Schema(version)
		if raw == nil {
			continue
		}
		full, err := openapi.Complete(raw)
		if err != nil {
			return nil, err
		}
		model := &spec.Schema{}
		if err := json.Unmarshal(full, model); err != nil {
			return nil, err
		}
		dropNullable(model)
		models[version] = model
	}
	types, err := schemaconv.ToSchemaFromOpenAPI(models, false)
	if err != nil {
		return nil, fmt.Errorf("fieldmanager: the schema of %s: %w", row.Key(), err)
	}
	builtin, err := builtinSchema()
	if err != nil {
		return nil, err
	}
	for _, def := range builtin {
		if strings.HasPrefix(def.Name, "io.k8s.apimachinery.") {
			types.Types = append(types.Types, def) // what metadata is made of
		}
	}
	parser := &typed.Parser{Schema: smd.Schema{Types: types.Types}}
	out := customTypes{group: row.Group, known: map[string]typed.ParseableType{}, deduced: managedfields.NewDeducedTypeConverter()}
	for version := range models {
		out.known[version] = parser.Type(version)
	}
	return out, nil
}

// dropNullable lets null mean "not set" everywhere, as an apply has it.
func dropNullable(s *spec.Schema) {
	if s == nil {
		return
	}
	s.Nullable = false
	for name, p := range s.Properties {
		dropNullable(&p)
		s.Properties[name] = p
	}
	if s.Items != nil {
		dropNullable(s.Items.Schema)
	}
	if s.AdditionalProperties != nil {
		dropNullable(s.AdditionalProperties.Schema)
	}
}

func (c customTypes) ObjectToTyped(o runtime.Object, opts ...typed.ValidationOptions) (*typed.TypedValue, error) {
	gvk := o.GetObjectKind().GroupVersionKind()
	t, ok := c.known[gvk.Version]
	u, own := o.(*unstructured.Unstructured)
	if !ok || !own || gvk.Group != c.group {
		return c.deduced.ObjectToTyped(o, opts...)
	}
	return t.FromUnstructured(u.UnstructuredContent(), opts...)
}

func (c customTypes) TypedToObject(v *typed.TypedValue) (runtime.Object, error) {
	return c.deduced.TypedToObject(v)
}

// customConverter shows a custom resource's objects in its versions.
type customConverter struct{ row *api.Resource }

func (c customConverter) ConvertToVersion(in runtime.Object, target runtime.GroupVersioner) (runtime.Object, error) {
	from := in.GetObjectKind().GroupVersionKind()
	to, ok := target.KindForGroupVersionKinds([]schema.GroupVersionKind{from, c.row.GVK()})
	if !ok {
		return nil, fmt.Errorf("%s cannot be shown as %s", from, target.Identifier())
	}
	if gv, exact := target.(schema.GroupVersion); exact {
		to.Group, to.Version = gv.Group, gv.Version
	}
	obj, err := asObject(in)
	if err != nil || from.GroupVersion() == to.GroupVersion() {
		return obj, err
	}
	if !slices.Contains(c.row.Custom.Versions, to.Version) {
		return nil, runtime.NewNotRegisteredErrForKind("registry", to)
	}
	return c.row.Custom.Convert(obj, to.Version)
}

func (c customConverter) New(gvk schema.GroupVersionKind) (runtime.Object, error) {
	obj := c.row.New()
	obj.GetObjectKind().SetGroupVersionKind(gvk)
	return obj, nil
}

func (c customConverter) Default(in runtime.Object) {
	if obj, ok := in.(api.Object); ok && in.GetObjectKind().GroupVersionKind() == c.row.GVK() {
		c.row.Default(obj)
	}
}

// Convert and ConvertFieldLabel complete runtime.ObjectConvertor; the library
// does not call them.
func (c customConverter) Convert(in, out, context any) error {
	return fmt.Errorf("fieldmanager: %T cannot be converted into a given %T", in, out)
}

func (c customConverter) ConvertFieldLabel(_ schema.GroupVersionKind, label, value string) (string, string, error) {
	return label, value, nil
}

// customResets is resetFields for a custom resource: an entry in managedFields
// may be of any version.
func customResets(row *api.Resource, subresource string) map[fieldpath.APIVersion]fieldpath.Filter {
	var set *fieldpath.Set
	switch {
	case subresource == "status":
		set = fieldpath.NewSet(fieldpath.MakePathOrDie("metadata"), fieldpath.MakePathOrDie("spec"))
	case subresource == "" && row.Subresource("status") != nil:
		set = fieldpath.NewSet(fieldpath.MakePathOrDie("status"))
	default:
		return nil
	}
	out := map[fieldpath.APIVersion]fieldpath.Filter{}
	for _, v := range row.Custom.Versions {
		out[fieldpath.APIVersion(schema.GroupVersion{Group: row.Group, Version: v}.String())] = fieldpath.NewExcludeSetFilter(set)
	}
	return out
}
