package apiserver

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"proa/api"
	"proa/apiserver/codec"
	"proa/apiserver/endpoint"
)

// maxBody is the largest body that a request may have, in bytes.
const maxBody = 3 << 20

// readBody reads the whole body, within its size and time.
func (x *exchange) readBody() ([]byte, error) {
	if x.r.Body == nil || x.r.Body == http.NoBody {
		return nil, nil
	}
	ctl := http.NewResponseController(x.ResponseWriter)
	if ctl.SetReadDeadline(time.Now().Add(bodyTimeout)) == nil {
		defer func() { _ = ctl.SetReadDeadline(time.Time{}) }() // it worked a moment ago
	}
	if x.r.ContentLength > maxBody {
		return nil, tooLarge()
	}
	var data []byte
	var err error
	if turn := x.awaiting(func() { data, err = readAll(x.r, http.MaxBytesReader(x.ResponseWriter, x.r.Body, maxBody)) }); turn != nil {
		return nil, turn
	}
	var large *http.MaxBytesError
	if errors.As(err, &large) {
		return nil, tooLarge()
	}
	if err != nil {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("the body could not be read: %v", err))
	}
	return data, nil
}

// readAll reads into one buffer of the announced size where there is one.
func readAll(r *http.Request, body io.Reader) ([]byte, error) {
	if r.ContentLength <= 0 {
		return io.ReadAll(body)
	}
	data := make([]byte, r.ContentLength)
	_, err := io.ReadFull(body, data)
	return data, err
}

func tooLarge() error {
	return apierrors.NewRequestEntityTooLargeError(fmt.Sprintf("limit is %d", maxBody))
}

// readObject decodes the body into an object of the storage version.
func (c *call) readObject() (api.Object, error) {
	obj := c.served.New()
	if c.served.As != nil {
		obj = c.served.As.New()
	}
	if err := c.decode(obj, c.served.GVK()); err != nil {
		return nil, err
	}
	obj.GetObjectKind().SetGroupVersionKind(c.served.GVK())
	out, err := codec.ToStorage(c.served, obj)
	if err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	return out, nil
}

// decode reads the body into an empty object of a kind, and judges duplicate and
// unknown fields as the request's field validation says.
func (c *call) decode(into runtime.Object, gvk schema.GroupVersionKind) error {
	contentType := c.r.Header.Get("Content-Type")
	f, ok := codec.ByMediaType(contentType)
	if !ok {
		return unsupportedMedia()
	}
	body, err := c.readBody()
	if err != nil {
		return err
	}
	strict, err := codec.Decode(f, body, into, gvk, c.q.Validation != metav1.FieldValidationIgnore)
	if own, ok := into.(*unstructured.Unstructured); ok && err == nil && c.served.Custom != nil {
		var unknown []error
		if unknown, err = c.served.Custom.Coerce(own, c.q.Validation != metav1.FieldValidationIgnore); err != nil {
			err = codec.NotOfKind(gvk, err)
		}
		strict = append(strict, unknown...)
	}
	if err != nil {
		return apierrors.NewBadRequest(err.Error())
	}
	c.noteSent(into)
	if len(strict) > 0 && c.q.Validation == metav1.FieldValidationStrict {
		return apierrors.NewBadRequest(codec.StrictError(gvk, strict).Error())
	}
	for _, e := range strict {
		c.warn(e.Error())
	}
	return nil
}

var patchTypes = map[string]types.PatchType{
	string(types.JSONPatchType):           types.JSONPatchType,
	string(types.MergePatchType):          types.MergePatchType,
	string(types.StrategicMergePatchType): types.StrategicMergePatchType,
	string(types.ApplyYAMLPatchType):      types.ApplyYAMLPatchType,
	string(types.ApplyCBORPatchType):      types.ApplyCBORPatchType,
}

