package apiserver_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	corev1 "k8s.io/api/core/v1"
	imagepolicyv1alpha1 "k8s.io/api/imagepolicy/v1alpha1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/utils/ptr"

	"proa/api"
	"proa/apiserver"
	"proa/auth"
)

// configured starts a server with plugins on that a file configures.
func configured(t *testing.T, file string, plugins ...string) *harness {
	t.Helper()
	path := filepath.Join(t.TempDir(), "admission.yaml")
	must(t, os.WriteFile(path, []byte("apiVersion: apiserver.config.k8s.io/v1\nkind: AdmissionConfiguration\nplugins:\n"+file), 0o600))
	return start(t, func(c *apiserver.Config) {
		c.EnablePlugins, c.DisablePlugins, c.AdmissionConfig = plugins, []string{"ServiceAccount"}, path
	})
}

// TestPodTolerations: pods get their namespace's tolerations, and no others.
func TestPodTolerations(t *testing.T) {
	h := configured(t, `
- name: PodTolerationRestriction
  configuration:
    apiVersion: podtolerationrestriction.admission.k8s.io/v1alpha1
    kind: Configuration
    default: [{key: usual, operator: Exists}]
    whitelist: [{key: usual, operator: Exists}, {key: node.kubernetes.io/not-ready, operator: Exists}, {key: node.kubernetes.io/unreachable, operator: Exists}]
`, "PodTolerationRestriction")
	ctx, root := t.Context(), h.clients(t, runtime.ContentTypeJSON)
	for name, notes := range map[string]map[string]string{
		"own":  {"scheduler.alpha.kubernetes.io/defaultTolerations": `[{"key":"mine","operator":"Exists"}]`, "scheduler.alpha.kubernetes.io/tolerationsWhitelist": ``},
		"free": {"scheduler.alpha.kubernetes.io/defaultTolerations": ``, "scheduler.alpha.kubernetes.io/tolerationsWhitelist": `[{"operator":"Exists"}]`},
	} {
		_, err := root.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: notes}}, metav1.CreateOptions{})
		must(t, err)
	}
	keys := func(namespace string, own ...corev1.Toleration) string {
		p := podNamed("p")
		p.GenerateName, p.Name, p.Spec.Tolerations = "p-", "", own
		made, err := root.CoreV1().Pods(namespace).Create(ctx, p, metav1.CreateOptions{})
		if err != nil {
			return err.Error()
		}
		var out []string
		for _, t := range made.Spec.Tolerations {
			if !strings.HasPrefix(t.Key, "node.kubernetes.io/") {
				out = append(out, t.Key)
			}
		}
		return strings.Join(out, " ")
	}
	strange := corev1.Toleration{Key: "strange", Operator: corev1.TolerationOpExists}
	for _, c := range []struct{ got, want string }{
		{keys("default"), "usual"},
		{keys("default", strange), "conflict with its cluster whitelist"},
		{keys("own"), "mine"},
		{keys("own", strange), "strange mine"},
		{keys("own", corev1.Toleration{Key: "mine", Operator: corev1.TolerationOpEqual, Value: "x"}), "mine"},
		{keys("free", strange), "strange"},
		{keys("free"), ""},
	} {
		if c.got != c.want && (c.want == "" || !strings.HasSuffix(c.got, c.want)) {
			t.Errorf("%q, want %q", c.got, c.want)
		}
	}
}

// TestEventRateLimit: events beyond a limit are refused, other namespaces' are not.
func TestEventRateLimit(t *testing.T) {
	h := configured(t, `
- name: EventRateLimit
  configuration: {apiVersion: eventratelimit.admission.k8s.io/v1alpha1, kind: Configuration, limits: [{type: Namespace, qps: 1, burst: 3}]}
`, "EventRateLimit")
	ctx, root := t.Context(), h.clients(t, runtime.ContentTypeJSON)
	say := func(namespace string, n int) error {
		_, err := root.CoreV1().Events(namespace).Create(ctx, &corev1.Event{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("e", n)},
			InvolvedObject: corev1.ObjectReference{Namespace: namespace}}, metav1.CreateOptions{})
		return err
	}
	var refused error
	for n := range 100 { // far more than a second lets through
		if err := say("default", n); err != nil {
			refused = err
			break
		}
	}
	if !apierrors.IsTooManyRequests(refused) || !strings.Contains(refused.Error(), "limit reached on type Namespace for key default") {
		t.Errorf("%v", refused)
	}
	must(t, say("kube-public", 0))
}

