package kubelet

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"proa/client"
)

// The rhythm of a node that is well (KEP-589): its lease often, its status when
// something changed, and else seldom.
const (
	leaseEvery  = 10 * time.Second
	leaseFor    = 40 * time.Second
	statusEvery = 5 * time.Minute
	maxImages   = 50 // listed in the node's status
)

// keepNode registers the node and keeps its status.
func (k *Kubelet) keepNode(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for wait := 200 * time.Millisecond; ; {
		select {
		case <-ctx.Done():
			return nil
		case <-k.relist:
		case <-timer.C:
		}
		if err := k.collectImages(ctx); err != nil && ctx.Err() == nil {
			k.log.Warn("unused images could not be looked for", "err", err)
		}
		if err := k.syncNode(ctx); err != nil && ctx.Err() == nil {
			k.log.Warn("the node's status could not be written and will be again", "node", k.cfg.NodeName, "err", err)
			timer.Reset(wait)
			wait = min(2*wait, time.Minute)
			continue
		}
		wait = 200 * time.Millisecond
		timer.Reset(statusEvery)
	}
}

// syncNode is syncOnce, again at once while others write the Node too.
func (k *Kubelet) syncNode(ctx context.Context) error {
	for tries := 0; ; tries++ {
		if err := k.syncOnce(ctx); !apierrors.IsConflict(err) || tries == 5 {
			return err
		}
	}
}

// syncOnce creates the Node if it is not there and brings its status up to date.
func (k *Kubelet) syncOnce(ctx context.Context) error {
	row, key := client.Row[corev1.Node](), client.Key{Name: k.cfg.NodeName}
	obj, err := k.cfg.Client.Get(ctx, row, key)
	if apierrors.IsNotFound(err) {
		obj, err = k.cfg.Client.Create(ctx, k.newNode())
		if err == nil {
			k.events.Event(obj, corev1.EventTypeNormal, "Starting", "Starting kubelet.")
		}
	}
	if err != nil {
		return err
	}
	old := obj.(*corev1.Node)
	node := old.DeepCopy()
	k.describe(node)
	if !maps.Equal(node.Labels, old.Labels) || node.Spec.PodCIDR != old.Spec.PodCIDR {
		if obj, err = k.cfg.Client.Update(ctx, node.DeepCopy(), ""); err != nil {
			return err
		}
		node.ResourceVersion = obj.GetResourceVersion()
	}
	k.condition(ctx, node, old)
	stale := time.Since(heartbeat(old)) >= statusEvery-time.Second
	if !stale && sameStatus(&old.Status, &node.Status) {
		return nil
	}
	k.tellTransitions(old, node)
	got, err := k.cfg.Client.Update(ctx, node, "status")
	if err == nil {
		k.own.Store(got.(*corev1.Node))
	}
	return err
}

// sameStatus compares without the times of heartbeats.
func sameStatus(a, b *corev1.NodeStatus) bool {
	x, y := a.DeepCopy(), b.DeepCopy()
	for _, s := range []*corev1.NodeStatus{x, y} {
		for i := range s.Conditions {
			s.Conditions[i].LastHeartbeatTime = metav1.Time{}
		}
	}
	return equality.Semantic.DeepEqual(x, y)
}

func heartbeat(n *corev1.Node) time.Time {
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeReady {
			return c.LastHeartbeatTime.Time
		}
	}
	return time.Time{}
}

func (k *Kubelet) newNode() *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: k.cfg.NodeName}}
	k.describe(n)
	return n
}

