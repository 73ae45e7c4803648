package apiserver_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"net/http"
	"testing"

	certificatesv1 "k8s.io/api/certificates/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// TestRequesterIsTheSender: who asks for a certificate is who sent the request,
// whatever the object claims, and whoever updates it later.
func TestRequesterIsTheSender(t *testing.T) {
	h := start(t)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "u"}}, key)
	must(t, err)
	requests := h.clients(t, runtime.ContentTypeJSON).CertificatesV1().CertificateSigningRequests()
	made, err := requests.Create(t.Context(), &certificatesv1.CertificateSigningRequest{
		ObjectMeta: metav1.ObjectMeta{Name: "a"},
		Spec: certificatesv1.CertificateSigningRequestSpec{
			Request:    pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}),
			SignerName: "example.com/signer", Usages: []certificatesv1.KeyUsage{certificatesv1.UsageClientAuth},
			Username: "system:node:other", Groups: []string{"system:nodes"}, UID: "1", Extra: map[string]certificatesv1.ExtraValue{"a": {"b"}},
		},
	}, metav1.CreateOptions{})
	must(t, err)
	if made.Spec.Username == "" || made.Spec.Username == "system:node:other" || made.Spec.UID != "" || len(made.Spec.Extra) != 0 {
		t.Errorf("requester: %q %q %v %v", made.Spec.Username, made.Spec.UID, made.Spec.Groups, made.Spec.Extra)
	}
	claimed := made.DeepCopy()
	claimed.Spec.Username = "system:node:other"
	after, err := requests.Update(t.Context(), claimed, metav1.UpdateOptions{})
	must(t, err)
	if after.Spec.Username != made.Spec.Username {
		t.Errorf("an update made it %q's", after.Spec.Username)
	}
}

// TestNamespacedObjectWithoutNamespace: there is no such path; the collection has
// no such method.
func TestNamespacedObjectWithoutNamespace(t *testing.T) {
	h := start(t)
	core := h.clients(t, runtime.ContentTypeJSON).CoreV1().RESTClient()
	if err := core.Get().AbsPath("/api/v1/pods/p").Do(t.Context()).Error(); !apierrors.IsNotFound(err) {
		t.Errorf("want 404, have %v", err)
	}
	err := core.Post().AbsPath("/api/v1/pods").Body([]byte("{}")).Do(t.Context()).Error()
	if status, ok := err.(apierrors.APIStatus); !ok || status.Status().Code != http.StatusMethodNotAllowed {
		t.Errorf("want 405, have %v", err)
	}
}
