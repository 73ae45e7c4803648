package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// TestExample is what a newcomer does: bring the image, apply two files, see it
// answer, scale it, update it under load, break it and undo.
func TestExample(t *testing.T) {
	m := newMachine(t)
	m.start()
	m.example()
}

func (m *machine) example() {
	t := m.t
	m.importImages()
	deployment, service := manifest(t, "flask-deployment.yaml"), manifest(t, "flask-service.yaml")
	m.apply(deployment)
	m.apply(service)
	m.k("rollout", "status", "deployment/flask-app", "--timeout=60s")

	t.Run("shows what upstream shows", func(t *testing.T) { m := m.in(t); m.showsTheExample() })
	t.Run("answers everywhere", func(t *testing.T) { m := m.in(t); m.answersEverywhere() })
	t.Run("scales", func(t *testing.T) { m := m.in(t); m.scales(deployment) })
	t.Run("updates without losing a request", func(t *testing.T) { m := m.in(t); m.rollsUnderLoad() })
	t.Run("history and undo", func(t *testing.T) { m := m.in(t); m.undoes() })
	t.Run("pause, resume, restart", func(t *testing.T) { m := m.in(t); m.pausesAndRestarts() })
	t.Run("a bad image stalls, the old pods serve", func(t *testing.T) { m := m.in(t); m.stalls() })
}

// in is the machine for a subtest.
func (m *machine) in(t *testing.T) *machine { return &machine{m.instance, t} }

func (m *machine) importImages() {
	m.t.Helper()
	archives, err := filepath.Glob(filepath.Join(images, "*.tar*"))
	if err != nil || len(archives) == 0 {
		m.t.Fatalf("no archives in %s: run `make images` (%v)", images, err)
	}
	m.proa(append([]string{"image", "import", "--data-dir", m.data}, archives...)...)
}

