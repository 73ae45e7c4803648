package api

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// renamedLabels are the well-known labels of nodes that have newer names.
var renamedLabels = map[string]string{
	"beta.kubernetes.io/arch":                  "deprecated since v1.14; use \"kubernetes.io/arch\" instead",
	"beta.kubernetes.io/os":                    "deprecated since v1.14; use \"kubernetes.io/os\" instead",
	"beta.kubernetes.io/instance-type":         "deprecated since v1.17; use \"node.kubernetes.io/instance-type\" instead",
	"failure-domain.beta.kubernetes.io/region": "deprecated since v1.17; use \"topology.kubernetes.io/region\" instead",
	"failure-domain.beta.kubernetes.io/zone":   "deprecated since v1.17; use \"topology.kubernetes.io/zone\" instead",
}

// templateWarnings are the warnings about the pod template of a kind, on create
// and when the spec changed; at is where the template is.
func templateWarnings[P Object](at *field.Path, template func(P) *corev1.PodTemplateSpec) func(obj, old P) []string {
	return func(obj, old P) []string {
		var none P
		t := template(obj)
		if any(old) != any(none) && obj.GetGeneration() == old.GetGeneration() || t == nil {
			return nil
		}
		return podWarnings(t, at)
	}
}

// namedTemplateWarnings is for kinds whose pods are called after them.
func namedTemplateWarnings[P Object](at *field.Path, template func(P) *corev1.PodTemplateSpec) func(obj, old P) []string {
	rest := templateWarnings(at, template)
	return func(obj, old P) []string {
		var none P
		if any(old) != any(none) {
			return rest(obj, old)
		}
		return append(nameWarning(obj.GetName(), "this is used in Pod names and hostnames"), rest(obj, old)...)
	}
}

func nameWarning(name, use string) []string {
	bad := validation.IsDNS1123Label(name)
	if len(bad) == 0 {
		return nil
	}
	return []string{fmt.Sprintf("metadata.name: %s, which can result in surprising behavior; a DNS label is recommended: %v", use, bad)}
}

// warnPod is for pods themselves.
func warnPod(p, old *corev1.Pod) []string {
	if old != nil && p.Generation == old.Generation {
		return nil
	}
	var out []string
	if old == nil {
		out = nameWarning(p.Name, "this is used in the Pod's hostname")
	}
	return append(out, podWarnings(&corev1.PodTemplateSpec{ObjectMeta: p.ObjectMeta, Spec: p.Spec}, nil)...)
}

// podWarnings says what is valid in a pod or a template and yet hardly meant.
func podWarnings(t *corev1.PodTemplateSpec, at *field.Path) []string {
	w := warned{}
	s, spec, notes := &t.Spec, at.Child("spec"), at.Child("metadata", "annotations")
	w.annotations(t, notes)
	w.placement(s, spec)
	for i := range s.Volumes {
		w.volume(&s.Volumes[i], spec.Child("volumes").Index(i))
	}
	w.hosts(s, spec)
	w.wholeBytes(s.Overhead, spec.Child("overhead"))
	for place, c := range allContainers(s) {
		w.container(c, place.below(spec))
	}
	w.ports(s, spec)
	if g := s.TerminationGracePeriodSeconds; g != nil && *g < 0 {
		w.add("%s: must be >= 0; negative values are invalid and will be treated as 1", spec.Child("terminationGracePeriodSeconds"))
	}
	return w.list
}

// warned collects warnings.
type warned struct{ list []string }

func (w *warned) add(format string, args ...any) {
	w.list = append(w.list, fmt.Sprintf(format, args...))
}

// The annotations that did something before there were fields.
var pastAnnotations = []struct{ key, message string }{
	{"scheduler.alpha.kubernetes.io/critical-pod", `non-functional in v1.16+; use the "priorityClassName" field instead`},
	{"security.alpha.kubernetes.io/sysctls", `non-functional in v1.11+; use the "sysctls" field instead`},
	{"security.alpha.kubernetes.io/unsafe-sysctls", `non-functional in v1.11+; use the "sysctls" field instead`},
}

func (w *warned) annotations(t *corev1.PodTemplateSpec, at *field.Path) {
	for _, past := range pastAnnotations {
		if _, ok := t.Annotations[past.key]; ok {
			w.add("%s: %s", at.Key(past.key), past.message)
		}
	}
	const seccomp = `%s: non-functional in v1.27+; use the "seccompProfile" field instead`
	own := t.Spec.SecurityContext != nil && t.Spec.SecurityContext.SeccompProfile != nil
	if _, ok := t.Annotations[corev1.SeccompPodAnnotationKey]; ok && !own {
		w.add(seccomp, at.Key(corev1.SeccompPodAnnotationKey))
	}
	for _, c := range allContainers(&t.Spec) {
		key := corev1.SeccompContainerAnnotationKeyPrefix + c.Name
		if _, ok := t.Annotations[key]; ok && (c.SecurityContext == nil || c.SecurityContext.SeccompProfile == nil) {
			w.add(seccomp, at.Key(key))
		}
	}
}

