package apiserver_test

import (
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	admissionv1 "k8s.io/api/admission/v1"
	admissionregv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/utils/ptr"
)

// hooks is a webhook server: what it is asked it keeps by path, what it answers
// the handler of the path decides.
type hooks struct {
	srv *httptest.Server
	mu  sync.Mutex
	got map[string][]*admissionv1.AdmissionReview
	raw map[string]http.HandlerFunc
	say map[string]func(*admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse
}

func serveHooks(t *testing.T) *hooks {
	t.Helper()
	h := &hooks{got: map[string][]*admissionv1.AdmissionReview{}, raw: map[string]http.HandlerFunc{},
		say: map[string]func(*admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse{}}
	h.srv = httptest.NewUnstartedServer(h)
	h.srv.EnableHTTP2 = true
	h.srv.StartTLS()
	t.Cleanup(func() {
		h.srv.CloseClientConnections()
		h.srv.Close()
	})
	return h
}

func (h *hooks) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var review admissionv1.AdmissionReview
	if err := json.NewDecoder(r.Body).Decode(&review); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	h.mu.Lock()
	h.got[r.URL.Path] = append(h.got[r.URL.Path], review.DeepCopy())
	raw, say := h.raw[r.URL.Path], h.say[r.URL.Path]
	h.mu.Unlock()
	if raw != nil {
		raw(w, r)
		return
	}
	res := say(review.Request)
	res.UID = review.Request.UID
	_ = json.NewEncoder(w).Encode(&admissionv1.AdmissionReview{TypeMeta: review.TypeMeta, Response: res})
}

// on has a path answer, and returns the webhook's client configuration.
func (h *hooks) on(path string, say func(*admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse) admissionregv1.WebhookClientConfig {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.say[path] = say
	return h.at(path)
}

func (h *hooks) at(path string) admissionregv1.WebhookClientConfig {
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: h.srv.Certificate().Raw})
	return admissionregv1.WebhookClientConfig{URL: ptr.To(h.srv.URL + path), CABundle: ca}
}

// asked are the requests that came to a path.
func (h *hooks) asked(path string) (out []*admissionv1.AdmissionRequest) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, r := range h.got[path] {
		out = append(out, r.Request)
	}
	return out
}

func allow(*admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse {
	return &admissionv1.AdmissionResponse{Allowed: true}
}

func patch(text string) func(*admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse {
	return func(*admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse {
		return &admissionv1.AdmissionResponse{Allowed: true, Patch: []byte(text), PatchType: ptr.To(admissionv1.PatchTypeJSONPatch)}
	}
}

func rule(ops, groups, versions, resources string) []admissionregv1.RuleWithOperations {
	r := admissionregv1.RuleWithOperations{Rule: admissionregv1.Rule{
		APIGroups: strings.Split(groups, ","), APIVersions: strings.Split(versions, ","), Resources: strings.Split(resources, ","),
	}}
	for _, op := range strings.Split(ops, ",") {
		r.Operations = append(r.Operations, admissionregv1.OperationType(op))
	}
	return []admissionregv1.RuleWithOperations{r}
}

var configMaps = rule("*", "", "v1", "configmaps")

func validating(name string, c admissionregv1.WebhookClientConfig, rules []admissionregv1.RuleWithOperations) admissionregv1.ValidatingWebhook {
	return admissionregv1.ValidatingWebhook{
		Name: name + ".example.com", ClientConfig: c, Rules: rules, SideEffects: ptr.To(admissionregv1.SideEffectClassNone),
		AdmissionReviewVersions: []string{"v1", "v1beta1"}, TimeoutSeconds: ptr.To[int32](5),
	}
}

func mutating(name string, c admissionregv1.WebhookClientConfig, rules []admissionregv1.RuleWithOperations) admissionregv1.MutatingWebhook {
	return admissionregv1.MutatingWebhook{
		Name: name + ".example.com", ClientConfig: c, Rules: rules, SideEffects: ptr.To(admissionregv1.SideEffectClassNone),
		AdmissionReviewVersions: []string{"v1"}, TimeoutSeconds: ptr.To[int32](5),
	}
}

func addMutating(t *testing.T, cs *kubernetes.Clientset, name string, list ...admissionregv1.MutatingWebhook) {
	t.Helper()
	_, err := cs.AdmissionregistrationV1().MutatingWebhookConfigurations().Create(t.Context(),
		&admissionregv1.MutatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: name}, Webhooks: list}, metav1.CreateOptions{})
	must(t, err)
}

func addValidating(t *testing.T, cs *kubernetes.Clientset, name string, list ...admissionregv1.ValidatingWebhook) {
	t.Helper()
	_, err := cs.AdmissionregistrationV1().ValidatingWebhookConfigurations().Create(t.Context(),
		&admissionregv1.ValidatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: name}, Webhooks: list}, metav1.CreateOptions{})
	must(t, err)
}

