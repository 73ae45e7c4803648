package runtime

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"proa/image"
	"proa/network"
)

var (
	shimPath, boxPath string
	runDirs           []string // of all worlds there were
)

func TestMain(m *testing.M) {
	if dir := os.Getenv("PROA_TEST_VICTIM"); dir != "" {
		victim(dir)
	}
	os.Exit(run(m))
}

// run builds what the containers and the pods run, and checks at the end that
// nothing is left of them.
func run(m *testing.M) int {
	if os.Geteuid() != 0 {
		fmt.Println("these tests need root: containers are real")
		return m.Run()
	}
	// As on a systemd machine: mounts propagate, and only within the tests.
	dir, err := os.MkdirTemp("", "proa-runtime-")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	shimPath, boxPath = filepath.Join(dir, "shim", "proa-shim"), filepath.Join(dir, "box")
	build := func(cgo, out string, args ...string) {
		cmd := exec.Command("go", append([]string{"build", "-trimpath", "-o", out}, args...)...)
		cmd.Env = append(os.Environ(), "CGO_ENABLED="+cgo)
		if text, err := cmd.CombinedOutput(); err != nil {
			panic(fmt.Sprintf("%v: %s", err, text))
		}
	}
	build("1", shimPath, "-tags", "seccomp,netgo,osusergo,runc_nocriu", "-ldflags", os.Getenv("SHIM_LD")+"-extldflags -static", "proa/cmd/proa-shim")
	build("0", boxPath, "./testdata/box")
	before := leftovers()
	code := m.Run()
	for _, l := range leftBehind(before) {
		fmt.Println("left behind:", l)
		code = 1
	}
	return code
}

// leftBehind is what there is now and was not before. What is on its way out, as a
// process is until init has reaped it, gets some time.
func leftBehind(before []string) (left []string) {
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		left = slices.DeleteFunc(leftovers(), func(l string) bool { return slices.Contains(before, l) })
		if len(left) == 0 || time.Now().After(end) {
			return left
		}
	}
}

// leftovers lists everything these tests could leave on the machine; others may
// be at work beside them.
func leftovers() (all []string) {
	mounts, _ := os.ReadFile("/proc/self/mountinfo")
	for line := range strings.Lines(string(mounts)) {
		f := strings.Fields(line)
		if len(f) > 4 && slices.ContainsFunc(runDirs, func(dir string) bool { return strings.HasPrefix(f[4], dir) }) {
			all = append(all, "mount "+f[4])
		}
	}
	ours := fmt.Sprintf("/proa-test-%d-", os.Getpid())
	procs, _ := filepath.Glob("/proc/[0-9]*")
	for _, p := range procs {
		exe, _ := os.Readlink(p + "/exe")
		groups, _ := os.ReadFile(p + "/cgroup")
		if exe == shimPath || strings.Contains(string(groups), ours) {
			all = append(all, "process "+p+" "+exe)
		}
	}
	groups, _ := filepath.Glob("/sys/fs/cgroup/*" + ours + "*")
	return append(all, groups...)
}

// directoryImages serves one image, made of box.
type directoryImages struct {
	dir string
	mu  sync.Mutex
	use map[string]bool
	cfg v1.ImageConfig
}

func newImages(t testing.TB) *directoryImages {
	im := &directoryImages{dir: t.TempDir(), use: map[string]bool{}, cfg: v1.ImageConfig{
		Entrypoint: []string{"box"}, Cmd: []string{"print", "default"}, Env: []string{"FROM_IMAGE=1", "PATH=/bin"}, WorkingDir: "/work"}}
	for _, d := range []string{"bin", "etc", "work", "tmp", "proc", "sys", "dev"} {
		must(t, os.MkdirAll(filepath.Join(im.dir, "image", d), 0o755))
	}
	must(t, os.Chmod(filepath.Join(im.dir, "image", "tmp"), 0o1777))
	data, err := os.ReadFile(boxPath)
	must(t, err)
	must(t, os.WriteFile(filepath.Join(im.dir, "image/bin/box"), data, 0o755))
	must(t, os.WriteFile(filepath.Join(im.dir, "image/etc/passwd"), []byte("root:x:0:0::/root:/bin/sh\nweb:x:101:102::/:/bin/sh\n"), 0o644))
	must(t, os.WriteFile(filepath.Join(im.dir, "image/etc/group"), []byte("root:x:0:\nweb:x:102:\nextra:x:200:web\n"), 0o644))
	return im
}

