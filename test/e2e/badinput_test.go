package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestBadManifests: the answers upstream gives, and nothing half applied.
func TestBadManifests(t *testing.T) {
	m := newMachine(t)
	m.start()
	good := `
apiVersion: apps/v1
kind: Deployment
metadata: {name: NAME}
spec:
  replicas: REPLICAS
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: c, image: busybox, resources: {limits: {cpu: CPU}}}]}
`
	manifest := func(name, replicas, cpu string) string {
		return strings.NewReplacer("NAME", name, "REPLICAS", replicas, "CPU", cpu).Replace(good)
	}
	for what, c := range map[string]struct{ manifest, want string }{
		"wrong type":         {manifest("web", "many", "1"), `cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32`},
		"unknown field":      {strings.Replace(manifest("web", "1", "1"), "replicas:", "replicaz:", 1), `unknown field "spec.replicaz"`},
		"missing selector":   {strings.Replace(manifest("web", "1", "1"), "  selector: {matchLabels: {app: web}}\n", "", 1), `spec.selector: Required value`},
		"selector mismatch":  {strings.Replace(manifest("web", "1", "1"), "labels: {app: web}", "labels: {app: other}", 1), "spec.template.metadata.labels: Invalid value: {\"app\":\"other\"}: `selector` does not match template `labels`"},
		"bad name":           {manifest("Bad_Name", "1", "1"), `metadata.name: Invalid value: "Bad_Name": a lowercase RFC 1123 subdomain must consist of`},
		"bad quantity":       {manifest("web", "1", "lots"), `quantities must match the regular expression`},
		"negative replicas":  {manifest("web", "-1", "1"), `spec.replicas: Invalid value: -1: must be greater than or equal to 0`},
		"request over limit": {strings.Replace(manifest("web", "1", "1"), "limits: {cpu: 1}", "limits: {cpu: 1}, requests: {cpu: 2}", 1), `must be less than or equal to cpu limit of 1`},
		"no such kind":       {"apiVersion: apps/v7\nkind: Deployment\nmetadata: {name: web}\n", `no matches for kind "Deployment" in version "apps/v7"`},
		"absent namespace":   {strings.Replace(manifest("web", "1", "1"), "{name: web}", "{name: web, namespace: absent}", 1), `namespaces "absent" not found`},
	} {
		t.Run(what, func(t *testing.T) {
			m := m.in(t)
			if said := m.refuses(c.manifest); !strings.Contains(said, c.want) {
				t.Errorf("said %q, want %q", said, c.want)
			}
		})
	}
	if left := m.k("get", "deployments", "-A", "-o", "name"); left != "" {
		t.Errorf("half applied: %s", left)
	}
	status := m.k("create", "--raw", "/api/v1/namespaces/default/pods", "-f", writeFile(t, "pod.json", `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"ok"},"spec":{"containers":[{"name":"c","image":"busybox"}]}}`))
	if !strings.Contains(status, `"kind":"Pod"`) {
		t.Errorf("a good body: %s", status)
	}
}

func writeFile(t *testing.T, name, content string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
	return file
}

// complains runs a command that must fail with one sentence.
func (m *machine) complains(want string, args ...string) {
	m.t.Helper()
	cmd := m.command(args...)
	out, err := runFor(cmd, 20*time.Second)
	if err == nil {
		m.t.Errorf("proa %s succeeded:\n%s", strings.Join(args, " "), out)
	}
	if !strings.Contains(out, want) || strings.Contains(out, "panic") || strings.Contains(out, "goroutine ") {
		m.t.Errorf("proa %s said %q, want %q", strings.Join(args, " "), out, want)
	}
}

func runFor(cmd *exec.Cmd, limit time.Duration) (string, error) {
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		return "", err
	}
	timer := time.AfterFunc(limit, func() { _ = cmd.Process.Kill() })
	defer timer.Stop()
	err := cmd.Wait()
	return out.String(), err
}