// patchMediaTypes are patchTypes in the order in which upstream names them.
var patchMediaTypes = []string{string(types.JSONPatchType), string(types.MergePatchType), string(types.StrategicMergePatchType),
	string(types.ApplyYAMLPatchType), string(types.ApplyCBORPatchType)}

func (c *call) patch() error {
	contentType := mediaTypeOf(c.r.Header.Get("Content-Type"))
	kind, ok := patchTypes[contentType]
	if c.served.Custom != nil && c.t.Subresource != "scale" && kind == types.StrategicMergePatchType {
		ok = false // it takes a Go type to know the merge keys
	}
	if !ok {
		return unsupportedMedia(slices.DeleteFunc(slices.Clone(patchMediaTypes), func(t string) bool {
			return c.served.Custom != nil && t == string(types.StrategicMergePatchType)
		})...)
	}
	body, err := c.readBody()
	if err != nil {
		return err
	}
	c.notePatch(kind, body)
	query := c.r.URL.Query()
	p := endpoint.Patch{Type: kind, Data: body, Force: isTrue(query.Get("force")), Named: query.Get("fieldManager") != ""}
	res, err := c.s.endpoint.Patch(c.r.Context(), c.q, p)
	return c.result(res, err)
}

// deleteOptions come in the body or in the query.
func (c *call) deleteOptions() (metav1.DeleteOptions, error) {
	opts, err := deleteQuery(c.r.URL.Query())
	if err != nil {
		return opts, err
	}
	contentType := c.r.Header.Get("Content-Type")
	body, err := c.readBody()
	if err != nil {
		return opts, err
	}
	if len(body) > 0 {
		f, ok := codec.ByMediaType(contentType)
		if !ok {
			return opts, unsupportedMedia()
		}
		opts = metav1.DeleteOptions{}
		if err := codec.DecodeOptions(f, body, "DeleteOptions", &opts); err != nil {
			return opts, apierrors.NewBadRequest(err.Error())
		}
	}
	c.q.DryRun = c.q.DryRun || len(opts.DryRun) > 0
	return opts, nil
}

func deleteQuery(q url.Values) (opts metav1.DeleteOptions, err error) {
	if v := q.Get("gracePeriodSeconds"); v != "" {
		n, err := strconv.ParseInt(v, 10, 64)
		if err != nil {
			return opts, apierrors.NewBadRequest("gracePeriodSeconds: " + err.Error())
		}
		opts.GracePeriodSeconds = &n
	}
	if v := q.Get("propagationPolicy"); v != "" {
		p := metav1.DeletionPropagation(v)
		opts.PropagationPolicy = &p
	}
	if v := q.Get("orphanDependents"); v != "" {
		b := isTrue(v)
		opts.OrphanDependents = &b
	}
	opts.DryRun = q["dryRun"]
	return opts, nil
}

func (c *call) listOptions() (endpoint.ListOptions, error) {
	q := c.r.URL.Query()
	opts := endpoint.ListOptions{
		LabelSelector: q.Get("labelSelector"), FieldSelector: q.Get("fieldSelector"),
		ResourceVersion: q.Get("resourceVersion"), ResourceVersionMatch: metav1.ResourceVersionMatch(q.Get("resourceVersionMatch")),
		Continue: q.Get("continue"), AllowWatchBookmarks: isTrue(q.Get("allowWatchBookmarks")),
	}
	var err error
	if v := q.Get("limit"); v != "" {
		if opts.Limit, err = strconv.ParseInt(v, 10, 64); err != nil {
			return opts, apierrors.NewBadRequest("limit: " + err.Error())
		}
	}
	if v := q.Get("timeoutSeconds"); v != "" {
		n, err := strconv.ParseInt(v, 10, 64)
		if err != nil {
			return opts, apierrors.NewBadRequest("timeoutSeconds: " + err.Error())
		}
		opts.TimeoutSeconds = &n
	}
	if v := q.Get("sendInitialEvents"); v != "" {
		b := isTrue(v)
		opts.SendInitialEvents = &b
	}
	return opts, nil
}
