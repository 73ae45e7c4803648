package custom

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"time"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/uuid"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"proa/apiserver/callout"
)

const (
	// webhookTimeout is what a conversion may take, as upstream's clients wait.
	webhookTimeout = 30 * time.Second
	// answerLimit bounds a webhook's answer, in bytes; a request is bounded by
	// what is stored.
	answerLimit = 64 << 20
)

// errOutOfTime says that the request's own time ended before the webhook
// answered.
var errOutOfTime = errors.New("the conversion took too long")

// webhook is the conversion that a definition's webhook does.
type webhook struct {
	pool   *callout.Pool
	life   context.Context
	target callout.Target
	review string // apiVersion of the reviews that it understands
}

func newWebhook(pool *callout.Pool, life context.Context, c *apiextensionsv1.WebhookConversion) (*webhook, error) {
	w := &webhook{pool: pool, life: life}
	for _, v := range c.ConversionReviewVersions {
		if v == "v1" || v == "v1beta1" {
			w.review = apiextensionsv1.GroupName + "/" + v
			break
		}
	}
	if w.review == "" {
		return nil, errors.New("no supported conversion review versions")
	}
	if c.ClientConfig == nil {
		return nil, errors.New("the conversion webhook has no client configuration")
	}
	w.target.CABundle = bytes.TrimSpace(c.ClientConfig.CABundle)
	if u := c.ClientConfig.URL; u != nil {
		w.target.URL = *u
	}
	if s := c.ClientConfig.Service; s != nil {
		w.target.Service = &callout.Service{Namespace: s.Namespace, Name: s.Name, Port: 443}
		if s.Port != nil {
			w.target.Service.Port = *s.Port
		}
		if s.Path != nil {
			w.target.Service.Path = *s.Path
		}
	}
	return w, nil
}

// convert sends what is not of the version yet in one review.
func (w *webhook) convert(ctx context.Context, objs []*unstructured.Unstructured, to schema.GroupVersion) ([]*unstructured.Unstructured, error) {
	kind := objs[0].GroupVersionKind()
	uid := uuid.NewUUID()
	request := &apiextensionsv1.ConversionRequest{UID: uid, DesiredAPIVersion: to.String()}
	for _, u := range objs {
		request.Objects = append(request.Objects, runtime.RawExtension{Object: u})
	}
	answer, err := w.ask(ctx, request)
	var raw []runtime.RawExtension
	if err == nil {
		raw, err = w.judge(answer, uid)
	}
	if err != nil {
		return nil, fmt.Errorf("conversion webhook for %v failed: %w", kind, err)
	}
	if len(raw) != len(objs) {
		return nil, fmt.Errorf("conversion webhook for %v returned %d objects, expected %d", kind, len(raw), len(objs))
	}
	out := make([]*unstructured.Unstructured, len(objs))
	for i, u := range objs {
		if out[i], err = accept(u, raw[i].Raw, to); err != nil {
			return nil, fmt.Errorf("conversion webhook for %v returned invalid object at index %d: %w", kind, i, err)
		}
	}
	return out, nil
}

