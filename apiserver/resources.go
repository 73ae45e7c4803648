package apiserver

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"unicode"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"proa/api"
	"proa/apiserver/codec"
	"proa/apiserver/discovery"
	"proa/apiserver/endpoint"
	"proa/auth"
)

// dispatch answers an authorised request.
func (s *Server) dispatch(x *exchange, user auth.User) {
	if remote := s.aggregate.Find(x.t.Path); remote != nil {
		s.aggregate.Proxy(x, x.r, remote, user)
		return
	}
	if !x.t.Resource {
		s.servePath(x)
		return
	}
	served, err := s.find(x.r.Context(), x.t)
	if err == nil {
		err = s.serveResource(x, user, served)
	}
	if err != nil {
		x.fail(err)
	}
}

// find looks the resource up and checks that the URL's scope and verb suit it.
func (s *Server) find(ctx context.Context, t target) (api.Served, error) {
	gvr := schema.GroupVersionResource{Group: t.Group, Version: t.Version, Resource: t.Plural}
	served, ok := s.cfg.Registry.ByGVR(gvr)
	if !ok {
		s.custom.Expect(ctx, gvr)
		if served, ok = s.cfg.Registry.ByGVR(gvr); !ok {
			return served, noPath()
		}
	}
	if t.Namespace != "" && !served.Namespaced && t.Plural != "namespaces" {
		return served, noPath()
	}
	verbs := discovery.Verbs(served.Resource)
	if t.Subresource != "" {
		sub := served.Subresource(t.Subresource)
		if sub == nil {
			return served, noPath()
		}
		verbs = sub.Verbs
	}
	nowhere := served.Namespaced && t.Namespace == "" && !t.readsAll()
	passed := t.Verb == "" && t.Subresource == "proxy" // whatever a backend knows
	if nowhere && t.Name != "" && !t.collection() {
		return served, noPath()
	}
	if !slices.Contains(verbs, t.Verb) && !passed || nowhere || t.misplaced() {
		return served, noMethod()
	}
	return served, nil
}

// noMethod answers for a method that a path does not have.
func noMethod() error {
	return apierrors.NewGenericServerResponse(http.StatusMethodNotAllowed, "", noResource, "", "405: Method Not Allowed", 0, false)
}

// misplaced tells a method that is not for this sort of path: creating with a
// name, changing without one, and HEAD, which only proxies take.
func (t target) misplaced() bool {
	switch {
	case t.Subresource == "proxy":
		return false
	case t.Verb == "create":
		return t.Name != "" && t.Subresource == ""
	case t.Verb == "update", t.Verb == "patch":
		return t.Name == ""
	}
	return t.Head
}

func (t target) readsAll() bool { return t.Verb == "list" || t.Verb == "watch" }

// call is one request for a resource, decoded as far as the URL goes.
type call struct {
	*exchange
	s      *Server
	served api.Served
	q      endpoint.Request
	w      wants
}

func (s *Server) serveResource(x *exchange, user auth.User, served api.Served) error {
	c := &call{exchange: x, s: s, served: served}
	c.q = endpoint.Request{
		User: user, Served: served, Namespace: x.t.Namespace, Subresource: x.t.Subresource, Warn: x.warn, Annotate: x.annotator(),
	}
	if !served.Namespaced {
		c.q.Namespace = ""
	}
	if served.Deprecated != "" {
		x.warn(served.Deprecated)
	}
	if served.Custom != nil {
		for _, text := range served.Custom.Notices {
			x.warn(text)
		}
	}
	if !x.t.collection() {
		c.q.Name = x.t.Name
	}
	if f, ok := connects[x.t.Subresource]; ok {
		if err := c.admitConnect(); err != nil {
			return err
		}
		return f(c)
	}
	var err error
	if c.w, err = negotiate(x.r, c.shows); err != nil {
		return err
	}
	if err := c.writeOptions(); err != nil {
		return err
	}
	return c.verb()
}

func (c *call) verb() error {
	switch {
	case c.served.Key() == "componentstatuses":
		return c.componentStatuses()
	case c.t.Subresource != "" && subresources[c.t.Subresource] != nil:
		return subresources[c.t.Subresource](c)
	case c.t.Subresource != "" && c.t.Verb == "create":
		return c.post()
	}
	switch c.t.Verb {
	case "get":
		return c.get()
	case "list":
		return c.list()
	case "watch":
		return c.watch()
	case "create":
		return c.create()
	case "update":
		return c.update()
	case "patch":
		return c.patch()
	case "delete":
		return c.delete()
	case "deletecollection":
		return c.deleteCollection()
	}
	return apierrors.NewMethodNotSupported(c.served.GR(), c.t.Verb)
}

// shows says what the resource's objects can be shown as.
func (c *call) shows(w wants) bool {
	if c.t.Verb == "watch" && w.Format == codec.YAML {
		return false
	}
	group := w.Group == "meta.k8s.io" || w.Group == ""
	switch w.As {
	case "":
		return w.Format != codec.Protobuf || !codec.IsCustom(c.served.Resource)
	case "Table":
		if c.served.NewList == nil { // a review is an answer, not an object that tables list
			return false
		}
		return group && w.Format != codec.Protobuf && (w.Version == "v1" || w.Version == "v1beta1")
	case "PartialObjectMetadata":
		return group && w.Version == "v1" && c.t.Verb != "list"
	case "PartialObjectMetadataList":
		return group && w.Version == "v1" && c.t.Verb == "list"
	}
	return false
}

