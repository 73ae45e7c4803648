package apiserver_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/dynamic"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	"k8s.io/utils/ptr"

	"proa/api/openapi"
	"proa/apiserver"
	"proa/auth"
	"proa/auth/pki"
	"proa/client"
)

// extension is an API server of another's: it believes the front proxy.
type extension struct {
	*httptest.Server
	ca, front *pki.Authority
	classic   bool        // knows classic discovery only
	broken    atomic.Bool // answers 500
}

const wardle = "/apis/wardle.example.com/v1alpha1"

var flunders = metav1.APIResource{Name: "flunders", SingularName: "flunder", Namespaced: true, Kind: "Flunder",
	Verbs: metav1.Verbs{"get", "list", "create"}, ShortNames: []string{"fl"}}

func newExtension(t *testing.T, front *pki.Authority) *extension {
	t.Helper()
	ca, err := pki.Open(t.TempDir())
	must(t, err)
	e := &extension{ca: ca, front: front}
	e.Server = httptest.NewUnstartedServer(http.HandlerFunc(e.serve))
	e.TLS = &tls.Config{ClientAuth: tls.RequestClientCert, NextProtos: []string{"h2", "http/1.1"},
		GetCertificate: ca.Serving("wardle", func() []string { return []string{"api.wardle.svc"} }).GetCertificate}
	e.StartTLS()
	t.Cleanup(e.Close)
	return e
}

func (e *extension) serve(w http.ResponseWriter, r *http.Request) {
	switch {
	case e.broken.Load():
		http.Error(w, "out of order", http.StatusInternalServerError)
	case len(r.TLS.PeerCertificates) == 0 || e.front.NeedsRenewal(pemOf(r.TLS.PeerCertificates[0].Raw), time.Now()):
		http.Error(w, "who are you?", http.StatusUnauthorized)
	case r.URL.Path == "/apis" && !e.classic:
		w.Header().Set("ETag", `"1"`)
		if r.Header.Get("If-None-Match") == `"1"` {
			w.WriteHeader(http.StatusNotModified)
			return
		}
		w.Header().Set("Content-Type", "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList")
		io.WriteString(w, `{"kind":"APIGroupDiscoveryList","apiVersion":"apidiscovery.k8s.io/v2","items":[{"metadata":{"name":"wardle.example.com"},
			"versions":[{"version":"v1alpha1","resources":[{"resource":"flunders","responseKind":{"kind":"Flunder"},"scope":"Namespaced",
			"singularResource":"flunder","shortNames":["fl"],"verbs":["get","list","create"]}]}]}]}`)
	case r.URL.Path == wardle:
		answerJSON(w, metav1.APIResourceList{TypeMeta: metav1.TypeMeta{Kind: "APIResourceList", APIVersion: "v1"},
			GroupVersion: "wardle.example.com/v1alpha1", APIResources: []metav1.APIResource{flunders, {Name: "flunders/status", Kind: "Flunder", Namespaced: true, Verbs: metav1.Verbs{"get"}}}})
	case r.Header.Get("Upgrade") != "":
		echo(w)
	case strings.HasPrefix(r.URL.Path, "/openapi/"):
		e.openapi(w, r)
	default:
		answerJSON(w, map[string]any{"apiVersion": "wardle.example.com/v1alpha1", "kind": "Flunder",
			"metadata": map[string]any{"name": r.URL.Path[strings.LastIndexByte(r.URL.Path, '/')+1:], "namespace": "default"},
			"asked":    r.Method + " " + r.URL.RequestURI(), "headers": r.Header})
	}
}

