package admission

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"

	authenticationv1 "k8s.io/api/authentication/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"proa/api"
	"proa/auth"
)

// nodeRestriction keeps a node's credentials to the node's own objects (see
// https://kubernetes.io/docs/reference/access-authn-authz/admission-controllers/#noderestriction).
func nodeRestriction(authorizer auth.Authorizer) Plugin {
	return Plugin{Name: "NodeRestriction", Validate: func(ctx context.Context, r *Request) error {
		if r.Op == Connect || !r.User.In(auth.GroupNodes) || !strings.HasPrefix(r.User.Name, auth.NodeUserPrefix) {
			return nil // a node is known by its group and its name
		}
		judge := nodeJudges[r.Resource.Key()]
		if judge == nil {
			return nil
		}
		node, is := r.User.Node()
		if !is {
			return r.Forbidden(fmt.Errorf("could not determine node from user %q", r.User.Name))
		}
		err := judge(nodeRequest{r, node, authorizer, ctx})
		var status apierrors.APIStatus
		if err == nil || errors.As(err, &status) {
			return err
		}
		return r.Forbidden(err)
	}}
}

// nodeRequest is a write of a node's credentials.
type nodeRequest struct {
	*Request
	node       string
	authorizer auth.Authorizer
	ctx        context.Context
}

var nodeJudges = map[string]func(nodeRequest) error{
	"nodes":                          nodeRequest.onNode,
	"pods":                           nodeRequest.onPod,
	"persistentvolumeclaims":         nodeRequest.onClaim,
	"serviceaccounts":                nodeRequest.onAccount,
	"coordination.k8s.io/leases":     nodeRequest.onLease,
	"storage.k8s.io/csinodes":        nodeRequest.onCSINode,
	"resource.k8s.io/resourceslices": nodeRequest.onSlice,
	"certificates.k8s.io/podcertificaterequests":     nodeRequest.onPodCertificate,
	"certificates.k8s.io/certificatesigningrequests": nodeRequest.onSigning,
}

