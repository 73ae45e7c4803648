package api

import (
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func networkingRows() []*Resource {
	return []*Resource{ingressRow(), ingressClassRow(), ipAddressRow(), networkPolicyRow(), serviceCIDRRow()}
}

func networkPolicyRow() *Resource {
	return kind[*networkingv1.NetworkPolicy]{
		GroupVersion: networkingv1.SchemeGroupVersion, Plural: "networkpolicies", Short: []string{"netpol"}, Namespaced: true,
		List:       &networkingv1.NetworkPolicyList{},
		Warnings:   warnNetworkPolicy,
		Generation: true,
		Default:    defaultNetworkPolicy,
		Validate:   validateNetworkPolicy,
		Columns: columns(nameColumn,
			column("Pod-Selector", "string", networkingv1.NetworkPolicySpec{}.SwaggerDoc()["podSelector"]),
			ageColumn),
		Cells: func(p *networkingv1.NetworkPolicy, now time.Time) []any {
			return []any{p.Name, selectorCell(&p.Spec.PodSelector), age(p, now)}
		},
	}.row()
}

func defaultNetworkPolicy(p *networkingv1.NetworkPolicy) {
	if len(p.Spec.PolicyTypes) == 0 {
		p.Spec.PolicyTypes = []networkingv1.PolicyType{networkingv1.PolicyTypeIngress}
		if len(p.Spec.Egress) > 0 {
			p.Spec.PolicyTypes = append(p.Spec.PolicyTypes, networkingv1.PolicyTypeEgress)
		}
	}
	for i := range p.Spec.Ingress {
		defaultPolicyPorts(p.Spec.Ingress[i].Ports)
	}
	for i := range p.Spec.Egress {
		defaultPolicyPorts(p.Spec.Egress[i].Ports)
	}
}

func defaultPolicyPorts(ports []networkingv1.NetworkPolicyPort) {
	for i := range ports {
		unset(&ports[i].Protocol, corev1.ProtocolTCP)
	}
}

func ingressRow() *Resource {
	doc := networkingv1.Ingress{}.SwaggerDoc()
	spec := networkingv1.IngressSpec{}.SwaggerDoc()
	return kind[*networkingv1.Ingress]{
		GroupVersion: networkingv1.SchemeGroupVersion, Plural: "ingresses", Short: []string{"ing"}, Namespaced: true,
		List:     &networkingv1.IngressList{},
		Warnings: warnIngress,
		Status:   true, Generation: true,
		Validate:       validateIngress,
		ValidateStatus: validateIngressStatus,
		Columns: columns(nameColumn,
			column("Class", "string", "The name of the IngressClass resource that should be used for additional configuration"),
			column("Hosts", "string", "Hosts that incoming requests are matched against before the ingress rule"),
			column("Address", "string", "Address is a list containing ingress points for the load-balancer"),
			column("Ports", "string", orElse(spec["tls"], doc["spec"])),
			ageColumn),
		Cells: func(i *networkingv1.Ingress, now time.Time) []any {
			ports := "80"
			if len(i.Spec.TLS) > 0 {
				ports = "80, 443"
			}
			return []any{i.Name, deref(i.Spec.IngressClassName, none), ingressHostsCell(i.Spec.Rules), ingressAddressCell(&i.Status), ports, age(i, now)}
		},
	}.row()
}

func orElse(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}

func ingressHostsCell(rules []networkingv1.IngressRule) string {
	const few = 3
	var hosts []string
	for _, r := range rules {
		if r.Host != "" {
			hosts = append(hosts, r.Host)
		}
	}
	switch {
	case len(hosts) == 0:
		return "*"
	case len(hosts) > few:
		return fmt.Sprintf("%s + %d more...", strings.Join(hosts[:few], ","), len(hosts)-few)
	}
	return strings.Join(hosts, ",")
}

func ingressAddressCell(s *networkingv1.IngressStatus) string {
	var list []string
	for _, i := range s.LoadBalancer.Ingress {
		if a := orElse(i.IP, i.Hostname); a != "" && !slices.Contains(list, a) {
			list = append(list, a)
		}
	}
	slices.Sort(list)
	return strings.Join(list, ",")
}

func ingressClassRow() *Resource {
	return kind[*networkingv1.IngressClass]{
		GroupVersion: networkingv1.SchemeGroupVersion, Plural: "ingressclasses",
		List:       &networkingv1.IngressClassList{},
		Generation: true,
		Default: func(c *networkingv1.IngressClass) {
			if c.Spec.Parameters != nil {
				unset(&c.Spec.Parameters.Scope, networkingv1.IngressClassParametersReferenceScopeCluster)
			}
		},
		Validate: validateIngressClass,
		ValidateUpdate: func(c, old *networkingv1.IngressClass) field.ErrorList {
			return immutable(c.Spec.Controller, old.Spec.Controller, specPath.Child("controller"))
		},
		Columns: columns(nameColumn,
			column("Controller", "string", "Controller that is responsible for handling this class"),
			column("Parameters", "string", "A reference to a resource with additional parameters"),
			ageColumn),
		Cells: func(c *networkingv1.IngressClass, now time.Time) []any {
			parameters := none
			if p := c.Spec.Parameters; p != nil {
				parameters = p.Kind
				if p.APIGroup != nil {
					parameters += "." + *p.APIGroup
				}
				parameters += "/" + p.Name
			}
			return []any{c.Name, c.Spec.Controller, parameters, age(c, now)}
		},
	}.row()
}

func ipAddressRow() *Resource {
	return kind[*networkingv1.IPAddress]{
		GroupVersion: networkingv1.SchemeGroupVersion, Plural: "ipaddresses", Short: []string{"ip"},
		List: &networkingv1.IPAddressList{},
		Name: ipAddressName,
		Validate: func(a *networkingv1.IPAddress) field.ErrorList {
			return validateParentRef(a.Spec.ParentRef, specPath.Child("parentRef"))
		},
		ValidateUpdate: func(a, old *networkingv1.IPAddress) field.ErrorList {
			return immutable(a.Spec.ParentRef, old.Spec.ParentRef, specPath.Child("parentRef"))
		},
		Columns: columns(nameColumn,
			column("ParentRef", "string", networkingv1.IPAddressSpec{}.SwaggerDoc()["parentRef"])),
		Cells: func(a *networkingv1.IPAddress, _ time.Time) []any {
			parent := none
			if p := a.Spec.ParentRef; p != nil {
				gr := metav1.GroupResource{Group: p.Group, Resource: p.Resource}
				parent = strings.ToLower(gr.String()) + "/" + strings.TrimPrefix(p.Namespace+"/"+p.Name, "/")
			}
			return []any{a.Name, parent}
		},
	}.row()
}

// ipAddressName: an IPAddress is named after the address, in its one canonical
// form, so that no address can be claimed twice.
func ipAddressName(name string, _ bool) []string {
	var out []string
	for _, err := range validation.IsValidIP(nil, name) {
		out = append(out, err.Detail)
	}
	return out
}

func serviceCIDRRow() *Resource {
	return kind[*networkingv1.ServiceCIDR]{
		GroupVersion: networkingv1.SchemeGroupVersion, Plural: "servicecidrs",
		List:   &networkingv1.ServiceCIDRList{},
		Status: true,
		ValidateNew: func(s *networkingv1.ServiceCIDR) field.ErrorList {
			return validateServiceCIDRs(s.Spec.CIDRs, specPath.Child("cidrs"))
		},
		PrepareStatus: func(s, old *networkingv1.ServiceCIDR) { metav1.ResetObjectMetaForStatus(s, old) },
		ValidateUpdate: func(s, old *networkingv1.ServiceCIDR) field.ErrorList {
			return validateServiceCIDRsUpdate(s.Spec.CIDRs, old.Spec.CIDRs, specPath.Child("cidrs"))
		},
		Columns: columns(nameColumn,
			column("CIDRs", "string", networkingv1.ServiceCIDRSpec{}.SwaggerDoc()["cidrs"]),
			ageColumn),
		Cells: func(s *networkingv1.ServiceCIDR, now time.Time) []any {
			return []any{s.Name, strings.Join(s.Spec.CIDRs, ","), age(s, now)}
		},
	}.row()
}