// TestImagePolicy: a webhook judges images, its answers are remembered, and what it
// cannot be asked about goes by the configuration.
func TestImagePolicy(t *testing.T) {
	var asked, down atomic.Int32
	hook := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var review imagepolicyv1alpha1.ImageReview
		asked.Add(1)
		if down.Load() > 0 || json.NewDecoder(r.Body).Decode(&review) != nil {
			http.Error(w, "no", http.StatusTeapot)
			return
		}
		review.Status.Allowed = !strings.Contains(review.Spec.Containers[0].Image, "bad")
		review.Status.Reason = "it is bad"
		_ = json.NewEncoder(w).Encode(&review)
	}))
	defer hook.Close()
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, "kubeconfig"), fmt.Appendf(nil, `{apiVersion: v1, kind: Config, current-context: a,
clusters: [{name: a, cluster: {server: %q}}], contexts: [{name: a, context: {cluster: a}}]}`, hook.URL), 0o600))
	for _, open := range []bool{true, false} {
		down.Store(0)
		h := configured(t, fmt.Sprintf(`
- name: ImagePolicyWebhook
  configuration: {imagePolicy: {kubeConfigFile: %q, defaultAllow: %v}}
`, filepath.Join(dir, "kubeconfig"), open), "ImagePolicyWebhook")
		root := h.clients(t, runtime.ContentTypeJSON)
		run := func(image string) (*corev1.Pod, error) {
			p := podNamed("p")
			p.GenerateName, p.Name, p.Spec.Containers[0].Image = "p-", "", image
			return root.CoreV1().Pods("default").Create(t.Context(), p, metav1.CreateOptions{})
		}
		before := asked.Load()
		for range 2 {
			_, err := run("good")
			must(t, err)
		}
		if n := asked.Load() - before; n != 1 {
			t.Errorf("the webhook was asked %d times about the same", n)
		}
		if _, err := run("bad"); !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "image policy webhook backend denied one or more images: it is bad") {
			t.Errorf("%v", err)
		}
		down.Store(1)
		p, err := run("unknown")
		if open && (err != nil || p.Annotations["alpha.image-policy.k8s.io/failed-open"] != "true") || !open && !apierrors.IsForbidden(err) {
			t.Errorf("defaultAllow %v: %v", open, err)
		}
	}
}

// TestConfiguredSecurity: the configuration's standard holds where a namespace names
// none, but for whom it exempts; node selectors are held to what it allows.
func TestConfiguredSecurity(t *testing.T) {
	h := configured(t, `
- name: PodSecurity
  configuration:
    apiVersion: pod-security.admission.config.k8s.io/v1
    kind: PodSecurityConfiguration
    defaults: {enforce: baseline}
    exemptions: {namespaces: [kube-system]}
- name: PodNodeSelector
  configuration: {podNodeSelectorPluginConfig: {clusterDefaultNodeSelector: "a=b", default: "a=b,c=d"}}
`, "PodNodeSelector", "NamespaceAutoProvision")
	root := h.clients(t, runtime.ContentTypeJSON)
	run := func(namespace string, change func(*corev1.Pod)) (*corev1.Pod, error) {
		p := podNamed("p")
		p.GenerateName, p.Name = "p-", ""
		change(p)
		return root.CoreV1().Pods(namespace).Create(t.Context(), p, metav1.CreateOptions{})
	}
	privileged := func(p *corev1.Pod) {
		p.Spec.Containers[0].SecurityContext = &corev1.SecurityContext{Privileged: ptr.To(true)}
	}
	if _, err := run("default", privileged); !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), `violates PodSecurity "baseline:latest"`) {
		t.Errorf("%v", err)
	}
	_, err := run("kube-system", privileged)
	must(t, err)
	p, err := run("made-for-it", func(*corev1.Pod) {})
	must(t, err)
	if p.Spec.NodeSelector["a"] != "b" {
		t.Errorf("%v", p.Spec.NodeSelector)
	}
	if _, err := run("default", func(p *corev1.Pod) { p.Spec.NodeSelector = map[string]string{"e": "f"} }); !apierrors.IsForbidden(err) ||
		!strings.Contains(err.Error(), "conflict with its namespace whitelist") {
		t.Errorf("%v", err)
	}
	_, err = root.CoreV1().Namespaces().Get(t.Context(), "made-for-it", metav1.GetOptions{})
	must(t, err)
}

// TestBadAdmissionConfig: what a file has wrong is said at the start.
func TestBadAdmissionConfig(t *testing.T) {
	h := start(t)
	for text, want := range map[string]string{
		"kind: X": "not an AdmissionConfiguration",
		"apiVersion: apiserver.config.k8s.io/v1\nkind: AdmissionConfiguration\nplugins: [{name: Nonsense}]": "takes no configuration",
		"apiVersion: apiserver.config.k8s.io/v1\nkind: AdmissionConfiguration\nplugins: [{nme: x}]":         "unknown field",
		"apiVersion: apiserver.config.k8s.io/v1\nkind: AdmissionConfiguration\nplugins: [{name: EventRateLimit, configuration: {apiVersion: eventratelimit.admission.k8s.io/v1alpha1, kind: Configuration, limits: [{type: Moon, qps: 1, burst: 1}]}}]": `limits[0].type: Unsupported value: "Moon"`,
		"apiVersion: apiserver.config.k8s.io/v1\nkind: AdmissionConfiguration\nplugins: [{name: PodSecurity, configuration: {apiVersion: pod-security.admission.config.k8s.io/v1, kind: PodSecurityConfiguration, defaults: {enforce: strict}}}]":       "strict",
	} {
		path := filepath.Join(t.TempDir(), "a.yaml")
		must(t, os.WriteFile(path, []byte(text), 0o600))
		_, err := apiserver.New(apiserver.Config{Store: h.store, Registry: api.Builtin(), Authorizer: auth.Masters{}, AdmissionConfig: path})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", text, err)
		}
	}
	_, err := apiserver.New(apiserver.Config{Store: h.store, Registry: api.Builtin(), Authorizer: auth.Masters{}, EnablePlugins: []string{"EventRateLimit"}})
	if err == nil || !strings.Contains(err.Error(), "must not be empty") {
		t.Errorf("%v", err)
	}
}
