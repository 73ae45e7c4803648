package differential

import (
	"context"
	"errors"
	"iter"
	"net"
	"net/netip"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/registry/generic"
	genericregistry "k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/storagebackend"
	"k8s.io/apiserver/pkg/storage/storagebackend/factory"
	"k8s.io/client-go/tools/cache"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	internalcore "k8s.io/kubernetes/pkg/apis/core"
	"k8s.io/kubernetes/pkg/registry/core/service/ipallocator"
	servicestorage "k8s.io/kubernetes/pkg/registry/core/service/storage"

	"proa/api"
	"proa/apiserver/admission"
	"proa/store"
)

const (
	serviceRange = "10.0.0.0/16"
	firstPort    = 30000
	lastPort     = 32767
)

// allocation is what both do to a Service besides its row: addresses and ports
// are given, here by allocators in which everything is free.
type allocation struct {
	theirs *servicestorage.REST
	ours   admission.Plugin
}

func newAllocation(t *testing.T) *allocation {
	t.Helper()
	chain, err := admission.Default(admission.Config{ServiceCIDR: netip.MustParsePrefix(serviceRange), NodePorts: [2]int{firstPort, lastPort}})
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(chain, func(p admission.Plugin) bool { return p.Name == "ServiceAllocation" })
	options := generic.RESTOptions{
		StorageConfig: &storagebackend.ConfigForResource{Config: storagebackend.Config{Codec: legacyscheme.Codecs.LegacyCodec(corev1.SchemeGroupVersion)}},
		Decorator:     noStorage, ResourcePrefix: "/services",
	}
	all := map[internalcore.IPFamily]ipallocator.Interface{internalcore.IPv4Protocol: freeIPs{}}
	theirs, _, _, err := servicestorage.NewREST(options, internalcore.IPv4Protocol, all, &freePorts{}, nil, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	return &allocation{theirs, chain[i]}
}

func noStorage(*storagebackend.ConfigForResource, string, func(runtime.Object) (string, error), func() runtime.Object, func() runtime.Object,
	storage.AttrFunc, storage.IndexerFuncs, *cache.Indexers) (storage.Interface, factory.DestroyFunc, error) {
	return nil, func() {}, nil
}

// begin is what upstream's storage does before its strategy; old is nil on
// create.
func (a *allocation) begin(ctx context.Context, obj, old runtime.Object) error {
	var finish genericregistry.FinishFunc
	var err error
	if old == nil {
		finish, err = a.theirs.BeginCreate(ctx, obj, &metav1.CreateOptions{})
	} else {
		finish, err = a.theirs.BeginUpdate(ctx, obj, old, &metav1.UpdateOptions{})
	}
	if err == nil {
		finish(ctx, false)
	}
	return err
}

func (a *allocation) finish(r *api.Resource, op admission.Operation, obj, old api.Object) error {
	q := &admission.Request{Resource: r, Op: op, Object: obj, Old: old, Namespace: obj.GetNamespace(), Name: obj.GetName(), World: nothing{}, DryRun: true}
	if !a.ours.Finishes(q) {
		return nil
	}
	return a.ours.Finish(context.Background(), q)
}

// nothing is a world in which nothing is taken.
type nothing struct{ store.Snapshot }

func (nothing) Get(store.Key) *store.Record { return nil }

func (nothing) List(store.Scope, store.Key) iter.Seq[*store.Record] {
	return func(func(*store.Record) bool) {}
}

// allocations are those of the kinds that something is given to.
var allocations = map[string]*allocation{}

// hide makes what was allocated alike in both verdicts.
func hide(given, old api.Object, v verdict) verdict {
	if s, ok := v.obj.(*corev1.Service); ok {
		was, _ := old.(*corev1.Service)
		hideAllocated(s, given.(*corev1.Service), was)
	}
	return v
}

// hideAllocated hides which of the free addresses and ports were taken.
func hideAllocated(s, given, old *corev1.Service) {
	asked := func(ip string) bool {
		return slices.Contains(given.Spec.ClusterIPs, ip) || ip == given.Spec.ClusterIP || old != nil && slices.Contains(old.Spec.ClusterIPs, ip)
	}
	for i, ip := range s.Spec.ClusterIPs {
		if !asked(ip) && netip.MustParsePrefix(serviceRange).Contains(netip.MustParseAddr(ip)) {
			s.Spec.ClusterIPs[i] = "allocated"
		}
	}
	if len(s.Spec.ClusterIPs) > 0 && s.Spec.ClusterIPs[0] == "allocated" {
		s.Spec.ClusterIP = "allocated"
	}
	ports := map[int32]int32{0: 0}
	for _, svc := range []*corev1.Service{given, old} {
		if svc != nil {
			for _, p := range svc.Spec.Ports {
				ports[p.NodePort] = p.NodePort
			}
			ports[svc.Spec.HealthCheckNodePort] = svc.Spec.HealthCheckNodePort
		}
	}
	hide := func(n *int32) {
		if _, ok := ports[*n]; !ok {
			ports[*n] = -int32(len(ports))
		}
		*n = ports[*n]
	}
	for i := range s.Spec.Ports {
		hide(&s.Spec.Ports[i].NodePort)
	}
	hide(&s.Spec.HealthCheckNodePort)
}

type freeIPs struct{}

func (freeIPs) Allocate(ip net.IP) error {
	if a, ok := netip.AddrFromSlice(ip.To4()); !ok || !netip.MustParsePrefix(serviceRange).Contains(a) {
		return ipallocator.ErrMismatchedNetwork
	}
	return nil
}
func (freeIPs) AllocateNext() (net.IP, error)   { return net.IPv4(10, 0, 9, 9), nil }
func (freeIPs) Release(net.IP) error            { return nil }
func (freeIPs) ForEach(func(net.IP))            {}
func (freeIPs) CIDR() net.IPNet                 { return net.IPNet{} }
func (freeIPs) IPFamily() internalcore.IPFamily { return internalcore.IPv4Protocol }
func (freeIPs) Has(net.IP) bool                 { return false }
func (freeIPs) Destroy()                        {}
func (freeIPs) EnableMetrics()                  {}
func (f freeIPs) DryRun() ipallocator.Interface { return f }

type freePorts struct{ next int }

func (*freePorts) Allocate(n int) error {
	if n < firstPort || n > lastPort {
		return errors.New("provided port is not in the valid range. The range of valid ports is 30000-32767")
	}
	return nil
}
func (f *freePorts) AllocateNext() (int, error) {
	f.next = (f.next + 1) % 1000
	return firstPort + 1000 + f.next, nil
}
func (*freePorts) Release(int) error { return nil }
func (*freePorts) ForEach(func(int)) {}
func (*freePorts) Has(int) bool      { return false }
func (*freePorts) Destroy()          {}
func (*freePorts) EnableMetrics()    {}
