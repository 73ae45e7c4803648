package admission

import (
	"errors"
	"fmt"
	"iter"
	"maps"
	"strings"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"proa/api"
	"proa/auth/node"
)

func (r nodeRequest) onPod() error {
	switch r.Subresource {
	case "":
		return r.podItself()
	case "status":
		return r.podStatus()
	case "eviction":
		pod := lookup[*corev1.Pod](r.World, "pods", r.Namespace, r.Name)
		if pod == nil {
			return apierrors.NewNotFound(corev1.Resource("pods"), r.Name)
		}
		if pod.Spec.NodeName != r.node {
			return fmt.Errorf("node %s can only evict pods with spec.nodeName set to itself", r.node)
		}
		return nil
	}
	return fmt.Errorf("unexpected pod subresource %q, only 'status' and 'eviction' are allowed", r.Subresource)
}

func (r nodeRequest) podItself() error {
	switch r.Op {
	case Create:
		return r.mirror(r.Object.(*corev1.Pod))
	case Delete:
		if podNode(r.Old) != r.node {
			return fmt.Errorf("node %q can only delete pods with spec.nodeName set to itself", r.node)
		}
		return nil
	}
	return fmt.Errorf("unexpected operation %q, node %q can only create and delete mirror pods", r.Op, r.node)
}

func podNode(obj api.Object) string {
	if pod, ok := obj.(*corev1.Pod); ok {
		return pod.Spec.NodeName
	}
	return ""
}

// mirror: what a node creates shows a static pod of its own. It is owned by the
// node and refers to nothing, so that it gives the node no access to anything.
func (r nodeRequest) mirror(pod *corev1.Pod) error {
	if _, is := pod.Annotations[corev1.MirrorPodAnnotationKey]; !is {
		return fmt.Errorf("pod does not have %q annotation, node %q can only create mirror pods", corev1.MirrorPodAnnotationKey, r.node)
	}
	if pod.Spec.NodeName != r.node {
		return fmt.Errorf("node %q can only create pods with spec.nodeName set to itself", r.node)
	}
	if err := r.mirrorOwner(pod); err != nil {
		return err
	}
	if what := refersTo(pod); what != "" {
		return fmt.Errorf("node %q can not create pods that reference %s", r.node, what)
	}
	return nil
}

func (r nodeRequest) mirrorOwner(pod *corev1.Pod) error {
	if n := len(pod.OwnerReferences); n > 1 {
		return fmt.Errorf("node %q can only create pods with a single owner reference set to itself", r.node)
	} else if n == 0 {
		return fmt.Errorf("node %q can only create pods with an owner reference set to itself", r.node)
	}
	o := pod.OwnerReferences[0]
	switch {
	case o.APIVersion != "v1" || o.Kind != "Node" || o.Name != r.node:
		return fmt.Errorf("node %q can only create pods with an owner reference set to itself", r.node)
	case o.Controller == nil || !*o.Controller:
		return fmt.Errorf("node %q can only create pods with a controller owner reference set to itself", r.node)
	case o.BlockOwnerDeletion != nil && *o.BlockOwnerDeletion:
		return fmt.Errorf("node %q must not set blockOwnerDeletion on an owner reference", r.node)
	}
	own := lookup[*corev1.Node](r.World, "nodes", "", r.node)
	if own == nil {
		return apierrors.NewNotFound(corev1.Resource("nodes"), r.node)
	}
	if own.UID != o.UID {
		return fmt.Errorf("node %s UID mismatch: expected %s got %s", r.node, o.UID, own.UID)
	}
	return nil
}

func anything(names iter.Seq[string]) bool {
	for n := range names {
		if n != "" {
			return true
		}
	}
	return false
}

// refersTo names the kind of API objects that a pod refers to, if there is one.
func refersTo(pod *corev1.Pod) string {
	for i := range pod.Spec.Volumes {
		if what := volumeRefersTo(&pod.Spec.Volumes[i].VolumeSource); what != "" {
			return what
		}
	}
	switch {
	case pod.Spec.ServiceAccountName != "":
		return "serviceaccounts"
	case anything(node.Secrets(pod)):
		return "secrets"
	case anything(node.ConfigMaps(pod)):
		return "configmaps"
	case len(pod.Spec.ResourceClaims) > 0:
		return "resourceclaims"
	}
	return ""
}

