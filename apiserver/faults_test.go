package apiserver_test

import (
	"bytes"
	"context"
	"net/http"
	"testing"

	"proa/apiserver"
	"proa/auth"
)

func TestBodies(t *testing.T) {
	h := start(t)
	post := func(body string) int {
		return h.call(http.MethodPost, "/api/v1/namespaces/default/configmaps", "application/json", []byte(body)).Code
	}
	for _, body := range []string{"null", "[]", `"x"`, "\x00", "{}{}", `{"metadata":null}`, `{"metadata":[]}`, "\xff\xfe", "k8s\x00\xff\xff"} {
		if code := post(body); code < 400 || code >= 500 {
			t.Errorf("%q: %d", body, code)
		}
	}
}

// FuzzDecode throws bodies in every encoding at a create.
func FuzzDecode(f *testing.F) {
	h := start(f)
	f.Add(byte(0), []byte(`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"x"}}`))
	f.Add(byte(1), []byte("metadata: {name: x}\n"))
	f.Add(byte(2), []byte("k8s\x00\x0a\x0f\x0a\x02v1\x12\x09ConfigMap\x12\x00"))
	f.Add(byte(3), []byte("\xd9\xd9\xf7\xa1dkindiConfigMap"))
	types := []string{"application/json", "application/yaml", protobuf, "application/cbor"}
	f.Fuzz(func(t *testing.T, kind byte, body []byte) {
		r, _ := http.NewRequest(http.MethodPost, "/api/v1/namespaces/default/configmaps?dryRun=All", bytes.NewReader(body))
		r.Header.Set("Authorization", "Bearer root")
		r.Header.Set("Content-Type", types[int(kind)%len(types)])
		w := &sink{header: http.Header{}}
		h.Handler().ServeHTTP(w, r)
		if w.code >= 500 {
			t.Errorf("%d for %q", w.code, body)
		}
	})
}

type sink struct {
	header http.Header
	code   int
}

func (s *sink) Header() http.Header         { return s.header }
func (s *sink) Write(p []byte) (int, error) { return len(p), nil }
func (s *sink) WriteHeader(code int)        { s.code = code }

type panicky struct{ auth.Authorizer }

func (p panicky) Authorize(ctx context.Context, a auth.Attributes) (auth.Decision, string, error) {
	if a.Name == "boom" {
		panic("boom")
	}
	return p.Authorizer.Authorize(ctx, a)
}

func TestPanicStaysWithItsRequest(t *testing.T) {
	h := start(t, func(c *apiserver.Config) { c.Authorizer = panicky{c.Authorizer} })
	if w := h.call(http.MethodGet, "/api/v1/namespaces/boom", "application/json", nil); w.Code != http.StatusInternalServerError {
		t.Errorf("a panic: %d", w.Code)
	}
	if w := h.call(http.MethodGet, "/api/v1/namespaces/default", "application/json", nil); w.Code != http.StatusOK {
		t.Errorf("the next request: %d", w.Code)
	}
}
