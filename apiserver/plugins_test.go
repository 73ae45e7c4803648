package apiserver_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"slices"
	"strings"
	"testing"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/utils/ptr"

	"proa/api"
	"proa/apiserver"
	"proa/auth"
)

// anything lets everybody do everything but what is about signers, and "meek"
// not delete.
type anything struct{}

func (anything) Authorize(_ context.Context, a auth.Attributes) (auth.Decision, string, error) {
	if a.Resource == "signers" && a.Name != "example.com/*" || a.User.Name == "meek" && a.Verb == "delete" {
		return auth.NoOpinion, "", nil
	}
	return auth.Allow, "", nil
}

func lenient(c *apiserver.Config) { c.Authorizer = auth.Authorizers{auth.Masters{}, anything{}} }

func signingRequest(t *testing.T, name, signer, org string) *certificatesv1.CertificateSigningRequest {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "u", Organization: []string{org}}}, key)
	must(t, err)
	return &certificatesv1.CertificateSigningRequest{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: certificatesv1.CertificateSigningRequestSpec{
		Request: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}), SignerName: signer,
		Usages: []certificatesv1.KeyUsage{certificatesv1.UsageClientAuth},
	}}
}

// TestCertificatePlugins: who may approve and sign for which signer, and whom
// nobody makes a master.
func TestCertificatePlugins(t *testing.T) {
	h := start(t, lenient)
	ctx, root := t.Context(), h.clients(t, runtime.ContentTypeJSON)
	csrs := root.CertificatesV1().CertificateSigningRequests()
	_, err := csrs.Create(ctx, signingRequest(t, "m", certificatesv1.KubeAPIServerClientSignerName, "system:masters"), metav1.CreateOptions{})
	if !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "use of kubernetes.io/kube-apiserver-client signer with system:masters group is not allowed") {
		t.Errorf("a master's request: %v", err)
	}
	user := h.as(t, "ann").CertificatesV1().CertificateSigningRequests()
	for signer, allowed := range map[string]bool{"example.com/one": true, "example.org/two": false} {
		made, err := csrs.Create(ctx, signingRequest(t, strings.ReplaceAll(signer, "/", "-"), signer, "o"), metav1.CreateOptions{})
		must(t, err)
		made.Status.Conditions = []certificatesv1.CertificateSigningRequestCondition{{Type: certificatesv1.CertificateApproved, Status: corev1.ConditionTrue, Reason: "r"}}
		_, err = user.UpdateApproval(ctx, made.Name, made, metav1.UpdateOptions{})
		refused := err != nil && strings.Contains(err.Error(), `user not permitted to approve requests with signerName "`+signer+`"`)
		if allowed && err != nil || !allowed && !refused {
			t.Errorf("approving for %s: %v", signer, err)
		}
	}
}

// TestClaimResize: a claim grows once it is bound, and its class allows it.
func TestClaimResize(t *testing.T) {
	h := start(t)
	ctx, cs := t.Context(), h.clients(t, runtime.ContentTypeJSON)
	_, err := cs.StorageV1().StorageClasses().Create(ctx, &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: "c"}, Provisioner: "x"}, metav1.CreateOptions{})
	must(t, err)
	claims := cs.CoreV1().PersistentVolumeClaims("default")
	c, err := claims.Create(ctx, &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Name: "c"}, Spec: corev1.PersistentVolumeClaimSpec{
		AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}, StorageClassName: ptr.To("c"), VolumeName: "v",
		Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{"storage": resource.MustParse("1Gi")}},
	}}, metav1.CreateOptions{})
	must(t, err)
	c.Status.Phase = corev1.ClaimBound
	c, err = claims.UpdateStatus(ctx, c, metav1.UpdateOptions{})
	must(t, err)
	c.Spec.Resources.Requests["storage"] = resource.MustParse("2Gi")
	if _, err = claims.Update(ctx, c, metav1.UpdateOptions{}); !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "only dynamically provisioned pvc can be resized") {
		t.Errorf("growing in a class that does not: %v", err)
	}
	_, err = cs.StorageV1().StorageClasses().Patch(ctx, "c", "application/merge-patch+json", []byte(`{"allowVolumeExpansion":true}`), metav1.PatchOptions{})
	must(t, err)
	_, err = claims.Update(ctx, c, metav1.UpdateOptions{})
	must(t, err)
}