func manifest(t *testing.T, name string) string {
	t.Helper()
	data, err := os.ReadFile("../../examples/flask/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func (m *machine) showsTheExample() {
	m.t.Helper()
	deployments := strings.Fields(m.k("get", "deployments"))
	want := []string{"NAME", "READY", "UP-TO-DATE", "AVAILABLE", "AGE", "flask-app", "3/3", "3", "3"}
	if len(deployments) != len(want)+1 || !slices.Equal(deployments[:len(want)], want) {
		m.t.Errorf("get deployments shows %q", deployments)
	}
	services := strings.Fields(m.k("get", "service", "flask-app"))
	port := m.get("{.spec.ports[0].nodePort}", "service/flask-app")
	want = []string{"NAME", "TYPE", "CLUSTER-IP", "EXTERNAL-IP", "PORT(S)", "AGE", "flask-app", "LoadBalancer",
		m.get("{.spec.clusterIP}", "service/flask-app"), hostAddr, "80:" + port + "/TCP"}
	if len(services) != len(want)+1 || !slices.Equal(services[:len(want)], want) {
		m.t.Errorf("get services shows %q, want %q", services, want)
	}
}

// replicas asks until n pods have answered.
func (m *machine) replicas(url string, n int) {
	m.t.Helper()
	pods := map[string]bool{}
	m.until(fmt.Sprintf("%d replicas to answer at %s", n, url), 20*time.Second, func() (string, bool) {
		body, err := fetch(context.Background(), url)
		if err != nil {
			return err.Error(), false
		}
		pods[podIn(body)] = true
		return fmt.Sprint(pods), len(pods) == n && !pods[""]
	})
}

// podIn finds the name of the pod that answered.
func podIn(body string) string {
	for _, word := range strings.FieldsFunc(body, func(r rune) bool { return !strings.ContainsRune("abcdefghijklmnopqrstuvwxyz0123456789-", r) }) {
		if strings.HasPrefix(word, "flask-app-") {
			return word
		}
	}
	return ""
}

func (m *machine) answersEverywhere() {
	m.t.Helper()
	m.replicas("http://"+hostAddr, 3)
	m.replicas("http://"+hostAddr+":"+m.get("{.spec.ports[0].nodePort}", "service/flask-app"), 3)
	m.replicas("http://"+m.get("{.spec.clusterIP}", "service/flask-app"), 3)
	m.k("run", "asker", "--image=busybox", "--image-pull-policy=IfNotPresent", "--restart=Never", "--command", "--", "sleep", "3600")
	m.k("wait", "--for=condition=Ready", "pod/asker", "--timeout=30s")
	defer m.k("delete", "pod", "asker", "--now")
	pods := map[string]bool{}
	m.until("3 replicas to answer a pod", 20*time.Second, func() (string, bool) {
		pods[podIn(m.k("exec", "asker", "--", "wget", "-q", "-O-", "http://flask-app"))] = true
		return fmt.Sprint(pods), len(pods) == 3
	})
}

func (m *machine) scales(deployment string) {
	m.t.Helper()
	m.apply(strings.Replace(deployment, "replicas: 3", "replicas: 5", 1))
	m.wants("5", 30*time.Second, "{.status.readyReplicas}", "deployment/flask-app")
	m.k("scale", "deployment/flask-app", "--replicas=2")
	m.until("two pods to be left", 30*time.Second, func() (string, bool) {
		names := strings.Fields(m.get("{.items[*].metadata.name}", "pods", "-l", "app=flask-app"))
		return fmt.Sprint(names), len(names) == 2
	})
	// The pod that is not ready goes first, by upstream's ranking.
	m.k("scale", "deployment/flask-app", "--replicas=3")
	m.wants("3", 30*time.Second, "{.status.readyReplicas}", "deployment/flask-app")
}

// load asks without pause until it is stopped and counts.
type load struct {
	stop          context.CancelFunc
	done          sync.WaitGroup
	asked, failed atomic.Int64
	mu            sync.Mutex
	firstErr      error
	versionsSeen  sync.Map
}

func startLoad(url string, clients int) *load {
	ctx, cancel := context.WithCancel(context.Background())
	l := &load{stop: cancel}
	for range clients {
		l.done.Go(func() {
			for ctx.Err() == nil {
				body, err := fetch(context.Background(), url)
				l.asked.Add(1)
				if err != nil {
					l.failed.Add(1)
					l.mu.Lock()
					l.firstErr = cmpErr(l.firstErr, err)
					l.mu.Unlock()
				}
				for _, v := range []string{"v1", "v2"} {
					if strings.Contains(body, v) {
						l.versionsSeen.Store(v, true)
					}
				}
				time.Sleep(5 * time.Millisecond)
			}
		})
	}
	return l
}

func cmpErr(first, err error) error {
	if first != nil {
		return first
	}
	return err
}

// end stops the load and fails the test if a request failed.
func (l *load) end(m *machine) {
	m.t.Helper()
	l.stop()
	l.done.Wait()
	if l.asked.Load() < 100 {
		m.t.Errorf("only %d requests: no load", l.asked.Load())
	}
	if n := l.failed.Load(); n > 0 {
		m.t.Errorf("%d of %d requests failed, the first with: %v", n, l.asked.Load(), l.firstErr)
	}
}

func (m *machine) rollsUnderLoad() {
	m.t.Helper()
	l := startLoad("http://"+hostAddr, 4)
	time.Sleep(500 * time.Millisecond)
	m.k("set", "image", "deployment/flask-app", "*=flask-app:v2")
	bounds := m.watchBounds()
	m.k("rollout", "status", "deployment/flask-app", "--timeout=90s")
	bounds()
	time.Sleep(500 * time.Millisecond)
	l.end(m)
	if _, new := l.versionsSeen.Load("v2"); !new {
		m.t.Error("nobody saw the new version")
	}
	if body, err := fetch(context.Background(), "http://"+hostAddr); err != nil || !strings.Contains(body, "v2") {
		m.t.Errorf("after the rollout: %q %v", body, err)
	}
}

// watchBounds samples a rollout of 3 replicas with the default strategy: at most
// one more (25 % rounded up), at least all three available (25 % rounded down).
func (m *machine) watchBounds() (end func()) {
	stop, done := make(chan struct{}), make(chan struct{})
	var broken []string
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			case <-time.After(100 * time.Millisecond):
			}
			out, err := m.kube("get", "deployment/flask-app", "-o", "jsonpath={.status.replicas} {.status.availableReplicas}").Output()
			var all, available int
			if _, scan := fmt.Sscan(string(out), &all, &available); err != nil || scan != nil {
				continue
			}
			if all > 4 || available < 3 {
				broken = append(broken, string(out))
			}
		}
	}()
	return func() {
		close(stop)
		<-done
		if len(broken) > 0 {
			m.t.Errorf("replicas and available left their bounds: %q", broken)
		}
	}
}

