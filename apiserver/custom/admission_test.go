package custom_test

import (
	"encoding/json"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	admissionv1 "k8s.io/api/admission/v1"
	admissionregv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/utils/ptr"
)

func (h *harness) admissions() *kubernetes.Clientset {
	h.Helper()
	cs, err := kubernetes.NewForConfig(&rest.Config{Host: h.http.URL, QPS: -1, TLSClientConfig: rest.TLSClientConfig{Insecure: true}})
	must(h, err)
	return cs
}

// gate is an admission webhook at /mutate, which sets 7 replicas and a field
// that the schema does not know, and at /validate, which refuses blue.
type gate struct {
	*httptest.Server
	mu    sync.Mutex
	asked map[string][]*admissionv1.AdmissionRequest // by path
}

func newGate(t *testing.T) *gate {
	g := &gate{asked: map[string][]*admissionv1.AdmissionRequest{}}
	g.Server = httptest.NewTLSServer(http.HandlerFunc(g.serve))
	t.Cleanup(g.Close)
	return g
}

func (g *gate) serve(w http.ResponseWriter, r *http.Request) {
	var review admissionv1.AdmissionReview
	if err := json.NewDecoder(r.Body).Decode(&review); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	g.mu.Lock()
	g.asked[r.URL.Path] = append(g.asked[r.URL.Path], review.Request)
	g.mu.Unlock()
	review.Response = &admissionv1.AdmissionResponse{UID: review.Request.UID, Allowed: true}
	switch {
	case r.URL.Path == "/mutate":
		review.Response.PatchType = ptr.To(admissionv1.PatchTypeJSONPatch)
		review.Response.Patch = []byte(`[{"op":"add","path":"/spec/replicas","value":7},{"op":"add","path":"/spec/nobodyKnows","value":1}]`)
	case strings.Contains(string(review.Request.Object.Raw), `"colour":"blue"`):
		review.Response.Allowed, review.Response.Result = false, &metav1.Status{Message: "blue is taken", Code: 403}
	}
	review.Request = nil
	_ = json.NewEncoder(w).Encode(review) // the test sees what is missing
}

func (g *gate) requests(path string) []*admissionv1.AdmissionRequest {
	g.mu.Lock()
	defer g.mu.Unlock()
	return append([]*admissionv1.AdmissionRequest(nil), g.asked[path]...)
}

func (g *gate) at(path string) admissionregv1.WebhookClientConfig {
	return admissionregv1.WebhookClientConfig{
		URL: ptr.To(g.URL + path), CABundle: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: g.Certificate().Raw}),
	}
}

func rules(version, plural string, ops ...admissionregv1.OperationType) []admissionregv1.RuleWithOperations {
	return []admissionregv1.RuleWithOperations{{
		Operations: ops, Rule: admissionregv1.Rule{APIGroups: []string{"example.com"}, APIVersions: []string{version}, Resources: []string{plural}},
	}}
}

