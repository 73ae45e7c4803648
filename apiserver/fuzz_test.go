package apiserver_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"
)

// hostile sends a request straight to the handler, as an administrator, and fails
// for any answer that blames the server.
func (h *harness) hostile(t *testing.T, method, target, contentType string, body []byte) {
	t.Helper()
	u, err := url.ParseRequestURI(target)
	if err != nil {
		return // net/http answers 400 by itself
	}
	r := &http.Request{Method: method, URL: u, Host: "x", Proto: "HTTP/2.0", ProtoMajor: 2, Header: http.Header{}, ContentLength: int64(len(body)), RequestURI: target}
	r.Body = http.NoBody
	if len(body) > 0 {
		req, _ := http.NewRequest(method, "/", bytes.NewReader(body)) // only for its body
		r.Body = req.Body
	}
	r = r.WithContext(t.Context())
	r.Header.Set("Authorization", "Bearer root")
	r.Header.Set("Content-Type", contentType)
	w := httptest.NewRecorder()
	h.Handler().ServeHTTP(w, r)
	// An apply that names a field which the kind does not have is an internal
	// error upstream, too; a panic never is what was asked for.
	known := strings.Contains(contentType, "apply-patch") && !strings.Contains(w.Body.String(), "panicked")
	if w.Code >= 500 && w.Code != http.StatusServiceUnavailable && !known {
		t.Errorf("%d for %s %q with %s %q: %s", w.Code, method, target, contentType, body, w.Body)
	}
}

func fuzzHarness(f *testing.F) *harness {
	h := start(f)
	w := h.call(http.MethodPost, "/api/v1/namespaces/default/configmaps", "application/json", []byte(`{"metadata":{"name":"x","labels":{"a":"b"}},"data":{"k":"v"}}`))
	if w.Code != http.StatusCreated {
		f.Fatal(w.Body)
	}
	return h
}

const target = "/api/v1/namespaces/default/configmaps/x?dryRun=All&fieldManager=fuzz&force=true"

// FuzzPatch throws patches of every kind at an object.
func FuzzPatch(f *testing.F) {
	h := fuzzHarness(f)
	kinds := []string{"application/json-patch+json", "application/merge-patch+json", "application/strategic-merge-patch+json",
		"application/apply-patch+yaml", "application/apply-patch+cbor"}
	f.Add(byte(0), []byte(`[{"op":"replace","path":"/data/k","value":"w"},{"op":"copy","from":"/data","path":"/metadata/annotations"}]`))
	f.Add(byte(0), []byte(`[{"op":"add","path":"/metadata/finalizers/-","value":1},{"op":"test","path":"/a~1b~0","value":null}]`))
	f.Add(byte(1), []byte(`{"data":{"k":null},"metadata":{"labels":null}}`))
	f.Add(byte(2), []byte(`{"metadata":{"$patch":"replace","finalizers":["a"],"$setElementOrder/finalizers":["a"],"$deleteFromPrimitiveList/finalizers":["b"]}}`))
	f.Add(byte(2), []byte(`{"$patch":"delete","$retainKeys":["data"]}`))
	f.Add(byte(3), []byte("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\ndata: &a {k: v}\n"))
	f.Add(byte(4), []byte("\xd9\xd9\xf7\xa3\x4aapiVersion\x42v1\x44kind\x49ConfigMap\x48metadata\xa1\x44name\x41x"))
	f.Fuzz(func(t *testing.T, kind byte, body []byte) {
		h.hostile(t, http.MethodPatch, target, kinds[int(kind)%len(kinds)], body)
	})
}

// FuzzSelectors asks for lists in every way that a query can say.
func FuzzSelectors(f *testing.F) {
	h := fuzzHarness(f)
	f.Add("a=b,c in (d,e),!f", "metadata.name=x", "", "", "1")
	f.Add("a notin (b), c > 3", "metadata.name!=x,metadata.namespace=default", "eyJyIjoxfQ", "0", "-1")
	f.Add("((", "a\\,b=c\\=d", "bm90IGpzb24", "18446744073709551616", "x")
	f.Fuzz(func(t *testing.T, label, field, token, revision, limit string) {
		q := url.Values{"labelSelector": {label}, "fieldSelector": {field}, "continue": {token}, "resourceVersion": {revision}, "limit": {limit}}
		h.hostile(t, http.MethodGet, "/api/v1/namespaces/default/configmaps?"+q.Encode(), "", nil)
	})
}

