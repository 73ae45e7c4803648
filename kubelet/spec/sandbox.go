package spec

import (
	"fmt"
	"maps"
	"path/filepath"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Labels that tools and the kubelet itself find pods and containers by in a runtime.
const (
	LabelPodName       = "io.kubernetes.pod.name"
	LabelPodNamespace  = "io.kubernetes.pod.namespace"
	LabelPodUID        = "io.kubernetes.pod.uid"
	LabelContainerName = "io.kubernetes.container.name"

	AnnotationGrace   = "io.kubernetes.pod.terminationGracePeriod"
	AnnotationMessage = "proa.container.terminationMessage" // host path of the file
	AnnotationPolicy  = "io.kubernetes.container.terminationMessagePolicy"
	annotationAttempt = "io.kubernetes.container.restartCount"
)

// LogDirectory is where the runtime writes the logs of a pod's containers.
func LogDirectory(pod *corev1.Pod, n *Node) string {
	return filepath.Join(n.LogRoot, fmt.Sprintf("%s_%s_%s", pod.Namespace, pod.Name, pod.UID))
}

// LogPath is one instance's log below LogDirectory.
func LogPath(container string, attempt uint32) string {
	return filepath.Join(container, strconv.Itoa(int(attempt))+".log")
}

// Sandbox is the configuration of a pod's sandbox.
func Sandbox(pod *corev1.Pod, attempt uint32, n *Node) (*cri.PodSandboxConfig, error) {
	host, err := kernelHostname(pod, n)
	if err != nil {
		return nil, err
	}
	labels := maps.Clone(pod.Labels)
	if labels == nil {
		labels = map[string]string{}
	}
	maps.Copy(labels, podLabels(pod))
	out := &cri.PodSandboxConfig{
		Metadata:     &cri.PodSandboxMetadata{Name: pod.Name, Namespace: pod.Namespace, Uid: string(pod.UID), Attempt: attempt},
		LogDirectory: LogDirectory(pod, n),
		DnsConfig:    PodDNS(pod, n).cri(),
		PortMappings: ports(pod),
		Labels:       labels,
		Annotations:  maps.Clone(pod.Annotations),
		Linux: &cri.LinuxPodSandboxConfig{
			CgroupParent:    CgroupParent(pod, n),
			SecurityContext: sandboxSecurity(pod),
			Sysctls:         sysctls(pod),
			Resources:       PodResources(pod),
		},
	}
	if !pod.Spec.HostNetwork {
		out.Hostname = host // the host's own name shows in the host's namespaces
	}
	return out, nil
}

func podLabels(pod *corev1.Pod) map[string]string {
	return map[string]string{LabelPodName: pod.Name, LabelPodNamespace: pod.Namespace, LabelPodUID: string(pod.UID)}
}

func ports(pod *corev1.Pod) []*cri.PortMapping {
	var out []*cri.PortMapping
	EachContainer(pod, func(c *corev1.Container) {
		for _, p := range c.Ports {
			if p.HostPort == 0 || pod.Spec.HostNetwork {
				continue
			}
			out = append(out, &cri.PortMapping{
				Protocol:      cri.Protocol(cri.Protocol_value[cmpOr(string(p.Protocol), "TCP")]),
				ContainerPort: p.ContainerPort, HostPort: p.HostPort, HostIp: p.HostIP,
			})
		}
	})
	return out
}

func sysctls(pod *corev1.Pod) map[string]string {
	if pod.Spec.SecurityContext == nil {
		return nil
	}
	out := map[string]string{}
	for _, s := range pod.Spec.SecurityContext.Sysctls {
		out[s.Name] = s.Value
	}
	return out
}

func sandboxSecurity(pod *corev1.Pod) *cri.LinuxSandboxSecurityContext {
	out := &cri.LinuxSandboxSecurityContext{
		NamespaceOptions: namespaces(pod),
		Seccomp:          &cri.SecurityProfile{ProfileType: cri.SecurityProfile_RuntimeDefault},
	}
	EachContainer(pod, func(c *corev1.Container) {
		if c.SecurityContext != nil && isTrue(c.SecurityContext.Privileged) {
			out.Privileged = true
		}
	})
	sc := pod.Spec.SecurityContext
	if sc == nil {
		return out
	}
	out.RunAsUser, out.RunAsGroup = int64Of(sc.RunAsUser), int64Of(sc.RunAsGroup)
	out.SupplementalGroups = groups(pod)
	out.SelinuxOptions = selinux(sc.SELinuxOptions)
	if sc.SeccompProfile != nil {
		out.Seccomp = seccomp(sc.SeccompProfile)
	}
	return out
}

// namespaces are the pod's: its own network and IPC, and a PID namespace a
// container unless it is shared.
func namespaces(pod *corev1.Pod) *cri.NamespaceOption {
	out := &cri.NamespaceOption{Pid: cri.NamespaceMode_CONTAINER}
	if isTrue(pod.Spec.ShareProcessNamespace) {
		out.Pid = cri.NamespaceMode_POD
	}
	if pod.Spec.HostPID {
		out.Pid = cri.NamespaceMode_NODE
	}
	if pod.Spec.HostNetwork {
		out.Network = cri.NamespaceMode_NODE
	}
	if pod.Spec.HostIPC {
		out.Ipc = cri.NamespaceMode_NODE
	}
	return out
}
