package e2e

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/containerd/console"
)

const rich = `
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {color: blue, file.txt: "first\n"}
---
apiVersion: v1
kind: Secret
metadata: {name: token}
stringData: {word: sesame}
---
apiVersion: v1
kind: Pod
metadata: {name: rich, labels: {app: rich, tier: back}, annotations: {note: hello}}
spec:
  terminationGracePeriodSeconds: 5
  initContainers:
  - {name: first, image: busybox, imagePullPolicy: IfNotPresent, command: [sh, -c, 'echo from-init > /shared/init'], volumeMounts: [{name: shared, mountPath: /shared}]}
  containers:
  - name: main
    image: busybox
    imagePullPolicy: IfNotPresent
    command: [sh, -c, 'echo started; echo warned >&2; cat /shared/init; httpd -p 8080 -h /shared; sleep 3600']
    env:
    - {name: COLOR, valueFrom: {configMapKeyRef: {name: settings, key: color}}}
    - {name: WORD, valueFrom: {secretKeyRef: {name: token, key: word}}}
    - {name: MYNAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
    - {name: MYIP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}
    - {name: LIMIT, valueFrom: {resourceFieldRef: {resource: limits.memory}}}
    - {name: BOTH, value: $(COLOR)-$(WORD)}
    resources: {limits: {memory: 64Mi, cpu: 500m}}
    volumeMounts:
    - {name: shared, mountPath: /shared}
    - {name: settings, mountPath: /etc/settings}
    - {name: token, mountPath: /etc/token}
    - {name: info, mountPath: /etc/info}
    - {name: host, mountPath: /host, readOnly: true}
  - name: side
    image: busybox
    imagePullPolicy: IfNotPresent
    command: [sh, -c, 'trap "exit 0" TERM; while :; do sleep 1; done']
    volumeMounts: [{name: shared, mountPath: /shared}]
  volumes:
  - {name: shared, emptyDir: {}}
  - {name: settings, configMap: {name: settings}}
  - {name: token, secret: {secretName: token, defaultMode: 0400}}
  - {name: info, downwardAPI: {items: [{path: labels, fieldRef: {fieldPath: metadata.labels}}]}}
  - {name: host, hostPath: {path: /etc, type: Directory}}
`

// TestPods: several containers, volumes, streams, and an orderly end.
func TestPods(t *testing.T) {
	m := newMachine(t)
	m.start()
	m.pods()
}

// pods runs the whole of TestPods with the machine's kubectl.
func (m *machine) pods() {
	t := m.t
	m.importImages()
	m.apply(rich)
	m.k("wait", "--for=condition=Ready", "pod/rich", "--timeout=60s")
	sh := func(m *machine, container, script string) string {
		m.t.Helper()
		return strings.TrimSpace(m.k("exec", "rich", "-c", container, "--", "sh", "-c", script))
	}

	t.Run("environment, files and volumes", func(t *testing.T) {
		m := m.in(t)
		for script, want := range map[string]string{
			"echo $COLOR $WORD $MYNAME $LIMIT $BOTH":                                   "blue sesame rich 67108864 blue-sesame",
			"cat /etc/settings/file.txt":                                               "first",
			"cat /etc/token/word; stat -L -c ' %a' /etc/token/word":                    "sesame 400",
			"cat /etc/info/labels":                                                     "app=\"rich\"\ntier=\"back\"",
			"test -e /host/hostname && echo yes; touch /host/x 2>/dev/null || echo ro": "yes\nro",
			"cat /shared/init":                                                         "from-init",
			"ls /var/run/secrets/kubernetes.io/serviceaccount | tr '\\n' ' '":          "ca.crt namespace token",
			"cat /var/run/secrets/kubernetes.io/serviceaccount/namespace":              "default",
			"hostname": "rich",
		} {
			if got := sh(m, "main", script); strings.TrimSpace(got) != want {
				t.Errorf("%s gives %q, want %q", script, got, want)
			}
		}
		if got, want := sh(m, "main", "echo $MYIP"), m.get("{.status.podIP}", "pod/rich"); got != want {
			t.Errorf("pod IP %q, want %q", got, want)
		}
		if got := sh(m, "side", "wget -q -O- http://localhost:8080/init"); got != "from-init" {
			t.Errorf("the other container's localhost says %q", got)
		}
	})
	t.Run("files follow their ConfigMap", func(t *testing.T) {
		m := m.in(t)
		m.k("patch", "configmap", "settings", "-p", `{"data":{"file.txt":"second\n"}}`)
		m.until("the new content", 90*time.Second, func() (string, bool) {
			got := sh(m, "main", "cat /etc/settings/file.txt")
			return got, got == "second"
		})
	})
	t.Run("the token opens the API", func(t *testing.T) {
		m := m.in(t)
		got := sh(m, "main", `d=/var/run/secrets/kubernetes.io/serviceaccount; wget -q -O- --no-check-certificate --header "Authorization: Bearer $(cat $d/token)" https://kubernetes.default/version 2>&1 || true`)
		if !strings.Contains(got, "gitVersion") && !strings.Contains(got, "not an http or ftp url") && !strings.Contains(got, "TLS") {
			t.Errorf("the API answers %s", got)
		}
		token := sh(m, "main", "cat /var/run/secrets/kubernetes.io/serviceaccount/token")
		if who := m.k("auth", "whoami", "--token="+token, "--kubeconfig="+m.bare(), "-o", "jsonpath={.status.userInfo.username}"); who != "system:serviceaccount:default:default" {
			t.Errorf("the token is %q", who)
		}
	})
	t.Run("logs", func(t *testing.T) { m := m.in(t); m.logs() })
	t.Run("exec and attach", func(t *testing.T) { m := m.in(t); m.execAndAttach() })
	t.Run("cp", func(t *testing.T) { m := m.in(t); m.copies() })
	t.Run("port-forward", func(t *testing.T) { m := m.in(t); m.forwards() })
	t.Run("an orderly end", func(t *testing.T) { m := m.in(t); m.ends() })
	t.Run("owners take their own with them", func(t *testing.T) { m := m.in(t); m.cascades() })
}