func (e *extension) openapi(w http.ResponseWriter, r *http.Request) {
	switch r.URL.Path {
	case "/openapi/v3":
		answerJSON(w, map[string]any{"paths": map[string]any{
			"apis/wardle.example.com/v1alpha1": map[string]any{"serverRelativeURL": "/openapi/v3/apis/wardle.example.com/v1alpha1?hash=H1"},
			"apis/other.example.com/v1":        map[string]any{"serverRelativeURL": "/openapi/v3/apis/other.example.com/v1?hash=H2"}}})
	case "/openapi/v3/apis/wardle.example.com/v1alpha1":
		answerJSON(w, map[string]any{"openapi": "3.0.0", "paths": map[string]any{wardle + "/flunders": map[string]any{}}})
	default:
		io.WriteString(w, `{"swagger":"2.0","paths":{"`+wardle+`/flunders":{"get":{"responses":{"200":{"schema":{"$ref":"#/definitions/io.wardle.Flunder"}}}}},
			"/apis/other.example.com/v1/things":{}},"definitions":{"io.wardle.Flunder":{"type":"object","properties":{"metadata":
			{"$ref":"#/definitions/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"}}},
			"io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta":{"type":"object","description":"another one"},"unused":{"type":"object"}}}`)
	}
}

func answerJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v) // the client tells
}

// echo speaks a protocol of its own after the upgrade.
func echo(w http.ResponseWriter) {
	conn, rw, err := w.(http.Hijacker).Hijack()
	if err != nil {
		return
	}
	defer conn.Close()
	io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
	line, _ := rw.ReadString('\n')
	io.WriteString(conn, "echo "+line)
}

func pemOf(der []byte) []byte { return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}) }

func frontProxy(t *testing.T) *pki.Authority {
	t.Helper()
	a, err := pki.OpenFrontProxy(t.TempDir())
	must(t, err)
	return a
}

// aggregated starts a server with an extension behind it.
func aggregated(t *testing.T, change ...func(*extension)) (*harness, *extension) {
	t.Helper()
	front := frontProxy(t)
	h := start(t, func(c *apiserver.Config) {
		c.FrontProxy = front.Identity(pki.FrontProxyName).Certificate
		c.OpenAPI = openapi.New(c.Registry)
	})
	e := newExtension(t, front)
	for _, f := range change {
		f(e)
	}
	c := h.Client(auth.System("test"))
	_, err := c.Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "wardle"}})
	must(t, err)
	_, err = c.Create(t.Context(), e.apiService())
	must(t, err)
	return h, e
}

func (e *extension) port() int32 {
	u, _ := url.Parse(e.URL) // its own
	n, _ := strconv.Atoi(u.Port())
	return int32(n)
}

func (e *extension) apiService() *apiregistrationv1.APIService {
	return &apiregistrationv1.APIService{ObjectMeta: metav1.ObjectMeta{Name: "v1alpha1.wardle.example.com"},
		Spec: apiregistrationv1.APIServiceSpec{Group: "wardle.example.com", Version: "v1alpha1", GroupPriorityMinimum: 2000, VersionPriority: 200,
			CABundle: e.ca.PEM(), Service: &apiregistrationv1.ServiceReference{Namespace: "wardle", Name: "api", Port: ptr.To(e.port())}}}
}

// service leads to the extension by its name on this machine, since an endpoint
// cannot be a loopback address.
func (e *extension) service() *corev1.Service {
	return &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "wardle", Name: "api"},
		Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName, ExternalName: "127.0.0.1"}}
}

// awaitCondition waits until the condition Available has the reason.
func (h *harness) awaitCondition(t *testing.T, name, reason string) apiregistrationv1.APIServiceCondition {
	t.Helper()
	row := h.row("apiregistration.k8s.io/apiservices")
	c := h.Client(auth.System("test"))
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	v, stream, err := c.Watch(ctx, client.Scope{Resource: row, Name: name})
	must(t, err)
	defer stream.Close()
	var last any
	for {
		if s, ok := v.Get(row, "", name).(*apiregistrationv1.APIService); ok {
			for _, cond := range s.Status.Conditions {
				if cond.Type == apiregistrationv1.Available && cond.Reason == reason {
					return cond
				}
			}
			last = s.Status
		}
		if _, v, err = stream.Next(ctx); err != nil {
			t.Fatalf("%s never was %s, but %+v", name, reason, last)
		}
	}
}

