package apiserver

import (
	"fmt"
	"net/url"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"proa/auth"
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

// pod is the request's pod.
func (c *call) pod() (*corev1.Pod, error) { return proxied[*corev1.Pod](c) }

// mayCreate asks for the right to create, too: a stream that a GET opens, as
// WebSockets do, is not a thing to read.
func (c *call) mayCreate() error {
	if c.t.Verb == "create" {
		return nil
	}
	a := auth.Attributes{User: c.q.User, Verb: "create", Version: c.t.Version, Resource: c.t.Plural, Subresource: c.t.Subresource,
		Namespace: c.t.Namespace, Name: c.t.Name, ResourceRequest: true}
	d, reason, err := c.s.cfg.Authorizer.Authorize(c.r.Context(), a)
	if d == auth.Allow {
		return nil
	}
	if err != nil {
		reason = err.Error()
	}
	return forbidden(a, reason)
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

// streamed is the pod that a stream is to go to, on its node.
func (c *call) streamed() (*corev1.Pod, error) {
	if err := c.mayCreate(); err != nil {
		return nil, err
	}
	pod, err := c.pod()
	if err != nil {
		return nil, err
	}
	return pod, c.placed(pod)
}

func (c *call) exec() error {
	pod, err := c.streamed()
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
	pod, err := c.streamed()
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
