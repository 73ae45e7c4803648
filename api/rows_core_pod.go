package api

import (
	"strconv"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// The verbs of subresources: what is read and written like an object, and
// what connects a stream or a proxy.
var (
	objectVerbs  = []string{"get", "patch", "update"}
	connectVerbs = []string{"create", "get"}
	proxyVerbs   = []string{"create", "delete", "get", "patch", "update"}
)

func podRow() *Resource {
	return kind[*corev1.Pod]{
		GroupVersion: corev1.SchemeGroupVersion, Plural: "pods", Short: []string{"po"}, Categories: []string{"all"}, Namespaced: true,
		List:   &corev1.PodList{},
		Status: true, Generation: true,
		Default:        defaultPod,
		PrepareCreate:  preparePod,
		Settle:         settlePod,
		Validate:       validatePod,
		ValidateNew:    validateNewPod,
		ValidateUpdate: validatePodUpdate,
		PrepareStatus:  preparePodStatus,
		ValidateStatus: validatePodStatus,
		Warnings:       warnPod,
		Graceful:       podGrace,
		Subresources: []Subresource{
			endpoint("ephemeralcontainers", objectVerbs, prepareEphemeral, validateEphemeralUpdate),
			endpoint("resize", objectVerbs, prepareResize, validateResize),
			{Name: "binding", Kind: coreKind("Binding"), Verbs: []string{"create"}},
			{Name: "eviction", Kind: schema.GroupVersionKind{Group: "policy", Version: "v1", Kind: "Eviction"}, Verbs: []string{"create"}},
			{Name: "log", Verbs: []string{"get"}},
			{Name: "exec", Kind: coreKind("PodExecOptions"), Verbs: connectVerbs},
			{Name: "attach", Kind: coreKind("PodAttachOptions"), Verbs: connectVerbs},
			{Name: "portforward", Kind: coreKind("PodPortForwardOptions"), Verbs: connectVerbs},
			{Name: "proxy", Kind: coreKind("PodProxyOptions"), Verbs: proxyVerbs},
		},
		Columns: columns(nameColumn,
			column("Ready", "string", "How many of the containers are ready."),
			column("Status", "string", "What the containers together are doing."),
			column("Restarts", "string", "How often containers were restarted, and when the last one was."),
			ageColumn,
			wideColumn("IP", "string", corev1.PodStatus{}.SwaggerDoc()["podIP"]),
			wideColumn("Node", "string", corev1.PodSpec{}.SwaggerDoc()["nodeName"]),
			wideColumn("Nominated Node", "string", corev1.PodStatus{}.SwaggerDoc()["nominatedNodeName"]),
			wideColumn("Readiness Gates", "string", corev1.PodSpec{}.SwaggerDoc()["readinessGates"])),
		Cells:  podCells,
		Fields: podFields,
		Indexes: map[string]func(*corev1.Pod) []string{
			"nodeName": func(p *corev1.Pod) []string { return []string{p.Spec.NodeName} },
			"orphan":   orphan[*corev1.Pod],
		},
	}.row()
}

func coreKind(kind string) schema.GroupVersionKind { return corev1.SchemeGroupVersion.WithKind(kind) }

func podFields(p *corev1.Pod) fields.Set {
	ip := p.Status.PodIP
	if len(p.Status.PodIPs) > 0 {
		ip = p.Status.PodIPs[0].IP
	}
	return fields.Set{
		"spec.nodeName":            p.Spec.NodeName,
		"spec.restartPolicy":       string(p.Spec.RestartPolicy),
		"spec.schedulerName":       p.Spec.SchedulerName,
		"spec.serviceAccountName":  p.Spec.ServiceAccountName,
		"spec.hostNetwork":         strconv.FormatBool(p.Spec.HostNetwork),
		"status.phase":             string(p.Status.Phase),
		"status.podIP":             ip,
		"status.nominatedNodeName": p.Status.NominatedNodeName,
		"status.podIPs":            "", // may be named, and is never known
	}
}

// podGrace: a pod that no node has seen, or whose containers are all done,
// goes at once; any other waits for its node to confirm.
func podGrace(p *corev1.Pod, asked *int64) (int64, bool) {
	seconds := int64(0)
	switch {
	case asked != nil:
		seconds = *asked
	case p.Spec.TerminationGracePeriodSeconds != nil:
		seconds = *p.Spec.TerminationGracePeriodSeconds
	}
	if p.Spec.NodeName == "" || podFinished(p) {
		return 0, false
	}
	if seconds < 0 {
		seconds = 1
	}
	return seconds, seconds > 0
}

func podFinished(p *corev1.Pod) bool {
	return p.Status.Phase == corev1.PodFailed || p.Status.Phase == corev1.PodSucceeded
}
