package apiserver

import (
	"fmt"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"proa/store"
)

// connects are the subresources whose requests are passed on to a node, upgrades
// included.
var connects = map[string]func(*call) error{
	"log":         (*call).log,
	"exec":        (*call).exec,
	"attach":      (*call).exec,
	"portforward": (*call).portForward,
	"proxy":       (*call).proxy,
}

// pod is the request's pod, placed on a node.
func (c *call) pod() (*corev1.Pod, error) {
	rec, err := c.s.endpoint.Get(c.r.Context(), c.q, "")
	if err != nil {
		return nil, err
	}
	obj, err := rec.Object()
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	pod, ok := obj.(*corev1.Pod)
	if !ok {
		return nil, noPath()
	}
	return pod, nil
}

// placed refuses a pod that no node has.
func (c *call) placed(pod *corev1.Pod) error {
	if pod.Spec.NodeName == "" {
		return apierrors.NewBadRequest(fmt.Sprintf("pod %s does not have a host assigned", pod.Name))
	}
	return nil
}

// container picks the container that a request names, or the only one.
func container(pod *corev1.Pod, asked string) (string, error) {
	var names, inits, ephemeral []string
	for _, c := range pod.Spec.Containers {
		names = append(names, c.Name)
	}
	for _, c := range pod.Spec.InitContainers {
		inits = append(inits, c.Name)
	}
	for _, c := range pod.Spec.EphemeralContainers {
		ephemeral = append(ephemeral, c.Name)
	}
	if asked == "" {
		if len(names) == 1 {
			return names[0], nil
		}
		choice := fmt.Sprintf("choose one of: %s", names)
		if len(inits) > 0 {
			choice += fmt.Sprintf(" or one of the init containers: %s", inits)
		}
		return "", apierrors.NewBadRequest(fmt.Sprintf("a container name must be specified for pod %s, %s", pod.Name, choice))
	}
	for _, list := range [][]string{names, inits, ephemeral} {
		for _, n := range list {
			if n == asked {
				return asked, nil
			}
		}
	}
	return "", apierrors.NewBadRequest(fmt.Sprintf("container %s is not valid for pod %s", asked, pod.Name))
}

func (c *call) log() error {
	pod, err := c.pod()
	if err != nil {
		return err
	}
	query := c.r.URL.Query()
	name, err := container(pod, query.Get("container"))
	if err != nil {
		return err
	}
	if pod.Spec.NodeName == "" { // nothing ran, so nothing was said
		c.text(http.StatusOK, "")
		return nil
	}
	query.Del("container")
	return c.forward(pod.Spec.NodeName, "/"+strings.Join([]string{"containerLogs", pod.Namespace, pod.Name, name}, "/"), query)
}

func (c *call) exec() error {
	pod, err := c.pod()
	if err == nil {
		err = c.placed(pod)
	}
	if err != nil {
		return err
	}
	query := c.r.URL.Query()
	name, err := container(pod, query.Get("container"))
	if err != nil {
		return err
	}
	return c.forward(pod.Spec.NodeName, "/"+strings.Join([]string{c.t.Subresource, pod.Namespace, pod.Name, name}, "/"), execQuery(query))
}

// execQuery turns the API's stream options into the kubelet's.
func execQuery(q url.Values) url.Values {
	out := url.Values{}
	for from, to := range map[string]string{"stdin": "input", "stdout": "output", "stderr": "error", "tty": "tty"} {
		if isTrue(q.Get(from)) {
			out.Set(to, "1")
		}
	}
	if command := q["command"]; len(command) > 0 {
		out["command"] = command
	}
	return out
}

func (c *call) portForward() error {
	pod, err := c.pod()
	if err == nil {
		err = c.placed(pod)
	}
	if err != nil {
		return err
	}
	query := url.Values{}
	if ports := c.r.URL.Query()["ports"]; len(ports) > 0 {
		query["port"] = ports
	}
	return c.forward(pod.Spec.NodeName, "/"+strings.Join([]string{"portForward", pod.Namespace, pod.Name}, "/"), query)
}

// forward passes the request to a node's kubelet.
func (c *call) forward(node, path string, query url.Values) error {
	if c.s.cfg.Node == nil {
		return apierrors.NewServiceUnavailable("this server reaches no nodes")
	}
	kubelet, err := c.s.cfg.Node(node)
	if err != nil {
		return apierrors.NewServiceUnavailable(fmt.Sprintf("node %s cannot be reached: %v", node, err))
	}
	r := c.r.Clone(c.r.Context())
	r.URL = &url.URL{Path: path, RawQuery: query.Encode()}
	r.RequestURI = r.URL.RequestURI()
	upgrade(c.exchange, r, kubelet)
	return nil
}

