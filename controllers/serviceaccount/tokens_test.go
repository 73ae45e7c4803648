package serviceaccount

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"proa/auth/pki"
	"proa/auth/token"
	"proa/client"
	"proa/controllers/simulation"
)

// TestSecretsHoldTokens makes a Secret for an account, uses its token, and takes
// away in turn what makes it good.
func TestSecretsHoldTokens(t *testing.T) {
	ca, err := pki.Open(filepath.Join(t.TempDir(), "pki"))
	if err != nil {
		t.Fatal(err)
	}
	var view func() client.View
	issuer, err := token.New("https://issuer", ca.TokenKeys(), func() client.View { return view() })
	if err != nil {
		t.Fatal(err)
	}
	simulation.Run(t, nil, func(ctx context.Context, c *simulation.Cluster) {
		view = c.View
		make := func(name, account string) {
			t.Helper()
			if _, err := c.Create(ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: name,
				Annotations: map[string]string{corev1.ServiceAccountNameKey: account}}, Type: corev1.SecretTypeServiceAccountToken}); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Second)
		}
		get := func(name string) *corev1.Secret { return client.Get[corev1.Secret](c.View(), "a", name) }
		user := func(tok []byte, audiences ...string) string {
			u, _, err := issuer.Review(ctx, string(tok), audiences)
			if err != nil {
				return err.Error()
			}
			return u.Name
		}
		if _, err := c.Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "till"}}); err != nil {
			t.Fatal(err)
		}
		make("lost", "nobody")
		make("one", "till")
		make("two", "till")
		if get("lost") != nil {
			t.Error("a Secret of no account is there")
		}
		s := get("one")
		if string(s.Data["ca.crt"]) != "PEM" || string(s.Data["namespace"]) != "a" || s.Annotations[corev1.ServiceAccountUIDKey] == "" {
			t.Fatalf("secret %+v", s)
		}
		one, two := s.Data["token"], get("two").Data["token"]
		if u := user(one); u != "system:serviceaccount:a:till" {
			t.Error(u)
		}
		if u := user(one, "vault"); u != "the token is for the API only" {
			t.Error(u)
		}
		if u := user(append(one[:len(one):len(one)], 'x')); u == "system:serviceaccount:a:till" {
			t.Error("a forged token is good")
		}
		if err := c.Delete(ctx, client.Row[corev1.Secret](), client.Key{Namespace: "a", Name: "one"}, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		if u := user(one); u != "service account token has been invalidated" {
			t.Error("without its Secret:", u)
		}
		if err := c.Delete(ctx, client.Row[corev1.ServiceAccount](), client.Key{Namespace: "a", Name: "till"}, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		if u := user(two); u == "system:serviceaccount:a:till" || get("two") != nil {
			t.Error("the account is gone, its token is not:", u)
		}
	}, Tokens(issuer.Legacy, []byte("PEM")))
}
