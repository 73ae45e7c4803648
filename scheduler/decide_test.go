package scheduler

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	storagev1 "k8s.io/api/storage/v1"

	"proa/client"
)

// The explanations are what users, dashboards and autoscalers read.
func TestExplanations(t *testing.T) {
	const helpless = " preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling."
	const noVictim = " preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod."
	plain := aNode("a", "z1")
	for name, c := range map[string]struct {
		objs []client.Object
		pod  *corev1.Pod
		want string
	}{
		"no nodes":   {nil, aPod("p"), "no nodes available to schedule pods"},
		"fits":       {[]client.Object{plain}, aPod("p", cpu("4")), "a"},
		"never fits": {[]client.Object{plain}, aPod("p", cpu("5")), "0/1 nodes are available: 1 Insufficient cpu." + helpless},
		"full": {[]client.Object{plain, aPod("x", cpu("3"), on("a"))}, aPod("p", cpu("2")),
			"0/1 nodes are available: 1 Insufficient cpu." + noVictim},
		"several resources": {[]client.Object{plain, aPod("x", cpu("4"), asks("memory", "8Gi"), on("a"))}, aPod("p", cpu("1"), asks("memory", "1Gi")),
			"0/1 nodes are available: 1 Insufficient cpu, 1 Insufficient memory." + noVictim},
		"extended resource": {[]client.Object{plain}, aPod("p", asks("example.com/gpu", "1")), "0/1 nodes are available: 1 Insufficient example.com/gpu." + helpless},
		"too many pods": {[]client.Object{aNode("a", "z", func(n *corev1.Node) { n.Status.Allocatable[corev1.ResourcePods] = *plain.Status.Allocatable.Cpu() }),
			aPod("1", on("a")), aPod("2", on("a")), aPod("3", on("a")), aPod("4", on("a"))}, aPod("p"), "0/1 nodes are available: 1 Too many pods." + noVictim},
		"cordoned": {[]client.Object{aNode("a", "z", func(n *corev1.Node) { n.Spec.Unschedulable = true })}, aPod("p"),
			"0/1 nodes are available: 1 node(s) were unschedulable." + helpless},
		"tainted": {[]client.Object{aNode("a", "z", taint("k", corev1.TaintEffectNoSchedule))}, aPod("p"),
			"0/1 nodes are available: 1 node(s) had untolerated taint(s)." + helpless},
		"tolerated": {[]client.Object{aNode("a", "z", taint("k", corev1.TaintEffectNoExecute))}, aPod("p", spec(t, "tolerations: [{operator: Exists}]")), "a"},
		"selector":  {[]client.Object{plain}, aPod("p", spec(t, "nodeSelector: {x: y}")), "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector." + helpless},
		"host port": {[]client.Object{plain, aPod("x", on("a"), spec(t, "containers: [{name: c, ports: [{containerPort: 1, hostPort: 80, protocol: TCP}]}]"))},
			aPod("p", spec(t, "containers: [{name: c, ports: [{containerPort: 1, hostPort: 80, hostIP: 127.0.0.1, protocol: TCP}]}]")),
			"0/1 nodes are available: 1 node(s) didn't have free ports for the requested pod ports." + noVictim},
		"affinity": {[]client.Object{plain, aPod("x", on("a"), label("a", "b"))},
			aPod("p", spec(t, "affinity: {podAffinity: {requiredDuringSchedulingIgnoredDuringExecution: [{topologyKey: kubernetes.io/hostname, labelSelector: {matchLabels: {a: c}}}]}}")),
			"0/1 nodes are available: 1 node(s) didn't match pod affinity rules." + helpless},
		"affinity to itself": {[]client.Object{plain},
			aPod("p", label("a", "c"), spec(t, "affinity: {podAffinity: {requiredDuringSchedulingIgnoredDuringExecution: [{topologyKey: kubernetes.io/hostname, labelSelector: {matchLabels: {a: c}}}]}}")), "a"},
		"anti-affinity": {[]client.Object{plain, aPod("x", on("a"), label("a", "b"))},
			aPod("p", spec(t, "affinity: {podAntiAffinity: {requiredDuringSchedulingIgnoredDuringExecution: [{topologyKey: kubernetes.io/hostname, labelSelector: {matchLabels: {a: b}}}]}}")),
			"0/1 nodes are available: 1 node(s) didn't match pod anti-affinity rules." + noVictim},
		"others' anti-affinity": {[]client.Object{plain, aPod("x", on("a"), spec(t, "affinity: {podAntiAffinity: {requiredDuringSchedulingIgnoredDuringExecution: [{topologyKey: kubernetes.io/hostname, labelSelector: {matchLabels: {a: b}}}]}}"))},
			aPod("p", label("a", "b")), "0/1 nodes are available: 1 node(s) didn't satisfy existing pods anti-affinity rules." + noVictim},
		"spread": {[]client.Object{plain, aNode("b", "z2", taint("k", corev1.TaintEffectNoSchedule)), aPod("x", on("a"), label("a", "b"))},
			aPod("p", label("a", "b"), spec(t, "topologySpreadConstraints: [{maxSkew: 1, topologyKey: topology.kubernetes.io/zone, whenUnsatisfiable: DoNotSchedule, labelSelector: {matchLabels: {a: b}}}]")),
			"0/2 nodes are available: 1 node(s) didn't match pod topology spread constraints, 1 node(s) had untolerated taint(s)." +
				" preemption: 0/2 nodes are available: 1 No preemption victims found for incoming pod, 1 Preemption is not helpful for scheduling."},
		"spread without label": {[]client.Object{plain},
			aPod("p", spec(t, "topologySpreadConstraints: [{maxSkew: 1, topologyKey: rack, whenUnsatisfiable: DoNotSchedule, labelSelector: {}}]")),
			"0/1 nodes are available: 1 node(s) didn't match pod topology spread constraints (missing required label)." + helpless},
		"no claim": {[]client.Object{plain}, aPod("p", spec(t, "volumes: [{name: v, persistentVolumeClaim: {claimName: c}}]")),
			`0/1 nodes are available: persistentvolumeclaim "c" not found.` + helpless},
		"preemption never": {[]client.Object{plain}, aPod("p", cpu("5"), spec(t, "preemptionPolicy: Never")),
			"0/1 nodes are available: 1 Insufficient cpu. preemption: not eligible due to preemptionPolicy=Never."},
		"daemon's node": {[]client.Object{plain, aNode("b", "z")},
			aPod("p", cpu("5"), spec(t, "affinity: {nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [{matchFields: [{key: metadata.name, operator: In, values: [b]}]}]}}}")),
			"0/2 nodes are available: 1 Insufficient cpu, 1 node(s) didn't satisfy plugin(s) [NodeAffinity]. preemption: 0/2 nodes are available: 2 Preemption is not helpful for scheduling."},
	} {
		if got := verdictOn(world(t, c.objs...), c.pod); got != c.want {
			t.Errorf("%s:\ngot  %s\nwant %s", name, got, c.want)
		}
	}
}

