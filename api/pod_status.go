package api

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	netutils "k8s.io/utils/net"
)

// preparePodStatus: the status endpoint writes no owners, and an agent that does
// not know of the claims of a pod does not take them away.
func preparePodStatus(p, old *corev1.Pod) {
	p.OwnerReferences = old.OwnerReferences
	p.DeletionTimestamp = old.DeletionTimestamp
	now, was := &p.Status, &old.Status
	empty(&now.QOSClass, was.QOSClass)
	if now.ResourceClaimStatuses == nil {
		now.ResourceClaimStatuses = was.ResourceClaimStatuses
	}
	if now.ExtendedResourceClaimStatus == nil {
		now.ExtendedResourceClaimStatus = was.ExtendedResourceClaimStatus
	}
	dropUnservedStatus(now)
}

// dropUnservedStatus: DRANodeAllocatableResources and CSIVolumeHealth.
func dropUnservedStatus(s *corev1.PodStatus) {
	s.NodeAllocatableResourceClaimStatuses = nil
	s.VolumeHealth = nil
}

func validatePodStatus(p, old *corev1.Pod) field.ErrorList {
	s := &p.Status
	errs := slices.Concat(
		each(s.Conditions, statusPath.Child("conditions"), validatePodCondition),
		validateNomination(p, old),
		immutable(s.QOSClass, old.Status.QOSClass, statusPath.Child("qosClass")),
		validateClaimStatuses(p),
		validatePodIPs(s),
		validateHostIPs(s),
		validateExtendedClaim(p),
		validateContainerStatuses(s.ContainerStatuses, statusPath.Child("containerStatuses")),
		validateContainerStatuses(s.InitContainerStatuses, statusPath.Child("initContainerStatuses")),
		each(s.EphemeralContainerStatuses, statusPath.Child("ephemeralContainerStatuses"), func(c *corev1.ContainerStatus, at *field.Path) field.ErrorList {
			if len(c.AllocatedResourcesStatus) == 0 {
				return nil
			}
			return field.ErrorList{field.Forbidden(at.Child("allocatedResourcesStatus"), "must not be specified in container status")}
		}),
	)
	if s.ObservedGeneration < 0 {
		errs = append(errs, field.Invalid(statusPath.Child("observedGeneration"), s.ObservedGeneration, notNegative))
	}
	return append(errs, noResurrection(p, old)...)
}

const notNegative = "must be a non-negative integer"

func validatePodCondition(c *corev1.PodCondition, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if c.ObservedGeneration < 0 {
		errs = append(errs, field.Invalid(at.Child("observedGeneration"), c.ObservedGeneration, notNegative))
	}
	switch c.Type {
	case corev1.PodScheduled, corev1.PodReady, corev1.PodInitialized:
		return errs
	}
	return append(errs, invalidEach(c.Type, at.Child("Type"), validation.IsQualifiedName(string(c.Type)))...)
}

// validateNomination: a pod that is on a node is nominated for no other.
func validateNomination(p, old *corev1.Pod) field.ErrorList {
	n, at := p.Status.NominatedNodeName, statusPath.Child("nominatedNodeName")
	if n == "" || n == old.Status.NominatedNodeName {
		return nil
	}
	errs := invalidEach(n, at, dnsName(n))
	if old.Spec.NodeName != "" {
		errs = append(errs, field.Forbidden(at, "may not be set on pods that are already bound to a node"))
	}
	return errs
}

func validateClaimStatuses(p *corev1.Pod) field.ErrorList {
	seen := sets.New[string]()
	return each(p.Status.ResourceClaimStatuses, statusPath.Child("resourceClaimStatuses"), func(s *corev1.PodResourceClaimStatus, at *field.Path) field.ErrorList {
		var errs field.ErrorList
		if !slices.ContainsFunc(p.Spec.ResourceClaims, func(c corev1.PodResourceClaim) bool { return c.Name == s.Name }) {
			errs = append(errs, field.Invalid(at.Child("name"), s.Name, "must match the name of an entry in `spec.resourceClaims`"))
		}
		errs = append(errs, unique(seen, s.Name, at.Child("name"))...)
		if n := s.ResourceClaimName; n != nil {
			errs = append(errs, invalidEach(n, at.Child("resourceClaimName"), dnsName(*n))...)
		}
		return errs
	})
}

func validatePodIPs(s *corev1.PodStatus) field.ErrorList {
	at := statusPath.Child("podIPs")
	ips := make([]string, len(s.PodIPs))
	for i, ip := range s.PodIPs {
		ips[i] = ip.IP
	}
	return validateAddresses(ips, s.PodIPs, at)
}

func validateHostIPs(s *corev1.PodStatus) field.ErrorList {
	at := statusPath.Child("hostIPs")
	ips := make([]string, len(s.HostIPs))
	for i, ip := range s.HostIPs {
		ips[i] = ip.IP
	}
	var errs field.ErrorList
	if len(ips) > 0 && ips[0] != s.HostIP {
		errs = append(errs, field.Invalid(at.Index(0).Child("ip"), ips[0], "must be equal to `hostIP`"))
	}
	return append(errs, validateAddresses(ips, s.HostIPs, at)...)
}

