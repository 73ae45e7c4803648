package kubelet

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"proa/client"
	"proa/client/clienttest"
	"proa/image"
	"proa/network"
	"proa/runtime"
)

// noNetwork gives pods an address that leads nowhere: the pod network has tests of
// its own.
type noNetwork struct {
	mu sync.Mutex
	n  byte
}

func (f *noNetwork) Attach(context.Context, network.Pod) (network.Result, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.n++
	return network.Result{IPs: []netip.Addr{netip.AddrFrom4([4]byte{10, 9, 9, f.n})}}, nil
}

func (f *noNetwork) Detach(context.Context, network.Pod) error { return nil }

// box is the program that containers run, and the shim under them; built once.
var box = sync.OnceValues(func() (dir string, err error) {
	if dir, err = os.MkdirTemp("", "proa-kubelet-"); err != nil {
		return "", err
	}
	for out, args := range map[string][]string{
		"box":       {"CGO_ENABLED=0", "proa/runtime/testdata/box"},
		"proa-shim": {"CGO_ENABLED=1", "-tags", "seccomp,netgo,osusergo,runc_nocriu", "-ldflags", "-s -w -extldflags -static", "proa/cmd/proa-shim"},
	} {
		cmd := exec.Command("go", append([]string{"build", "-trimpath", "-o", filepath.Join(dir, out)}, args[1:]...)...)
		cmd.Env = append(os.Environ(), args[0])
		if text, err := cmd.CombinedOutput(); err != nil {
			return dir, fmt.Errorf("%w: %s", err, text)
		}
	}
	return dir, nil
})

func TestMain(m *testing.M) {
	code := m.Run()
	if boxed {
		dir, _ := box()
		os.RemoveAll(dir)
	}
	os.Exit(code)
}

var boxed bool

// boxImage is a docker archive of an image with nothing but box in it.
func boxImage(t testing.TB, dir string) []byte {
	program, err := os.ReadFile(filepath.Join(dir, "box"))
	if err != nil {
		t.Fatal(err)
	}
	var layer bytes.Buffer
	tw := tar.NewWriter(&layer)
	for _, d := range []string{"bin", "etc", "proc", "sys", "dev", "tmp"} {
		_ = tw.WriteHeader(&tar.Header{Name: d, Typeflag: tar.TypeDir, Mode: 0o755})
	}
	_ = tw.WriteHeader(&tar.Header{Name: "bin/box", Mode: 0o755, Size: int64(len(program))})
	_, _ = tw.Write(program)
	_ = tw.Close()
	l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(layer.Bytes())), nil })
	if err != nil {
		t.Fatal(err)
	}
	img, err := mutate.AppendLayers(empty.Image, l)
	if err != nil {
		t.Fatal(err)
	}
	if img, err = mutate.Config(img, v1.Config{Entrypoint: []string{"/bin/box"}, Cmd: []string{"sleep"}, Env: []string{"PATH=/bin"}}); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := tarball.Write(name.MustParseReference("box:1"), img, &out); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// real is a bench with the real runtime under the kubelet.
type real struct {
	*bench
	dir, root, run string
	images         *image.Store
}

func newReal(t testing.TB) *real {
	if os.Geteuid() != 0 || testing.Short() {
		t.Skip("real containers need root, and time")
	}
	boxed = true
	dir, err := box()
	if err != nil {
		t.Fatal(err)
	}
	r := &real{dir: dir, root: t.TempDir(), run: t.TempDir()}
	r.bench = &bench{t: t, client: clienttest.New(), cri: newFakeCRI(), root: filepath.Join(r.root, "kubelet"),
		cgroup: fmt.Sprintf("proa-kubelet-real-%d-%d", os.Getpid(), benches.Add(1))}
	if r.images, err = image.Open(filepath.Join(r.root, "images"), slog.New(slog.DiscardHandler)); err != nil {
		t.Fatal(err)
	}
	if _, err := r.images.Import(context.Background(), bytes.NewReader(boxImage(t, dir)), "", nil); err != nil {
		t.Fatal(err)
	}
	r.up()
	t.Cleanup(func() {
		r.deleteAll()
		r.stop()
		r.images.Close()
		left, _ := filepath.Glob("/sys/fs/cgroup/*/" + r.cgroup + "/*/pod*")
		if len(left) > 0 {
			t.Errorf("cgroups of pods are left: %v", left)
		}
		if err := r.k.cgroups.Remove("/" + r.cgroup); err != nil {
			t.Error(err)
		}
	})
	return r
}

