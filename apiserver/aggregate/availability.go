package aggregate

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"

	"proa/store"
)

const (
	coreServices   = "services"
	endpointSlices = "discovery.k8s.io/endpointslices"
)

// verdict is what an APIService's condition Available is to say.
type verdict struct {
	status          apiregistrationv1.ConditionStatus
	reason, message string
}

func available(reason, message string) verdict {
	return verdict{apiregistrationv1.ConditionTrue, reason, message}
}

func unavailable(reason, format string, args ...any) verdict {
	return verdict{apiregistrationv1.ConditionFalse, reason, fmt.Sprintf(format, args...)}
}

var (
	isLocal = available("Local", "Local APIServices are always available")
	passed  = available("Passed", "all checks passed")
)

// judge says what the world knows of an APIService's availability; ask tells that
// it remains to ask the server itself.
func judge(world store.Snapshot, s *apiregistrationv1.APIService) (v verdict, ask bool) {
	ref := s.Spec.Service
	if ref == nil {
		return isLocal, false
	}
	svc, _ := get(world, coreServices, ref.Namespace, ref.Name).(*corev1.Service)
	if svc == nil {
		return unavailable("ServiceNotFound", "service/%s in %q is not present", ref.Name, ref.Namespace), false
	}
	if svc.Spec.Type != corev1.ServiceTypeClusterIP {
		return passed, true
	}
	port := portOf(svc, ref)
	if port == nil {
		return unavailable("ServicePortError", "service/%s in %q is not listening on port %d", ref.Name, ref.Namespace, portNumber(ref)), false
	}
	slices, ready := 0, false
	for rec := range world.Index(endpointSlices, "service", ref.Namespace+"/"+ref.Name) {
		if obj, err := rec.Object(); err == nil {
			slices++
			ready = ready || answers(obj, port.Name)
		}
	}
	switch {
	case slices == 0:
		return unavailable("EndpointsNotFound", "cannot find endpointslices for service/%s in %q", ref.Name, ref.Namespace), false
	case !ready:
		return unavailable("MissingEndpoints", "endpointslices for service/%s in %q have no addresses with port name %q", ref.Name, ref.Namespace, port.Name), false
	}
	return passed, true
}

func get(world store.Snapshot, resource, namespace, name string) any {
	rec := world.Get(store.Key{Resource: resource, Namespace: namespace, Name: name})
	if rec == nil {
		return nil
	}
	obj, err := rec.Object()
	if err != nil {
		return nil
	}
	return obj
}

func portNumber(ref *apiregistrationv1.ServiceReference) int32 {
	if ref.Port == nil {
		return 443
	}
	return *ref.Port
}

func portOf(svc *corev1.Service, ref *apiregistrationv1.ServiceReference) *corev1.ServicePort {
	for i := range svc.Spec.Ports {
		if svc.Spec.Ports[i].Port == portNumber(ref) {
			return &svc.Spec.Ports[i]
		}
	}
	return nil
}

// answers tells whether a slice has a ready endpoint with the named port.
func answers(obj any, port string) bool {
	slice, ok := obj.(*discoveryv1.EndpointSlice)
	if !ok {
		return false
	}
	named := false
	for _, p := range slice.Ports {
		name := ""
		if p.Name != nil {
			name = *p.Name
		}
		named = named || name == port && p.Port != nil
	}
	for _, e := range slice.Endpoints {
		if named && (e.Conditions.Ready == nil || *e.Conditions.Ready) {
			return true
		}
	}
	return false
}

func condition(s *apiregistrationv1.APIService) *apiregistrationv1.APIServiceCondition {
	for i := range s.Status.Conditions {
		if s.Status.Conditions[i].Type == apiregistrationv1.Available {
			return &s.Status.Conditions[i]
		}
	}
	return nil
}

// isAvailable is what decides whether requests are passed on.
func isAvailable(s *apiregistrationv1.APIService) bool {
	c := condition(s)
	return c != nil && c.Status == apiregistrationv1.ConditionTrue
}

// withVerdict is the APIService with the condition as it is to be, or nil where
// it says that already.
func withVerdict(s *apiregistrationv1.APIService, v verdict, now metav1.Time) *apiregistrationv1.APIService {
	want := apiregistrationv1.APIServiceCondition{
		Type: apiregistrationv1.Available, Status: v.status, Reason: v.reason, Message: v.message, LastTransitionTime: now,
	}
	have := condition(s)
	if have != nil && have.Status == v.status {
		want.LastTransitionTime = have.LastTransitionTime
		if *have == want {
			return nil
		}
	}
	next := s.DeepCopy()
	if c := condition(next); c != nil {
		*c = want
	} else {
		next.Status.Conditions = append(next.Status.Conditions, want)
	}
	return next
}
