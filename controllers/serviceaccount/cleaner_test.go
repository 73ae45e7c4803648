package serviceaccount

import (
	"context"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"proa/auth/token"
	"proa/client"
	"proa/controllers/simulation"
)

// TestUnusedTokens: a token that was made by itself and that nobody uses for a year
// is marked, and deleted a year later; others stay.
func TestUnusedTokens(t *testing.T) {
	simulation.Run(t, nil, func(ctx context.Context, c *simulation.Cluster) {
		create := func(obj client.Object) {
			t.Helper()
			if _, err := c.Create(ctx, obj); err != nil {
				t.Fatal(err)
			}
		}
		day := func(d time.Duration) string { return time.Now().Add(d).UTC().Format(token.Day) }
		create(&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: TrackingName}, Data: map[string]string{TrackingKey: day(0)}})
		names := []string{"unused", "used", "mounted", "odd"}
		sa := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "till"}}
		for _, name := range names {
			sa.Secrets = append(sa.Secrets, corev1.ObjectReference{Name: name})
		}
		create(sa)
		for _, name := range append(names, "manual") {
			labels := map[string]string{}
			switch name {
			case "used":
				labels[token.LabelLastUsed] = day(300 * 24 * time.Hour)
			case "odd":
				labels[token.LabelLastUsed] = "yesterday"
			}
			create(&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: name, Labels: labels,
				Annotations: map[string]string{corev1.ServiceAccountNameKey: "till"}}, Type: corev1.SecretTypeServiceAccountToken})
		}
		create(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "p"}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}},
			Volumes: []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "mounted"}}}}}})
		state := func() (out string) {
			for _, name := range append(names, "manual") {
				s := client.Get[corev1.Secret](c.View(), "a", name)
				switch {
				case s == nil:
					out += name + " gone, "
				case s.Labels[token.LabelInvalidSince] != "":
					out += name + " marked, "
				}
			}
			return out
		}
		for _, step := range []struct {
			days time.Duration
			want string
		}{
			{364, ""},
			{4, "unused marked, "},
			{310, "unused marked, used marked, "},
			{70, "unused gone, used marked, "},
			{310, "unused gone, used gone, "},
			{800, "unused gone, used gone, "},
		} {
			time.Sleep(step.days * 24 * time.Hour)
			if got := state(); got != step.want {
				t.Errorf("after %d days more: %q, want %q", step.days, got, step.want)
			}
		}
		if err := c.Delete(ctx, client.Row[corev1.Pod](), client.Key{Namespace: "a", Name: "p"}, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(48 * time.Hour)
		if got := state(); got != "unused gone, used gone, mounted marked, " {
			t.Errorf("without the pod: %q", got)
		}
	}, Cleaner())
}
