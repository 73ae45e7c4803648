package apiserver_test

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"

	"proa/api"
	"proa/apiserver"
	"proa/store"
)

// sick is a store that commits no more.
type sick struct{ store.Interface }

func (sick) Healthy(context.Context) error { return errors.New("the disk is gone") }

func TestHealth(t *testing.T) {
	h := start(t)
	for _, c := range []struct {
		path string
		code int
		want string
	}{
		{"/livez", 200, "ok"},
		{"/readyz?verbose", 200, "[+]etcd-readiness ok\n"},
		{"/readyz?verbose", 200, "[+]autoregister-completion ok\n"},
		{"/readyz?verbose", 200, "readyz check passed\n"},
		{"/healthz/ping", 200, "ok"},
		{"/livez?verbose&exclude=etcd", 200, "[+]etcd excluded: ok\n"},
		{"/livez?verbose&exclude=nothing", 200, `no matches for ["nothing"]`},
		{"/readyz/nothing", 404, ""},
	} {
		if w := h.callWith(http.MethodGet, c.path, nil); w.Code != c.code || !strings.Contains(w.Body.String(), c.want) {
			t.Errorf("%s: %d %s", c.path, w.Code, w.Body)
		}
	}
}

// TestSickStore: a store that fails shows, but not to strangers why.
func TestSickStore(t *testing.T) {
	h := start(t)
	srv, err := apiserver.New(apiserver.Config{Store: sick{h.store}, Registry: api.Builtin(), Authenticator: named{}, Authorizer: readers{}})
	must(t, err)
	h.Server = srv
	for _, path := range []string{"/livez", "/readyz", "/healthz", "/livez/etcd"} {
		w := h.callWith(http.MethodGet, path, nil)
		if w.Code != http.StatusInternalServerError || !strings.Contains(w.Body.String(), "[-]etcd failed: reason withheld\n") {
			t.Errorf("%s: %d %s", path, w.Code, w.Body)
		}
	}
	if w := h.callWith(http.MethodGet, "/metrics/slis", nil); !strings.Contains(w.Body.String(), `kubernetes_healthcheck{name="etcd",type="livez"} 0`) {
		t.Errorf("%s", w.Body)
	}
	if w := h.callWith(http.MethodGet, "/api/v1/componentstatuses/etcd-0", nil); !strings.Contains(w.Body.String(), `"message":"the disk is gone"`) {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

func TestMetrics(t *testing.T) {
	h := start(t)
	h.callWith(http.MethodGet, "/api/v1/namespaces/default/pods", nil)
	h.callWith(http.MethodGet, "/apis/made.up/v1/things/one", nil)
	h.callWith(http.MethodDelete, "/api/v1/namespaces/default/pods/x/invented", nil)
	h.callWith(http.MethodGet, "/api/v1/namespaces?watch=1&timeoutSeconds=1", nil)
	text := h.callWith(http.MethodGet, "/metrics", nil).Body.String()
	for _, want := range []string{
		`apiserver_request_total{code="200",component="apiserver",dry_run="",group="",resource="pods",scope="namespace",subresource="",verb="LIST",version="v1"} 1`,
		`apiserver_request_duration_seconds_count{component="apiserver",dry_run="",group="",resource="pods",`,
		`apiserver_current_inflight_requests{request_kind="readOnly"} 1`,
		`apiserver_storage_objects{resource="namespaces"} 4`,
		`apiserver_storage_objects{resource="apiservices.apiregistration.k8s.io"}`,
		`apiserver_response_sizes_count{component="apiserver",group="",resource="pods",scope="namespace",subresource="",verb="LIST",version="v1"} 1`,
		`apiserver_watch_events_total{group="",resource="namespaces",version="v1"} 4`,
		`apiserver_watch_events_sizes_count{group="",resource="namespaces",version="v1"} 4`,
		"kubernetes_build_info{", "process_resident_memory_bytes", "go_goroutines",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("/metrics lacks %s", want)
		}
	}
	if strings.Contains(text, "invented") || strings.Contains(text, "made.up") {
		t.Error("a client's invention became a label")
	}
	for path, want := range map[string]string{"/statusz": "Binary version: v1.37", "/flagz": "kube-apiserver flagz",
		"/debug/pprof": "full goroutine stack dump", "/debug/pprof/goroutine?debug=1": "goroutine profile: total", "/debug/pprof/none": "Unknown profile", "/debug/none": "404 page not found"} {
		if w := h.callWith(http.MethodGet, path, nil); !strings.Contains(w.Body.String(), want) {
			t.Errorf("%s: %s", path, w.Body)
		}
	}
	if w := h.callWith(http.MethodGet, "/api/v1/componentstatuses", nil); !strings.Contains(w.Body.String(), `"name":"scheduler"`) {
		t.Errorf("%s", w.Body)
	}
}