// TestBadMachine: each thing that stands in the way is one sentence with a fix.
func TestBadMachine(t *testing.T) {
	m := newMachine(t)
	m.start()
	other := filepath.Join(filepath.Dir(m.data), "other")

	m.complains("is in use by a running proa", "up", "--data-dir", m.data, "--run-dir", m.run)
	m.complains("6443 is in use by proa", "up", "--no-node", "--data-dir", other, "--run-dir", other+"-run")
	m.complains("--api-port must be between", "up", "--no-node", "--api-port", "70000", "--data-dir", other, "--run-dir", other+"-run")
	m.complains("overlap", "up", "--no-node", "--pod-cidr", "10.0.0.0/8", "--service-cidr", "10.1.0.0/16", "--data-dir", other, "--run-dir", other+"-run")
	m.complains("say --yes", "reset", "--data-dir", m.data)
	m.complains("was not made by proa", "reset", "--yes", "--data-dir", "/etc", "--run-dir", other+"-run")

	t.Run("two side by side", func(t *testing.T) { m := m.in(t); m.sideBySide(other) })
	t.Run("layouts", func(t *testing.T) { m := m.in(t); m.importsLayouts() })
	t.Run("archives", func(t *testing.T) { m := m.in(t); m.badArchives() })
	t.Run("no privilege", func(t *testing.T) {
		m := m.in(t)
		cmd := m.command("up", "--data-dir", "/tmp/nobody", "--run-dir", "/tmp/nobody-run")
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		out, err := runFor(cmd, 20*time.Second)
		if err == nil || !strings.Contains(out, "sudo") {
			t.Errorf("said %q", out)
		}
		_ = os.RemoveAll("/tmp/nobody")
		_ = os.RemoveAll("/tmp/nobody-run")
	})
	t.Run("a corrupt record", func(t *testing.T) { m := m.in(t); m.corruptRecord() })
}

// sideBySide runs a second control plane; commands then need to be told which.
func (m *machine) sideBySide(dir string) {
	m.t.Helper()
	second := &machine{&instance{data: dir, run: dir + "-run", home: m.home}, m.t}
	second.start("--no-node", "--api-port", "7443")
	defer second.reset()
	second.k("create", "namespace", "second")
	if got := m.k("get", "namespaces", "-o", "name"); strings.Contains(got, "second") {
		m.t.Errorf("the first cluster shows the second's: %s", got)
	}
	m.complains("2 clusters run here", "down")
	second.proa("down", "--data-dir", dir)
}

// importsLayouts brings an image as a directory, as a compressed archive and
// from standard input.
func (m *machine) importsLayouts() {
	m.t.Helper()
	dir := m.t.TempDir()
	archive := filepath.Join(images, "busybox.tar")
	m.output(exec.Command("tar", "-C", dir, "-xf", archive))
	gz := filepath.Join(m.t.TempDir(), "busybox.tar.gz")
	m.output(exec.Command("sh", "-c", "gzip -c "+archive+" > "+gz))
	piped := m.command("image", "import", "--data-dir", m.data, "-")
	f, err := os.Open(archive)
	if err != nil {
		m.t.Fatal(err)
	}
	defer f.Close()
	piped.Stdin = f
	for how, out := range map[string]string{
		"directory": m.proa("image", "import", "--data-dir", m.data, dir),
		"gzip":      m.proa("image", "import", "--data-dir", m.data, gz),
		"input":     m.output(piped),
	} {
		if !strings.Contains(out, "docker.io/library/busybox:latest") {
			m.t.Errorf("%s: %s", how, out)
		}
	}
	m.proa("image", "rm", "--data-dir", m.data, "busybox")
	if out := m.proa("image", "ls", "--data-dir", m.data); strings.Contains(out, "busybox") {
		m.t.Errorf("removed, but listed: %s", out)
	}
}