// up starts runtime and kubelet; stop lets go of both, as the end of the daemon
// does.
func (r *real) up() {
	log := slog.New(slog.NewTextHandler(r.t.Output(), nil))
	rt, err := runtime.New(runtime.Config{Root: filepath.Join(r.root, "runtime"), Run: r.run, Images: r.images, Network: &noNetwork{}, CgroupRoot: r.cgroup,
		Shim: filepath.Join(r.dir, "proa-shim"), Log: log})
	if err != nil {
		r.t.Fatal(err)
	}
	k, err := New(Config{NodeName: "n1", NodeIPs: []netip.Addr{netip.MustParseAddr("192.0.2.1")}, Client: r.client, Runtime: rt, Images: image.NewService(r.images),
		Streams: rt.Streams(), Root: r.bench.root, CgroupRoot: r.cgroup, ClusterDomain: "cluster.local", Log: log})
	if err != nil {
		r.t.Fatal(err)
	}
	r.k = k
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- k.Run(ctx) }()
	r.stop = func() {
		cancel()
		if err := <-done; err != nil {
			r.t.Error("Run:", err)
		}
		if err := rt.Close(context.Background()); err != nil {
			r.t.Error(err)
		}
	}
}

// reboot kills every process of the pods and clears what a reboot clears.
func (r *real) reboot() {
	r.stop()
	for range 50 {
		pids := r.processes()
		for _, pid := range pids {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		if len(pids) == 0 {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	mounts, _ := os.ReadFile("/proc/self/mountinfo")
	for line := range strings.Lines(string(mounts)) {
		if f := strings.Fields(line); strings.HasPrefix(f[4], r.run) || strings.HasPrefix(f[4], r.root) {
			_ = syscall.Unmount(f[4], syscall.MNT_DETACH)
		}
	}
	entries, _ := os.ReadDir(r.run)
	for _, e := range entries {
		if err := os.RemoveAll(filepath.Join(r.run, e.Name())); err != nil {
			r.t.Error(err)
		}
	}
	r.up()
}

// processes are those in the cgroups of this bench.
func (r *real) processes() []int {
	var out []int
	root := filepath.Join("/sys/fs/cgroup", r.cgroup)
	if !r.k.cgroups.Unified() {
		root = filepath.Join("/sys/fs/cgroup/memory", r.cgroup)
	}
	_ = filepath.WalkDir(root, func(path string, e os.DirEntry, err error) error {
		if err == nil && e.Name() == "cgroup.procs" {
			text, _ := os.ReadFile(path)
			for _, f := range strings.Fields(string(text)) {
				if pid, err := strconv.Atoi(f); err == nil {
					out = append(out, pid)
				}
			}
		}
		return nil
	})
	return out
}

// deleteAll ends every pod and waits until the node has none.
func (b *bench) deleteAll() {
	for p := range client.List[corev1.Pod](b.client.View(), "") {
		one := int64(1)
		if err := b.client.Delete(context.Background(), client.Row[corev1.Pod](), client.KeyOf(p), metav1.DeleteOptions{GracePeriodSeconds: &one}); err != nil {
			b.t.Error(err)
		}
	}
	for deadline := time.Now().Add(20 * time.Second); len(b.k.all()) > 0 && time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
	}
	if n := len(b.k.all()); n > 0 {
		b.t.Errorf("%d pods do not go away", n)
	}
}

func (b *bench) get(path string) string {
	rec := httptest.NewRecorder()
	b.k.Handler().ServeHTTP(rec, httptest.NewRequest("GET", path, nil))
	return rec.Body.String()
}

func boxPod(name string, args ...string) *corev1.Pod {
	p := testPod(name, corev1.Container{Name: "app", Image: "box:1", Args: args, TerminationMessagePath: "/dev/termination-log",
		TerminationMessagePolicy: corev1.TerminationMessageReadFile})
	return p
}

func TestRealPod(t *testing.T) {
	b := newReal(t)
	for _, obj := range []client.Object{
		&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "cm"}, Data: map[string]string{"greeting": "hello", "file": "one"}},
		&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "s"}, Data: map[string][]byte{"word": []byte("hush")}},
	} {
		if _, err := b.client.Create(context.Background(), obj); err != nil {
			t.Fatal(err)
		}
	}
	p := boxPod("a", "env")
	p.Spec.RestartPolicy = corev1.RestartPolicyNever
	p.Spec.Volumes = []corev1.Volume{
		{Name: "cm", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "cm"}}}},
		{Name: "s", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "s"}}},
		{Name: "shared", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}},
	}
	mounts := []corev1.VolumeMount{{Name: "cm", MountPath: "/cm"}, {Name: "s", MountPath: "/s"}, {Name: "shared", MountPath: "/shared"},
		{Name: "cm", MountPath: "/one", SubPath: "file"}}
	p.Spec.Containers[0].VolumeMounts = mounts
	p.Spec.Containers[0].Env = []corev1.EnvVar{
		{Name: "GREETING", ValueFrom: &corev1.EnvVarSource{ConfigMapKeyRef: &corev1.ConfigMapKeySelector{LocalObjectReference: corev1.LocalObjectReference{Name: "cm"}, Key: "greeting"}}},
		{Name: "IP", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: "status.podIP"}}},
		{Name: "BOTH", Value: "$(GREETING) from $(IP)"},
	}
	for i, cmd := range [][]string{{"read", "/cm/greeting"}, {"read", "/s/word"}, {"read", "/one"}, {"read", "/etc/hosts"}, {"write", "/shared/x", "y"}} {
		p.Spec.InitContainers = append(p.Spec.InitContainers, corev1.Container{Name: fmt.Sprintf("init%d", i), Image: "box:1", Args: cmd, VolumeMounts: mounts})
	}
	b.create(p)
	got := b.await("a", "succeeded", phase(corev1.PodSucceeded))
	for container, want := range map[string]string{"init0": "hello", "init1": "hush", "init2": "one", "init3": got.Status.PodIP + "\ta", "app": "BOTH=hello from " + got.Status.PodIP} {
		if log := b.get("/containerLogs/default/a/" + container); !strings.Contains(log, want) {
			t.Errorf("log of %s is %q, want %q", container, log, want)
		}
	}
}

