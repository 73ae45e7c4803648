package apiserver_test

import (
	"context"
	"strings"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"proa/apiserver"
	"proa/auth"
	"proa/auth/node"
	"proa/auth/rbac"
	"proa/client"
)

func withNodes(c *apiserver.Config) {
	view := func() client.View { return apiserver.View(c.Store.Snapshot()) }
	c.Authorizer = auth.Authorizers{auth.Masters{}, node.New(view), rbac.Authorizer{View: view}}
	c.Bootstrap = append(c.Bootstrap, rbac.Bootstrap()...)
	c.Tokens = noTokens{}
}

// TestANodeKeepsToItself does what a kubelet does, and what one must not.
func TestANodeKeepsToItself(t *testing.T) {
	h := start(t, withNodes)
	ctx, root, n1 := t.Context(), h.as(t, "root"), h.as(t, "system:node:n1")
	own, err := n1.CoreV1().Nodes().Create(ctx, &corev1.Node{ObjectMeta: named1("n1")}, metav1.CreateOptions{})
	must(t, err)
	_, err = root.CoreV1().Nodes().Create(ctx, &corev1.Node{ObjectMeta: named1("n2")}, metav1.CreateOptions{})
	must(t, err)
	account(t, root, "default")
	refused := func(err error, text string) {
		t.Helper()
		if !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), text) {
			t.Errorf("%v\nwant %s", err, text)
		}
	}
	patch := func(name, body string, sub ...string) error {
		_, err := n1.CoreV1().Nodes().Patch(ctx, name, types.MergePatchType, []byte(body), metav1.PatchOptions{}, sub...)
		return err
	}
	must(t, patch("n1", `{"metadata":{"labels":{"mine":"1","node.kubernetes.io/x":"y"}}}`))
	must(t, patch("n1", `{"status":{"phase":"Running"}}`, "status"))
	refused(patch("n2", `{"metadata":{"labels":{"a":"b"}}}`), `node "n1" is not allowed to modify node "n2"`)
	refused(patch("n1", `{"metadata":{"labels":{"node-restriction.kubernetes.io/z":"1","k8s.io/a":"b"}}}`), "is not allowed to modify labels: k8s.io/a, node-restriction.kubernetes.io/z")
	refused(patch("n1", `{"spec":{"taints":[{"key":"a","effect":"NoSchedule"}]}}`), `node "n1" is not allowed to modify taints`)

	mirror := podNamed("mirror")
	mirror.Annotations = map[string]string{corev1.MirrorPodAnnotationKey: "x"}
	mirror.Spec.NodeName = "n1"
	pods := n1.CoreV1().Pods("default")
	create := func(change func(*corev1.Pod)) error {
		p := mirror.DeepCopy()
		change(p)
		_, err := pods.Create(ctx, p, metav1.CreateOptions{})
		return err
	}
	refused(create(func(p *corev1.Pod) { p.Annotations = nil }), "can only create mirror pods")
	refused(create(func(p *corev1.Pod) {}), "can only create pods with an owner reference set to itself")
	owner := metav1.OwnerReference{APIVersion: "v1", Kind: "Node", Name: "n1", UID: own.UID, Controller: ptr.To(true)}
	mirror.OwnerReferences = []metav1.OwnerReference{owner}
	refused(create(func(p *corev1.Pod) { p.Spec.NodeName = "n2" }), "spec.nodeName set to itself")
	refused(create(func(p *corev1.Pod) { p.OwnerReferences[0].UID = "old" }), "UID mismatch")
	refused(create(func(p *corev1.Pod) { p.Spec.ImagePullSecrets = []corev1.LocalObjectReference{{Name: "s"}} }), "can not create pods that reference secrets")
	must(t, create(func(*corev1.Pod) {}))
	must(t, pods.Delete(ctx, "mirror", metav1.DeleteOptions{GracePeriodSeconds: ptr.To[int64](0)}))

	far, near := podNamed("far"), podNamed("near")
	far.Spec.NodeName, near.Spec.NodeName = "n2", "n1"
	for _, p := range []*corev1.Pod{far, near} {
		made, err := root.CoreV1().Pods("default").Create(ctx, p, metav1.CreateOptions{})
		must(t, err)
		*p = *made
	}
	refused(pods.Delete(ctx, "far", metav1.DeleteOptions{}), "can only delete pods with spec.nodeName set to itself")
	_, err = pods.Patch(ctx, "far", types.MergePatchType, []byte(`{"status":{"phase":"Running"}}`), metav1.PatchOptions{}, "status")
	refused(err, "can only update pod status for pods with spec.nodeName set to itself")
	_, err = pods.Patch(ctx, "near", types.MergePatchType, []byte(`{"status":{"phase":"Running"}}`), metav1.PatchOptions{}, "status")
	must(t, err)

	token := func(p *corev1.Pod, uid types.UID, audience ...string) error {
		_, err := n1.CoreV1().ServiceAccounts("default").CreateToken(ctx, "default", &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{
			Audiences: audience, BoundObjectRef: &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: p.Name, UID: uid}}}, metav1.CreateOptions{})
		return err
	}
	must(t, token(near, near.UID))
	refused(token(near, ""), "node requested token with a pod binding without a uid")
	refused(token(near, "other"), "does not match the UID in record")
	refused(token(far, far.UID), "node requested token bound to a pod scheduled on a different node")
	refused(token(near, near.UID, "vault"), `system:node:n1 is not authorized to request tokens for audience "vault"`)
	grant(t, root, "system:node:n1", rbacRule("request-serviceaccounts-token-audience", "", "vault"))
	must(t, token(near, near.UID, "vault"))
}

func rbacRule(verb, group, resource string) rbacv1.PolicyRule {
	return rbacv1.PolicyRule{Verbs: []string{verb}, APIGroups: []string{group}, Resources: []string{resource}}
}

// noTokens says yes to every TokenRequest.
type noTokens struct{ auth.TokenIssuer }

func (noTokens) Issue(_ context.Context, _ *corev1.ServiceAccount, req *authenticationv1.TokenRequest) (*authenticationv1.TokenRequest, error) {
	return req, nil
}
