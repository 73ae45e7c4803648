package spec

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"proa/kubelet/lifecycle"
)

// Start is everything about one container's start that is not in the pod.
type Start struct {
	Sandbox     string
	Attempt     uint32
	Backoff     time.Duration
	Image       *cri.Image // as present on the node
	PodIPs      []string
	Mounts      []*cri.Mount
	MessageFile string // host path of the termination message, or ""
	Env         []*cri.KeyValue
	Vars        map[string]string // the same, for $(VAR) in command and args
	Target      string            // the container whose processes an ephemeral one joins, or ""
}

// Container is the configuration of one container instance.
func Container(pod *corev1.Pod, c *corev1.Container, s Start, n *Node) (*cri.ContainerConfig, error) {
	security, err := containerSecurity(pod, c, s.Image)
	if err != nil {
		return nil, err
	}
	if s.Target != "" {
		security.NamespaceOptions.Pid, security.NamespaceOptions.TargetId = cri.NamespaceMode_TARGET, s.Target
	}
	labels := podLabels(pod)
	labels[LabelContainerName] = c.Name
	labels[lifecycle.LabelSandbox] = s.Sandbox
	out := &cri.ContainerConfig{
		Metadata:    &cri.ContainerMetadata{Name: c.Name, Attempt: s.Attempt},
		Image:       &cri.ImageSpec{Image: s.Image.GetId(), UserSpecifiedImage: c.Image, ImageRef: s.Image.GetId()},
		Command:     expandAll(c.Command, s.Vars),
		Args:        expandAll(c.Args, s.Vars),
		WorkingDir:  c.WorkingDir,
		Envs:        s.Env,
		Mounts:      s.Mounts,
		Labels:      labels,
		Annotations: annotations(pod, c, s),
		LogPath:     LogPath(c.Name, s.Attempt),
		Stdin:       c.Stdin, StdinOnce: c.StdinOnce, Tty: c.TTY,
		Linux: &cri.LinuxContainerConfig{
			Resources:       ContainerResources(pod, c, n),
			SecurityContext: security,
		},
	}
	if c.Lifecycle != nil && c.Lifecycle.StopSignal != nil {
		out.StopSignal = cri.Signal(cri.Signal_value["SIGNAL_"+string(*c.Lifecycle.StopSignal)])
	}
	return out, nil
}

func annotations(pod *corev1.Pod, c *corev1.Container, s Start) map[string]string {
	out := map[string]string{
		lifecycle.AnnotationHash:    lifecycle.Hash(c),
		lifecycle.AnnotationBackoff: s.Backoff.String(),
		annotationAttempt:           strconv.Itoa(int(s.Attempt)),
		AnnotationPolicy:            string(c.TerminationMessagePolicy),
	}
	if s.MessageFile != "" {
		out[AnnotationMessage] = s.MessageFile
	}
	if g := pod.Spec.TerminationGracePeriodSeconds; g != nil {
		out[AnnotationGrace] = strconv.FormatInt(*g, 10)
	}
	return out
}

// The paths below /proc and /sys that an unprivileged container does not see, or
// sees read-only (procMount Default).
var (
	maskedPaths = []string{"/proc/asound", "/proc/acpi", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
		"/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware", "/sys/devices/virtual/powercap"}
	readonlyPaths = []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
)

func containerSecurity(pod *corev1.Pod, c *corev1.Container, image *cri.Image) (*cri.LinuxContainerSecurityContext, error) {
	sc := c.SecurityContext
	if sc == nil {
		sc = &corev1.SecurityContext{}
	}
	psc := pod.Spec.SecurityContext
	if psc == nil {
		psc = &corev1.PodSecurityContext{}
	}
	out := &cri.LinuxContainerSecurityContext{
		Privileged:         isTrue(sc.Privileged),
		NamespaceOptions:   namespaces(pod),
		RunAsUser:          int64Of(either(sc.RunAsUser, psc.RunAsUser)),
		RunAsGroup:         int64Of(either(sc.RunAsGroup, psc.RunAsGroup)),
		ReadonlyRootfs:     isTrue(sc.ReadOnlyRootFilesystem),
		SupplementalGroups: groups(pod),
		NoNewPrivs:         sc.AllowPrivilegeEscalation != nil && !*sc.AllowPrivilegeEscalation,
		SelinuxOptions:     selinux(either(sc.SELinuxOptions, psc.SELinuxOptions)),
		Seccomp:            seccomp(either(sc.SeccompProfile, psc.SeccompProfile)),
		Apparmor:           apparmor(either(sc.AppArmorProfile, psc.AppArmorProfile)),
		Capabilities:       capabilities(sc.Capabilities),
	}
	if psc.SupplementalGroupsPolicy != nil && *psc.SupplementalGroupsPolicy == corev1.SupplementalGroupsPolicyStrict {
		out.SupplementalGroupsPolicy = cri.SupplementalGroupsPolicy_Strict
	}
	if out.Privileged {
		out.Seccomp = &cri.SecurityProfile{ProfileType: cri.SecurityProfile_Unconfined}
	} else if sc.ProcMount == nil || *sc.ProcMount != corev1.UnmaskedProcMount {
		out.MaskedPaths, out.ReadonlyPaths = maskedPaths, readonlyPaths
	}
	imageUser(out, image)
	return out, nonRoot(out, either(sc.RunAsNonRoot, psc.RunAsNonRoot), c, image)
}

