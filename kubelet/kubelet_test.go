package kubelet

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"proa/client"
	"proa/client/clienttest"
)

// bench is a kubelet over a fake runtime and an API server in memory.
type bench struct {
	t      testing.TB
	client *clienttest.Client
	cri    *fakeCRI
	k      *Kubelet
	root   string
	cgroup string
	stop   func()
}

var benches atomic.Int64

func newBench(t *testing.T, objs ...client.Object) *bench {
	b := &bench{t: t, client: clienttest.New(objs...), cri: newFakeCRI(), root: t.TempDir(),
		cgroup: fmt.Sprintf("proa-kubelet-test-%d-%d", os.Getpid(), benches.Add(1))}
	b.start()
	t.Cleanup(func() {
		b.stop()
		for _, uid := range b.k.volumes.Pods() {
			if err := b.k.volumes.Teardown(uid); err != nil {
				t.Error(err)
			}
		}
		if err := b.k.cgroups.Remove("/" + b.cgroup); err != nil {
			t.Error(err)
		}
	})
	return b
}

// start runs the kubelet; after stop it may be called again, which is a restart.
func (b *bench) start() {
	k, err := New(Config{
		NodeName: "n1", NodeIPs: []netip.Addr{netip.MustParseAddr("192.0.2.1")}, Client: b.client, Runtime: b.cri, Images: fakeImages{fakeCRI: b.cri},
		Root: b.root, CgroupRoot: b.cgroup, ClusterDNS: []netip.Addr{netip.MustParseAddr("10.96.0.10")}, ClusterDomain: "cluster.local",
		Log: slog.New(slog.NewTextHandler(b.t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug})),
	})
	if err != nil {
		b.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- k.Run(ctx) }()
	b.k = k
	stopped := false
	b.stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			b.t.Error("Run:", err)
		}
	}
}

func testPod(name string, containers ...corev1.Container) *corev1.Pod {
	if len(containers) == 0 {
		containers = []corev1.Container{{Name: "app", Image: "app:1"}}
	}
	for i := range containers {
		if containers[i].Image == "" {
			containers[i].Image = "app:1"
		}
	}
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
		Spec: corev1.PodSpec{NodeName: "n1", Containers: containers}}
}

func (b *bench) create(p *corev1.Pod) *corev1.Pod {
	b.t.Helper()
	obj, err := b.client.Create(context.Background(), p)
	if err != nil {
		b.t.Fatal(err)
	}
	return obj.(*corev1.Pod)
}

func (b *bench) pod(name string) *corev1.Pod {
	return client.Get[corev1.Pod](b.client.View(), "default", name)
}

// await waits for the pod to become so, and returns it.
func (b *bench) await(name, what string, so func(*corev1.Pod) bool) *corev1.Pod {
	b.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(2 * time.Millisecond) {
		if p := b.pod(name); so(p) {
			return p
		}
	}
	if p := b.pod(name); p != nil {
		b.t.Fatalf("pod %s does not become %s: %+v\ncalls %q", name, what, p.Status, b.cri.log())
	}
	b.t.Fatalf("pod %s does not become %s: it is gone", name, what)
	return nil
}

func gone(p *corev1.Pod) bool { return p == nil }

func phase(want corev1.PodPhase) func(*corev1.Pod) bool {
	return func(p *corev1.Pod) bool { return p != nil && p.Status.Phase == want }
}

func ready(p *corev1.Pod) bool {
	return p != nil && slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}

func waiting(reason string) func(*corev1.Pod) bool {
	return func(p *corev1.Pod) bool {
		return p != nil && len(p.Status.ContainerStatuses) > 0 && p.Status.ContainerStatuses[0].State.Waiting != nil &&
			p.Status.ContainerStatuses[0].State.Waiting.Reason == reason
	}
}

func restarts(n int32) func(*corev1.Pod) bool {
	return func(p *corev1.Pod) bool {
		return p != nil && len(p.Status.ContainerStatuses) > 0 && p.Status.ContainerStatuses[0].RestartCount == n && p.Status.ContainerStatuses[0].State.Running != nil
	}
}