func (m *machine) badArchives() {
	m.t.Helper()
	before := m.proa("image", "ls", "--data-dir", m.data)
	archives, _ := filepath.Glob(filepath.Join(images, "busybox*"))
	data, err := os.ReadFile(archives[0])
	if err != nil {
		m.t.Fatal(err)
	}
	half := writeFile(m.t, "half.tar", string(data[:len(data)/2]))
	middle := len(data) / 2
	flipped := writeFile(m.t, "flipped.tar", string(data[:middle])+string(data[middle]^0xff)+string(data[middle+1:]))
	m.complains("truncated", "image", "import", "--data-dir", m.data, half)
	m.complains("flipped.tar", "image", "import", "--data-dir", m.data, flipped)
	m.complains("not", "image", "import", "--data-dir", m.data, writeFile(m.t, "text.tar", "not an archive\n"))
	m.complains("no such file", "image", "import", "--data-dir", m.data, "/absent.tar")
	if after := m.proa("image", "ls", "--data-dir", m.data); after != before {
		m.t.Errorf("something was kept:\n%s", after)
	}
}

// corruptRecord flips bytes in every file of the datastore, one at a time: up
// must either refuse with a sentence or lose nothing.
func (m *machine) corruptRecord() {
	m.t.Helper()
	m.k("create", "configmap", "precious", "--from-literal=a=b")
	m.signal(syscall.SIGTERM)
	refused := 0
	files, _ := filepath.Glob(filepath.Join(m.data, "store", "*"))
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil || len(data) < 64 || strings.Contains(filepath.Base(file), "reserve") {
			continue
		}
		broken := append([]byte(nil), data...)
		for i := len(broken) / 3; i < len(broken)/3+16; i++ {
			broken[i] ^= 0x5a
		}
		if err := os.WriteFile(file, broken, 0o600); err != nil {
			m.t.Fatal(err)
		}
		cmd := m.command("up", "--no-node", "-o", "json", "--data-dir", m.data, "--run-dir", m.run)
		out, err := runFor(cmd, 3*time.Second)
		if err != nil && strings.Contains(out, "cannot be read") && !strings.Contains(out, "stack trace") {
			refused++
		} else if !strings.Contains(out, `"ready":true`) {
			m.t.Errorf("%s damaged: said %q", filepath.Base(file), out)
		}
		if err := os.WriteFile(file, data, 0o600); err != nil {
			m.t.Fatal(err)
		}
	}
	if refused == 0 {
		m.t.Error("no damage was noticed")
	}
	m.start()
	if got := m.get("{.data.a}", "configmap/precious"); got != "b" {
		m.t.Errorf("after all that precious holds %q", got)
	}
}

// TestFullDisk runs on a small file system and fills it.
func TestFullDisk(t *testing.T) {
	m := newMachine(t)
	if err := os.MkdirAll(m.data, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", m.data, "tmpfs", 0, "size=300m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(m.data, syscall.MNT_DETACH) })
	m.start("--no-node")
	m.k("create", "configmap", "before", "--from-literal=a=b")
	ballast := filepath.Join(m.data, "ballast")
	fill(t, ballast)
	said := ""
	big := writeFile(t, "big", strings.Repeat("x", 500<<10))
	m.until("writes to be refused", 20*time.Second, func() (string, bool) {
		out, err := m.kube("create", "configmap", fmt.Sprintf("c%d", time.Now().UnixNano()), "--from-file="+big).CombinedOutput()
		said = string(out)
		return said, err != nil
	})
	if !strings.Contains(said, "is full: writes are refused until space is freed") {
		t.Errorf("refused with %q", said)
	}
	m.k("delete", "configmap", "before")
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	m.until("writes to be accepted again", 20*time.Second, func() (string, bool) {
		out, err := m.kube("create", "configmap", "after", "--from-literal=a=b").CombinedOutput()
		return string(out), err == nil
	})
}

func fill(t *testing.T, file string) {
	t.Helper()
	f, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	chunk := make([]byte, 64<<10)
	for {
		if _, err := f.Write(chunk); err != nil {
			return
		}
	}
}
