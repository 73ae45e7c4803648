package api

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// The limits of one slice that the API documents.
const (
	maxSliceEndpoints = 1000
	maxSliceAddresses = 100
	maxSlicePorts     = 20000
	maxSliceTopology  = 16
	maxSliceHints     = 8
)

func discoveryRows() []*Resource {
	return []*Resource{endpointSliceRow()}
}

func endpointSliceRow() *Resource {
	doc := discoveryv1.EndpointSlice{}.SwaggerDoc()
	return kind[*discoveryv1.EndpointSlice]{
		GroupVersion: discoveryv1.SchemeGroupVersion, Plural: "endpointslices", Namespaced: true,
		List:          &discoveryv1.EndpointSliceList{},
		Warnings:      warnEndpointSlice,
		Generation:    true,
		Default:       defaultEndpointSlice,
		PrepareCreate: dropTopology,
		PrepareUpdate: prepareEndpointSliceUpdate,
		Validate:      validateEndpointSlice,
		ValidateUpdate: func(s, old *discoveryv1.EndpointSlice) field.ErrorList {
			return immutable(s.AddressType, old.AddressType, field.NewPath("addressType"))
		},
		// Who looks for a Service's slices finds them under "namespace/name".
		Indexes: map[string]func(*discoveryv1.EndpointSlice) []string{"service": func(s *discoveryv1.EndpointSlice) []string {
			if name := s.Labels[discoveryv1.LabelServiceName]; name != "" {
				return []string{s.Namespace + "/" + name}
			}
			return nil
		}},
		Columns: columns(nameColumn,
			column("AddressType", "string", doc["addressType"]),
			column("Ports", "string", doc["ports"]),
			column("Endpoints", "string", doc["endpoints"]),
			ageColumn),
		Cells: func(s *discoveryv1.EndpointSlice, now time.Time) []any {
			return []any{s.Name, string(s.AddressType), slicePortsCell(s.Ports), sliceEndpointsCell(s.Endpoints), age(s, now)}
		},
	}.row()
}

func defaultEndpointSlice(s *discoveryv1.EndpointSlice) {
	for i := range s.Ports {
		unset(&s.Ports[i].Name, "")
		unset(&s.Ports[i].Protocol, corev1.ProtocolTCP)
	}
}

// dropTopology: this version shows what was written by another, and takes none.
func dropTopology(s *discoveryv1.EndpointSlice) {
	for i := range s.Endpoints {
		s.Endpoints[i].DeprecatedTopology = nil
	}
}

// prepareEndpointSliceUpdate counts a change of labels as a generation too:
// they say which Service the slice belongs to.
func prepareEndpointSliceUpdate(s, old *discoveryv1.EndpointSlice) {
	if !equality.Semantic.DeepEqual(s.Endpoints, old.Endpoints) {
		dropTopology(s)
	}
	if !equality.Semantic.DeepEqual(s.Labels, old.Labels) {
		s.Generation = old.Generation + 1
	}
}

func validateEndpointSlice(s *discoveryv1.EndpointSlice) field.ErrorList {
	errs := requiredOneOf(s.AddressType, field.NewPath("addressType"),
		discoveryv1.AddressTypeFQDN, discoveryv1.AddressTypeIPv4, discoveryv1.AddressTypeIPv6)
	at := field.NewPath("endpoints")
	if len(s.Endpoints) > maxSliceEndpoints {
		return append(errs, field.TooMany(at, len(s.Endpoints), maxSliceEndpoints))
	}
	for i := range s.Endpoints {
		errs = append(errs, validateSliceEndpoint(&s.Endpoints[i], s.AddressType, at.Index(i))...)
	}
	return append(errs, validateSlicePorts(s.Ports, field.NewPath("ports"))...)
}

func validateSliceEndpoint(e *discoveryv1.Endpoint, typ discoveryv1.AddressType, at *field.Path) field.ErrorList {
	errs := validateSliceAddresses(e.Addresses, typ, at.Child("addresses"))
	if e.NodeName != nil {
		errs = append(errs, invalidEach(*e.NodeName, at.Child("nodeName"), apivalidation.NameIsDNSSubdomain(*e.NodeName, false))...)
	}
	if topo := at.Child("deprecatedTopology"); len(e.DeprecatedTopology) > maxSliceTopology {
		errs = append(errs, field.TooMany(topo, len(e.DeprecatedTopology), maxSliceTopology))
	} else {
		errs = append(errs, metavalidation.ValidateLabels(e.DeprecatedTopology, topo)...)
		if _, ok := e.DeprecatedTopology[corev1.LabelHostname]; ok {
			errs = append(errs, field.Invalid(topo.Key(corev1.LabelHostname), "", "may not be specified, use nodeName instead"))
		}
	}
	if e.Hostname != nil {
		errs = append(errs, invalidEach(*e.Hostname, at.Child("hostname"), validation.IsDNS1123Label(*e.Hostname))...)
	}
	if e.Hints != nil {
		errs = append(errs, validateHints(e.Hints, at.Child("hints"))...)
	}
	return errs
}

