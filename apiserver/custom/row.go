package custom

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	structuralschema "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utilversion "k8s.io/apimachinery/pkg/version"

	"proa/api"
	"proa/apiserver/callout"
)

// definition is a CustomResourceDefinition at one state.
type definition struct {
	name, group, kind, listKind string
	namespaced                  bool
	// keepsUnknown is spec.preserveUnknownFields, which only definitions from
	// before v1 have.
	keepsUnknown bool
	storage      string // version
	versions     map[string]*version
	convert      converter
	relabels     bool // convert may change labels
}

// version is one version of a definition.
type version struct {
	def   *definition
	name  string
	spec  *apiextensionsv1.CustomResourceDefinitionVersion
	scale *scalePaths // nil where it has no scale
	rules func() (*rules, error)
}

func (v *version) gv() schema.GroupVersion {
	return schema.GroupVersion{Group: v.def.group, Version: v.name}
}

// newDefinition reads a definition whose names are accepted. life ends when it
// is served no more.
func newDefinition(crd *apiextensionsv1.CustomResourceDefinition, pool *callout.Pool, life context.Context) (*definition, error) {
	names := crd.Status.AcceptedNames
	if names.Plural == "" || names.Singular == "" || names.Kind == "" || names.ListKind == "" {
		return nil, fmt.Errorf("%s has no accepted names", crd.Name)
	}
	d := &definition{
		name: crd.Name, group: crd.Spec.Group, kind: names.Kind, listKind: names.ListKind,
		namespaced: crd.Spec.Scope == apiextensionsv1.NamespaceScoped, keepsUnknown: crd.Spec.PreserveUnknownFields,
		versions: map[string]*version{}, convert: rename,
	}
	for i := range crd.Spec.Versions {
		spec := &crd.Spec.Versions[i]
		v := &version{def: d, name: spec.Name, spec: spec}
		v.rules = sync.OnceValues(func() (*rules, error) { return readRules(spec, d.keepsUnknown) })
		if s := spec.Subresources; s != nil && s.Scale != nil {
			v.scale = &scalePaths{*s.Scale}
		}
		if spec.Storage {
			d.storage = spec.Name
		}
		d.versions[spec.Name] = v
	}
	if d.storage == "" {
		return nil, fmt.Errorf("%s has no storage version", crd.Name)
	}
	if c := crd.Spec.Conversion; c != nil && c.Strategy == apiextensionsv1.WebhookConverter && c.Webhook != nil {
		hook, err := newWebhook(pool, life, c.Webhook)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", crd.Name, err)
		}
		d.convert, d.relabels = hook.convert, true
	}
	return d, nil
}

// rowOf makes the storage version's row of a definition, with its siblings.
func rowOf(crd *apiextensionsv1.CustomResourceDefinition, pool *callout.Pool, life context.Context) (*api.Resource, error) {
	d, err := newDefinition(crd, pool, life)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, v := range crd.Spec.Versions {
		names = append(names, v.Name)
	}
	var closing atomic.Bool
	var main *api.Resource
	var siblings []*api.Resource
	for _, spec := range crd.Spec.Versions {
		if !spec.Served && !spec.Storage {
			continue
		}
		row := d.versions[spec.Name].row(crd, &closing)
		row.Custom.Versions, row.Custom.Life = names, life
		if spec.Storage {
			main = row
		} else {
			siblings = append(siblings, row)
		}
	}
	main.Custom.Siblings = siblings
	main.Custom.Unserved = !d.versions[d.storage].spec.Served
	return main, nil
}

func (v *version) row(crd *apiextensionsv1.CustomResourceDefinition, closing *atomic.Bool) *api.Resource {
	names := crd.Status.AcceptedNames
	gvk := v.gv().WithKind(v.def.kind)
	row := &api.Resource{
		Group: gvk.Group, Version: gvk.Version, Kind: gvk.Kind,
		Plural: names.Plural, Singular: names.Singular, Short: names.ShortNames, Categories: names.Categories,
		Namespaced: v.def.namespaced,
		New: func() api.Object {
			u := &unstructured.Unstructured{}
			u.SetGroupVersionKind(gvk)
			return u
		},
		NewList: func() runtime.Object {
			l := &unstructured.UnstructuredList{}
			l.SetGroupVersionKind(v.gv().WithKind(v.def.listKind))
			return l
		},
		Schema:  v.def.schemaOf,
		Default: func(obj api.Object) { _ = v.fill(obj.(*unstructured.Unstructured)) }, // Coerce has reported what is wrong with the schema
		PrepareCreate: func(obj api.Object) {
			if v.hasStatus() {
				delete(obj.(*unstructured.Unstructured).Object, "status")
			}
			obj.SetGeneration(1)
		},
		PrepareUpdate: v.prepareUpdate,
		Validate:      v.validate,
		Ratchets:      true,
		Conditional:   true,
		Warnings:      finalizerWarnings,
	}
	row.Custom = &api.Custom{
		Relabels: v.def.relabels,
		Show:     v.show, Keep: v.keep, Judge: v.judge, Coerce: v.receiveSent, Convert: v.def.convertTo,
		Notices: notices(crd, v.spec), Edition: edition(crd, v.name),
		Closing: closing,
	}
	v.addSubresources(row)
	v.addColumns(row)
	v.addFields(row)
	return row
}

func (v *version) hasStatus() bool {
	return v.spec.Subresources != nil && v.spec.Subresources.Status != nil
}