func configMap(name string, data map[string]string) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"app": "x"}}, Data: data}
}

func objectOf[T any](t *testing.T, raw runtime.RawExtension) (out T) {
	t.Helper()
	if err := json.Unmarshal(raw.Raw, &out); err != nil {
		t.Fatalf("%v: %s", err, raw.Raw)
	}
	return out
}

// TestMutatingWebhooks: patches apply in the order of names, and what they leave
// is filled in and validated as anything else.
func TestMutatingWebhooks(t *testing.T) {
	h, hook := start(t), serveHooks(t)
	ctx, cs := t.Context(), h.clients(t, runtime.ContentTypeProtobuf)
	addMutating(t, cs, "b", mutating("two", hook.on("/two", patch(`[{"op":"add","path":"/data/order","value":"second"},{"op":"test","path":"/data/first","value":"yes"}]`)), configMaps))
	addMutating(t, cs, "a", mutating("one", hook.on("/one", patch(`[{"op":"add","path":"/data","value":{"first":"yes","order":"first"}}]`)), configMaps))
	made, err := cs.CoreV1().ConfigMaps("default").Create(ctx, configMap("m", nil), metav1.CreateOptions{FieldManager: "me"})
	must(t, err)
	if made.Data["order"] != "second" || made.Data["first"] != "yes" {
		t.Errorf("data: %v", made.Data)
	}
	req := hook.asked("/one")[0]
	want := metav1.GroupVersionKind{Version: "v1", Kind: "ConfigMap"}
	if req.Kind != want || *req.RequestKind != want || req.Operation != "CREATE" || req.Name != "m" || req.Namespace != "default" ||
		req.UserInfo.Username != "root" || !slices.Contains(req.UserInfo.Groups, "system:masters") || *req.DryRun || req.OldObject.Raw != nil {
		t.Errorf("the request: %+v", req)
	}
	if o := objectOf[metav1.CreateOptions](t, req.Options); o.Kind != "CreateOptions" || o.APIVersion != "meta.k8s.io/v1" || o.FieldManager != "me" {
		t.Errorf("its options: %+v", o)
	}
	if o := objectOf[corev1.ConfigMap](t, req.Object); o.Kind != "ConfigMap" || o.APIVersion != "v1" || o.Name != "m" {
		t.Errorf("its object: %+v", o)
	}
	made.Data = map[string]string{"first": "yes"}
	made, err = cs.CoreV1().ConfigMaps("default").Update(ctx, made, metav1.UpdateOptions{})
	must(t, err)
	if reqs := hook.asked("/two"); len(reqs) != 2 || reqs[1].Operation != "UPDATE" || objectOf[corev1.ConfigMap](t, reqs[1].OldObject).Data["order"] != "second" {
		t.Errorf("updating: %+v", reqs)
	}
	if made.Data["order"] != "second" {
		t.Errorf("after the update: %v", made.Data)
	}
	addMutating(t, cs, "c", mutating("bad", hook.on("/bad", patch(`[{"op":"add","path":"/metadata/labels/bad","value":"not a label!"}]`)), configMaps))
	if _, err = cs.CoreV1().ConfigMaps("default").Create(ctx, configMap("n", nil), metav1.CreateOptions{}); !apierrors.IsInvalid(err) {
		t.Errorf("an invalid patch result: %v", err)
	}
}

