package spec

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// Field resolves a downward API field path.
func Field(pod *corev1.Pod, path string, podIPs []string, n *Node) (string, error) {
	if name, key, ok := subscript(path); ok {
		switch name {
		case "metadata.labels":
			return pod.Labels[key], nil
		case "metadata.annotations":
			return pod.Annotations[key], nil
		}
		return "", fmt.Errorf("invalid subscript for %s", name)
	}
	switch path {
	case "metadata.name":
		return pod.Name, nil
	case "metadata.namespace":
		return pod.Namespace, nil
	case "metadata.uid":
		return string(pod.UID), nil
	case "metadata.labels":
		return pairs(pod.Labels), nil
	case "metadata.annotations":
		return pairs(pod.Annotations), nil
	case "spec.nodeName":
		return pod.Spec.NodeName, nil
	case "spec.serviceAccountName":
		return pod.Spec.ServiceAccountName, nil
	case "status.hostIP":
		return first(n.HostIPs), nil
	case "status.hostIPs":
		return strings.Join(n.HostIPs, ","), nil
	case "status.podIP":
		return first(podIPs), nil
	case "status.podIPs":
		return strings.Join(podIPs, ","), nil
	}
	return "", fmt.Errorf("unsupported fieldPath: %v", path)
}

func first(list []string) string {
	if len(list) == 0 {
		return ""
	}
	return list[0]
}

// subscript splits metadata.labels['key'].
func subscript(path string) (name, key string, ok bool) {
	name, rest, found := strings.Cut(path, "['")
	if !found || !strings.HasSuffix(rest, "']") {
		return "", "", false
	}
	return name, strings.TrimSuffix(rest, "']"), true
}

// pairs is the downward API's rendering of a map: sorted, one quoted pair a line.
func pairs(m map[string]string) string {
	var b strings.Builder
	for i, k := range slices.Sorted(maps.Keys(m)) {
		if i > 0 {
			b.WriteByte('\n')
		}
		b.WriteString(k + "=" + strconv.Quote(m[k]))
	}
	return b.String()
}

// Resource resolves a downward API resource: a limit that is not set is the
// node's allocatable amount. The result is rounded up to the divisor.
func Resource(pod *corev1.Pod, c *corev1.Container, r *corev1.ResourceFieldSelector, n *Node) (string, error) {
	if r.ContainerName != "" {
		EachContainer(pod, func(o *corev1.Container) {
			if o.Name == r.ContainerName {
				c = o
			}
		})
	}
	if c == nil {
		return "", fmt.Errorf("container %s not found", r.ContainerName)
	}
	side, name, ok := strings.Cut(r.Resource, ".")
	if !ok || side != "limits" && side != "requests" {
		return "", fmt.Errorf("unsupported container resource : %v", r.Resource)
	}
	var q resource.Quantity
	if side == "limits" {
		if q, ok = c.Resources.Limits[corev1.ResourceName(name)]; !ok || q.IsZero() {
			q = n.Allocatable[corev1.ResourceName(name)]
		}
	} else {
		q = c.Resources.Requests[corev1.ResourceName(name)]
	}
	return divide(q, r.Divisor, name == string(corev1.ResourceCPU)), nil
}

func divide(q, divisor resource.Quantity, cpu bool) string {
	if divisor.IsZero() {
		divisor = resource.MustParse("1")
	}
	a, b := q.Value(), divisor.Value()
	if cpu {
		a, b = q.MilliValue(), divisor.MilliValue()
	}
	return strconv.FormatInt((a+b-1)/b, 10)
}