func TestRealLifecycle(t *testing.T) {
	b := newReal(t)
	begun := time.Now()
	p := b.create(boxPod("a", "sleep"))
	b.await("a", "ready", ready)
	t.Logf("create to ready: %v", time.Since(begun))
	fail := boxPod("b", "exit", "3")
	fail.Spec.RestartPolicy = corev1.RestartPolicyNever
	b.create(fail)
	got := b.await("b", "failed", phase(corev1.PodFailed))
	if s := got.Status.ContainerStatuses[0].State.Terminated; s == nil || s.ExitCode != 3 || s.Reason != "Error" {
		t.Errorf("%+v", got.Status.ContainerStatuses[0])
	}
	b.create(boxPod("c", "exit", "1"))
	b.await("c", "in back-off", waiting("CrashLoopBackOff"))
	words := boxPod("d", "write", "/dev/termination-log", "last words")
	words.Spec.RestartPolicy = corev1.RestartPolicyNever
	b.create(words)
	got = b.await("d", "succeeded", phase(corev1.PodSucceeded))
	if s := got.Status.ContainerStatuses[0].State.Terminated; s.Message != "last words" || s.Reason != "Completed" {
		t.Errorf("%+v", s)
	}
	hungry := boxPod("e", "alloc", "200")
	hungry.Spec.RestartPolicy = corev1.RestartPolicyNever
	hungry.Spec.Containers[0].Resources.Limits = corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("32Mi")}
	b.create(hungry)
	got = b.await("e", "failed", phase(corev1.PodFailed))
	if s := got.Status.ContainerStatuses[0].State.Terminated; s == nil || s.Reason != "OOMKilled" {
		t.Errorf("%+v", got.Status.ContainerStatuses[0])
	}
	missing := boxPod("f")
	missing.Spec.Containers[0].Command = []string{"/no/such/program"}
	b.create(missing)
	got = b.await("f", "failing to start", func(p *corev1.Pod) bool {
		return p != nil && len(p.Status.ContainerStatuses) > 0 && p.Status.ContainerStatuses[0].State.Waiting != nil && p.Status.ContainerStatuses[0].State.Waiting.Reason == "RunContainerError" || waiting("CrashLoopBackOff")(p)
	})
	t.Logf("a program that is missing: %+v", got.Status.ContainerStatuses[0])
	if s := b.get("/stats/summary"); !strings.Contains(s, `"name":"a"`) {
		t.Errorf("summary %s", s)
	}
	_ = p
}

func TestRealRestartAndReboot(t *testing.T) {
	r := newReal(t)
	p := boxPod("a", "ignore")
	p.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{Medium: corev1.StorageMediumMemory}}}}
	p.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "v", MountPath: "/v"}}
	r.create(p)
	job := boxPod("job", "exit", "0")
	job.Spec.RestartPolicy = corev1.RestartPolicyNever
	r.create(job)
	before := r.await("a", "ready", ready)
	r.await("job", "succeeded", phase(corev1.PodSucceeded))
	r.stop()
	r.up()
	time.Sleep(200 * time.Millisecond)
	if after := r.pod("a"); after.Status.ContainerStatuses[0].ContainerID != before.Status.ContainerStatuses[0].ContainerID || !ready(after) {
		t.Errorf("a restart of the daemon shows: %+v", after.Status.ContainerStatuses[0])
	}
	if got := r.get("/containerLogs/default/a/app"); got != "ready\n" {
		t.Errorf("log after a restart: %q", got)
	}
	for reboots := range int32(2) {
		r.reboot()
		got := r.await("a", "running again", restarts(reboots+1))
		if reboots == 0 && got.Status.ContainerStatuses[0].LastTerminationState.Terminated == nil {
			t.Errorf("after a reboot: %+v", got.Status.ContainerStatuses[0])
		}
		if p := r.pod("job"); p.Status.Phase != corev1.PodSucceeded {
			t.Errorf("a reboot makes of a pod that has succeeded: %+v", p.Status)
		}
	}
}

// BenchmarkRealPodStart is pod create → Running over the real runtime.
func BenchmarkRealPodStart(b *testing.B) {
	r := newReal(b)
	for i := 0; b.Loop(); i++ {
		name := fmt.Sprintf("p%d", i)
		p := r.create(boxPod(name, "sleep"))
		r.await(name, "ready", ready)
		b.StopTimer()
		zero := int64(0)
		_ = r.client.Delete(context.Background(), client.Row[corev1.Pod](), client.KeyOf(p), metav1.DeleteOptions{GracePeriodSeconds: &zero})
		b.StartTimer()
	}
}
