package api

import (
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"
)

func TestSettleFamilies(t *testing.T) {
	v4, v6 := corev1.IPv4Protocol, corev1.IPv6Protocol
	for name, c := range map[string]struct {
		spec    corev1.ServiceSpec
		cluster []corev1.IPFamily
		policy  corev1.IPFamilyPolicy
		want    []corev1.IPFamily
	}{
		"plain":                      {corev1.ServiceSpec{}, []corev1.IPFamily{v4}, corev1.IPFamilyPolicySingleStack, []corev1.IPFamily{v4}},
		"address of the other":       {corev1.ServiceSpec{ClusterIP: "fd00::1", ClusterIPs: []string{"fd00::1"}}, []corev1.IPFamily{v4, v6}, corev1.IPFamilyPolicySingleStack, []corev1.IPFamily{v6}},
		"two addresses":              {corev1.ServiceSpec{IPFamilyPolicy: ptr.To(corev1.IPFamilyPolicyRequireDualStack), ClusterIP: "fd00::1", ClusterIPs: []string{"fd00::1", "10.0.0.1"}}, []corev1.IPFamily{v4, v6}, corev1.IPFamilyPolicyRequireDualStack, []corev1.IPFamily{v6, v4}},
		"prefers two, has two":       {corev1.ServiceSpec{IPFamilyPolicy: ptr.To(corev1.IPFamilyPolicyPreferDualStack)}, []corev1.IPFamily{v6, v4}, corev1.IPFamilyPolicyPreferDualStack, []corev1.IPFamily{v6, v4}},
		"prefers two, has one":       {corev1.ServiceSpec{IPFamilyPolicy: ptr.To(corev1.IPFamilyPolicyPreferDualStack)}, []corev1.IPFamily{v4}, corev1.IPFamilyPolicyPreferDualStack, []corev1.IPFamily{v4}},
		"headless":                   {corev1.ServiceSpec{ClusterIP: "None", ClusterIPs: []string{"None"}, Selector: map[string]string{"a": "b"}}, []corev1.IPFamily{v4}, corev1.IPFamilyPolicySingleStack, []corev1.IPFamily{v4}},
		"headless without endpoints": {corev1.ServiceSpec{ClusterIP: "None", ClusterIPs: []string{"None"}}, []corev1.IPFamily{v4}, corev1.IPFamilyPolicyRequireDualStack, []corev1.IPFamily{v4, v6}},
	} {
		t.Run(name, func(t *testing.T) {
			s := &corev1.Service{Spec: c.spec}
			for range 2 { // and again, as an update does
				errs := SettleFamilies(s, nil, c.cluster)
				if len(errs) > 0 || *s.Spec.IPFamilyPolicy != c.policy || !slices.Equal(s.Spec.IPFamilies, c.want) {
					t.Fatalf("%s %v %v", *s.Spec.IPFamilyPolicy, s.Spec.IPFamilies, errs)
				}
			}
		})
	}
	outside := &corev1.Service{Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName}}
	if errs := SettleFamilies(outside, nil, []corev1.IPFamily{v4}); len(errs) > 0 || outside.Spec.IPFamilyPolicy != nil {
		t.Error("an external name got a family")
	}
	for want, spec := range map[string]corev1.ServiceSpec{
		"not configured for dual-stack": {IPFamilyPolicy: ptr.To(corev1.IPFamilyPolicyRequireDualStack)},
		"when multiple cluster IPs":     {ClusterIP: "10.0.0.1", ClusterIPs: []string{"10.0.0.1", "fd00::1"}},
		"IPv6 is not configured":        {ClusterIP: "fd00::1", ClusterIPs: []string{"fd00::1"}},
		"not configured on this":        {IPFamilies: []corev1.IPFamily{v6}},
	} {
		errs := SettleFamilies(&corev1.Service{Spec: spec}, nil, []corev1.IPFamily{v4})
		if len(errs) == 0 || !strings.Contains(errs.ToAggregate().Error(), want) {
			t.Errorf("%s: %v", want, errs)
		}
	}
}

func TestPodGrace(t *testing.T) {
	pod := func(node string, phase corev1.PodPhase, spec int64) *corev1.Pod {
		return &corev1.Pod{Spec: corev1.PodSpec{NodeName: node, TerminationGracePeriodSeconds: &spec}, Status: corev1.PodStatus{Phase: phase}}
	}
	for name, c := range map[string]struct {
		pod   *corev1.Pod
		asked *int64
		want  int64
	}{
		"its own":       {pod("n", corev1.PodRunning, 30), nil, 30},
		"asked for":     {pod("n", corev1.PodRunning, 30), ptr.To[int64](5), 5},
		"at once":       {pod("n", corev1.PodRunning, 30), ptr.To[int64](0), 0},
		"negative":      {pod("n", corev1.PodRunning, -3), nil, 1},
		"not scheduled": {pod("", corev1.PodPending, 30), nil, 0},
		"finished":      {pod("n", corev1.PodSucceeded, 30), nil, 0},
	} {
		got, stays := podGrace(c.pod, c.asked)
		if got != c.want || stays != (c.want > 0) {
			t.Errorf("%s: %d, stays %v", name, got, stays)
		}
	}
}

// matchLabelKeys become requirements of the selector, by the pod's own labels.
func TestMatchLabelKeys(t *testing.T) {
	row := Builtin().ByKey("pods")
	_, obj := decodeYAML(t, `
apiVersion: v1
kind: Pod
metadata: {name: a, labels: {app: x, pod-template-hash: h}}
spec:
  containers: [{name: c, image: x}]
  topologySpreadConstraints: [{maxSkew: 1, topologyKey: zone, whenUnsatisfiable: DoNotSchedule, matchLabelKeys: [pod-template-hash, none], labelSelector: {matchLabels: {app: x}}}]
  affinity: {podAntiAffinity: {preferredDuringSchedulingIgnoredDuringExecution: [{weight: 1, podAffinityTerm: {topologyKey: host, mismatchLabelKeys: [app], labelSelector: {}}}]}}`)
	if errs := created(row, obj); len(errs) > 0 {
		t.Fatal(errs)
	}
	p := obj.(*corev1.Pod)
	spread := p.Spec.TopologySpreadConstraints[0].LabelSelector.MatchExpressions
	if len(spread) != 1 || spread[0].Key != "pod-template-hash" || spread[0].Operator != "In" || spread[0].Values[0] != "h" {
		t.Errorf("spread: %+v", spread)
	}
	anti := p.Spec.Affinity.PodAntiAffinity.PreferredDuringSchedulingIgnoredDuringExecution[0].PodAffinityTerm.LabelSelector.MatchExpressions
	if len(anti) != 1 || anti[0].Operator != "NotIn" || anti[0].Values[0] != "x" {
		t.Errorf("affinity: %+v", anti)
	}
}