// TestWebhooks has webhooks look at custom resources: they see defaults, what
// they add is pruned, defaulted and validated, and they are asked about deletes.
func TestWebhooks(t *testing.T) {
	h := start(t)
	h.define(widgets)
	g, hooks := newGate(t), h.admissions().AdmissionregistrationV1()
	none := ptr.To(admissionregv1.SideEffectClassNone)
	_, err := hooks.MutatingWebhookConfigurations().Create(t.Context(), &admissionregv1.MutatingWebhookConfiguration{
		ObjectMeta: metav1.ObjectMeta{Name: "m"},
		Webhooks: []admissionregv1.MutatingWebhook{{Name: "m.example.com", ClientConfig: g.at("/mutate"), SideEffects: none,
			AdmissionReviewVersions: []string{"v1"}, Rules: rules("v1", "widgets", admissionregv1.Create)}},
	}, metav1.CreateOptions{})
	must(t, err)
	_, err = hooks.ValidatingWebhookConfigurations().Create(t.Context(), &admissionregv1.ValidatingWebhookConfiguration{
		ObjectMeta: metav1.ObjectMeta{Name: "v"},
		Webhooks: []admissionregv1.ValidatingWebhook{{Name: "v.example.com", ClientConfig: g.at("/validate"), SideEffects: none,
			AdmissionReviewVersions: []string{"v1"}, Rules: rules("v1", "widgets", admissionregv1.OperationAll)}},
	}, metav1.CreateOptions{})
	must(t, err)
	made := h.do("POST", widgetPath, string(jsonOf(t, redWidget)))
	spec, _ := made.object(t)["spec"].(map[string]any)
	if made.code != 201 || spec["replicas"] != 7.0 || spec["nobodyKnows"] != nil {
		t.Fatalf("created: %d %s", made.code, made.body)
	}
	first := g.requests("/mutate")[0]
	seen := map[string]any{}
	must(t, json.Unmarshal(first.Object.Raw, &seen))
	if spec := seen["spec"].(map[string]any); spec["replicas"] != 1.0 || spec["unknown"] != nil || first.Kind.Kind != "Widget" || first.Resource.Resource != "widgets" {
		t.Errorf("the webhook was shown %s", first.Object.Raw)
	}
	if a := h.do("PATCH", widgetPath+"/w", `{"spec":{"colour":"blue"}}`, "Content-Type", "application/merge-patch+json"); a.code != 403 ||
		!strings.Contains(string(a.body), `admission webhook \"v.example.com\" denied the request: blue is taken`) {
		t.Errorf("refused: %d %s", a.code, a.body)
	}
	if a := h.do("DELETE", widgetPath+"/w", ""); a.code != 200 {
		t.Errorf("deleted: %d %s", a.code, a.body)
	}
	asked := g.requests("/validate")
	last := asked[len(asked)-1]
	if last.Operation != admissionv1.Delete || !strings.Contains(string(last.OldObject.Raw), `"replicas":7`) || last.Object.Raw != nil {
		t.Errorf("asked about a delete: %+v", last)
	}
}

// TestWebhookInvalid has a webhook make an object that breaks its schema.
func TestWebhookInvalid(t *testing.T) {
	h := start(t)
	h.define(strings.Replace(widgets, "self.replicas <= 10", "self.replicas <= 5", 1))
	g := newGate(t)
	_, err := h.admissions().AdmissionregistrationV1().MutatingWebhookConfigurations().Create(t.Context(), &admissionregv1.MutatingWebhookConfiguration{
		ObjectMeta: metav1.ObjectMeta{Name: "m"},
		Webhooks: []admissionregv1.MutatingWebhook{{Name: "m.example.com", ClientConfig: g.at("/mutate"), SideEffects: ptr.To(admissionregv1.SideEffectClassNone),
			AdmissionReviewVersions: []string{"v1"}, Rules: rules("*", "*", admissionregv1.Create)}},
	}, metav1.CreateOptions{})
	must(t, err)
	if a := h.do("POST", widgetPath, string(jsonOf(t, redWidget))); a.code != 422 || !strings.Contains(string(a.body), "too many") {
		t.Errorf("what the webhook made is not valid: %d %s", a.code, a.body)
	}
}

// TestWebhookConverts has rules that name one version, and requests of another:
// the webhook is shown the version that it knows.
func TestWebhookConverts(t *testing.T) {
	h := start(t)
	s := newSplitter(t)
	crd := definition(t, hosts)
	s.use(crd)
	_, err := h.crds.ApiextensionsV1().CustomResourceDefinitions().Create(t.Context(), crd, metav1.CreateOptions{})
	must(t, err)
	h.established(crd.Name)
	g := newGate(t)
	_, err = h.admissions().AdmissionregistrationV1().ValidatingWebhookConfigurations().Create(t.Context(), &admissionregv1.ValidatingWebhookConfiguration{
		ObjectMeta: metav1.ObjectMeta{Name: "v"},
		Webhooks: []admissionregv1.ValidatingWebhook{{Name: "v.example.com", ClientConfig: g.at("/validate"), SideEffects: ptr.To(admissionregv1.SideEffectClassNone),
			AdmissionReviewVersions: []string{"v1"}, Rules: rules("v1beta1", "hosts", admissionregv1.Create)}},
	}, metav1.CreateOptions{})
	must(t, err)
	if a := h.do("POST", "/apis/example.com/v1/hosts", `{"apiVersion":"example.com/v1","kind":"Host","metadata":{"name":"x"},"host":"a","port":"1"}`); a.code != 201 {
		t.Fatalf("created: %d %s", a.code, a.body)
	}
	asked := g.requests("/validate")
	if len(asked) != 1 || asked[0].Kind.Version != "v1beta1" || asked[0].RequestKind.Version != "v1" || !strings.Contains(string(asked[0].Object.Raw), `"hostPort":"a:1"`) {
		t.Errorf("the webhook was asked %+v", asked)
	}
}

