package proxy

import (
	"fmt"
	"iter"
	"net/netip"
	"runtime"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"proa/api"
	"proa/client"
	"proa/internal/netnstest"
	"proa/internal/nft"
)

// bigWorld is a view of many Services that finds each at once, as the store
// does.
type bigWorld struct {
	services map[string]*corev1.Service
	slices   map[string]*discoveryv1.EndpointSlice
}

func (w *bigWorld) Revision() uint64 { return 1 }

func (w *bigWorld) Get(_ *api.Resource, namespace, name string) client.Object {
	if s := w.services[namespace+"/"+name]; s != nil {
		return s
	}
	return nil
}

func (w *bigWorld) List(*api.Resource, string) iter.Seq[client.Object] {
	return func(yield func(client.Object) bool) {
		for _, s := range w.services {
			if !yield(s) {
				return
			}
		}
	}
}

func (w *bigWorld) Index(_ *api.Resource, _, value string) iter.Seq[client.Object] {
	return func(yield func(client.Object) bool) {
		if s := w.slices[value]; s != nil {
			yield(s)
		}
	}
}

func makeWorld(services int) *bigWorld {
	w := &bigWorld{map[string]*corev1.Service{}, map[string]*discoveryv1.EndpointSlice{}}
	ip := netip.MustParseAddr("10.97.0.1")
	for i := range services {
		name := fmt.Sprintf("svc-%d", i)
		w.services["default/"+name] = service(name, ip.String(), nodePort(int32(1+i)))
		w.slices["default/"+name] = slice(name, 8080, "10.244.0.5@a", "10.244.0.6@a", "10.244.1.7@b")
		ip = ip.Next()
	}
	return w
}

// BenchmarkOneEndpoint is the time from a changed slice to changed rules.
func BenchmarkOneEndpoint(b *testing.B) {
	for _, services := range []int{10, 1000, 10000} {
		w := makeWorld(services)
		// "doubled" makes the group move to a chain for twice as many.
		for kind, states := range map[string][2][]string{
			"doubled":  {{"10.244.0.5@a", "10.244.0.6@a", "10.244.0.7@a", "10.244.0.8@a"}, {"10.244.0.5@a", "10.244.0.6@a", "10.244.0.7@a", "10.244.0.8@a", "10.244.1.7@b"}},
			"replaced": {{"10.244.0.5@a", "10.244.0.6@a", "10.244.1.7@b"}, {"10.244.0.5@a", "10.244.0.9@a", "10.244.1.7@b"}},
			"added":    {{"10.244.0.5@a", "10.244.0.6@a", "10.244.1.7@b"}, {"10.244.0.5@a", "10.244.0.6@a", "10.244.1.7@b", "10.244.0.9@a"}},
		} {
			b.Run(fmt.Sprintf("%s-%d", kind, services), func(b *testing.B) { benchmarkOne(b, w, states) })
		}
	}
}

func benchmarkOne(b *testing.B, w *bigWorld, states [2][]string) {
	s, done := startSyncer(b, w)
	defer done()
	keys := map[client.Key]bool{{Namespace: "default", Name: "svc-3"}: true}
	both := [2]*discoveryv1.EndpointSlice{slice("svc-3", 8080, states[0]...), slice("svc-3", 8080, states[1]...)}
	b.ResetTimer()
	for i := range b.N {
		w.slices["default/svc-3"] = both[(i+1)%2]
		netnstest.Check(b, s.apply(w, keys))
	}
}

func startSyncer(b *testing.B, w *bigWorld) (*syncer, func()) {
	conn, err := nft.Dial()
	netnstest.Check(b, err)
	s := &syncer{Proxy: New(testConfig), conn: conn}
	netnstest.Check(b, s.apply(w, nil))
	return s, func() {
		conn.Close()
		netnstest.Check(b, Cleanup())
	}
}

// BenchmarkFull is the time to replace the whole table.
func BenchmarkFull(b *testing.B) {
	for _, services := range []int{10, 1000, 10000} {
		w := makeWorld(services)
		b.Run(fmt.Sprintf("%d", services), func(b *testing.B) {
			var before, after runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&before)
			s, done := startSyncer(b, w)
			defer done()
			runtime.GC()
			runtime.ReadMemStats(&after)
			b.ResetTimer()
			for range b.N {
				s.state = nil
				netnstest.Check(b, s.apply(w, nil))
			}
			b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/float64(services), "B/service")
		})
	}
}
