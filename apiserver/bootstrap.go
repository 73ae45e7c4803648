package apiserver

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"reflect"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"

	"proa/api"
	"proa/apiserver/fairness"
	"proa/auth/rbac"
	"proa/client"
	"proa/store"
)

// apiServiceName is the Service by which pods reach the API.
const apiServiceName = "kubernetes"

// extensionAuthentication is the ConfigMap in kube-system by which extension API
// servers know whom to believe.
const extensionAuthentication = "extension-apiserver-authentication"

// bootstrapped bootstraps. A full disk is waited out: what is there can be read
// and deleted meanwhile.
func (s *Server) bootstrapped(ctx context.Context) error {
	for {
		err := s.bootstrap(ctx)
		if s.cfg.Store.Room() == nil || err == nil || ctx.Err() != nil {
			return err
		}
		s.cfg.Log.Warn("the disk is full, and something that every cluster has is missing: it is written once there is space", "error", err)
		sleep(ctx, keepAgain)
	}
}

// bootstrap creates what every cluster has: the namespaces first, then the rest
// at once, so that the store commits it together.
func (s *Server) bootstrap(ctx context.Context) error {
	c := s.bootstrapper()
	var namespaces []api.Object
	for _, name := range []string{metav1.NamespaceDefault, metav1.NamespaceSystem, metav1.NamespacePublic, corev1.NamespaceNodeLease} {
		namespaces = append(namespaces, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}})
	}
	if err := ensureAll(ctx, c, namespaces); err != nil {
		return err
	}
	if err := ensureAll(ctx, c, slices.Concat(systemObjects(), fairness.Objects(), s.cfg.Bootstrap)); err != nil {
		return err
	}
	if err := s.serviceRange(ctx, c); err != nil {
		return err
	}
	_, err := s.publish(ctx, c)
	return err
}

func ensureAll(ctx context.Context, c client.Client, objs []api.Object) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(64)
	for _, obj := range objs {
		group.Go(func() error { return ensure(ctx, c, obj) })
	}
	return group.Wait()
}

// systemObjects are the priority classes that Kubernetes reserves.
func systemObjects() []api.Object {
	return []api.Object{
		&schedulingv1.PriorityClass{
			ObjectMeta: metav1.ObjectMeta{Name: "system-node-critical"}, Value: 2000001000,
			Description: "Used for system critical pods that must not be moved from their current node.",
		},
		&schedulingv1.PriorityClass{
			ObjectMeta: metav1.ObjectMeta{Name: "system-cluster-critical"}, Value: 2000000000,
			Description: "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary.",
		},
	}
}

// ensure creates the object where it is missing and completes RBAC objects that
// are there. A kind that is not served is passed over.
func ensure(ctx context.Context, c client.Client, obj api.Object) error {
	row := c.Registry().Of(obj)
	if row == nil {
		return nil
	}
	have := c.View().Get(row, obj.GetNamespace(), obj.GetName())
	if have == nil {
		_, err := c.Create(ctx, obj)
		if err == nil || apierrors.IsAlreadyExists(err) {
			return nil
		}
		return fmt.Errorf("apiserver: creating %s %s: %w", row.Key(), client.KeyOf(obj), err)
	}
	if err := complete(ctx, c, row, have, obj); err != nil && !apierrors.IsConflict(err) {
		return fmt.Errorf("apiserver: completing %s %s: %w", row.Key(), client.KeyOf(obj), err)
	}
	return nil
}

// complete adds to a default role or binding what it lacks. One that binds
// another role is made anew.
func complete(ctx context.Context, c client.Client, row *api.Resource, have, want api.Object) error {
	if rbac.Replaces(have, want) {
		if err := c.Delete(ctx, row, client.KeyOf(have), metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
			return err
		}
		_, err := c.Create(ctx, want)
		return err
	}
	next := rbac.Complete(have, want)
	if next == nil {
		return nil
	}
	_, err := c.Update(ctx, next, "")
	return err
}

