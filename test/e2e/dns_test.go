package e2e

import (
	"strings"
	"testing"
)

// TestDNS: Services and pods by name from any pod, and the world outside.
func TestDNS(t *testing.T) {
	m := newMachine(t)
	m.start()
	m.importImages()
	m.k("create", "namespace", "other")
	m.apply(box("web", "httpd -p 8080 -h /tmp; sleep 3600", "  hostname: host-1\n  subdomain: headless\n"))
	m.apply(`
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{name: http, port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: headless}
spec: {clusterIP: None, selector: {app: web}, ports: [{name: http, port: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: alias}
spec: {type: ExternalName, externalName: outside.example.org}
`)
	m.k("run", "asker", "-n", "other", "--image=busybox", "--image-pull-policy=IfNotPresent", "--command", "--", "sleep", "3600")
	m.k("wait", "--for=condition=Ready", "pod/web", "--timeout=30s")
	m.k("wait", "-n", "other", "--for=condition=Ready", "pod/asker", "--timeout=30s")
	pod, svc := m.get("{.status.podIP}", "pod/web"), m.get("{.spec.clusterIP}", "service/web")
	for name, want := range map[string]string{
		"web.default":                                      svc,
		"web.default.svc.cluster.local":                    svc,
		"kubernetes.default":                               m.get("{.spec.clusterIP}", "service/kubernetes"),
		"headless.default.svc":                             pod,
		"host-1.headless.default.svc.cluster.local":        pod,
		strings.ReplaceAll(pod, ".", "-") + ".default.pod": pod,
		"outside.example.org":                              outsideAddr,
		"alias.default":                                    outsideAddr,
	} {
		t.Run(name, func(t *testing.T) {
			m := m.in(t)
			out, err := m.kube("exec", "-n", "other", "asker", "--", "ping", "-c1", "-W1", "-w1", name).CombinedOutput()
			if !strings.Contains(string(out), "("+want+")") {
				t.Errorf("want %s: %s %v", want, out, err)
			}
		})
	}
	if out, err := m.kube("exec", "-n", "other", "asker", "--", "ping", "-c1", "-w1", "absent.default").CombinedOutput(); err == nil || !strings.Contains(string(out), "bad address") {
		t.Errorf("a name that is not there: %s", out)
	}
}
