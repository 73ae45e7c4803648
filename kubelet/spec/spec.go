// Package spec turns a pod of the API into what the container runtime is asked
// for: sandbox and container configurations, environment, resources, DNS, host
// names. It is pure: files, secrets and addresses come in as values.
//
// Errors are worded as the kubelet's API consumers know them, because they end up
// in waiting messages and events.
package spec

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
)

// Node is what a pod's configuration takes from the machine.
type Node struct {
	Name          string
	HostIPs       []string
	CgroupRoot    string // "proa"
	LogRoot       string // pod log directories are below it
	ClusterDNS    []string
	ClusterDomain string
	Resolv        DNS // the machine's own resolver configuration
	Allocatable   corev1.ResourceList
	Capacity      corev1.ResourceList
}

// Sources reads the objects that a pod refers to; each returns nil where there is
// none.
type Sources interface {
	ConfigMap(namespace, name string) *corev1.ConfigMap
	Secret(namespace, name string) *corev1.Secret
	// Services are those of the namespace, and of "default" when asked for it.
	Services(namespace string) []*corev1.Service
}

// Ref names an object that a pod refers to.
type Ref struct {
	Secret          bool // else a ConfigMap
	Namespace, Name string
}

// Refs lists the ConfigMaps and Secrets whose content a pod uses.
func Refs(pod *corev1.Pod) map[Ref]bool {
	refs := map[Ref]bool{}
	cm := func(name string) { refs[Ref{Namespace: pod.Namespace, Name: name}] = true }
	sec := func(name string) { refs[Ref{Secret: true, Namespace: pod.Namespace, Name: name}] = true }
	EachContainer(pod, func(c *corev1.Container) {
		containerRefs(c, cm, sec)
	})
	for i := range pod.Spec.Volumes {
		volumeRefs(&pod.Spec.Volumes[i].VolumeSource, cm, sec)
	}
	for _, s := range pod.Spec.ImagePullSecrets {
		sec(s.Name)
	}
	delete(refs, Ref{Namespace: pod.Namespace})
	delete(refs, Ref{Secret: true, Namespace: pod.Namespace})
	return refs
}

func containerRefs(c *corev1.Container, cm, sec func(string)) {
	for _, from := range c.EnvFrom {
		if from.ConfigMapRef != nil {
			cm(from.ConfigMapRef.Name)
		}
		if from.SecretRef != nil {
			sec(from.SecretRef.Name)
		}
	}
	for _, e := range c.Env {
		if e.ValueFrom == nil {
			continue
		}
		if r := e.ValueFrom.ConfigMapKeyRef; r != nil {
			cm(r.Name)
		}
		if r := e.ValueFrom.SecretKeyRef; r != nil {
			sec(r.Name)
		}
	}
}

func volumeRefs(v *corev1.VolumeSource, cm, sec func(string)) {
	switch {
	case v.ConfigMap != nil:
		cm(v.ConfigMap.Name)
	case v.Secret != nil:
		sec(v.Secret.SecretName)
	case v.Projected != nil:
		for _, s := range v.Projected.Sources {
			if s.ConfigMap != nil {
				cm(s.ConfigMap.Name)
			}
			if s.Secret != nil {
				sec(s.Secret.Name)
			}
		}
	}
}

// EachContainer visits all containers of a pod: init, main, ephemeral.
func EachContainer(pod *corev1.Pod, visit func(*corev1.Container)) {
	for i := range pod.Spec.InitContainers {
		visit(&pod.Spec.InitContainers[i])
	}
	for i := range pod.Spec.Containers {
		visit(&pod.Spec.Containers[i])
	}
	for i := range pod.Spec.EphemeralContainers {
		visit((*corev1.Container)(&pod.Spec.EphemeralContainers[i].EphemeralContainerCommon))
	}
}

func notFound(kind, name string) error { return fmt.Errorf("%s %q not found", kind, name) }
