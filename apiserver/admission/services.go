package admission

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/uuid"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"proa/api"
	"proa/store"
)

const (
	ipAddresses  = "networking.k8s.io/ipaddresses"
	serviceCIDRs = "networking.k8s.io/servicecidrs"
	ipManagedBy  = "ipallocator.k8s.io"
	ipTries      = 64  // random tries before the range is walked
	minStatic    = 16  // addresses at the range's start that are left to people
	maxStatic    = 256 //
	maxWalkedIPs = 1 << 16
)

// services gives Services their cluster IPs and node ports.
//
// A cluster IP is taken by the IPAddress object of its name, which is created in
// the Service's own transaction: two Services cannot get one address, and there is
// no other record of what is taken (KEP-1880). It comes from the ranges that
// ServiceCIDR objects name and that are ready; cidr is the one of the
// configuration, which says of which family they are. A node port is taken in the
// same way by a record of its own, which the API does not show.
type services struct {
	cidr  netip.Prefix
	ports [2]int
}

func serviceAllocation(c Config) Plugin {
	s := &services{cidr: c.ServiceCIDR.Masked(), ports: c.NodePorts}
	return Plugin{
		Name: "ServiceAllocation", Finish: s.finish,
		Finishes: func(r *Request) bool { return s.cidr.IsValid() && r.Is("services") && r.Op != Connect },
	}
}

func (s *services) finish(_ context.Context, r *Request) error {
	old, _ := r.Old.(*corev1.Service)
	svc, _ := r.Object.(*corev1.Service)
	if svc != nil {
		if errs := api.SettleFamilies(svc, old, []corev1.IPFamily{s.family()}); len(errs) > 0 {
			return invalidService(svc, errs...)
		}
		if err := s.allocateIPs(r, svc, old); err != nil {
			return err
		}
		if err := s.allocatePorts(r, svc, old); err != nil {
			return err
		}
	}
	s.releaseIPs(r, svc, old)
	releasePorts(r, svc, old)
	return nil
}

func (s *services) family() corev1.IPFamily {
	if s.cidr.Addr().Is4() {
		return corev1.IPv4Protocol
	}
	return corev1.IPv6Protocol
}

func invalidService(svc *corev1.Service, errs ...*field.Error) error {
	return apierrors.NewInvalid(corev1.SchemeGroupVersion.WithKind("Service").GroupKind(), svc.Name, errs)
}

func (s *services) allocateIPs(r *Request, svc, old *corev1.Service) error {
	if !api.NeedsClusterIP(svc) {
		return nil
	}
	ips := svc.Spec.ClusterIPs
	if len(ips) == 0 {
		ip, err := s.freeIP(r.World)
		if err != nil {
			return apierrors.NewInternalError(fmt.Errorf("failed to allocate a serviceIP for Service %q: %w", svc.Name, err))
		}
		ips = []string{ip.String()}
	}
	for _, text := range ips {
		if old != nil && slices.Contains(old.Spec.ClusterIPs, text) {
			continue
		}
		if err := s.takeIP(r, svc, text); err != nil {
			at := field.NewPath("spec", "clusterIPs")
			return invalidService(svc, field.Invalid(at, ips, fmt.Sprintf("failed to allocate IP %s: %v", text, err)))
		}
	}
	svc.Spec.ClusterIPs, svc.Spec.ClusterIP = ips, ips[0]
	return nil
}

// ranges are the prefixes that addresses come from now: those of the family in
// ServiceCIDRs that are ready and stay, that of the configuration first. Before
// there is any such object it is the configuration's.
func (s *services) ranges(world store.Snapshot) (out []netip.Prefix) {
	none := true
	for _, r := range every[*networkingv1.ServiceCIDR](world, serviceCIDRs, "") {
		none = false
		// The first range says nothing of itself while the server starts.
		ready := meta.IsStatusConditionTrue(r.Status.Conditions, networkingv1.ServiceCIDRConditionReady) ||
			len(r.Status.Conditions) == 0 && slices.Equal(r.Spec.CIDRs, []string{s.cidr.String()})
		if r.DeletionTimestamp != nil || !ready {
			continue
		}
		for _, text := range r.Spec.CIDRs {
			if p, err := netip.ParsePrefix(text); err == nil && p.Addr().Is4() == s.cidr.Addr().Is4() && !slices.Contains(out, p.Masked()) {
				out = append(out, p.Masked())
			}
		}
	}
	if none {
		return []netip.Prefix{s.cidr}
	}
	if i := slices.Index(out, s.cidr); i > 0 {
		out[0], out[i] = out[i], out[0]
	}
	return out
}

