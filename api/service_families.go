package api

import (
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"
)

// SettleFamilies decides ipFamilyPolicy and ipFamilies of a Service for a cluster
// that has the given families, its primary first (KEP 563). What the cluster
// cannot give is an error. old is nil for a new Service.
func SettleFamilies(s, old *corev1.Service, cluster []corev1.IPFamily) field.ErrorList {
	p := &s.Spec
	if p.Type == corev1.ServiceTypeExternalName || staysPreferred(s, old) {
		return nil
	}
	if p.IPFamilyPolicy == nil {
		p.IPFamilyPolicy = ptr.To(policyFor(s, old))
	}
	errs := append(validateStacks(s, old), inferFamilies(p, cluster)...)
	if len(errs) > 0 {
		return errs
	}
	if isHeadless(s) && len(p.Selector) == 0 {
		// Nobody knows what addresses its endpoints will have.
		cluster = []corev1.IPFamily{cluster[0], otherFamily(cluster[0])}
	} else if errs := validateConfigured(p, cluster); len(errs) > 0 {
		return errs
	}
	if len(p.IPFamilies) == 0 {
		p.IPFamilies = []corev1.IPFamily{cluster[0]}
	}
	if *p.IPFamilyPolicy != corev1.IPFamilyPolicySingleStack && len(p.IPFamilies) == 1 && len(cluster) == 2 {
		p.IPFamilies = append(p.IPFamilies, otherFamily(p.IPFamilies[0]))
	}
	return nil
}

// staysPreferred tells an update of a PreferDualStack Service that leaves its
// addresses alone: it is not moved when the cluster's families changed.
func staysPreferred(s, old *corev1.Service) bool {
	prefer := corev1.IPFamilyPolicyPreferDualStack
	return old != nil && s.Spec.Type == old.Spec.Type && deref(s.Spec.IPFamilyPolicy, "") == prefer && deref(old.Spec.IPFamilyPolicy, prefer) == prefer &&
		slices.Equal(s.Spec.ClusterIPs, old.Spec.ClusterIPs) && slices.Equal(s.Spec.IPFamilies, old.Spec.IPFamilies)
}

// policyFor is the policy of a Service that names none.
func policyFor(s, old *corev1.Service) corev1.IPFamilyPolicy {
	switch {
	case old != nil && old.Spec.IPFamilyPolicy != nil:
		return *old.Spec.IPFamilyPolicy
	case s.Spec.ClusterIP == corev1.ClusterIPNone && len(s.Spec.Selector) == 0:
		return corev1.IPFamilyPolicyRequireDualStack
	}
	return corev1.IPFamilyPolicySingleStack
}

// validateStacks judges the policy beside the number of addresses and families
// that are asked for, and that were there before.
func validateStacks(s, old *corev1.Service) field.ErrorList {
	p := &s.Spec
	var errs field.ErrorList
	refuse := func(bad bool, message string) {
		if bad {
			errs = append(errs, field.Invalid(specPath.Child("ipFamilyPolicy"), p.IPFamilyPolicy, message))
		}
	}
	if *p.IPFamilyPolicy == corev1.IPFamilyPolicySingleStack {
		refuse(len(p.ClusterIPs) == 2, "must be 'RequireDualStack' or 'PreferDualStack' when multiple cluster IPs are specified")
		refuse(len(p.IPFamilies) == 2, "must be 'RequireDualStack' or 'PreferDualStack' when multiple IP families are specified")
	} else if old != nil {
		refuse(isFewer(len(p.ClusterIPs), len(old.Spec.ClusterIPs)), "must be 'SingleStack' to release the secondary cluster IP")
		refuse(isFewer(len(p.IPFamilies), len(old.Spec.IPFamilies)), "must be 'SingleStack' to release the secondary IP family")
	}
	return errs
}

// isFewer tells a list that got shorter, and is not just left out.
func isFewer(now, before int) bool { return now > 0 && now < before }

// inferFamilies adds the families of addresses that come without.
func inferFamilies(p *corev1.ServiceSpec, cluster []corev1.IPFamily) field.ErrorList {
	var errs field.ErrorList
	for i, ip := range p.ClusterIPs {
		a, err := netip.ParseAddr(ip)
		if err != nil || i < len(p.IPFamilies) { // None, or one that was named
			continue
		}
		if f := familyOf(a); slices.Contains(cluster, f) {
			p.IPFamilies = append(p.IPFamilies, f)
		} else {
			errs = append(errs, field.Invalid(specPath.Child("clusterIPs").Index(i), p.ClusterIPs, string(f)+" is not configured on this cluster"))
		}
	}
	return errs
}

func validateConfigured(p *corev1.ServiceSpec, cluster []corev1.IPFamily) field.ErrorList {
	var errs field.ErrorList
	if *p.IPFamilyPolicy == corev1.IPFamilyPolicyRequireDualStack && len(cluster) < 2 {
		errs = append(errs, field.Invalid(specPath.Child("ipFamilyPolicy"), p.IPFamilyPolicy, "this cluster is not configured for dual-stack services"))
	}
	for i, f := range p.IPFamilies {
		if !slices.Contains(cluster, f) {
			errs = append(errs, field.Invalid(specPath.Child("ipFamilies").Index(i), f, "not configured on this cluster"))
		}
	}
	return errs
}

func familyOf(a netip.Addr) corev1.IPFamily {
	if a.Is4() {
		return corev1.IPv4Protocol
	}
	return corev1.IPv6Protocol
}

func otherFamily(f corev1.IPFamily) corev1.IPFamily {
	if f == corev1.IPv4Protocol {
		return corev1.IPv6Protocol
	}
	return corev1.IPv4Protocol
}
