package cluster

import (
	"context"
	"fmt"
	"net/http"
	"path/filepath"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
)

// requests counts what a client asks for.
type requests struct {
	to http.RoundTripper

	mu               sync.Mutex
	watches, expired int
}

func (r *requests) RoundTrip(q *http.Request) (*http.Response, error) {
	resp, err := r.to.RoundTrip(q)
	r.mu.Lock()
	defer r.mu.Unlock()
	if err == nil && q.URL.Query().Get("watch") != "" {
		r.watches++
	}
	if err == nil && resp.StatusCode == http.StatusGone {
		r.expired++
	}
	return resp, err
}

func (r *requests) begun() (watches, expired int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.watches, r.expired
}

// Informers and watches live across a restart, a proper one and a crash: what
// they know of the server's past is enough for the server to go on.
func TestWatchesSurviveARestart(t *testing.T) {
	v := newVictim(t, "", "", nil)
	seen, informed := follow(t, v)
	for _, crash := range []bool{false, true} {
		name := fmt.Sprint("crash-", crash)
		maps := v.client.CoreV1().ConfigMaps("default")
		made, err := maps.Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if err := maps.Delete(t.Context(), name, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		watches, _ := seen.begun()
		if crash {
			v.kill()
		} else {
			v.stop(t)
		}
		v.start(t)
		// A client that knew of the creation only.
		w, err := maps.Watch(t.Context(), metav1.ListOptions{ResourceVersion: made.ResourceVersion, FieldSelector: "metadata.name=" + name})
		if err != nil {
			t.Fatal(err)
		}
		if ev := <-w.ResultChan(); ev.Type != watch.Deleted {
			t.Errorf("%s: the watch says %s %v", name, ev.Type, ev.Object)
		}
		w.Stop()
		eventually(t, "the informer's next watch", func() bool { n, _ := seen.begun(); return n > watches })
		if _, err := maps.Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name + "-after"}}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the informer goes on", func() bool { return informed(name + "-after") })
	}
	if _, n := seen.begun(); n > 0 {
		t.Errorf("the informer was told %d times that its revision is too old", n)
	}
}

// follow runs an informer of ConfigMaps until the test ends.
func follow(t *testing.T, v *victim) (*requests, func(name string) bool) {
	t.Helper()
	config, err := clientcmd.BuildConfigFromFlags("", filepath.Join(v.dir, "kubeconfig"))
	if err != nil {
		t.Fatal(err)
	}
	seen := &requests{}
	config.Wrap(func(to http.RoundTripper) http.RoundTripper { seen.to = to; return seen })
	c, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	factory := informers.NewSharedInformerFactoryWithOptions(c, time.Hour, informers.WithNamespace("default"))
	informer := factory.Core().V1().ConfigMaps().Informer()
	ctx, cancel := context.WithCancel(t.Context())
	factory.StartWithContext(ctx)
	t.Cleanup(func() { cancel(); factory.Shutdown() })
	if !cache.WaitForCacheSync(ctx.Done(), informer.HasSynced) {
		t.Fatal("no sync")
	}
	return seen, func(name string) bool {
		_, found, err := informer.GetStore().GetByKey("default/" + name)
		return err == nil && found
	}
}
