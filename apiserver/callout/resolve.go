package callout

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/utils/ptr"

	"proa/store"
)

const (
	services       = "services"
	endpointSlices = "discovery.k8s.io/endpointslices"
	// maxTries bounds how many endpoints are tried for one connection.
	maxTries = 5
)

// Resolve returns the addresses (host:port) that a Service's port leads to, in
// the order to try them. Errors are Status errors: 404 for the Service, 503 where
// it has no such port or nothing ready behind it.
func Resolve(world store.Snapshot, s Service) ([]string, error) {
	svc := serviceOf(world, s)
	if svc == nil {
		return nil, apierrors.NewNotFound(corev1.Resource("service"), s.Name)
	}
	number := s.Port
	if number == 0 {
		number = defaultPort
	}
	if svc.Spec.Type == corev1.ServiceTypeExternalName {
		return []string{join(svc.Spec.ExternalName, number)}, nil
	}
	port := portOf(svc, number)
	if port == nil {
		return nil, apierrors.NewServiceUnavailable(fmt.Sprintf("no service port %d found for service %q", number, s.Name))
	}
	addresses, slices := endpoints(world, s, port.Name)
	if len(addresses) > 0 {
		return addresses, nil
	}
	if slices == 0 && len(svc.Spec.Selector) == 0 && svc.Spec.ClusterIP != "" && svc.Spec.ClusterIP != corev1.ClusterIPNone {
		return []string{join(svc.Spec.ClusterIP, number)}, nil
	}
	return nil, apierrors.NewServiceUnavailable(fmt.Sprintf("no endpoints available for service %q", s.Name))
}

func join(host string, port int32) string { return net.JoinHostPort(host, strconv.Itoa(int(port))) }

func serviceOf(world store.Snapshot, s Service) *corev1.Service {
	rec := world.Get(store.Key{Resource: services, Namespace: s.Namespace, Name: s.Name})
	if rec == nil {
		return nil
	}
	obj, err := rec.Object()
	if err != nil {
		return nil
	}
	svc, _ := obj.(*corev1.Service)
	return svc
}

func portOf(svc *corev1.Service, number int32) *corev1.ServicePort {
	for i := range svc.Spec.Ports {
		p := &svc.Spec.Ports[i]
		if p.Port == number && (p.Protocol == corev1.ProtocolTCP || p.Protocol == "") {
			return p
		}
	}
	return nil
}

// endpoints are the ready addresses behind a Service's port in random order, and
// after them those that are going away but still serve; slices is how many
// EndpointSlices the Service has.
func endpoints(world store.Snapshot, s Service, port string) (addresses []string, slices int) {
	var going []string
	for rec := range world.Index(endpointSlices, "service", s.Namespace+"/"+s.Name) {
		obj, err := rec.Object()
		slice, ok := obj.(*discoveryv1.EndpointSlice)
		if err != nil || !ok {
			continue
		}
		slices++
		number := slicePort(slice, port)
		if number == 0 {
			continue
		}
		for _, e := range slice.Endpoints {
			switch c := e.Conditions; {
			case len(e.Addresses) == 0:
			case ptr.Deref(c.Ready, true):
				addresses = append(addresses, join(e.Addresses[0], number))
			case ptr.Deref(c.Serving, false):
				going = append(going, join(e.Addresses[0], number))
			}
		}
	}
	rand.Shuffle(len(addresses), func(i, k int) { addresses[i], addresses[k] = addresses[k], addresses[i] })
	return append(addresses, going...), slices
}

// slicePort is the number of a slice's TCP port of that name, or 0.
func slicePort(slice *discoveryv1.EndpointSlice, name string) int32 {
	for _, p := range slice.Ports {
		if ptr.Deref(p.Name, "") == name && ptr.Deref(p.Protocol, corev1.ProtocolTCP) == corev1.ProtocolTCP {
			return ptr.Deref(p.Port, 0)
		}
	}
	return 0
}

// dial connects to the first of the Service's endpoints that answers.
func (p *Pool) dial(ctx context.Context, d *net.Dialer, s Service) (net.Conn, error) {
	addresses, err := Resolve(p.cfg.World(), s)
	if err != nil {
		return nil, err
	}
	var errs []error
	for _, a := range addresses[:min(len(addresses), maxTries)] {
		conn, err := d.DialContext(ctx, "tcp", a)
		if err == nil {
			return conn, nil
		}
		p.cfg.Log.Debug("an endpoint does not answer", "namespace", s.Namespace, "service", s.Name, "address", a, "err", err)
		errs = append(errs, err)
		if ctx.Err() != nil {
			break
		}
	}
	return nil, errors.Join(errs...)
}
