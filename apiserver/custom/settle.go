package custom

import (
	"context"
	"time"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"proa/store"
)

// A client may read Established in the store a moment before the follower has
// put the rows in. These two let such a client's next request wait for that
// moment instead of finding nothing.

// settleTime bounds the wait: a follower that cannot write must not hold up
// those who ask for something else.
const settleTime = 2 * time.Second

// open notes that a first Established is being written, until the returned
// function is called.
func (f *Follower) open() (done func()) {
	gate := make(chan struct{})
	f.opening.Store(&gate)
	return func() {
		f.opening.Store(nil)
		close(gate)
	}
}

// Settle waits until all is served that this server is saying to be established.
// Discovery calls it: its documents are about all definitions.
func (f *Follower) Settle(ctx context.Context) {
	gate := f.opening.Load()
	if gate == nil {
		return
	}
	timer := time.NewTimer(settleTime)
	defer timer.Stop()
	select {
	case <-*gate:
	case <-timer.C:
	case <-ctx.Done():
	}
}

// Expect is for a request that found no row: it waits for one if the store has
// an established definition of it, whoever wrote that.
func (f *Follower) Expect(ctx context.Context, gvr schema.GroupVersionResource) {
	timer := time.NewTimer(settleTime)
	defer timer.Stop()
	for f.promised(gvr) {
		changed := f.cfg.Registry.Changed()
		if _, ok := f.cfg.Registry.ByGVR(gvr); ok {
			return
		}
		select {
		case <-changed:
		case <-timer.C:
			return
		case <-ctx.Done():
			return
		}
	}
}

// promised tells whether the stored definition says that a resource is served.
func (f *Follower) promised(gvr schema.GroupVersionResource) bool {
	if gvr.Group == "" {
		return false
	}
	rec := f.cfg.Store.Snapshot().Get(store.Key{Resource: crdKey, Name: gvr.Resource + "." + gvr.Group})
	if rec == nil {
		return false
	}
	crd, err := definitionOf(rec)
	if err != nil || !isTrue(&crd.Status, apiextensionsv1.Established) {
		return false
	}
	for _, v := range crd.Spec.Versions {
		if v.Name == gvr.Version {
			return v.Served
		}
	}
	return false
}
