package custom_test

import (
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/utils/ptr"
)

const hosts = `
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: hosts.example.com}
spec:
  group: example.com
  scope: Cluster
  names: {plural: hosts, kind: Host}
  conversion: {strategy: None}
  versions:
  - name: v1beta1
    served: true
    storage: true
    deprecated: true
    schema:
      openAPIV3Schema:
        type: object
        properties:
          hostPort: {type: string}
          old: {type: string, default: "yes"}
  - name: v1
    served: true
    storage: false
    schema:
      openAPIV3Schema:
        type: object
        properties:
          host: {type: string}
          port: {type: string}
          fresh: {type: string, default: "also"}
    selectableFields: [{jsonPath: .host}]
`

// splitter converts hostPort into host and port, and back.
type splitter struct {
	*httptest.Server
	calls, objects atomic.Int32
	// spoil changes a finished answer.
	spoil atomic.Pointer[func(*apiextensionsv1.ConversionResponse)]
	hang  atomic.Bool
}

func newSplitter(t *testing.T) *splitter {
	s := &splitter{}
	s.Server = httptest.NewTLSServer(http.HandlerFunc(s.serve))
	t.Cleanup(s.Close)
	return s
}

func (s *splitter) serve(w http.ResponseWriter, r *http.Request) {
	var review apiextensionsv1.ConversionReview
	if err := json.NewDecoder(r.Body).Decode(&review); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	if s.hang.Load() {
		<-r.Context().Done()
		return
	}
	s.calls.Add(1)
	s.objects.Add(int32(len(review.Request.Objects)))
	answer := &apiextensionsv1.ConversionResponse{UID: review.Request.UID, Result: metav1.Status{Status: metav1.StatusSuccess}}
	for _, raw := range review.Request.Objects {
		u := &unstructured.Unstructured{}
		if err := u.UnmarshalJSON(raw.Raw); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		answer.ConvertedObjects = append(answer.ConvertedObjects, runtime.RawExtension{Object: split(u, review.Request.DesiredAPIVersion)})
	}
	if f := s.spoil.Load(); f != nil {
		(*f)(answer)
	}
	review.Request, review.Response = nil, answer
	_ = json.NewEncoder(w).Encode(review) // the test sees what is missing
}

func split(u *unstructured.Unstructured, to string) *unstructured.Unstructured {
	u.SetAPIVersion(to)
	labels := map[string]string{"as": strings.TrimPrefix(to, "example.com/")}
	u.SetLabels(labels)
	if strings.HasSuffix(to, "/v1") {
		hostPort, _, _ := unstructured.NestedString(u.Object, "hostPort")
		u.Object["host"], u.Object["port"], _ = strings.Cut(hostPort, ":")
		delete(u.Object, "hostPort")
		return u
	}
	host, _, _ := unstructured.NestedString(u.Object, "host")
	port, _, _ := unstructured.NestedString(u.Object, "port")
	u.Object["hostPort"] = host + ":" + port
	delete(u.Object, "host")
	delete(u.Object, "port")
	return u
}

// use makes the definition convert by the webhook.
func (s *splitter) use(crd *apiextensionsv1.CustomResourceDefinition) {
	crd.Spec.Conversion = &apiextensionsv1.CustomResourceConversion{
		Strategy: apiextensionsv1.WebhookConverter,
		Webhook: &apiextensionsv1.WebhookConversion{
			ConversionReviewVersions: []string{"v1", "v1beta1"},
			ClientConfig: &apiextensionsv1.WebhookClientConfig{
				URL:      ptr.To(s.URL + "/convert"),
				CABundle: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}),
			},
		},
	}
}

func host(t testing.TB, name, hostPort string) *unstructured.Unstructured {
	return object(t, fmt.Sprintf("{apiVersion: example.com/v1beta1, kind: Host, metadata: {name: %s}, hostPort: '%s'}", name, hostPort))
}

