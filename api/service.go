package api

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
)

const sessionSeconds = 3 * 60 * 60 // how long a client stays with its pod

func defaultService(s *corev1.Service) {
	p := &s.Spec
	empty(&p.SessionAffinity, corev1.ServiceAffinityNone)
	empty(&p.Type, corev1.ServiceTypeClusterIP)
	if p.SessionAffinity == corev1.ServiceAffinityNone {
		p.SessionAffinityConfig = nil
	}
	if p.SessionAffinity == corev1.ServiceAffinityClientIP {
		unset(&p.SessionAffinityConfig, corev1.SessionAffinityConfig{})
		unset(&p.SessionAffinityConfig.ClientIP, corev1.ClientIPConfig{})
		unset(&p.SessionAffinityConfig.ClientIP.TimeoutSeconds, sessionSeconds)
	}
	for i := range p.Ports {
		port := &p.Ports[i]
		empty(&port.Protocol, corev1.ProtocolTCP)
		if port.TargetPort == intstr.FromInt32(0) || port.TargetPort == intstr.FromString("") {
			port.TargetPort = intstr.FromInt32(port.Port)
		}
	}
	if reachedFromOutside(s) {
		empty(&p.ExternalTrafficPolicy, corev1.ServiceExternalTrafficPolicyCluster)
	}
	if p.Type != corev1.ServiceTypeExternalName {
		unset(&p.InternalTrafficPolicy, corev1.ServiceInternalTrafficPolicyCluster)
	}
	if p.Type == corev1.ServiceTypeLoadBalancer {
		defaultBalanced(s)
	}
}

// defaultBalanced fills what only a Service of type LoadBalancer has.
func defaultBalanced(s *corev1.Service) {
	unset(&s.Spec.AllocateLoadBalancerNodePorts, true)
	for i := range s.Status.LoadBalancer.Ingress {
		if in := &s.Status.LoadBalancer.Ingress[i]; in.IP != "" {
			unset(&in.IPMode, corev1.LoadBalancerIPModeVIP)
		}
	}
}

// reachedFromOutside tells a Service that takes traffic from beyond the
// cluster, which externalTrafficPolicy is about.
func reachedFromOutside(s *corev1.Service) bool {
	switch s.Spec.Type {
	case corev1.ServiceTypeLoadBalancer, corev1.ServiceTypeNodePort:
		return true
	case corev1.ServiceTypeClusterIP:
		return len(s.Spec.ExternalIPs) > 0
	}
	return false
}

// NeedsClusterIP tells whether a Service lives at an address of the service
// range: all but external names and headless ones.
func NeedsClusterIP(s *corev1.Service) bool {
	return s.Spec.Type != corev1.ServiceTypeExternalName && !isHeadless(s)
}

// isHeadless tells a Service that has no address of its own.
func isHeadless(s *corev1.Service) bool {
	return len(s.Spec.ClusterIPs) == 1 && s.Spec.ClusterIPs[0] == corev1.ClusterIPNone
}

// NeedsNodePorts tells whether each port of a Service gets a port on every
// node.
func NeedsNodePorts(s *corev1.Service) bool {
	switch s.Spec.Type {
	case corev1.ServiceTypeNodePort:
		return true
	case corev1.ServiceTypeLoadBalancer:
		return deref(s.Spec.AllocateLoadBalancerNodePorts, true)
	}
	return false
}

// mayHaveNodePorts tells whether node ports may be written at all.
func mayHaveNodePorts(s *corev1.Service) bool {
	return s.Spec.Type == corev1.ServiceTypeNodePort || s.Spec.Type == corev1.ServiceTypeLoadBalancer
}

// NeedsHealthCheckPort tells whether a Service gets a node port at which a
// load balancer asks which nodes have its pods.
func NeedsHealthCheckPort(s *corev1.Service) bool {
	return s.Spec.Type == corev1.ServiceTypeLoadBalancer && s.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal
}

// normaliseClusterIPs lets a client that knows only clusterIP write a new
// Service.
func normaliseClusterIPs(s *corev1.Service) {
	if s.Spec.ClusterIP != "" && len(s.Spec.ClusterIPs) == 0 {
		s.Spec.ClusterIPs = []string{s.Spec.ClusterIP}
	}
}

// prepareServiceUpdate carries over what was allocated and the client did not
// write, and drops what the new type has no use for and the client did not
// change, so that both PUT of a manifest and a change of type just work.
func prepareServiceUpdate(s, old *corev1.Service) {
	carryAllocated(s, old)
	followClusterIP(s, old)
	dropUnused(s, old)
	unknown := isHeadless(s) && len(s.Spec.Selector) > 0 // were perhaps those of endpoints that nobody selected
	if len(s.Spec.IPFamilies) == 0 && s.Spec.Type != corev1.ServiceTypeExternalName && len(s.Spec.ClusterIPs) == len(old.Spec.ClusterIPs) && !unknown {
		s.Spec.IPFamilies = old.Spec.IPFamilies
	}
	if s.Spec.IPFamilyPolicy == nil && s.Spec.Type != corev1.ServiceTypeExternalName {
		s.Spec.IPFamilyPolicy = old.Spec.IPFamilyPolicy
	}
}

