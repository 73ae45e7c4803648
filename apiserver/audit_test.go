package apiserver_test

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	admissionv1 "k8s.io/api/admission/v1"
	admissionregv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"proa/apiserver"
	"proa/apiserver/audit"
)

// audited runs a server that records by a policy; read returns the events.
func audited(t *testing.T, policy string) (h *harness, read func() []auditv1.Event) {
	t.Helper()
	dir := t.TempDir()
	file, log := filepath.Join(dir, "policy.yaml"), filepath.Join(dir, "audit.log")
	must(t, os.WriteFile(file, []byte("apiVersion: audit.k8s.io/v1\nkind: Policy\n"+policy), 0o600))
	s, err := audit.Open(audit.Config{PolicyFile: file, Log: audit.FileConfig{Path: log}}, time.Now, slog.New(slog.DiscardHandler))
	must(t, err)
	t.Cleanup(func() { must(t, s.Close()) })
	h = start(t, func(c *apiserver.Config) { c.Audit = s.Auditor })
	return h, func() (out []auditv1.Event) {
		data, err := os.ReadFile(log)
		must(t, err)
		for line := range bytes.Lines(data) {
			var ev auditv1.Event
			must(t, json.Unmarshal(line, &ev))
			out = append(out, ev)
		}
		return out
	}
}

func TestAudit(t *testing.T) {
	h, read := audited(t, `
rules:
- {level: RequestResponse, resources: [{group: "", resources: [configmaps]}], omitManagedFields: true}
- {level: Metadata, resources: [{group: "", resources: [secrets]}], omitStages: [RequestReceived]}
- {level: Metadata, users: [nobody]}
- {level: Metadata, resources: [{group: "", resources: [namespaces]}], verbs: [watch]}
`)
	for _, ct := range encodings {
		cs := h.clients(t, ct)
		_, err := cs.CoreV1().ConfigMaps("default").Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{GenerateName: "a-"}, Data: map[string]string{"k": "v"}}, metav1.CreateOptions{})
		must(t, err)
	}
	_, err := h.clients(t, runtime.ContentTypeJSON).CoreV1().Secrets("default").Create(t.Context(), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "s"}, StringData: map[string]string{"k": "confidential"}}, metav1.CreateOptions{})
	must(t, err)
	c := h.config("root")
	c.Impersonate = rest.ImpersonationConfig{UserName: "nobody"}
	cs, err := kubernetes.NewForConfig(c)
	must(t, err)
	if _, err = cs.CoreV1().Secrets("default").List(t.Context(), metav1.ListOptions{}); err == nil {
		t.Error("nobody may list Secrets")
	}
	evs := read()
	made := slices.DeleteFunc(slices.Clone(evs), func(e auditv1.Event) bool { return e.ObjectRef == nil || e.ObjectRef.Resource != "configmaps" })
	if len(made) != 4 {
		t.Fatalf("%d events of ConfigMaps, want 2 stages of 2 requests", len(made))
	}
	for i, ev := range made {
		complete := i%2 == 1
		if ev.Stage == auditv1.StageResponseComplete != complete || ev.Verb != "create" || ev.User.Username != "root" || len(ev.SourceIPs) != 1 || ev.UserAgent == "" || ev.AuditID == "" {
			t.Errorf("event %d: %+v", i, ev)
		}
		if complete && (ev.ResponseStatus == nil || ev.ResponseStatus.Code != http.StatusCreated || ev.Annotations["authorization.k8s.io/decision"] != "allow" ||
			ev.AuditID != made[i-1].AuditID || !holds(ev.RequestObject, `"k":"v"`) || !holds(ev.ResponseObject, `"uid"`) || holds(ev.ResponseObject, "managedFields")) {
			t.Errorf("event %d: %+v, request %s, response %s", i, ev, ev.RequestObject.Raw, ev.ResponseObject.Raw)
		}
	}
	var refused *auditv1.Event
	for i, ev := range evs {
		if ev.ObjectRef != nil && ev.ObjectRef.Resource == "secrets" {
			if ev.RequestObject != nil || ev.ResponseObject != nil || ev.Stage != auditv1.StageResponseComplete {
				t.Errorf("a Secret's event says too much: %+v", ev)
			}
			if ev.Verb == "list" {
				refused = &evs[i]
			}
		}
	}
	if refused == nil || refused.User.Username != "root" || refused.ImpersonatedUser == nil || refused.ImpersonatedUser.Username != "nobody" ||
		refused.ResponseStatus.Code != http.StatusForbidden || refused.ResponseStatus.Reason != metav1.StatusReasonForbidden || refused.Annotations["authorization.k8s.io/decision"] != "forbid" {
		t.Errorf("the refused list: %+v", refused)
	}
}

