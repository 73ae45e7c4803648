// Package extension is what admission webhooks and admission policies have in
// common: which requests a configuration concerns, in which version it sees the
// objects, the CEL conditions over them, and what is kept of a configuration
// between requests.
//
// It promises that nothing is paid where nothing is configured: the CEL
// environments, some megabytes, are made by the first expression, and a
// configuration is compiled once for each of its revisions.
package extension

import (
	"fmt"
	"reflect"

	admissionv1 "k8s.io/api/admission/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	k8sadmission "k8s.io/apiserver/pkg/admission"
	plugincel "k8s.io/apiserver/pkg/admission/plugin/cel"
	"k8s.io/apiserver/pkg/authentication/user"

	"proa/api"
	"proa/apiserver/admission"
	"proa/apiserver/codec"
	"proa/store"
)

// Exempt tells which requests no webhook and no policy sees: those for the
// configuration of webhooks and policies, so that a bad one can be mended, and
// the server's own.
func Exempt(r *admission.Request) bool {
	return r.Bare || r.Resource.NewList == nil || r.Resource.Group == "admissionregistration.k8s.io"
}

// View is a request as webhooks and policies see it: in any of its versions. It
// is of one goroutine.
type View struct {
	*admission.Request
	seen map[schema.GroupVersionKind]*k8sadmission.VersionedAttributes
}

// NewView makes one; it costs nothing until it is asked something.
func NewView(r *admission.Request) *View { return &View{Request: r} }

// Match is what of a request a rule matched: the resource in the version that the
// rule names, and the kind of the objects there.
type Match struct {
	Resource schema.GroupVersionResource
	Kind     schema.GroupVersionKind
	served   api.Served
	// body says that the subresource takes a kind of its own, which has one
	// version only.
	body bool
}

// asked is the request's resource as the client named it.
func (v *View) asked() Match {
	s := api.Served{Resource: v.Resource, As: v.As}
	return v.match(s, s.GVK())
}

func (v *View) match(s api.Served, gvk schema.GroupVersionKind) Match {
	m := Match{Resource: gvk.GroupVersion().WithResource(s.Plural), Kind: gvk, served: s}
	if sub := s.Subresource(v.Subresource); sub != nil && sub.Kind.Kind != "" {
		m.Kind, m.body = sub.Kind, true
	}
	return m
}

// versions are the versions that the request's resource has.
func (v *View) versions() []Match {
	row := api.Served{Resource: v.Resource}
	if c := v.Resource.Custom; c != nil {
		out := make([]Match, len(c.Versions))
		for i, version := range c.Versions {
			gvk := v.Resource.GVK()
			gvk.Version = version
			out[i] = v.match(row, gvk)
		}
		return out
	}
	out := []Match{v.match(row, row.GVK())}
	for i := range v.Resource.Versions {
		s := api.Served{Resource: v.Resource, As: &v.Resource.Versions[i]}
		out = append(out, v.match(s, s.GVK()))
	}
	return out
}

// space is the request's namespace; a Namespace is in the one of its own name.
func (v *View) space() string {
	if v.Resource.Key() == "namespaces" {
		return v.Name
	}
	return v.Namespace
}

// At shows the request in the version that a rule matched. The objects are shared
// and must not be changed.
func (v *View) At(m Match) (*k8sadmission.VersionedAttributes, error) {
	if out, ok := v.seen[m.Kind]; ok {
		return out, nil
	}
	out := &k8sadmission.VersionedAttributes{Attributes: v.attributes(), VersionedKind: m.Kind}
	if v.Stream != nil {
		out.VersionedObject.Set(v.Stream)
	}
	for _, side := range []struct {
		obj api.Object
		set func(runtime.Object)
	}{{v.Object, out.VersionedObject.Set}, {v.Old, out.VersionedOldObject.Set}} {
		if side.obj == nil {
			continue
		}
		shown, err := m.show(side.obj)
		if err != nil {
			return nil, fmt.Errorf("failed to convert object version: %w", err)
		}
		side.set(shown)
	}
	if v.seen == nil {
		v.seen = map[schema.GroupVersionKind]*k8sadmission.VersionedAttributes{}
	}
	v.seen[m.Kind] = out
	return out, nil
}