// keep restores the API's own Service and endpoints, and what extension API
// servers read, when somebody changes them.
func (s *Server) keep(ctx context.Context) error {
	c := s.bootstrapper()
	var scopes []store.Scope
	for _, r := range []string{"services", "endpoints", "discovery.k8s.io/endpointslices"} {
		scopes = append(scopes, store.Scope{Resource: r, Namespace: metav1.NamespaceDefault, Name: apiServiceName})
	}
	scopes = append(scopes, store.Scope{Resource: "configmaps", Namespace: metav1.NamespaceSystem, Name: extensionAuthentication})
	if s.cfg.Peer != "" {
		scopes = append(scopes, peerScope)
	}
	for {
		_, w := s.cfg.Store.SnapshotAndWatch(scopes...)
		err := s.keepOnce(ctx, c, w)
		w.Close()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil { // a datastore that is away, or full: both pass
			s.cfg.Log.Warn("the API's own objects could not be written, which is tried again", "error", err)
			sleep(ctx, keepAgain)
		}
	}
}

// keepAgain is the time between attempts to write what every cluster has.
const keepAgain = 2 * time.Second

// keepOnce returns nil when the watch ended and is to be begun again.
func (s *Server) keepOnce(ctx context.Context, c client.Client, w store.Watcher) error {
	for {
		until, err := s.publish(ctx, c)
		if err != nil {
			return err
		}
		wait, cancel := ctx, func() {}
		if !until.IsZero() { // when another server is due to be heard of
			wait, cancel = context.WithDeadline(ctx, until)
		}
		_, _, err = w.Next(wait)
		cancel()
		switch {
		case errors.Is(err, store.ErrExpired):
			return nil
		case err != nil && (ctx.Err() != nil || !errors.Is(err, context.DeadlineExceeded)):
			return err
		}
	}
}

// publish writes the Service default/kubernetes with its endpoints, and the
// ConfigMap of extension API servers. A write that admission or a race refuses is
// tried again at the next change.
func (s *Server) publish(ctx context.Context, c client.Client) (until time.Time, err error) {
	addr, err := s.external()
	if err != nil {
		return until, err
	}
	var wanted []api.Object
	if addr.IsValid() && s.cfg.ServiceCIDR.IsValid() {
		var all []netip.AddrPort
		all, until = s.addresses(c.View(), addr)
		wanted = append(wanted, s.apiService(all[0]), apiEndpoints(all), apiSlice(all))
	}
	if data := s.cfg.ExtensionAuthentication; data != nil {
		wanted = append(wanted, &corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{Namespace: metav1.NamespaceSystem, Name: extensionAuthentication}, Data: data})
	}
	for _, obj := range wanted {
		if err := s.put(ctx, c, obj); err != nil && ctx.Err() == nil {
			s.cfg.Log.Warn("an object that the API keeps could not be written", "object", client.KeyOf(obj), "err", err)
		}
	}
	return until, nil
}

func (s *Server) put(ctx context.Context, c client.Client, want api.Object) error {
	row := c.Registry().Of(want)
	if row == nil {
		return nil
	}
	have := c.View().Get(row, want.GetNamespace(), want.GetName())
	if have == nil {
		_, err := c.Create(ctx, want)
		return err
	}
	next := have.DeepCopyObject().(api.Object)
	if !overwrite(next, want) {
		return nil
	}
	_, err := c.Update(ctx, next, "")
	if apierrors.IsConflict(err) {
		return nil // the change that won wakes keep again
	}
	return err
}

// overwrite makes next say what want says and tells whether it did not.
func overwrite(next, want api.Object) bool {
	switch n := next.(type) {
	case *corev1.Service:
		w := want.(*corev1.Service)
		if len(n.Spec.Ports) == 1 && n.Spec.Ports[0].TargetPort == w.Spec.Ports[0].TargetPort && n.Spec.Ports[0].Port == w.Spec.Ports[0].Port {
			return false
		}
		n.Spec.Ports = w.Spec.Ports
	case *corev1.Endpoints: //nolint:staticcheck // old clients read it
		w := want.(*corev1.Endpoints) //nolint:staticcheck // as above
		if reflect.DeepEqual(n.Subsets, w.Subsets) {
			return false
		}
		n.Subsets = w.Subsets
	case *corev1.ConfigMap:
		w := want.(*corev1.ConfigMap)
		if maps.Equal(n.Data, w.Data) {
			return false
		}
		n.Data = w.Data
	case *discoveryv1.EndpointSlice:
		w := want.(*discoveryv1.EndpointSlice)
		if reflect.DeepEqual(n.Endpoints, w.Endpoints) && reflect.DeepEqual(n.Ports, w.Ports) {
			return false
		}
		n.Endpoints, n.Ports = w.Endpoints, w.Ports
	}
	return true
}