// describe sets labels, addresses and the facts of the machine; what others put
// on the node stays.
func (k *Kubelet) describe(n *corev1.Node) {
	if n.Labels == nil {
		n.Labels = map[string]string{}
	}
	host := strings.ToLower(k.cfg.NodeName)
	for name, v := range map[string]string{
		corev1.LabelHostname: host, corev1.LabelOSStable: k.machine.info.OperatingSystem, corev1.LabelArchStable: k.machine.info.Architecture,
		"beta.kubernetes.io/os": k.machine.info.OperatingSystem, "beta.kubernetes.io/arch": k.machine.info.Architecture,
	} {
		n.Labels[name] = v
	}
	if k.cfg.PodCIDR.IsValid() && n.Spec.PodCIDR == "" {
		n.Spec.PodCIDR = k.cfg.PodCIDR.String()
		n.Spec.PodCIDRs = []string{n.Spec.PodCIDR}
	}
	st := &n.Status
	st.Addresses = nil
	for _, a := range k.cfg.NodeIPs {
		st.Addresses = append(st.Addresses, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: a.String()})
	}
	st.Addresses = append(st.Addresses, corev1.NodeAddress{Type: corev1.NodeHostName, Address: host})
	if st.Capacity == nil {
		st.Capacity = corev1.ResourceList{}
	}
	if st.Allocatable == nil {
		st.Allocatable = corev1.ResourceList{}
	}
	maps.Copy(st.Capacity, k.node.Capacity) // extended resources that others advertise stay
	maps.Copy(st.Allocatable, k.node.Allocatable)
	st.NodeInfo = k.machine.info
	st.NodeInfo.ContainerRuntimeVersion = k.runtime + "://" + k.version
	st.DaemonEndpoints.KubeletEndpoint.Port = int32(k.cfg.Port)
}

// condition sets the node's conditions, images and what the runtime offers.
func (k *Kubelet) condition(ctx context.Context, n, old *corev1.Node) {
	ready := corev1.NodeCondition{Type: corev1.NodeReady, Status: corev1.ConditionTrue, Reason: "KubeletReady", Message: "kubelet is posting ready status"}
	st, err := k.cfg.Runtime.Status(ctx, false)
	if err != nil {
		ready.Status, ready.Reason, ready.Message = corev1.ConditionFalse, "KubeletNotReady", "container runtime is down: "+err.Error()
	} else {
		for _, c := range st.GetStatus().GetConditions() {
			if !c.Status {
				ready.Status, ready.Reason = corev1.ConditionFalse, "KubeletNotReady"
				ready.Message = "container runtime condition not satisfied: " + c.Type + " reason:" + c.Reason + " message:" + c.Message
			}
		}
		n.Status.RuntimeHandlers = handlers(st.RuntimeHandlers)
		supplemental := st.GetFeatures().GetSupplementalGroupsPolicy()
		n.Status.Features = &corev1.NodeFeatures{SupplementalGroupsPolicy: &supplemental}
	}
	for _, c := range []corev1.NodeCondition{
		pressure(corev1.NodeMemoryPressure, lowMemory(), "KubeletHasSufficientMemory", "kubelet has sufficient memory available",
			"KubeletHasInsufficientMemory", "kubelet has insufficient memory available"),
		pressure(corev1.NodeDiskPressure, lowDisk(k.cfg.Root), "KubeletHasNoDiskPressure", "kubelet has no disk pressure",
			"KubeletHasDiskPressure", "kubelet has disk pressure"),
		pressure(corev1.NodePIDPressure, lowPIDs(), "KubeletHasSufficientPID", "kubelet has sufficient PID available",
			"KubeletHasInsufficientPID", "kubelet has insufficient PID available"),
		ready,
	} {
		setNodeCondition(&n.Status, c)
	}
	if images, err := k.listImages(ctx); err == nil {
		n.Status.Images = images
	}
}

func pressure(t corev1.NodeConditionType, low bool, good, goodText, bad, badText string) corev1.NodeCondition {
	if low {
		return corev1.NodeCondition{Type: t, Status: corev1.ConditionTrue, Reason: bad, Message: badText}
	}
	return corev1.NodeCondition{Type: t, Status: corev1.ConditionFalse, Reason: good, Message: goodText}
}

func setNodeCondition(st *corev1.NodeStatus, c corev1.NodeCondition) {
	c.LastHeartbeatTime, c.LastTransitionTime = metav1.Now(), metav1.Now()
	i := slices.IndexFunc(st.Conditions, func(o corev1.NodeCondition) bool { return o.Type == c.Type })
	if i < 0 {
		st.Conditions = append(st.Conditions, c)
		return
	}
	if st.Conditions[i].Status == c.Status {
		c.LastTransitionTime = st.Conditions[i].LastTransitionTime
	}
	st.Conditions[i] = c
}

