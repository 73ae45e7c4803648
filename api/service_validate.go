package api

import (
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	netutils "k8s.io/utils/net"
	"k8s.io/utils/ptr"
)

func validateService(s *corev1.Service) field.ErrorList {
	p, at := &s.Spec, specPath
	return slices.Concat(
		validateServicePorts(s, at.Child("ports")),
		metavalidation.ValidateLabels(p.Selector, at.Child("selector")),
		validateAffinityOfSessions(p, at),
		validateClusterIPs(s, at),
		validateFamilies(p, at),
		validateExternal(s, at),
		validateBalancer(s, at),
		validateTrafficPolicies(s, at),
		validateServiceAnnotations(s),
	)
}

// kubeletPort cannot be balanced: on a node it is the kubelet's.
const kubeletPort = 10250

func validateServicePorts(s *corev1.Service, at *field.Path) field.ErrorList {
	if len(s.Spec.Ports) == 0 && !isHeadless(s) && s.Spec.Type != corev1.ServiceTypeExternalName {
		return field.ErrorList{field.Required(at, "")}
	}
	type pair struct {
		protocol corev1.Protocol
		port     int32
	}
	names, ports, nodePorts := sets.New[string](), sets.New[pair](), sets.New[pair]()
	return each(s.Spec.Ports, at, func(p *corev1.ServicePort, at *field.Path) field.ErrorList {
		errs := slices.Concat(
			validatePortName(p.Name, len(s.Spec.Ports) > 1, names, at.Child("name")),
			validatePort(p.Port, at.Child("port")),
			validateProtocol(p.Protocol, at.Child("protocol")),
			validateTargetPort(p.TargetPort, at.Child("targetPort")),
		)
		if p.AppProtocol != nil {
			errs = append(errs, invalidEach(*p.AppProtocol, at.Child("appProtocol"), validation.IsQualifiedName(*p.AppProtocol))...)
		}
		if p.Port == kubeletPort && s.Spec.Type == corev1.ServiceTypeLoadBalancer {
			errs = append(errs, field.Invalid(at, p.Port, "may not expose port 10250 externally since it is used by kubelet"))
		}
		if k := (pair{p.Protocol, p.Port}); ports.Has(k) {
			errs = append(errs, field.Duplicate(at, corev1.ServicePort{Protocol: p.Protocol, Port: p.Port}))
		} else {
			ports.Insert(k)
		}
		if p.NodePort == 0 {
			return errs
		}
		if s.Spec.Type == corev1.ServiceTypeClusterIP {
			errs = append(errs, field.Forbidden(at.Child("nodePort"), "may not be used when `type` is 'ClusterIP'"))
		}
		if k := (pair{p.Protocol, p.NodePort}); nodePorts.Has(k) {
			errs = append(errs, field.Duplicate(at.Child("nodePort"), p.NodePort))
		} else {
			nodePorts.Insert(k)
		}
		return errs
	})
}

func validatePortName(name string, needed bool, seen sets.Set[string], at *field.Path) field.ErrorList {
	if name == "" && needed {
		return field.ErrorList{field.Required(at, "")}
	}
	if name == "" {
		return nil
	}
	return append(invalidEach(name, at, validation.IsDNS1123Label(name)), unique(seen, name, at)...)
}

const maxSessionSeconds = 86400 // a day

func validateAffinityOfSessions(p *corev1.ServiceSpec, at *field.Path) field.ErrorList {
	errs := requiredOneOf(p.SessionAffinity, at.Child("sessionAffinity"), corev1.ServiceAffinityClientIP, corev1.ServiceAffinityNone)
	c, cp := p.SessionAffinityConfig, at.Child("sessionAffinityConfig")
	switch {
	case p.SessionAffinity == corev1.ServiceAffinityNone && c != nil:
		errs = append(errs, field.Forbidden(cp, "must not be set when session affinity is None"))
	case p.SessionAffinity != corev1.ServiceAffinityClientIP:
	case c == nil || c.ClientIP == nil || c.ClientIP.TimeoutSeconds == nil:
		errs = append(errs, field.Required(cp, "when session affinity type is ClientIP"))
	default:
		if t := *c.ClientIP.TimeoutSeconds; t <= 0 || t > maxSessionSeconds {
			errs = append(errs, field.Invalid(cp.Child("clientIP", "timeoutSeconds"), t, "must be greater than 0 and less than 86400"))
		}
	}
	return errs
}