func (b *bench) awaitEvent(reason, part string) {
	b.t.Helper()
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		for e := range client.List[corev1.Event](b.client.View(), "default") {
			if e.Reason == reason && strings.Contains(e.Message, part) {
				return
			}
		}
	}
	b.t.Fatalf("no event %s %q", reason, part)
}

func TestPodRuns(t *testing.T) {
	b := newBench(t)
	b.create(testPod("a"))
	p := b.await("a", "ready", ready)
	if p.Status.PodIP != "10.9.0.1" || p.Status.HostIP != "192.0.2.1" || p.Status.StartTime == nil {
		t.Errorf("addresses and start: %+v", p.Status)
	}
	s := p.Status.ContainerStatuses[0]
	if !strings.HasPrefix(s.ContainerID, "proa://container") || s.ImageID != "sha256:aa" || s.Image != "app:1" || !*s.Started {
		t.Errorf("container status %+v", s)
	}
	b.awaitEvent("Started", "Container started")
	rec := httptest.NewRecorder()
	b.k.Handler().ServeHTTP(rec, httptest.NewRequest("GET", "/containerLogs/default/a/app", nil))
	if rec.Body.String() != "hello from app0\n" {
		t.Errorf("log %q", rec.Body.String())
	}
	hosts, err := os.ReadFile(filepath.Join(b.root, "pods", string(p.UID), "etc-hosts"))
	if err != nil || !strings.Contains(string(hosts), "10.9.0.1\ta\n") {
		t.Errorf("hosts %q %v", hosts, err)
	}
	node := client.Get[corev1.Node](b.client.View(), "", "n1")
	if node == nil || node.Status.NodeInfo.KubeletVersion != Version {
		t.Errorf("node %+v", node)
	}
}

func TestRestartAndBackoff(t *testing.T) {
	b := newBench(t)
	b.create(testPod("a"))
	b.await("a", "running", ready)
	b.cri.end("app", 3)
	p := b.await("a", "restarted", restarts(1))
	if last := p.Status.ContainerStatuses[0].LastTerminationState.Terminated; last == nil || last.ExitCode != 3 || last.Reason != "Error" {
		t.Errorf("last state %+v", p.Status.ContainerStatuses[0])
	}
	b.cri.end("app", 4)
	p = b.await("a", "in back-off", waiting("CrashLoopBackOff"))
	want := fmt.Sprintf("back-off 10s restarting failed container=app pod=a_default(%s)", p.UID)
	if got := p.Status.ContainerStatuses[0].State.Waiting.Message; got != want || p.Status.Phase != corev1.PodRunning {
		t.Errorf("message %q, want %q; phase %s", got, want, p.Status.Phase)
	}
	b.awaitEvent("BackOff", "Back-off restarting failed container app in pod a_default")
	rec := httptest.NewRecorder()
	b.k.Handler().ServeHTTP(rec, httptest.NewRequest("GET", "/containerLogs/default/a/app?previous=true", nil))
	if rec.Body.String() != "hello from app1\n" {
		t.Errorf("previous log of a container that waits is its last: %q", rec.Body.String())
	}
}

