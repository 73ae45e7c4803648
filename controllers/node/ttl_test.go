package node

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
)

func TestSpellsChangeOnlyBeyondTheirEdges(t *testing.T) {
	for _, tc := range []struct {
		have string
		size int
		want string // "" is no write
	}{
		{"", 1, "0"}, {"nonsense", 1, "0"}, {"0", 100, ""}, {"0", 101, "15"}, {"15", 95, ""}, {"15", 89, "0"},
		{"15", 5000, "300"}, {"300", 3, "0"}, {"60", 950, ""}, {"17", 3, "0"},
	} {
		n := &corev1.Node{}
		if tc.have != "" {
			n.Annotations = map[string]string{corev1.ObjectTTLAnnotationKey: tc.have}
		}
		got := ""
		if plan := decideTTL(n, tc.size); len(plan.Writes) == 1 {
			got = plan.Writes[0].Object.GetAnnotations()[corev1.ObjectTTLAnnotationKey]
		}
		if got != tc.want {
			t.Errorf("%q with %d nodes becomes %q, want %q", tc.have, tc.size, got, tc.want)
		}
	}
}