// FuzzTargets asks for anything by any method.
func FuzzTargets(f *testing.F) {
	h := fuzzHarness(f)
	for _, path := range []string{"/", "/api/v1/namespaces/default/configmaps/x", "/apis//v1/x/y/z/w", "/api/v1/watch/pods?timeoutSeconds=1", "/api/v1/namespaces//pods/%2e%2e/proxy/",
		"/apis/apps/v1/namespaces/a/deployments/b/scale?pretty=1", "/readyz/etcd?exclude=%00", "/openapi/v3/../..", "/api/v1/nodes/n/proxy/metrics", "/debug/api_priority_and_fairness/dump_queues"} {
		for m := range 6 {
			f.Add(byte(m), path)
		}
	}
	methods := []string{http.MethodGet, http.MethodPost, http.MethodPut, http.MethodDelete, http.MethodHead, "QUERY"}
	f.Fuzz(func(t *testing.T, method byte, path string) {
		u, err := url.ParseRequestURI(path)
		if err != nil {
			return
		}
		q := u.Query()
		q.Set("timeoutSeconds", "1") // a watch must not last
		q.Set("dryRun", "All")
		if q.Has("watch") || len(path) > 5 && bytes.Contains([]byte(path), []byte("/watch")) {
			return
		}
		u.RawQuery = q.Encode()
		h.hostile(t, methods[int(method)%len(methods)], u.RequestURI(), "application/json", []byte("{}"))
	})
}

// FuzzManagedFields sends objects with managedFields that no server wrote.
func FuzzManagedFields(f *testing.F) {
	h := fuzzHarness(f)
	f.Add(`[{"manager":"a","operation":"Apply","apiVersion":"v1","fieldsType":"FieldsV1","fieldsV1":{"f:data":{"f:k":{},".":{}}}}]`)
	f.Add(`[{"fieldsV1":{"k:{\"a\":1}":{}}},{"operation":"Update","time":"x"}]`)
	f.Add(`[{"manager":"a","operation":"Update","apiVersion":"v9","fieldsType":"FieldsV1","fieldsV1":{"v:1":{},"i:0":{}}}]`)
	f.Fuzz(func(t *testing.T, fields string) {
		body := []byte(`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"x","managedFields":` + fields + `},"data":{"k":"w"}}`)
		h.hostile(t, http.MethodPut, target, "application/json", body)
		h.hostile(t, http.MethodPost, "/api/v1/namespaces/default/configmaps?dryRun=All", "application/json", body)
	})
}

// FuzzPages continues lists with made-up tokens: an answer of the list's own, or a
// refusal, and nothing of another namespace.
func FuzzPages(f *testing.F) {
	h := fuzzHarness(f)
	for _, text := range []string{`{"rv":0,"n":"x"}`, `{"rv":3,"ns":"kube-system","n":"a","new":true}`, `{"rv":1,"n":"","s":5}`, `{"new":true,"ns":"","n":"a","t":1}`} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, token []byte) {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond) // a revision to come is waited for
		defer cancel()
		q := url.Values{"limit": {"2"}, "continue": {base64.RawURLEncoding.EncodeToString(token)}}
		r := httptest.NewRequest(http.MethodGet, "/api/v1/namespaces/default/configmaps?"+q.Encode(), nil).WithContext(ctx)
		r.Header.Set("Authorization", "Bearer root")
		w := httptest.NewRecorder()
		h.Handler().ServeHTTP(w, r)
		if w.Code >= 500 && w.Code != http.StatusGatewayTimeout {
			t.Errorf("%d for %q: %s", w.Code, token, w.Body)
		}
		if strings.Contains(w.Body.String(), `"namespace":"kube-system"`) {
			t.Errorf("%q shows another namespace: %s", token, w.Body)
		}
	})
}