func TestDeletion(t *testing.T) {
	b := newBench(t)
	var order []string
	p := testPod("a", corev1.Container{Name: "app", Lifecycle: &corev1.Lifecycle{PreStop: &corev1.LifecycleHandler{Exec: &corev1.ExecAction{Command: []string{"bye"}}}}})
	p.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{Medium: corev1.StorageMediumMemory}}}}
	b.k.cfg.BeforeStop = func(context.Context, *corev1.Pod) { order = append(order, "drain") }
	p = b.create(p)
	b.await("a", "ready", ready)
	if err := b.client.Delete(context.Background(), client.Row[corev1.Pod](), client.KeyOf(p), metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	b.await("a", "gone", gone)
	for deadline := time.Now().Add(5 * time.Second); b.k.worker(p.UID) != nil && time.Now().Before(deadline); time.Sleep(time.Millisecond) {
	}
	calls := strings.Join(b.cri.log(), "\n")
	at := func(s string) int {
		i := strings.Index(calls, s)
		if i < 0 {
			t.Errorf("no %s in\n%s", s, calls)
		}
		return i
	}
	if len(order) != 1 || !(at("ExecSync bye") < at("StopContainer app") && at("StopContainer app") < at("StopPodSandbox") && at("StopPodSandbox") < at("RemovePodSandbox")) {
		t.Errorf("order %v\n%s", order, calls)
	}
	for _, dir := range []string{filepath.Join(b.root, "pods", string(p.UID)), filepath.Join(b.root, "logs", "default_a_"+string(p.UID))} {
		if _, err := os.Stat(dir); !os.IsNotExist(err) {
			t.Errorf("%s is left: %v", dir, err)
		}
	}
	if left := b.k.cgroups.Pods(b.cgroup); len(left) > 0 {
		t.Errorf("cgroups are left: %v", left)
	}
}

func TestGraceIsShortenedByASecondDelete(t *testing.T) {
	b := newBench(t)
	b.cri.ignoreTERM = true
	p := b.create(testPod("a"))
	b.await("a", "ready", ready)
	begun := time.Now()
	for _, grace := range []int64{60, 1} {
		if err := b.client.Delete(context.Background(), client.Row[corev1.Pod](), client.KeyOf(p), metav1.DeleteOptions{GracePeriodSeconds: &grace}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(100 * time.Millisecond)
	}
	b.await("a", "gone", gone)
	if took := time.Since(begun); took < time.Second || took > 10*time.Second {
		t.Errorf("the pod was gone after %v", took)
	}
}

func TestKubeletRestartLeavesContainersAlone(t *testing.T) {
	b := newBench(t)
	b.create(testPod("a", corev1.Container{Name: "app", ReadinessProbe: &corev1.Probe{ProbeHandler: corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"ok"}}}}}))
	b.await("a", "ready", ready)
	b.cri.end("app", 1)
	before := b.await("a", "restarted", restarts(1))
	b.await("a", "ready", ready)
	b.stop()
	starts := func() (n int) {
		for _, c := range b.cri.log() {
			if strings.HasPrefix(c, "StartContainer") {
				n++
			}
		}
		return n
	}
	n := starts()
	b.start()
	time.Sleep(300 * time.Millisecond)
	p := b.pod("a")
	if starts() != n || p.Status.ContainerStatuses[0].ContainerID != before.Status.ContainerStatuses[0].ContainerID || !ready(p) {
		t.Errorf("the restart of the kubelet showed: %+v", p.Status)
	}
	b.cri.end("app", 1)
	b.await("a", "in back-off, which the new kubelet knows", waiting("CrashLoopBackOff"))
}

func TestPodsThatTheAPILostAreEnded(t *testing.T) {
	b := newBench(t)
	p := b.create(testPod("a"))
	b.await("a", "ready", ready)
	b.stop()
	zero := int64(0)
	if err := b.client.Delete(context.Background(), client.Row[corev1.Pod](), client.KeyOf(p), metav1.DeleteOptions{GracePeriodSeconds: &zero}); err != nil {
		t.Fatal(err)
	}
	b.start()
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		b.cri.mu.Lock()
		left := len(b.cri.sandboxes) + len(b.cri.containers)
		b.cri.mu.Unlock()
		if left == 0 {
			return
		}
	}
	t.Errorf("the pod still runs: %q", b.cri.log())
}

func TestReboot(t *testing.T) {
	b := newBench(t)
	b.create(testPod("a"))
	b.await("a", "ready", ready)
	b.stop()
	clear(b.cri.sandboxes)
	clear(b.cri.containers)
	b.start()
	p := b.await("a", "running again", restarts(1))
	if last := p.Status.ContainerStatuses[0].LastTerminationState.Terminated; last == nil || last.Reason != "ContainerStatusUnknown" || last.ExitCode != 137 {
		t.Errorf("last state %+v", p.Status.ContainerStatuses[0])
	}
}