func TestVolumes(t *testing.T) {
	const helpless = " preemption: 0/2 nodes are available: 2 Preemption is not helpful for scheduling."
	wants := spec(t, "volumes: [{name: v, persistentVolumeClaim: {claimName: c}}]")
	class := func(mode, provisioner string) client.Object {
		return parse[storagev1.StorageClass](t, "metadata: {name: s}\nprovisioner: "+provisioner+"\nvolumeBindingMode: "+mode)
	}
	claim := func(rest string) client.Object {
		return parse[corev1.PersistentVolumeClaim](t, "metadata: {name: c, namespace: default, annotations: {pv.kubernetes.io/bind-completed: 'yes'}}\nspec: {storageClassName: s, accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}"+rest+"}")
	}
	volume := parse[corev1.PersistentVolume](t, `metadata: {name: pv}
spec:
  storageClassName: s
  accessModes: [ReadWriteOnce]
  capacity: {storage: 2Gi}
  hostPath: {path: /x}
  nodeAffinity: {required: {nodeSelectorTerms: [{matchExpressions: [{key: kubernetes.io/hostname, operator: In, values: [b]}]}]}}
status: {phase: Available}`)
	for name, c := range map[string]struct {
		objs []client.Object
		want string
	}{
		"bound":               {[]client.Object{claim(", volumeName: pv"), volume}, "b"},
		"bound to nothing":    {[]client.Object{claim(", volumeName: pv")}, "0/2 nodes are available: 2 node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)." + helpless},
		"unbound":             {[]client.Object{claim(""), class("Immediate", "p"), volume}, "0/2 nodes are available: pod has unbound immediate PersistentVolumeClaims." + helpless},
		"waiting, volume":     {[]client.Object{claim(""), class("WaitForFirstConsumer", noProvisioner), volume}, "b"},
		"waiting, none":       {[]client.Object{claim(""), class("WaitForFirstConsumer", noProvisioner)}, "0/2 nodes are available: 2 node(s) didn't find available persistent volumes to bind." + helpless},
		"waiting, provisions": {[]client.Object{claim(""), class("WaitForFirstConsumer", "p")}, "a"},
	} {
		if got := verdictOn(world(t, append(c.objs, aNode("a", "z1"), aNode("b", "z2"))...), aPod("p", wants)); got != c.want {
			t.Errorf("%s:\ngot  %s\nwant %s", name, got, c.want)
		}
	}
}