func TestAggregatedServer(t *testing.T) {
	h, e := aggregated(t)
	if got := h.awaitCondition(t, "v1alpha1.wardle.example.com", "ServiceNotFound"); got.Status != apiregistrationv1.ConditionFalse ||
		got.Message != `service/api in "wardle" is not present` {
		t.Errorf("condition %+v", got)
	}
	if w := h.call(http.MethodGet, wardle+"/namespaces/default/flunders/a", "application/json", nil); w.Code != http.StatusServiceUnavailable || w.Body.String() != "service unavailable\n" {
		t.Errorf("before there is a Service: %d %s", w.Code, w.Body)
	}
	_, err := h.Client(auth.System("test")).Create(t.Context(), e.service())
	must(t, err)
	if got := h.awaitCondition(t, "v1alpha1.wardle.example.com", "Passed"); got.Status != apiregistrationv1.ConditionTrue || got.Message != "all checks passed" {
		t.Errorf("condition %+v", got)
	}
	dyn, err := dynamic.NewForConfig(h.config("root"))
	must(t, err)
	gvr := schema.GroupVersionResource{Group: "wardle.example.com", Version: "v1alpha1", Resource: "flunders"}
	got, err := dyn.Resource(gvr).Namespace("default").Get(t.Context(), "a", metav1.GetOptions{})
	must(t, err)
	checkHeaders(t, got)
	e.broken.Store(true)
	if _, err := dyn.Resource(gvr).Namespace("default").Get(t.Context(), "a", metav1.GetOptions{}); !apierrors.IsInternalError(err) {
		t.Errorf("an answer of the server's own became %v", err)
	}
	h.touch(t, "v1alpha1.wardle.example.com")
	h.awaitCondition(t, "v1alpha1.wardle.example.com", "FailedDiscoveryCheck")
	if _, err := dyn.Resource(gvr).Namespace("default").Get(t.Context(), "a", metav1.GetOptions{}); !apierrors.IsServiceUnavailable(err) {
		t.Errorf("while it is not available: %v", err)
	}
}

// touch writes an annotation, so that the object is looked at again.
func (h *harness) touch(t *testing.T, name string) {
	t.Helper()
	_, err := h.Client(auth.System("test")).Patch(t.Context(), h.row("apiregistration.k8s.io/apiservices"), client.Key{Name: name}, "",
		client.Patch{Type: "application/merge-patch+json", Data: []byte(`{"metadata":{"annotations":{"touched":"now"}}}`)})
	must(t, err)
}

func checkHeaders(t *testing.T, got *unstructured.Unstructured) {
	t.Helper()
	if got.Object["asked"] != "GET "+wardle+"/namespaces/default/flunders/a" {
		t.Errorf("it was asked for %v", got.Object["asked"])
	}
	headers, _, _ := unstructured.NestedMap(got.Object, "headers")
	if fmt.Sprint(headers["X-Remote-User"]) != "[root]" || fmt.Sprint(headers["X-Remote-Group"]) != "[system:authenticated system:masters]" &&
		fmt.Sprint(headers["X-Remote-Group"]) != "[system:masters system:authenticated]" {
		t.Errorf("it was told of %v %v", headers["X-Remote-User"], headers["X-Remote-Group"])
	}
	if headers["Authorization"] != nil {
		t.Error("the caller's token was passed on")
	}
}

// TestForgedHeaders: what a client says of himself in the proxy's headers is not
// passed on.
func TestForgedHeaders(t *testing.T) {
	h, e := aggregated(t)
	_, err := h.Client(auth.System("test")).Create(t.Context(), e.service())
	must(t, err)
	h.awaitCondition(t, "v1alpha1.wardle.example.com", "Passed")
	r := httptest.NewRequest(http.MethodGet, wardle+"/namespaces/default/flunders/a?x=y", nil)
	r.Header.Set("Authorization", "Bearer root")
	r.Header.Set("X-Remote-User", "system:admin")
	r.Header.Add("X-Remote-Group", "forged")
	r.Header.Set("X-Remote-Extra-Scope", "forged")
	w := httptest.NewRecorder()
	h.Handler().ServeHTTP(w, r)
	if w.Code != http.StatusOK || strings.Contains(w.Body.String(), "forged") || strings.Contains(w.Body.String(), "system:admin") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	if !strings.Contains(w.Body.String(), "x=y") {
		t.Errorf("the query was lost: %s", w.Body)
	}
}

