package endpoints

import (
	"cmp"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"proa/client"
	"proa/controllers/pods"
	"proa/reconcile"
)

const (
	// legacyManager marks the Endpoints that this controller made.
	legacyLabel, legacyManager = "endpoints.kubernetes.io/managed-by", "endpoint-controller"
	// perEndpoints is how many addresses one Endpoints holds at most; more are
	// cut off and the annotation EndpointsOverCapacity says "truncated".
	perEndpoints = 1000
)

// Legacy is the controller of the older Endpoints.
func Legacy() reconcile.Controller {
	return reconcile.Controller{
		Name:    "endpoint-controller",
		Workers: 5,
		Watches: []reconcile.Watch{
			{Resource: client.Row[corev1.Service]()},
			{Resource: client.Row[corev1.Pod](), Keys: servicesOf},
			{Resource: client.Row[corev1.Endpoints]()},
		},
		Decide: DecideLegacy,
	}
}

// DecideLegacy is its decision. The key is that of the Service and of the
// Endpoints both.
func DecideLegacy(v client.View, _ time.Time, key client.Key) reconcile.Plan {
	svc := client.Get[corev1.Service](v, key.Namespace, key.Name)
	have := client.Get[corev1.Endpoints](v, key.Namespace, key.Name)
	switch {
	case svc == nil:
		if have != nil && have.Labels[legacyLabel] == legacyManager && have.DeletionTimestamp == nil {
			return reconcile.Plan{Writes: []reconcile.Write{{Op: reconcile.Delete, Object: have}}}
		}
		return reconcile.Plan{}
	case svc.Spec.Selector == nil || svc.Spec.Type == corev1.ServiceTypeExternalName:
		return reconcile.Plan{}
	}
	want := legacyOf(v, svc)
	if have == nil {
		return reconcile.Plan{Writes: []reconcile.Write{{Op: reconcile.Create, Object: want}}}
	}
	if equality.Semantic.DeepEqual(have.Subsets, want.Subsets) && equality.Semantic.DeepEqual(have.Labels, want.Labels) &&
		equality.Semantic.DeepEqual(copied(have.Annotations, unsynced), copied(want.Annotations, unsynced)) {
		return reconcile.Plan{}
	}
	next := have.DeepCopy()
	next.Subsets, next.Labels, next.Annotations = want.Subsets, want.Labels, want.Annotations
	return reconcile.Plan{Writes: []reconcile.Write{{Op: reconcile.Update, Object: next}}}
}

// unsynced are annotations that others keep on Endpoints.
var unsynced = []string{corev1.EndpointsLastChangeTriggerTime}

func legacyOf(v client.View, svc *corev1.Service) *corev1.Endpoints {
	l := copied(svc.Labels, reserved)
	if l == nil {
		l = map[string]string{}
	}
	l[legacyLabel] = legacyManager
	if headless(svc) {
		l[corev1.IsHeadlessService] = ""
	}
	subsets, truncated := subsetsOf(v, svc)
	notes := copied(svc.Annotations, unsliced)
	if truncated {
		if notes == nil {
			notes = map[string]string{}
		}
		notes[corev1.EndpointsOverCapacity] = "truncated"
	}
	return &corev1.Endpoints{
		ObjectMeta: metav1.ObjectMeta{Namespace: svc.Namespace, Name: svc.Name, Labels: l, Annotations: notes},
		Subsets:    subsets,
	}
}

// subsetsOf groups the pods' addresses by the ports that they serve.
func subsetsOf(v client.View, svc *corev1.Service) (subsets []corev1.EndpointSubset, truncated bool) {
	list := slices.DeleteFunc(candidates(v, svc), func(p *corev1.Pod) bool {
		return address(p, families(svc)[0]) == "" || p.DeletionTimestamp != nil && !svc.Spec.PublishNotReadyAddresses
	})
	if len(list) > perEndpoints {
		// Those that serve are kept first.
		slices.SortStableFunc(list, func(a, b *corev1.Pod) int { return cmp.Compare(notReady(a), notReady(b)) })
		list, truncated = list[:perEndpoints], true
	}
	byPorts := map[string]*corev1.EndpointSubset{}
	var order []string
	for _, p := range list {
		ports := portsOf(svc, p)
		k := portsKey(ports)
		if len(ports) == 0 && len(svc.Spec.Ports) > 0 {
			continue // serves none of the Service's ports
		}
		if byPorts[k] == nil {
			byPorts[k] = &corev1.EndpointSubset{Ports: legacyPorts(ports)}
			order = append(order, k)
		}
		place(byPorts[k], svc, p)
	}
	slices.Sort(order)
	for _, k := range order {
		sortAddresses(byPorts[k].Addresses)
		sortAddresses(byPorts[k].NotReadyAddresses)
		subsets = append(subsets, *byPorts[k])
	}
	return subsets, truncated
}

func notReady(p *corev1.Pod) int {
	if pods.Ready(p) {
		return 0
	}
	return 1
}

func place(s *corev1.EndpointSubset, svc *corev1.Service, p *corev1.Pod) {
	a := corev1.EndpointAddress{
		IP:        address(p, families(svc)[0]),
		Hostname:  hostname(svc, p),
		TargetRef: &corev1.ObjectReference{Kind: "Pod", Namespace: p.Namespace, Name: p.Name, UID: p.UID},
	}
	if p.Spec.NodeName != "" {
		a.NodeName = &p.Spec.NodeName
	}
	if svc.Spec.PublishNotReadyAddresses || pods.Ready(p) {
		s.Addresses = append(s.Addresses, a)
	} else {
		s.NotReadyAddresses = append(s.NotReadyAddresses, a)
	}
}

func sortAddresses(list []corev1.EndpointAddress) {
	slices.SortFunc(list, func(a, b corev1.EndpointAddress) int {
		return cmp.Or(cmp.Compare(a.IP, b.IP), cmp.Compare(a.TargetRef.UID, b.TargetRef.UID))
	})
}

func legacyPorts(ports []discoveryv1.EndpointPort) []corev1.EndpointPort {
	var out []corev1.EndpointPort
	for _, p := range ports {
		out = append(out, corev1.EndpointPort{Name: deref(p.Name), Port: deref(p.Port), Protocol: deref(p.Protocol), AppProtocol: p.AppProtocol})
	}
	slices.SortFunc(out, func(a, b corev1.EndpointPort) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Port, b.Port))
	})
	return out
}
