package apiserver

import (
	"net/url"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"proa/apiserver/admission"
)

// admitConnect asks admission about a stream or a proxied request, which it sees
// as CONNECT with the stream's options. Reading logs is none.
func (c *call) admitConnect() error {
	sub := c.served.Subresource(c.t.Subresource)
	if sub == nil || c.t.Subresource == "log" {
		return nil
	}
	r := &admission.Request{
		Op: admission.Connect, Resource: c.served.Resource, As: c.served.As, Subresource: c.t.Subresource,
		Namespace: c.q.Namespace, Name: c.q.Name, Stream: connectOptions(sub.Kind.Kind, c.r.URL.Query(), c.t.Rest),
		User: c.q.User, World: c.s.cfg.Store.Snapshot(), Warn: c.warn, Annotate: c.q.Annotate,
	}
	if err := c.s.endpoint.Admission.Mutate(c.r.Context(), r); err != nil {
		return err
	}
	return c.s.endpoint.Admission.Validate(c.r.Context(), r)
}

// connectOptions reads the options of a kind of connection from the query.
func connectOptions(kind string, q url.Values, path string) runtime.Object {
	meta := metav1.TypeMeta{APIVersion: "v1", Kind: kind}
	on := func(name string) bool { return isTrue(q.Get(name)) }
	switch kind {
	case "PodExecOptions":
		return &corev1.PodExecOptions{
			TypeMeta: meta, Stdin: on("stdin"), Stdout: on("stdout"), Stderr: on("stderr"), TTY: on("tty"),
			Container: q.Get("container"), Command: q["command"],
		}
	case "PodAttachOptions":
		return &corev1.PodAttachOptions{
			TypeMeta: meta, Stdin: on("stdin"), Stdout: on("stdout"), Stderr: on("stderr"), TTY: on("tty"), Container: q.Get("container"),
		}
	case "PodPortForwardOptions":
		return &corev1.PodPortForwardOptions{TypeMeta: meta, Ports: numbers(q["ports"])}
	case "PodProxyOptions":
		return &corev1.PodProxyOptions{TypeMeta: meta, Path: path}
	case "ServiceProxyOptions":
		return &corev1.ServiceProxyOptions{TypeMeta: meta, Path: path}
	}
	return &corev1.NodeProxyOptions{TypeMeta: meta, Path: path}
}

// numbers are the ports of lists that are separated by commas; what is none is
// left for the stream itself to refuse.
func numbers(lists []string) (out []int32) {
	for _, list := range lists {
		for _, text := range strings.Split(list, ",") {
			if n, err := strconv.ParseInt(text, 10, 32); err == nil {
				out = append(out, int32(n))
			}
		}
	}
	return out
}