func (c *call) shape() codec.Shape {
	return codec.Shape{Served: c.served, Format: c.w.Format, Meta: strings.HasPrefix(c.w.As, "PartialObjectMetadata")}
}

// writeOptions reads dryRun, fieldManager and fieldValidation, which all writes
// share.
func (c *call) writeOptions() error {
	query := c.r.URL.Query()
	opts := metav1.CreateOptions{DryRun: query["dryRun"], FieldManager: query.Get("fieldManager"), FieldValidation: query.Get("fieldValidation")}
	if errs := metavalidation.ValidateCreateOptions(&opts); len(errs) > 0 {
		return apierrors.NewInvalid(schema.GroupKind{Group: metav1.GroupName, Kind: c.optionsKind()}, "", errs)
	}
	c.q.DryRun = len(opts.DryRun) > 0
	c.q.Given = metav1.UpdateOptions{DryRun: opts.DryRun, FieldManager: opts.FieldManager, FieldValidation: opts.FieldValidation}
	c.q.Manager = opts.FieldManager
	if c.q.Manager == "" {
		c.q.Manager = managerOf(c.r.UserAgent())
	}
	c.q.Validation = opts.FieldValidation
	if c.q.Validation == "" {
		c.q.Validation = metav1.FieldValidationWarn
	}
	return nil
}

func (c *call) optionsKind() string {
	switch c.t.Verb {
	case "update":
		return "UpdateOptions"
	case "patch":
		return "PatchOptions"
	case "delete", "deletecollection":
		return "DeleteOptions"
	}
	return "CreateOptions"
}

// managerOf is the field manager of a client that names none: the program's name,
// which is its user agent up to the slash, as far as that is printable.
func managerOf(agent string) string {
	name, _, _ := strings.Cut(agent, "/")
	var b strings.Builder
	for _, r := range name {
		if !unicode.IsPrint(r) {
			continue
		}
		if b.Len()+len(string(r)) > metavalidation.FieldManagerMaxLength {
			break
		}
		b.WriteRune(r)
	}
	if b.Len() == 0 {
		return "unknown"
	}
	return b.String()
}

func (c *call) create() error {
	if c.served.Key() == "bindings" {
		return c.bindings()
	}
	obj, err := c.readObject()
	if err != nil {
		return err
	}
	if c.served.NewList == nil { // a review: nothing of the kind is ever stored
		res, err := c.s.endpoint.Review(c.r.Context(), c.q, obj)
		return c.result(res, err)
	}
	res, err := c.s.endpoint.Create(c.r.Context(), c.q, obj)
	return c.result(res, err)
}

func (c *call) update() error {
	obj, err := c.readObject()
	if err != nil {
		return err
	}
	res, err := c.s.endpoint.Update(c.r.Context(), c.q, obj)
	return c.result(res, err)
}

func (c *call) delete() error {
	opts, err := c.deleteOptions()
	if err != nil {
		return err
	}
	res, err := c.s.endpoint.Delete(c.r.Context(), c.q, opts)
	if err != nil {
		return err
	}
	if !res.Deleted || api.ReturnsDeleted(c.served.Key()) {
		return c.result(res, nil)
	}
	obj, err := res.Object()
	if err != nil {
		return apierrors.NewInternalError(err)
	}
	c.w.As = ""
	c.object(http.StatusOK, c.w, &metav1.Status{
		TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: metav1.StatusSuccess,
		Details: &metav1.StatusDetails{Name: c.q.Name, Group: c.served.Group, Kind: c.served.Plural, UID: obj.GetUID()},
	})
	return nil
}

func (c *call) deleteCollection() error {
	opts, err := c.deleteOptions()
	if err != nil {
		return err
	}
	list, err := c.listOptions()
	if err != nil {
		return err
	}
	c.q.Name = ""
	found, err := c.s.endpoint.DeleteCollection(c.r.Context(), c.q, list, opts)
	if err != nil {
		return err
	}
	return c.writeList(found)
}

func (c *call) get() error {
	if c.t.Subresource == "scale" {
		scale, err := c.s.endpoint.GetScale(c.r.Context(), c.q)
		if err == nil {
			c.w.As = ""
			c.object(http.StatusOK, c.w, scale)
		}
		return err
	}
	rec, err := c.s.endpoint.Get(c.r.Context(), c.q, c.r.URL.Query().Get("resourceVersion"))
	if err != nil {
		return err
	}
	return c.record(http.StatusOK, rec)
}

func (c *call) list() error {
	opts, err := c.listOptions()
	if err != nil {
		return err
	}
	found, err := c.s.endpoint.List(c.r.Context(), c.q, opts)
	if err != nil {
		return err
	}
	return c.writeList(found)
}