func (k *Kubelet) listImages(ctx context.Context) ([]corev1.ContainerImage, error) {
	list, err := k.cfg.Images.ListImages(ctx, nil)
	if err != nil {
		return nil, err
	}
	var out []corev1.ContainerImage
	for _, i := range list {
		if names := slices.Concat(i.RepoDigests, i.RepoTags); len(names) > 0 {
			out = append(out, corev1.ContainerImage{Names: names[:min(len(names), 5)], SizeBytes: int64(i.Size)})
		}
	}
	slices.SortFunc(out, func(a, b corev1.ContainerImage) int {
		return cmp.Or(cmp.Compare(b.SizeBytes, a.SizeBytes), cmp.Compare(a.Names[0], b.Names[0]))
	})
	return out[:min(len(out), maxImages)], nil
}

// tellTransitions records the events of a node that becomes ready or ceases to be.
func (k *Kubelet) tellTransitions(old, now *corev1.Node) {
	reasons := map[corev1.ConditionStatus]string{corev1.ConditionTrue: "NodeReady", corev1.ConditionFalse: "NodeNotReady"}
	status := func(n *corev1.Node) corev1.ConditionStatus {
		for _, c := range n.Status.Conditions {
			if c.Type == corev1.NodeReady {
				return c.Status
			}
		}
		return ""
	}
	if s := status(now); s != status(old) {
		k.events.Eventf(now, corev1.EventTypeNormal, reasons[s], "Node %s status is now: %s", now.Name, reasons[s])
	}
}

// keepLease renews the node's lease, which says that it is alive.
func (k *Kubelet) keepLease(ctx context.Context) error {
	var lease *coordinationv1.Lease
	timer := time.NewTimer(0)
	defer timer.Stop()
	for wait := 200 * time.Millisecond; ; {
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
		}
		next, err := k.renew(ctx, lease)
		lease = next
		if err != nil && ctx.Err() == nil {
			k.log.Debug("the node's lease could not be renewed", "err", err)
			timer.Reset(wait)
			wait = min(2*wait, 7*time.Second)
			continue
		}
		wait = 200 * time.Millisecond
		timer.Reset(leaseEvery)
	}
}

// renew writes the lease over the one that was written last; after any error the
// next try reads it first.
func (k *Kubelet) renew(ctx context.Context, last *coordinationv1.Lease) (*coordinationv1.Lease, error) {
	row, key := client.Row[coordinationv1.Lease](), client.Key{Namespace: corev1.NamespaceNodeLease, Name: k.cfg.NodeName}
	if last == nil {
		obj, err := k.cfg.Client.Get(ctx, row, key)
		if err != nil && !apierrors.IsNotFound(err) {
			return nil, err
		}
		last, _ = obj.(*coordinationv1.Lease)
	}
	now, seconds := metav1.NowMicro(), int32(leaseFor/time.Second)
	next := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: key.Namespace, Name: key.Name}}
	if last != nil {
		next = last.DeepCopy()
	}
	if n := k.own.Load(); n != nil && len(next.OwnerReferences) == 0 {
		next.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: n.Name, UID: n.UID}}
	}
	next.Spec.HolderIdentity, next.Spec.LeaseDurationSeconds, next.Spec.RenewTime = &k.cfg.NodeName, &seconds, &now
	write := func() (client.Object, error) { return k.cfg.Client.Update(ctx, next, "") }
	if last == nil {
		write = func() (client.Object, error) { return k.cfg.Client.Create(ctx, next) }
	}
	obj, err := write()
	if err != nil {
		return nil, err
	}
	return obj.(*coordinationv1.Lease), nil
}

// handlers lists what RuntimeClasses may name.
func handlers(list []*cri.RuntimeHandler) []corev1.NodeRuntimeHandler {
	var out []corev1.NodeRuntimeHandler
	for _, h := range list {
		f := h.GetFeatures()
		rro, userns := f.GetRecursiveReadOnlyMounts(), f.GetUserNamespaces()
		out = append(out, corev1.NodeRuntimeHandler{Name: h.Name,
			Features: &corev1.NodeRuntimeHandlerFeatures{RecursiveReadOnlyMounts: &rro, UserNamespaces: &userns}})
	}
	return out
}

// runtimeHandler is the runtime's name for a RuntimeClass.
func (k *Kubelet) runtimeHandler(ctx context.Context, class string) (string, error) {
	obj, err := k.cfg.Client.Get(ctx, client.Row[nodev1.RuntimeClass](), client.Key{Name: class})
	if err != nil {
		return "", err
	}
	return obj.(*nodev1.RuntimeClass).Handler, nil
}