// show converts one object of the request.
func (m Match) show(obj api.Object) (api.Object, error) {
	if m.body {
		return obj, nil
	}
	if c := m.served.Custom; c != nil {
		if m.Kind == m.served.Resource.GVK() {
			return obj, nil
		}
		return c.Convert(obj, m.Kind.Version)
	}
	out, err := codec.FromStorage(m.served, obj)
	if err == nil && out.GetObjectKind().GroupVersionKind() != m.Kind {
		out = out.DeepCopyObject().(api.Object)
		out.GetObjectKind().SetGroupVersionKind(m.Kind)
	}
	return out, err
}

// Put makes a changed object of the matched version the request's. It is filled
// with the defaults of its version and of the kind.
func (v *View) Put(m Match, obj api.Object) error {
	obj.GetObjectKind().SetGroupVersionKind(m.Kind)
	obj, err := v.keep(m, obj)
	if err != nil {
		return err
	}
	if !m.body && v.Resource.Default != nil {
		v.Resource.Default(obj)
	}
	v.Replace(obj)
	v.seen = nil
	return nil
}

// keep brings a changed object back into the form that the request is handled in.
func (v *View) keep(m Match, obj api.Object) (api.Object, error) {
	if m.body {
		return obj, nil
	}
	c := v.Resource.Custom
	if c == nil {
		return codec.ToStorage(m.served, obj)
	}
	if m.Kind != v.Resource.GVK() {
		var err error
		if obj, err = c.Convert(obj, v.Resource.Version); err != nil {
			return nil, err
		}
	}
	_, err := c.Coerce(obj, false)
	return obj, err
}

// Empty makes an empty object of the matched version, to decode into.
func (v *View) Empty(m Match) api.Object {
	switch {
	case m.body:
		return reflect.New(reflect.TypeOf(v.Object).Elem()).Interface().(api.Object)
	case m.served.As != nil:
		return m.served.As.New()
	}
	return m.served.Resource.New()
}

// Served is the resource in the matched version.
func (m Match) Served() api.Served { return m.served }

func (v *View) attributes() k8sadmission.Attributes {
	m := v.asked()
	name := v.Name
	if v.Generated && v.Op == admission.Create {
		name = ""
	}
	return k8sadmission.NewAttributesRecord(nil, nil, m.Kind, v.space(), name, m.Resource, v.Subresource,
		k8sadmission.Operation(v.Op), v.Options, v.DryRun, v.user())
}

func (v *View) user() user.Info {
	u := v.User
	return &user.DefaultInfo{Name: u.Name, UID: u.UID, Groups: u.Groups, Extra: u.Extra}
}

// Review is the request in the form of admission.k8s.io/v1 without the objects.
func (v *View) Review(at *k8sadmission.VersionedAttributes, m Match) *admissionv1.AdmissionRequest {
	return plugincel.CreateAdmissionRequest(at.Attributes, metav1.GroupVersionResource(m.Resource), metav1.GroupVersionKind(m.Kind))
}

// NamespaceObject is the namespace that the request is in; nil for what is in
// none, and for namespaces themselves.
func (v *View) NamespaceObject() (*corev1.Namespace, error) {
	if v.Namespace == "" || !v.Resource.Namespaced {
		return nil, nil
	}
	return v.namespace(v.Namespace)
}

func (v *View) namespace(name string) (*corev1.Namespace, error) {
	rec := v.World.Get(store.Key{Resource: "namespaces", Name: name})
	if rec == nil {
		return nil, apierrors.NewNotFound(corev1.Resource("namespaces"), name)
	}
	obj, err := rec.Object()
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	ns, ok := obj.(*corev1.Namespace)
	if !ok {
		return nil, apierrors.NewInternalError(fmt.Errorf("the namespace %s is a %T", name, obj))
	}
	return ns, nil
}

// Every yields the configurations of a kind, by name, each with what compile made
// of its present revision.
func Every[T any](world store.Snapshot, resource string, kept *Kept[T]) []T {
	n := world.Count(store.Scope{Resource: resource})
	if n == 0 {
		return nil
	}
	out := make([]T, 0, n)
	for rec := range world.List(store.Scope{Resource: resource}, store.Key{}) {
		if c, ok := kept.Of(rec); ok {
			out = append(out, c)
		}
	}
	kept.trim(n)
	return out
}