// bare writes a kubeconfig with the server and no credentials.
func (m *machine) bare() string {
	m.t.Helper()
	file := filepath.Join(m.t.TempDir(), "config")
	data, err := os.ReadFile(filepath.Join(m.data, "kubeconfig"))
	if err != nil {
		m.t.Fatal(err)
	}
	if err := os.WriteFile(file, data, 0o600); err != nil {
		m.t.Fatal(err)
	}
	m.k("config", "unset", "users", "--kubeconfig="+file)
	return file
}

func (m *machine) logs() {
	m.t.Helper()
	all := m.k("logs", "rich", "-c", "main")
	if !strings.Contains(all, "started\n") || !strings.Contains(all, "warned\n") || !strings.Contains(all, "from-init\n") {
		m.t.Errorf("logs: %q", all)
	}
	// The two outputs are two pipes: which line is the last is anybody's guess.
	if got := m.k("logs", "rich", "-c", "main", "--tail=1"); strings.Count(got, "\n") != 1 || !strings.HasSuffix(all, got) {
		m.t.Errorf("--tail=1: %q, of %q", got, all)
	}
	stamped := strings.SplitN(m.k("logs", "rich", "-c", "main", "--tail=1", "--timestamps"), " ", 2)
	if at, err := time.Parse(time.RFC3339Nano, stamped[0]); err != nil || time.Since(at) > time.Hour || len(stamped) != 2 {
		m.t.Errorf("--timestamps: %q %v", stamped, err)
	}
	m.apply(box("talker", "echo one; sleep 2; echo two; sleep 1; exit 1"))
	defer m.k("delete", "pod", "talker", "--now")
	m.k("wait", "--for=condition=Ready", "pod/talker", "--timeout=30s")
	if got := m.k("logs", "-f", "talker"); got != "one\ntwo\n" {
		m.t.Errorf("-f: %q", got)
	}
	m.until("a restart", 40*time.Second, func() (string, bool) {
		n := m.get("{.status.containerStatuses[0].restartCount}", "pod/talker")
		return n, n != "0"
	})
	if got := m.k("logs", "--previous", "talker"); got != "one\ntwo\n" {
		m.t.Errorf("--previous: %q", got)
	}
}

func (m *machine) execAndAttach() {
	m.t.Helper()
	err := m.kube("exec", "rich", "-c", "main", "--", "sh", "-c", "exit 7").Run()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 7 {
		m.t.Errorf("exit code: %v, want 7", err)
	}
	in := m.kube("exec", "-i", "rich", "-c", "main", "--", "tr", "a-z", "A-Z")
	in.Stdin = strings.NewReader("through the pipe\n")
	if got := m.output(in); got != "THROUGH THE PIPE\n" {
		m.t.Errorf("standard input: %q", got)
	}
	m.terminal()
	m.apply(box("echoer", "echo ready; exec cat", "    stdin: true\n"))
	defer m.k("delete", "pod", "echoer", "--now")
	m.k("wait", "--for=condition=Ready", "pod/echoer", "--timeout=30s")
	attach := m.kube("attach", "-i", "echoer")
	attach.Stdin = strings.NewReader("over and out\n")
	if err := attach.Start(); err != nil {
		m.t.Fatal(err)
	}
	m.sees("over and out", 10*time.Second, "logs", "echoer")
	_ = attach.Process.Kill() // it stays attached when the input ends
	_ = attach.Wait()
}

