package cluster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"proa/internal/disktest"
	"proa/store/etcd/etcdtest"
)

// TestCrashServer is no test: it is the control plane that the crash tests kill.
func TestCrashServer(t *testing.T) {
	dir := os.Getenv("PROA_CRASH_DIR")
	if dir == "" {
		t.Skip("runs as a process of its own")
	}
	port, err := strconv.Atoi(os.Getenv("PROA_CRASH_PORT"))
	if err != nil {
		t.Fatal(err)
	}
	ttl, _ := time.ParseDuration(os.Getenv("PROA_CRASH_EVENT_TTL")) // 0: the usual
	c, err := New(Config{DataDir: os.Getenv("PROA_CRASH_DATA"), RunDir: filepath.Join(dir, "run"), Kubeconfig: filepath.Join(dir, "kubeconfig"),
		NodeName: "crash", NoNode: true, BindAddress: "127.0.0.1", APIPort: port, leaseDuration: crashLease, EventTTL: ttl,
		Log:       slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})),
		Datastore: Datastore{Endpoints: strings.Fields(os.Getenv("PROA_CRASH_ETCD"))}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	if err := c.Run(ctx); err != nil || ctx.Err() == nil {
		t.Fatal("it ended by itself: ", err)
	}
}

// crashLease is how long the other server waits for one that leads.
const crashLease = 5 * time.Second

// victim is that process.
type victim struct {
	dir, data, etcd string
	disk            *disktest.Disk // nil for the machine's
	port            int
	cmd             *exec.Cmd
	client          *kubernetes.Clientset
	said            strings.Builder
	env             []string
}

func (v *victim) start(t *testing.T) {
	t.Helper()
	v.launch(t)
	v.await(t)
}

// launch starts it and does not wait until it is ready.
func (v *victim) launch(t *testing.T) {
	t.Helper()
	v.cmd = exec.Command(os.Args[0], "-test.run", "^TestCrashServer$")
	v.cmd.Env = append(os.Environ(), "PROA_CRASH_DIR="+v.dir, "PROA_CRASH_DATA="+v.data, "PROA_CRASH_PORT="+fmt.Sprint(v.port), "PROA_CRASH_ETCD="+v.etcd)
	v.cmd.Env = append(v.cmd.Env, v.env...)
	v.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if v.disk != nil {
		v.disk.Use(t, v.cmd)
	}
	v.said.Reset()
	v.cmd.Stdout, v.cmd.Stderr = &v.said, &v.said
	if err := v.cmd.Start(); err != nil {
		t.Fatal(err)
	}
}

func (v *victim) await(t *testing.T) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		err := v.reach(t)
		if err == nil {
			return
		}
		if errors.Is(syscall.Kill(v.cmd.Process.Pid, 0), syscall.ESRCH) || time.Now().After(deadline) {
			_ = v.cmd.Process.Signal(syscall.SIGQUIT) // it says what it does, and ends
			_ = v.cmd.Wait()
			t.Fatalf("it does not start: %v\n%s", err, v.said.String())
		}
	}
}

// reach asks whether it is ready.
func (v *victim) reach(t *testing.T) error {
	config, err := clientcmd.BuildConfigFromFlags("", filepath.Join(v.dir, "kubeconfig"))
	if err != nil {
		return err
	}
	config.QPS, config.Timeout = -1, 10*time.Second
	if v.client == nil {
		if v.client, err = kubernetes.NewForConfig(config); err != nil {
			return err
		}
	}
	_, err = v.client.RESTClient().Get().AbsPath("/readyz").DoRaw(t.Context())
	return err
}

func (v *victim) kill() {
	_ = v.cmd.Process.Kill()
	_ = v.cmd.Wait() // "signal: killed"
}

// stop ends it properly.
func (v *victim) stop(t *testing.T) {
	t.Helper()
	if err := v.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := v.cmd.Wait(); err != nil {
		t.Fatalf("%v: %s", err, v.said.String())
	}
}

// newVictim starts a server. It is one of etcd's, if that is given, and then of
// the cluster whose identity lies in a directory, if that is given.
func newVictim(t *testing.T, etcd, cluster string, disk *disktest.Disk, env ...string) *victim {
	t.Helper()
	dir, err := os.MkdirTemp("", "proa") // short, for the sockets in it
	if err != nil {
		t.Fatal(err)
	}
	v := &victim{dir: dir, data: filepath.Join(dir, "data"), etcd: etcd, port: freePort(t), disk: disk, env: env}
	switch {
	case cluster != "":
		v.data = identity(t, cluster)
	case disk != nil:
		v.data = filepath.Join(disk.Dir, "data")
	}
	v.start(t)
	t.Cleanup(func() { v.kill(); os.RemoveAll(dir) })
	return v
}

// crashRounds is how often something is killed; `make crash` has more.
func crashRounds() int {
	if n, err := strconv.Atoi(os.Getenv("PROA_CRASH_ROUNDS")); err == nil {
		return n
	}
	return 4
}

// loseable is a disk for power cuts, or nil where there can be none.
func loseable(t *testing.T) *disktest.Disk {
	t.Helper()
	if why := disktest.Missing(); why != "" {
		t.Log("power cuts are left out: ", why)
		return nil
	}
	return disktest.New(t, 512<<20)
}

// The process is killed again and again, and its disk loses power, while clients
// write, read and watch; what they saw must be a history of one world.
func TestCrashesEmbedded(t *testing.T) {
	v := newVictim(t, "", "", loseable(t))
	judge(t, []*victim{v}, func(round int) {
		if v.disk != nil && round%2 == 1 {
			v.disk.Cut(t, v.cmd.Process)
		}
		v.kill()
		v.start(t)
	})
}

// The same of two servers on one etcd: each is killed in turn, and so is etcd,
// whose disk loses power.
func TestCrashesEtcd(t *testing.T) {
	etcd, cut := crashEtcd(t)
	a := newVictim(t, etcd.URL, "", nil)
	b := newVictim(t, etcd.URL, a.data, nil)
	judge(t, []*victim{a, b}, func(round int) {
		switch round % 4 {
		case 0:
			cut()
			etcd.Run(t)
		case 1:
			a.kill()
			a.start(t)
		case 2:
			etcd.Kill(t)
			etcd.Run(t)
		case 3:
			b.kill()
			b.start(t)
		}
	})
}

// crashEtcd is an etcd, and the worst that can be done to it here.
func crashEtcd(t *testing.T) (etcd *etcdtest.Server, end func()) {
	if d := loseable(t); d != nil {
		etcd = etcdtest.StartOn(t, d)
		return etcd, func() { etcd.Cut(t) }
	}
	etcd = etcdtest.Start(t, "--unsafe-no-fsync=false")
	return etcd, func() { etcd.Kill(t) }
}