// validateAddresses judges a pod's or a host's addresses: at most one of each
// family. shown is what an error tells of them.
func validateAddresses(ips []string, shown any, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i, ip := range ips {
		errs = append(errs, validation.IsValidIP(at.Index(i), ip)...)
	}
	if len(ips) < 2 {
		return errs
	}
	dual, err := netutils.IsDualStackIPStrings(ips)
	if err != nil {
		errs = append(errs, field.InternalError(at, err))
	}
	if !dual || len(ips) > 2 {
		errs = append(errs, field.Invalid(at, shown, "may specify no more than one IP for each IP family"))
	}
	return errs
}

// validateExtendedClaim judges what says which request of the claim made for
// extended resources (KEP 5004) serves which container.
func validateExtendedClaim(p *corev1.Pod) field.ErrorList {
	s, at := p.Status.ExtendedResourceClaimStatus, statusPath.Child("extendedResourceClaimStatus")
	if s == nil {
		return nil
	}
	list := at.Child("requestMappings")
	var errs field.ErrorList
	if len(s.RequestMappings) == 0 {
		errs = append(errs, field.Required(list, "at least one request mapping is required"))
	}
	seen := sets.New[corev1.ContainerExtendedResourceRequest]()
	errs = append(errs, each(s.RequestMappings, list, func(m *corev1.ContainerExtendedResourceRequest, path *field.Path) field.ErrorList {
		errs := validateServed(m, &p.Spec, path)
		errs = append(errs, invalidEach(m.RequestName, at.Child("requestName"), validation.IsDNS1123Label(m.RequestName))...) // without an index: so it is published
		if seen.Has(*m) {
			errs = append(errs, field.Duplicate(path.Child("containerName"), m.ContainerName),
				field.Duplicate(path.Child("resourceName"), m.ResourceName), field.Duplicate(path.Child("requestName"), m.RequestName))
		}
		seen.Insert(*m)
		return errs
	})...)
	return append(errs, named(s.ResourceClaimName, subdomain, at.Child("resourceClaimName"))...)
}

func validateServed(m *corev1.ContainerExtendedResourceRequest, s *corev1.PodSpec, at *field.Path) field.ErrorList {
	for c := range containers(s) {
		if c.Name != m.ContainerName {
			continue
		}
		if _, ok := c.Resources.Requests[corev1.ResourceName(m.ResourceName)]; ok {
			return nil
		}
		return field.ErrorList{field.Invalid(at.Child("resourceName"), m.ResourceName,
			"must match the extended resource name of an entry in spec.initContainers.resources.requests or spec.containers.resources.requests")}
	}
	return field.ErrorList{field.Invalid(at.Child("containerName"), m.ContainerName, "must match the name of an entry in spec.initContainers.name or spec.containers.name")}
}

// validateContainerStatuses judges the health of devices (KEP 4680).
func validateContainerStatuses(list []corev1.ContainerStatus, at *field.Path) field.ErrorList {
	return each(list, at, func(c *corev1.ContainerStatus, at *field.Path) field.ErrorList {
		return each(c.AllocatedResourcesStatus, at.Child("allocatedResourcesStatus"), func(s *corev1.ResourceStatus, at *field.Path) field.ErrorList {
			seen := sets.New[corev1.ResourceID]()
			return each(s.Resources, at.Child("resources"), func(r *corev1.ResourceHealth, at *field.Path) field.ErrorList {
				return slices.Concat(
					oneOf(r.Health, at.Child("health"), corev1.ResourceHealthStatusHealthy, corev1.ResourceHealthStatusUnhealthy, corev1.ResourceHealthStatusUnknown),
					unique(seen, r.ResourceID, at.Child("resourceID")))
			})
		})
	})
}

// noResurrection: a container that ended for good stays ended.
func noResurrection(p, old *corev1.Pod) field.ErrorList {
	if p.Spec.RestartPolicy == corev1.RestartPolicyAlways {
		return nil
	}
	var errs field.ErrorList
	for i, was := range old.Status.ContainerStatuses {
		t := was.State.Terminated
		if t == nil || t.ExitCode != 0 && p.Spec.RestartPolicy == corev1.RestartPolicyOnFailure || ownRestart(p, was.Name) {
			continue
		}
		for _, now := range p.Status.ContainerStatuses {
			if now.Name == was.Name && now.State.Terminated == nil {
				errs = append(errs, field.Forbidden(statusPath.Child("containerStatuses").Index(i).Child("state"),
					"may not be transitioned to non-terminated state"))
			}
		}
	}
	return errs
}

// ownRestart tells a container that has a restart policy of its own.
func ownRestart(p *corev1.Pod, name string) bool {
	return slices.ContainsFunc(p.Spec.Containers, func(c corev1.Container) bool { return c.Name == name && c.RestartPolicy != nil })
}