// TestRenaming has two versions that differ in their schemas, and conversion
// that only renames.
func TestRenaming(t *testing.T) {
	h := start(t)
	h.define(hosts)
	old, fresh := h.dynamic.Resource(gvr("example.com", "v1beta1", "hosts")), h.dynamic.Resource(gvr("example.com", "v1", "hosts"))
	_, err := old.Create(t.Context(), host(t, "a", "h:1"), metav1.CreateOptions{})
	must(t, err)
	got, err := fresh.Get(t.Context(), "a", metav1.GetOptions{})
	must(t, err)
	if got.GetAPIVersion() != "example.com/v1" || got.Object["hostPort"] != nil || got.Object["old"] != nil {
		t.Errorf("shown in the other version: %v", got.Object)
	}
	a := h.get("/apis/example.com/v1beta1/hosts")
	if want := `299 - "example.com/v1beta1 Host is deprecated; use example.com/v1 Host"`; len(a.warnings) != 1 || a.warnings[0] != want {
		t.Errorf("warnings %q", a.warnings)
	}
	h.redefine("hosts.example.com", func(crd *apiextensionsv1.CustomResourceDefinition) {
		crd.Spec.Versions[0].Storage, crd.Spec.Versions[0].Served, crd.Spec.Versions[1].Storage = false, false, true
	})
	crd, err := h.crds.ApiextensionsV1().CustomResourceDefinitions().Get(t.Context(), "hosts.example.com", metav1.GetOptions{})
	must(t, err)
	if fmt.Sprint(crd.Status.StoredVersions) != "[v1beta1 v1]" {
		t.Errorf("stored versions %v", crd.Status.StoredVersions)
	}
	if code := h.get("/apis/example.com/v1beta1/hosts").code; code != 404 {
		t.Errorf("an unserved version answers %d", code)
	}
	got, err = fresh.Get(t.Context(), "a", metav1.GetOptions{})
	must(t, err)
	updated, err := fresh.Update(t.Context(), got, metav1.UpdateOptions{})
	must(t, err)
	if updated.GetResourceVersion() == got.GetResourceVersion() {
		t.Error("an empty update did not store the object in the new version")
	}
	again, err := fresh.Update(t.Context(), updated, metav1.UpdateOptions{})
	must(t, err)
	if updated.GetResourceVersion() != again.GetResourceVersion() {
		t.Error("a second empty update was written")
	}
}

// TestConversionWebhook reads and writes through a webhook in both directions.
func TestConversionWebhook(t *testing.T) {
	h, s := start(t), newSplitter(t)
	crd := definition(t, hosts)
	s.use(crd)
	_, err := h.crds.ApiextensionsV1().CustomResourceDefinitions().Create(t.Context(), crd, metav1.CreateOptions{})
	must(t, err)
	h.established(crd.Name)
	old, fresh := h.dynamic.Resource(gvr("example.com", "v1beta1", "hosts")), h.dynamic.Resource(gvr("example.com", "v1", "hosts"))
	for i := range 20 {
		_, err := old.Create(t.Context(), host(t, fmt.Sprintf("h%02d", i), fmt.Sprintf("n%d:80", i)), metav1.CreateOptions{})
		must(t, err)
	}
	if s.calls.Load() != 0 {
		t.Errorf("%d calls for objects of the storage version", s.calls.Load())
	}
	list, err := fresh.List(t.Context(), metav1.ListOptions{})
	must(t, err)
	if n := len(list.Items); n != 20 || list.Items[3].Object["host"] != "n3" || list.Items[3].GetLabels()["as"] != "v1" {
		t.Errorf("listed %d: %v", n, list.Items[3].Object)
	}
	if s.calls.Load() != 1 {
		t.Errorf("%d calls for one list", s.calls.Load())
	}
	list, err = fresh.List(t.Context(), metav1.ListOptions{FieldSelector: "host=n7", LabelSelector: "as=v1"})
	must(t, err)
	if len(list.Items) != 1 || s.calls.Load() != 1 {
		t.Errorf("selected %d, %d calls", len(list.Items), s.calls.Load())
	}

	w, err := fresh.Watch(t.Context(), metav1.ListOptions{ResourceVersion: list.GetResourceVersion()})
	must(t, err)
	defer w.Stop()
	got, err := fresh.Patch(t.Context(), "h07", types.MergePatchType, []byte(`{"port":"443"}`), metav1.PatchOptions{})
	must(t, err)
	if got.GetAPIVersion() != "example.com/v1" || got.Object["port"] != "443" {
		t.Errorf("patched: %v", got.Object)
	}
	stored, err := old.Get(t.Context(), "h07", metav1.GetOptions{})
	must(t, err)
	if stored.Object["hostPort"] != "n7:443" || stored.GetLabels()["as"] != "v1beta1" {
		t.Errorf("stored: %v", stored.Object)
	}
	select {
	case ev := <-w.ResultChan():
		u, _ := ev.Object.(*unstructured.Unstructured)
		if ev.Type != watch.Modified || u.GetAPIVersion() != "example.com/v1" || u.Object["port"] != "443" {
			t.Errorf("watched: %v", ev)
		}
	case <-time.After(10 * time.Second):
		t.Error("no event")
	}
}

