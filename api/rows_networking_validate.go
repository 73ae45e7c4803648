package api

import (
	"net/netip"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	netutils "k8s.io/utils/net"
)

func validateNetworkPolicy(p *networkingv1.NetworkPolicy) field.ErrorList {
	s := &p.Spec
	errs := checkSelector(&s.PodSelector, specPath.Child("podSelector"))
	for i := range s.Ingress {
		at := specPath.Child("ingress").Index(i)
		errs = append(errs, each(s.Ingress[i].Ports, at.Child("ports"), validatePolicyPort)...)
		errs = append(errs, each(s.Ingress[i].From, at.Child("from"), validatePolicyPeer)...)
	}
	for i := range s.Egress {
		at := specPath.Child("egress").Index(i)
		errs = append(errs, each(s.Egress[i].Ports, at.Child("ports"), validatePolicyPort)...)
		errs = append(errs, each(s.Egress[i].To, at.Child("to"), validatePolicyPeer)...)
	}
	at := specPath.Child("policyTypes")
	if len(s.PolicyTypes) > 2 {
		return append(errs, field.Invalid(at, &s.PolicyTypes, "may not specify more than two policyTypes"))
	}
	for i, t := range s.PolicyTypes {
		errs = append(errs, oneOf(t, at.Index(i), networkingv1.PolicyTypeEgress, networkingv1.PolicyTypeIngress)...)
	}
	return errs
}

func validatePolicyPort(p *networkingv1.NetworkPolicyPort, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if p.Protocol != nil {
		errs = append(errs, oneOf(*p.Protocol, at.Child("protocol"), corev1.ProtocolSCTP, corev1.ProtocolTCP, corev1.ProtocolUDP)...)
	}
	switch {
	case p.Port == nil:
		if p.EndPort != nil {
			errs = append(errs, field.Invalid(at.Child("endPort"), *p.EndPort, "may not be specified when `port` is not specified"))
		}
	case p.Port.Type == intstr.Int:
		errs = append(errs, invalidEach(p.Port.IntVal, at.Child("port"), validation.IsValidPortNum(int(p.Port.IntVal)))...)
		if p.EndPort != nil && *p.EndPort < p.Port.IntVal {
			errs = append(errs, field.Invalid(at.Child("endPort"), *p.EndPort, "must be greater than or equal to `port`"))
		}
		if p.EndPort != nil {
			errs = append(errs, invalidEach(*p.EndPort, at.Child("endPort"), validation.IsValidPortNum(int(*p.EndPort)))...)
		}
	default:
		if p.EndPort != nil {
			errs = append(errs, field.Invalid(at.Child("endPort"), *p.EndPort, "may not be specified when `port` is non-numeric"))
		}
		errs = append(errs, invalidEach(p.Port.StrVal, at.Child("port"), validation.IsValidPortName(p.Port.StrVal))...)
	}
	return errs
}

func validatePolicyPeer(p *networkingv1.NetworkPolicyPeer, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	peers := 0
	if p.PodSelector != nil {
		peers++
		errs = append(errs, checkSelector(p.PodSelector, at.Child("podSelector"))...)
	}
	if p.NamespaceSelector != nil {
		peers++
		errs = append(errs, checkSelector(p.NamespaceSelector, at.Child("namespaceSelector"))...)
	}
	if p.IPBlock != nil {
		peers++
		errs = append(errs, validateIPBlock(p.IPBlock, at.Child("ipBlock"))...)
	}
	switch {
	case peers == 0:
		errs = append(errs, field.Required(at, "must specify a peer"))
	case peers > 1 && p.IPBlock != nil:
		errs = append(errs, field.Forbidden(at, "may not specify both ipBlock and another peer"))
	}
	return errs
}

func validateIPBlock(b *networkingv1.IPBlock, at *field.Path) field.ErrorList {
	if b.CIDR == "" {
		return field.ErrorList{field.Required(at.Child("cidr"), "")}
	}
	errs := validation.IsValidCIDRForLegacyField(at.Child("cidr"), b.CIDR, true, nil)
	outer, err := netip.ParsePrefix(b.CIDR)
	if err != nil {
		return errs
	}
	for i, e := range b.Except {
		at := at.Child("except").Index(i)
		inner, err := netip.ParsePrefix(e)
		if err != nil {
			errs = append(errs, validation.IsValidCIDRForLegacyField(at, e, true, nil)...)
		} else if !outer.Contains(inner.Addr()) || inner.Bits() <= outer.Bits() {
			errs = append(errs, field.Invalid(at, e, "must be a strict subset of `cidr`"))
		}
	}
	return errs
}

