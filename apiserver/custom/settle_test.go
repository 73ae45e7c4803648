package custom_test

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"proa/store"
)

// gated is a store whose writes of a first Established can be looked at: before
// is called with the write not done, after with it done but not yet known to
// who asked for it.
type gated struct {
	store.Interface
	before, after func() error
}

func (g *gated) Commit(ctx context.Context, writes ...store.Write) ([]*store.Record, error) {
	if len(writes) != 1 || !establishes(writes[0]) {
		return g.Interface.Commit(ctx, writes...)
	}
	if err := g.before(); err != nil {
		return nil, err
	}
	out, err := g.Interface.Commit(ctx, writes...)
	return out, errors.Join(err, g.after())
}

func establishes(w store.Write) bool {
	crd, ok := w.Object.(*apiextensionsv1.CustomResourceDefinition)
	return ok && strings.HasPrefix(conditionOf(crd, apiextensionsv1.Established), "True")
}

const widgetPath = "/apis/example.com/v1/namespaces/default/widgets"

// TestEstablishedFirst looks at a definition before its Established is written,
// when nobody may find the resource, and right after, when everybody must.
func TestEstablishedFirst(t *testing.T) {
	var h *harness
	tried := make(chan []answer, 1)
	g := &gated{
		before: func() error {
			if h.registry.ByKey("example.com/widgets") != nil {
				t.Error("the resource is served before its definition says so")
			}
			h.get("/version") // the connection is there from now on
			return nil
		},
		after: func() error {
			go func() {
				tried <- []answer{h.get(widgetPath), h.get("/apis/example.com/v1")}
			}()
			time.Sleep(300 * time.Millisecond) // lets a server that does not wait answer wrongly
			return nil
		},
	}
	h = openOn(t, vfs.NewMem(), func(s store.Interface) store.Interface { g.Interface = s; return g })
	h.define(widgets)
	for i, a := range <-tried {
		if a.code != 200 {
			t.Errorf("request %d of one who has read Established: %d %s", i, a.code, a.body)
		}
	}
}

const aggregatedList = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"

// TestDiscoveryWaits is the same for a client whose first request is discovery.
func TestDiscoveryWaits(t *testing.T) {
	var h *harness
	tried := make(chan answer, 1)
	g := &gated{
		before: func() error { h.get("/version"); return nil },
		after: func() error {
			go func() { tried <- h.get("/apis", "Accept", aggregatedList) }()
			time.Sleep(300 * time.Millisecond) // as above
			return nil
		},
	}
	h = openOn(t, vfs.NewMem(), func(s store.Interface) store.Interface { g.Interface = s; return g })
	h.define(widgets)
	if a := <-tried; a.code != 200 || !strings.Contains(string(a.body), "widgets") {
		t.Errorf("discovery right after Established: %d without widgets", a.code)
	}
}

// TestStatusIsTriedAgain has the datastore refuse the first attempt: the
// resource is served by the second, not before.
func TestStatusIsTriedAgain(t *testing.T) {
	var h *harness
	var attempts atomic.Int32
	g := &gated{
		before: func() error {
			if h.registry.ByKey("example.com/widgets") != nil {
				t.Error("the resource is served before its definition says so")
			}
			if attempts.Add(1) == 1 {
				return store.ErrNoSpace
			}
			return nil
		},
		after: func() error { return nil },
	}
	h = openOn(t, vfs.NewMem(), func(s store.Interface) store.Interface { g.Interface = s; return g })
	crd := definition(t, widgets)
	_, err := h.crds.ApiextensionsV1().CustomResourceDefinitions().Create(t.Context(), crd, metav1.CreateOptions{})
	must(t, err)
	h.eventually("the first attempt has failed", func() bool { return attempts.Load() > 0 })
	h.established(crd.Name)
	if a := h.get(widgetPath); a.code != 200 {
		t.Errorf("after the second attempt: %d %s", a.code, a.body)
	}
}