// TestPolicies has a policy on custom resources whose parameter is another: a
// change of that is obeyed at once, and without it the policy refuses.
func TestPolicies(t *testing.T) {
	h := start(t)
	h.define(widgets)
	h.define(limits)
	policies := h.admissions().AdmissionregistrationV1()
	params := h.dynamic.Resource(gvr("example.com", "v1", "limits"))
	limit, err := params.Create(t.Context(), object(t, "{apiVersion: example.com/v1, kind: Limit, metadata: {name: l}, most: 2}"), metav1.CreateOptions{})
	must(t, err)
	_, err = policies.ValidatingAdmissionPolicies().Create(t.Context(), &admissionregv1.ValidatingAdmissionPolicy{
		ObjectMeta: metav1.ObjectMeta{Name: "p"},
		Spec: admissionregv1.ValidatingAdmissionPolicySpec{
			ParamKind: &admissionregv1.ParamKind{APIVersion: "example.com/v1", Kind: "Limit"},
			MatchConstraints: &admissionregv1.MatchResources{ResourceRules: []admissionregv1.NamedRuleWithOperations{
				{RuleWithOperations: rules("v1", "widgets", admissionregv1.Create)[0]}}},
			Validations: []admissionregv1.Validation{{Expression: "object.spec.replicas <= params.most", MessageExpression: "'at most ' + string(params.most)"}},
		},
	}, metav1.CreateOptions{})
	must(t, err)
	_, err = policies.ValidatingAdmissionPolicyBindings().Create(t.Context(), &admissionregv1.ValidatingAdmissionPolicyBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "b"},
		Spec: admissionregv1.ValidatingAdmissionPolicyBindingSpec{
			PolicyName: "p", ValidationActions: []admissionregv1.ValidationAction{admissionregv1.Deny},
			ParamRef: &admissionregv1.ParamRef{Name: "l", ParameterNotFoundAction: ptr.To(admissionregv1.DenyAction)},
		},
	}, metav1.CreateOptions{})
	must(t, err)
	try := func(replicas string) answer {
		return h.do("POST", widgetPath+"?dryRun=All", `{"apiVersion":"example.com/v1","kind":"Widget","metadata":{"name":"w"},"spec":{"colour":"red","replicas":`+replicas+`}}`)
	}
	h.eventually("the policy is in force", func() bool { return try("3").code == 422 })
	if a := try("3"); !strings.Contains(string(a.body), `denied request: at most 2`) {
		t.Errorf("three: %s", a.body)
	}
	if a := try("2"); a.code != 201 {
		t.Errorf("two: %d %s", a.code, a.body)
	}
	must(t, unstructured.SetNestedField(limit.Object, int64(5), "most"))
	_, err = params.Update(t.Context(), limit, metav1.UpdateOptions{})
	must(t, err)
	if a := try("5"); a.code != 201 {
		t.Errorf("five, after the limit was raised: %d %s", a.code, a.body)
	}
	must(t, params.Delete(t.Context(), "l", metav1.DeleteOptions{}))
	if a := try("1"); a.code < 400 || !strings.Contains(string(a.body), "no params found for policy binding") {
		t.Errorf("without its parameter: %d %s", a.code, a.body)
	}
	must(t, h.crds.ApiextensionsV1().CustomResourceDefinitions().Delete(t.Context(), "limits.example.com", metav1.DeleteOptions{}))
	h.eventually("the kind of the parameter is gone", func() bool { return h.registry.ByKey("example.com/limits") == nil })
	if a := try("1"); a.code < 400 || !strings.Contains(string(a.body), "failed to configure binding: paramKind kind") || !strings.Contains(string(a.body), "not known") {
		t.Errorf("without the kind of its parameter: %d %s", a.code, a.body)
	}
}

const limits = `
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: limits.example.com}
spec:
  group: example.com
  scope: Cluster
  names: {plural: limits, kind: Limit}
  versions:
  - name: v1
    served: true
    storage: true
    schema: {openAPIV3Schema: {type: object, properties: {most: {type: integer}}}}
`

// jsonOf is a manifest as JSON.
func jsonOf(t testing.TB, text string) []byte {
	t.Helper()
	data, err := object(t, text).MarshalJSON()
	must(t, err)
	return data
}