func validateClusterIPs(s *corev1.Service, at *field.Path) field.ErrorList {
	ips, p := s.Spec.ClusterIPs, at.Child("clusterIPs")
	if s.Spec.Type == corev1.ServiceTypeExternalName {
		if len(ips) > 0 {
			return field.ErrorList{field.Forbidden(p, "may not be set for ExternalName services")}
		}
		return nil
	}
	var errs field.ErrorList
	switch {
	case s.Spec.ClusterIP != "" && len(ips) == 0:
		errs = append(errs, field.Required(p, ""))
	case s.Spec.ClusterIP == "" && len(ips) > 0:
		errs = append(errs, field.Invalid(p, ips, "must be empty when `clusterIP` is not specified"))
	case len(ips) > 0 && ips[0] != s.Spec.ClusterIP:
		errs = append(errs, field.Invalid(p, ips, "first value must match `clusterIP`"))
	}
	if isHeadless(s) && mayHaveNodePorts(s) {
		errs = append(errs, field.Invalid(p.Index(0), corev1.ClusterIPNone, "may not be set to 'None' for "+string(s.Spec.Type)+" services"))
	}
	if len(ips) > 2 {
		errs = append(errs, field.Invalid(p, ips, "may only hold up to 2 values"))
	}
	if bad := validateEachClusterIP(ips, p); len(bad) > 0 {
		return append(errs, bad...) // their families mean nothing
	}
	return append(errs, validateFamiliesOf(s, p)...)
}

func validateEachClusterIP(ips []string, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i, ip := range ips {
		switch none := i == 0 && ip == corev1.ClusterIPNone; {
		case none && len(ips) > 1:
			errs = append(errs, field.Invalid(at, ips, "'None' must be the first and only value"))
		case !none:
			errs = append(errs, validation.IsValidIP(at.Index(i), ip)...)
		}
	}
	return errs
}

// validateFamiliesOf holds well-formed addresses against each other and against
// ipFamilies.
func validateFamiliesOf(s *corev1.Service, at *field.Path) field.ErrorList {
	ips := s.Spec.ClusterIPs
	errs := twoFamilies(ips, at)
	for i, ip := range ips[:min(len(ips), len(s.Spec.IPFamilies))] {
		f := s.Spec.IPFamilies[i]
		if f != corev1.IPv4Protocol && f != corev1.IPv6Protocol {
			continue
		}
		if a, err := netip.ParseAddr(ip); err == nil && familyOf(a) != f {
			errs = append(errs, field.Invalid(at.Index(i), ip, "expected an "+string(f)+" value as indicated by `ipFamilies["+itoa(i)+"]`"))
		}
	}
	return errs
}

func twoFamilies(ips []string, at *field.Path) field.ErrorList {
	if len(ips) < 2 {
		return nil
	}
	a, err1 := netip.ParseAddr(ips[0])
	b, err2 := netip.ParseAddr(ips[1])
	if err1 == nil && err2 == nil && a.Is4() == b.Is4() {
		return field.ErrorList{field.Invalid(at, ips, "may specify no more than one IP for each IP family")}
	}
	return nil
}

func validateFamilies(p *corev1.ServiceSpec, at *field.Path) field.ErrorList {
	if p.Type == corev1.ServiceTypeExternalName {
		var errs field.ErrorList
		if p.IPFamilyPolicy != nil {
			errs = append(errs, field.Forbidden(at.Child("ipFamilyPolicy"), "may not be set for ExternalName services"))
		}
		if len(p.IPFamilies) > 0 {
			errs = append(errs, field.Forbidden(at.Child("ipFamilies"), "may not be set for ExternalName services"))
		}
		return errs
	}
	var errs field.ErrorList
	if f := p.IPFamilyPolicy; f != nil {
		errs = oneOf(*f, at.Child("ipFamilyPolicy"), corev1.IPFamilyPolicyPreferDualStack, corev1.IPFamilyPolicyRequireDualStack, corev1.IPFamilyPolicySingleStack)
	}
	seen := sets.New[corev1.IPFamily]()
	errs = append(errs, each(p.IPFamilies, at.Child("ipFamilies"), func(f *corev1.IPFamily, at *field.Path) field.ErrorList {
		return append(oneOf(*f, at, corev1.IPv4Protocol, corev1.IPv6Protocol), unique(seen, *f, at)...)
	})...)
	return errs
}