func TestAggregatedUpgrade(t *testing.T) {
	h, e := aggregated(t)
	_, err := h.Client(auth.System("test")).Create(t.Context(), e.service())
	must(t, err)
	h.awaitCondition(t, "v1alpha1.wardle.example.com", "Passed")
	conn, err := tls.Dial("tcp", h.http.Listener.Addr().String(), &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}})
	must(t, err)
	defer conn.Close()
	must(t, conn.SetDeadline(time.Now().Add(20*time.Second)))
	fmt.Fprintf(conn, "GET %s/namespaces/default/flunders/a/talk HTTP/1.1\r\nHost: proa\r\nAuthorization: Bearer root\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n", wardle)
	in := bufio.NewReader(conn)
	resp, err := http.ReadResponse(in, nil)
	must(t, err)
	if resp.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("status %s", resp.Status)
	}
	fmt.Fprintln(conn, "hello")
	if line, err := in.ReadString('\n'); err != nil || line != "echo hello\n" {
		t.Errorf("%q, %v", line, err)
	}
}

func TestAggregatedDiscovery(t *testing.T) {
	for _, classic := range []bool{false, true} {
		t.Run(fmt.Sprintf("classic=%v", classic), func(t *testing.T) {
			h, e := aggregated(t, func(e *extension) { e.classic = classic })
			_, err := h.Client(auth.System("test")).Create(t.Context(), e.service())
			must(t, err)
			h.awaitCondition(t, "v1alpha1.wardle.example.com", "Passed")
			dc, err := discovery.NewDiscoveryClientForConfig(h.config("root"))
			must(t, err)
			h.awaitResources(t, dc)
			groups, err := dc.ServerGroups()
			must(t, err)
			var names []string
			for _, g := range groups.Groups {
				names = append(names, g.Name)
			}
			if i, k := slices.Index(names, "wardle.example.com"), slices.Index(names, "apps"); i < k || k < 0 {
				t.Errorf("the groups' order is %v", names)
			}
			w := h.call(http.MethodGet, "/apis/wardle.example.com", "application/json", nil)
			if w.Code != http.StatusOK || !strings.Contains(w.Body.String(), `"preferredVersion"`) {
				t.Errorf("the group: %d %s", w.Code, w.Body)
			}
		})
	}
}

// awaitResources waits until discovery shows what the extension serves: it is
// asked for that after it was found available.
func (h *harness) awaitResources(t *testing.T, dc *discovery.DiscoveryClient) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		_, lists, err := dc.ServerGroupsAndResources()
		for _, l := range lists {
			for _, r := range l.APIResources {
				if l.GroupVersion == "wardle.example.com/v1alpha1" && r.Name == "flunders" && r.Kind == "Flunder" && r.Namespaced && len(r.Verbs) == 3 {
					return
				}
			}
		}
		if time.Now().After(end) {
			t.Fatalf("flunders are not discovered; %v", err)
		}
	}
}

// TestUnreachable goes through the reasons that the world itself gives.
func TestUnreachable(t *testing.T) {
	h, _ := aggregated(t)
	const name = "v1alpha1.wardle.example.com"
	c := h.Client(auth.System("test"))
	port := corev1.ServicePort{Name: "https", Port: 443, Protocol: corev1.ProtocolTCP}
	svc := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "wardle", Name: "api"}, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{port}}}
	made, err := c.Create(t.Context(), svc)
	must(t, err)
	h.awaitCondition(t, name, "ServicePortError")
	_, err = c.Patch(t.Context(), h.row("apiregistration.k8s.io/apiservices"), client.Key{Name: name}, "",
		client.Patch{Type: "application/merge-patch+json", Data: []byte(`{"spec":{"service":{"port":443}}}`)})
	must(t, err)
	h.awaitCondition(t, name, "EndpointsNotFound")
	slice := &discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Namespace: "wardle", Name: "api-1", Labels: map[string]string{discoveryv1.LabelServiceName: "api"}},
		AddressType: discoveryv1.AddressTypeIPv4, Ports: []discoveryv1.EndpointPort{{Name: ptr.To("https"), Port: ptr.To[int32](1), Protocol: ptr.To(corev1.ProtocolTCP)}},
		Endpoints: []discoveryv1.Endpoint{{Addresses: []string{"192.0.2.7"}, Conditions: discoveryv1.EndpointConditions{Ready: ptr.To(false)}}}}
	_, err = c.Create(t.Context(), slice)
	must(t, err)
	h.awaitCondition(t, name, "MissingEndpoints")
	must(t, c.Delete(t.Context(), h.row("services"), client.KeyOf(made), metav1.DeleteOptions{}))
	h.awaitCondition(t, name, "ServiceNotFound")
}