// TestMutatedWorkload: defaults of the kind and built-in plugins have another look
// at what a webhook made, and what the system writes stays the system's.
func TestMutatedWorkload(t *testing.T) {
	h, hook := start(t), serveHooks(t)
	ctx, cs := t.Context(), h.clients(t, runtime.ContentTypeProtobuf)
	account(t, cs, "default")
	addMutating(t, cs, "sidecar", mutating("sidecar", hook.on("/s", patch(`[
		{"op":"add","path":"/spec/containers/-","value":{"name":"sidecar","image":"s"}},
		{"op":"add","path":"/status/phase","value":"Running"},
		{"op":"add","path":"/metadata/uid","value":"mine"}]`)), rule("CREATE", "", "v1", "pods")))
	p, err := cs.CoreV1().Pods("default").Create(ctx, podNamed("p"), metav1.CreateOptions{})
	must(t, err)
	if len(p.Spec.Containers) != 2 || p.Spec.Containers[1].TerminationMessagePath == "" || len(p.Spec.Containers[1].VolumeMounts) != 1 {
		t.Errorf("the container was not filled in: %+v", p.Spec.Containers)
	}
	if p.Status.Phase != corev1.PodPending || p.UID == "mine" || p.Status.QOSClass != corev1.PodQOSBestEffort {
		t.Errorf("the webhook wrote what is the system's: %s %s", p.Status.Phase, p.UID)
	}
	for _, own := range p.ManagedFields {
		if strings.Contains(string(own.FieldsV1.Raw), "sidecar") {
			t.Error("the client owns what the webhook wrote")
		}
	}
}