func validateIngress(i *networkingv1.Ingress) field.ErrorList {
	s := &i.Spec
	errs := each(s.TLS, specPath.Child("tls"), validateIngressTLS)
	if len(s.Rules) == 0 && s.DefaultBackend == nil {
		errs = append(errs, field.Invalid(specPath, s.Rules, "either `defaultBackend` or `rules` must be specified"))
	}
	if s.DefaultBackend != nil {
		errs = append(errs, validateIngressBackend(s.DefaultBackend, specPath.Child("defaultBackend"))...)
	}
	errs = append(errs, each(s.Rules, specPath.Child("rules"), validateIngressRule)...)
	if c := s.IngressClassName; c != nil {
		errs = append(errs, invalidEach(*c, specPath.Child("ingressClassName"), validation.IsDNS1123Subdomain(*c))...)
	}
	return errs
}

func validateIngressTLS(t *networkingv1.IngressTLS, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i, host := range t.Hosts {
		errs = append(errs, invalidEach(host, at.Child("hosts").Index(i), hostName(host))...)
	}
	return append(errs, optionally(t.SecretName, validation.IsDNS1123Subdomain, at.Child("secretName"))...)
}

// hostName takes a DNS name, whose first label may be "*".
func hostName(host string) []string {
	if strings.Contains(host, "*") {
		return validation.IsWildcardDNS1123Subdomain(host)
	}
	return validation.IsDNS1123Subdomain(host)
}

func validateIngressRule(r *networkingv1.IngressRule, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if r.Host != "" {
		if netutils.ParseIPSloppy(r.Host) != nil {
			errs = append(errs, field.Invalid(at.Child("host"), r.Host, "must be a DNS name, not an IP address"))
		}
		errs = append(errs, invalidEach(r.Host, at.Child("host"), hostName(r.Host))...)
	}
	if r.HTTP == nil {
		return errs
	}
	if len(r.HTTP.Paths) == 0 {
		errs = append(errs, field.Required(at.Child("http", "paths"), ""))
	}
	return append(errs, each(r.HTTP.Paths, at.Child("http", "paths"), validateIngressPath)...)
}

func validateIngressPath(p *networkingv1.HTTPIngressPath, at *field.Path) field.ErrorList {
	if p.PathType == nil {
		return field.ErrorList{field.Required(at.Child("pathType"), "pathType must be specified")}
	}
	var errs field.ErrorList
	switch *p.PathType {
	case networkingv1.PathTypeExact, networkingv1.PathTypePrefix:
		if !strings.HasPrefix(p.Path, "/") {
			errs = append(errs, field.Invalid(at.Child("path"), p.Path, "must be an absolute path"))
		}
		for _, bad := range []string{"//", "/./", "/../", "%2f", "%2F"} {
			if strings.Contains(p.Path, bad) {
				errs = append(errs, field.Invalid(at.Child("path"), p.Path, "must not contain '"+bad+"'"))
			}
		}
		for _, bad := range []string{"/..", "/."} {
			if strings.HasSuffix(p.Path, bad) {
				errs = append(errs, field.Invalid(at.Child("path"), p.Path, "cannot end with '"+bad+"'"))
			}
		}
	case networkingv1.PathTypeImplementationSpecific:
		if p.Path != "" && !strings.HasPrefix(p.Path, "/") {
			errs = append(errs, field.Invalid(at.Child("path"), p.Path, "must be an absolute path"))
		}
	default:
		errs = append(errs, oneOf(*p.PathType, at.Child("pathType"),
			networkingv1.PathTypeExact, networkingv1.PathTypeImplementationSpecific, networkingv1.PathTypePrefix)...)
	}
	return append(errs, validateIngressBackend(&p.Backend, at.Child("backend"))...)
}

func validateIngressBackend(b *networkingv1.IngressBackend, at *field.Path) field.ErrorList {
	switch {
	case b.Resource != nil && b.Service != nil:
		return field.ErrorList{field.Invalid(at, "", "cannot set both resource and service backends")}
	case b.Resource != nil:
		return validateLocalReference(b.Resource.APIGroup, b.Resource.Kind, b.Resource.Name, at.Child("resource"))
	case b.Service == nil:
		return field.ErrorList{field.Invalid(at, "", "resource or service backend is required")}
	}
	whole := at
	at = at.Child("service")
	errs := named(b.Service.Name, dns1035Label, at.Child("name"))
	port := b.Service.Port
	switch {
	case port.Name != "" && port.Number != 0:
		errs = append(errs, field.Invalid(whole, "", "cannot set both port name & port number"))
	case port.Name != "":
		errs = append(errs, invalidEach(port.Name, at.Child("port", "name"), validation.IsValidPortName(port.Name))...)
	case port.Number != 0:
		errs = append(errs, invalidEach(port.Number, at.Child("port", "number"), validation.IsValidPortNum(int(port.Number)))...)
	default:
		errs = append(errs, field.Required(whole, "port name or number is required"))
	}
	return errs
}