// TestBadWebhook answers what a webhook must not.
func TestBadWebhook(t *testing.T) {
	h, s := start(t), newSplitter(t)
	crd := definition(t, hosts)
	s.use(crd)
	_, err := h.crds.ApiextensionsV1().CustomResourceDefinitions().Create(t.Context(), crd, metav1.CreateOptions{})
	must(t, err)
	h.established(crd.Name)
	_, err = h.dynamic.Resource(gvr("example.com", "v1beta1", "hosts")).Create(t.Context(), host(t, "a", "n:80"), metav1.CreateOptions{})
	must(t, err)
	fresh := h.dynamic.Resource(gvr("example.com", "v1", "hosts"))
	object := func(r *apiextensionsv1.ConversionResponse) *unstructured.Unstructured {
		return r.ConvertedObjects[0].Object.(*unstructured.Unstructured)
	}
	const kind = "conversion webhook for example.com/v1beta1, Kind=Host "
	for name, c := range map[string]struct {
		spoil func(*apiextensionsv1.ConversionResponse)
		want  string
	}{
		"name":    {func(r *apiextensionsv1.ConversionResponse) { object(r).SetName("b") }, kind + "returned invalid object at index 0: must have the same name: a != b"},
		"uid":     {func(r *apiextensionsv1.ConversionResponse) { object(r).SetUID("x") }, "must have the same UID"},
		"version": {func(r *apiextensionsv1.ConversionResponse) { object(r).SetAPIVersion("example.com/v2") }, "invalid groupVersion (expected example.com/v1, received example.com/v2)"},
		"kind":    {func(r *apiextensionsv1.ConversionResponse) { object(r).SetKind("Guest") }, "invalid kind (expected Host, received Guest)"},
		"labels":  {func(r *apiextensionsv1.ConversionResponse) { object(r).SetLabels(map[string]string{"-": "b"}) }, "metadata.labels: Invalid value"},
		"none":    {func(r *apiextensionsv1.ConversionResponse) { r.ConvertedObjects = nil }, kind + "returned 0 objects, expected 1"},
		"failure": {func(r *apiextensionsv1.ConversionResponse) {
			r.Result = metav1.Status{Status: "Failure", Message: "no luck"}
		}, kind + "failed: no luck"},
		"other": {func(r *apiextensionsv1.ConversionResponse) { r.UID = "other" }, "expected response.uid="},
	} {
		t.Run(name, func(t *testing.T) {
			s.spoil.Store(&c.spoil)
			defer s.spoil.Store(nil)
			_, err := fresh.Get(t.Context(), "a", metav1.GetOptions{})
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
			if a := h.get("/apis/example.com/v1/hosts/a"); a.code != 500 || a.status(t).Reason != "" {
				t.Errorf("%d %s", a.code, a.body)
			}
			if a := h.get("/apis/example.com/v1/hosts"); a.code != 500 {
				t.Errorf("list: %d", a.code)
			}
		})
	}
	_, err = fresh.Get(t.Context(), "a", metav1.GetOptions{})
	must(t, err) // an error is not kept, and what was converted is
	_, err = h.dynamic.Resource(gvr("example.com", "v1beta1", "hosts")).Patch(t.Context(), "a", types.MergePatchType, []byte(`{"hostPort":"m:1"}`), metav1.PatchOptions{})
	must(t, err)

	hang(h, s, crd.Name)
}

// hang lets the webhook answer nothing more: who needs it waits for as long as
// the request may last, and everybody else is served.
func hang(h *harness, s *splitter, name string) {
	t := h.T
	s.hang.Store(true)
	start := time.Now()
	hung := make(chan answer, 8)
	for range cap(hung) {
		go func() { hung <- h.get("/apis/example.com/v1/hosts/a?timeout=2s") }()
	}
	for range cap(hung) {
		if a := <-hung; a.code != 504 || a.status(t).Reason != metav1.StatusReasonTimeout {
			t.Errorf("a webhook that hangs: %d %s", a.code, a.body)
		}
	}
	if d := time.Since(start); d > 20*time.Second {
		t.Errorf("they waited for each other: %v", d)
	}
	if a := h.get("/apis/example.com/v1beta1/hosts/a"); a.code != 200 {
		t.Errorf("the stored version waits for the webhook: %d", a.code)
	}
	h.redefine(name, func(crd *apiextensionsv1.CustomResourceDefinition) {
		crd.Spec.Conversion = &apiextensionsv1.CustomResourceConversion{Strategy: apiextensionsv1.NoneConverter}
	})
	if a := h.get("/apis/example.com/v1/hosts/a"); a.code != 200 {
		t.Errorf("without the webhook: %d %s", a.code, a.body)
	}
}