func (m *machine) undoes() {
	m.t.Helper()
	history := m.k("rollout", "history", "deployment/flask-app")
	if !strings.Contains(history, "\n1 ") || !strings.Contains(history, "\n2 ") {
		m.t.Errorf("history shows %s", history)
	}
	m.k("rollout", "undo", "deployment/flask-app")
	m.k("rollout", "status", "deployment/flask-app", "--timeout=90s")
	if image := m.get("{.spec.template.spec.containers[0].image}", "deployment/flask-app"); !strings.HasSuffix(image, ":v1") {
		m.t.Errorf("undo left %s", image)
	}
	if history := m.k("rollout", "history", "deployment/flask-app"); !strings.Contains(history, "\n3 ") || strings.Contains(history, "\n1 ") {
		m.t.Errorf("history after undo shows %s", history)
	}
}

func (m *machine) pausesAndRestarts() {
	m.t.Helper()
	m.k("rollout", "pause", "deployment/flask-app")
	before := m.get("{.status.observedGeneration}", "deployment/flask-app")
	m.k("set", "env", "deployment/flask-app", "PAUSED=1")
	m.until("the change to be observed", 10*time.Second, func() (string, bool) {
		now := m.get("{.status.observedGeneration}", "deployment/flask-app")
		return now, now != before
	})
	if n := m.get("{.status.updatedReplicas}", "deployment/flask-app"); n != "" && n != "0" {
		m.t.Errorf("a paused deployment rolled: %s updated", n)
	}
	m.k("rollout", "resume", "deployment/flask-app")
	m.k("rollout", "status", "deployment/flask-app", "--timeout=90s")
	m.k("rollout", "restart", "deployment/flask-app")
	m.k("rollout", "status", "deployment/flask-app", "--timeout=90s")
}

func (m *machine) stalls() {
	m.t.Helper()
	m.k("patch", "deployment/flask-app", "-p", `{"spec":{"progressDeadlineSeconds":10}}`)
	m.k("rollout", "status", "deployment/flask-app", "--timeout=60s")
	l := startLoad("http://"+hostAddr, 2)
	m.k("set", "image", "deployment/flask-app", "*=127.0.0.1:1/absent:v9")
	m.sees("ImagePullBackOff", 60*time.Second, "get", "pods")
	m.sees("Failed to pull image", 10*time.Second, "get", "events")
	m.wants("ProgressDeadlineExceeded", 60*time.Second,
		`{.status.conditions[?(@.type=="Progressing")].reason}`, "deployment/flask-app")
	if said := m.fails("rollout", "status", "deployment/flask-app", "--timeout=10s"); !strings.Contains(said, "exceeded its progress deadline") {
		m.t.Errorf("rollout status says %s", said)
	}
	l.end(m)
	m.k("rollout", "undo", "deployment/flask-app")
	m.k("rollout", "status", "deployment/flask-app", "--timeout=60s")
}