func (im *directoryImages) Get(ref string) (image.Image, bool) {
	return image.Image{ID: "sha256:box", Config: im.cfg}, ref == "box" || ref == "sha256:box"
}

func (im *directoryImages) Prepare(_ context.Context, id, key string) (image.Rootfs, error) {
	im.mu.Lock()
	defer im.mu.Unlock()
	im.use[key] = true
	r := image.Rootfs{Lower: []string{filepath.Join(im.dir, "image")},
		Upper: filepath.Join(im.dir, "c", key, "upper"), Work: filepath.Join(im.dir, "c", key, "work")}
	for _, d := range []string{r.Upper, r.Work} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return r, err
		}
	}
	return r, nil
}

func (im *directoryImages) Release(key string) error {
	im.mu.Lock()
	defer im.mu.Unlock()
	delete(im.use, key)
	return os.RemoveAll(filepath.Join(im.dir, "c", key))
}

func (im *directoryImages) Containers() []string {
	entries, _ := os.ReadDir(filepath.Join(im.dir, "c"))
	var keys []string
	for _, e := range entries {
		keys = append(keys, e.Name())
	}
	return keys
}

func (im *directoryImages) Usage(string) (int64, int64, error) { return 4096, 1, nil }

// fakeNetwork hands out addresses and remembers who has one.
type fakeNetwork struct {
	mu       sync.Mutex
	attached map[string]network.Pod
	n        byte
	fail     error
}

func (f *fakeNetwork) Attach(_ context.Context, p network.Pod) (network.Result, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.fail != nil {
		return network.Result{}, f.fail
	}
	if _, err := os.Stat(p.NetNS); err != nil {
		return network.Result{}, err
	}
	f.attached[p.ID] = p
	f.n++
	return network.Result{IPs: []netip.Addr{netip.AddrFrom4([4]byte{10, 9, 0, f.n})}}, nil
}

func (f *fakeNetwork) Detach(_ context.Context, p network.Pod) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.attached, p.ID)
	return nil
}

// world is a Runtime with all around it.
type world struct {
	*Runtime
	t      testing.TB
	cfg    Config
	images *directoryImages
	net    *fakeNetwork
	logs   string
}

func newWorld(t testing.TB) *world {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	w := &world{t: t, images: newImages(t), net: &fakeNetwork{attached: map[string]network.Pod{}}, logs: t.TempDir()}
	dir := t.TempDir()
	w.cfg = Config{Root: filepath.Join(dir, "root"), Run: filepath.Join(dir, "run"), Images: w.images, Network: w.net,
		CgroupRoot: fmt.Sprintf("proa-test-%d-%d", os.Getpid(), time.Now().UnixNano()), Shim: shimPath,
		Log: slog.New(slog.NewTextHandler(testWriter{t}, nil))}
	runDirs = append(runDirs, w.cfg.Run)
	t.Cleanup(func() {
		if w.Runtime != nil {
			w.Runtime.Close(context.Background())
		}
		if err := Cleanup(w.cfg.Root, w.cfg.Run, w.cfg.CgroupRoot); err != nil {
			t.Error("cleanup:", err)
		}
	})
	w.restart()
	return w
}

type testWriter struct{ t testing.TB }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Log(strings.TrimSpace(string(p)))
	return len(p), nil
}

// restart is what a new daemon does.
func (w *world) restart() {
	w.t.Helper()
	if w.Runtime != nil {
		must(w.t, w.Close(context.Background()))
	}
	r, err := New(w.cfg)
	must(w.t, err)
	w.Runtime = r
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

var ctx = context.Background()

func (w *world) podConfig(name string) *runtimeapi.PodSandboxConfig {
	return &runtimeapi.PodSandboxConfig{
		Metadata: &runtimeapi.PodSandboxMetadata{Name: name, Namespace: "ns", Uid: "uid-" + name},
		Hostname: name, LogDirectory: filepath.Join(w.logs, name), Labels: map[string]string{"pod": name},
		DnsConfig: &runtimeapi.DNSConfig{Servers: []string{"10.0.0.10"}, Searches: []string{"ns.svc"}, Options: []string{"ndots:5"}},
		Linux: &runtimeapi.LinuxPodSandboxConfig{CgroupParent: "/" + w.cfg.CgroupRoot + "/pod" + name,
			SecurityContext: &runtimeapi.LinuxSandboxSecurityContext{NamespaceOptions: &runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_CONTAINER}}},
	}
}