func TestScores(t *testing.T) {
	nodes := []client.Object{aNode("a", "z1"), aNode("b", "z2"), aNode("c", "z2")}
	near := func(kind, value string) func(*corev1.Pod) {
		return spec(t, "affinity: {"+kind+": {preferredDuringSchedulingIgnoredDuringExecution: [{weight: 100, podAffinityTerm: {topologyKey: topology.kubernetes.io/zone, labelSelector: {matchLabels: {app: "+value+"}}}}]}}")
	}
	for name, c := range map[string]struct {
		objs []client.Object
		pod  *corev1.Pod
		want string
	}{
		"least used":     {[]client.Object{aPod("x", cpu("1"), on("a")), aPod("y", cpu("2"), on("b"))}, aPod("p", cpu("100m")), "c"},
		"soft taint":     {[]client.Object{aNode("a", "z1", taint("k", corev1.TaintEffectPreferNoSchedule)), aNode("b", "z2", taint("k", corev1.TaintEffectPreferNoSchedule))}, aPod("p"), "c"},
		"node affinity":  {nil, aPod("p", spec(t, "affinity: {nodeAffinity: {preferredDuringSchedulingIgnoredDuringExecution: [{weight: 1, preference: {matchExpressions: [{key: kubernetes.io/hostname, operator: In, values: [b]}]}}]}}")), "b"},
		"near":           {[]client.Object{aPod("x", label("app", "db"), cpu("1"), on("a"))}, aPod("p", near("podAffinity", "db")), "a"},
		"far":            {[]client.Object{aPod("x", label("app", "db"), on("b"))}, aPod("p", near("podAntiAffinity", "db")), "a"},
		"liked by other": {[]client.Object{aPod("x", on("a"), cpu("1"), near("podAffinity", "web"))}, aPod("p", label("app", "web")), "a"},
		"image": {[]client.Object{aNode("c", "z2", func(n *corev1.Node) {
			n.Status.Images = []corev1.ContainerImage{{Names: []string{"i:latest"}, SizeBytes: 900 << 20}}
		})}, aPod("p"), "c"},
		"spread over zones": {[]client.Object{parse[corev1.Service](t, "metadata: {name: s, namespace: default}\nspec: {ports: [{port: 80}], selector: {app: web}}"),
			aPod("x", label("app", "web"), on("b")), aPod("y", label("app", "web"), on("c"))}, aPod("p", label("app", "web")), "a"},
	} {
		objs := append([]client.Object(nil), c.objs...)
		for _, n := range nodes {
			if !has(objs, n.GetName()) {
				objs = append(objs, n)
			}
		}
		if got := verdictOn(world(t, objs...), c.pod); got != c.want {
			t.Errorf("%s: got %s, want %s", name, got, c.want)
		}
	}
}