func TestImageErrors(t *testing.T) {
	b := newBench(t)
	b.cri.sticky = true
	b.cri.fail("PullImage", errors.New("no such host"))
	b.create(testPod("a", corev1.Container{Name: "app", Image: "missing:1"}))
	b.await("a", "failing to pull", waiting("ErrImagePull"))
	p := b.await("a", "in back-off", waiting("ImagePullBackOff"))
	if got := p.Status.ContainerStatuses[0].State.Waiting.Message; got != `Back-off pulling image "missing:1": ErrImagePull: no such host` {
		t.Error(got)
	}
	b.awaitEvent("Failed", `Failed to pull image "missing:1": no such host`)
	b.awaitEvent("BackOff", `Back-off pulling image "missing:1"`)
	b.create(testPod("b", corev1.Container{Name: "app", Image: "missing:1", ImagePullPolicy: corev1.PullNever}))
	b.await("b", "refused", waiting("ErrImageNeverPull"))
	b.create(testPod("c", corev1.Container{Name: "app", Image: "Bad::Name"}))
	b.await("c", "refused", waiting("InvalidImageName"))
}

func TestSharedPull(t *testing.T) {
	b := newBench(t)
	b.cri.slowPull = 500 * time.Millisecond
	first := b.create(testPod("a", corev1.Container{Name: "app", Image: "far:1"}))
	b.create(testPod("b", corev1.Container{Name: "app", Image: "far:1"}))
	time.Sleep(200 * time.Millisecond)
	if err := b.client.Delete(context.Background(), client.Row[corev1.Pod](), client.KeyOf(first), metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	b.await("a", "gone before its image came", gone)
	b.await("b", "ready", ready)
	n := 0
	for _, c := range b.cri.log() {
		if c == "PullImage far:1" {
			n++
		}
	}
	if n != 1 {
		t.Errorf("the image was pulled %d times", n)
	}
}

func TestMissingReferencesAndRecovery(t *testing.T) {
	b := newBench(t)
	b.create(testPod("a", corev1.Container{Name: "app", Env: []corev1.EnvVar{{Name: "X", ValueFrom: &corev1.EnvVarSource{
		ConfigMapKeyRef: &corev1.ConfigMapKeySelector{LocalObjectReference: corev1.LocalObjectReference{Name: "cm"}, Key: "x"}}}}}))
	p := b.await("a", "waiting for its config map", waiting("CreateContainerConfigError"))
	if got := p.Status.ContainerStatuses[0].State.Waiting.Message; got != `configmap "cm" not found` {
		t.Error(got)
	}
	if _, err := b.client.Create(context.Background(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "cm"}, Data: map[string]string{"x": "1"}}); err != nil {
		t.Fatal(err)
	}
	b.await("a", "ready", ready)
	b.create(func() *corev1.Pod {
		p := testPod("b")
		p.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "s"}}}}
		return p
	}())
	b.awaitEvent("FailedMount", `MountVolume.SetUp failed for volume "v" : secret "s" not found`)
	if _, err := b.client.Create(context.Background(), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "s"}, Data: map[string][]byte{"k": []byte("v1")}}); err != nil {
		t.Fatal(err)
	}
	p = b.await("b", "ready", ready)
	file := filepath.Join(b.root, "pods", string(p.UID), "volumes/kubernetes.io~secret/v/k")
	if got, _ := os.ReadFile(file); string(got) != "v1" {
		t.Errorf("secret %q", got)
	}
	s := client.Get[corev1.Secret](b.client.View(), "default", "s").DeepCopy()
	s.Data["k"] = []byte("v2")
	if _, err := b.client.Update(context.Background(), s, ""); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		if got, _ := os.ReadFile(file); string(got) == "v2" {
			return
		}
	}
	t.Error("the secret's new content does not arrive")
}