// TestReinvocation: a webhook that wants it is asked again after another changed
// the object, once.
func TestReinvocation(t *testing.T) {
	h, hook := start(t), serveHooks(t)
	ctx, cs := t.Context(), h.clients(t, runtime.ContentTypeJSON)
	count := func(key string) func(*admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse {
		return func(r *admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse {
			cm := objectOf[corev1.ConfigMap](t, r.Object)
			return patch(fmt.Sprintf(`[{"op":"add","path":"/data/%s","value":"%s+"}]`, key, cm.Data[key]))(r)
		}
	}
	again := mutating("a", hook.on("/a", count("a")), configMaps)
	again.ReinvocationPolicy = ptr.To(admissionregv1.IfNeededReinvocationPolicy)
	addMutating(t, cs, "c", again, mutating("b", hook.on("/b", count("b")), configMaps))
	made, err := cs.CoreV1().ConfigMaps("default").Create(ctx, configMap("m", map[string]string{"x": "y"}), metav1.CreateOptions{})
	must(t, err)
	if made.Data["a"] != "++" || made.Data["b"] != "+" {
		t.Errorf("%v, want a twice and b once", made.Data)
	}
}

// TestValidatingWebhooks: refusals in upstream's words, warnings, all at once.
func TestValidatingWebhooks(t *testing.T) {
	h, hook := start(t), serveHooks(t)
	ctx, cs := t.Context(), h.clients(t, runtime.ContentTypeJSON)
	no := func(status *metav1.Status) func(*admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse {
		return func(r *admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse {
			if r.Operation == "CREATE" && r.Name != "refused" {
				return allow(r)
			}
			return &admissionv1.AdmissionResponse{Result: status, Warnings: []string{"careful"}}
		}
	}
	addValidating(t, cs, "v",
		validating("yes", hook.on("/yes", allow), configMaps),
		validating("no", hook.on("/no", no(&metav1.Status{Message: "I do not like it", Code: 422, Reason: "Custom"})), configMaps),
		validating("mute", hook.on("/mute", no(nil)), configMaps))
	made, err := cs.CoreV1().ConfigMaps("default").Create(ctx, configMap("m", nil), metav1.CreateOptions{})
	must(t, err)
	seen := &warnings{}
	cfg := h.config("root")
	cfg.WarningHandler = seen
	warned, err := kubernetes.NewForConfig(cfg)
	must(t, err)
	_, err = warned.CoreV1().ConfigMaps("default").Create(ctx, configMap("refused", nil), metav1.CreateOptions{})
	if status := apierrors.APIStatus(nil); !asStatus(err, &status) || status.Status().Code != 422 || status.Status().Reason != "Custom" ||
		err.Error() != `admission webhook "no.example.com" denied the request: I do not like it` {
		t.Errorf("refused: %v", err)
	}
	if len(seen.texts) != 2 || seen.texts[0] != "careful" {
		t.Errorf("warnings: %v", seen.texts)
	}
	err = cs.CoreV1().ConfigMaps("default").Delete(ctx, made.Name, metav1.DeleteOptions{PropagationPolicy: ptr.To(metav1.DeletePropagationOrphan)})
	if err == nil || !strings.Contains(err.Error(), "denied the request") {
		t.Errorf("a refused delete: %v", err)
	}
	del := hook.asked("/yes")[len(hook.asked("/yes"))-1]
	if o := objectOf[metav1.DeleteOptions](t, del.Options); o.Kind != "DeleteOptions" || *o.PropagationPolicy != metav1.DeletePropagationOrphan {
		t.Errorf("delete options: %s", del.Options.Raw)
	}
	if del.Operation != "DELETE" || del.Object.Raw != nil || objectOf[corev1.ConfigMap](t, del.OldObject).Name != "m" {
		t.Errorf("the delete: %+v", del)
	}
	must(t, cs.AdmissionregistrationV1().ValidatingWebhookConfigurations().Delete(ctx, "v", metav1.DeleteOptions{}))
	must(t, cs.CoreV1().ConfigMaps("default").Delete(ctx, made.Name, metav1.DeleteOptions{}))
}

type warnings struct{ texts []string }

func (w *warnings) HandleWarningHeader(_ int, _, text string) { w.texts = append(w.texts, text) }

func asStatus(err error, into *apierrors.APIStatus) bool {
	s, ok := err.(apierrors.APIStatus)
	*into = s
	return ok
}

// TestBadWebhooks: what hangs, lies or talks too much fails as its failurePolicy
// says, within its time.
func TestBadWebhooks(t *testing.T) {
	h, hook := start(t), serveHooks(t)
	cs := h.clients(t, runtime.ContentTypeJSON)
	write := func(code int, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(code)
			_, _ = io.WriteString(w, body)
		}
	}
	review := func(rest string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			hook.mu.Lock()
			list := hook.got[r.URL.Path]
			uid := list[len(list)-1].Request.UID
			hook.mu.Unlock()
			_, _ = fmt.Fprintf(w, `{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","response":{"uid":"%s",%s}}`, uid, rest)
		}
	}
	bad := map[string]struct {
		serve http.HandlerFunc
		want  string
	}{
		"hangs":     {func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, "context deadline exceeded"},
		"drips":     {drip, "context deadline exceeded"},
		"floods":    {flood, "the answer is larger than"},
		"empty":     {write(200, ""), "unexpected end of JSON input"},
		"html":      {write(200, "<html>"), "invalid character"},
		"missing":   {write(404, "none"), "the server could not find the requested resource"},
		"fails":     {write(500, "oops"), `an error on the server ("oops") has prevented the request from succeeding`},
		"redirects": {http.RedirectHandler(hook.srv.URL+"/yes", http.StatusTemporaryRedirect).ServeHTTP, "failed to call webhook"},
		"no-answer": {write(200, `{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview"}`), "webhook response was absent"},
		"wrong-uid": {write(200, `{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","response":{"uid":"x","allowed":true}}`), `expected response.uid=`},
		"untyped":   {review(`"allowed":true,"patch":"W10="`), "webhook returned response.patch but not response.patchType"},
		"odd-type":  {review(`"allowed":true,"patch":"W3sib3AiOiJhZGQifV0=","patchType":"XML"`), `unsupported patch type "XML"`},
		"no-patch":  {review(`"allowed":true,"patch":"eA==","patchType":"JSONPatch"`), "received undecodable patch in webhook response"},
		"to-kind":   {review(`"allowed":true,"patchType":"JSONPatch","patch":"` + b64(`[{"op":"replace","path":"/kind","value":"Pod"}]`) + `"`), "Internal error occurred"},
		"to-path":   {review(`"allowed":true,"patchType":"JSONPatch","patch":"` + b64(`[{"op":"remove","path":"/data/none"}]`) + `"`), "Internal error occurred"},
	}
	for name, b := range bad {
		hook.mu.Lock()
		hook.raw["/"+name] = b.serve
		hook.mu.Unlock()
	}
	for _, name := range slices.Sorted(maps.Keys(bad)) {
		t.Run(name, func(t *testing.T) { askBad(t, cs, name, hook.at("/"+name), bad[name].want) })
	}
}

// askBad writes an object while a bad webhook is in the way, which first fails
// the request and then is passed over.
func askBad(t *testing.T, cs *kubernetes.Clientset, name string, at admissionregv1.WebhookClientConfig, want string) {
	ctx := t.Context()
	m := mutating("bad", at, configMaps)
	m.TimeoutSeconds = ptr.To[int32](1)
	addMutating(t, cs, "bad", m)
	defer func() {
		must(t, cs.AdmissionregistrationV1().MutatingWebhookConfigurations().Delete(ctx, "bad", metav1.DeleteOptions{}))
	}()
	begin := time.Now()
	_, err := cs.CoreV1().ConfigMaps("default").Create(ctx, configMap("m", nil), metav1.CreateOptions{})
	if !apierrors.IsInternalError(err) || !strings.Contains(err.Error(), want) {
		t.Errorf("error %v, want %s", err, want)
	}
	if d := time.Since(begin); d > 10*time.Second {
		t.Errorf("it took %s", d)
	}
	if strings.HasPrefix(name, "to-") {
		return // a patch that cannot be applied is no failure to call
	}
	if !strings.Contains(err.Error(), `failed calling webhook "bad.example.com"`) {
		t.Errorf("the error does not name the webhook: %v", err)
	}
	_, err = cs.AdmissionregistrationV1().MutatingWebhookConfigurations().Patch(ctx, "bad", "application/json-patch+json",
		[]byte(`[{"op":"replace","path":"/webhooks/0/failurePolicy","value":"Ignore"}]`), metav1.PatchOptions{})
	must(t, err)
	_, err = cs.CoreV1().ConfigMaps("default").Create(ctx, configMap("ignored-"+name, nil), metav1.CreateOptions{})
	must(t, err)
}

func b64(s string) string {
	out, _ := json.Marshal([]byte(s))
	return strings.Trim(string(out), `"`)
}

func drip(w http.ResponseWriter, r *http.Request) {
	for r.Context().Err() == nil {
		_, _ = io.WriteString(w, " ")
		_ = http.NewResponseController(w).Flush()
		select {
		case <-r.Context().Done():
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func flood(w http.ResponseWriter, r *http.Request) {
	junk := []byte(strings.Repeat(" ", 1<<16))
	for r.Context().Err() == nil {
		if _, err := w.Write(junk); err != nil {
			return
		}
	}
}

// TestWebhookServices: a webhook behind a Service that is not there says so.
func TestWebhookServices(t *testing.T) {
	h := start(t)
	ctx, cs := t.Context(), h.clients(t, runtime.ContentTypeJSON)
	at := admissionregv1.WebhookClientConfig{Service: &admissionregv1.ServiceReference{Namespace: "default", Name: "hook", Path: ptr.To("/x")}}
	addValidating(t, cs, "v", validating("v", at, configMaps))
	refused := func(want string) {
		t.Helper()
		_, err := cs.CoreV1().ConfigMaps("default").Create(ctx, configMap("m", nil), metav1.CreateOptions{})
		if !apierrors.IsInternalError(err) || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %s", err, want)
		}
	}
	refused(`failed calling webhook "v.example.com": failed to call webhook: Post "https://hook.default.svc:443/x?timeout=5s": service "hook" not found`)
	s := service("hook", corev1.ServiceTypeClusterIP)
	s.Spec.Selector, s.Spec.Ports[0].Port = map[string]string{"app": "hook"}, 443
	_, err := cs.CoreV1().Services("default").Create(ctx, s, metav1.CreateOptions{})
	must(t, err)
	refused(`no endpoints available for service "hook"`)
}

// TestWebhookSelection: which requests a webhook is asked about.
func TestWebhookSelection(t *testing.T) {
	h, hook := start(t), serveHooks(t)
	ctx, cs := t.Context(), h.clients(t, runtime.ContentTypeJSON)
	with := func(path string, rules []admissionregv1.RuleWithOperations, change func(*admissionregv1.ValidatingWebhook)) admissionregv1.ValidatingWebhook {
		w := validating(strings.Trim(path, "/"), hook.on(path, allow), rules)
		if change != nil {
			change(&w)
		}
		return w
	}
	expr := func(text string) func(*admissionregv1.ValidatingWebhook) {
		return func(w *admissionregv1.ValidatingWebhook) {
			w.MatchConditions = []admissionregv1.MatchCondition{{Name: "c", Expression: text}}
		}
	}
	hpas := rule("CREATE", "autoscaling", "v1", "horizontalpodautoscalers")
	addValidating(t, cs, "v",
		with("/all", rule("CREATE", "*", "*", "*/*"), nil),
		with("/cluster", rule("CREATE", "*", "*", "*"), func(w *admissionregv1.ValidatingWebhook) { w.Rules[0].Scope = ptr.To(admissionregv1.ClusterScope) }),
		with("/labelled", configMaps, func(w *admissionregv1.ValidatingWebhook) {
			w.ObjectSelector = &metav1.LabelSelector{MatchLabels: map[string]string{"app": "y"}}
		}),
		with("/space", configMaps, func(w *admissionregv1.ValidatingWebhook) {
			w.NamespaceSelector = &metav1.LabelSelector{MatchLabels: map[string]string{"kubernetes.io/metadata.name": "other"}}
		}),
		with("/yes", configMaps, expr(`object != null && object.metadata.name == "m" && request.userInfo.username == "root" && authorizer.group("").resource("pods").check("get").allowed()`)),
		with("/no", configMaps, expr(`has(object.data) && object.data["a"] == "b"`)),
		with("/v1", hpas, nil),
		with("/exact", hpas, func(w *admissionregv1.ValidatingWebhook) { w.MatchPolicy = ptr.To(admissionregv1.Exact) }),
	)
	_, err := cs.CoreV1().ConfigMaps("default").Create(ctx, configMap("m", nil), metav1.CreateOptions{})
	must(t, err)
	_, err = cs.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "other"}}, metav1.CreateOptions{})
	must(t, err)
	other := configMap("o", nil)
	other.Labels["app"] = "y"
	_, err = cs.CoreV1().ConfigMaps("other").Create(ctx, other, metav1.CreateOptions{})
	must(t, err)
	_, err = cs.AutoscalingV2().HorizontalPodAutoscalers("default").Create(ctx, hpa("h"), metav1.CreateOptions{})
	must(t, err)
	for path, want := range map[string]string{
		"/all": "m other o h", "/cluster": "other", "/labelled": "o", "/space": "o", "/yes": "m", "/no": "", "/v1": "h", "/exact": "",
	} {
		var got []string
		for _, r := range hook.asked(path) {
			got = append(got, r.Name)
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%s was asked about %v, want %q", path, got, want)
		}
	}
	r := hook.asked("/v1")[0]
	if o := objectOf[autoscalingv1.HorizontalPodAutoscaler](t, r.Object); o.APIVersion != "autoscaling/v1" || *o.Spec.TargetCPUUtilizationPercentage != 70 {
		t.Errorf("the object in the version of the rule: %s", r.Object.Raw)
	}
	if r.Resource.Version != "v1" || r.RequestResource.Version != "v2" || r.Kind.Version != "v1" || r.RequestKind.Version != "v2" {
		t.Errorf("the versions: %+v", r)
	}
	if ns := hook.asked("/cluster")[0]; ns.Namespace != "other" || ns.Kind.Kind != "Namespace" {
		t.Errorf("a namespace is in its own: %+v", ns)
	}
}

// TestWebhookSubresources: what hangs below an object is asked about as itself.
func TestWebhookSubresources(t *testing.T) {
	h, hook := start(t), serveHooks(t)
	onNode(t, h, "n1", "c")
	ctx, cs := t.Context(), h.clients(t, runtime.ContentTypeJSON)
	addValidating(t, cs, "v", validating("v", hook.on("/v", allow), rule("*", "*", "*", "pods/*,deployments/*,serviceaccounts/*")))
	pods := cs.CoreV1().Pods("default")
	p, err := pods.Get(ctx, "p", metav1.GetOptions{})
	must(t, err)
	_, err = pods.UpdateStatus(ctx, p, metav1.UpdateOptions{})
	must(t, err)
	_, err = cs.AppsV1().Deployments("default").Create(ctx, deployment("d"), metav1.CreateOptions{})
	must(t, err)
	_, err = cs.AppsV1().Deployments("default").UpdateScale(ctx, "d", &autoscalingv1.Scale{
		ObjectMeta: metav1.ObjectMeta{Name: "d", Namespace: "default"}, Spec: autoscalingv1.ScaleSpec{Replicas: 4}}, metav1.UpdateOptions{})
	must(t, err)
	_ = cs.CoreV1().RESTClient().Post().Namespace("default").Resource("pods").Name("p").SubResource("exec").
		Param("command", "ls").Param("stdout", "true").Param("container", "c").Do(ctx).Error() // there is no upgrade to be had
	must(t, cs.PolicyV1().Evictions("default").Evict(ctx, &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "default"}}))
	var got []string
	for _, r := range hook.asked("/v") {
		got = append(got, fmt.Sprintf("%s %s/%s %s/%s", r.Operation, r.Resource.Resource, r.SubResource, r.Kind.Version, r.Kind.Kind))
	}
	want := []string{"UPDATE pods/status v1/Pod", "CREATE deployments/ v1/Deployment", "UPDATE deployments/scale v1/Scale", "CONNECT pods/exec v1/PodExecOptions", "CREATE pods/eviction v1/Eviction"}
	if !slices.Equal(got, want) {
		t.Fatalf("asked about %q, want %q", got, want)
	}
	if s := objectOf[autoscalingv1.Scale](t, hook.asked("/v")[2].Object); s.Spec.Replicas != 4 || s.Kind != "Scale" {
		t.Errorf("the scale: %+v", s)
	}
	if o := objectOf[corev1.PodExecOptions](t, hook.asked("/v")[3].Object); !o.Stdout || o.Container != "c" || len(o.Command) != 1 || o.Kind != "PodExecOptions" {
		t.Errorf("the stream's options: %+v", o)
	}
}