// followClusterIP keeps clusterIPs in step where a client changed clusterIP
// only.
func followClusterIP(s, old *corev1.Service) {
	sameAll := slices.Equal(s.Spec.ClusterIPs, old.Spec.ClusterIPs)
	switch sameOne := s.Spec.ClusterIP == old.Spec.ClusterIP; {
	case sameOne && len(s.Spec.ClusterIPs) == 0:
		s.Spec.ClusterIPs = slices.Clone(old.Spec.ClusterIPs)
	case sameOne || !sameAll:
	case s.Spec.ClusterIP == "" && old.Spec.ClusterIP != "":
		s.Spec.ClusterIPs = nil
	default:
		s.Spec.ClusterIPs = []string{s.Spec.ClusterIP}
	}
}

func carryAllocated(s, old *corev1.Service) {
	external := corev1.ServiceTypeExternalName
	if s.Spec.Type != external && old.Spec.Type != external {
		empty(&s.Spec.ClusterIP, old.Spec.ClusterIP)
		if len(s.Spec.ClusterIPs) == 0 {
			s.Spec.ClusterIPs = slices.Clone(old.Spec.ClusterIPs)
		}
	}
	if NeedsNodePorts(old) && NeedsNodePorts(s) {
		carryNodePorts(s, old)
	}
	if NeedsHealthCheckPort(old) && NeedsHealthCheckPort(s) {
		empty(&s.Spec.HealthCheckNodePort, old.Spec.HealthCheckNodePort)
	}
}

// carryNodePorts gives a port that names no node port the one that the port of
// its name had, unless another port kept it.
func carryNodePorts(s, old *corev1.Service) {
	had, before, kept := map[string]int32{}, map[int32]bool{}, map[int32]bool{}
	for _, p := range old.Spec.Ports {
		had[p.Name], before[p.NodePort] = p.NodePort, true
	}
	for _, p := range s.Spec.Ports {
		kept[p.NodePort] = before[p.NodePort]
	}
	for i := range s.Spec.Ports {
		p := &s.Spec.Ports[i]
		if n := had[p.Name]; p.NodePort == 0 && !kept[n] {
			p.NodePort = n
		}
	}
}

// dropUnused clears fields that belonged to the old type only, where the
// client left them as they were.
func dropUnused(s, old *corev1.Service) {
	if s.Spec.Type == corev1.ServiceTypeExternalName {
		dropAddresses(s, old)
	} else if deref(s.Spec.IPFamilyPolicy, "") == corev1.IPFamilyPolicySingleStack {
		dropSecondFamily(s, old)
	}
	if mayHaveNodePorts(old) && !mayHaveNodePorts(s) && sameNodePorts(s, old) {
		for i := range s.Spec.Ports {
			s.Spec.Ports[i].NodePort = 0
		}
	}
	if NeedsHealthCheckPort(old) && !NeedsHealthCheckPort(s) && s.Spec.HealthCheckNodePort == old.Spec.HealthCheckNodePort {
		s.Spec.HealthCheckNodePort = 0
	}
	if reachedFromOutside(old) && !reachedFromOutside(s) && s.Spec.ExternalTrafficPolicy == old.Spec.ExternalTrafficPolicy {
		s.Spec.ExternalTrafficPolicy = ""
	}
	if old.Spec.Type != corev1.ServiceTypeLoadBalancer || s.Spec.Type == corev1.ServiceTypeLoadBalancer {
		return
	}
	if ptr.Equal(s.Spec.AllocateLoadBalancerNodePorts, old.Spec.AllocateLoadBalancerNodePorts) {
		s.Spec.AllocateLoadBalancerNodePorts = nil
	}
	if ptr.Equal(s.Spec.LoadBalancerClass, old.Spec.LoadBalancerClass) {
		s.Spec.LoadBalancerClass = nil
	}
	s.Status.LoadBalancer = corev1.LoadBalancerStatus{}
}

// dropAddresses: an external name lives outside.
func dropAddresses(s, old *corev1.Service) {
	if slices.Equal(s.Spec.ClusterIPs, old.Spec.ClusterIPs) {
		s.Spec.ClusterIP, s.Spec.ClusterIPs = "", nil
	}
	if slices.Equal(s.Spec.IPFamilies, old.Spec.IPFamilies) {
		s.Spec.IPFamilies = nil
	}
	if ptr.Equal(s.Spec.IPFamilyPolicy, old.Spec.IPFamilyPolicy) {
		s.Spec.IPFamilyPolicy = nil
	}
	if ptr.Equal(s.Spec.InternalTrafficPolicy, old.Spec.InternalTrafficPolicy) {
		s.Spec.InternalTrafficPolicy = nil
	}
}

// dropSecondFamily: SingleStack gives the second address and family back.
func dropSecondFamily(s, old *corev1.Service) {
	if len(s.Spec.ClusterIPs) == 2 && slices.Equal(s.Spec.ClusterIPs, old.Spec.ClusterIPs) {
		s.Spec.ClusterIPs = s.Spec.ClusterIPs[:1:1]
	}
	if len(s.Spec.IPFamilies) == 2 && slices.Equal(s.Spec.IPFamilies, old.Spec.IPFamilies) {
		s.Spec.IPFamilies = s.Spec.IPFamilies[:1:1]
	}
}

func sameNodePorts(s, old *corev1.Service) bool {
	set := func(s *corev1.Service) map[int32]bool {
		m := map[int32]bool{}
		for _, p := range s.Spec.Ports {
			m[p.NodePort] = true
		}
		return m
	}
	had := set(old)
	for n := range set(s) {
		if n != 0 && !had[n] {
			return false
		}
	}
	return true
}