// proxy passes any request to a node's kubelet, a pod's port or a service's.
func (c *call) proxy() error {
	switch c.served.Key() {
	case "nodes":
		return c.forward(c.q.Name, "/"+c.t.Rest, c.r.URL.Query())
	case "pods":
		return c.proxyPod()
	case "services":
		return c.proxyService()
	}
	return noPath()
}

// splitProxyName reads [scheme:]name[:port].
func splitProxyName(s string) (scheme, name, port string) {
	parts := strings.Split(s, ":")
	switch len(parts) {
	case 3:
		return parts[0], parts[1], parts[2]
	case 2:
		return "", parts[0], parts[1]
	}
	return "", s, ""
}

func (c *call) proxyPod() error {
	scheme, name, port := splitProxyName(c.q.Name)
	c.q.Name = name
	pod, err := c.pod()
	if err != nil {
		return err
	}
	if pod.Status.PodIP == "" {
		return apierrors.NewServiceUnavailable(fmt.Sprintf("pod %s has no address yet", name))
	}
	if port == "" {
		port = firstPort(pod)
	}
	for _, ctr := range pod.Spec.Containers {
		for _, p := range ctr.Ports {
			if p.Name == port && port != "" {
				port = strconv.Itoa(int(p.ContainerPort))
			}
		}
	}
	return c.proxyTo(scheme, pod.Status.PodIP, port)
}

func firstPort(pod *corev1.Pod) string {
	for _, ctr := range pod.Spec.Containers {
		if len(ctr.Ports) > 0 {
			return strconv.Itoa(int(ctr.Ports[0].ContainerPort))
		}
	}
	return "80"
}

func (c *call) proxyService() error {
	scheme, name, port := splitProxyName(c.q.Name)
	c.q.Name = name
	rec, err := c.s.endpoint.Get(c.r.Context(), c.q, "")
	if err != nil {
		return err
	}
	obj, err := rec.Object()
	if err != nil {
		return apierrors.NewInternalError(err)
	}
	svc, ok := obj.(*corev1.Service)
	if !ok {
		return noPath()
	}
	host, number, err := c.s.backendOf(svc, port)
	if err != nil {
		return err
	}
	return c.proxyTo(scheme, host, number)
}

// backendOf picks a ready endpoint of a service's port, given by name, by number
// or, if there is one only, not at all.
func (s *Server) backendOf(svc *corev1.Service, port string) (host, number string, err error) {
	none := apierrors.NewServiceUnavailable(fmt.Sprintf("no endpoints available for service %q", svc.Name))
	name := ""
	for _, p := range svc.Spec.Ports {
		if port == "" && len(svc.Spec.Ports) == 1 || p.Name == port || strconv.Itoa(int(p.Port)) == port {
			name = p.Name
		} else if len(svc.Spec.Ports) == 1 {
			return "", "", none
		}
	}
	row := s.cfg.Registry.ByKey("discovery.k8s.io/endpointslices")
	if row == nil {
		return "", "", none
	}
	for rec := range s.cfg.Store.Snapshot().List(store.Scope{Resource: row.Key(), Namespace: svc.Namespace}, store.Key{}) {
		obj, err := rec.Object()
		if err == nil && obj.GetLabels()["kubernetes.io/service-name"] == svc.Name {
			if host, number, ok := readyEndpoint(obj, name); ok {
				return host, number, nil
			}
		}
	}
	return "", "", none
}

func (c *call) proxyTo(scheme, host, port string) error {
	if scheme == "" {
		scheme = "http"
	}
	target := &url.URL{Scheme: scheme, Host: joinHostPort(host, port), Path: "/" + c.t.Rest}
	if strings.HasSuffix(c.t.Path, "/") && !strings.HasSuffix(target.Path, "/") {
		target.Path += "/"
	}
	proxy := &httputil.ReverseProxy{
		Rewrite: func(p *httputil.ProxyRequest) {
			p.Out.URL.Scheme, p.Out.URL.Host, p.Out.URL.Path, p.Out.URL.RawPath = target.Scheme, target.Host, target.Path, ""
			p.Out.Host = target.Host
			p.Out.Header.Del("Authorization")
			p.SetXForwarded()
		},
		Transport: proxyTransport,
		ErrorHandler: func(_ http.ResponseWriter, _ *http.Request, err error) {
			c.fail(apierrors.NewServiceUnavailable(fmt.Sprintf("error trying to reach service: %v", err)))
		},
	}
	proxy.ServeHTTP(c.exchange, c.r)
	return nil
}