// terminal gives kubectl a terminal, so that -t has one to pass on.
func (m *machine) terminal() {
	m.t.Helper()
	pty, path, err := console.NewPty()
	if err != nil {
		m.t.Fatal(err)
	}
	defer pty.Close()
	if err := pty.Resize(console.WinSize{Height: 31, Width: 97}); err != nil {
		m.t.Fatal(err)
	}
	tty, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		m.t.Fatal(err)
	}
	cmd := m.kube("exec", "-it", "rich", "-c", "main", "--", "sh", "-c", "tty; until stty size | grep 97; do sleep 0.1; done")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = tty, tty, tty
	err = cmd.Start()
	tty.Close()
	if err != nil {
		m.t.Fatal(err)
	}
	out, _ := io.ReadAll(pty) // it ends with an error when nobody holds the other end
	if err := cmd.Wait(); err != nil || !strings.Contains(string(out), "/dev/pts/") || !strings.Contains(string(out), "31 97") {
		m.t.Errorf("terminal: %q %v", out, err)
	}
}

func (m *machine) copies() {
	m.t.Helper()
	dir := m.t.TempDir()
	local := filepath.Join(dir, "to")
	want := bytes.Repeat([]byte("0123456789abcdef"), 64<<10)
	if err := os.WriteFile(local, want, 0o644); err != nil {
		m.t.Fatal(err)
	}
	m.k("cp", local, "rich:/shared/copied", "-c", "main")
	m.k("cp", "rich:/shared/copied", filepath.Join(dir, "back"), "-c", "side")
	if got, err := os.ReadFile(filepath.Join(dir, "back")); err != nil || !bytes.Equal(got, want) {
		m.t.Errorf("came back with %d bytes, want %d: %v", len(got), len(want), err)
	}
}

func (m *machine) forwards() {
	m.t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		m.t.Fatal(err)
	}
	port := strconv.Itoa(l.Addr().(*net.TCPAddr).Port)
	l.Close()
	cmd := m.kube("port-forward", "pod/rich", port+":8080")
	if err := cmd.Start(); err != nil {
		m.t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	for range 3 {
		m.until("the forwarded port to answer", 10*time.Second, func() (string, bool) {
			body, err := fetch(context.Background(), "http://127.0.0.1:"+port+"/init")
			if err != nil {
				return err.Error(), false
			}
			return body, body == "from-init\n"
		})
	}
}

func (m *machine) ends() {
	m.t.Helper()
	dir := m.t.TempDir()
	m.apply(box("last-words", "trap 'echo term >>/out/log; exit 0' TERM; while :; do sleep 0.1; done",
		"    lifecycle: {preStop: {exec: {command: [sh, -c, 'echo prestop >>/out/log']}}}\n",
		"    volumeMounts: [{name: out, mountPath: /out}]\n",
		"  volumes: [{name: out, hostPath: {path: "+dir+"}}]\n"))
	m.k("wait", "--for=condition=Ready", "pod/last-words", "--timeout=30s")
	start := time.Now()
	m.k("delete", "pod", "last-words", "--grace-period=60")
	if took := time.Since(start); took > 30*time.Second {
		m.t.Errorf("a pod that heeds SIGTERM took %s to go", took)
	}
	if got, _ := os.ReadFile(filepath.Join(dir, "log")); string(got) != "prestop\nterm\n" {
		m.t.Errorf("it said %q", got)
	}
	m.apply(box("deaf", "trap '' TERM; while :; do sleep 0.1; done"))
	m.k("wait", "--for=condition=Ready", "pod/deaf", "--timeout=30s")
	start = time.Now()
	m.k("delete", "pod", "deaf")
	if took := time.Since(start); took < 2*time.Second || took > 20*time.Second {
		m.t.Errorf("a pod that ignores SIGTERM went after %s; its grace period is 2 s", took)
	}
}

func (m *machine) cascades() {
	m.t.Helper()
	m.k("create", "deployment", "owner", "--image=busybox", "--replicas=2", "--", "sleep", "3600")
	m.until("two pods", 20*time.Second, func() (string, bool) {
		got := m.get("{.items[*].metadata.name}", "pods", "-l", "app=owner")
		return got, len(strings.Fields(got)) == 2
	})
	m.k("delete", "deployment", "owner", "--cascade=orphan")
	if got := m.get("{.items[*].metadata.ownerReferences[*].kind}", "replicasets", "-l", "app=owner"); got != "" {
		m.t.Errorf("orphaned, but owned by %s", got)
	}
	rs := m.get("{.items[0].metadata.name}", "replicasets", "-l", "app=owner")
	m.k("delete", "replicaset", rs, "--cascade=foreground", "--timeout=60s")
	if got := m.get("{.items[*].metadata.name}", "pods", "-l", "app=owner"); got != "" {
		m.t.Errorf("the owner is gone before its pods %s", got)
	}
}
