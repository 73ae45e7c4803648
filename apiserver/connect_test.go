package apiserver_test

import (
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/serializer/cbor/direct"

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
		{"GET", "/api/v1/namespaces/default/pods/q/log", 404, `pods \"q\" not found`},
	} {
		w := h.call(c.method, c.path, "application/json", nil)
		if w.Code != c.code || !strings.Contains(w.Body.String(), c.want) {
			t.Errorf("%s %s: %d %s, want %d %s", c.method, c.path, w.Code, w.Body, c.code, c.want)
		}
	}
}

// TestPodProxy reaches a server by a pod's address.
func TestPodProxy(t *testing.T) {
	h := start(t, func(c *apiserver.Config) { c.Node = kubelet })
	onNode(t, h, "n1", "a")
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "app got %s from %q", r.URL.RequestURI(), r.Header.Get("Authorization"))
	}))
	defer app.Close()
	host, port, err := net.SplitHostPort(app.Listener.Addr().String())
	must(t, err)
	c := h.Client(auth.System("test"))
	obj, err := c.Get(t.Context(), h.row("pods"), client.Key{Namespace: "default", Name: "p"})
	must(t, err)
	p := obj.DeepCopyObject().(*corev1.Pod)
	p.Status.PodIP, p.Status.PodIPs = host, []corev1.PodIP{{IP: host}}
	_, err = c.Update(t.Context(), p, "status")
	must(t, err)
	w := h.call(http.MethodGet, "/api/v1/namespaces/default/pods/p:"+port+"/proxy/hello?a=b", "*/*", nil)
	if want := `app got /hello?a=b from ""`; w.Code != http.StatusOK || w.Body.String() != want {
		t.Errorf("%d %q, want %q", w.Code, w.Body, want)
	}
	if w := h.call(http.MethodGet, "/api/v1/namespaces/default/pods/p:1/proxy/", "*/*", nil); w.Code != http.StatusServiceUnavailable {
		t.Errorf("a port where nobody listens: %d", w.Code)
	}
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
