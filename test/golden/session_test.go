package golden

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"proa/cluster"
	"proa/test/upstream"
)

// patience is how long a command that reads may take to show what it should:
// controllers answer in their own time.
const patience = time.Minute

// plane is the control plane that is shown, and what shows it.
type plane struct {
	kubeconfig string
	client     kubernetes.Interface
	objects    dynamic.Interface
	twins      *twins
	// discovered is where the sessions keep what they learn of the API.
	discovered string
}

// start starts the control plane that is to be shown.
func start(t *testing.T) *plane {
	p := &plane{twins: newTwins(t), discovered: t.TempDir()}
	if *record == "" {
		p.kubeconfig = startProa(t)
	} else {
		p.kubeconfig = startUpstream(t)
	}
	cfg, err := clientcmd.BuildConfigFromFlags("", p.kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	cfg.QPS, cfg.WarningHandler = -1, rest.NoWarnings{} // as fast as it can
	p.client, err = kubernetes.NewForConfig(cfg)
	if err == nil {
		p.objects, err = dynamic.NewForConfig(cfg)
	}
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func startUpstream(t *testing.T) (kubeconfig string) {
	bin, err := filepath.Abs(*record)
	if err != nil {
		t.Fatal(err)
	}
	p, err := upstream.Start(t.Context(), upstream.Config{Bin: bin, Dir: t.TempDir(), Controllers: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Stop(); err != nil {
			t.Error(err)
		}
	})
	return p.Kubeconfig
}

// startProa runs a control plane without a node, in this process.
func startProa(t *testing.T) (kubeconfig string) {
	dir, err := os.MkdirTemp("", "kc") // short, for the sockets in it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	c, err := cluster.New(cluster.Config{
		DataDir: filepath.Join(dir, "data"), RunDir: filepath.Join(dir, "run"), Kubeconfig: filepath.Join(dir, "kubeconfig"),
		BindAddress: "127.0.0.1", APIPort: freePort(t), NoNode: true, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil && !errors.Is(err, context.Canceled) {
			t.Error("the control plane ended with: ", err)
		}
	})
	select {
	case <-c.Ready():
	case err := <-done:
		done <- err
		t.Fatal("the control plane did not start: ", err)
	case <-time.After(time.Minute):
		t.Fatal("the control plane was not ready within a minute")
	}
	return filepath.Join(dir, "kubeconfig")
}

func freePort(t *testing.T) int {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// session is kubectl pointed at a server, in a namespace of its own.
type session struct {
	namespace string
	env       []string
	twins     *twins
}

// newSession makes a session whose namespace is named after it. It ends with the
// test.
func newSession(t *testing.T, p *plane, name string) *session {
	dir := t.TempDir()
	files, err := filepath.Abs("testdata/files")
	if err != nil {
		t.Fatal(err)
	}
	namespace := strings.TrimSuffix(strings.ReplaceAll(strings.ReplaceAll("golden-"+name, ".k8s.io", ""), ".", "-"), "-")
	config, err := clientcmd.LoadFromFile(p.kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	config.Contexts[config.CurrentContext].Namespace = namespace
	own := filepath.Join(dir, "config")
	if err := clientcmd.WriteToFile(*config, own); err != nil {
		t.Fatal(err)
	}
	p.inNamespace(t, namespace)
	return &session{namespace: namespace, twins: p.twins, env: []string{"HOME=" + dir, "KUBECONFIG=" + own, "KUBECACHEDIR=" + p.discovered,
		"EDITOR=" + filepath.Join(files, "editor.sh"), "KUBE_EDITOR=", "TZ=UTC"}}
}

// inNamespace makes a namespace and waits for what controllers put there.
func (p *plane) inNamespace(t *testing.T, name string) {
	all := p.client.CoreV1()
	if _, err := all.Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := all.Namespaces().Delete(context.Background(), name, metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
	})
	for deadline := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) { // between two looks
		_, account := all.ServiceAccounts(name).Get(t.Context(), "default", metav1.GetOptions{})
		_, root := all.ConfigMaps(name).Get(t.Context(), "kube-root-ca.crt", metav1.GetOptions{})
		if account == nil && root == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("namespace %s has no ServiceAccount and root certificate after %v: %v, %v", name, patience, account, root)
		}
	}
}

// show runs a command until it shows what it should, if it only reads, and
// returns what it showed last. Where nothing says what it should show, it runs
// it until it shows the same thing for a while.
func (k *session) show(e entry) (string, error) {
	args, err := split(strings.ReplaceAll(e.command, "<file>", e.file))
	if err != nil {
		return "", err
	}
	deadline := time.Now().Add(patience)
	before, same := "", 0
	for {
		got, err := k.run(args)
		if err != nil || !reads(args) || time.Now().After(deadline) || *record == "" && got == e.want() {
			return got, err
		}
		if same++; got != before {
			before, same = got, 0
		}
		if (*record != "" || *differ) && same >= 2 {
			return got, nil
		}
		time.Sleep(100 * time.Millisecond) // between two looks
	}
}

// reads tells whether a command changes nothing, so that it can be run again.
func reads(args []string) bool {
	switch args[1] {
	case "get", "describe", "events", "explain", "api-resources", "api-versions", "cluster-info", "version", "top":
		return true
	case "rollout":
		return len(args) > 2 && (args[2] == "history" || args[2] == "status")
	case "auth":
		return len(args) > 2 && args[2] != "reconcile"
	}
	return false
}

// run gives a command's output as a transcript shows it. Assignments may come
// before the command, as in a shell.
func (k *session) run(words []string) (string, error) {
	n := 0
	for n < len(words) && words[n] != "kubectl" && strings.Contains(words[n], "=") {
		n++
	}
	if n == len(words) || words[n] != "kubectl" {
		return "", errors.New("only kubectl can be run")
	}
	out, errOut, code := k.exec(words[n+1:], slices.Clip(words[:n])...)
	var b strings.Builder
	b.WriteString(lines(out, ""))
	b.WriteString(lines(errOut, "! "))
	if code != 0 {
		fmt.Fprintf(&b, "exit %d\n", code)
	}
	return strings.Trim(normal(b.String()), "\n"), nil
}

func lines(text, mark string) string {
	var b strings.Builder
	for _, line := range strings.Split(strings.TrimRight(text, "\n"), "\n") {
		if line != "" || text != "" && strings.TrimSpace(text) != "" {
			b.WriteString(strings.TrimRight(mark+line, " ") + "\n")
		}
	}
	return b.String()
}

// exec runs kubectl: the embedded one, or the binary that the flags name. What
// ends its process or reads its environment runs in a process of its own.
func (k *session) exec(args []string, env ...string) (out, errOut string, code int) {
	if *program == "" && args[0] != "auth" && len(env) == 0 {
		a, err := k.twins.ask(question{Args: args, Env: k.env})
		if err != nil {
			return "", err.Error(), 127
		}
		return a.Out, a.Err, a.Code
	}
	cmd := exec.Command(*program, args...)
	if *program == "" {
		cmd = k.program("proa", args...)
	}
	cmd.Env = slices.Concat(os.Environ(), k.env, cmd.Env, env)
	var o, e bytes.Buffer
	cmd.Stdout, cmd.Stderr, cmd.Stdin = &o, &e, strings.NewReader("")
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		code = exit.ExitCode()
	case err != nil:
		return "", err.Error(), 127
	}
	return o.String(), e.String(), code
}
