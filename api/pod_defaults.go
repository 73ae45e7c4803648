package api

import (
	"cmp"
	"strings"

	"github.com/distribution/reference"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	podresource "k8s.io/component-helpers/resource"
)

// The defaults below are those that the field comments of core/v1 and the
// concept pages promise.

// DefaultPodSpec fills what is unset in the spec of a pod or a pod template.
func DefaultPodSpec(s *corev1.PodSpec) {
	dropUnserved(s)
	s.DNSPolicy = cmp.Or(s.DNSPolicy, corev1.DNSClusterFirst)
	s.RestartPolicy = cmp.Or(s.RestartPolicy, corev1.RestartPolicyAlways)
	s.SchedulerName = cmp.Or(s.SchedulerName, corev1.DefaultSchedulerName)
	unset(&s.TerminationGracePeriodSeconds, corev1.DefaultTerminationGracePeriodSeconds)
	unset(&s.SecurityContext, corev1.PodSecurityContext{})
	// The two names of the service account mirror each other.
	s.ServiceAccountName = cmp.Or(s.ServiceAccountName, s.DeprecatedServiceAccount)
	s.DeprecatedServiceAccount = s.ServiceAccountName
	for i := range s.InitContainers {
		defaultContainer(&s.InitContainers[i])
	}
	for i := range s.Containers {
		defaultContainer(&s.Containers[i])
	}
	for i := range s.EphemeralContainers {
		defaultEphemeralContainer(&s.EphemeralContainers[i])
	}
	for i := range s.Volumes {
		defaultVolume(&s.Volumes[i])
	}
	if s.Resources != nil {
		defaultResources(s.Resources)
	}
	roundUp(s.Overhead)
}

func defaultPod(p *corev1.Pod) {
	DefaultPodSpec(&p.Spec)
	unset(&p.Spec.EnableServiceLinks, corev1.DefaultEnableServiceLinks)
	for c := range containers(&p.Spec) {
		requestLimits(&c.Resources)
		if p.Spec.HostNetwork {
			defaultHostPorts(c)
		}
	}
	defaultPodResources(&p.Spec)
	defaultPodIPs(&p.Status)
}

// defaultPodIPs: the older of the two fields says what the newer begins with,
// and for the kubelets that know it only, all there is.
func defaultPodIPs(s *corev1.PodStatus) {
	switch {
	case s.PodIP == "" && len(s.PodIPs) > 0:
		s.PodIP = s.PodIPs[0].IP
	case s.PodIP != "" && (len(s.PodIPs) == 0 || s.PodIPs[0].IP != s.PodIP):
		s.PodIPs = []corev1.PodIP{{IP: s.PodIP}}
	}
}

// containers yields the containers and init containers of a pod.
func containers(s *corev1.PodSpec) func(yield func(*corev1.Container) bool) {
	return func(yield func(*corev1.Container) bool) {
		for _, list := range [][]corev1.Container{s.InitContainers, s.Containers} {
			for i := range list {
				if !yield(&list[i]) {
					return
				}
			}
		}
	}
}

// requestLimits makes a limit the request where none is given. Templates keep
// what was written; only pods get this.
func requestLimits(r *corev1.ResourceRequirements) {
	for name, limit := range r.Limits {
		requestUnset(r, name, limit)
	}
}

func defaultHostPorts(c *corev1.Container) {
	for i := range c.Ports {
		c.Ports[i].HostPort = cmp.Or(c.Ports[i].HostPort, c.Ports[i].ContainerPort)
	}
}