// TestWebhookDryRun: a webhook with side effects is not asked on a dry run.
func TestWebhookDryRun(t *testing.T) {
	h, hook := start(t), serveHooks(t)
	ctx, cs := t.Context(), h.clients(t, runtime.ContentTypeJSON)
	addValidating(t, cs, "v", validating("v", hook.on("/v", allow), configMaps))
	dry := metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}}
	_, err := cs.CoreV1().ConfigMaps("default").Create(ctx, configMap("m", nil), dry)
	must(t, err)
	if r := hook.asked("/v")[0]; !*r.DryRun || len(objectOf[metav1.CreateOptions](t, r.Options).DryRun) != 1 {
		t.Errorf("the request does not say that it is a dry run: %+v", r)
	}
}

// TestWebhookConfigurationsAreExempt: a webhook that refuses everything can be
// taken away, and does not keep the server from starting.
func TestWebhookConfigurationsAreExempt(t *testing.T) {
	h := start(t)
	ctx, cs := t.Context(), h.clients(t, runtime.ContentTypeJSON)
	nowhere := admissionregv1.WebhookClientConfig{URL: ptr.To("https://127.0.0.1:1/")}
	addValidating(t, cs, "v", validating("v", nowhere, rule("*", "*", "*", "*/*")))
	addMutating(t, cs, "m", mutating("m", nowhere, rule("*", "*", "*", "*/*")))
	if _, err := cs.CoreV1().ConfigMaps("default").Create(ctx, configMap("m", nil), metav1.CreateOptions{}); !apierrors.IsInternalError(err) {
		t.Errorf("a webhook that is down: %v", err)
	}
	_, err := cs.CoreV1().Services("default").Patch(ctx, "kubernetes", "application/merge-patch+json", []byte(`{"metadata":{"labels":{"a":"b"}}}`), metav1.PatchOptions{})
	if !apierrors.IsInternalError(err) {
		t.Errorf("a webhook that is down: %v", err)
	}
	must(t, cs.AdmissionregistrationV1().ValidatingWebhookConfigurations().Delete(ctx, "v", metav1.DeleteOptions{}))
	must(t, cs.AdmissionregistrationV1().MutatingWebhookConfigurations().DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{}))
	_, err = cs.CoreV1().ConfigMaps("default").Create(ctx, configMap("m", nil), metav1.CreateOptions{})
	must(t, err)
}