// validateLocalReference judges a reference by group, kind and name.
func validateLocalReference(group *string, kind, name string, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if g := group; g != nil {
		errs = append(errs, invalidEach(*g, at.Child("apiGroup"), validation.IsDNS1123Subdomain(*g))...)
	}
	errs = append(errs, named(kind, pathSegment, at.Child("kind"))...)
	return append(errs, named(name, pathSegment, at.Child("name"))...)
}

func validateIngressStatus(i, _ *networkingv1.Ingress) field.ErrorList {
	return each(i.Status.LoadBalancer.Ingress, statusPath.Child("loadBalancer", "ingress"), func(p *networkingv1.IngressLoadBalancerIngress, at *field.Path) field.ErrorList {
		var errs field.ErrorList
		if p.IP != "" {
			errs = append(errs, validation.IsValidIP(at.Child("ip"), p.IP)...)
		}
		return append(errs, optionally(p.Hostname, validation.IsDNS1123Subdomain, at.Child("hostname"))...)
	})
}

func validateIngressClass(c *networkingv1.IngressClass) field.ErrorList {
	var errs field.ErrorList
	at := specPath.Child("controller")
	switch {
	case c.Spec.Controller == "":
		errs = append(errs, field.Required(at, ""))
	default:
		if len(c.Spec.Controller) > 250 {
			errs = append(errs, field.TooLong(at, "", 250))
		}
		errs = append(errs, validation.IsDomainPrefixedPath(at, c.Spec.Controller)...)
	}
	p := c.Spec.Parameters
	if p == nil {
		return errs
	}
	at = specPath.Child("parameters")
	errs = append(errs, validateLocalReference(p.APIGroup, p.Kind, p.Name, at)...)
	scope := deref(p.Scope, "")
	errs = append(errs, requiredOneOf(scope, at.Child("scope"),
		networkingv1.IngressClassParametersReferenceScopeCluster, networkingv1.IngressClassParametersReferenceScopeNamespace)...)
	switch {
	case scope == networkingv1.IngressClassParametersReferenceScopeNamespace && deref(p.Namespace, "") == "":
		errs = append(errs, field.Required(at.Child("namespace"), "`parameters.scope` is set to 'Namespace'"))
	case scope == networkingv1.IngressClassParametersReferenceScopeCluster && p.Namespace != nil:
		errs = append(errs, field.Forbidden(at.Child("namespace"), "`parameters.scope` is set to 'Cluster'"))
	}
	return errs
}

func validateParentRef(p *networkingv1.ParentReference, at *field.Path) field.ErrorList {
	if p == nil {
		return field.ErrorList{field.Required(at, "")}
	}
	errs := optionally(p.Group, validation.IsDNS1123Subdomain, at.Child("group"))
	errs = append(errs, named(p.Resource, pathSegment, at.Child("resource"))...)
	errs = append(errs, named(p.Name, pathSegment, at.Child("name"))...)
	if p.Namespace != "" {
		errs = append(errs, invalidEach(p.Namespace, at.Child("namespace"), pathSegment(p.Namespace, false))...)
	}
	return errs
}

func validateServiceCIDRs(cidrs []string, at *field.Path) field.ErrorList {
	switch len(cidrs) {
	case 0:
		return field.ErrorList{field.Required(at, "at least one CIDR required")}
	case 1, 2:
	default:
		return field.ErrorList{field.Invalid(at, cidrs, "may only hold up to 2 values")}
	}
	var errs field.ErrorList
	for i, c := range cidrs {
		errs = append(errs, validation.IsValidCIDR(at.Index(i), c)...)
	}
	if family := netutils.IPFamilyOfCIDRString(cidrs[0]); len(cidrs) == 2 && family != netutils.IPFamilyUnknown && family == netutils.IPFamilyOfCIDRString(cidrs[1]) {
		errs = append(errs, field.Invalid(at, cidrs, "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64"))
	}
	return errs
}

// validateServiceCIDRsUpdate: a second family may be added, nothing changed.
func validateServiceCIDRsUpdate(now, before []string, at *field.Path) field.ErrorList {
	grows := len(before) == 1 && len(now) == 2
	if len(now) != len(before) && !grows {
		return field.ErrorList{field.Invalid(at, now, apivalidation.FieldImmutableErrorMsg)}
	}
	var errs field.ErrorList
	for i := range before {
		if now[i] != before[i] {
			errs = append(errs, field.Invalid(at.Index(i), now[i], apivalidation.FieldImmutableErrorMsg))
		}
	}
	if grows {
		errs = append(errs, validateServiceCIDRs(now, at)...)
	}
	return errs
}