type exitError int

func (e exitError) Error() string   { return fmt.Sprintf("exit %d", int(e)) }
func (e exitError) ExitStatus() int { return int(e) }

func TestProbes(t *testing.T) {
	b := newBench(t)
	var unready atomic.Bool
	var sick atomic.Value // the instance that is
	sick.Store("")
	unready.Store(true)
	b.cri.execs = func(id string, cmd []string) (string, error) {
		if cmd[0] == "live" && sick.Load() == id || cmd[0] == "ready" && unready.Load() {
			return "not well", exitError(1)
		}
		return "", nil
	}
	exec := func(cmd string) *corev1.Probe {
		return &corev1.Probe{PeriodSeconds: 1, FailureThreshold: 1, ProbeHandler: corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{cmd}}}}
	}
	b.create(testPod("a", corev1.Container{Name: "app", LivenessProbe: exec("live"), ReadinessProbe: exec("ready"), StartupProbe: exec("begin")}))
	p := b.await("a", "running", phase(corev1.PodRunning))
	b.awaitEvent("Unhealthy", "Readiness probe failed: not well")
	if ready(p) {
		t.Error("ready before its probe says so")
	}
	unready.Store(false)
	p = b.await("a", "ready", ready)
	sick.Store(strings.TrimPrefix(p.Status.ContainerStatuses[0].ContainerID, "proa://"))
	b.awaitEvent("Killing", "Container app failed liveness probe, will be restarted")
	b.await("a", "restarted", restarts(1))
	b.await("a", "ready", ready)
}

func TestInitContainersAndJobs(t *testing.T) {
	b := newBench(t)
	always := corev1.ContainerRestartPolicyAlways
	p := testPod("a")
	p.Spec.RestartPolicy = corev1.RestartPolicyNever
	p.Spec.InitContainers = []corev1.Container{{Name: "one", Image: "app:1"}, {Name: "side", Image: "app:1", RestartPolicy: &always}, {Name: "two", Image: "app:1"}}
	b.create(p)
	for _, name := range []string{"one", "two"} {
		for deadline := time.Now().Add(5 * time.Second); !b.cri.end(name, 0) && time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		}
	}
	b.await("a", "running", ready)
	b.cri.end("app", 0)
	got := b.await("a", "succeeded", phase(corev1.PodSucceeded))
	if s := got.Status.InitContainerStatuses[1].State.Terminated; s == nil {
		t.Errorf("the sidecar runs in a pod that has succeeded: %+v", got.Status.InitContainerStatuses[1])
	}
	var starts []string
	for _, c := range b.cri.log() {
		if name, ok := strings.CutPrefix(c, "StartContainer "); ok {
			starts = append(starts, name)
		}
	}
	if strings.Join(starts, " ") != "one side two app" {
		t.Errorf("starts %q", starts)
	}
}

func TestFaults(t *testing.T) {
	b := newBench(t)
	b.cri.fail("RunPodSandbox", errors.New("no network"))
	b.create(testPod("a"))
	b.awaitEvent("FailedCreatePodSandBox", "no network")
	b.await("a", "ready", ready)
	b.cri.breakEvents(func() { b.cri.end("app", 1) })
	b.await("a", "restarted though the event was lost", restarts(1))
	b.cri.fail("ListPodSandbox", errors.New("busy"))
	b.cri.mu.Lock()
	for id := range b.cri.sandboxes { // the sandbox dies
		next := proto.Clone(b.cri.sandboxes[id]).(*cri.PodSandboxStatus)
		next.State = 1
		b.cri.sandboxes[id] = next
		for cid := range b.cri.containers {
			b.cri.exit(cid, 137)
		}
	}
	b.cri.mu.Unlock()
	b.await("a", "in a new sandbox", func(p *corev1.Pod) bool { return p != nil && p.Status.PodIP != "10.9.0.1" && p.Status.PodIP != "" })
	if len(b.cri.twice) > 0 {
		t.Errorf("two instances at once: %v", b.cri.twice)
	}
}

