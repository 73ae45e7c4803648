package api

import (
	"fmt"
	"iter"
	"regexp"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func validatePodSecurity(s *corev1.PodSpec, at *field.Path) field.ErrorList {
	c := s.SecurityContext
	if c == nil {
		return nil
	}
	errs := slices.Concat(
		validateUser(c.RunAsUser, at.Child("runAsUser")),
		validateGroup(c.RunAsGroup, at.Child("runAsGroup")),
		validateGroup(c.FSGroup, at.Child("fsGroup")),
		validateSeccomp(c.SeccompProfile, at.Child("seccompProfile")),
		validateAppArmor(c.AppArmorProfile, at.Child("appArmorProfile")),
		validateSysctls(s, at.Child("sysctls")),
	)
	for i := range c.SupplementalGroups {
		errs = append(errs, validateGroup(&c.SupplementalGroups[i], at.Child("supplementalGroups").Index(i))...)
	}
	if p := c.FSGroupChangePolicy; p != nil {
		errs = append(errs, oneOf(*p, at.Child("fsGroupChangePolicy"), corev1.FSGroupChangeAlways, corev1.FSGroupChangeOnRootMismatch)...)
	}
	if p := c.SupplementalGroupsPolicy; p != nil {
		errs = append(errs, oneOf(*p, at.Child("supplementalGroupsPolicy"), corev1.SupplementalGroupsPolicyMerge, corev1.SupplementalGroupsPolicyStrict)...)
	}
	if p := c.SELinuxChangePolicy; p != nil {
		errs = append(errs, oneOf(*p, at.Child("seLinuxChangePolicy"), corev1.SELinuxChangePolicyMountOption, corev1.SELinuxChangePolicyRecursive)...)
	}
	if c.WindowsOptions != nil {
		errs = append(errs, validateWindows(c.WindowsOptions, s, at.Child("windowsOptions"))...)
	}
	return errs
}

func validateContainerSecurity(c *corev1.SecurityContext, s *corev1.PodSpec, at *field.Path) field.ErrorList {
	if c == nil {
		return nil
	}
	errs := slices.Concat(
		validateUser(c.RunAsUser, at.Child("runAsUser")),
		validateGroup(c.RunAsGroup, at.Child("runAsGroup")),
		validateSeccomp(c.SeccompProfile, at.Child("seccompProfile")),
		validateAppArmor(c.AppArmorProfile, at.Child("appArmorProfile")),
		validateEscalation(c, at),
	)
	if c.ProcMount != nil {
		errs = append(errs, oneOf(*c.ProcMount, at.Child("procMount"), corev1.DefaultProcMount, corev1.UnmaskedProcMount)...)
		if *c.ProcMount == corev1.UnmaskedProcMount && (s.HostUsers == nil || *s.HostUsers) {
			errs = append(errs, field.Invalid(at.Child("procMount"), *c.ProcMount, "`hostUsers` must be false to use `Unmasked`"))
		}
	}
	if c.WindowsOptions != nil {
		errs = append(errs, validateWindows(c.WindowsOptions, s, at.Child("windowsOptions"))...)
	}
	return errs
}

func validateUser(id *int64, at *field.Path) field.ErrorList {
	if id == nil {
		return nil
	}
	return invalidEach(*id, at, validation.IsValidUserID(*id))
}

func validateGroup(id *int64, at *field.Path) field.ErrorList {
	if id == nil {
		return nil
	}
	return invalidEach(*id, at, validation.IsValidGroupID(*id))
}

// validateEscalation: no_new_privs contradicts what gives privileges anyway.
func validateEscalation(c *corev1.SecurityContext, at *field.Path) field.ErrorList {
	if c.AllowPrivilegeEscalation == nil || *c.AllowPrivilegeEscalation {
		return nil
	}
	var errs field.ErrorList
	if c.Privileged != nil && *c.Privileged {
		errs = append(errs, field.Invalid(at, c, "cannot set `allowPrivilegeEscalation` to false and `privileged` to true"))
	}
	if c.Capabilities != nil && slices.Contains(c.Capabilities.Add, "CAP_SYS_ADMIN") {
		errs = append(errs, field.Invalid(at, c, "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN"))
	}
	return errs
}

func validateSeccomp(p *corev1.SeccompProfile, at *field.Path) field.ErrorList {
	if p == nil {
		return nil
	}
	errs := requiredOneOf(p.Type, at.Child("type"),
		corev1.SeccompProfileTypeLocalhost, corev1.SeccompProfileTypeRuntimeDefault, corev1.SeccompProfileTypeUnconfined)
	local := at.Child("localhostProfile")
	switch {
	case p.Type == corev1.SeccompProfileTypeLocalhost && p.LocalhostProfile == nil:
		errs = append(errs, field.Required(local, "must be set when seccomp type is Localhost"))
	case p.Type == corev1.SeccompProfileTypeLocalhost:
		errs = append(errs, inside(*p.LocalhostProfile, local)...)
	case p.LocalhostProfile != nil:
		errs = append(errs, field.Invalid(local, *p, "can only be set when seccomp type is Localhost"))
	}
	return errs
}

const maxAppArmorName = 4095 // bytes, PATH_MAX less its terminator

func validateAppArmor(p *corev1.AppArmorProfile, at *field.Path) field.ErrorList {
	if p == nil {
		return nil
	}
	errs := requiredOneOf(p.Type, at.Child("type"),
		corev1.AppArmorProfileTypeLocalhost, corev1.AppArmorProfileTypeRuntimeDefault, corev1.AppArmorProfileTypeUnconfined)
	local := at.Child("localhostProfile")
	if p.Type != corev1.AppArmorProfileTypeLocalhost {
		if p.LocalhostProfile != nil && len(errs) == 0 {
			errs = append(errs, field.Invalid(local, *p.LocalhostProfile, "can only be set when type is Localhost"))
		}
		return errs
	}
	switch name := p.LocalhostProfile; {
	case name == nil || strings.TrimSpace(*name) == "":
		errs = append(errs, field.Required(local, "must be set when type is Localhost"))
	case strings.TrimSpace(*name) != *name:
		errs = append(errs, field.Invalid(local, *name, "must not be padded with whitespace"))
	case len(*name) > maxAppArmorName:
		errs = append(errs, field.TooLongMaxLength(local, *name, maxAppArmorName))
	}
	return errs
}

// sysctlName: words between dots or slashes, as in "net.ipv4.conf.eth0/1.forwarding".
var sysctlName = regexp.MustCompile(`^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$`)

const maxSysctlName = 253

func validateSysctls(s *corev1.PodSpec, at *field.Path) field.ErrorList {
	seen := sets.New[string]()
	return each(s.SecurityContext.Sysctls, at, func(c *corev1.Sysctl, at *field.Path) field.ErrorList {
		at = at.Child("name")
		switch {
		case c.Name == "":
			return field.ErrorList{field.Required(at, "")}
		case len(c.Name) > maxSysctlName || !sysctlName.MatchString(c.Name):
			return field.ErrorList{field.Invalid(at, c.Name, "must have at most 253 characters and match regex "+sysctlName.String())}
		case s.HostNetwork && strings.HasPrefix(c.Name, "net."):
			return field.ErrorList{field.Invalid(at, c.Name, "may not be specified when 'hostNetwork' is true")}
		case s.HostIPC && (strings.HasPrefix(c.Name, "kernel.shm") || strings.HasPrefix(c.Name, "kernel.msg") || c.Name == "kernel.sem" || strings.HasPrefix(c.Name, "fs.mqueue.")):
			return field.ErrorList{field.Invalid(at, c.Name, "may not be specified when 'hostIPC' is true")}
		}
		return unique(seen, c.Name, at)
	})
}

const maxCredentialSpec, maxWindowsDomain, maxWindowsUser = 64 << 10, 255, 104

var (
	controlCharacters = regexp.MustCompile(`[[:cntrl:]]+`)
	netBIOSName       = regexp.MustCompile(`^[^\\/:\*\?"<>|\.][^\\/:\*\?"<>|]{0,14}$`)
	windowsDomain     = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9\-]{0,61}[a-zA-Z0-9](\.[a-zA-Z0-9][a-zA-Z0-9\-]{0,61}[a-zA-Z0-9])*$`)
	dotsAndSpaces     = regexp.MustCompile(`^[\. ]+$`)
)

// validateWindowsUser judges "user" or "domain\user".
func validateWindowsUser(name string, at *field.Path) field.ErrorList {
	domain, user, hasDomain := strings.Cut(name, `\`)
	if !hasDomain {
		domain, user = "", name
	}
	var errs field.ErrorList
	refuse := func(bad bool, message string) {
		if bad {
			errs = append(errs, field.Invalid(at, name, message))
		}
	}
	switch {
	case name == "":
		refuse(true, "runAsUserName cannot be an empty string")
		return errs
	case controlCharacters.MatchString(name):
		refuse(true, "runAsUserName cannot contain control characters")
		return errs
	case strings.Contains(user, `\`):
		refuse(true, "runAsUserName cannot contain more than one backslash")
		return errs
	}
	refuse(len(domain) > maxWindowsDomain, "runAsUserName's Domain length must be under 256 characters")
	refuse(hasDomain && !netBIOSName.MatchString(domain) && !windowsDomain.MatchString(domain), "runAsUserName's Domain doesn't match the NetBios nor the DNS format")
	refuse(user == "", "runAsUserName's User cannot be empty")
	refuse(len(user) > maxWindowsUser, "runAsUserName's User length must not be longer than 104 characters")
	refuse(dotsAndSpaces.MatchString(user), "runAsUserName's User cannot contain only periods or spaces")
	refuse(strings.ContainsAny(user, `"/\:;|=,+*?<>@[]`), "runAsUserName's User cannot contain the following characters: "+`"/\:;|=,+*?<>@[]`)
	return errs
}

