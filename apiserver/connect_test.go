package apiserver_test

import (
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/serializer/cbor/direct"
	"k8s.io/utils/ptr"

	"proa/apiserver"
	"proa/auth"
	"proa/client"
)

// kubelet answers with what it was asked for.
func kubelet(node string) (http.Handler, error) {
	if node != "n1" {
		return nil, errors.New("no such node")
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "" {
			http.Error(w, "the client's credentials were passed on", http.StatusInternalServerError)
			return
		}
		fmt.Fprintf(w, "%s %s", r.Method, r.URL.RequestURI())
	}), nil
}

// onNode makes a pod of two containers and binds it.
func onNode(t *testing.T, h *harness, node string, containers ...string) {
	t.Helper()
	c := h.Client(auth.System("test"))
	_, err := c.Create(t.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "default"}})
	must(t, err)
	p := podNamed("p")
	p.Namespace, p.Spec.Containers = "default", nil
	for _, name := range containers {
		p.Spec.Containers = append(p.Spec.Containers, corev1.Container{Name: name, Image: "i", Ports: []corev1.ContainerPort{{Name: "web", ContainerPort: 8080}}})
	}
	made, err := c.Create(t.Context(), p)
	must(t, err)
	_, err = c.Post(t.Context(), h.row("pods"), client.KeyOf(made), "binding", &corev1.Binding{Target: corev1.ObjectReference{Name: node}})
	must(t, err)
}

// TestKubeletURLs checks the form in which requests reach a node.
func TestKubeletURLs(t *testing.T) {
	h := start(t, func(c *apiserver.Config) { c.Node = kubelet })
	onNode(t, h, "n1", "a", "b")
	for _, name := range []string{"n1", "n2"} {
		_, err := h.Client(auth.System("test")).Create(t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}})
		must(t, err)
	}
	const pod = "/api/v1/namespaces/default/pods/p"
	for _, c := range []struct {
		method, path string
		code         int
		want         string
	}{
		{"GET", pod + "/log?container=a&tailLines=3&follow=true", 200, "GET /containerLogs/default/p/a?follow=true&tailLines=3"},
		{"GET", pod + "/log", 400, "a container name must be specified for pod p, choose one of: [a b]"},
		{"GET", pod + "/log?container=c", 400, "container c is not valid for pod p"},
		{"POST", pod + "/exec?container=b&command=ls&command=-l&stdout=true&tty=true", 200, "POST /exec/default/p/b?command=ls&command=-l&output=1&tty=1"},
		{"POST", pod + "/attach?container=b&stdin=1", 200, "POST /attach/default/p/b?input=1"},
		{"POST", pod + "/portforward?ports=80", 200, "POST /portForward/default/p?port=80"},
		{"GET", "/api/v1/nodes/n1/proxy/stats/summary?x=y", 200, "GET /stats/summary?x=y"},
		{"GET", "/api/v1/nodes/n2/proxy/healthz", 503, "node n2 cannot be reached"},
		{"GET", "/api/v1/nodes/n3/proxy/healthz", 404, `nodes \"n3\" not found`},
		{"GET", "/api/v1/nodes/n1/proxy", 301, ""},
		{"OPTIONS", "/api/v1/nodes/n1/proxy/x", 200, "OPTIONS /x"},
		{"GET", pod + "/log?container=a&tailLines=-1", 422, "tailLines: Invalid value: -1: must be greater than or equal to 0"},
		{"GET", pod + "/log?container=a&sinceSeconds=1&sinceTime=2026-01-02T03:04:05Z", 422, "at most one of `sinceTime` or `sinceSeconds` may be specified"},
		{"GET", pod + "/log?container=a&limitBytes=x", 400, "limitBytes"},
		{"GET", "/api/v1/namespaces/default/pods/q/log", 404, `pods \"q\" not found`},
	} {
		w := h.call(c.method, c.path, "application/json", nil)
		if w.Code != c.code || !strings.Contains(w.Body.String(), c.want) {
			t.Errorf("%s %s: %d %s, want %d %s", c.method, c.path, w.Code, w.Body, c.code, c.want)
		}
	}
}

// podAt gives the pod an address, at which dialTo finds the app.
const podAt = "192.0.2.10"