func TestAdmission(t *testing.T) {
	b := newBench(t)
	big := testPod("a")
	big.Spec.Containers[0].Resources.Requests = corev1.ResourceList{corev1.ResourceCPU: b.k.node.Capacity[corev1.ResourceCPU]}
	b.create(big)
	b.await("a", "ready", ready)
	second := testPod("b")
	second.Spec.Containers[0].Resources.Requests = big.Spec.Containers[0].Resources.Requests
	b.create(second)
	p := b.await("b", "rejected", phase(corev1.PodFailed))
	if p.Status.Reason != "OutOfcpu" || !strings.Contains(p.Status.Message, "Node didn't have enough resource: cpu, requested: ") {
		t.Errorf("%s: %s", p.Status.Reason, p.Status.Message)
	}
	b.awaitEvent("OutOfcpu", "Node didn't have enough resource")
}

// A pod that was deleted by force leaves its place at once, though its end takes
// time.
func TestAdmissionBesideAPodThatTheAPIForgot(t *testing.T) {
	b := newBench(t)
	first, second := testPod("a"), testPod("b")
	for _, p := range []*corev1.Pod{first, second} {
		p.Spec.Containers[0].Resources.Requests = corev1.ResourceList{corev1.ResourceCPU: b.k.node.Capacity[corev1.ResourceCPU]}
	}
	first = b.create(first)
	b.await("a", "ready", ready)
	b.cri.stick("StopPodSandbox", errors.New("stuck"))
	now := int64(0)
	if err := b.client.Delete(t.Context(), client.Row[corev1.Pod](), client.KeyOf(first), metav1.DeleteOptions{GracePeriodSeconds: &now}); err != nil {
		t.Fatal(err)
	}
	b.create(second)
	b.await("b", "ready", ready)
	if b.k.worker(first.UID) == nil {
		t.Error("the first pod has ended: nothing was shown")
	}
	b.cri.stick("StopPodSandbox", nil)
}

func TestDeletedNodeComesBack(t *testing.T) {
	b := newBench(t)
	node := func() *corev1.Node { return client.Get[corev1.Node](b.client.View(), "", "n1") }
	comes := func() {
		t.Helper()
		for deadline := time.Now().Add(5 * time.Second); node() == nil; time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatal("there is no node")
			}
		}
	}
	comes()
	if err := b.client.Delete(context.Background(), client.Row[corev1.Node](), client.Key{Name: "n1"}, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	comes()
}

func TestSettle(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ours := func() int {
		var mine strings.Builder // other processes of this machine have connections too
		text, _ := os.ReadFile("/proc/self/net/tcp")
		for line := range strings.Lines(string(text)) {
			if strings.Contains(line, fmt.Sprintf(":%04X ", l.Addr().(*net.TCPAddr).Port)) {
				mine.WriteString(line)
			}
		}
		return accepted(mine.String())
	}
	if n := ours(); n != 0 {
		t.Errorf("%d connections to a port that nobody uses", n)
	}
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	if n := ours(); n != 1 {
		t.Errorf("%d connections, want 1", n)
	}
	c.Close()
	if n := ours(); n != 0 {
		t.Errorf("%d connections after the client has closed", n)
	}
}

func TestDisposableImages(t *testing.T) {
	now := time.Now()
	list := []usedImage{{"young", 50, now.Add(-time.Minute)}, {"old", 10, now.Add(-time.Hour)}, {"older", 20, now.Add(-2 * time.Hour)}, {"oldest", 30, now.Add(-3 * time.Hour)}}
	var got []string
	for _, i := range disposable(list, now, 45) {
		got = append(got, i.id)
	}
	if strings.Join(got, " ") != "oldest older" {
		t.Error(got)
	}
	if len(disposable(list, now, 0)) != 0 || len(disposable(list, now, 1000)) != 3 {
		t.Error("too few or too many")
	}
	for _, tc := range [][3]int64{{100, 16, 0}, {100, 15, 5}, {100, 0, 20}} {
		if got := excess(tc[0], tc[1]); got != tc[2] {
			t.Errorf("excess(%d, %d) = %d", tc[0], tc[1], got)
		}
	}
}