func (s *services) takeIP(r *Request, svc *corev1.Service, text string) error {
	ip, err := netip.ParseAddr(text)
	ranges := s.ranges(r.World)
	in := slices.IndexFunc(ranges, func(p netip.Prefix) bool { return p.Contains(ip) })
	if err != nil || in < 0 {
		return errors.New("the provided network does not match the current range")
	}
	if n := size(ranges[in]); ip == ranges[in].Addr() || ip.Is4() && n > 2 && ip == at(ranges[in], n-1) {
		return fmt.Errorf("the provided IP (%s) is not in the valid range. The range of valid IPs is %s", text, ranges[in])
	}
	key := store.Key{Resource: ipAddresses, Name: ip.String()}
	if r.World.Get(key) != nil {
		return errors.New("provided IP is already allocated")
	}
	r.Also(store.Write{Key: key, Object: s.ipAddress(ip, svc)})
	return nil
}

func (s *services) ipAddress(ip netip.Addr, svc *corev1.Service) *networkingv1.IPAddress {
	obj := &networkingv1.IPAddress{
		ObjectMeta: metav1.ObjectMeta{
			Name: ip.String(), UID: uuid.NewUUID(), CreationTimestamp: metav1.NewTime(time.Now()).Rfc3339Copy(), Generation: 1,
			Labels: map[string]string{
				networkingv1.LabelIPAddressFamily: string(s.family()), networkingv1.LabelManagedBy: ipManagedBy,
			},
		},
		Spec: networkingv1.IPAddressSpec{ParentRef: &networkingv1.ParentReference{Resource: "services", Namespace: svc.Namespace, Name: svc.Name}},
	}
	obj.SetGroupVersionKind(networkingv1.SchemeGroupVersion.WithKind("IPAddress"))
	return obj
}

// freeIP picks an address nobody has, of the first range that has one.
func (s *services) freeIP(world store.Snapshot) (netip.Addr, error) {
	for _, p := range s.ranges(world) {
		if ip, found := freeIn(world, p); found {
			return ip, nil
		}
	}
	return netip.Addr{}, errors.New("range is full")
}

// freeIn picks an address of one range, from beyond those that are left for people
// to choose (KEP-3070) while there are any.
func freeIn(world store.Snapshot, p netip.Prefix) (netip.Addr, bool) {
	n := size(p)
	if n < 4 {
		return netip.Addr{}, false
	}
	last := n - 2 // the network's first address and IPv4's last are no hosts
	static := min(max(n/16, minStatic), maxStatic)
	if static < last {
		for range ipTries {
			if ip := at(p, static+rand.Uint64N(last-static+1)); !taken(world, ip) {
				return ip, true
			}
		}
	}
	for n := uint64(0); n < min(last, maxWalkedIPs); n++ {
		if ip := at(p, last-n); !taken(world, ip) {
			return ip, true
		}
	}
	return netip.Addr{}, false
}

// size is how many addresses a prefix has, 1<<62 at most.
func size(p netip.Prefix) uint64 { return uint64(1) << min(p.Addr().BitLen()-p.Bits(), 62) }

// at is the n-th address of a prefix.
func at(p netip.Prefix, n uint64) netip.Addr {
	raw := p.Addr().AsSlice()
	for i := len(raw) - 1; i >= 0 && n > 0; i-- {
		n += uint64(raw[i])
		raw[i] = byte(n)
		n >>= 8
	}
	ip, _ := netip.AddrFromSlice(raw) // four or sixteen bytes, as they came
	return ip
}

func taken(world store.Snapshot, ip netip.Addr) bool {
	return world.Get(store.Key{Resource: ipAddresses, Name: ip.String()}) != nil
}

// releaseIPs gives back what the old state had and the new one has not. svc is
// nil on delete.
func (s *services) releaseIPs(r *Request, svc, old *corev1.Service) {
	if old == nil {
		return
	}
	for _, ip := range old.Spec.ClusterIPs {
		if svc != nil && slices.Contains(svc.Spec.ClusterIPs, ip) {
			continue
		}
		key := store.Key{Resource: ipAddresses, Name: ip}
		if rec := r.World.Get(key); rec != nil {
			r.Also(store.Write{Key: key, Expect: rec.Revision()})
		}
	}
}

