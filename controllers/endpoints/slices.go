package endpoints

import (
	"cmp"
	"maps"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"proa/client"
	"proa/controllers/own"
	"proa/controllers/pods"
	"proa/reconcile"
)

const (
	// manager is the value by which slices of this controller are known.
	manager = "endpointslice-controller.k8s.io"
	// perSlice is how many endpoints a slice holds at most.
	perSlice = 100
)

// Slices is the EndpointSlice controller.
func Slices() reconcile.Controller {
	return reconcile.Controller{
		Name:    "endpoint-slice-controller",
		Workers: 5,
		Watches: []reconcile.Watch{
			{Resource: client.Row[corev1.Service]()},
			{Resource: client.Row[corev1.Pod](), Keys: servicesOf},
			{Resource: client.Row[discoveryv1.EndpointSlice](), Keys: serviceOfSlice},
			{Resource: client.Row[corev1.Node](), Keys: servicesOfZones},
		},
		Decide: DecideSlices,
	}
}

func serviceOfSlice(_ client.View, e client.Event) []client.Key {
	l := e.Object().GetLabels()
	if l[discoveryv1.LabelManagedBy] != manager || l[discoveryv1.LabelServiceName] == "" {
		return nil
	}
	return []client.Key{{Namespace: e.Object().GetNamespace(), Name: l[discoveryv1.LabelServiceName]}}
}

// servicesOfZones wakes all Services when a node's zone becomes another.
func servicesOfZones(v client.View, e client.Event) []client.Key {
	if zone(e.Old) == zone(e.New) {
		return nil
	}
	var keys []client.Key
	for svc := range client.List[corev1.Service](v, "") {
		keys = append(keys, client.KeyOf(svc))
	}
	return keys
}

func zone(node client.Object) string {
	if n, _ := node.(*corev1.Node); n != nil {
		return n.Labels[corev1.LabelTopologyZone]
	}
	return ""
}

// group is what one slice may hold: endpoints of one address family that serve
// the same ports.
type group struct {
	family discoveryv1.AddressType
	ports  []discoveryv1.EndpointPort
	want   []discoveryv1.Endpoint
}

type groupKey struct {
	family discoveryv1.AddressType
	ports  string
}

// slicing is one Service's slices being brought up to date.
type slicing struct {
	*corev1.Service
	labels, annotations map[string]string
	writes              []reconcile.Write
}

// DecideSlices is the EndpointSlice controller's decision. It moves as few
// endpoints as it can: one that stays, stays in its slice.
func DecideSlices(v client.View, _ time.Time, key client.Key) reconcile.Plan {
	svc := client.Get[corev1.Service](v, key.Namespace, key.Name)
	if svc == nil || svc.DeletionTimestamp != nil || svc.Spec.Selector == nil {
		return reconcile.Plan{} // slices go with their owner
	}
	s := &slicing{Service: svc, labels: sliceLabels(svc), annotations: copied(svc.Annotations, unsliced)}
	existing := map[groupKey][]*discoveryv1.EndpointSlice{}
	for _, slice := range own.Of[*discoveryv1.EndpointSlice](v, client.Row[discoveryv1.EndpointSlice](), svc) {
		if slice.Labels[discoveryv1.LabelManagedBy] == manager && slice.DeletionTimestamp == nil {
			k := groupKey{slice.AddressType, portsKey(slice.Ports)}
			existing[k] = append(existing[k], slice)
		}
	}
	wanted := s.groups(v)
	for _, k := range sortedKeys(wanted) {
		s.fill(wanted[k], existing[k])
		delete(existing, k)
	}
	for _, k := range sortedKeys(existing) {
		for _, slice := range existing[k] {
			s.writes = append(s.writes, reconcile.Write{Op: reconcile.Delete, Object: slice})
		}
	}
	return reconcile.Plan{Writes: s.writes, Parallel: true}
}

func sortedKeys[V any](m map[groupKey]V) []groupKey {
	return slices.SortedFunc(maps.Keys(m), func(a, b groupKey) int {
		return cmp.Compare(string(a.family)+a.ports, string(b.family)+b.ports)
	})
}

// groups are the endpoints that should be. A family without any has one empty
// group, so that a slice says so.
func (s *slicing) groups(v client.View) map[groupKey]*group {
	out := map[groupKey]*group{}
	if s.Spec.Type == corev1.ServiceTypeExternalName {
		return out
	}
	list := candidates(v, s.Service)
	for _, family := range families(s.Service) {
		addressType := discoveryv1.AddressType(family)
		found := false
		for _, p := range list {
			if ip := address(p, family); ip != "" {
				found = true
				ports := portsOf(s.Service, p)
				add(out, addressType, ports, s.endpoint(v, p, ip))
			}
		}
		if !found {
			add(out, addressType, nil)
		}
	}
	return out
}

func add(groups map[groupKey]*group, family discoveryv1.AddressType, ports []discoveryv1.EndpointPort, want ...discoveryv1.Endpoint) {
	k := groupKey{family, portsKey(ports)}
	if groups[k] == nil {
		groups[k] = &group{family: family, ports: ports}
	}
	groups[k].want = append(groups[k].want, want...)
}

