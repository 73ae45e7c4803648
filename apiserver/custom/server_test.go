package custom_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apiextensions-apiserver/pkg/client/clientset/clientset"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/yaml"

	"proa/api"
	"proa/apiserver"
	"proa/auth"
	"proa/internal/h2"
	"proa/store"
	"proa/store/pebble"
)

// harness is a server over TLS on an engine in memory, with its clients.
type harness struct {
	*testing.T
	*apiserver.Server
	fs       vfs.FS
	store    *store.Store
	registry *api.Registry
	http     *httptest.Server
	crds     clientset.Interface
	dynamic  dynamic.Interface
	stop     func()
}

type everybody struct{}

func (everybody) Authenticate(*http.Request) (auth.User, bool, error) {
	return auth.User{Name: "root", Groups: []string{auth.GroupMasters, auth.GroupAuthenticated}}, true, nil
}

func start(t *testing.T) *harness { return startOn(t, vfs.NewMem()) }

// startOn runs a server on what is in a file system, and waits until it is ready.
func startOn(t *testing.T, fs vfs.FS) *harness {
	t.Helper()
	h := openOn(t, fs, nil)
	h.eventually("the server is ready", func() bool { return h.get("/readyz").code == http.StatusOK })
	return h
}

// openOn runs a server and does not wait; around, if not nil, goes between it and
// the store.
func openOn(t *testing.T, fs vfs.FS, around func(store.Interface) store.Interface) *harness {
	t.Helper()
	engine, err := pebble.Open(pebble.Config{Dir: "/data", FS: fs})
	must(t, err)
	h := &harness{T: t, fs: fs}
	h.registry, err = api.NewRegistry(api.Rows()...)
	must(t, err)
	h.store, err = store.New(store.Config{Engine: engine, Codec: apiserver.NewCodec(h.registry), Registry: h.registry})
	must(t, err)
	var world store.Interface = h.store
	if around != nil {
		world = around(world)
	}
	h.Server, err = apiserver.New(apiserver.Config{
		Store: world, Registry: h.registry, Authenticator: everybody{}, Authorizer: auth.Authorizers{auth.Masters{}},
		ServiceCIDR: netip.MustParsePrefix("10.96.0.0/24"), ExternalHost: "192.0.2.1:6443",
	})
	must(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- h.Server.Run(ctx) }()
	h.http = httptest.NewUnstartedServer(h.Handler())
	h.http.EnableHTTP2, h.http.Listener = true, h2.Gather(h.http.Listener)
	h2.Configure(h.http.Config)
	h.http.StartTLS()
	stopped := false
	h.stop = func() {
		if stopped {
			return
		}
		stopped = true
		h.http.CloseClientConnections()
		h.http.Close()
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
		if err := h.store.Close(); err != nil {
			t.Errorf("closing the store: %v", err)
		}
	}
	t.Cleanup(h.stop)
	c := &rest.Config{Host: h.http.URL, QPS: -1, TLSClientConfig: rest.TLSClientConfig{Insecure: true}}
	h.crds, err = clientset.NewForConfig(c)
	must(t, err)
	h.dynamic, err = dynamic.NewForConfig(c)
	must(t, err)
	return h
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// eventually waits for a condition that others bring about.
func (h *harness) eventually(what string, ok func() bool) {
	h.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			h.Fatalf("waited for too long: %s", what)
		}
	}
}

// answer is an HTTP answer, read.
type answer struct {
	code     int
	body     []byte
	warnings []string
	header   http.Header
}

func (a answer) object(t testing.TB) map[string]any {
	t.Helper()
	var out map[string]any
	if err := json.Unmarshal(a.body, &out); err != nil {
		t.Fatalf("%v: %s", err, a.body)
	}
	return out
}

func (a answer) status(t testing.TB) metav1.Status {
	t.Helper()
	var out metav1.Status
	must(t, json.Unmarshal(a.body, &out))
	return out
}

func (h *harness) get(path string, headers ...string) answer {
	return h.do("GET", path, "", headers...)
}

// do sends a body, JSON unless a header says otherwise.
func (h *harness) do(method, path, body string, headers ...string) answer {
	h.Helper()
	r, err := http.NewRequest(method, h.http.URL+path, bytes.NewBufferString(body))
	must(h, err)
	r.Header.Set("Content-Type", "application/json")
	for i := 0; i+1 < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	res, err := h.http.Client().Do(r)
	must(h, err)
	defer res.Body.Close()
	data, err := io.ReadAll(res.Body)
	must(h, err)
	return answer{res.StatusCode, data, res.Header.Values("Warning"), res.Header}
}

// define creates a definition from YAML and waits until it is served.
func (h *harness) define(text string) *apiextensionsv1.CustomResourceDefinition {
	h.Helper()
	crd := definition(h, text)
	_, err := h.crds.ApiextensionsV1().CustomResourceDefinitions().Create(h.Context(), crd, metav1.CreateOptions{})
	must(h, err)
	return h.established(crd.Name)
}

func definition(t testing.TB, text string) *apiextensionsv1.CustomResourceDefinition {
	t.Helper()
	crd := &apiextensionsv1.CustomResourceDefinition{}
	must(t, yaml.UnmarshalStrict([]byte(text), crd))
	return crd
}

func (h *harness) established(name string) (out *apiextensionsv1.CustomResourceDefinition) {
	h.Helper()
	h.eventually(name+" is established", func() bool {
		crd, err := h.crds.ApiextensionsV1().CustomResourceDefinitions().Get(h.Context(), name, metav1.GetOptions{})
		must(h, err)
		out = crd
		return conditionOf(crd, apiextensionsv1.Established) == "True InitialNamesAccepted"
	})
	return out
}

func conditionOf(crd *apiextensionsv1.CustomResourceDefinition, t apiextensionsv1.CustomResourceDefinitionConditionType) string {
	for _, c := range crd.Status.Conditions {
		if c.Type == t {
			return string(c.Status) + " " + c.Reason
		}
	}
	return ""
}

// redefine changes a definition and waits until a request sees it.
func (h *harness) redefine(name string, change func(*apiextensionsv1.CustomResourceDefinition)) {
	h.Helper()
	crds := h.crds.ApiextensionsV1().CustomResourceDefinitions()
	crd, err := crds.Get(h.Context(), name, metav1.GetOptions{})
	must(h, err)
	key := crd.Spec.Group + "/" + crd.Spec.Names.Plural
	before := h.registry.ByKey(key)
	change(crd)
	_, err = crds.Update(h.Context(), crd, metav1.UpdateOptions{})
	must(h, err)
	h.eventually(name+" is served anew", func() bool { return h.registry.ByKey(key) != before })
}

func object(t testing.TB, text string) *unstructured.Unstructured {
	t.Helper()
	u := &unstructured.Unstructured{}
	must(t, yaml.Unmarshal([]byte(text), &u.Object))
	data, err := json.Marshal(u.Object)
	must(t, err)
	must(t, u.UnmarshalJSON(data)) // integers as int64
	return u
}

func gvr(group, version, plural string) schema.GroupVersionResource {
	return schema.GroupVersionResource{Group: group, Version: version, Resource: plural}
}