func (r nodeRequest) onNode() error {
	if r.Name != r.node {
		return fmt.Errorf("node %q is not allowed to modify node %q", r.node, r.Name)
	}
	now, ok := r.Object.(*corev1.Node)
	if !ok {
		return nil
	}
	if r.Op == Create {
		if now.Spec.ConfigSource != nil {
			return fmt.Errorf("node %q is not allowed to create pods with a non-nil configSource", r.node)
		}
		if bad := forbiddenLabels(now.Labels, nil); bad != "" {
			return fmt.Errorf("node %q is not allowed to set the following labels: %s", r.node, bad)
		}
		return nil
	}
	old := r.Old.(*corev1.Node)
	switch bad := forbiddenLabels(now.Labels, old.Labels); {
	case now.Spec.ConfigSource != nil && !equality.Semantic.DeepEqual(now.Spec.ConfigSource, old.Spec.ConfigSource):
		return fmt.Errorf("node %q is not allowed to update configSource to a new non-nil configSource", r.node)
	case !equality.Semantic.DeepEqual(now.Spec.Taints, old.Spec.Taints):
		return fmt.Errorf("node %q is not allowed to modify taints", r.node)
	case !equality.Semantic.DeepEqual(now.OwnerReferences, old.OwnerReferences):
		return fmt.Errorf("node %q is not allowed to modify ownerReferences", r.node)
	case bad != "":
		return fmt.Errorf("is not allowed to modify labels: %s", bad)
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

// forbiddenLabels lists the labels that changed and are not the node's to set.
func forbiddenLabels(now, old map[string]string) string {
	var bad []string
	for _, m := range []map[string]string{now, old} {
		for k := range m {
			v, isNow := now[k]
			w, was := old[k]
			if (isNow != was || v != w) && !nodeMaySet(k) {
				bad = append(bad, k)
			}
		}
	}
	slices.Sort(bad)
	return strings.Join(slices.Compact(bad), ", ")
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

func (r nodeRequest) onLease() error {
	switch {
	case r.Namespace != corev1.NamespaceNodeLease:
		return fmt.Errorf("can only access leases in the %q system namespace", corev1.NamespaceNodeLease)
	case r.Name != r.node:
		return errors.New("can only access node lease with the same name as the requesting node")
	}
	return nil
}

func (r nodeRequest) onCSINode() error {
	if r.Name != r.node {
		return errors.New("can only access CSINode with the same name as the requesting node")
	}
	return nil
}

func (r nodeRequest) onSlice() error {
	for op, obj := range map[Operation]api.Object{Create: r.Object, Delete: r.Old} {
		if s, ok := obj.(*resourcev1.ResourceSlice); r.Op == op && (!ok || s.Spec.NodeName == nil || *s.Spec.NodeName != r.node) {
			return fmt.Errorf("can only %s ResourceSlice with the same NodeName as the requesting node", strings.ToLower(string(op)))
		}
	}
	return nil
}

func (r nodeRequest) onClaim() error {
	if r.Subresource != "status" {
		return errors.New("may only update PVC status")
	}
	now, ok := r.Object.(*corev1.PersistentVolumeClaim)
	old, was := r.Old.(*corev1.PersistentVolumeClaim)
	if r.Op != Update || !ok || !was {
		return fmt.Errorf("unexpected operation %q", r.Op)
	}
	a, b := now.DeepCopy(), old.DeepCopy()
	for _, c := range []*corev1.PersistentVolumeClaim{a, b} {
		c.ResourceVersion, c.ManagedFields = "", nil
		c.Status.Capacity, c.Status.Conditions = nil, nil
		c.Status.AllocatedResources, c.Status.AllocatedResourceStatuses = nil, nil
	}
	if !equality.Semantic.DeepEqual(a, b) {
		return fmt.Errorf("node %q is not allowed to update fields other than status.quantity and status.conditions", r.node)
	}
	return nil
}

// onSigning: the certificates that a node asks for are the node's.
func (r nodeRequest) onSigning() error {
	csr, ok := r.Object.(*certificatesv1.CertificateSigningRequest)
	if r.Op != Create || !ok || csr.Spec.SignerName != certificatesv1.KubeletServingSignerName && csr.Spec.SignerName != certificatesv1.KubeAPIServerClientKubeletSignerName {
		return nil
	}
	block, _ := pem.Decode(csr.Spec.Request)
	if block == nil {
		return errors.New("unable to parse csr: PEM block type must be CERTIFICATE REQUEST")
	}
	req, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return fmt.Errorf("unable to parse csr: %w", err)
	}
	if want := auth.NodeUserPrefix + r.node; req.Subject.CommonName != want {
		return fmt.Errorf("can only create a node CSR with CN=%s", want)
	}
	return nil
}

// may asks whether the node is allowed what its pods do not ask for.
func (r nodeRequest) may(verb, resource, account string) bool {
	if r.authorizer == nil {
		return false
	}
	d, _, _ := r.authorizer.Authorize(r.ctx, auth.Attributes{User: r.User, Verb: verb, Group: r.Resource.Group, Version: r.Resource.Version,
		Resource: resource, Namespace: r.Namespace, Name: account, ResourceRequest: true})
	return d == auth.Allow
}

// onAccount: a node asks for tokens of its pods, for audiences that they use.
func (r nodeRequest) onAccount() error {
	if r.Op != Create || r.Subresource != "token" {
		return nil
	}
	tr, ok := r.Object.(*authenticationv1.TokenRequest)
	if !ok {
		return fmt.Errorf("unexpected type %T", r.Object)
	}
	ref := tr.Spec.BoundObjectRef
	switch {
	case ref == nil || ref.APIVersion != "v1" || ref.Kind != "Pod" || ref.Name == "":
		return errors.New("node requested token not bound to a pod")
	case ref.UID == "":
		return errors.New("node requested token with a pod binding without a uid")
	}
	pod := lookup[*corev1.Pod](r.World, "pods", r.Namespace, ref.Name)
	switch {
	case pod == nil:
		return apierrors.NewNotFound(corev1.Resource("pods"), ref.Name)
	case pod.UID != ref.UID:
		return fmt.Errorf("the UID in the bound object reference (%s) does not match the UID in record. The object might have been deleted and then recreated", ref.UID)
	case pod.Spec.NodeName != r.node:
		return errors.New("node requested token bound to a pod scheduled on a different node")
	case len(tr.Spec.Audiences) > 1:
		return errors.New("node may only request 0 or 1 audiences")
	}
	audience := strings.Join(tr.Spec.Audiences, "")
	if r.usesAudience(pod, audience) || r.may("request-serviceaccounts-token-audience", audience, r.Name) {
		return nil
	}
	return fmt.Errorf("%s is not authorized to request tokens for audience %q", r.User.Name, audience)
}

// usesAudience: the pod has a token volume for it, or a volume of a driver that
// wants such tokens.
func (r nodeRequest) usesAudience(pod *corev1.Pod, audience string) bool {
	for _, v := range pod.Spec.Volumes {
		switch {
		case v.Projected != nil:
			for _, s := range v.Projected.Sources {
				if s.ServiceAccountToken != nil && s.ServiceAccountToken.Audience == audience {
					return true
				}
			}
		case v.CSI != nil && r.driverWants(v.CSI.Driver, audience),
			v.PersistentVolumeClaim != nil && r.driverWants(r.driverOf(pod.Namespace, v.PersistentVolumeClaim.ClaimName), audience),
			v.Ephemeral != nil && r.driverWants(r.driverOf(pod.Namespace, pod.Name+"-"+v.Name), audience):
			return true
		}
	}
	return false
}

// driverOf is the CSI driver of a claim's volume.
func (r nodeRequest) driverOf(namespace, claim string) string {
	pvc := lookup[*corev1.PersistentVolumeClaim](r.World, "persistentvolumeclaims", namespace, claim)
	if pvc == nil {
		return ""
	}
	pv := lookup[*corev1.PersistentVolume](r.World, "persistentvolumes", "", pvc.Spec.VolumeName)
	if pv == nil || pv.Spec.CSI == nil {
		return ""
	}
	return pv.Spec.CSI.Driver
}

func (r nodeRequest) driverWants(driver, audience string) bool {
	d := lookup[*storagev1.CSIDriver](r.World, "storage.k8s.io/csidrivers", "", driver)
	return d != nil && slices.ContainsFunc(d.Spec.TokenRequests, func(t storagev1.TokenRequest) bool { return t.Audience == audience })
}
