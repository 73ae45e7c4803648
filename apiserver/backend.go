package apiserver

import (
	"context"
	"crypto/tls"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	utilproxy "k8s.io/apimachinery/pkg/util/proxy"

	"proa/store"
)

// backends reaches pods. Their certificates are their own affair, as in
// upstream: whoever may proxy asks for a pod, not for a name.
func backends(dial func(ctx context.Context, network, address string) (net.Conn, error)) *http.Transport {
	if dial == nil {
		dial = (&net.Dialer{Timeout: 10 * time.Second}).DialContext
	}
	return &http.Transport{
		DialContext:         dial,
		TLSClientConfig:     &tls.Config{InsecureSkipVerify: true},
		MaxIdleConnsPerHost: -1, // nothing stays open for a request that may never come
		DisableKeepAlives:   true,
	}
}

// proxy passes any request to a node's kubelet, or a port of a node, a pod or a
// Service. The name may be [http: or https:]name[:port].
func (c *call) proxy() error {
	scheme, name, port, ok := utilnet.SplitSchemeNamePort(c.q.Name)
	if !ok {
		return apierrors.NewBadRequest(fmt.Sprintf("invalid %s request %q", c.served.Singular, c.q.Name))
	}
	c.q.Name = name
	if scheme == "" {
		scheme = "http"
	}
	switch c.served.Key() {
	case "nodes":
		return c.proxyNode(scheme, port)
	case "pods":
		return c.proxyPod(scheme, port)
	case "services":
		return c.proxyService(scheme, port)
	}
	return noPath()
}

// proxied reads the object that the request names.
func proxied[P any](c *call) (obj P, err error) {
	rec, err := c.s.endpoint.Get(c.r.Context(), c.q, "")
	if err != nil {
		return obj, err
	}
	got, err := rec.Object()
	if err != nil {
		return obj, apierrors.NewInternalError(err)
	}
	obj, ok := got.(P)
	if !ok {
		return obj, noPath()
	}
	return obj, nil
}

func (c *call) proxyNode(scheme, port string) error {
	n, err := proxied[*corev1.Node](c)
	if err != nil {
		return err
	}
	if own := n.Status.DaemonEndpoints.KubeletEndpoint.Port; port == "" || port == strconv.Itoa(int(own)) {
		if c.slashMissing() {
			return nil
		}
		return c.forward(c.q.Name, c.rest(), c.r.URL.Query())
	}
	for _, a := range n.Status.Addresses {
		if a.Type == corev1.NodeInternalIP {
			return c.proxyTo(scheme, a.Address, port)
		}
	}
	return apierrors.NewServiceUnavailable(fmt.Sprintf("node %s has no address yet", n.Name))
}

func (c *call) proxyPod(scheme, port string) error {
	pod, err := proxied[*corev1.Pod](c)
	if err != nil {
		return err
	}
	return c.proxyTo(scheme, pod.Status.PodIP, podPort(pod, port))
}

// podPort is the number of the pod's port: by name or number, or its first.
func podPort(pod *corev1.Pod, asked string) string {
	for _, ctr := range pod.Spec.Containers {
		for _, p := range ctr.Ports {
			if asked == "" || p.Name == asked {
				return strconv.Itoa(int(p.ContainerPort))
			}
		}
	}
	return asked
}

func (c *call) proxyService(scheme, port string) error {
	svc, err := proxied[*corev1.Service](c)
	if err != nil {
		return err
	}
	name, err := servicePort(svc, port)
	if err != nil {
		return err
	}
	found := c.s.podsBehind(svc, name)
	if len(found) == 0 {
		return apierrors.NewServiceUnavailable(fmt.Sprintf("no endpoints available for service %q", svc.Name))
	}
	to := found[rand.N(len(found))]
	return c.proxyTo(scheme, to.Addr().String(), strconv.Itoa(int(to.Port())))
}

// servicePort is the name of the port that is asked for by name, by number or, if
// there is one only, not at all.
func servicePort(svc *corev1.Service, asked string) (string, error) {
	if n, err := strconv.Atoi(asked); err == nil {
		for _, p := range svc.Spec.Ports {
			if int(p.Port) == n {
				return p.Name, nil
			}
		}
		return "", apierrors.NewServiceUnavailable(fmt.Sprintf("no service port %d found for service %q", n, svc.Name))
	}
	if asked == "" && len(svc.Spec.Ports) == 1 {
		return svc.Spec.Ports[0].Name, nil
	}
	return asked, nil
}

