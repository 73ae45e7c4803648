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
	"strings"
	"sync"
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
	if dir, err := box(); err == nil && boxed {
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
	images *image.Store
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
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	root, run := t.TempDir(), t.TempDir()
	store, err := image.Open(filepath.Join(root, "images"), log)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := store.Import(context.Background(), bytes.NewReader(boxImage(t, dir)), "", nil); err != nil {
		t.Fatal(err)
	}
	cgroup := fmt.Sprintf("proa-kubelet-real-%d-%d", os.Getpid(), benches.Add(1))
	rt, err := runtime.New(runtime.Config{Root: filepath.Join(root, "runtime"), Run: run, Images: store, Network: &noNetwork{}, CgroupRoot: cgroup,
		Shim: filepath.Join(dir, "proa-shim"), Log: log})
	if err != nil {
		t.Fatal(err)
	}
	k, err := New(Config{NodeName: "n1", NodeIPs: []netip.Addr{netip.MustParseAddr("192.0.2.1")}, Client: clienttest.New(), Runtime: rt, Images: image.NewService(store),
		Streams: rt.Streams(), Root: filepath.Join(root, "kubelet"), CgroupRoot: cgroup, ClusterDomain: "cluster.local", Log: log})
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{t: t, client: k.cfg.Client.(*clienttest.Client), cri: newFakeCRI(), k: k, root: k.cfg.Root, cgroup: cgroup}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- k.Run(ctx) }()
	t.Cleanup(func() {
		b.deleteAll()
		cancel()
		if err := <-done; err != nil {
			t.Error("Run:", err)
		}
		if err := rt.Close(context.Background()); err != nil {
			t.Error(err)
		}
		store.Close()
		if err := k.cgroups.Remove("/" + cgroup); err != nil {
			t.Error(err)
		}
	})
	return &real{b, store}
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