var serviceTypes = []corev1.ServiceType{corev1.ServiceTypeClusterIP, corev1.ServiceTypeExternalName, corev1.ServiceTypeLoadBalancer, corev1.ServiceTypeNodePort}

func validateExternal(s *corev1.Service, at *field.Path) field.ErrorList {
	errs := requiredOneOf(s.Spec.Type, at.Child("type"), serviceTypes...)
	for i, ip := range s.Spec.ExternalIPs {
		p := at.Child("externalIPs").Index(i)
		if bad := validation.IsValidIP(p, ip); len(bad) > 0 {
			errs = append(errs, bad...)
		} else if a, err := netip.ParseAddr(ip); err == nil {
			errs = append(errs, validateReachable(a, ip, p)...)
		}
	}
	if s.Spec.Type != corev1.ServiceTypeExternalName {
		return errs
	}
	// A trailing dot makes a name absolute.
	if name := strings.TrimSuffix(s.Spec.ExternalName, "."); name == "" {
		errs = append(errs, field.Required(at.Child("externalName"), ""))
	} else {
		errs = append(errs, invalidEach(name, at.Child("externalName"), validation.IsDNS1123Subdomain(name))...)
	}
	return errs
}

// validateBalancer judges what only a Service of type LoadBalancer may have.
func validateBalancer(s *corev1.Service, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	balanced := s.Spec.Type == corev1.ServiceTypeLoadBalancer
	only := func(set bool, name string) {
		if set && !balanced {
			errs = append(errs, field.Forbidden(at.Child(name), "may only be used when `type` is 'LoadBalancer'"))
		}
	}
	only(len(s.Spec.LoadBalancerSourceRanges) > 0, "LoadBalancerSourceRanges") // published so
	only(s.Spec.AllocateLoadBalancerNodePorts != nil, "allocateLoadBalancerNodePorts")
	only(s.Spec.LoadBalancerClass != nil, "loadBalancerClass")
	if balanced && s.Spec.AllocateLoadBalancerNodePorts == nil {
		errs = append(errs, field.Required(at.Child("allocateLoadBalancerNodePorts"), ""))
	}
	for i, cidr := range s.Spec.LoadBalancerSourceRanges {
		errs = append(errs, validation.IsValidCIDR(at.Child("LoadBalancerSourceRanges").Index(i), strings.TrimSpace(cidr))...)
	}
	if c := s.Spec.LoadBalancerClass; c != nil && balanced {
		errs = append(errs, invalidEach(*c, at.Child("loadBalancerClass"), validation.IsQualifiedName(*c))...)
	}
	return errs
}

func validateTrafficPolicies(s *corev1.Service, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	external := at.Child("externalTrafficPolicy")
	switch p := s.Spec.ExternalTrafficPolicy; {
	case !reachedFromOutside(s):
		if p != "" {
			errs = append(errs, field.Invalid(external, p, "may only be set for externally-accessible services"))
		}
	default:
		errs = append(errs, requiredOneOf(p, external, corev1.ServiceExternalTrafficPolicyCluster, corev1.ServiceExternalTrafficPolicyLocal)...)
	}
	if p := s.Spec.InternalTrafficPolicy; p != nil {
		errs = append(errs, oneOf(*p, at.Child("internalTrafficPolicy"), corev1.ServiceInternalTrafficPolicyCluster, corev1.ServiceInternalTrafficPolicyLocal)...)
	} else if s.Spec.Type != corev1.ServiceTypeExternalName {
		errs = append(errs, field.Required(at.Child("internalTrafficPolicy"), ""))
	}
	health := at.Child("healthCheckNodePort")
	if n := s.Spec.HealthCheckNodePort; n != 0 && !NeedsHealthCheckPort(s) {
		errs = append(errs, field.Invalid(health, n, "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'"))
	} else if n != 0 {
		errs = append(errs, validatePort(n, health)...)
	}
	if d := s.Spec.TrafficDistribution; d != nil {
		errs = append(errs, oneOf(*d, at.Child("trafficDistribution"),
			corev1.ServiceTrafficDistributionPreferClose, corev1.ServiceTrafficDistributionPreferSameZone, corev1.ServiceTrafficDistributionPreferSameNode)...)
	}
	return errs
}

