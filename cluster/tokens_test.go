package cluster

import (
	"net/http"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"proa/auth/requestheader"
	"proa/auth/token"
	"proa/client"
	"proa/controllers/serviceaccount"
)

// TestTokenUseIsNoted uses a token of a Secret at a whole control plane.
func TestTokenUseIsNoted(t *testing.T) {
	p := up(t, dirs(t))
	c := p.Client("test")
	for end := time.Now().Add(20 * time.Second); client.Get[corev1.ServiceAccount](c.View(), "default", "default") == nil; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("no account")
		}
	}
	if _, err := c.Create(t.Context(), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "s",
		Annotations: map[string]string{corev1.ServiceAccountNameKey: "default"}}, Type: corev1.SecretTypeServiceAccountToken}); err != nil {
		t.Fatal(err)
	}
	held := func() *corev1.Secret { return client.Get[corev1.Secret](c.View(), "default", "s") }
	await := func(what string, ok func(s *corev1.Secret) bool) {
		t.Helper()
		for end := time.Now().Add(20 * time.Second); !ok(held()); time.Sleep(5 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("no %s: %v", what, held())
			}
		}
	}
	await("token", func(s *corev1.Secret) bool { return s != nil && len(s.Data["token"]) > 0 })
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://x/api", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+string(held().Data["token"]))
	u, ok, err := p.authenticator(requestheader.Config{}).Authenticate(r)
	if err != nil || !ok || u.Name != "system:serviceaccount:default:default" {
		t.Fatalf("%+v, %v", u, err)
	}
	await("day of its use", func(s *corev1.Secret) bool {
		_, err := time.Parse(token.Day, s.Labels[token.LabelLastUsed])
		return err == nil
	})
	since := client.Get[corev1.ConfigMap](c.View(), metav1.NamespaceSystem, serviceaccount.TrackingName)
	if since == nil || since.Data[serviceaccount.TrackingKey] == "" {
		t.Errorf("nothing says since when uses are noted: %v", since)
	}
}