// TestChosenPlugins: plugins are turned on and off by name.
func TestChosenPlugins(t *testing.T) {
	h := start(t, lenient, func(c *apiserver.Config) {
		c.EnablePlugins, c.DisablePlugins = []string{"AlwaysPullImages", "OwnerReferencesPermissionEnforcement"}, []string{"ServiceAccount"}
	})
	ctx, cs := t.Context(), h.clients(t, runtime.ContentTypeJSON)
	p := podNamed("p")
	p.Spec.Containers[0].ImagePullPolicy = corev1.PullNever
	made, err := cs.CoreV1().Pods("default").Create(ctx, p, metav1.CreateOptions{})
	must(t, err)
	if made.Spec.Containers[0].ImagePullPolicy != corev1.PullAlways || made.Spec.ServiceAccountName != "" {
		t.Errorf("policy %s, account %q", made.Spec.Containers[0].ImagePullPolicy, made.Spec.ServiceAccountName)
	}
	owned := configMap("m", nil)
	owned.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Pod", Name: "p", UID: made.UID}}
	_, err = h.as(t, "meek").CoreV1().ConfigMaps("default").Create(ctx, owned, metav1.CreateOptions{})
	if !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "cannot set an ownerRef on a resource you can't delete") {
		t.Errorf("an owner by who may not delete: %v", err)
	}
	if _, err := apiserver.New(apiserver.Config{Store: h.store, Registry: api.Builtin(), Authorizer: auth.Masters{}, EnablePlugins: []string{"Nonsense"}}); err == nil ||
		!strings.Contains(err.Error(), `admission plugin "Nonsense" is unknown`) {
		t.Errorf("an unknown plugin: %v", err)
	}
}

// TestTopologyLabels: a bound pod says where it is.
func TestTopologyLabels(t *testing.T) {
	h := start(t)
	ctx, cs := t.Context(), h.clients(t, runtime.ContentTypeJSON)
	account(t, cs, "default")
	_, err := cs.CoreV1().Nodes().Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n", Labels: map[string]string{corev1.LabelTopologyZone: "z", corev1.LabelTopologyRegion: "r", "other": "o"}}}, metav1.CreateOptions{})
	must(t, err)
	_, err = cs.CoreV1().Pods("default").Create(ctx, podNamed("p"), metav1.CreateOptions{})
	must(t, err)
	must(t, cs.CoreV1().Pods("default").Bind(ctx, &corev1.Binding{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Target: corev1.ObjectReference{Kind: "Node", Name: "n"}}, metav1.CreateOptions{}))
	p, err := cs.CoreV1().Pods("default").Get(ctx, "p", metav1.GetOptions{})
	must(t, err)
	if p.Labels[corev1.LabelTopologyZone] != "z" || p.Labels[corev1.LabelTopologyRegion] != "r" || p.Labels["other"] != "" || p.Spec.NodeName != "n" {
		t.Errorf("labels %v on %s", p.Labels, p.Spec.NodeName)
	}
}