func TestEphemeralContainer(t *testing.T) {
	b := newBench(t)
	b.create(testPod("a"))
	p := b.await("a", "ready", ready).DeepCopy()
	p.Spec.EphemeralContainers = []corev1.EphemeralContainer{{TargetContainerName: "app", EphemeralContainerCommon: corev1.EphemeralContainerCommon{Name: "debug", Image: "app:1"}}}
	p.Generation++
	b.client.Inject(p)
	b.await("a", "debugged", func(p *corev1.Pod) bool {
		return len(p.Status.EphemeralContainerStatuses) == 1 && p.Status.EphemeralContainerStatuses[0].State.Running != nil
	})
	b.cri.end("debug", 1)
	got := b.await("a", "debugged no more", func(p *corev1.Pod) bool { return p.Status.EphemeralContainerStatuses[0].State.Terminated != nil })
	if !ready(got) {
		t.Errorf("an ephemeral container's end shows in the pod: %+v", got.Status.Conditions)
	}
}

func (b *bench) resize(name, cpu string) {
	b.t.Helper()
	p := b.pod(name).DeepCopy()
	p.Spec.Containers[0].Resources.Requests = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(cpu)}
	p.Generation++
	b.client.Inject(p)
}

func condition(p *corev1.Pod, t corev1.PodConditionType) *corev1.PodCondition {
	for i := range p.Status.Conditions {
		if p.Status.Conditions[i].Type == t {
			return &p.Status.Conditions[i]
		}
	}
	return nil
}

func TestResize(t *testing.T) {
	b := newBench(t)
	p := testPod("a")
	p.Spec.Containers[0].Resources.Requests = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("100m")}
	b.create(p)
	b.await("a", "ready", ready)
	has := func(cpu string) func(*corev1.Pod) bool {
		return func(p *corev1.Pod) bool {
			r := p.Status.ContainerStatuses[0].Resources
			return r != nil && r.Requests.Cpu().String() == cpu && condition(p, corev1.PodResizeInProgress) == nil && condition(p, corev1.PodResizePending) == nil
		}
	}
	b.resize("a", "250m")
	got := b.await("a", "resized", has("250m"))
	if !slices.Contains(b.cri.log(), "UpdateContainerResources 256") || got.Status.ContainerStatuses[0].RestartCount != 0 {
		t.Errorf("calls %q", b.cri.log())
	}
	b.resize("a", "1000")
	got = b.await("a", "refused", func(p *corev1.Pod) bool { return condition(p, corev1.PodResizePending) != nil })
	if c := condition(got, corev1.PodResizePending); c.Reason != "Infeasible" || !strings.Contains(c.Message, "Node didn't have enough capacity: cpu, requested: 1000000") {
		t.Errorf("%+v", c)
	}
	if r := got.Status.ContainerStatuses[0].AllocatedResources; r.Cpu().String() != "250m" {
		t.Errorf("allocated %v", r)
	}
	b.resize("a", "200m")
	b.await("a", "resized again", has("200m"))
	other := testPod("b")
	other.Spec.Containers[0].Resources.Requests = corev1.ResourceList{corev1.ResourceCPU: *resource.NewMilliQuantity(int64(b.k.machine.cpus)*1000-300, resource.DecimalSI)}
	other = b.create(other)
	b.await("b", "ready", ready)
	b.resize("a", "600m")
	b.await("a", "deferred", func(p *corev1.Pod) bool {
		c := condition(p, corev1.PodResizePending)
		return c != nil && c.Reason == "Deferred"
	})
	if err := b.client.Delete(context.Background(), client.Row[corev1.Pod](), client.KeyOf(other), metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	b.await("a", "resized when there is room", has("600m"))
}
