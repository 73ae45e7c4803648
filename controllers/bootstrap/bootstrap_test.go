package bootstrap

import (
	"context"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"proa/auth"
	"proa/auth/bootstraptoken"
	"proa/client"
	"proa/controllers/simulation"
)

func secret(id string, life time.Duration, usages ...string) *corev1.Secret {
	s := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: "bootstrap-token-" + id}, Type: corev1.SecretTypeBootstrapToken,
		Data: map[string][]byte{"token-id": []byte(id), "token-secret": []byte("0123456789abcdef"), "auth-extra-groups": []byte("system:bootstrappers:x")}}
	for _, u := range usages {
		s.Data[u] = []byte("true")
	}
	if life > 0 {
		s.Data["expiration"] = []byte(time.Now().Add(life).Format(time.RFC3339))
	}
	return s
}

func create(t *testing.T, ctx context.Context, w *simulation.Cluster, objs ...client.Object) {
	t.Helper()
	for _, o := range objs {
		if _, err := w.Create(ctx, o); err != nil {
			t.Fatal(err)
		}
	}
}

// TestATokensLife: it is good for what it is for, signs, and goes when its time is
// over.
func TestATokensLife(t *testing.T) {
	simulation.Run(t, nil, func(ctx context.Context, w *simulation.Cluster) {
		create(t, ctx, w, secret("abcdef", time.Hour, "usage-bootstrap-authentication", "usage-bootstrap-signing"), secret("signer", 0, "usage-bootstrap-signing"),
			&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "kube-public", Name: "cluster-info"}, Data: map[string]string{"kubeconfig": "content", "jws-kubeconfig-gone99": "x"}})
		review := bootstraptoken.Reviewer{View: w.View, Now: time.Now}
		user := func(token string) string {
			u, err := review.Token(ctx, token)
			if err != nil {
				return err.Error()
			}
			if !u.In("system:bootstrappers") || !u.In("system:bootstrappers:x") {
				t.Errorf("groups %q", u.Groups)
			}
			return u.Name
		}
		signatures := func() map[string]string {
			time.Sleep(time.Second)
			data := client.Get[corev1.ConfigMap](w.View(), "kube-public", "cluster-info").DeepCopy().Data
			delete(data, "kubeconfig")
			return data
		}
		no := auth.ErrNotOurs.Error()
		for token, want := range map[string]string{"abcdef.0123456789abcdef": "system:bootstrap:abcdef", "abcdef.0123456789abcdee": no,
			"signer.0123456789abcdef": no, "nobody.0123456789abcdef": no, "abcdef": no, "": no} {
			if got := user(token); got != want {
				t.Errorf("%q is %q, want %q", token, got, want)
			}
		}
		// As any implementation of RFC 7515 computes it.
		const want = "eyJhbGciOiJIUzI1NiIsImtpZCI6ImFiY2RlZiJ9..psz1NayrXM3IaFzKZGsb5n_mBl7MjtlsZ1xE8MRmF_4"
		if s := signatures(); len(s) != 2 || s["jws-kubeconfig-abcdef"] != want {
			t.Errorf("signatures %q", s)
		}
		time.Sleep(time.Hour)
		if got := user("abcdef.0123456789abcdef"); got != no {
			t.Errorf("when its time is over: %q", got)
		}
		if s := signatures(); len(s) != 1 || s["jws-kubeconfig-signer"] == "" {
			t.Errorf("signatures later %q", s)
		}
		if client.Get[corev1.Secret](w.View(), "kube-system", "bootstrap-token-abcdef") != nil || client.Get[corev1.Secret](w.View(), "kube-system", "bootstrap-token-signer") == nil {
			t.Error("the expired token is there, or the other is not")
		}
	}, TokenCleaner(), Signer())
}

func TestSecretsThatAreNoTokens(t *testing.T) {
	for name, change := range map[string]func(*corev1.Secret){
		"another type":  func(s *corev1.Secret) { s.Type = corev1.SecretTypeOpaque },
		"another name":  func(s *corev1.Secret) { s.Name = "bootstrap-token-other1" },
		"short secret":  func(s *corev1.Secret) { s.Data["token-secret"] = []byte("short") },
		"bad time":      func(s *corev1.Secret) { s.Data["expiration"] = []byte("soon") },
		"forged group":  func(s *corev1.Secret) { s.Data["auth-extra-groups"] = []byte("system:masters") },
		"elsewhere":     func(s *corev1.Secret) { s.Namespace = "default" },
		"no ID at all":  func(s *corev1.Secret) { delete(s.Data, "token-id") },
		"an ID of dots": func(s *corev1.Secret) { s.Data["token-id"], s.Name = []byte("......"), "bootstrap-token-......" },
	} {
		s := secret("abcdef", 0, "usage-bootstrap-authentication")
		change(s)
		if tok, err := bootstraptoken.Read(s); err == nil {
			t.Errorf("%s: %+v", name, tok)
		}
	}
}