// validateServiceUpdate: an address, a family and a class stay while the type
// uses them; a second family may come and go.
func validateServiceUpdate(s, old *corev1.Service) field.ErrorList {
	var errs field.ErrorList
	if old.Spec.Type != corev1.ServiceTypeExternalName && s.Spec.Type != corev1.ServiceTypeExternalName {
		errs = append(validateClusterIPChange(s, old), validateFamilyChange(s, old)...)
	}
	if s.Spec.Type == corev1.ServiceTypeLoadBalancer && old.Spec.Type == corev1.ServiceTypeLoadBalancer && !ptr.Equal(s.Spec.LoadBalancerClass, old.Spec.LoadBalancerClass) {
		errs = append(errs, field.Invalid(specPath.Child("loadBalancerClass"), s.Spec.LoadBalancerClass, onceSet))
	}
	if NeedsHealthCheckPort(s) && NeedsHealthCheckPort(old) && s.Spec.HealthCheckNodePort != old.Spec.HealthCheckNodePort {
		errs = append(errs, field.Forbidden(specPath.Child("healthCheckNodePort"), "field is immutable"))
	}
	return errs
}

const onceSet = "may not change once set"

func validateClusterIPChange(s, old *corev1.Service) field.ErrorList {
	now, before, at := s.Spec.ClusterIPs, old.Spec.ClusterIPs, specPath.Child("clusterIPs")
	var errs field.ErrorList
	switch {
	case len(before) > 0 && len(now) == 0:
		errs = append(errs, field.Invalid(at.Index(0), now, "primary clusterIP can not be unset"))
	case len(before) == len(now):
		for i := range now {
			if now[i] != before[i] {
				errs = append(errs, field.Invalid(at.Index(i), now, onceSet))
			}
		}
	case len(before) > 0 && now[0] != before[0]:
		errs = append(errs, field.Invalid(at.Index(0), now, onceSet))
	}
	if len(before) > 1 && len(now) == 1 {
		errs = append(errs, validateRelease(s, "clusterIP")...)
	}
	return errs
}

// validateFamilyChange lets headless Services have what families they like.
func validateFamilyChange(s, old *corev1.Service) field.ErrorList {
	now, before, at := s.Spec.IPFamilies, old.Spec.IPFamilies, specPath.Child("ipFamilies")
	if isHeadless(s) || isHeadless(old) || len(now) == 0 || len(before) == 0 {
		return nil
	}
	var errs field.ErrorList
	if now[0] != before[0] || len(now) == len(before) && !slices.Equal(now, before) {
		errs = append(errs, field.Invalid(at.Index(0), now, onceSet))
	}
	if len(before) > 1 && len(now) == 1 {
		errs = append(errs, validateRelease(s, "ipFamily")...)
	}
	return errs
}

// validateRelease: who gives back the second of two says so by the policy.
func validateRelease(s *corev1.Service, what string) field.ErrorList {
	p := s.Spec.IPFamilyPolicy
	if deref(p, "") == corev1.IPFamilyPolicySingleStack {
		return nil
	}
	return field.ErrorList{field.Invalid(specPath.Child("ipFamilyPolicy"), p, "must be set to 'SingleStack' when releasing the secondary "+what)}
}