// TestResizeWithinTheNode: a pod that is placed grows as far as its node goes, and
// only in ways that the node knows.
func TestResizeWithinTheNode(t *testing.T) {
	h := start(t, lenient)
	ctx, cs := t.Context(), h.clients(t, runtime.ContentTypeJSON)
	account(t, cs, "default")
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n"}}
	made, err := cs.CoreV1().Nodes().Create(ctx, node, metav1.CreateOptions{})
	must(t, err)
	made.Status.Allocatable = corev1.ResourceList{"cpu": resource.MustParse("2"), "memory": resource.MustParse("1Gi")}
	_, err = cs.CoreV1().Nodes().UpdateStatus(ctx, made, metav1.UpdateOptions{})
	must(t, err)
	p := podNamed("p")
	p.Spec.NodeName = "n"
	p.Spec.InitContainers = []corev1.Container{{Name: "first", Image: "x"}}
	p.Spec.Containers[0].Resources.Requests = corev1.ResourceList{"cpu": resource.MustParse("1")}
	_, err = cs.CoreV1().Pods("default").Create(ctx, p, metav1.CreateOptions{})
	must(t, err)
	resize := func(what, name, cpu string) error {
		_, err := cs.CoreV1().Pods("default").Patch(ctx, "p", "application/strategic-merge-patch+json",
			fmt.Appendf(nil, `{"spec":{"%s":[{"name":"%s","resources":{"requests":{"cpu":"%s"}}}]}}`, what, name, cpu), metav1.PatchOptions{}, "resize")
		return err
	}
	name := p.Spec.Containers[0].Name
	if err := resize("containers", name, "3"); !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "node didn't have enough allocatable resources: cpu, requested: 3000, allocatable: 2000") ||
		!apierrors.HasStatusCause(err, "NodeCapacity") {
		t.Errorf("beyond the node: %v", err)
	}
	must(t, resize("containers", name, "1500m"))
	if err := resize("initContainers", "first", "1"); err == nil {
		t.Error("the node never said that it can resize init containers")
	}
}

// TestOptionalPlugins: those that upstream has off.
func TestOptionalPlugins(t *testing.T) {
	h := start(t, lenient, func(c *apiserver.Config) {
		c.EnablePlugins = []string{"ExtendedResourceToleration", "LimitPodHardAntiAffinityTopology", "PodNodeSelector", "NamespaceExists"}
	})
	ctx, cs := t.Context(), h.clients(t, runtime.ContentTypeJSON)
	account(t, cs, "default")
	_, err := cs.CoreV1().Namespaces().Patch(ctx, "default", "application/merge-patch+json",
		[]byte(`{"metadata":{"annotations":{"scheduler.alpha.kubernetes.io/node-selector":"pool=a"}}}`), metav1.PatchOptions{})
	must(t, err)
	p := podNamed("p")
	p.Spec.Containers[0].Resources.Limits = corev1.ResourceList{"example.com/gpu": resource.MustParse("1")}
	made, err := cs.CoreV1().Pods("default").Create(ctx, p, metav1.CreateOptions{})
	must(t, err)
	tolerates := slices.ContainsFunc(made.Spec.Tolerations, func(t corev1.Toleration) bool { return t.Key == "example.com/gpu" })
	if made.Spec.NodeSelector["pool"] != "a" || !tolerates {
		t.Errorf("selector %v, tolerations %v", made.Spec.NodeSelector, made.Spec.Tolerations)
	}
	other := podNamed("q")
	other.Spec.NodeSelector = map[string]string{"pool": "b"}
	if _, err := cs.CoreV1().Pods("default").Create(ctx, other, metav1.CreateOptions{}); !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "conflicts with its namespace node label selector") {
		t.Errorf("another pool: %v", err)
	}
	greedy := podNamed("r")
	greedy.Spec.Affinity = &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{
		{TopologyKey: "zone", LabelSelector: &metav1.LabelSelector{}}}}}
	if _, err := cs.CoreV1().Pods("default").Create(ctx, greedy, metav1.CreateOptions{}); !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "only key kubernetes.io/hostname is allowed") {
		t.Errorf("a zone for itself: %v", err)
	}
	if _, err := cs.CoreV1().ConfigMaps("nowhere").Create(ctx, configMap("m", nil), metav1.CreateOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("in no namespace: %v", err)
	}
}