// receiveSent is Custom.Coerce.
func (v *version) receiveSent(obj api.Object, report bool) ([]error, error) {
	u, ok := obj.(*unstructured.Unstructured)
	if !ok {
		return nil, fmt.Errorf("a %T is no %s", obj, v.def.kind)
	}
	unknown, err := v.coerce(u, leniency{report: report})
	return unknownFields(unknown), err
}

// prepareUpdate keeps the status where it has an endpoint of its own, and
// counts changes of anything but the metadata.
func (v *version) prepareUpdate(obj, old api.Object) {
	now, was := obj.(*unstructured.Unstructured).Object, old.(*unstructured.Unstructured).Object
	if v.hasStatus() {
		if status, ok := was["status"]; ok {
			now["status"] = status
		} else {
			delete(now, "status")
		}
	}
	obj.SetGeneration(old.GetGeneration())
	if !equality.Semantic.DeepEqual(content(now), content(was)) {
		obj.SetGeneration(old.GetGeneration() + 1)
	}
}

func content(obj map[string]any) map[string]any {
	out := make(map[string]any, len(obj))
	for k, v := range obj {
		if k != "metadata" {
			out[k] = v
		}
	}
	return out
}

// prepareStatus lets a change through "status" change nothing else.
func prepareStatus(obj, old api.Object) {
	u := obj.(*unstructured.Unstructured)
	status, has := u.Object["status"]
	managed := u.GetManagedFields()
	next := old.(*unstructured.Unstructured).DeepCopy()
	next.SetResourceVersion(u.GetResourceVersion())
	next.SetManagedFields(managed)
	if has {
		next.Object["status"] = status
	} else {
		delete(next.Object, "status")
	}
	u.Object = next.Object
}

func (v *version) addSubresources(row *api.Resource) {
	verbs := []string{"get", "patch", "update"}
	if v.hasStatus() {
		row.Subresources = append(row.Subresources, api.Subresource{
			Name: "status", Verbs: verbs, PrepareUpdate: prepareStatus,
		})
	}
	if v.scale == nil {
		return
	}
	row.Subresources = append(row.Subresources, api.Subresource{
		Name: "scale", Verbs: verbs, Kind: schema.GroupVersionKind{Group: "autoscaling", Version: "v1", Kind: "Scale"},
		Scale: &api.ScalePaths{
			Get: func(obj api.Object) (int32, int32, string) {
				spec, status, selector, _, _ := v.scale.get(obj) // Check has told
				return spec, status, selector
			},
			Set: func(obj api.Object, n int32) { _ = v.scale.set(obj, n) }, // as above
			Check: func(obj api.Object) (bool, error) {
				_, _, _, found, err := v.scale.get(obj)
				if err == nil && !found {
					err = fmt.Errorf("the spec replicas field %q does not exist", v.scale.SpecReplicasPath)
					return false, err
				}
				return true, err
			},
			Path: v.scale.SpecReplicasPath,
		},
	})
}

// notices warn of a deprecated version, and name a better one.
func notices(crd *apiextensionsv1.CustomResourceDefinition, spec *apiextensionsv1.CustomResourceDefinitionVersion) []string {
	if !spec.Deprecated {
		return nil
	}
	if w := spec.DeprecationWarning; w != nil {
		return []string{*w}
	}
	kind := crd.Spec.Names.Kind
	text := fmt.Sprintf("%s/%s %s is deprecated", crd.Spec.Group, spec.Name, kind)
	var better []string
	for _, v := range crd.Spec.Versions {
		if v.Served && !v.Deprecated && utilversion.CompareKubeAwareVersionStrings(spec.Name, v.Name) < 0 {
			better = append(better, v.Name)
		}
	}
	if len(better) == 0 {
		return []string{text}
	}
	best := slices.MaxFunc(better, utilversion.CompareKubeAwareVersionStrings)
	return []string{fmt.Sprintf("%s; use %s/%s %s", text, crd.Spec.Group, best, kind)}
}

// schemaOf is Resource.Schema: what is published of a version. Only schemas
// that keep all structural rules are.
func (d *definition) schemaOf(name string) []byte {
	v := d.versions[name]
	if v == nil {
		return nil
	}
	r, err := v.rules()
	if err != nil || r.structural == nil || len(structuralschema.ValidateStructural(nil, r.structural)) > 0 {
		return nil
	}
	// Unfold writes to what it is called on, which requests read meanwhile.
	s := r.structural.DeepCopy().Unfold().ToKubeOpenAPI()
	if d.keepsUnknown {
		s.AddExtension("x-kubernetes-preserve-unknown-fields", true)
	}
	if list := v.selectable(); list != nil {
		s.AddExtension("x-kubernetes-selectable-fields", list)
	}
	data, err := json.Marshal(s)
	if err != nil {
		return nil
	}
	return data
}

// selectable are the fields that field selectors may name, as schemas show them
// (KEP-4358).
func (v *version) selectable() (out []any) {
	for _, f := range v.spec.SelectableFields {
		out = append(out, map[string]any{"fieldPath": strings.TrimPrefix(f.JSONPath, ".")})
	}
	return out
}

// edition names a state of a definition's version.
func edition(crd *apiextensionsv1.CustomResourceDefinition, version string) string {
	return fmt.Sprintf("%s/%d/%s", crd.UID, crd.Generation, version)
}