// either is the container's own value where it has one.
func either[T any](own, pods *T) *T {
	if own != nil {
		return own
	}
	return pods
}

// imageUser fills in the image's user where the pod names none.
func imageUser(out *cri.LinuxContainerSecurityContext, image *cri.Image) {
	if out.RunAsUser != nil || out.RunAsUsername != "" {
		return
	}
	if uid := image.GetUid(); uid != nil {
		out.RunAsUser = uid
	} else {
		out.RunAsUsername = image.GetUsername()
	}
}

func nonRoot(out *cri.LinuxContainerSecurityContext, must *bool, c *corev1.Container, image *cri.Image) error {
	if !isTrue(must) {
		return nil
	}
	switch {
	case out.RunAsUser != nil && out.RunAsUser.Value == 0 && image.GetUid() != out.RunAsUser:
		return fmt.Errorf("container's runAsUser breaks non-root policy (container: %q)", c.Name)
	case out.RunAsUser != nil && out.RunAsUser.Value == 0, out.RunAsUser == nil && out.RunAsUsername == "":
		return fmt.Errorf("container has runAsNonRoot and image will run as root (container: %q)", c.Name)
	case out.RunAsUser == nil:
		return fmt.Errorf("container has runAsNonRoot and image has non-numeric user (%s), cannot verify user is non-root (container: %q)", out.RunAsUsername, c.Name)
	}
	return nil
}

func int64Of(v *int64) *cri.Int64Value {
	if v == nil {
		return nil
	}
	return &cri.Int64Value{Value: *v}
}

// groups are the supplemental groups of every process of the pod; fsGroup is one.
func groups(pod *corev1.Pod) []int64 {
	sc := pod.Spec.SecurityContext
	if sc == nil {
		return nil
	}
	out := slices.Clone(sc.SupplementalGroups)
	if sc.FSGroup != nil {
		out = append(out, *sc.FSGroup)
	}
	return out
}

func selinux(o *corev1.SELinuxOptions) *cri.SELinuxOption {
	if o == nil {
		return nil
	}
	return &cri.SELinuxOption{User: o.User, Role: o.Role, Type: o.Type, Level: o.Level}
}

// seccomp of a pod that names no profile is the runtime's default: safe by default.
func seccomp(p *corev1.SeccompProfile) *cri.SecurityProfile {
	if p == nil {
		return &cri.SecurityProfile{ProfileType: cri.SecurityProfile_RuntimeDefault}
	}
	return profile(string(p.Type), p.LocalhostProfile)
}

func apparmor(p *corev1.AppArmorProfile) *cri.SecurityProfile {
	if p == nil {
		return nil
	}
	return profile(string(p.Type), p.LocalhostProfile)
}

func profile(typ string, localhost *string) *cri.SecurityProfile {
	out := &cri.SecurityProfile{ProfileType: cri.SecurityProfile_ProfileType(cri.SecurityProfile_ProfileType_value[typ])}
	if localhost != nil {
		out.LocalhostRef = *localhost
	}
	return out
}

func capabilities(c *corev1.Capabilities) *cri.Capability {
	if c == nil {
		return nil
	}
	out := &cri.Capability{}
	for _, a := range c.Add {
		out.AddCapabilities = append(out.AddCapabilities, string(a))
	}
	for _, d := range c.Drop {
		out.DropCapabilities = append(out.DropCapabilities, string(d))
	}
	return out
}

// LostPod rebuilds as much of a pod as its sandbox's record tells, so that one
// that the API does not know any more can be ended in order.
func LostPod(sb *cri.PodSandboxStatus, grace int64) *corev1.Pod {
	m := sb.GetMetadata()
	pod := &corev1.Pod{}
	pod.Name, pod.Namespace, pod.UID = m.GetName(), m.GetNamespace(), types.UID(m.GetUid())
	pod.Labels, pod.Annotations = maps.Clone(sb.Labels), maps.Clone(sb.Annotations)
	pod.Spec.TerminationGracePeriodSeconds = &grace
	pod.Spec.HostNetwork = sb.GetLinux().GetNamespaces().GetOptions().GetNetwork() == cri.NamespaceMode_NODE
	return pod
}