func validateWindows(w *corev1.WindowsSecurityContextOptions, s *corev1.PodSpec, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if s.OS != nil && s.OS.Name == corev1.Linux {
		errs = append(errs, field.Forbidden(at, "windows options cannot be set for a linux pod"))
	}
	if n := w.GMSACredentialSpecName; n != nil {
		errs = append(errs, invalidEach(*n, at.Child("gmsaCredentialSpecName"), validation.IsDNS1123Subdomain(*n))...)
	}
	if c := w.GMSACredentialSpec; c != nil && (*c == "" || len(*c) > maxCredentialSpec) {
		errs = append(errs, field.Invalid(at.Child("gmsaCredentialSpec"), *c, "gmsaCredentialSpec must be between 1 byte and 64 KiB"))
	}
	if u := w.RunAsUserName; u != nil {
		errs = append(errs, validateWindowsUser(*u, at.Child("runAsUserName"))...)
	}
	return errs
}

// validateHostProcess: of a Windows pod all containers are the host's processes,
// on the host's network, or none is.
func validateHostProcess(s *corev1.PodSpec, at *field.Path) field.ErrorList {
	var whole *bool
	if c := s.SecurityContext; c != nil && c.WindowsOptions != nil {
		whole = c.WindowsOptions.HostProcess
	}
	var errs field.ErrorList
	count, ofHost := 0, 0
	for list, k := range allContainers(s) {
		count++
		own := whole
		if c := k.SecurityContext; c != nil && c.WindowsOptions != nil && c.WindowsOptions.HostProcess != nil {
			own = c.WindowsOptions.HostProcess
			if whole != nil && *whole != *own {
				errs = append(errs, field.Invalid(list.below(at).Child("securityContext", "windowsOptions", "hostProcess"), *own,
					fmt.Sprintf("pod hostProcess value must be identical if both are specified, was %v", *whole)))
			}
		}
		if own != nil && *own {
			ofHost++
		}
	}
	if ofHost > 0 && ofHost != count {
		errs = append(errs, field.Invalid(at, "", "If pod contains any hostProcess containers then all containers must be HostProcess containers"))
	}
	if ofHost > 0 && !s.HostNetwork {
		errs = append(errs, field.Invalid(at.Child("hostNetwork"), s.HostNetwork, "hostNetwork must be true if pod contains any hostProcess containers"))
	}
	return errs
}

// inList is a container's place in a pod.
type inList struct {
	list  string
	index int
}

func (l inList) below(at *field.Path) *field.Path { return at.Child(l.list).Index(l.index) }

// allContainers yields the containers of all three lists.
func allContainers(s *corev1.PodSpec) iter.Seq2[inList, *corev1.Container] {
	return func(yield func(inList, *corev1.Container) bool) {
		for i := range s.InitContainers {
			if !yield(inList{"initContainers", i}, &s.InitContainers[i]) {
				return
			}
		}
		for i := range s.Containers {
			if !yield(inList{"containers", i}, &s.Containers[i]) {
				return
			}
		}
		for i := range s.EphemeralContainers {
			if !yield(inList{"ephemeralContainers", i}, (*corev1.Container)(&s.EphemeralContainers[i].EphemeralContainerCommon)) {
				return
			}
		}
	}
}
