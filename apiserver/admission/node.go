package admission

import (
	"context"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"

	"proa/api"
)

// nodeRestriction keeps a node's credentials to the node's own objects (see
// https://kubernetes.io/docs/reference/access-authn-authz/admission-controllers/#noderestriction).
func nodeRestriction() Plugin {
	return Plugin{Name: "NodeRestriction", Validate: func(_ context.Context, r *Request) error {
		node, is := r.User.Node()
		if !is {
			return nil
		}
		switch r.Resource.Key() {
		case "nodes":
			return restrictNode(r, node)
		case "pods":
			return restrictPod(r, node)
		case "coordination.k8s.io/leases":
			if r.Op != Connect && r.Namespace == corev1.NamespaceNodeLease && r.Name != node {
				return r.Forbidden(fmt.Errorf("can only access node lease with the same name as the requesting node"))
			}
		case "storage.k8s.io/csinodes":
			if r.Name != node {
				return r.Forbidden(fmt.Errorf("can only access CSINode with the same name as the requesting node"))
			}
		}
		return nil
	}}
}

func restrictNode(r *Request, node string) error {
	if r.Op != Connect && r.Name != node {
		return r.Forbidden(fmt.Errorf("node %q is not allowed to modify node %q", node, r.Name))
	}
	now, ok := r.Object.(*corev1.Node)
	if !ok {
		return nil
	}
	if r.Op == Create {
		if bad := forbiddenLabel(now.Labels, nil); bad != "" {
			return r.Forbidden(fmt.Errorf("is not allowed to set the following node labels: %s", bad))
		}
		return nil
	}
	old := r.Old.(*corev1.Node)
	if !equality.Semantic.DeepEqual(now.Spec.Taints, old.Spec.Taints) {
		return r.Forbidden(fmt.Errorf("node %q is not allowed to modify taints", node))
	}
	if bad := forbiddenLabel(now.Labels, old.Labels); bad != "" {
		return r.Forbidden(fmt.Errorf("is not allowed to modify labels: %s", bad))
	}
	if !equality.Semantic.DeepEqual(now.OwnerReferences, old.OwnerReferences) {
		return r.Forbidden(fmt.Errorf("node %q is not allowed to modify ownerReferences", node))
	}
	return nil
}

// ownLabels are those of Kubernetes' own prefixes that a node may set on itself.
var ownLabels = map[string]bool{
	corev1.LabelHostname: true, corev1.LabelTopologyZone: true, corev1.LabelTopologyRegion: true,
	corev1.LabelFailureDomainBetaZone: true, corev1.LabelFailureDomainBetaRegion: true,
	corev1.LabelInstanceType: true, corev1.LabelInstanceTypeStable: true,
	corev1.LabelOSStable: true, corev1.LabelArchStable: true, corev1.LabelWindowsBuild: true,
	"beta.kubernetes.io/os": true, "beta.kubernetes.io/arch": true,
}

// forbiddenLabel finds a label that changed and is not the node's to set.
func forbiddenLabel(now, old map[string]string) string {
	for _, m := range []map[string]string{now, old} {
		for k := range m {
			v, isNow := now[k]
			w, was := old[k]
			if (isNow != was || v != w) && !nodeMaySet(k) {
				return k
			}
		}
	}
	return ""
}

func nodeMaySet(label string) bool {
	prefix, _, ok := strings.Cut(label, "/")
	if !ok || ownLabels[label] {
		return true
	}
	under := func(domain string) bool { return prefix == domain || strings.HasSuffix(prefix, "."+domain) }
	if under("node-restriction.kubernetes.io") {
		return false
	}
	if under("kubelet.kubernetes.io") || under("node.kubernetes.io") {
		return true
	}
	return !under("kubernetes.io") && !under("k8s.io")
}

func restrictPod(r *Request, node string) error {
	switch {
	case r.Op == Create && r.Subresource == "":
		return restrictMirror(r, node)
	case r.Op == Create && r.Subresource == "eviction", r.Op == Delete, r.Op == Update && r.Subresource == "status":
		if owner := podNode(r.Old); owner != node {
			return r.Forbidden(fmt.Errorf("node %q can only act on pods with spec.nodeName set to itself", node))
		}
		return nil
	case r.Op == Connect:
		return nil // that is the authoriser's
	}
	return r.Forbidden(fmt.Errorf("node %q may not change pods except for their status", node))
}

func podNode(obj api.Object) string {
	if pod, ok := obj.(*corev1.Pod); ok {
		return pod.Spec.NodeName
	}
	return ""
}

func restrictMirror(r *Request, node string) error {
	pod := r.Object.(*corev1.Pod)
	if _, mirror := pod.Annotations[corev1.MirrorPodAnnotationKey]; !mirror {
		return r.Forbidden(fmt.Errorf("pod does not have %q annotation, node %q can only create mirror pods", corev1.MirrorPodAnnotationKey, node))
	}
	if pod.Spec.NodeName != node {
		return r.Forbidden(fmt.Errorf("node %q can only create pods with spec.nodeName set to itself", node))
	}
	return nil
}
