package apiserver

import (
	"net/http"

	authenticationv1 "k8s.io/api/authentication/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"proa/api"
	"proa/apiserver/endpoint"
)

// subresources are those that take another kind than their parent's, or do
// something else than write it. The rest go the way of their parent.
var subresources = map[string]func(*call) error{
	"scale":    (*call).scale,
	"binding":  (*call).binding,
	"eviction": (*call).eviction,
	"token":    (*call).token,
}

func (c *call) scale() error {
	switch c.t.Verb {
	case "get":
		return c.get()
	case "patch":
		return c.patch()
	}
	var scale autoscalingv1.Scale
	if err := c.decode(&scale, endpoint.ScaleKind); err != nil {
		return err
	}
	res, err := c.s.endpoint.UpdateScale(c.r.Context(), c.q, &scale)
	return c.result(res, err)
}

func (c *call) binding() error {
	var b corev1.Binding
	if err := c.decode(&b, corev1.SchemeGroupVersion.WithKind("Binding")); err != nil {
		return err
	}
	if b.Name != "" && b.Name != c.q.Name {
		return apierrors.NewBadRequest("name in URL does not match name in Binding object")
	}
	if _, err := c.s.endpoint.Bind(c.r.Context(), c.q, &b); err != nil {
		return err
	}
	c.success(http.StatusCreated)
	return nil
}

// bindings is the oldest way to bind a pod: a Binding of the pod's name, posted
// beside the pods instead of below one.
func (c *call) bindings() error {
	var b corev1.Binding
	if err := c.decode(&b, corev1.SchemeGroupVersion.WithKind("Binding")); err != nil {
		return err
	}
	c.q.Served = api.Served{Resource: c.s.cfg.Registry.ByKey("pods")}
	c.q.Name, c.q.Subresource = b.Name, "binding"
	if _, err := c.s.endpoint.Bind(c.r.Context(), c.q, &b); err != nil {
		return err
	}
	c.success(http.StatusCreated)
	return nil
}

func (c *call) eviction() error {
	var ev policyv1.Eviction
	if err := c.decode(&ev, policyv1.SchemeGroupVersion.WithKind("Eviction")); err != nil {
		return err
	}
	if err := c.s.endpoint.Evict(c.r.Context(), c.q, &ev); err != nil {
		return err
	}
	c.success(http.StatusCreated)
	return nil
}

func (c *call) token() error {
	var req authenticationv1.TokenRequest
	gvk := authenticationv1.SchemeGroupVersion.WithKind("TokenRequest")
	if err := c.decode(&req, gvk); err != nil {
		return err
	}
	out, err := c.s.endpoint.IssueToken(c.r.Context(), c.q, &req)
	if err != nil {
		return err
	}
	out.SetGroupVersionKind(gvk)
	c.object(http.StatusCreated, c.w, out)
	return nil
}

// success answers a write that has no object to show.
func (c *call) success(code int) {
	c.w.As = ""
	c.object(code, c.w, &metav1.Status{
		TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: metav1.StatusSuccess, Code: int32(code),
	})
}

// post is a create below an object that this server does not know.
func (c *call) post() error { return apierrors.NewMethodNotSupported(c.served.GR(), c.t.Verb) }
