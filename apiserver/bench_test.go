package apiserver_test

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"proa/api"
	"proa/auth"
	"proa/client"
)

const protobuf = "application/vnd.kubernetes.protobuf"

// call drives the handler without a network, to measure the request path alone.
func (h *harness) call(method, path, accept string, body []byte) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, path, bytes.NewReader(body))
	r.Header.Set("Authorization", "Bearer root")
	r.Header.Set("Accept", accept)
	r.Header.Set("User-Agent", "bench/1")
	w := httptest.NewRecorder()
	h.Handler().ServeHTTP(w, r)
	return w
}

func (h *harness) fill(b testing.TB, n int) {
	c := h.Client(auth.System("bench"))
	for i := range n {
		_, err := c.Create(context.Background(), &corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: fmt.Sprintf("filled-%05d", i), Labels: map[string]string{"app": "x"}},
			Data:       map[string]string{"key": "a value of some length, so that it resembles one"},
		})
		must(b, err)
	}
}

func BenchmarkCreate(b *testing.B) {
	h := start(b)
	var n atomic.Int64
	b.ReportAllocs()
	b.SetParallelism(32)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			body := fmt.Sprintf(`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"c%d"},"data":{"a":"b"}}`, n.Add(1))
			if w := h.call(http.MethodPost, "/api/v1/namespaces/default/configmaps", "application/json", []byte(body)); w.Code != http.StatusCreated {
				b.Fatal(w.Body)
			}
		}
	})
}

func BenchmarkUpdateInProcess(b *testing.B) {
	h := start(b)
	h.fill(b, 1)
	c := h.Client(auth.System("bench"))
	row := api.Builtin().ByKey("configmaps")
	b.ReportAllocs()
	for i := range b.N {
		obj := c.View().Get(row, "default", "filled-00000").DeepCopyObject().(*corev1.ConfigMap)
		obj.Data["key"] = fmt.Sprint(i)
		_, err := c.Update(b.Context(), obj, "")
		must(b, err)
	}
}

func BenchmarkGet(b *testing.B) {
	h := start(b)
	h.fill(b, 1)
	for _, accept := range []string{"application/json", protobuf} {
		b.Run(accept, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if w := h.call(http.MethodGet, "/api/v1/namespaces/default/configmaps/filled-00000", accept, nil); w.Code != http.StatusOK {
					b.Fatal(w.Body)
				}
			}
		})
	}
}

func BenchmarkList5000(b *testing.B) {
	h := start(b)
	h.fill(b, 5000)
	for _, accept := range []string{"application/json", protobuf} {
		b.Run(accept, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if w := h.call(http.MethodGet, "/api/v1/configmaps", accept, nil); w.Code != http.StatusOK {
					b.Fatal(w.Body)
				}
			}
		})
	}
}

// BenchmarkWatch measures one write that a hundred watchers see.
func BenchmarkWatch(b *testing.B) {
	h := start(b)
	h.fill(b, 1)
	const watchers = 100
	seen := make(chan struct{}, watchers)
	ctx, cancel := context.WithCancel(b.Context())
	defer cancel()
	for range watchers {
		w, err := h.clients(b, runtime.ContentTypeProtobuf).CoreV1().RESTClient().Get().Namespace("default").Resource("configmaps").
			VersionedParams(&metav1.ListOptions{Watch: true}, metav1.ParameterCodec).Stream(ctx)
		must(b, err)
		go func() {
			buf := make([]byte, 64<<10)
			for {
				if _, err := w.Read(buf); err != nil {
					return
				}
				seen <- struct{}{}
			}
		}()
	}
	for range watchers {
		<-seen
	}
	c := h.Client(auth.System("bench"))
	row := api.Builtin().ByKey("configmaps")
	b.ReportAllocs()
	for i := range b.N {
		_, err := c.Patch(ctx, row, client.Key{Namespace: "default", Name: "filled-00000"}, "", client.Patch{Type: "application/merge-patch+json", Data: fmt.Appendf(nil, `{"data":{"n":"%d"}}`, i)})
		must(b, err)
		for range watchers {
			<-seen
		}
	}
	b.ReportMetric(float64(b.N*watchers)/b.Elapsed().Seconds(), "events/s")
}