func (w *world) pod(name string, change ...func(*runtimeapi.PodSandboxConfig)) (string, *runtimeapi.PodSandboxConfig) {
	w.t.Helper()
	config := w.podConfig(name)
	for _, f := range change {
		f(config)
	}
	id, err := w.RunPodSandbox(ctx, config, "")
	must(w.t, err)
	return id, config
}

func containerConfig(name string, args ...string) *runtimeapi.ContainerConfig {
	return &runtimeapi.ContainerConfig{Metadata: &runtimeapi.ContainerMetadata{Name: name}, Image: &runtimeapi.ImageSpec{Image: "box"},
		Args: args, LogPath: name + "/0.log", Labels: map[string]string{"container": name},
		Linux: &runtimeapi.LinuxContainerConfig{Resources: &runtimeapi.LinuxContainerResources{CpuShares: 102},
			SecurityContext: &runtimeapi.LinuxContainerSecurityContext{
				NamespaceOptions: &runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_CONTAINER},
				Seccomp:          &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_RuntimeDefault},
				MaskedPaths:      []string{"/proc/kcore", "/sys/firmware"}, ReadonlyPaths: []string{"/proc/sys", "/proc/bus"}}}}
}

func (w *world) create(pod string, config *runtimeapi.ContainerConfig) string {
	w.t.Helper()
	id, err := w.CreateContainer(ctx, pod, config, nil)
	must(w.t, err)
	return id
}

func (w *world) start(pod string, config *runtimeapi.ContainerConfig) string {
	w.t.Helper()
	id := w.create(pod, config)
	must(w.t, w.StartContainer(ctx, id))
	return id
}

func (w *world) status(id string) *runtimeapi.ContainerStatus {
	w.t.Helper()
	resp, err := w.ContainerStatus(ctx, id, false)
	must(w.t, err)
	return resp.Status
}

// ended waits for a container's end.
func (w *world) ended(id string) *runtimeapi.ContainerStatus {
	w.t.Helper()
	c, err := w.findContainer(id)
	must(w.t, err)
	select {
	case <-c.exited:
	case <-time.After(20 * time.Second):
		w.t.Fatalf("container %s does not end", id)
	}
	return w.status(id)
}

// log returns a container's log lines as "stream tag text".
func (w *world) log(id string) []string {
	w.t.Helper()
	data, err := os.ReadFile(w.status(id).LogPath)
	must(w.t, err)
	var lines []string
	for line := range strings.Lines(string(data)) {
		stamp, rest, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		if _, err := time.Parse(time.RFC3339Nano, stamp); err != nil {
			w.t.Fatalf("log line %q: %v", line, err)
		}
		lines = append(lines, rest)
	}
	return lines
}

// logged waits until the log has a line.
func (w *world) logged(id, line string) {
	w.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if _, err := os.Stat(w.status(id).LogPath); err == nil && slices.Contains(w.log(id), line) {
			return
		}
	}
	w.t.Fatalf("no %q in the log: %q", line, w.log(id))
}

func (w *world) output(id string, cmd ...string) string {
	w.t.Helper()
	out, errOut, err := w.ExecSync(ctx, id, append([]string{"box"}, cmd...), 10*time.Second)
	if err != nil {
		w.t.Fatalf("%v: %v: %s", cmd, err, errOut)
	}
	return strings.TrimSpace(string(out))
}

func alive(pid int) bool { return unix.Kill(pid, 0) == nil }

// terminalSize is that of a process's standard input.
func (w *world) terminalSize(pid int) string {
	w.t.Helper()
	f, err := os.OpenFile(fmt.Sprintf("/proc/%d/fd/0", pid), os.O_RDONLY|unix.O_NOCTTY, 0)
	must(w.t, err)
	defer f.Close()
	ws, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ)
	must(w.t, err)
	return fmt.Sprintf("%dx%d", ws.Col, ws.Row)
}