func (s *services) allocatePorts(r *Request, svc, old *corev1.Service) error {
	if svc.Spec.Type != corev1.ServiceTypeNodePort && svc.Spec.Type != corev1.ServiceTypeLoadBalancer {
		return nil
	}
	pick := picker{services: s, request: r, used: nodePorts(r.World, old), had: portsOf(old), mine: map[int32]bool{}}
	if old == nil && api.NeedsNodePorts(svc) {
		shareRequested(svc.Spec.Ports)
	}
	for i := range svc.Spec.Ports {
		p := &svc.Spec.Ports[i]
		if p.NodePort == 0 && !api.NeedsNodePorts(svc) {
			continue
		}
		if err := pick.port(&p.NodePort); err != nil {
			at := field.NewPath("spec", "ports").Index(i).Child("nodePort")
			return invalidService(svc, field.Invalid(at, p.NodePort, err.Error()))
		}
		if old == nil && api.NeedsNodePorts(svc) {
			shareRequested(svc.Spec.Ports)
		}
	}
	if api.NeedsHealthCheckPort(svc) {
		if err := pick.port(&svc.Spec.HealthCheckNodePort); err != nil {
			return apierrors.NewInternalError(fmt.Errorf("failed to allocate requested HealthCheck NodePort %d: %w", svc.Spec.HealthCheckNodePort, err))
		}
	}
	return nil
}

// shareRequested gives ports of one number, which differ in their protocols, one
// node port: the first that any of them has.
func shareRequested(ports []corev1.ServicePort) {
	first := map[int32]int32{}
	for _, p := range ports {
		if first[p.Port] == 0 {
			first[p.Port] = p.NodePort
		}
	}
	for i := range ports {
		if ports[i].NodePort == 0 {
			ports[i].NodePort = first[ports[i].Port]
		}
	}
}

// nodePorts are those of all Services but one.
func nodePorts(world store.Snapshot, but *corev1.Service) map[int32]bool {
	used := map[int32]bool{}
	for _, svc := range every[*corev1.Service](world, "services", "") {
		if but != nil && svc.UID == but.UID {
			continue
		}
		maps.Copy(used, portsOf(svc))
	}
	return used
}

// portsOf are the node ports that a Service has; svc may be nil.
func portsOf(svc *corev1.Service) map[int32]bool {
	out := map[int32]bool{}
	if svc == nil {
		return out
	}
	for _, p := range svc.Spec.Ports {
		out[p.NodePort] = true
	}
	out[svc.Spec.HealthCheckNodePort] = true
	delete(out, 0)
	return out
}

// nodePortKey is the record that takes a node port.
func nodePortKey(n int32) store.Key { return store.Key{Resource: "nodeports", Name: fmt.Sprint(n)} }

// releasePorts gives back what the old state had and the new one has not. A
// Service of before there were records has none.
func releasePorts(r *Request, svc, old *corev1.Service) {
	keeps := portsOf(svc)
	for n := range portsOf(old) {
		if rec := r.World.Get(nodePortKey(n)); rec != nil && !keeps[n] {
			r.Also(store.Write{Key: nodePortKey(n), Expect: rec.Revision()})
		}
	}
}

// picker chooses the node ports of one Service.
type picker struct {
	*services
	request         *Request
	used, had, mine map[int32]bool
}

func (p *picker) free(n int32) bool {
	return !p.used[n] && !p.mine[n] && (p.had[n] || p.request.World.Get(nodePortKey(n)) == nil)
}

// take writes the port's record on the condition that there is none. Two
// requests that chose the same port cannot both be committed: one is decided
// again.
func (p *picker) take(n int32) {
	p.mine[n] = true
	if p.request.World.Get(nodePortKey(n)) == nil {
		owner := p.request.Namespace + "/" + p.request.Name
		p.request.Also(store.Write{Key: nodePortKey(n), Object: &metav1.PartialObjectMetadata{}, Data: []byte(owner)})
	}
}

// port checks the port that a Service asks for or finds one. A Service may use
// one number for several protocols.
func (p *picker) port(n *int32) error {
	if *n != 0 {
		switch {
		case p.mine[*n]:
			return nil
		case int(*n) < p.ports[0] || int(*n) > p.ports[1]:
			return fmt.Errorf("provided port is not in the valid range. The range of valid ports is %d-%d", p.ports[0], p.ports[1])
		case !p.free(*n):
			return errors.New("provided port is already allocated")
		}
		p.take(*n)
		return nil
	}
	size := p.ports[1] - p.ports[0] + 1
	start := rand.N(size)
	for i := range size {
		if c := int32(p.ports[0] + (start+i)%size); p.free(c) {
			*n = c
			p.take(c)
			return nil
		}
	}
	return errors.New("failed to allocate a nodePort: range is full")
}
