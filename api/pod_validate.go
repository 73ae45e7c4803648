package api

import (
	"math"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// ValidatePodTemplateSpec judges a template with its defaults filled in. It is
// also what PodTemplate and the workload kinds of other groups are judged by.
func ValidatePodTemplateSpec(t *corev1.PodTemplateSpec, at *field.Path) field.ErrorList {
	errs := validateTemplateMeta(&t.ObjectMeta, at)
	errs = append(errs, ValidatePodSpec(&t.Spec, &t.ObjectMeta, at.Child("spec"))...)
	if len(t.Spec.EphemeralContainers) > 0 {
		errs = append(errs, field.Forbidden(at.Child("spec", "ephemeralContainers"), "ephemeral containers not allowed in pod template"))
	}
	return errs
}

// ValidatePodSpec judges the spec of a pod or a template with its defaults
// filled in.
func ValidatePodSpec(s *corev1.PodSpec, meta *metav1.ObjectMeta, at *field.Path) field.ErrorList {
	c := podCheck{spec: s, meta: meta, volumes: map[string]*corev1.Volume{}, claims: sets.New[string](), names: sets.New[string]()}
	return slices.Concat(
		c.volumeList(at.Child("volumes")),
		c.claimList(at.Child("resourceClaims")),
		c.containerLists(at),
		validatePodResources(s, c.claims, at.Child("resources")),
		validatePodNames(s, at),
		validatePodHost(s, at),
		validatePodPolicies(s, at),
		validatePodPlacement(s, at),
		validatePodSecurity(s, at.Child("securityContext")),
		validateHostProcess(s, at),
		validateDNS(s, at),
	)
}

// podCheck is what the parts of one pod must know of each other.
type podCheck struct {
	spec    *corev1.PodSpec
	meta    *metav1.ObjectMeta
	volumes map[string]*corev1.Volume
	claims  sets.Set[string]
	names   sets.Set[string] // of containers
}

// each judges every item of a list.
func each[T any](list []T, at *field.Path, judge func(item *T, at *field.Path) field.ErrorList) field.ErrorList {
	var errs field.ErrorList
	for i := range list {
		errs = append(errs, judge(&list[i], at.Index(i))...)
	}
	return errs
}

// unique reports an item seen before.
func unique[K comparable](seen sets.Set[K], key K, at *field.Path) field.ErrorList {
	if seen.Has(key) {
		return field.ErrorList{field.Duplicate(at, key)}
	}
	seen.Insert(key)
	return nil
}

// optionally judges a string only where it is set.
func optionally(s string, rule func(string) []string, at *field.Path) field.ErrorList {
	if s == "" {
		return nil
	}
	return invalidEach(s, at, rule(s))
}

// named by a rule that has no prefixes.
func dnsName(s string) []string { return apivalidation.NameIsDNSSubdomain(s, false) }

func validatePodNames(s *corev1.PodSpec, at *field.Path) field.ErrorList {
	errs := slices.Concat(
		optionally(s.ServiceAccountName, dnsName, at.Child("serviceAccountName")),
		optionally(s.NodeName, dnsName, at.Child("nodeName")),
		optionally(s.Hostname, validation.IsDNS1123Label, at.Child("hostname")),
		optionally(s.Subdomain, validation.IsDNS1123Label, at.Child("subdomain")),
		optionally(s.PriorityClassName, dnsName, at.Child("priorityClassName")),
		metavalidation.ValidateLabels(s.NodeSelector, at.Child("nodeSelector")),
		each(s.HostAliases, at.Child("hostAliases"), validateHostAlias),
		each(s.ReadinessGates, at.Child("readinessGates"), func(g *corev1.PodReadinessGate, at *field.Path) field.ErrorList {
			return metavalidation.ValidateLabelName(string(g.ConditionType), at.Child("conditionType"))
		}),
	)
	if s.RuntimeClassName != nil {
		errs = append(errs, invalidEach(*s.RuntimeClassName, at.Child("runtimeClassName"), dnsName(*s.RuntimeClassName))...)
	}
	if s.HostnameOverride != nil {
		errs = append(errs, validateHostnameOverride(s, at)...)
	}
	return errs
}

const maxHostname = 64 // bytes, Linux's limit

func validateHostnameOverride(s *corev1.PodSpec, at *field.Path) field.ErrorList {
	name, p := *s.HostnameOverride, at.Child("hostnameOverride")
	errs := invalidEach(name, p, validation.IsDNS1123Subdomain(name))
	if len(name) > maxHostname {
		errs = append(errs, field.TooLong(p, name, maxHostname))
	}
	if s.HostNetwork {
		errs = append(errs, field.Forbidden(p, "may not be specified when hostNetwork is true"))
	}
	if s.SetHostnameAsFQDN != nil && *s.SetHostnameAsFQDN {
		errs = append(errs, field.Forbidden(p, "may not be specified when setHostnameAsFQDN is true"))
	}
	return errs
}

func validateHostAlias(a *corev1.HostAlias, at *field.Path) field.ErrorList {
	errs := validation.IsValidIP(at.Child("ip"), a.IP)
	for i, name := range a.Hostnames {
		errs = append(errs, invalidEach(name, at.Child("hostnames").Index(i), validation.IsDNS1123Subdomain(name))...)
	}
	return errs
}

// validatePodHost judges what a pod shares with its host.
func validatePodHost(s *corev1.PodSpec, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if s.ShareProcessNamespace != nil && *s.ShareProcessNamespace && s.HostPID {
		errs = append(errs, field.Invalid(at.Child("shareProcessNamespace"), true, "ShareProcessNamespace and HostPID cannot both be enabled"))
	}
	if s.HostUsers != nil && !*s.HostUsers {
		for _, shared := range []struct {
			name string
			set  bool
		}{{"hostNetwork", s.HostNetwork}, {"hostPID", s.HostPID}, {"hostIPC", s.HostIPC}} {
			if shared.set {
				errs = append(errs, field.Forbidden(at.Child(shared.name), "when `hostUsers` is false"))
			}
		}
	}
	if s.OS != nil {
		if s.OS.Name == "" {
			errs = append(errs, field.Required(at.Child("os", "name"), ""))
		} else {
			errs = append(errs, oneOf(s.OS.Name, at.Child("os"), corev1.Linux, corev1.Windows)...)
		}
	}
	return errs
}

// validatePodPolicies judges the pod's enumerations and times.
func validatePodPolicies(s *corev1.PodSpec, at *field.Path) field.ErrorList {
	errs := slices.Concat(
		requiredOneOf(s.RestartPolicy, at.Child("restartPolicy"),
			corev1.RestartPolicyAlways, corev1.RestartPolicyOnFailure, corev1.RestartPolicyNever),
		requiredOneOf(s.DNSPolicy, at.Child("dnsPolicy"),
			corev1.DNSClusterFirstWithHostNet, corev1.DNSClusterFirst, corev1.DNSDefault, corev1.DNSNone),
	)
	if d := s.ActiveDeadlineSeconds; d != nil && (*d < 1 || *d > math.MaxInt32) {
		errs = append(errs, field.Invalid(at.Child("activeDeadlineSeconds"), *d, validation.InclusiveRangeError(1, math.MaxInt32)))
	}
	if p := s.PreemptionPolicy; p != nil {
		errs = append(errs, requiredOneOf(*p, at.Child("preemptionPolicy"), corev1.PreemptLowerPriority, corev1.PreemptNever)...)
	}
	if len(s.Overhead) > 0 {
		errs = append(errs, validateResources(&corev1.ResourceRequirements{Limits: s.Overhead}, podLevel(false), at.Child("overhead"))...)
	}
	gates := sets.New[string]()
	return append(errs, each(s.SchedulingGates, at.Child("schedulingGates"), func(g *corev1.PodSchedulingGate, at *field.Path) field.ErrorList {
		return append(metavalidation.ValidateLabelName(g.Name, at), unique(gates, g.Name, at)...)
	})...)
}

// The resolver's limits: nameservers, search domains, their letters together.
const maxNameservers, maxSearches, maxSearchLetters = 3, 32, 2048

func validateDNS(s *corev1.PodSpec, at *field.Path) field.ErrorList {
	c, p := s.DNSConfig, at.Child("dnsConfig")
	if s.DNSPolicy == corev1.DNSNone && (c == nil || len(c.Nameservers) == 0) {
		if c == nil {
			return field.ErrorList{field.Required(p, "must provide `dnsConfig` when `dnsPolicy` is None")}
		}
		return field.ErrorList{field.Required(p.Child("nameservers"), "must provide at least one DNS nameserver when `dnsPolicy` is None")}
	}
	if c == nil {
		return nil
	}
	var errs field.ErrorList
	if len(c.Nameservers) > maxNameservers {
		errs = append(errs, field.TooMany(p.Child("nameservers"), len(c.Nameservers), maxNameservers))
	}
	for i, ns := range c.Nameservers {
		errs = append(errs, validation.IsValidIP(p.Child("nameservers").Index(i), ns)...)
	}
	errs = append(errs, validateSearches(c.Searches, p.Child("searches"))...)
	for i, o := range c.Options {
		errs = append(errs, required(o.Name, p.Child("options").Index(i))...)
	}
	return errs
}

func validateSearches(searches []string, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if len(searches) > maxSearches {
		errs = append(errs, field.TooMany(at, len(searches), maxSearches))
	}
	letters := max(0, len(searches)-1) // the spaces between
	for i, s := range searches {
		letters += len(s)
		if len(s) > 1 && s[len(s)-1] == '.' {
			s = s[:len(s)-1]
		}
		if s != "." { // a lone dot is the root: look names up as they are
			errs = append(errs, invalidEach(searches[i], at.Index(i), validation.IsDNS1123SubdomainWithUnderscore(s))...)
		}
	}
	if letters > maxSearchLetters {
		errs = append(errs, field.Invalid(at, searches, "must not have more than 2048 characters (including spaces) in the search list"))
	}
	return errs
}

func (c *podCheck) claimList(at *field.Path) field.ErrorList {
	return each(c.spec.ResourceClaims, at, func(r *corev1.PodResourceClaim, at *field.Path) field.ErrorList {
		errs := named(r.Name, dnsLabel, at.Child("name"))
		errs = append(errs, unique(c.claims, r.Name, at.Child("name"))...)
		switch {
		case r.ResourceClaimName != nil && r.ResourceClaimTemplateName != nil:
			return append(errs, field.Invalid(at, *r, "at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified"))
		case r.ResourceClaimName != nil && r.ResourceClaimTemplateName == nil:
			return append(errs, invalidEach(*r.ResourceClaimName, at.Child("resourceClaimName"), dnsName(*r.ResourceClaimName))...)
		case r.ResourceClaimTemplateName != nil:
			return append(errs, invalidEach(*r.ResourceClaimTemplateName, at.Child("resourceClaimTemplateName"), dnsName(*r.ResourceClaimTemplateName))...)
		}
		return append(errs, field.Invalid(at, *r, "must specify one of: `resourceClaimName`, `resourceClaimTemplateName`"))
	})
}