func validateSliceAddresses(addresses []string, typ discoveryv1.AddressType, at *field.Path) field.ErrorList {
	switch {
	case len(addresses) == 0:
		return field.ErrorList{field.Required(at, "must contain at least 1 address")}
	case len(addresses) > maxSliceAddresses:
		return field.ErrorList{field.TooMany(at, len(addresses), maxSliceAddresses)}
	}
	var errs field.ErrorList
	for i, a := range addresses {
		switch typ {
		case discoveryv1.AddressTypeIPv4:
			errs = append(errs, validateEndpointAddress(a, false, at, i)...)
		case discoveryv1.AddressTypeIPv6:
			errs = append(errs, validateEndpointAddress(a, true, at, i)...)
		case discoveryv1.AddressTypeFQDN:
			errs = append(errs, validation.IsFullyQualifiedDomainName(at.Index(i), a)...)
		}
	}
	return errs
}

func validateHints(h *discoveryv1.EndpointHints, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if zones := at.Child("forZones"); len(h.ForZones) > maxSliceHints {
		errs = append(errs, field.TooMany(zones, len(h.ForZones), maxSliceHints))
	} else {
		seen := map[string]bool{}
		for i, z := range h.ForZones {
			errs = append(errs, validateHint(z.Name, seen, zones.Index(i).Child("name"), func(s string, p *field.Path) field.ErrorList {
				return invalidEach(s, p, validation.IsValidLabelValue(s))
			})...)
		}
	}
	if nodes := at.Child("forNodes"); len(h.ForNodes) > maxSliceHints {
		errs = append(errs, field.TooMany(nodes, len(h.ForNodes), maxSliceHints))
	} else {
		seen := map[string]bool{}
		for i, n := range h.ForNodes {
			errs = append(errs, validateHint(n.Name, seen, nodes.Index(i).Child("name"), func(s string, p *field.Path) field.ErrorList {
				return invalidEach(s, p, apivalidation.NameIsDNSSubdomain(s, false))
			})...)
		}
	}
	return errs
}

func validateHint(name string, seen map[string]bool, at *field.Path, form func(string, *field.Path) field.ErrorList) field.ErrorList {
	if seen[name] {
		return append(form(name, at), field.Duplicate(at, name))
	}
	seen[name] = true
	return form(name, at)
}

func validateSlicePorts(ports []discoveryv1.EndpointPort, at *field.Path) field.ErrorList {
	if len(ports) > maxSlicePorts {
		return field.ErrorList{field.TooMany(at, len(ports), maxSlicePorts)}
	}
	var errs field.ErrorList
	seen := map[string]bool{}
	for i, p := range ports {
		at, name := at.Index(i), deref(p.Name, "")
		if name != "" {
			errs = append(errs, invalidEach(name, at.Child("name"), apivalidation.NameIsDNSLabel(name, false))...)
		}
		if seen[name] {
			errs = append(errs, field.Duplicate(at.Child("name"), p.Name))
		}
		seen[name] = true
		if p.Protocol == nil {
			errs = append(errs, field.Required(at.Child("protocol"), ""))
		} else {
			errs = append(errs, oneOf(*p.Protocol, at.Child("protocol"), corev1.ProtocolSCTP, corev1.ProtocolTCP, corev1.ProtocolUDP)...)
		}
		if p.Port != nil {
			errs = append(errs, invalidEach(*p.Port, at.Child("port"), validation.IsValidPortNum(int(*p.Port)))...)
		}
		if p.AppProtocol != nil {
			errs = append(errs, metavalidation.ValidateLabelName(*p.AppProtocol, at.Child("appProtocol"))...)
		}
	}
	return errs
}

func slicePortsCell(ports []discoveryv1.EndpointPort) string {
	list := make([]string, 0, len(ports))
	for _, p := range ports {
		switch {
		case p.Port != nil:
			list = append(list, strconv.Itoa(int(*p.Port)))
		case p.Name != nil:
			list = append(list, *p.Name)
		default:
			list = append(list, "*")
		}
	}
	return firstFew(list)
}

func sliceEndpointsCell(endpoints []discoveryv1.Endpoint) string {
	var list []string
	for _, e := range endpoints {
		list = append(list, e.Addresses...)
	}
	return firstFew(list)
}

// firstFew shows three values and the number of the rest.
func firstFew(list []string) string {
	const few = 3
	if len(list) > few {
		return fmt.Sprintf("%s + %d more...", strings.Join(list[:few], ","), len(list)-few)
	}
	return or(strings.Join(list, ","), "<unset>")
}