func holds(u *runtime.Unknown, text string) bool {
	return u != nil && strings.Contains(strings.ReplaceAll(string(u.Raw), `": "`, `":"`), text)
}

// TestAuditOfWatches sees a watch start and end, with the client's own ID.
func TestAuditOfWatches(t *testing.T) {
	h, read := audited(t, "rules: [{level: Metadata, verbs: [watch]}]")
	ctx, cancel := context.WithCancel(t.Context())
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, h.http.URL+"/api/v1/namespaces?watch=1", nil)
	must(t, err)
	r.Header.Set("Authorization", "Bearer root")
	r.Header.Set("Audit-ID", "mine")
	resp, err := h.http.Client().Do(r)
	must(t, err)
	defer resp.Body.Close()
	if resp.Header.Get("Audit-ID") != "mine" || resp.ProtoMajor != 2 {
		t.Errorf("%s %v", resp.Proto, resp.Header)
	}
	cancel()
	eventually(t, "the watch's end", func() bool { return len(read()) == 3 })
	var stages []auditv1.Stage
	for _, ev := range read() {
		stages = append(stages, ev.Stage)
		if ev.AuditID != "mine" {
			t.Errorf("ID %q", ev.AuditID)
		}
	}
	if !slices.Equal(stages, []auditv1.Stage{auditv1.StageRequestReceived, auditv1.StageResponseStarted, auditv1.StageResponseComplete}) {
		t.Errorf("stages %v", stages)
	}
}

// TestAuditOfPanics sees the stage that says so.
func TestAuditOfPanics(t *testing.T) {
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, "p"), []byte("apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: [{level: Metadata, verbs: [get]}]"), 0o600))
	s, err := audit.Open(audit.Config{PolicyFile: filepath.Join(dir, "p"), Log: audit.FileConfig{Path: filepath.Join(dir, "log")}}, time.Now, slog.New(slog.DiscardHandler))
	must(t, err)
	h := start(t, func(c *apiserver.Config) { c.Authorizer = panicky{c.Authorizer}; c.Audit = s.Auditor })
	h.call(http.MethodGet, "/api/v1/namespaces/boom", "application/json", nil)
	must(t, s.Close())
	data, err := os.ReadFile(filepath.Join(dir, "log"))
	must(t, err)
	if !strings.Contains(string(data), `"stage":"Panic"`) || !strings.Contains(string(data), `"code":500`) {
		t.Errorf("%s", data)
	}
}

// TestAuditAnnotations: what admission has to say of a request is in its event.
func TestAuditAnnotations(t *testing.T) {
	h, read := audited(t, `rules: [{level: Metadata, resources: [{group: "", resources: [pods]}], omitStages: [RequestReceived]}]`)
	cs, hook := h.clients(t, runtime.ContentTypeJSON), serveHooks(t)
	account(t, cs, "default")
	_, err := cs.CoreV1().Namespaces().Patch(t.Context(), "default", "application/merge-patch+json",
		[]byte(`{"metadata":{"labels":{"pod-security.kubernetes.io/audit":"restricted","pod-security.kubernetes.io/enforce":"baseline"}}}`), metav1.PatchOptions{})
	must(t, err)
	noting := hook.on("/note", func(*admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse {
		return &admissionv1.AdmissionResponse{Allowed: true, AuditAnnotations: map[string]string{"seen": "by the hook"}}
	})
	_, err = cs.AdmissionregistrationV1().ValidatingWebhookConfigurations().Create(t.Context(), &admissionregv1.ValidatingWebhookConfiguration{
		ObjectMeta: metav1.ObjectMeta{Name: "note"}, Webhooks: []admissionregv1.ValidatingWebhook{validating("note", noting, rule("CREATE", "", "v1", "pods"))}}, metav1.CreateOptions{})
	must(t, err)
	_, err = cs.CoreV1().Pods("default").Create(t.Context(), podNamed("p"), metav1.CreateOptions{})
	must(t, err)
	evs := read()
	if len(evs) != 1 {
		t.Fatalf("%d events", len(evs))
	}
	for key, want := range map[string]string{
		"pod-security.kubernetes.io/enforce-policy":   "baseline:latest",
		"pod-security.kubernetes.io/audit-violations": `would violate PodSecurity "restricted:latest": allowPrivilegeEscalation != false`,
		"note.example.com/seen":                       "by the hook",
	} {
		if got := evs[0].Annotations[key]; !strings.HasPrefix(got, want) {
			t.Errorf("%s is %q in %v", key, got, evs[0].Annotations)
		}
	}
}
