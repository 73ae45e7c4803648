package api

import (
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func (c *podCheck) containerLists(at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if len(c.spec.Containers) == 0 {
		errs = append(errs, field.Required(at.Child("containers"), ""))
	}
	errs = append(errs, each(c.spec.Containers, at.Child("containers"), c.mainContainer)...)
	errs = append(errs, each(c.spec.InitContainers, at.Child("initContainers"), c.initContainer)...)
	errs = append(errs, each(c.spec.EphemeralContainers, at.Child("ephemeralContainers"), c.ephemeralContainer)...)
	return append(errs, validateHostPorts(c.spec, at)...)
}

// mainContainer, initContainer and ephemeralContainer add to container what
// holds for their lists.
func (c *podCheck) mainContainer(k *corev1.Container, at *field.Path) field.ErrorList {
	return slices.Concat(c.container(k, at), validateRestart(k, at), validateProbes(k, at), validateLifecycle(k.Lifecycle, c.spec, at.Child("lifecycle")))
}

func (c *podCheck) initContainer(k *corev1.Container, at *field.Path) field.ErrorList {
	errs := c.container(k, at)
	if k.RestartPolicy != nil {
		errs = append(errs, validateRestart(k, at)...)
	} else if len(k.RestartPolicyRules) > 0 {
		errs = append(errs, field.Required(at.Child("restartPolicy"), "must specify restartPolicy when restart rules are used"))
	}
	if isSidecar(k) {
		return slices.Concat(errs, validateProbes(k, at), validateLifecycle(k.Lifecycle, c.spec, at.Child("lifecycle")))
	}
	for j, p := range k.ResizePolicy {
		if p.RestartPolicy == corev1.RestartContainer {
			errs = append(errs, field.Invalid(at.Child("resizePolicy").Index(j).Child("restartPolicy"), p.RestartPolicy, "must not be set to 'RestartContainer' for non-sidecar initContainers"))
		}
	}
	for _, f := range []struct {
		name string
		set  bool
	}{
		{"lifecycle", k.Lifecycle != nil},
		{"livenessProbe", k.LivenessProbe != nil},
		{"readinessProbe", k.ReadinessProbe != nil},
		{"startupProbe", k.StartupProbe != nil},
	} {
		if f.set {
			errs = append(errs, field.Forbidden(at.Child(f.name), "may not be set for init containers without restartPolicy=Always"))
		}
	}
	return errs
}

func (c *podCheck) ephemeralContainer(e *corev1.EphemeralContainer, at *field.Path) field.ErrorList {
	k := corev1.Container(e.EphemeralContainerCommon)
	errs := c.container(&k, at)
	if t := e.TargetContainerName; t != "" {
		at := at.Child("targetContainerName")
		named := func(k corev1.Container) bool { return k.Name == t }
		if !slices.ContainsFunc(c.spec.Containers, named) && !slices.ContainsFunc(c.spec.InitContainers, named) {
			errs = append(errs, field.NotFound(at, t))
		}
	}
	for _, f := range []struct {
		name string
		set  bool
	}{
		{"ports", k.Ports != nil}, {"livenessProbe", k.LivenessProbe != nil}, {"readinessProbe", k.ReadinessProbe != nil},
		{"startupProbe", k.StartupProbe != nil}, {"lifecycle", k.Lifecycle != nil}, {"resizePolicy", k.ResizePolicy != nil},
		{"resources", k.Resources.Limits != nil || k.Resources.Requests != nil || k.Resources.Claims != nil},
		{"restartPolicy", k.RestartPolicy != nil}, {"restartPolicyRules", k.RestartPolicyRules != nil},
	} {
		if f.set {
			errs = append(errs, field.Forbidden(at.Child(f.name), "cannot be set for an Ephemeral Container"))
		}
	}
	for i, m := range k.VolumeMounts {
		at := at.Child("volumeMounts").Index(i)
		if m.SubPath != "" {
			errs = append(errs, field.Forbidden(at.Child("subPath"), "cannot be set for an Ephemeral Container"))
		}
		if m.SubPathExpr != "" {
			errs = append(errs, field.Forbidden(at.Child("subPathExpr"), "cannot be set for an Ephemeral Container"))
		}
	}
	return errs
}

// container judges what holds in all three lists.
func (c *podCheck) container(k *corev1.Container, at *field.Path) field.ErrorList {
	errs := named(k.Name, dnsLabel, at.Child("name"))
	if k.Name != "" {
		errs = append(errs, unique(c.names, k.Name, at.Child("name"))...)
	}
	errs = append(errs, required(k.Image, at.Child("image"))...)
	if strings.TrimSpace(k.Image) != k.Image {
		errs = append(errs, field.Invalid(at.Child("image"), k.Image, "must not have leading or trailing whitespace"))
	}
	return slices.Concat(errs,
		requiredOneOf(k.TerminationMessagePolicy, at.Child("terminationMessagePolicy"),
			corev1.TerminationMessageReadFile, corev1.TerminationMessageFallbackToLogsOnError),
		requiredOneOf(k.ImagePullPolicy, at.Child("imagePullPolicy"), corev1.PullAlways, corev1.PullIfNotPresent, corev1.PullNever),
		validatePorts(k.Ports, at.Child("ports")),
		c.env(k.Env, at.Child("env")),
		validateEnvFrom(k.EnvFrom, at.Child("envFrom")),
		c.mounts(k, at.Child("volumeMounts")),
		c.devices(k, at.Child("volumeDevices")),
		validateResources(&k.Resources, inContainer(c.claims), at.Child("resources")),
		validateResizePolicy(k.ResizePolicy, c.spec.RestartPolicy, at.Child("resizePolicy")),
		validateContainerSecurity(k.SecurityContext, c.spec, at.Child("securityContext")),
	)
}

func validatePorts(ports []corev1.ContainerPort, at *field.Path) field.ErrorList {
	names := sets.New[string]()
	return each(ports, at, func(p *corev1.ContainerPort, at *field.Path) field.ErrorList {
		errs := optionally(p.Name, validation.IsValidPortName, at.Child("name"))
		if p.Name != "" && len(errs) == 0 {
			errs = unique(names, p.Name, at.Child("name"))
		}
		if p.ContainerPort == 0 {
			errs = append(errs, field.Required(at.Child("containerPort"), ""))
		} else {
			errs = append(errs, validatePort(p.ContainerPort, at.Child("containerPort"))...)
		}
		if p.HostPort != 0 {
			errs = append(errs, validatePort(p.HostPort, at.Child("hostPort"))...)
		}
		return append(errs, validateProtocol(p.Protocol, at.Child("protocol"))...)
	})
}

func validatePort(port int32, at *field.Path) field.ErrorList {
	return invalidEach(port, at, validation.IsValidPortNum(int(port)))
}

func validateProtocol(p corev1.Protocol, at *field.Path) field.ErrorList {
	return requiredOneOf(p, at, corev1.ProtocolSCTP, corev1.ProtocolTCP, corev1.ProtocolUDP)
}

// validateHostPorts: two containers of a pod cannot take the same port of the
// host, and on the host's network a port is the host's.
func validateHostPorts(s *corev1.PodSpec, at *field.Path) field.ErrorList {
	type hostPort struct {
		ip       string
		port     int32
		protocol corev1.Protocol
	}
	seen := map[hostPort]bool{}
	var errs field.ErrorList
	judge := func(list []corev1.Container, at *field.Path) {
		for i, c := range list {
			for j, p := range c.Ports {
				at := at.Index(i).Child("ports").Index(j)
				k := hostPort{p.HostIP, p.HostPort, p.Protocol}
				if p.HostPort != 0 && seen[k] {
					errs = append(errs, field.Duplicate(at.Child("hostPort"), string(p.Protocol)+"/"+p.HostIP+"/"+itoa(p.HostPort)))
				}
				seen[k] = true
			}
		}
	}
	judge(s.Containers, at.Child("containers"))
	if s.HostNetwork {
		errs = append(errs, validateOwnPorts(s.Containers, at.Child("containers"))...)
	}
	judge(slices.DeleteFunc(slices.Clone(s.InitContainers), func(c corev1.Container) bool { return !isSidecar(&c) }), at.Child("initContainers"))
	return errs
}

// validateOwnPorts: on the host's network a port has one number.
func validateOwnPorts(list []corev1.Container, at *field.Path) field.ErrorList {
	return each(list, at, func(c *corev1.Container, at *field.Path) field.ErrorList {
		return each(c.Ports, at.Child("ports"), func(p *corev1.ContainerPort, at *field.Path) field.ErrorList {
			if p.HostPort == 0 || p.HostPort == p.ContainerPort {
				return nil
			}
			return field.ErrorList{field.Invalid(at.Child("hostPort"), p.HostPort, "must match `containerPort` when `hostNetwork` is true")}
		})
	})
}

// isSidecar tells an init container that keeps running (KEP 753).
func isSidecar(c *corev1.Container) bool {
	return c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways
}

func (c *podCheck) mounts(k *corev1.Container, list *field.Path) field.ErrorList {
	paths := sets.New[string]()
	return each(k.VolumeMounts, list, func(m *corev1.VolumeMount, at *field.Path) field.ErrorList {
		errs := required(m.Name, at.Child("name"))
		volume, ok := c.volumes[m.Name]
		if !ok {
			errs = append(errs, field.NotFound(at.Child("name"), m.Name))
		}
		errs = append(errs, required(m.MountPath, at.Child("mountPath"))...)
		if paths.Has(m.MountPath) {
			errs = append(errs, field.Invalid(at.Child("mountPath"), m.MountPath, "must be unique"))
		}
		paths.Insert(m.MountPath)
		if slices.ContainsFunc(k.VolumeDevices, func(d corev1.VolumeDevice) bool { return d.DevicePath == m.MountPath }) {
			errs = append(errs, field.Invalid(at.Child("mountPath"), m.MountPath, "must not already exist as a path in volumeDevices"))
		}
		if slices.ContainsFunc(k.VolumeDevices, func(d corev1.VolumeDevice) bool { return d.Name == m.Name }) {
			errs = append(errs, field.Invalid(at.Child("name"), m.Name, "must not already exist in volumeDevices"))
		}
		if ok && volume.Image != nil && (m.SubPathExpr != "") {
			errs = append(errs, field.Invalid(list.Child("subPathExpr"), m.SubPathExpr, "not allowed in image volume sources"))
		}
		return slices.Concat(errs, validateSubPath(m, list, at), validatePropagation(m, k, list))
	})
}

// validateSubPath names the paths without an index: so they are published.
func validateSubPath(m *corev1.VolumeMount, list, at *field.Path) field.ErrorList {
	errs := inside(m.SubPath, list.Child("subPath"))
	if m.SubPath != "" && m.SubPathExpr != "" {
		errs = append(errs, field.Invalid(at.Child("subPathExpr"), m.SubPathExpr, "subPathExpr and subPath are mutually exclusive"))
	}
	return append(errs, inside(m.SubPathExpr, list.Child("subPathExpr"))...)
}

// inside judges a path below another: relative and never upwards. Empty is valid.
func inside(path string, at *field.Path) field.ErrorList {
	if strings.HasPrefix(path, "/") {
		return append(field.ErrorList{field.Invalid(at, path, "must be a relative path")}, noBacksteps(path, at)...)
	}
	return noBacksteps(path, at)
}

func noBacksteps(path string, at *field.Path) field.ErrorList {
	if slices.Contains(strings.Split(path, "/"), "..") {
		return field.ErrorList{field.Invalid(at, path, "must not contain '..'")}
	}
	return nil
}

// validatePropagation names its paths without an index, too.
func validatePropagation(m *corev1.VolumeMount, k *corev1.Container, list *field.Path) field.ErrorList {
	var errs field.ErrorList
	if p := m.MountPropagation; p != nil {
		errs = oneOf(*p, list.Child("mountPropagation"),
			corev1.MountPropagationBidirectional, corev1.MountPropagationHostToContainer, corev1.MountPropagationNone)
		privileged := k.SecurityContext != nil && k.SecurityContext.Privileged != nil && *k.SecurityContext.Privileged
		if *p == corev1.MountPropagationBidirectional && !privileged {
			errs = append(errs, field.Forbidden(list.Child("mountPropagation"), "Bidirectional mount propagation is available only to privileged containers"))
		}
	}
	r := m.RecursiveReadOnly
	if r == nil {
		return errs
	}
	p := list.Child("recursiveReadOnly")
	errs = append(errs, oneOf(*r, p, corev1.RecursiveReadOnlyDisabled, corev1.RecursiveReadOnlyEnabled, corev1.RecursiveReadOnlyIfPossible)...)
	if *r != corev1.RecursiveReadOnlyEnabled && *r != corev1.RecursiveReadOnlyIfPossible {
		return errs
	}
	if !m.ReadOnly {
		errs = append(errs, field.Forbidden(p, "may only be specified when readOnly is true"))
	}
	if m.MountPropagation != nil && *m.MountPropagation != corev1.MountPropagationNone {
		errs = append(errs, field.Forbidden(p, "may only be specified when mountPropagation is None or not specified"))
	}
	return errs
}

func (c *podCheck) devices(k *corev1.Container, at *field.Path) field.ErrorList {
	names, paths := sets.New[string](), sets.New[string]()
	return each(k.VolumeDevices, at, func(d *corev1.VolumeDevice, at *field.Path) field.ErrorList {
		errs := required(d.Name, at.Child("name"))
		if names.Has(d.Name) {
			errs = append(errs, field.Invalid(at.Child("name"), d.Name, "must be unique"))
		}
		if v, ok := c.volumes[d.Name]; !ok {
			errs = append(errs, field.NotFound(at.Child("name"), d.Name))
		} else if ok && v.PersistentVolumeClaim == nil && v.Ephemeral == nil {
			errs = append(errs, field.Invalid(at.Child("name"), d.Name, "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode"))
		}
		errs = append(errs, required(d.DevicePath, at.Child("devicePath"))...)
		if paths.Has(d.DevicePath) {
			errs = append(errs, field.Invalid(at.Child("devicePath"), d.DevicePath, "must be unique"))
		}
		names.Insert(d.Name)
		if noBacksteps(d.DevicePath, at) != nil {
			errs = append(errs, field.Invalid(at.Child("devicePath"), d.DevicePath, "can not contain backsteps ('..')"))
		} else {
			paths.Insert(d.DevicePath)
		}
		for _, m := range k.VolumeMounts {
			if m.Name == d.Name {
				errs = append(errs, field.Invalid(at.Child("name"), d.Name, "must not already exist in volumeMounts"))
			}
			if m.MountPath == d.DevicePath {
				errs = append(errs, field.Invalid(at.Child("devicePath"), d.DevicePath, "must not already exist as a path in volumeMounts"))
			}
		}
		return errs
	})
}

const maxRestartRules, maxExitCodes = 20, 255

// validateRestart judges a container's own restart policy (KEP 5307).
func validateRestart(k *corev1.Container, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if k.RestartPolicy != nil {
		errs = oneOf(*k.RestartPolicy, at.Child("restartPolicy"),
			corev1.ContainerRestartPolicyAlways, corev1.ContainerRestartPolicyNever, corev1.ContainerRestartPolicyOnFailure)
	}
	rules := at.Child("restartPolicyRules")
	if len(k.RestartPolicyRules) > 0 && k.RestartPolicy == nil {
		errs = append(errs, field.Required(at.Child("restartPolicy"), "must specify restartPolicy when restart rules are used"))
	}
	if n := len(k.RestartPolicyRules); n > maxRestartRules {
		errs = append(errs, field.TooMany(rules, n, maxRestartRules))
	}
	return append(errs, each(k.RestartPolicyRules, rules, func(r *corev1.ContainerRestartRule, at *field.Path) field.ErrorList {
		errs := oneOf(r.Action, at.Child("action"), corev1.ContainerRestartRuleActionRestart, corev1.ContainerRestartRuleActionRestartAllContainers)
		if r.ExitCodes == nil {
			return append(errs, field.Required(at.Child("exitCodes"), "must be specified"))
		}
		p := at.Child("exitCodes")
		errs = append(errs, oneOf(r.ExitCodes.Operator, p.Child("operator"),
			corev1.ContainerRestartRuleOnExitCodesOpIn, corev1.ContainerRestartRuleOnExitCodesOpNotIn)...)
		if n := len(r.ExitCodes.Values); n > maxExitCodes {
			errs = append(errs, field.TooMany(p.Child("values"), n, maxExitCodes))
		}
		return errs
	})...)
}