// podsBehind are the ready endpoints of a Service's port that are pods of its
// namespace: whoever can write slices must not reach anything else through here.
func (s *Server) podsBehind(svc *corev1.Service, port string) (out []netip.AddrPort) {
	world := s.cfg.Store.Snapshot()
	for rec := range world.Index("discovery.k8s.io/endpointslices", "service", svc.Namespace+"/"+svc.Name) {
		obj, err := rec.Object()
		slice, ok := obj.(*discoveryv1.EndpointSlice)
		if err != nil || !ok {
			continue
		}
		for _, p := range slice.Ports {
			if p.Port == nil || p.Name == nil && port != "" || p.Name != nil && *p.Name != port {
				continue
			}
			for _, e := range slice.Endpoints {
				if addr, ok := podAddress(world, svc.Namespace, e); ok {
					out = append(out, netip.AddrPortFrom(addr, uint16(*p.Port)))
				}
			}
		}
	}
	return out
}

// podAddress is the address of an endpoint that is ready and really its pod's.
func podAddress(world store.Snapshot, namespace string, e discoveryv1.Endpoint) (addr netip.Addr, ok bool) {
	ref := e.TargetRef
	if e.Conditions.Ready != nil && !*e.Conditions.Ready || ref == nil || ref.Kind != "Pod" || ref.Namespace != namespace || len(e.Addresses) == 0 {
		return addr, false
	}
	pod, _ := objectOf(world.Get(store.Key{Resource: "pods", Namespace: namespace, Name: ref.Name})).(*corev1.Pod)
	if pod == nil {
		return addr, false
	}
	for _, ip := range pod.Status.PodIPs {
		if ip.IP == e.Addresses[0] {
			addr, err := netip.ParseAddr(ip.IP)
			return addr, err == nil
		}
	}
	return addr, false
}

// rest is the path below ".../proxy", with the slash that ended the request's.
func (c *call) rest() string {
	path := c.t.Rest
	if path != "" {
		path = "/" + path
	}
	if strings.HasSuffix(c.t.Path, "/") && !strings.HasSuffix(path, "/") {
		path += "/"
	}
	return path
}

// slashMissing sends a browser that asks for ".../proxy" to ".../proxy/", so that
// relative links in what it gets lead through here.
func (c *call) slashMissing() bool {
	if c.rest() != "" || c.r.Method != http.MethodGet && c.r.Method != http.MethodHead {
		return false
	}
	to := url.URL{Path: c.r.URL.Path + "/", RawQuery: c.r.URL.RawQuery}
	c.Header().Set("Location", to.String())
	c.WriteHeader(http.StatusMovedPermanently)
	return true
}

// proxyTo passes the request to a host's port. Only addresses that can be another
// host's are reached: not this machine's loopback, nor link-local services.
func (c *call) proxyTo(scheme, host, port string) error {
	addr, err := netip.ParseAddr(host)
	if err != nil || !addr.IsGlobalUnicast() {
		return apierrors.NewBadRequest("address not allowed")
	}
	to := &url.URL{Scheme: scheme, Host: addr.String(), Path: c.rest()}
	if port != "" {
		to.Host = net.JoinHostPort(addr.String(), port)
	} else if addr.Is6() {
		to.Host = "[" + to.Host + "]"
	}
	for name := range c.r.Header {
		if name == "Authorization" || strings.HasPrefix(name, "Impersonate-") {
			c.r.Header.Del(name)
		}
	}
	utilproxy.NewUpgradeAwareHandler(to, c.s.backends, true, false, unreached{c}).ServeHTTP(c.exchange, c.r)
	return nil
}

// unreached answers for a backend that does not.
type unreached struct{ *call }

func (u unreached) Error(_ http.ResponseWriter, _ *http.Request, err error) {
	if _, ok := err.(apierrors.APIStatus); !ok {
		err = apierrors.NewServiceUnavailable(fmt.Sprintf("error trying to reach service: %v", err))
	}
	u.fail(err)
}
