package e2e

import (
	"strings"
	"testing"
	"time"
)

// box is a pod of busybox that runs a shell script; more is added to its
// container.
func box(name, script string, more ...string) string {
	return `
apiVersion: v1
kind: Pod
metadata: {name: ` + name + `, labels: {app: ` + name + `}}
spec:
  terminationGracePeriodSeconds: 2
  containers:
  - name: main
    image: busybox
    imagePullPolicy: IfNotPresent
    command: [sh, -c, ` + quote(script) + `]
` + strings.Join(more, "")
}

func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }

// TestSelfHealing: what dies comes back, what is ill is restarted or left out.
func TestSelfHealing(t *testing.T) {
	m := newMachine(t)
	m.start()
	m.importImages()

	t.Run("a crashing container backs off", func(t *testing.T) {
		t.Parallel()
		m := m.in(t)
		m.apply(box("crasher", "echo going down; sleep 1; exit 3"))
		m.sees("CrashLoopBackOff", 60*time.Second, "get", "pod", "crasher")
		if code := m.get("{.status.containerStatuses[0].lastState.terminated.exitCode}", "pod/crasher"); code != "3" {
			t.Errorf("exit code %q", code)
		}
		m.sees("Back-off restarting failed container", 10*time.Second, "get", "events", "--field-selector", "involvedObject.name=crasher")
	})
	t.Run("a deleted pod is replaced", func(t *testing.T) {
		t.Parallel()
		m := m.in(t)
		m.k("create", "deployment", "phoenix", "--image=busybox", "--", "sleep", "3600")
		m.k("patch", "deployment", "phoenix", "-p", `{"spec":{"template":{"spec":{"terminationGracePeriodSeconds":1,"containers":[{"name":"busybox","imagePullPolicy":"IfNotPresent"}]}}}}`)
		m.k("rollout", "status", "deployment/phoenix", "--timeout=60s")
		m.wants("1", 30*time.Second, "{.status.replicas}", "deployment/phoenix")
		m.until("one pod", 30*time.Second, func() (string, bool) {
			names := m.get("{.items[*].metadata.name}", "pods", "-l", "app=phoenix")
			return names, len(strings.Fields(names)) == 1
		})
		old := m.get("{.items[0].metadata.name}", "pods", "-l", "app=phoenix")
		m.k("delete", "pod", old)
		m.k("rollout", "status", "deployment/phoenix", "--timeout=60s")
		if now := m.get("{.items[*].metadata.name}", "pods", "-l", "app=phoenix"); strings.Contains(now, old) || now == "" {
			t.Errorf("%s was not replaced: %s", old, now)
		}
	})
	for kind, probe := range probes() {
		t.Run("liveness by "+kind, func(t *testing.T) {
			t.Parallel()
			m := m.in(t)
			pod := box("live-"+kind, probe.script,
				"    readinessProbe: {"+probe.check+", periodSeconds: 1, timeoutSeconds: 5}\n",
				"    livenessProbe: {"+probe.check+", periodSeconds: 1, timeoutSeconds: 5, failureThreshold: 2, initialDelaySeconds: 2}\n")
			m.apply(strings.Replace(pod, "image: busybox", "image: "+probe.image, 1))
			m.k("wait", "--for=condition=Ready", "pod/live-"+kind, "--timeout=30s")
			m.wants("1", 40*time.Second, "{.status.containerStatuses[0].restartCount}", "pod/live-"+kind)
			m.sees("Liveness probe failed", 10*time.Second, "get", "events", "--field-selector", "involvedObject.name=live-"+kind)
			m.k("delete", "pod", "live-"+kind, "--now")
		})
	}
	t.Run("readiness gates the Service", func(t *testing.T) { t.Parallel(); m := m.in(t); m.readiness() })
	t.Run("a startup probe holds the others back", func(t *testing.T) {
		t.Parallel()
		m := m.in(t)
		m.apply(box("slow", "sleep 4; touch /tmp/up; sleep 3600",
			"    startupProbe: {exec: {command: [test, -e, /tmp/up]}, periodSeconds: 1, timeoutSeconds: 5, failureThreshold: 30}\n",
			"    livenessProbe: {exec: {command: [test, -e, /tmp/up]}, periodSeconds: 1, timeoutSeconds: 5, failureThreshold: 1}\n"))
		m.wants("false", 20*time.Second, "{.status.containerStatuses[0].started}", "pod/slow")
		m.k("wait", "--for=condition=Ready", "pod/slow", "--timeout=30s")
		if n := m.get("{.status.containerStatuses[0].restartCount}", "pod/slow"); n != "0" {
			t.Errorf("restarted %s times while starting", n)
		}
	})
}

type probe struct{ image, script, check string }

// probes begin well and fail after some seconds.
func probes() map[string]probe {
	return map[string]probe{
		"exec": {"busybox", "touch /tmp/ok; sleep 8; rm /tmp/ok; sleep 3600", "exec: {command: [cat, /tmp/ok]}"},
		"http": {"busybox", "mkdir /www; echo ok >/www/ok; httpd -p 8080 -h /www; sleep 8; rm /www/ok; sleep 3600", "httpGet: {port: 8080, path: /ok}"},
		"tcp":  {"busybox", "httpd -p 8080 -h /tmp; sleep 8; killall httpd; sleep 3600", "tcpSocket: {port: 8080}"},
		"grpc": {"health", "health 8080 & sleep 8; kill -USR1 $!; sleep 3600", "grpc: {port: 8080, service: main}"},
	}
}

func (m *machine) readiness() {
	m.t.Helper()
	m.apply(box("gate", "touch /tmp/ready; httpd -p 8080 -h /tmp; sleep 3600",
		"    readinessProbe: {exec: {command: [test, -e, /tmp/ready]}, periodSeconds: 1, timeoutSeconds: 5, failureThreshold: 1}\n"))
	m.k("expose", "pod", "gate", "--port=80", "--target-port=8080")
	ready := func() string {
		return m.get("{.items[*].endpoints[*].conditions.ready}", "endpointslices", "-l", "kubernetes.io/service-name=gate")
	}
	expect := func(want string) {
		m.t.Helper()
		m.until("the endpoint to be ready="+want, 30*time.Second, func() (string, bool) { got := ready(); return got, got == want })
	}
	expect("true")
	m.k("exec", "gate", "--", "rm", "/tmp/ready")
	expect("false")
	if n := m.get("{.status.containerStatuses[0].restartCount}", "pod/gate"); n != "0" {
		m.t.Errorf("readiness restarted it %s times", n)
	}
	m.k("exec", "gate", "--", "touch", "/tmp/ready")
	expect("true")
}