func dialTo(app *httptest.Server) func(*apiserver.Config) {
	return func(c *apiserver.Config) {
		c.Node = kubelet
		c.DialPod = func(ctx context.Context, network, address string) (net.Conn, error) {
			if address != podAt+":8080" {
				return nil, fmt.Errorf("nobody listens at %s", address)
			}
			return (&net.Dialer{}).DialContext(ctx, network, app.Listener.Addr().String())
		}
	}
}

// proxied starts a server with a Service and its pod, behind which the app is.
func proxied(t *testing.T, app *httptest.Server) *harness {
	t.Helper()
	h := start(t, dialTo(app))
	onNode(t, h, "n1", "a")
	c := h.Client(auth.System("test"))
	obj, err := c.Get(t.Context(), h.row("pods"), client.Key{Namespace: "default", Name: "p"})
	must(t, err)
	p := obj.DeepCopyObject().(*corev1.Pod)
	p.Status.PodIP, p.Status.PodIPs = podAt, []corev1.PodIP{{IP: podAt}}
	_, err = c.Update(t.Context(), p, "status")
	must(t, err)
	meta := metav1.ObjectMeta{Namespace: "default", Name: "s", Labels: map[string]string{discoveryv1.LabelServiceName: "s"}}
	_, err = c.Create(t.Context(), &corev1.Service{ObjectMeta: meta, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{
		{Name: "web", Port: 80}, {Name: "other", Port: 81}}}})
	must(t, err)
	ref := &corev1.ObjectReference{Kind: "Pod", Namespace: "default", Name: "p"}
	_, err = c.Create(t.Context(), &discoveryv1.EndpointSlice{ObjectMeta: meta, AddressType: discoveryv1.AddressTypeIPv4,
		Ports: []discoveryv1.EndpointPort{{Name: ptr.To("web"), Port: ptr.To[int32](8080)}},
		Endpoints: []discoveryv1.Endpoint{{Addresses: []string{podAt}, TargetRef: ref},
			{Addresses: []string{"192.0.2.99"}, TargetRef: ref}, {Addresses: []string{"192.0.2.98"}}}})
	must(t, err)
	return h
}

// TestProxies reaches a server by its pod's and its Service's name.
func TestProxies(t *testing.T) {
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/moved":
			http.Redirect(w, r, "/there", http.StatusFound)
		case "/page":
			w.Header().Set("Content-Type", "text/html")
			w.Header().Set("Access-Control-Allow-Origin", "*")
			fmt.Fprint(w, `<a href="/there">x</a>`)
		default:
			body, _ := io.ReadAll(r.Body)
			fmt.Fprintf(w, "%s %s %q %s", r.Method, r.URL.RequestURI(), r.Header.Get("Authorization"), body)
		}
	}))
	defer app.Close()
	h := proxied(t, app)
	const ns = "/api/v1/namespaces/default/"
	for _, c := range []struct {
		method, path string
		code         int
		want         string
	}{
		{"GET", ns + "pods/p/proxy/hello?a=b", 200, `GET /hello?a=b "" `},
		{"GET", ns + "pods/p:8080/proxy/", 200, `GET / "" `},
		{"POST", ns + "pods/http:p:web/proxy/a//b/", 200, `POST /a//b/ "" body`},
		{"DELETE", ns + "pods/p/proxy/x", 200, `DELETE /x "" `},
		{"OPTIONS", ns + "pods/p/proxy/x", 200, `OPTIONS /x "" `},
		{"GET", ns + "pods/p:1/proxy/", 503, "error trying to reach service: nobody listens at 192.0.2.10:1"},
		{"GET", ns + "pods/ftp:p:1/proxy/", 400, `invalid pod request \"ftp:p:1\"`},
		{"GET", ns + "pods/p/proxy", 301, ""},
		{"GET", ns + "services/s:web/proxy/x", 200, `GET /x "" `},
		{"PUT", ns + "services/s:80/proxy/x", 200, `PUT /x "" body`},
		{"GET", ns + "services/s:81/proxy/x", 503, `no endpoints available for service \"s\"`},
		{"GET", ns + "services/s:82/proxy/x", 503, `no service port 82 found for service \"s\"`},
		{"GET", ns + "services/s/proxy/x", 503, `no endpoints available for service \"s\"`},
		{"GET", ns + "services/t/proxy/x", 404, `services \"t\" not found`},
		{"GET", ns + "pods/p/proxy/page", 200, `href="` + ns + `pods/p/proxy/there"`},
	} {
		var body io.Reader
		if c.method == "POST" || c.method == "PUT" {
			body = strings.NewReader("body")
		}
		w := h.callWith(c.method, c.path, body)
		if w.Code != c.code || !strings.Contains(w.Body.String(), c.want) {
			t.Errorf("%s %s: %d %s, want %d %s", c.method, c.path, w.Code, w.Body, c.code, c.want)
		}
		if w.Header().Get("Access-Control-Allow-Origin") != "" {
			t.Error("a backend says who may share what this server answers")
		}
	}
	if got := h.callWith("GET", ns+"pods/p/proxy/moved", nil).Header().Get("Location"); got != ns+"pods/p/proxy/there" {
		t.Errorf("a redirect leads to %q", got)
	}
}