func has(objs []client.Object, node string) bool {
	for _, obj := range objs {
		if n, ok := obj.(*corev1.Node); ok && n.Name == node {
			return true
		}
	}
	return false
}

func TestPreemption(t *testing.T) {
	high := func(change ...func(*corev1.Pod)) *corev1.Pod { return aPod("p", append(change, priority(100))...) }
	for name, c := range map[string]struct {
		objs []client.Object
		pod  *corev1.Pod
		want string
	}{
		"the fewest victims": {[]client.Object{aPod("x", cpu("1"), on("a")), aPod("y", cpu("3"), on("a"))}, high(cpu("3")), "room on a without y"},
		"not equals":         {[]client.Object{aPod("x", cpu("4"), on("a"), priority(100))}, high(cpu("1")), "0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod."},
		"the lowest priority": {[]client.Object{aNode("b", "z"), aPod("x", cpu("4"), on("a"), priority(50)), aPod("y", cpu("4"), on("b"), priority(10))},
			high(cpu("1")), "room on b without y"},
		"the youngest": {[]client.Object{aPod("old", cpu("2"), on("a"), startedAt(1)), aPod("young", cpu("2"), on("a"), startedAt(2))},
			high(cpu("2")), "room on a without young"},
		"keeps to a budget": {[]client.Object{aNode("b", "z"), aPod("x", cpu("4"), on("a"), label("app", "db")), aPod("y", cpu("4"), on("b"), priority(10)),
			parse[policyv1.PodDisruptionBudget](t, "metadata: {name: d, namespace: default}\nspec: {selector: {matchLabels: {app: db}}}\nstatus: {disruptionsAllowed: 0, currentHealthy: 0, desiredHealthy: 0, expectedPods: 0}")},
			high(cpu("1")), "room on b without y"},
		"who keeps it away": {[]client.Object{aPod("x", on("a"), spec(t, "affinity: {podAntiAffinity: {requiredDuringSchedulingIgnoredDuringExecution: [{topologyKey: topology.kubernetes.io/zone, labelSelector: {matchLabels: {a: b}}}]}}")), aPod("y", on("a"))},
			high(label("a", "b")), "room on a without x"},
	} {
		world := world(t, append(c.objs, aNode("a", "z1"))...)
		before := worldText(world)
		if got := verdictOn(world, c.pod); got != c.want {
			t.Errorf("%s:\ngot  %s\nwant %s", name, got, c.want)
		}
		if after := worldText(world); after != before {
			t.Errorf("%s: looking for victims changed the state:\n%s\n%s", name, before, after)
		}
	}
}

// A node that was cleared for a pod is not given to a lesser one meanwhile.
func TestNominatedNodeIsKept(t *testing.T) {
	c := world(t, aNode("a", "z"))
	c.nodes["a"].nominate(newPodInfo(aPod("promised", cpu("3"), priority(10))))
	if got := verdictOn(c, aPod("p", cpu("2"))); got == "a" {
		t.Error("a lesser pod took the room")
	}
	if got := verdictOn(c, aPod("q", cpu("2"), priority(20))); got != "a" {
		t.Error("a more important pod was held off: ", got)
	}
	if used := c.nodes["a"].used.cpu; used != 0 {
		t.Errorf("%d left behind", used)
	}
}