func (s *slicing) endpoint(v client.View, p *corev1.Pod, ip string) discoveryv1.Endpoint {
	serving, terminating := pods.Ready(p), p.DeletionTimestamp != nil
	ready := s.Spec.PublishNotReadyAddresses || serving && !terminating
	ep := discoveryv1.Endpoint{
		Addresses:  []string{ip},
		Conditions: discoveryv1.EndpointConditions{Ready: &ready, Serving: &serving, Terminating: &terminating},
		TargetRef:  &corev1.ObjectReference{Kind: "Pod", Namespace: p.Namespace, Name: p.Name, UID: p.UID},
	}
	if p.Spec.NodeName != "" {
		ep.NodeName = &p.Spec.NodeName
		if z := zone(v.Get(client.Row[corev1.Node](), "", p.Spec.NodeName)); z != "" {
			ep.Zone = &z
		}
	}
	if h := hostname(s.Service, p); h != "" {
		ep.Hostname = &h
	}
	if ready {
		ep.Hints = s.hints(&ep)
	}
	return ep
}

// hints ask the proxies to keep traffic near, where the Service wants that.
func (s *slicing) hints(ep *discoveryv1.Endpoint) *discoveryv1.EndpointHints {
	h := &discoveryv1.EndpointHints{}
	switch deref(s.Spec.TrafficDistribution) {
	case corev1.ServiceTrafficDistributionPreferSameNode:
		if ep.NodeName != nil {
			h.ForNodes = []discoveryv1.ForNode{{Name: *ep.NodeName}}
		}
	case corev1.ServiceTrafficDistributionPreferClose, corev1.ServiceTrafficDistributionPreferSameZone:
	default:
		return nil
	}
	if ep.Zone != nil {
		h.ForZones = []discoveryv1.ForZone{{Name: *ep.Zone}}
	}
	if h.ForNodes == nil && h.ForZones == nil {
		return nil
	}
	return h
}

// fill brings a group's slices up to date: endpoints that are gone leave, new
// ones go where there is room, in slices that change anyway if possible.
func (s *slicing) fill(g *group, existing []*discoveryv1.EndpointSlice) {
	slices.SortFunc(existing, func(a, b *discoveryv1.EndpointSlice) int { return cmp.Compare(a.Name, b.Name) })
	next, fresh := keep(g, existing)
	changed := func(i int) bool { return !equality.Semantic.DeepEqual(next[i], existing[i].Endpoints) }
	for _, mustChange := range []bool{true, false} {
		for i := range next {
			if changed(i) == mustChange && (mustChange || len(fresh) <= perSlice-len(next[i])) {
				n := min(len(fresh), perSlice-len(next[i]))
				next[i], fresh = append(next[i], fresh[:n]...), fresh[n:]
			}
		}
	}
	left := 0
	for i, slice := range existing {
		switch {
		case len(next[i]) == 0 && (len(g.want) > 0 || left > 0):
			s.writes = append(s.writes, reconcile.Write{Op: reconcile.Delete, Object: slice})
			continue
		case changed(i) || !s.sameMeta(slice):
			s.update(slice, next[i])
		}
		left++
	}
	for chunk := range slices.Chunk(fresh, perSlice) {
		s.create(g, chunk)
	}
	if left == 0 && len(fresh) == 0 {
		s.create(g, nil)
	}
}

// keep is what stays in each slice, as it should be now, and what is in none.
func keep(g *group, existing []*discoveryv1.EndpointSlice) (next [][]discoveryv1.Endpoint, fresh []discoveryv1.Endpoint) {
	wanted := map[string]discoveryv1.Endpoint{}
	for _, ep := range g.want {
		wanted[id(ep)] = ep
	}
	for _, slice := range existing {
		var kept []discoveryv1.Endpoint
		for _, ep := range slice.Endpoints {
			if now, ok := wanted[id(ep)]; ok {
				kept = append(kept, now)
				delete(wanted, id(ep))
			}
		}
		next = append(next, kept)
	}
	for _, ep := range g.want {
		if _, ok := wanted[id(ep)]; ok {
			fresh = append(fresh, ep)
		}
	}
	return next, fresh
}

func id(ep discoveryv1.Endpoint) string {
	out := ""
	if len(ep.Addresses) > 0 {
		out = ep.Addresses[0]
	}
	if ep.TargetRef != nil {
		out += "/" + string(ep.TargetRef.UID)
	}
	return out
}

func (s *slicing) sameMeta(slice *discoveryv1.EndpointSlice) bool {
	return equality.Semantic.DeepEqual(slice.Labels, s.labels) && equality.Semantic.DeepEqual(slice.Annotations, s.annotations)
}

func (s *slicing) update(slice *discoveryv1.EndpointSlice, endpoints []discoveryv1.Endpoint) {
	slice = slice.DeepCopy()
	slice.Endpoints, slice.Labels, slice.Annotations = endpoints, s.labels, s.annotations
	s.writes = append(s.writes, reconcile.Write{Op: reconcile.Update, Object: slice})
}

func (s *slicing) create(g *group, endpoints []discoveryv1.Endpoint) {
	s.writes = append(s.writes, reconcile.Write{Op: reconcile.Create, Object: &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{
			Namespace:       s.Namespace,
			GenerateName:    s.Name + "-",
			Labels:          s.labels,
			Annotations:     s.annotations,
			OwnerReferences: []metav1.OwnerReference{*own.Ref(client.Row[corev1.Service](), s.Service)},
		},
		AddressType: g.family,
		Ports:       g.ports,
		Endpoints:   endpoints,
	}})
}
