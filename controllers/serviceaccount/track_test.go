package serviceaccount

import (
	"context"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"proa/auth/pki"
	"proa/auth/token"
	"proa/client"
	"proa/controllers/simulation"
)

// TestUseIsTracked: a token's first use in a day is told, also of one that is marked,
// and of one that is of no use is not.
func TestUseIsTracked(t *testing.T) {
	ca, err := pki.Open(filepath.Join(t.TempDir(), "pki"))
	if err != nil {
		t.Fatal(err)
	}
	var view func() client.View
	issuer, err := token.New("https://issuer", ca.TokenKeys(), func() client.View { return view() })
	if err != nil {
		t.Fatal(err)
	}
	var uses []string
	issuer.Track(func(_ context.Context, s *corev1.Secret, day string) { uses = append(uses, s.Name+" "+day) })
	simulation.Run(t, nil, func(ctx context.Context, c *simulation.Cluster) {
		view = c.View
		for _, obj := range []client.Object{
			&corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "till"}},
			&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "one", Annotations: map[string]string{corev1.ServiceAccountNameKey: "till"}}, Type: corev1.SecretTypeServiceAccountToken},
		} {
			if _, err := c.Create(ctx, obj); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(time.Second)
		tok := string(client.Get[corev1.Secret](c.View(), "a", "one").Data["token"])
		today := time.Now().UTC().Format(token.Day)
		for _, step := range []struct {
			labels map[string]string
			err    string
			noted  bool
		}{
			{nil, "", true},
			{map[string]string{token.LabelLastUsed: today}, "", false},
			{map[string]string{token.LabelLastUsed: "2020-01-01"}, "", true},
			{map[string]string{token.LabelInvalidSince: today}, "has been marked invalid", true},
		} {
			next := client.Get[corev1.Secret](c.View(), "a", "one").DeepCopy()
			next.Labels, uses = step.labels, nil
			if _, err := c.Update(ctx, next, ""); err != nil {
				t.Fatal(err)
			}
			_, _, err := issuer.Review(ctx, tok, nil)
			if (err == nil) != (step.err == "") || err != nil && !strings.Contains(err.Error(), step.err) {
				t.Errorf("%v: %v", step.labels, err)
			}
			if want := []string{"one " + today}; step.noted && !slices.Equal(uses, want) || !step.noted && uses != nil {
				t.Errorf("%v: uses %q", step.labels, uses)
			}
		}
		uses = nil
		if _, _, err := issuer.Review(ctx, tok+"x", nil); err == nil || uses != nil {
			t.Errorf("forged: %v, uses %q", err, uses)
		}
	}, Tokens(issuer.Legacy, []byte("PEM")))
}