// ask posts a review and reads the answer.
func (w *webhook) ask(ctx context.Context, request *apiextensionsv1.ConversionRequest) (*apiextensionsv1.ConversionReview, error) {
	gv, err := schema.ParseGroupVersion(w.review)
	if err != nil {
		return nil, err
	}
	review := &apiextensionsv1.ConversionReview{Request: request}
	review.SetGroupVersionKind(gv.WithKind("ConversionReview"))
	body, err := json.Marshal(review)
	if err != nil {
		return nil, err
	}
	client, url, err := w.pool.Client(w.target)
	if err != nil {
		return nil, err
	}
	at := *url
	query := at.Query()
	query.Set("timeout", webhookTimeout.String())
	at.RawQuery = query.Encode()
	limited, cancel := context.WithTimeout(ctx, webhookTimeout)
	defer cancel()
	defer context.AfterFunc(w.life, cancel)()
	r, err := http.NewRequestWithContext(limited, http.MethodPost, at.String(), bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Accept", "application/json")
	res, err := client.Do(r)
	if err != nil && errors.Is(ctx.Err(), context.DeadlineExceeded) {
		err = fmt.Errorf("%w: %w", errOutOfTime, err)
	}
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	return readAnswer(res)
}

func readAnswer(res *http.Response) (*apiextensionsv1.ConversionReview, error) {
	data, err := io.ReadAll(io.LimitReader(res.Body, answerLimit+1))
	if err != nil {
		return nil, err
	}
	if len(data) > answerLimit {
		return nil, fmt.Errorf("the answer has more than %d bytes", answerLimit)
	}
	if res.StatusCode < 200 || res.StatusCode > 299 {
		return nil, apierrors.NewGenericServerResponse(res.StatusCode, "post", schema.GroupResource{}, "", string(data[:min(len(data), 2048)]), 0, true)
	}
	out := &apiextensionsv1.ConversionReview{}
	if err := json.Unmarshal(data, out); err != nil {
		return nil, err
	}
	return out, nil
}

// judge reads an answer's verdict. Reviews of v1beta1 were never checked for
// kind and UID, so old webhooks need not set them.
func (w *webhook) judge(answer *apiextensionsv1.ConversionReview, uid types.UID) ([]runtime.RawExtension, error) {
	want := apiextensionsv1.SchemeGroupVersion.WithKind("ConversionReview")
	strict := w.review == apiextensionsv1.SchemeGroupVersion.String()
	if got := answer.GroupVersionKind(); strict && got != want {
		return nil, fmt.Errorf("expected webhook response of %v, got %v", want, got)
	}
	r := answer.Response
	switch {
	case r == nil:
		return nil, errors.New("no response provided")
	case strict && r.UID != uid:
		return nil, fmt.Errorf("expected response.uid=%q, got %q", uid, r.UID)
	case r.Result.Status == metav1.StatusSuccess:
		return r.ConvertedObjects, nil
	case r.Result.Message != "":
		return nil, errors.New(r.Result.Message)
	}
	return nil, fmt.Errorf("response.result.status was '%s', not 'Success'", r.Result.Status)
}

// accept checks a converted object against the one that was sent: a webhook
// decides over everything but the metadata, of which it may change labels and
// annotations only.
func accept(sent *unstructured.Unstructured, raw []byte, to schema.GroupVersion) (*unstructured.Unstructured, error) {
	got := &unstructured.Unstructured{}
	if err := got.UnmarshalJSON(raw); err != nil {
		return nil, err
	}
	if gv := got.GroupVersionKind().GroupVersion(); gv != to {
		return nil, fmt.Errorf("invalid groupVersion (expected %v, received %v)", to, gv)
	}
	if got.GetKind() != sent.GetKind() {
		return nil, fmt.Errorf("invalid kind (expected %v, received %v)", sent.GetKind(), got.GetKind())
	}
	for _, same := range []struct{ what, want, got string }{
		{"name", sent.GetName(), got.GetName()},
		{"namespace", sent.GetNamespace(), got.GetNamespace()},
		{"UID", string(sent.GetUID()), string(got.GetUID())},
	} {
		if same.want != same.got {
			return nil, fmt.Errorf("must have the same %s: %v != %v", same.what, same.want, same.got)
		}
	}
	return got, keepMetadata(sent, got)
}

// keepMetadata puts the metadata that was sent into the answer, with the
// answer's labels and annotations.
func keepMetadata(sent, got *unstructured.Unstructured) error {
	raw, found := got.Object["metadata"]
	if !found {
		return errors.New("missing metadata in converted object")
	}
	answered, ok := raw.(map[string]any)
	if !ok {
		return fmt.Errorf("invalid metadata of type %T in converted object", raw)
	}
	meta := map[string]any{}
	if was, ok := sent.Object["metadata"].(map[string]any); ok {
		meta = runtime.DeepCopyJSON(was)
	}
	for _, name := range []string{"labels", "annotations"} {
		delete(meta, name)
		value := answered[name]
		if value == nil {
			continue
		}
		was, _, _ := unstructured.NestedMap(sent.Object, "metadata", name)
		if err := checkStrings(name, value); err != nil && !reflect.DeepEqual(any(was), value) {
			return err
		}
		meta[name] = value
	}
	got.Object["metadata"] = meta
	return nil
}

func checkStrings(name string, value any) error {
	content, ok := value.(map[string]any)
	if !ok {
		return fmt.Errorf("invalid metadata.%s of type %T in converted object", name, value)
	}
	texts := make(map[string]string, len(content))
	for k, v := range content {
		text, ok := v.(string)
		if !ok {
			return fmt.Errorf("metadata.%s[%s] must be a string, but is %T in converted object", name, k, v)
		}
		texts[k] = text
	}
	at := field.NewPath("metadata", name)
	if name == "labels" {
		return aggregate(metavalidation.ValidateLabels(texts, at))
	}
	return aggregate(apivalidation.ValidateAnnotations(texts, at))
}

func aggregate(errs field.ErrorList) error {
	if len(errs) == 0 {
		return nil
	}
	return errs.ToAggregate()
}