func volumeRefersTo(v *corev1.VolumeSource) string {
	switch {
	case v.ConfigMap != nil:
		return "configmaps (via configmap volumes)"
	case v.Secret != nil:
		return "secrets (via secret volumes)"
	case v.CSI != nil:
		return "csidrivers (via CSI volumes)"
	case v.Glusterfs != nil:
		return "endpoints (via glusterFS volumes)"
	case v.PersistentVolumeClaim != nil:
		return "persistentvolumeclaims"
	case v.Ephemeral != nil:
		return "persistentvolumeclaims (via ephemeral volumes)"
	case v.AzureFile != nil:
		return "secrets (via azureFile volumes)"
	case v.Projected == nil:
		return ""
	}
	for _, s := range v.Projected.Sources {
		switch {
		case s.ConfigMap != nil:
			return "configmaps (via projected volumes)"
		case s.Secret != nil:
			return "secrets (via projected volumes)"
		case s.ServiceAccountToken != nil:
			return "serviceaccounts (via projected volumes)"
		case s.ClusterTrustBundle != nil:
			return "clustertrustbundles"
		case s.PodCertificate != nil:
			return "podcertificates"
		}
	}
	return ""
}

func (r nodeRequest) podStatus() error {
	now, ok := r.Object.(*corev1.Pod)
	old, was := r.Old.(*corev1.Pod)
	same := equality.Semantic.DeepEqual
	switch {
	case r.Op != Update || !ok || !was:
		return fmt.Errorf("unexpected operation %q", r.Op)
	case old.Spec.NodeName != r.node:
		return fmt.Errorf("node %q can only update pod status for pods with spec.nodeName set to itself", r.node)
	case !maps.Equal(old.Labels, now.Labels):
		return fmt.Errorf("node %q cannot update labels through pod status", r.node)
	case !same(old.Status.ResourceClaimStatuses, now.Status.ResourceClaimStatuses):
		return fmt.Errorf("node %q cannot update resource claim statues", r.node)
	case !same(old.Status.ExtendedResourceClaimStatus, now.Status.ExtendedResourceClaimStatus):
		return fmt.Errorf("node %q cannot update extended resource claim status", r.node)
	case !same(old.Status.NodeAllocatableResourceClaimStatuses, now.Status.NodeAllocatableResourceClaimStatuses):
		return fmt.Errorf("node %q cannot update node allocatable resource claim statuses", r.node)
	}
	return nil
}

// onPodCertificate: a node asks for certificates of its own running pods, from
// signers that they name.
func (r nodeRequest) onPodCertificate() error {
	req, ok := r.Object.(*certificatesv1.PodCertificateRequest)
	if r.Op != Create || r.Subresource != "" || !ok {
		return fmt.Errorf("unexpected operation %v", r.Op)
	}
	s := &req.Spec
	pod := lookup[*corev1.Pod](r.World, "pods", r.Namespace, s.PodName)
	own, sa := lookup[*corev1.Node](r.World, "nodes", "", r.node), lookup[*corev1.ServiceAccount](r.World, "serviceaccounts", r.Namespace, s.ServiceAccountName)
	name := r.Namespace + "/" + s.PodName
	switch {
	case string(s.NodeName) != r.node:
		return fmt.Errorf("PodCertificateRequest.Spec.NodeName=%q, which is not the requesting node %q", s.NodeName, r.node)
	case own == nil || own.UID != s.NodeUID:
		return fmt.Errorf("PodCertificateRequest for pod %q names node UID %q, inconsistent with the running node", name, s.NodeUID)
	case pod == nil:
		return fmt.Errorf("while retrieving pod %q named in the PodCertificateRequest: %w", name, apierrors.NewNotFound(corev1.Resource("pods"), s.PodName))
	case pod.UID != s.PodUID:
		return fmt.Errorf("PodCertificateRequest for pod %q contains pod UID (%q) which differs from running pod %q", name, s.PodUID, pod.UID)
	case pod.Spec.NodeName != r.node:
		return fmt.Errorf("pod %q is not running on node %q named in the PodCertificateRequest", name, s.NodeName)
	case pod.Annotations[corev1.MirrorPodAnnotationKey] != "":
		return fmt.Errorf("pod %q is a mirror pod", name)
	case pod.Spec.ServiceAccountName != s.ServiceAccountName:
		return fmt.Errorf("PodCertificateRequest for pod %q contains serviceAccountName (%q) that differs from running pod (%q)", name, s.ServiceAccountName, pod.Spec.ServiceAccountName)
	case sa == nil || sa.UID != s.ServiceAccountUID:
		return fmt.Errorf("PodCertificateRequest for pod %q names service account UID %q, which differs from the running service account", name, s.ServiceAccountUID)
	case !namesSigner(pod, s.SignerName) &&
		!r.may("request-serviceaccounts-podcertificate-signer", strings.ReplaceAll(s.SignerName, "/", ":"), s.ServiceAccountName):
		return errors.New("pod \"" + name + "\" does not mount a podCertificate projected volume for signer \"" + s.SignerName + "\"")
	}
	return nil
}

func namesSigner(pod *corev1.Pod, signer string) bool {
	for _, v := range pod.Spec.Volumes {
		if v.Projected == nil {
			continue
		}
		for _, s := range v.Projected.Sources {
			if s.PodCertificate != nil && s.PodCertificate.SignerName == signer {
				return true
			}
		}
	}
	return false
}