// validateServiceAnnotations judges what was said by annotations before there
// were fields for it.
func validateServiceAnnotations(s *corev1.Service) field.ErrorList {
	at := metaPath.Child("annotations")
	var errs field.ErrorList
	hints, hinted := s.Annotations[corev1.DeprecatedAnnotationTopologyAwareHints]
	if mode, ok := s.Annotations[corev1.AnnotationTopologyMode]; ok && hinted && mode != hints {
		errs = append(errs, field.Invalid(at.Key(corev1.AnnotationTopologyMode), mode,
			"must match annotations["+corev1.DeprecatedAnnotationTopologyAwareHints+"] when both are specified"))
	}
	ranges, ok := s.Annotations[corev1.AnnotationLoadBalancerSourceRangesKey]
	if !ok || len(s.Spec.LoadBalancerSourceRanges) > 0 {
		return errs
	}
	at = at.Key(corev1.AnnotationLoadBalancerSourceRangesKey)
	if s.Spec.Type != corev1.ServiceTypeLoadBalancer {
		errs = append(errs, field.Forbidden(at, "may only be used when `type` is 'LoadBalancer'"))
	}
	if strings.TrimSpace(ranges) != "" {
		for cidr := range strings.SplitSeq(ranges, ",") {
			errs = append(errs, validation.IsValidCIDR(at, strings.TrimSpace(cidr))...)
		}
	}
	return errs
}

func validateServiceStatus(s, _ *corev1.Service) field.ErrorList {
	at := statusPath.Child("loadBalancer", "ingress")
	if s.Spec.Type != corev1.ServiceTypeLoadBalancer && len(s.Status.LoadBalancer.Ingress) > 0 {
		return field.ErrorList{field.Forbidden(at, "may only be used when `spec.type` is 'LoadBalancer'")}
	}
	return each(s.Status.LoadBalancer.Ingress, at, validateIngressPoint)
}

func validateIngressPoint(in *corev1.LoadBalancerIngress, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if in.IP != "" {
		errs = append(errs, validation.IsValidIP(at.Child("ip"), in.IP)...)
	}
	switch mode := at.Child("ipMode"); {
	case in.IPMode == nil && in.IP != "":
		errs = append(errs, field.Required(mode, "must be specified when `ip` is set"))
	case in.IPMode != nil && in.IP == "":
		errs = append(errs, field.Forbidden(mode, "may not be specified when `ip` is not set"))
	case in.IPMode != nil:
		errs = append(errs, oneOf(*in.IPMode, mode, corev1.LoadBalancerIPModeProxy, corev1.LoadBalancerIPModeVIP)...)
	}
	if in.Hostname != "" {
		errs = append(errs, invalidEach(in.Hostname, at.Child("hostname"), validation.IsDNS1123Subdomain(in.Hostname))...)
		if netutils.ParseIPSloppy(in.Hostname) != nil {
			errs = append(errs, field.Invalid(at.Child("hostname"), in.Hostname, "must be a DNS name, not an IP address"))
		}
	}
	return errs
}

func validateEndpoints(e *corev1.Endpoints) field.ErrorList {
	return each(e.Subsets, field.NewPath("subsets"), func(s *corev1.EndpointSubset, at *field.Path) field.ErrorList {
		errs := slices.Concat(
			each(s.Addresses, at.Child("addresses"), validateSubsetAddress),
			each(s.NotReadyAddresses, at.Child("notReadyAddresses"), validateSubsetAddress),
		)
		if len(s.Addresses)+len(s.NotReadyAddresses) == 0 {
			errs = append(errs, field.Required(at, "must specify `addresses` or `notReadyAddresses`"))
		}
		return append(errs, each(s.Ports, at.Child("ports"), func(p *corev1.EndpointPort, at *field.Path) field.ErrorList {
			return slices.Concat(
				validatePortName(p.Name, len(s.Ports) > 1, sets.New[string](), at.Child("name")), // may be there twice
				validatePort(p.Port, at.Child("port")),
				validateProtocol(p.Protocol, at.Child("protocol")))
		})...)
	})
}

func validateSubsetAddress(a *corev1.EndpointAddress, at *field.Path) field.ErrorList {
	errs := validation.IsValidIP(at.Child("ip"), a.IP)
	if ip, err := netip.ParseAddr(a.IP); err == nil {
		errs = append(errs, validateReachable(ip, a.IP, at.Child("ip"))...)
	}
	errs = append(errs, optionally(a.Hostname, validation.IsDNS1123Label, at.Child("hostname"))...)
	if a.NodeName != nil {
		errs = append(errs, invalidEach(*a.NodeName, at.Child("nodeName"), dnsName(*a.NodeName))...)
	}
	return errs
}