func defaultContainer(c *corev1.Container) {
	c.ImagePullPolicy = cmp.Or(c.ImagePullPolicy, pullPolicyOf(c.Image))
	c.TerminationMessagePath = cmp.Or(c.TerminationMessagePath, corev1.TerminationMessagePathDefault)
	c.TerminationMessagePolicy = cmp.Or(c.TerminationMessagePolicy, corev1.TerminationMessageReadFile)
	for i := range c.Ports {
		c.Ports[i].Protocol = cmp.Or(c.Ports[i].Protocol, corev1.ProtocolTCP)
	}
	for i := range c.Env {
		if from := c.Env[i].ValueFrom; from != nil {
			defaultFieldRef(from.FieldRef)
			if from.FileKeyRef != nil {
				unset(&from.FileKeyRef.Optional, false)
			}
		}
	}
	defaultResources(&c.Resources)
	for _, p := range []*corev1.Probe{c.LivenessProbe, c.ReadinessProbe, c.StartupProbe} {
		defaultProbe(p)
	}
	if l := c.Lifecycle; l != nil {
		for _, h := range []*corev1.LifecycleHandler{l.PostStart, l.PreStop} {
			if h != nil {
				defaultHTTPGet(h.HTTPGet)
			}
		}
	}
}

// defaultEphemeralContainer goes through Container, whose fields are the same.
func defaultEphemeralContainer(e *corev1.EphemeralContainer) {
	c := corev1.Container(e.EphemeralContainerCommon)
	defaultContainer(&c)
	e.EphemeralContainerCommon = corev1.EphemeralContainerCommon(c)
}

// pullPolicyOf: an image that is named by no tag, or by "latest", is pulled
// each time; one with another tag or a digest is not.
func pullPolicyOf(image string) corev1.PullPolicy {
	name, digest, _ := strings.Cut(image, "@")
	tag := ""
	if i := strings.LastIndexByte(name, ':'); i > strings.LastIndexByte(name, '/') {
		tag = name[i+1:]
	}
	if tag != "latest" && (tag != "" || digest != "") {
		return corev1.PullIfNotPresent
	}
	if _, err := reference.ParseNormalizedNamed(image); err != nil {
		return corev1.PullIfNotPresent
	}
	return corev1.PullAlways
}

func defaultProbe(p *corev1.Probe) {
	if p == nil {
		return
	}
	p.TimeoutSeconds = cmp.Or(p.TimeoutSeconds, 1)
	p.PeriodSeconds = cmp.Or(p.PeriodSeconds, 10)
	p.SuccessThreshold = cmp.Or(p.SuccessThreshold, 1)
	p.FailureThreshold = cmp.Or(p.FailureThreshold, 3)
	defaultHTTPGet(p.HTTPGet)
	if p.GRPC != nil {
		unset(&p.GRPC.Service, "")
	}
}

func defaultHTTPGet(a *corev1.HTTPGetAction) {
	if a != nil {
		a.Path = cmp.Or(a.Path, "/")
		a.Scheme = cmp.Or(a.Scheme, corev1.URISchemeHTTP)
	}
}

func defaultFieldRef(f *corev1.ObjectFieldSelector) {
	if f != nil {
		f.APIVersion = cmp.Or(f.APIVersion, "v1")
	}
}

func defaultResources(r *corev1.ResourceRequirements) {
	roundUp(r.Limits)
	roundUp(r.Requests)
}

// roundUp: the smallest amount of a resource is a thousandth.
func roundUp(list corev1.ResourceList) {
	for name, q := range list {
		q.RoundUp(resource.Milli)
		list[name] = q
	}
}

// defaultPodResources completes requests that are set for the pod as a whole:
// a resource that has a pod limit but no pod request is requested with what
// the containers request together, or with the limit where they request none.
func defaultPodResources(s *corev1.PodSpec) {
	if s.Resources == nil || len(s.Resources.Limits)+len(s.Resources.Requests) == 0 {
		return
	}
	sum := podresource.AggregateContainerRequests(&corev1.Pod{Spec: *s}, podresource.PodResourcesOptions{})
	for name := range podresource.SupportedPodLevelResources() {
		if q, ok := sum[name]; ok {
			requestUnset(s.Resources, name, q)
		}
	}
	for name, limit := range s.Resources.Limits {
		if podresource.IsSupportedPodLevelResource(name) {
			requestUnset(s.Resources, name, limit)
		}
	}
}

func requestUnset(r *corev1.ResourceRequirements, name corev1.ResourceName, q resource.Quantity) {
	if _, ok := r.Requests[name]; ok {
		return
	}
	if r.Requests == nil {
		r.Requests = corev1.ResourceList{}
	}
	r.Requests[name] = q.DeepCopy()
}
