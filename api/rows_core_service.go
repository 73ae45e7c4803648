package api

import (
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/util/sets"
)

func serviceRow() *Resource {
	doc := corev1.ServiceSpec{}.SwaggerDoc()
	return kind[*corev1.Service]{
		GroupVersion: corev1.SchemeGroupVersion, Plural: "services", Short: []string{"svc"}, Categories: []string{"all"}, Namespaced: true,
		List:     &corev1.ServiceList{},
		Warnings: warnService,
		Name:     dnsLabel,
		Status:   true,

		Default:        defaultService,
		PrepareCreate:  normaliseClusterIPs,
		PrepareUpdate:  prepareServiceUpdate,
		Validate:       validateService,
		ValidateUpdate: validateServiceUpdate,
		ValidateStatus: validateServiceStatus,
		Subresources:   []Subresource{{Name: "proxy", Kind: coreKind("ServiceProxyOptions"), Verbs: proxyVerbs}},
		Columns: columns(nameColumn,
			column("Type", "string", doc["type"]),
			column("Cluster-IP", "string", doc["clusterIP"]),
			column("External-IP", "string", doc["externalIPs"]),
			column("Port(s)", "string", doc["ports"]),
			ageColumn,
			wideColumn("Selector", "string", doc["selector"])),
		Cells: serviceCells,
		Fields: func(s *corev1.Service) fields.Set {
			return fields.Set{"spec.clusterIP": s.Spec.ClusterIP, "spec.type": string(s.Spec.Type)}
		},
	}.row()
}

func serviceCells(s *corev1.Service, now time.Time) []any {
	ip := none
	if len(s.Spec.ClusterIPs) > 0 {
		ip = s.Spec.ClusterIPs[0]
	} else if s.Spec.ClusterIP != "" {
		ip = s.Spec.ClusterIP
	}
	return []any{s.Name, string(s.Spec.Type), ip, externalIPs(s), servicePorts(s.Spec.Ports), age(s, now), labelsCell(s.Spec.Selector)}
}

// externalIPs says where a Service is reached from outside.
func externalIPs(s *corev1.Service) string {
	switch s.Spec.Type {
	case corev1.ServiceTypeExternalName:
		return s.Spec.ExternalName
	case corev1.ServiceTypeLoadBalancer:
		balancers := sets.New[string]()
		for _, in := range s.Status.LoadBalancer.Ingress {
			balancers.Insert(or(in.IP, in.Hostname))
		}
		return joinOr(append(sets.List(balancers.Delete("")), s.Spec.ExternalIPs...), "<pending>")
	case corev1.ServiceTypeClusterIP, corev1.ServiceTypeNodePort:
		return joinOr(s.Spec.ExternalIPs, none)
	}
	return unknown
}

func servicePorts(ports []corev1.ServicePort) string {
	var out []string
	for _, p := range ports {
		word := strconv.Itoa(int(p.Port))
		if p.NodePort > 0 {
			word += ":" + strconv.Itoa(int(p.NodePort))
		}
		out = append(out, word+"/"+string(p.Protocol))
	}
	return joinOr(out, none)
}

func endpointsRow() *Resource {
	return kind[*corev1.Endpoints]{
		GroupVersion: corev1.SchemeGroupVersion, Plural: "endpoints", Short: []string{"ep"}, Namespaced: true,
		List:                &corev1.EndpointsList{},
		Default:             defaultEndpoints,
		Validate:            validateEndpoints,
		AllowCreateOnUpdate: true,
		Columns: columns(nameColumn,
			column("Endpoints", "string", corev1.Endpoints{}.SwaggerDoc()["subsets"]),
			ageColumn),
		Cells: func(e *corev1.Endpoints, now time.Time) []any {
			return []any{e.Name, endpointsCell(e), age(e, now)}
		},
		Deprecated: "v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice",
		Warnings:   warnEndpoints,
	}.row()
}

const maxEndpointsShown = 3

// endpointsCell shows the first addresses with their ports, and how many more
// there are.
func endpointsCell(e *corev1.Endpoints) string {
	if len(e.Subsets) == 0 {
		return none
	}
	var all []string
	for _, s := range e.Subsets {
		for _, a := range s.Addresses {
			if len(s.Ports) == 0 {
				all = append(all, a.IP)
			}
		}
		for _, p := range s.Ports {
			for _, a := range s.Addresses {
				all = append(all, hostPort(a.IP, p.Port))
			}
		}
	}
	if more := len(all) - maxEndpointsShown; more > 0 {
		return strings.Join(all[:maxEndpointsShown], ",") + " + " + strconv.Itoa(more) + " more..."
	}
	return strings.Join(all, ",")
}

func hostPort(ip string, port int32) string {
	if strings.Contains(ip, ":") {
		ip = "[" + ip + "]"
	}
	return ip + ":" + strconv.Itoa(int(port))
}

func defaultEndpoints(e *corev1.Endpoints) {
	for i := range e.Subsets {
		for j := range e.Subsets[i].Ports {
			empty(&e.Subsets[i].Ports[j].Protocol, corev1.ProtocolTCP)
		}
	}
}