// placement: labels with newer names, and selectors that select nothing.
func (w *warned) placement(s *corev1.PodSpec, at *field.Path) {
	for key := range s.NodeSelector {
		if message, ok := renamedLabels[key]; ok {
			w.add("%s: %s", at.Child("nodeSelector").Key(key), message)
		}
	}
	for i, c := range s.TopologySpreadConstraints {
		at := at.Child("topologySpreadConstraints").Index(i)
		if message, ok := renamedLabels[c.TopologyKey]; ok {
			w.add("%s: %s is %s", at.Child("topologyKey"), c.TopologyKey, message)
		}
		if c.LabelSelector == nil {
			w.add("%s: a null labelSelector results in matching no pod", at.Child("labelSelector"))
		}
	}
	a := s.Affinity
	if a == nil {
		return
	}
	at = at.Child("affinity")
	if a.NodeAffinity != nil {
		w.nodeAffinity(a.NodeAffinity, at.Child("nodeAffinity"))
	}
	if p := a.PodAffinity; p != nil {
		w.podAffinity(p.RequiredDuringSchedulingIgnoredDuringExecution, p.PreferredDuringSchedulingIgnoredDuringExecution, at.Child("podAffinity"))
	}
	if p := a.PodAntiAffinity; p != nil {
		w.podAffinity(p.RequiredDuringSchedulingIgnoredDuringExecution, p.PreferredDuringSchedulingIgnoredDuringExecution, at.Child("podAntiAffinity"))
	}
}

func (w *warned) nodeAffinity(a *corev1.NodeAffinity, at *field.Path) {
	if r := a.RequiredDuringSchedulingIgnoredDuringExecution; r != nil {
		for i := range r.NodeSelectorTerms {
			w.nodeTerm(&r.NodeSelectorTerms[i], at.Child("requiredDuringSchedulingIgnoredDuringExecution", "nodeSelectorTerms").Index(i))
		}
	}
	for i := range a.PreferredDuringSchedulingIgnoredDuringExecution {
		term, at := &a.PreferredDuringSchedulingIgnoredDuringExecution[i].Preference, at.Child("preferredDuringSchedulingIgnoredDuringExecution").Index(i).Child("preference")
		w.nodeTerm(term, at)
		for j, e := range term.MatchExpressions {
			for k, v := range e.Values {
				for _, bad := range validation.IsValidLabelValue(v) {
					w.add("%s: %s is invalid, %s", at.Child("matchExpressions").Index(j).Child("values").Index(k), v, bad)
				}
			}
		}
	}
}

func (w *warned) nodeTerm(t *corev1.NodeSelectorTerm, at *field.Path) {
	for i, e := range t.MatchExpressions {
		if message, ok := renamedLabels[e.Key]; ok {
			w.add("%s: %s is %s", at.Child("matchExpressions").Index(i).Child("key"), e.Key, message)
		}
	}
}

func (w *warned) podAffinity(required []corev1.PodAffinityTerm, preferred []corev1.WeightedPodAffinityTerm, at *field.Path) {
	const nothing = "%s: a null labelSelector results in matching no pod"
	for i, t := range required {
		if t.LabelSelector == nil {
			w.add(nothing, at.Child("requiredDuringSchedulingIgnoredDuringExecution").Index(i).Child("labelSelector"))
		}
	}
	for i, t := range preferred {
		if t.PodAffinityTerm.LabelSelector == nil {
			w.add(nothing, at.Child("preferredDuringSchedulingIgnoredDuringExecution").Index(i).Child("podAffinityTerm", "labelSelector"))
		}
	}
}

// hosts: names and addresses given twice, and addresses in forms that programs
// read differently.
func (w *warned) hosts(s *corev1.PodSpec, at *field.Path) {
	ips := map[string]bool{}
	for i, a := range s.HostAliases {
		at := at.Child("hostAliases").Index(i).Child("ip")
		if ips[a.IP] {
			w.add("%s: duplicate ip %q", at, a.IP)
		}
		ips[a.IP] = true
		w.list = append(w.list, validation.GetWarningsForIP(at, a.IP)...)
	}
	names := map[string]bool{}
	for i, r := range s.ImagePullSecrets {
		at := at.Child("imagePullSecrets").Index(i).Child("name")
		if names[r.Name] {
			w.add("%s: duplicate name %q", at, r.Name)
		}
		names[r.Name] = true
		if r.Name == "" {
			w.add("%s: invalid empty name %q", at, r.Name)
		}
	}
	if s.DNSConfig != nil {
		for i, ip := range s.DNSConfig.Nameservers {
			w.list = append(w.list, validation.GetWarningsForIP(at.Child("dnsConfig", "nameservers").Index(i), ip)...)
		}
	}
}

// wholeBytes: there is no part of a byte.
func (w *warned) wholeBytes(list corev1.ResourceList, at *field.Path) {
	for _, name := range []corev1.ResourceName{corev1.ResourceMemory, corev1.ResourceEphemeralStorage} {
		if q, ok := list[name]; ok && q.MilliValue()%1000 != 0 {
			w.add("%s: fractional byte value %q is invalid, must be an integer", at.Key(string(name)), q.String())
		}
	}
}

func (w *warned) container(c *corev1.Container, at *field.Path) {
	w.wholeBytes(c.Resources.Limits, at.Child("resources", "limits"))
	w.wholeBytes(c.Resources.Requests, at.Child("resources", "requests"))
	seen := map[string]bool{}
	for i, e := range c.Env {
		builtUpon := e.ValueFrom == nil && strings.Contains(e.Value, "$("+e.Name+")") && e.Value != "$("+e.Name+")"
		if seen[e.Name] && !builtUpon {
			w.add("%s: hides previous definition of %q, which may be dropped when using apply", at.Child("env").Index(i), e.Name)
		}
		seen[e.Name] = true
	}
}
