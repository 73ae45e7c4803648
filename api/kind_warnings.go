package api

import (
	"crypto/tls"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	nodev1 "k8s.io/api/node/v1"
	resourcev1 "k8s.io/api/resource/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// The warnings of kinds that have no pod template: what is valid, and old or
// hardly meant.

func (w *warned) ips(list []string, at *field.Path) {
	for i, ip := range list {
		w.list = append(w.list, validation.GetWarningsForIP(at.Index(i), ip)...)
	}
}

func (w *warned) cidrs(list []string, at *field.Path) {
	for i, cidr := range list {
		w.list = append(w.list, validation.GetWarningsForCIDR(at.Index(i), cidr)...)
	}
}

func warnService(s, _ *corev1.Service) []string {
	w, p := &warned{}, &s.Spec
	if _, ok := s.Annotations[corev1.DeprecatedAnnotationTopologyAwareHints]; ok {
		w.add("annotation %s is deprecated, please use %s instead", corev1.DeprecatedAnnotationTopologyAwareHints, corev1.AnnotationTopologyMode)
	}
	headless, external := p.Type == corev1.ServiceTypeClusterIP && p.ClusterIP == corev1.ClusterIPNone, p.Type == corev1.ServiceTypeExternalName
	if p.ClusterIP != "" && p.ClusterIP != corev1.ClusterIPNone {
		w.ips(p.ClusterIPs, specPath.Child("clusterIPs"))
	}
	if headless && p.LoadBalancerIP != "" {
		w.add("spec.loadBalancerIP is ignored for headless services")
	}
	if headless && p.SessionAffinity != corev1.ServiceAffinityNone {
		w.add("spec.SessionAffinity is ignored for headless services")
	}
	w.ips(p.ExternalIPs, specPath.Child("externalIPs"))
	switch {
	case len(p.ExternalIPs) == 0:
	case headless:
		w.add("spec.externalIPs is ignored for headless services")
	case external:
		w.add("spec.externalIPs is ignored when spec.type is %q", corev1.ServiceTypeExternalName)
	default:
		w.add("spec.externalIPs is deprecated and may no longer be implemented in some clusters")
	}
	if p.LoadBalancerIP != "" {
		w.list = append(w.list, validation.GetWarningsForIP(specPath.Child("loadBalancerIP"), p.LoadBalancerIP)...)
	}
	w.cidrs(p.LoadBalancerSourceRanges, specPath.Child("loadBalancerSourceRanges"))
	if !external && p.ExternalName != "" {
		w.add("spec.externalName is ignored when spec.type is not %q", corev1.ServiceTypeExternalName)
	}
	if d := p.TrafficDistribution; d != nil && *d == corev1.ServiceTrafficDistributionPreferClose {
		w.add("spec.trafficDistribution: %q is deprecated; use %q", corev1.ServiceTrafficDistributionPreferClose, corev1.ServiceTrafficDistributionPreferSameZone)
	}
	return w.list
}

// warnEndpoints: the kind itself is deprecated, and so are some of the ways to
// write an address.
func warnEndpoints(e, _ *corev1.Endpoints) []string {
	w := &warned{}
	for i, s := range e.Subsets {
		at := field.NewPath("subsets").Index(i)
		for j, a := range s.Addresses {
			w.list = append(w.list, validation.GetWarningsForIP(at.Child("addresses").Index(j).Child("ip"), a.IP)...)
		}
		for j, a := range s.NotReadyAddresses {
			w.list = append(w.list, validation.GetWarningsForIP(at.Child("notReadyAddresses").Index(j).Child("ip"), a.IP)...)
		}
	}
	return w.list
}

func warnEndpointSlice(s, old *discoveryv1.EndpointSlice) []string {
	w := &warned{}
	if old == nil && s.AddressType == discoveryv1.AddressTypeFQDN {
		w.add("spec.addressType: FQDN endpoints are deprecated")
	}
	for i, e := range s.Endpoints {
		w.ips(e.Addresses, field.NewPath("endpoints").Index(i).Child("addresses"))
	}
	return w.list
}

func warnNetworkPolicy(p, _ *networkingv1.NetworkPolicy) []string {
	w := &warned{}
	peers := func(list []networkingv1.NetworkPolicyPeer, at *field.Path) {
		for i, peer := range list {
			if b := peer.IPBlock; b != nil {
				at := at.Index(i).Child("ipBlock")
				w.list = append(w.list, validation.GetWarningsForCIDR(at.Child("cidr"), b.CIDR)...)
				w.cidrs(b.Except, at.Child("except"))
			}
		}
	}
	for i, r := range p.Spec.Ingress {
		peers(r.From, specPath.Child("ingress").Index(i).Child("from"))
	}
	for i, r := range p.Spec.Egress {
		peers(r.To, specPath.Child("egress").Index(i).Child("to"))
	}
	return w.list
}

func warnIngress(i, old *networkingv1.Ingress) []string {
	const class = "kubernetes.io/ingress.class"
	if _, ok := i.Annotations[class]; ok && old == nil && i.Spec.IngressClassName == nil {
		return []string{fmt.Sprintf("annotation %q is deprecated, please use 'spec.ingressClassName' instead", class)}
	}
	return nil
}

func warnNode(n, _ *corev1.Node) []string {
	w := &warned{}
	if n.Spec.ConfigSource != nil {
		w.add("spec.configSource: the feature is removed")
	}
	if n.Spec.DoNotUseExternalID != "" {
		w.add("spec.externalID: this field is deprecated, and is unused by Kubernetes")
	}
	w.cidrs(n.Spec.PodCIDRs, specPath.Child("podCIDRs"))
	return w.list
}

// warnSecret: a key that is not the certificate's is stored as it is.
func warnSecret(s, _ *corev1.Secret) []string {
	if s.Type != corev1.SecretTypeTLS {
		return nil
	}
	if _, err := tls.X509KeyPair(s.Data[corev1.TLSCertKey], s.Data[corev1.TLSPrivateKeyKey]); err != nil {
		return []string{err.Error()}
	}
	return nil
}

func warnServiceAccount(s, old *corev1.ServiceAccount) []string {
	const enforce = "kubernetes.io/enforce-mountable-secrets"
	if _, ok := s.Annotations[enforce]; !ok {
		return nil
	}
	if old != nil {
		if _, ok := old.Annotations[enforce]; ok {
			return nil
		}
	}
	return []string{"metadata.annotations[" + enforce + "]: deprecated in v1.32+; prefer separate namespaces to isolate access to mounted secrets"}
}

func warnVolume(v, _ *corev1.PersistentVolume) []string {
	w, notes := &warned{}, metaPath.Child("annotations")
	for _, past := range []struct{ key, message string }{
		{corev1.BetaStorageClassAnnotation, `deprecated since v1.8; use "storageClassName" attribute instead`},
		{corev1.MountOptionAnnotation, `deprecated since v1.31; use "mountOptions" attribute instead`},
	} {
		if _, ok := v.Annotations[past.key]; ok {
			w.add("%s: %s", notes.Key(past.key), past.message)
		}
	}
	if v.Spec.PersistentVolumeReclaimPolicy == corev1.PersistentVolumeReclaimRecycle {
		w.add("spec.persistentVolumeReclaimPolicy: The Recycle reclaim policy is deprecated. Instead, the recommended approach is to use dynamic provisioning.")
	}
	if a := v.Spec.NodeAffinity; a != nil && a.Required != nil {
		for i := range a.Required.NodeSelectorTerms {
			w.nodeTerm(&a.Required.NodeSelectorTerms[i], specPath.Child("nodeAffinity", "required", "nodeSelectorTerms").Index(i))
		}
	}
	s := v.Spec.PersistentVolumeSource
	s.Flocker, s.Quobyte = nil, nil // of which only pods are warned
	w.goneSources(s, specPath)
	return w.list
}

func warnClaim(c, _ *corev1.PersistentVolumeClaim) []string {
	w := &warned{}
	if _, ok := c.Annotations[corev1.BetaStorageClassAnnotation]; ok {
		w.add(`%s: deprecated since v1.8; use "storageClassName" attribute instead`, metaPath.Child("annotations").Key(corev1.BetaStorageClassAnnotation))
	}
	w.claim(&c.Spec, specPath)
	return w.list
}

func warnStorageClass(c, _ *storagev1.StorageClass) []string {
	w := &warned{}
	for i, t := range c.AllowedTopologies {
		for j, e := range t.MatchLabelExpressions {
			if message, ok := renamedLabels[e.Key]; ok {
				w.add("%s: %s", field.NewPath("allowedTopologies").Index(i).Child("matchLabelExpressions").Index(j).Child("key"), message)
			}
		}
	}
	return w.list
}

func warnStorageCapacity(c, _ *storagev1.CSIStorageCapacity) []string {
	w, at := &warned{}, field.NewPath("nodeTopology")
	if c.NodeTopology == nil {
		return nil
	}
	for i, e := range c.NodeTopology.MatchExpressions {
		if message, ok := renamedLabels[e.Key]; ok {
			w.add("%s: %s is %s", at.Child("matchExpressions").Index(i).Child("key"), e.Key, message)
		}
	}
	for label := range inOrder(c.NodeTopology.MatchLabels) {
		if message, ok := renamedLabels[label]; ok {
			w.add("%s: %s", at.Child("matchLabels", label), message)
		}
	}
	return w.list
}

func warnRuntimeClass(c, _ *nodev1.RuntimeClass) []string {
	w := &warned{}
	if c.Scheduling != nil {
		for key := range inOrder(c.Scheduling.NodeSelector) {
			if message, ok := renamedLabels[key]; ok {
				w.add("scheduling.nodeSelector: %s", message)
			}
		}
	}
	return w.list
}

func warnDriver(d, old *storagev1.CSIDriver) []string {
	s := &d.Spec
	if len(s.TokenRequests) == 0 || s.ServiceAccountTokenInSecrets != nil || old != nil && sameRequests(s.TokenRequests, old.Spec.TokenRequests) {
		return nil
	}
	return []string{"spec.serviceAccountTokenInSecrets is unset; if supported by this CSI driver, set to true to prevent possible logging of tokens in volume attributes"}
}

func sameRequests(a, b []storagev1.TokenRequest) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i].Audience != b[i].Audience || deref(a[i].ExpirationSeconds, 0) != deref(b[i].ExpirationSeconds, 0) {
			return false
		}
	}
	return true
}

func warnResourceSlice(s, _ *resourcev1.ResourceSlice) []string {
	if d := s.Spec.Driver; d != strings.ToLower(d) {
		return []string{fmt.Sprintf("spec.driver: driver names should be lowercase; %q contains uppercase characters", d)}
	}
	return nil
}

// warnQuota: a limit below what may be requested.
func warnQuota(q, old *corev1.ResourceQuota) []string {
	if old != nil {
		return nil
	}
	w := &warned{}
	for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceStorage, corev1.ResourceEphemeralStorage} {
		requests, limits := "requests."+name, "limits."+name
		request, ok := q.Spec.Hard[requests]
		if bare, has := q.Spec.Hard[name]; !ok && has && (name == corev1.ResourceCPU || name == corev1.ResourceMemory) {
			requests, request, ok = name, bare, true
		}
		if limit, has := q.Spec.Hard[limits]; ok && has && request.Cmp(limit) > 0 {
			w.add("ResourceQuota %s (%s) should be less than %s (%s)", requests, request.String(), limits, limit.String())
		}
	}
	return w.list
}