// TestLocalAPIServices: what is served here has its APIService; the owner may
// change it, and one that is taken away stays away until the next start.
func TestLocalAPIServices(t *testing.T) {
	h := start(t)
	row := h.row("apiregistration.k8s.io/apiservices")
	got := h.awaitCondition(t, "v1.apps", "Local")
	if got.Status != apiregistrationv1.ConditionTrue || got.Message != "Local APIServices are always available" {
		t.Errorf("condition %+v", got)
	}
	c := h.Client(auth.System("test"))
	obj, err := c.Get(t.Context(), row, client.Key{Name: "v1."})
	must(t, err)
	s := obj.(*apiregistrationv1.APIService)
	if s.Spec.GroupPriorityMinimum != 18000 || s.Spec.VersionPriority != 1 || s.Labels["kube-aggregator.kubernetes.io/automanaged"] != "onstart" {
		t.Errorf("%+v %v", s.Spec, s.Labels)
	}
	if v := c.View().Get(row, "", "v1.apiregistration.k8s.io"); v != nil {
		t.Error("the group of APIServices has one itself")
	}
}

func TestAggregatedOpenAPI(t *testing.T) {
	h, e := aggregated(t)
	_, err := h.Client(auth.System("test")).Create(t.Context(), e.service())
	must(t, err)
	h.awaitCondition(t, "v1alpha1.wardle.example.com", "Passed")
	var index struct {
		Paths map[string]struct{ ServerRelativeURL string }
	}
	must(t, json.Unmarshal(h.call(http.MethodGet, "/openapi/v3", "application/json", nil).Body.Bytes(), &index))
	if index.Paths["apis/wardle.example.com/v1alpha1"].ServerRelativeURL == "" || index.Paths["apis/apps/v1"].ServerRelativeURL == "" {
		t.Errorf("the index lacks group versions: %v", index.Paths)
	}
	if _, ok := index.Paths["apis/other.example.com/v1"]; ok {
		t.Error("a group version of the server that no APIService names is shown")
	}
	if w := h.call(http.MethodGet, index.Paths["apis/wardle.example.com/v1alpha1"].ServerRelativeURL, "application/json", nil); w.Code != http.StatusOK || !strings.Contains(w.Body.String(), wardle+"/flunders") {
		t.Errorf("the remote document: %d %s", w.Code, w.Body)
	}
	var v2 struct{ Paths, Definitions map[string]json.RawMessage }
	must(t, json.Unmarshal(h.call(http.MethodGet, "/openapi/v2", "application/json", nil).Body.Bytes(), &v2))
	const meta = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"
	for _, path := range []string{wardle + "/flunders", "/apis/apps/v1/namespaces/{namespace}/deployments"} {
		if v2.Paths[path] == nil {
			t.Errorf("the document lacks %s", path)
		}
	}
	if v2.Paths["/apis/other.example.com/v1/things"] != nil || v2.Definitions["unused"] != nil {
		t.Error("the document has what no APIService asks for")
	}
	if strings.Contains(string(v2.Definitions[meta]), "another one") || !strings.Contains(string(v2.Definitions[meta+"_v2"]), "another one") {
		t.Errorf("a definition of the same name: %.80s, renamed: %s", v2.Definitions[meta], v2.Definitions[meta+"_v2"])
	}
	if got := string(v2.Definitions["io.wardle.Flunder"]); !strings.Contains(got, meta+`_v2"`) {
		t.Errorf("the reference does not follow the new name: %s", got)
	}
}
