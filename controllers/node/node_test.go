package node

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"proa/client"
	"proa/client/clienttest"
	"proa/controllers/pods"
	"proa/controllers/simulation"
)

func node(name string, status corev1.ConditionStatus) *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, UID: "u-" + "x"}}
	n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: status}}
	return n
}

func beat(c *simulation.Cluster, name string) {
	now := metav1.NowMicro()
	c.Inject(&coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: corev1.NamespaceNodeLease, Name: name, UID: "l"},
		Spec: coordinationv1.LeaseSpec{RenewTime: &now}})
}

// beating renews leases every 10 s for some time.
func beating(c *simulation.Cluster, d time.Duration, names ...string) {
	for range d / (10 * time.Second) {
		for _, n := range names {
			beat(c, n)
		}
		time.Sleep(10 * time.Second)
	}
}

func taints(c *simulation.Cluster, name string) string {
	var out []string
	for _, t := range client.Get[corev1.Node](c.View(), "", name).Spec.Taints {
		out = append(out, strings.TrimPrefix(t.Key, "node.kubernetes.io/")+":"+string(t.Effect))
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

func pod(name, node string, tolerationSeconds int64) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name}, Spec: corev1.PodSpec{NodeName: node, Containers: []corev1.Container{{Name: "c", Image: "i"}}}}
	for _, key := range []string{corev1.TaintNodeNotReady, corev1.TaintNodeUnreachable} {
		p.Spec.Tolerations = append(p.Spec.Tolerations, corev1.Toleration{Key: key, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: &tolerationSeconds})
	}
	return p
}

func want(t *testing.T, what, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("%s: got %q, want %q", what, got, want)
	}
}

func TestSilentNodeIsMarkedTaintedAndEmptied(t *testing.T) {
	simulation.Run(t, nil, func(ctx context.Context, c *simulation.Cluster) {
		for _, n := range []string{"a", "b", "c"} {
			c.Inject(node(n, corev1.ConditionTrue))
		}
		if _, err := c.Create(ctx, pod("p", "a", 300)); err != nil {
			t.Fatal(err)
		}
		beating(c, 5*time.Minute, "a", "b", "c")
		want(t, "alive", taints(c, "a"), "")
		beating(c, 30*time.Second, "b", "c")
		want(t, "silent for less than 50 s", string(readiness(client.Get[corev1.Node](c.View(), "", "a"))), "True")
		beating(c, 30*time.Second, "b", "c")
		ready := condition(client.Get[corev1.Node](c.View(), "", "a"), corev1.NodeReady)
		want(t, "silent", string(ready.Status)+" "+ready.Reason, "Unknown NodeStatusUnknown")
		want(t, "silent", taints(c, "a"), "unreachable:NoExecute unreachable:NoSchedule")
		if p := client.Get[corev1.Pod](c.View(), "ns", "p"); pods.Ready(p) || p.DeletionTimestamp != nil {
			t.Errorf("the pod should be there and not ready: %+v", p.Status)
		}
		beating(c, 280*time.Second, "b", "c")
		if client.Get[corev1.Pod](c.View(), "ns", "p") == nil {
			t.Error("evicted too early")
		}
		beating(c, 30*time.Second, "b", "c")
		if client.Get[corev1.Pod](c.View(), "ns", "p") != nil {
			t.Error("not evicted")
		}
		n := client.Get[corev1.Node](c.View(), "", "a").DeepCopy()
		condition(n, corev1.NodeReady).Status = corev1.ConditionTrue
		c.Inject(n)
		beating(c, 10*time.Second, "a", "b", "c")
		want(t, "back", taints(c, "a"), "")
	}, Lifecycle(), Evictor())
}

func TestOnlyNodeIsNeverEmptied(t *testing.T) {
	simulation.Run(t, nil, func(ctx context.Context, c *simulation.Cluster) {
		c.Inject(node("a", corev1.ConditionTrue))
		if _, err := c.Create(ctx, pod("p", "a", 300)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		want(t, "silent", taints(c, "a"), "unreachable:NoSchedule")
		if client.Get[corev1.Pod](c.View(), "ns", "p") == nil {
			t.Error("evicted although all nodes are silent")
		}
	}, Lifecycle(), Evictor())
}

// TestOldLeaseIsNoSilence is a control plane that was down, or a laptop that
// was suspended: what counts is what this process has heard.
func TestOldLeaseIsNoSilence(t *testing.T) {
	prepare := func(c *simulation.Cluster) {
		old := metav1.NewMicroTime(time.Now().Add(-24 * time.Hour))
		c.Inject(node("a", corev1.ConditionTrue))
		c.Inject(&coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: corev1.NamespaceNodeLease, Name: "a", UID: "l"}, Spec: coordinationv1.LeaseSpec{RenewTime: &old}})
	}
	simulation.Run(t, prepare, func(ctx context.Context, c *simulation.Cluster) {
		time.Sleep(30 * time.Second)
		beating(c, time.Hour, "a")
		want(t, "alive", string(readiness(client.Get[corev1.Node](c.View(), "", "a")))+taints(c, "a"), "True")
	}, Lifecycle())
}