func (h *harness) callWith(method, path string, body io.Reader) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, path, body)
	r.Header.Set("Authorization", "Bearer root")
	w := httptest.NewRecorder()
	h.Handler().ServeHTTP(w, r)
	return w
}

// TestOpenStreamsNeedCreate: a stream by GET needs the right to create as well.
func TestOpenStreamsNeedCreate(t *testing.T) {
	h := start(t, func(c *apiserver.Config) { c.Node, c.Authorizer = kubelet, auth.Authorizers{auth.Masters{}, readers{}} })
	onNode(t, h, "n1", "a")
	for _, sub := range []string{"exec", "attach", "portforward"} {
		r := httptest.NewRequest(http.MethodGet, "/api/v1/namespaces/default/pods/p/"+sub, nil)
		r.Header.Set("Authorization", "Bearer reader")
		w := httptest.NewRecorder()
		h.Handler().ServeHTTP(w, r)
		if w.Code != http.StatusForbidden || !strings.Contains(w.Body.String(), `cannot create resource \"pods/`+sub+`\"`) {
			t.Errorf("%s: %d %s", sub, w.Code, w.Body)
		}
	}
}

// readers may get.
type readers struct{}

func (readers) Authorize(_ context.Context, a auth.Attributes) (auth.Decision, string, error) {
	if a.Verb == "get" {
		return auth.Allow, "", nil
	}
	return auth.NoOpinion, "", nil
}

func TestCBOR(t *testing.T) {
	h := start(t)
	h.fill(t, 3)
	w := h.call(http.MethodGet, "/api/v1/namespaces/default/configmaps", "application/cbor", nil)
	var list corev1.ConfigMapList
	must(t, direct.Unmarshal(w.Body.Bytes(), &list))
	if list.Kind != "ConfigMapList" || len(list.Items) != 3 || list.Items[2].ResourceVersion == "" {
		t.Errorf("%+v", list)
	}
	list.Items[0].Data["more"] = "x"
	list.Items[0].TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "ConfigMap"}
	body, err := direct.Marshal(list.Items[0])
	must(t, err)
	r := httptest.NewRequest(http.MethodPut, "/api/v1/namespaces/default/configmaps/"+list.Items[0].Name, strings.NewReader(string(body)))
	r.Header.Set("Authorization", "Bearer root")
	r.Header.Set("Content-Type", "application/cbor")
	put := httptest.NewRecorder()
	h.Handler().ServeHTTP(put, r)
	if put.Code != http.StatusOK || !strings.Contains(put.Body.String(), `"more":"x"`) {
		t.Errorf("%d %s", put.Code, put.Body)
	}
}

func TestGzip(t *testing.T) {
	h := start(t)
	h.fill(t, 800)
	r := httptest.NewRequest(http.MethodGet, "/api/v1/configmaps", nil)
	r.Header.Set("Authorization", "Bearer root")
	r.Header.Set("Accept-Encoding", "gzip")
	w := httptest.NewRecorder()
	h.Handler().ServeHTTP(w, r)
	if w.Header().Get("Content-Encoding") != "gzip" {
		t.Fatal("a large answer was not compressed")
	}
	z, err := gzip.NewReader(w.Body)
	must(t, err)
	data, err := io.ReadAll(z)
	must(t, err)
	if plain := h.call(http.MethodGet, "/api/v1/configmaps", "application/json", nil); plain.Body.String() != string(data) {
		t.Error("compressed and plain answers differ")
	}
}