// external is the address that the API is reached at.
func (s *Server) external() (netip.AddrPort, error) {
	if s.cfg.ExternalHost == "" {
		return netip.AddrPort{}, nil
	}
	addr, err := netip.ParseAddrPort(s.cfg.ExternalHost)
	if err != nil {
		host, port, serr := net.SplitHostPort(s.cfg.ExternalHost)
		if serr != nil {
			return addr, fmt.Errorf("apiserver: external host %q: %w", s.cfg.ExternalHost, serr)
		}
		return addr, fmt.Errorf("apiserver: external host %q: an IP address and a port are needed, not %s:%s", s.cfg.ExternalHost, host, port)
	}
	return addr, nil
}

func apiMeta() metav1.ObjectMeta {
	return metav1.ObjectMeta{Name: apiServiceName, Namespace: metav1.NamespaceDefault}
}

func (s *Server) apiService(addr netip.AddrPort) api.Object {
	svc := &corev1.Service{ObjectMeta: apiMeta()}
	svc.Labels = map[string]string{"provider": "kubernetes", "component": "apiserver"}
	svc.Spec = corev1.ServiceSpec{
		Type: corev1.ServiceTypeClusterIP, ClusterIP: s.cfg.ServiceCIDR.Masked().Addr().Next().String(),
		SessionAffinity: corev1.ServiceAffinityNone,
		Ports:           []corev1.ServicePort{{Name: "https", Protocol: corev1.ProtocolTCP, Port: 443, TargetPort: intstr.FromInt32(int32(addr.Port()))}},
	}
	return svc
}

// apiEndpoints lists addresses in order, by port.
func apiEndpoints(all []netip.AddrPort) api.Object {
	ep := &corev1.Endpoints{ObjectMeta: apiMeta()}                     //nolint:staticcheck // as above
	ep.Labels = map[string]string{discoveryv1.LabelSkipMirror: "true"} // the slice is written here, too
	for _, a := range all {
		i := slices.IndexFunc(ep.Subsets, func(s corev1.EndpointSubset) bool { return s.Ports[0].Port == int32(a.Port()) }) //nolint:staticcheck // as above
		if i < 0 {
			i = len(ep.Subsets)
			ep.Subsets = append(ep.Subsets, corev1.EndpointSubset{ //nolint:staticcheck // as above
				Ports: []corev1.EndpointPort{{Name: "https", Port: int32(a.Port()), Protocol: corev1.ProtocolTCP}}}) //nolint:staticcheck // as above
		}
		ep.Subsets[i].Addresses = append(ep.Subsets[i].Addresses, corev1.EndpointAddress{IP: a.Addr().String()}) //nolint:staticcheck // as above
	}
	return ep
}

// apiSlice has one port, as every slice: servers that listen on another than the
// first are left out.
func apiSlice(all []netip.AddrPort) api.Object {
	sl := &discoveryv1.EndpointSlice{ObjectMeta: apiMeta(), AddressType: discoveryv1.AddressTypeIPv4}
	if all[0].Addr().Is6() {
		sl.AddressType = discoveryv1.AddressTypeIPv6
	}
	sl.Labels = map[string]string{discoveryv1.LabelServiceName: apiServiceName}
	sl.Ports = []discoveryv1.EndpointPort{{Name: ptr.To("https"), Port: ptr.To(int32(all[0].Port())), Protocol: ptr.To(corev1.ProtocolTCP)}}
	for _, a := range all {
		if a.Port() == all[0].Port() {
			sl.Endpoints = append(sl.Endpoints, discoveryv1.Endpoint{Addresses: []string{a.Addr().String()},
				Conditions: discoveryv1.EndpointConditions{Ready: ptr.To(true)}})
		}
	}
	return sl
}