func TestTaintsFollowConditions(t *testing.T) {
	n := node("a", corev1.ConditionFalse)
	n.Spec.Unschedulable = true
	n.Spec.Taints = []corev1.Taint{{Key: "mine", Effect: corev1.TaintEffectNoExecute}, {Key: corev1.TaintNodeDiskPressure, Effect: corev1.TaintEffectNoSchedule}}
	n.Status.Conditions = append(n.Status.Conditions, corev1.NodeCondition{Type: corev1.NodeMemoryPressure, Status: corev1.ConditionTrue})
	var got []string
	for _, taint := range taintsFor(clienttest.World(n, node("b", corev1.ConditionTrue)), n, time.Now()) {
		got = append(got, taint.Key+":"+string(taint.Effect))
	}
	slices.Sort(got)
	want(t, "taints", strings.Join(got, " "), "mine:NoExecute node.kubernetes.io/memory-pressure:NoSchedule node.kubernetes.io/not-ready:NoExecute node.kubernetes.io/not-ready:NoSchedule node.kubernetes.io/unschedulable:NoSchedule")
}

func TestEvictionRules(t *testing.T) {
	now := time.Unix(1e9, 0)
	for _, tc := range []struct {
		name   string
		tols   string // key/operator/value/seconds, "," between
		taints string
		after  string
	}{
		{"no taint", "", "", "stays"},
		{"not tolerated", "", "k", "goes"},
		{"tolerated for ever", "k/Exists//", "k", "stays"},
		{"everything is tolerated", "/Exists//", "k j", "stays"},
		{"one of two", "k/Exists//", "k j", "goes"},
		{"for a while", "k/Exists//60", "k", "50s"},
		{"the shortest counts", "k/Exists//60,j/Exists//30", "k j", "20s"},
		{"time is over", "k/Exists//10", "k", "goes"},
		{"other value", "k/Equal/v/", "k", "goes"},
	} {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p"}}
		for _, s := range strings.FieldsFunc(tc.tols, func(r rune) bool { return r == ',' }) {
			f := strings.Split(s, "/")
			tol := corev1.Toleration{Key: f[0], Operator: corev1.TolerationOperator(f[1]), Value: f[2]}
			if f[3] != "" {
				var n int64
				_, _ = fmt.Sscan(f[3], &n)
				tol.TolerationSeconds = &n
			}
			p.Spec.Tolerations = append(p.Spec.Tolerations, tol)
		}
		n := node("a", corev1.ConditionTrue)
		for _, k := range strings.Fields(tc.taints) {
			n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: k, Effect: corev1.TaintEffectNoExecute})
		}
		plan := decideEviction(p, n, now, now.Add(-10*time.Second))
		got := "stays"
		if len(plan.Writes) > 0 {
			got = "goes"
		} else if plan.After > 0 {
			got = plan.After.String()
		}
		want(t, tc.name, got, tc.after)
	}
}

func TestPodsOfGoneNodesAreRemoved(t *testing.T) {
	simulation.Run(t, func(c *simulation.Cluster) { c.Stop = func(*corev1.Pod) time.Duration { return time.Hour } }, func(ctx context.Context, c *simulation.Cluster) {
		c.Inject(node("a", corev1.ConditionTrue))
		c.Inject(node("b", corev1.ConditionTrue))
		for _, n := range []string{"a", "b"} {
			if _, err := c.Create(ctx, pod("on-"+n, n, 300)); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(5 * time.Second)
		for _, n := range []string{"a", "b"} {
			if err := c.Delete(ctx, client.Row[corev1.Node](), client.Key{Name: n}, metav1.DeleteOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(30 * time.Second)
		c.Inject(node("b", corev1.ConditionTrue)) // registers again in time
		time.Sleep(30 * time.Second)
		if client.Get[corev1.Pod](c.View(), "ns", "on-a") != nil || client.Get[corev1.Pod](c.View(), "ns", "on-b") == nil {
			t.Error("wanted on-a gone and on-b there")
		}
	}, PodGC())
}

func TestRanges(t *testing.T) {
	simulation.Run(t, nil, func(ctx context.Context, c *simulation.Cluster) {
		for i := range 300 {
			c.Inject(node(fmt.Sprintf("n%03d", i), corev1.ConditionTrue))
		}
		time.Sleep(time.Second)
		seen := map[string]int{}
		for n := range client.List[corev1.Node](c.View(), "") {
			seen[n.Spec.PodCIDR]++
		}
		if len(seen) != 257 || seen[""] != 300-256 || seen["10.42.0.0/24"] != 1 || seen["10.42.255.0/24"] != 1 {
			t.Errorf("%d ranges, %d nodes without", len(seen), seen[""])
		}
	}, Ranges(netip.MustParsePrefix("10.42.0.0/16")))
	if p, ok := firstFree(netip.MustParsePrefix("fd00::/63"), map[netip.Prefix]bool{netip.MustParsePrefix("fd00::/64"): true}); !ok || p.String() != "fd00:0:0:1::/64" {
		t.Errorf("IPv6 range %v", p)
	}
}
