package admission

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/labels"
)

// This file holds plugins about pods and namespaces that are off unless they are
// asked for.

// newPod is the pod that a request creates, or nil.
func newPod(r *Request) *corev1.Pod {
	if r.Op != Create || !r.Is("pods") {
		return nil
	}
	pod, _ := r.Object.(*corev1.Pod)
	return pod
}

// extendedResourceToleration lets pods that ask for devices onto the nodes that
// are kept for them by a taint of the resource's name.
func extendedResourceToleration() Plugin {
	return Plugin{Name: "ExtendedResourceToleration", Mutate: func(_ context.Context, r *Request) error {
		pod, ok := r.Object.(*corev1.Pod)
		if !ok || r.Op != Create && r.Op != Update || !r.Is("pods") {
			return nil
		}
		wanted := map[string]bool{}
		for _, list := range [][]corev1.Container{pod.Spec.Containers, pod.Spec.InitContainers} {
			for _, c := range list {
				for name := range c.Resources.Requests {
					wanted[string(name)] = wanted[string(name)] || extended(name)
				}
			}
		}
		for _, name := range slices.Sorted(maps.Keys(wanted)) {
			t := corev1.Toleration{Key: name, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoSchedule}
			if wanted[name] && !slices.ContainsFunc(pod.Spec.Tolerations, func(have corev1.Toleration) bool { return have.MatchToleration(&t) }) {
				pod.Spec.Tolerations = append(pod.Spec.Tolerations, t)
			}
		}
		return nil
	}}
}

// extended tells resources that are not Kubernetes' own.
func extended(name corev1.ResourceName) bool {
	domain, _, qualified := strings.Cut(string(name), "/")
	return qualified && domain != "kubernetes.io" && !strings.HasSuffix(domain, ".kubernetes.io") && !strings.HasPrefix(domain, "requests.")
}

// hardAntiAffinity keeps pods from claiming more than a node for themselves.
func hardAntiAffinity() Plugin {
	return Plugin{Name: "LimitPodHardAntiAffinityTopology", Validate: func(_ context.Context, r *Request) error {
		pod, ok := r.Object.(*corev1.Pod)
		if !ok || !r.Is("pods") || pod.Spec.Affinity == nil || pod.Spec.Affinity.PodAntiAffinity == nil {
			return nil
		}
		for _, term := range pod.Spec.Affinity.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution {
			if term.TopologyKey != corev1.LabelHostname {
				return r.Forbidden(fmt.Errorf("affinity.PodAntiAffinity.RequiredDuringScheduling has TopologyKey %v but only key %v is allowed",
					term.TopologyKey, corev1.LabelHostname))
			}
		}
		return nil
	}}
}

// namespaceNodes is the annotation by which a namespace's pods are kept to some
// nodes.
const namespaceNodes = "scheduler.alpha.kubernetes.io/node-selector"

// podNodeSelector gives pods the node selector of their namespace: the one of its
// annotation, or that of all. A pod selects nothing else than what selectors have
// for its namespace, if anything.
func podNodeSelector(selectors map[string]string) Plugin {
	return Plugin{Name: "PodNodeSelector", Mutate: func(_ context.Context, r *Request) error {
		pod := newPod(r)
		if pod == nil {
			return nil
		}
		ns := lookup[*corev1.Namespace](r.World, "namespaces", "", r.Namespace)
		if ns == nil {
			return nil
		}
		text, own := ns.Annotations[namespaceNodes]
		if !own {
			text = selectors[clusterSelector]
		}
		wanted, err := labels.ConvertSelectorToLabelsMap(text)
		if err != nil {
			return r.Forbidden(err)
		}
		for k, v := range wanted {
			if have, ok := pod.Spec.NodeSelector[k]; ok && have != v {
				return r.Forbidden(errors.New("pod node label selector conflicts with its namespace node label selector"))
			}
			if pod.Spec.NodeSelector == nil {
				pod.Spec.NodeSelector = map[string]string{}
			}
			pod.Spec.NodeSelector[k] = v
		}
		return nil
	}, Validate: func(_ context.Context, r *Request) error {
		pod := newPod(r)
		if pod == nil || selectors[r.Namespace] == "" {
			return nil
		}
		allowed, err := labels.ConvertSelectorToLabelsMap(selectors[r.Namespace])
		if err != nil {
			return r.Forbidden(err)
		}
		for k, v := range pod.Spec.NodeSelector {
			if len(allowed) > 0 && allowed[k] != v {
				return r.Forbidden(errors.New("pod node label selector labels conflict with its namespace whitelist"))
			}
		}
		return nil
	}}
}

// namespaceExists refuses whatever is asked of a namespace that is not there.
func namespaceExists() Plugin {
	return Plugin{Name: "NamespaceExists", Validate: func(_ context.Context, r *Request) error {
		if r.Op == Connect || r.Namespace == "" || r.Resource.Key() == "namespaces" ||
			lookup[*corev1.Namespace](r.World, "namespaces", "", r.Namespace) != nil {
			return nil
		}
		return apierrors.NewNotFound(corev1.Resource("namespaces"), r.Namespace)
	}}
}
