package webhook

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	admissionv1 "k8s.io/api/admission/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/uuid"

	"proa/apiserver/admission/extension"
)

const (
	reviewGroup = "admission.k8s.io"
	// maxAnswer bounds what is read of a webhook's answer, in bytes: a patch that
	// sets the largest object there can be, in base64, and room to spare.
	maxAnswer = 8 << 20
	// maxWarnings bounds what a webhook may have a client told.
	maxWarnings = 64
)

// callError says that a webhook could not be asked or made no sense, which its
// failurePolicy judges.
type callError struct {
	hook   string
	status int32
	reason error
}

func (e *callError) Error() string {
	return fmt.Sprintf("failed calling webhook %q: %v", e.hook, e.reason)
}
func (e *callError) Unwrap() error { return e.reason }

func (h *hook) failed(status int32, format string, args ...any) error {
	return &callError{h.name, status, fmt.Errorf(format, args...)}
}

// denied is a webhook's own refusal, which is answered as it is.
type denied struct{ *apierrors.StatusError }

// ask sends the request to the webhook and returns its answer, also where that is
// no. It may run beside other calls of the same request.
func (w *Webhooks) ask(ctx context.Context, v *extension.View, c *call) (*admissionv1.AdmissionResponse, error) {
	if v.DryRun && c.sideEffects {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("admission webhook %q does not support dry run", c.name))
	}
	if c.version == "" {
		return nil, c.failed(http.StatusBadRequest, "could not create admission objects: webhook does not accept known AdmissionReview versions (v1, v1beta1)")
	}
	uid := uuid.NewUUID()
	body, err := c.review(v, uid)
	if err != nil {
		return nil, c.failed(http.StatusBadRequest, "could not create admission objects: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, time.Duration(c.timeout)*time.Second)
	defer cancel()
	data, err := w.post(ctx, c, body)
	if err != nil {
		return nil, err
	}
	res, err := c.read(data, uid)
	if err != nil {
		return nil, c.failed(http.StatusServiceUnavailable, "received invalid webhook response: %w", err)
	}
	if !res.Allowed {
		err = &denied{refusal(c.name, res.Result)}
	}
	return res, err
}

// tell passes on what the webhook wants the client and the audit log to know.
func (c *call) tell(v *extension.View, res *admissionv1.AdmissionResponse) {
	if res == nil {
		return
	}
	for k, text := range res.AuditAnnotations {
		annotate(v, c.name+"/"+k, text)
	}
	for _, text := range res.Warnings[:min(len(res.Warnings), maxWarnings)] {
		v.Warn(text)
	}
}

// review is the AdmissionReview as JSON. Both versions have the same form.
func (c *call) review(v *extension.View, uid types.UID) ([]byte, error) {
	req := v.Review(c.at, c.match)
	req.UID = uid
	req.Object.Object = c.at.VersionedObject.Object()
	req.OldObject.Object = c.at.VersionedOldObject.Object()
	return json.Marshal(&admissionv1.AdmissionReview{
		TypeMeta: metav1.TypeMeta{Kind: "AdmissionReview", APIVersion: reviewGroup + "/" + c.version}, Request: req,
	})
}

// post sends the review and reads the answer, within its time and size.
func (w *Webhooks) post(ctx context.Context, c *call, body []byte) ([]byte, error) {
	client, u, err := w.pool.Client(c.target)
	if err != nil {
		return nil, c.failed(http.StatusInternalServerError, "could not get REST client: %w", err)
	}
	if end, ok := ctx.Deadline(); ok {
		query := u.Query()
		query.Set("timeout", roundUp(time.Until(end)).String())
		u.RawQuery = query.Encode()
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, u.String(), bytes.NewReader(body))
	if err != nil {
		return nil, c.failed(http.StatusInternalServerError, "could not get REST client: %w", err)
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Accept", "application/json, */*")
	r.Header.Set("User-Agent", "kube-apiserver-admission")
	res, err := client.Do(r)
	if err != nil {
		return nil, c.unreachable(u, err)
	}
	defer func() { _ = res.Body.Close() }() // what matters of it was read
	data, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer+1))
	switch {
	case err != nil:
		return nil, c.unreachable(u, err)
	case len(data) > maxAnswer:
		return nil, c.failed(http.StatusServiceUnavailable, "failed to call webhook: the answer is larger than %d bytes", maxAnswer)
	case res.StatusCode < 200 || res.StatusCode > 299:
		err := apierrors.NewGenericServerResponse(res.StatusCode, "POST", schema.GroupResource{}, "", answerText(data), 0, true)
		return nil, c.failed(int32(res.StatusCode), "failed to call webhook: %w", err)
	}
	return data, nil
}

func (c *call) unreachable(u *url.URL, err error) error {
	var already *url.Error
	if !errors.As(err, &already) {
		err = &url.Error{Op: "Post", URL: u.String(), Err: err}
	}
	return c.failed(http.StatusServiceUnavailable, "failed to call webhook: %w", err)
}

// roundUp makes whole seconds, as webhooks expect the time that they have.
func roundUp(d time.Duration) time.Duration {
	if t := d.Truncate(time.Second); t != d {
		return t + time.Second
	}
	return d
}

// answerText is as much of an error page as is worth showing.
func answerText(data []byte) string {
	const most = 1024
	return string(bytes.TrimSpace(data[:min(len(data), most)]))
}

// read checks the webhook's answer. Of v1beta1 neither the uid nor the kind was
// ever looked at, and its patches have no type.
func (c *call) read(data []byte, uid types.UID) (*admissionv1.AdmissionResponse, error) {
	var review struct {
		metav1.TypeMeta `json:",inline"`
		Response        *admissionv1.AdmissionResponse `json:"response"`
	}
	if err := json.Unmarshal(data, &review); err != nil {
		return nil, err
	}
	res := review.Response
	if res == nil {
		return nil, errors.New("webhook response was absent")
	}
	if c.version == "v1beta1" {
		if c.mutating && len(res.Patch) > 0 {
			jsonPatch := admissionv1.PatchTypeJSONPatch
			res.PatchType = &jsonPatch
		}
		return res, nil
	}
	want := admissionv1.SchemeGroupVersion.WithKind("AdmissionReview")
	switch got := review.GroupVersionKind(); {
	case res.UID != uid:
		return nil, fmt.Errorf("expected response.uid=%q, got %q", uid, res.UID)
	case got != want:
		return nil, fmt.Errorf("expected webhook response of %v, got %v", want.String(), got.String())
	}
	return res, checkPatch(res, c.mutating)
}

func checkPatch(res *admissionv1.AdmissionResponse, mutating bool) error {
	switch typed := res.PatchType != nil; {
	case !mutating && len(res.Patch) > 0:
		return errors.New("validating webhook may not return response.patch")
	case !mutating && typed:
		return errors.New("validating webhook may not return response.patchType")
	case len(res.Patch) > 0 && !typed:
		return errors.New("webhook returned response.patch but not response.patchType")
	case len(res.Patch) == 0 && typed:
		return errors.New("webhook returned response.patchType but not response.patch")
	case typed && *res.PatchType == "":
		return fmt.Errorf("webhook returned invalid response.patchType of %q", *res.PatchType)
	}
	return nil
}

// refusal is the Status that a client gets for a webhook's no.
func refusal(name string, result *metav1.Status) *apierrors.StatusError {
	s := metav1.Status{}
	if result != nil {
		s = *result
	}
	s.Code = max(s.Code, http.StatusBadRequest)
	if s.Status == "" || s.Status == metav1.StatusSuccess {
		s.Status = metav1.StatusFailure
	}
	by := fmt.Sprintf("admission webhook %q denied the request", name)
	switch {
	case s.Message != "":
		s.Message = by + ": " + s.Message
	case s.Reason != "":
		s.Message = by + ": " + string(s.Reason)
	default:
		s.Message = by + " without explanation"
	}
	return &apierrors.StatusError{ErrStatus: s}
}
