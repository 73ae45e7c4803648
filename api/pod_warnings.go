package api

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// renamedLabels are the well-known labels of nodes that have newer names.
var renamedLabels = map[string]string{
	"beta.kubernetes.io/arch":                  corev1.LabelArchStable,
	"beta.kubernetes.io/os":                    corev1.LabelOSStable,
	"beta.kubernetes.io/instance-type":         corev1.LabelInstanceTypeStable,
	"failure-domain.beta.kubernetes.io/region": corev1.LabelTopologyRegion,
	"failure-domain.beta.kubernetes.io/zone":   corev1.LabelTopologyZone,
}

// templateWarnings are the warnings about the pod spec of a kind, on create and
// when the spec changed.
func templateWarnings[P Object](at *field.Path, spec func(P) *corev1.PodSpec) func(obj, old P) []string {
	return func(obj, old P) []string {
		var none P
		if any(old) != any(none) && obj.GetGeneration() == old.GetGeneration() {
			return nil
		}
		return podWarnings(spec(obj), at)
	}
}

// podWarnings says what is valid in a pod or a template and yet hardly meant.
func podWarnings(s *corev1.PodSpec, at *field.Path) []string {
	var out []string
	for key := range inOrder(s.NodeSelector) {
		if newer, ok := renamedLabels[key]; ok {
			out = append(out, fmt.Sprintf("%s: deprecated; use %q instead", at.Child("nodeSelector").Key(key), newer))
		}
	}
	for i := range s.Containers {
		out = append(out, containerWarnings(&s.Containers[i], at.Child("containers").Index(i))...)
	}
	for i := range s.InitContainers {
		out = append(out, containerWarnings(&s.InitContainers[i], at.Child("initContainers").Index(i))...)
	}
	for i := range s.Volumes {
		if s.Volumes[i].GitRepo != nil {
			out = append(out, at.Child("volumes").Index(i).Child("gitRepo").String()+": deprecated; containers find no files there")
		}
	}
	if g := s.TerminationGracePeriodSeconds; g != nil && *g < 0 {
		out = append(out, at.Child("terminationGracePeriodSeconds").String()+": must be >= 0; negative values are treated as 1")
	}
	return out
}

func containerWarnings(c *corev1.Container, at *field.Path) []string {
	var out []string
	seen := map[string]bool{}
	for i, e := range c.Env {
		if seen[e.Name] {
			out = append(out, fmt.Sprintf("%s: hides previous definition of %q, which may be dropped when using apply", at.Child("env").Index(i), e.Name))
		}
		seen[e.Name] = true
	}
	type port struct {
		number   int32
		protocol corev1.Protocol
	}
	ports := map[port]int{}
	for i, p := range c.Ports {
		k := port{p.ContainerPort, p.Protocol}
		if first, ok := ports[k]; ok {
			out = append(out, fmt.Sprintf("%s: duplicate port definition with %s", at.Child("ports").Index(i), at.Child("ports").Index(first)))
			continue
		}
		ports[k] = i
	}
	return out
}
