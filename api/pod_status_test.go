package api

import (
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// What kubelets and controllers write is taken, and what is none of it refused.
func TestValidatePodStatus(t *testing.T) {
	for name, c := range map[string]struct {
		status corev1.PodStatus
		want   []string
	}{
		"conditions of many": {corev1.PodStatus{Conditions: []corev1.PodCondition{
			{Type: corev1.PodScheduled}, {Type: corev1.DisruptionTarget}, {Type: corev1.PodReadyToStartContainers}, {Type: corev1.ContainersReady}, {Type: "example.com/gate"}}}, nil},
		"no condition":     {corev1.PodStatus{Conditions: []corev1.PodCondition{{Type: "not valid!"}}}, []string{"status.conditions[0].Type: Invalid"}},
		"one of each":      {corev1.PodStatus{PodIP: "10.0.0.1", PodIPs: []corev1.PodIP{{IP: "10.0.0.1"}, {IP: "fd00::1"}}}, nil},
		"two of a family":  {corev1.PodStatus{PodIPs: []corev1.PodIP{{IP: "10.0.0.1"}, {IP: "10.0.0.2"}}}, []string{"status.podIPs: Invalid"}},
		"another host":     {corev1.PodStatus{HostIP: "10.0.0.1", HostIPs: []corev1.HostIP{{IP: "10.0.0.2"}}}, []string{"status.hostIPs[0].ip: Invalid"}},
		"another class":    {corev1.PodStatus{QOSClass: corev1.PodQOSGuaranteed}, []string{"status.qosClass: Invalid"}},
		"nobody's claim":   {corev1.PodStatus{ResourceClaimStatuses: []corev1.PodResourceClaimStatus{{Name: "a"}}}, []string{"status.resourceClaimStatuses[0].name: Invalid"}},
		"nominated, bound": {corev1.PodStatus{NominatedNodeName: "b"}, []string{"status.nominatedNodeName: Forbidden"}},
	} {
		old := &corev1.Pod{Spec: corev1.PodSpec{NodeName: "a"}}
		next := old.DeepCopy()
		next.Status = c.status
		var got []string
		for _, e := range validatePodStatus(next, old) {
			got = append(got, e.Field+": "+map[bool]string{true: "Forbidden", false: "Invalid"}[e.Type == "FieldValueForbidden"])
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}