// TestDeleteCollectionAsksForEach asks a webhook about each object.
func TestDeleteCollectionAsksForEach(t *testing.T) {
	h, hook := start(t), serveHooks(t)
	ctx, cs := t.Context(), h.clients(t, runtime.ContentTypeJSON)
	for i := range 5 {
		_, err := cs.CoreV1().ConfigMaps("default").Create(ctx, configMap(fmt.Sprint("m", i), nil), metav1.CreateOptions{})
		must(t, err)
	}
	addValidating(t, cs, "v", validating("v", hook.on("/v", func(r *admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse {
		return &admissionv1.AdmissionResponse{Allowed: true, Warnings: []string{"bye " + r.Name}}
	}), rule("DELETE", "", "v1", "configmaps")))
	must(t, cs.CoreV1().ConfigMaps("default").DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{LabelSelector: "app=x"}))
	if n := len(hook.asked("/v")); n != 5 {
		t.Errorf("asked %d times for 5 objects", n)
	}
}

var _ rest.WarningHandler = (*warnings)(nil)

func deployment(name string) *appsv1.Deployment {
	labels := map[string]string{"app": name}
	return &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: appsv1.DeploymentSpec{
		Selector: &metav1.LabelSelector{MatchLabels: labels},
		Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: podNamed("x").Spec},
	}}
}

func hpa(name string) *autoscalingv2.HorizontalPodAutoscaler {
	return &autoscalingv2.HorizontalPodAutoscaler{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: autoscalingv2.HorizontalPodAutoscalerSpec{
		ScaleTargetRef: autoscalingv2.CrossVersionObjectReference{APIVersion: "apps/v1", Kind: "Deployment", Name: "d"}, MaxReplicas: 3,
		Metrics: []autoscalingv2.MetricSpec{{Type: autoscalingv2.ResourceMetricSourceType, Resource: &autoscalingv2.ResourceMetricSource{
			Name: "cpu", Target: autoscalingv2.MetricTarget{Type: autoscalingv2.UtilizationMetricType, AverageUtilization: ptr.To[int32](70)}}}},
	}}
}
