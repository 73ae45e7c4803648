package cluster

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"proa/store/encryption/kmstest"
	"proa/store/etcd/etcdtest"
)

// server is a control plane of its own in this process.
type server struct {
	*Cluster
	client *kubernetes.Clientset
	stop   func()
}

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// startServer runs a control plane until the test ends or stop is called.
func startServer(t *testing.T, name, dir string, d Datastore, with ...func(*Config)) *server {
	t.Helper()
	run, err := os.MkdirTemp("", "proa")
	if err != nil {
		t.Fatal(err)
	}
	config := Config{DataDir: dir, RunDir: run, NodeName: name, NoNode: true, BindAddress: "127.0.0.1", APIPort: freePort(t), Datastore: d}
	for _, change := range with {
		change(&config)
	}
	c, err := New(config)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		err := c.Run(ctx)
		if ctx.Err() == nil {
			t.Errorf("%s ended by itself: %v", name, err)
		}
		done <- err
	}()
	s := &server{Cluster: c, stop: func() {
		if cancel(); done != nil {
			if err := <-done; err != nil {
				t.Errorf("%s: %v", name, err)
			}
			done = nil
			os.RemoveAll(run)
		}
	}}
	t.Cleanup(s.stop)
	select {
	case <-c.Ready():
	case err := <-done:
		done = nil
		t.Fatal(err)
	case <-time.After(60 * time.Second):
		t.Fatalf("%s does not get ready", name)
	}
	access, err := clientcmd.BuildConfigFromFlags("", c.Instance().Kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	access.QPS = -1
	if s.client, err = kubernetes.NewForConfig(access); err != nil {
		t.Fatal(err)
	}
	return s
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(60 * time.Second); !ok(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s did not happen", what)
		}
	}
}

// identity copies what servers of one cluster have in common.
func identity(t *testing.T, from string) string {
	t.Helper()
	to := t.TempDir()
	for _, name := range []string{"pki", secretsFile} {
		if text, err := exec.Command("cp", "-a", filepath.Join(from, name), to).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, text)
		}
	}
	return to
}

// Two servers on one etcd are one cluster.
func TestServersShareAnEtcd(t *testing.T) {
	store := etcdtest.Start(t)
	d := Datastore{Endpoints: []string{store.URL}}
	first := t.TempDir()
	a := startServer(t, "a", first, d)
	b := startServer(t, "b", identity(t, first), d)
	ctx := t.Context()

	t.Run("each shows at once what the other acknowledged", func(t *testing.T) { readsAcross(t, a, b) })
	t.Run("updates across servers", func(t *testing.T) { updatesAcross(t, a, b) })
	t.Run("node ports are given once", func(t *testing.T) { nodePortsOnce(t, a, b) })
	t.Run("a quota holds across servers", func(t *testing.T) { quotaAcross(t, a, b) })
	t.Run("the API's own Service leads to both", func(t *testing.T) {
		eventually(t, "two addresses", func() bool {
			ep, err := a.client.CoreV1().Endpoints("default").Get(ctx, "kubernetes", metav1.GetOptions{}) //nolint:staticcheck // what old clients read
			return err == nil && len(ep.Subsets) == 2
		})
	})
	t.Run("one of them runs the controllers, and the other takes over", func(t *testing.T) { takesOver(t, a, b) })
}

// Secrets in an etcd are sealed there by one key, which all servers have: one
// that has another does not start, and none changes its own.
func TestSecretsInASharedEtcd(t *testing.T) {
	etcd := etcdtest.Start(t)
	d := Datastore{Endpoints: []string{etcd.URL}}
	first := t.TempDir()
	a := startServer(t, "a", first, d)
	b := startServer(t, "b", identity(t, first), d)
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "s"}, StringData: map[string]string{"k": "the quick brown fox"}}
	if _, err := a.client.CoreV1().Secrets("default").Create(t.Context(), secret, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if got, err := b.client.CoreV1().Secrets("default").Get(t.Context(), "s", metav1.GetOptions{}); err != nil || string(got.Data["k"]) != "the quick brown fox" {
		t.Errorf("the other server reads %q: %v", got.Data, err)
	}
	kept, err := etcd.Client(t).Get(t.Context(), "/proa/objects/secrets/default/s")
	if err != nil || len(kept.Kvs) != 1 || !bytes.HasPrefix(kept.Kvs[0].Value, []byte("k8s:enc:aesgcm:v1:")) || bytes.Contains(kept.Kvs[0].Value, []byte("quick")) {
		t.Errorf("etcd holds %q: %v", kept.Kvs, err)
	}
	answer := httptest.NewRecorder()
	a.handleRotate(answer, httptest.NewRequest("POST", "/secrets/rotate-key", nil))
	if answer.Code != http.StatusConflict || !strings.Contains(answer.Body.String(), "--encryption-provider-config") {
		t.Errorf("rotating: %d %s", answer.Code, answer.Body)
	}
	other := identity(t, first)
	if err := os.Remove(filepath.Join(other, secretsFile)); err != nil {
		t.Fatal(err)
	}
	c, err := New(Config{DataDir: other, RunDir: filepath.Join(other, "run"), NodeName: "c", NoNode: true, BindAddress: "127.0.0.1", APIPort: freePort(t), Datastore: d})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "copy encryption.yaml") {
		t.Errorf("a server with another key: %v", err)
	}
}

// Secrets by a plugin's key: health checks ask it, and the next start needs it.
func TestSecretsByAPlugin(t *testing.T) {
	plugin, socket := kmstest.New("one"), kmstest.Socket(t)
	stop := plugin.Serve(t, socket)
	dir := t.TempDir()
	file := filepath.Join(dir, "config.yaml")
	config := `{apiVersion: apiserver.config.k8s.io/v1, kind: EncryptionConfiguration, resources: [{resources: [secrets],
  providers: [{kms: {apiVersion: v2, name: vault, endpoint: "unix://` + socket + `"}}, {identity: {}}]}]}`
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	with := func(c *Config) { c.EncryptionConfig = file }
	s := startServer(t, "a", dir, Datastore{}, with)
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "s"}, StringData: map[string]string{"k": "the quick brown fox"}}
	if _, err := s.client.CoreV1().Secrets("default").Create(t.Context(), secret, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	check := func(path string) error {
		_, err := s.client.RESTClient().Get().AbsPath(path).DoRaw(t.Context())
		return err
	}
	for _, path := range []string{"/healthz/kms-providers", "/livez/kms-providers", "/readyz/kms-providers", "/readyz"} {
		if err := check(path); err != nil {
			t.Errorf("%s: %v", path, err)
		}
	}
	plugin.Set("one", "ill")
	eventually(t, "an ill plugin is told", func() bool { return check("/readyz/kms-providers") != nil && check("/readyz") != nil })
	plugin.Set("one", "ok")
	s.stop()
	s = startServer(t, "a", dir, Datastore{}, with)
	if got, err := s.client.CoreV1().Secrets("default").Get(t.Context(), "s", metav1.GetOptions{}); err != nil || string(got.Data["k"]) != "the quick brown fox" {
		t.Errorf("after a restart: %v", err)
	}
	s.stop()
	stop()
	c, err := New(Config{DataDir: dir, RunDir: filepath.Join(dir, "run"), NodeName: "c", NoNode: true, BindAddress: "127.0.0.1", APIPort: freePort(t), EncryptionConfig: file})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Run(t.Context()); err == nil || !strings.Contains(err.Error(), `kms plugin "vault"`) {
		t.Errorf("a start without the plugin: %v", err)
	}
}

func readsAcross(t *testing.T, a, b *server) {
	for i := range 20 {
		cm := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("x", i)}}
		made, err := a.client.CoreV1().ConfigMaps("default").Create(t.Context(), cm, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		got, err := b.client.CoreV1().ConfigMaps("default").Get(t.Context(), cm.Name, metav1.GetOptions{})
		if err != nil || got.ResourceVersion != made.ResourceVersion {
			t.Fatalf("%s is not there: %v", cm.Name, err)
		}
		list, err := a.client.CoreV1().ConfigMaps("default").List(t.Context(), metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if err := b.client.CoreV1().ConfigMaps("default").Delete(t.Context(), cm.Name, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		if _, err := a.client.CoreV1().ConfigMaps("default").Create(t.Context(), cm, metav1.CreateOptions{}); err != nil {
			t.Fatalf("made again: %v", err)
		}
		w, err := b.client.CoreV1().ConfigMaps("default").Watch(t.Context(), metav1.ListOptions{ResourceVersion: list.ResourceVersion, FieldSelector: "metadata.name=" + cm.Name})
		if err != nil {
			t.Fatal(err)
		}
		if one, two := <-w.ResultChan(), <-w.ResultChan(); one.Type != "DELETED" || two.Type != "ADDED" {
			t.Fatalf("the other server's watch says %s, %s", one.Type, two.Type)
		}
		w.Stop()
	}
}

func updatesAcross(t *testing.T, a, b *server) {
	cm := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "counter"}, Data: map[string]string{"n": ""}}
	if _, err := a.client.CoreV1().ConfigMaps("default").Create(t.Context(), cm, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	// Without a resourceVersion the last one counts, whoever takes it.
	for i := range 20 {
		s := []*server{a, b}[i%2]
		cm.Data["n"] = fmt.Sprint(i % 3)
		if _, err := s.client.CoreV1().ConfigMaps("default").Update(t.Context(), cm, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		got, err := []*server{b, a}[i%2].client.CoreV1().ConfigMaps("default").Get(t.Context(), "counter", metav1.GetOptions{})
		if err != nil || got.Data["n"] != cm.Data["n"] {
			t.Fatalf("wrote %v, read %v: %v", cm.Data, got.Data, err)
		}
	}
}

// nodePortsOnce creates more Services at once than there are ports for some.
func nodePortsOnce(t *testing.T, a, b *server) {
	type outcome struct {
		ok  bool
		err error
	}
	const want = 12
	results := make(chan outcome)
	for i := range want {
		go func() {
			svc := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("np", i)}, Spec: corev1.ServiceSpec{
				Type: corev1.ServiceTypeNodePort, Ports: []corev1.ServicePort{{Port: 80, NodePort: 30500 + int32(i%3)}}}}
			_, err := []*server{a, b}[i%2].client.CoreV1().Services("default").Create(t.Context(), svc, metav1.CreateOptions{})
			results <- outcome{err == nil, err}
		}()
	}
	made := 0
	for range want {
		r := <-results
		if r.ok {
			made++
		} else if !strings.Contains(r.err.Error(), "provided port is already allocated") {
			t.Error(r.err)
		}
	}
	if made != 3 {
		t.Errorf("3 ports went to %d Services", made)
	}
	services, err := a.client.CoreV1().Services("default").List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, svc := range services.Items {
		if svc.Spec.Type == corev1.ServiceTypeNodePort {
			if err := b.client.CoreV1().Services("default").Delete(t.Context(), svc.Name, metav1.DeleteOptions{}); err != nil {
				t.Fatal(err)
			}
			svc.ResourceVersion, svc.UID, svc.Spec.ClusterIP, svc.Spec.ClusterIPs = "", "", "", nil
			if _, err := a.client.CoreV1().Services("default").Create(t.Context(), &svc, metav1.CreateOptions{}); err != nil {
				t.Errorf("a port that was given back: %v", err)
			}
		}
	}
}

func quotaAcross(t *testing.T, a, b *server) {
	ctx := t.Context()
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "bounded"}}
	if _, err := a.client.CoreV1().Namespaces().Create(ctx, ns, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	quota := &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Name: "q"}, Spec: corev1.ResourceQuotaSpec{
		Hard: corev1.ResourceList{"count/secrets": resource.MustParse("5")}}}
	if _, err := a.client.CoreV1().ResourceQuotas("bounded").Create(ctx, quota, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the quota's status", func() bool {
		q, err := b.client.CoreV1().ResourceQuotas("bounded").Get(ctx, "q", metav1.GetOptions{})
		_, known := q.Status.Used["count/secrets"]
		return err == nil && known
	})
	made := make(chan bool)
	for i := range 20 {
		go func() {
			secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("s", i)}}
			_, err := []*server{a, b}[i%2].client.CoreV1().Secrets("bounded").Create(ctx, secret, metav1.CreateOptions{})
			made <- err == nil
		}()
	}
	n := 0
	for range 20 {
		if <-made {
			n++
		}
	}
	if n != 5 {
		t.Errorf("a quota of 5 let %d pass", n)
	}
}

func takesOver(t *testing.T, a, b *server) {
	ctx := t.Context()
	holder := func(s *server) string {
		l, err := s.client.CoordinationV1().Leases("kube-system").Get(ctx, "kube-controller-manager", metav1.GetOptions{})
		if err != nil || l.Spec.HolderIdentity == nil {
			return ""
		}
		return *l.Spec.HolderIdentity
	}
	eventually(t, "a leader", func() bool { return holder(a) == a.peer() || holder(b) == b.peer() })
	if holder(b) == b.peer() {
		a, b = b, a
	}
	podsOf(t, b.client, "one")
	a.stop()
	podsOf(t, b.client, "two")
	if got := holder(b); got != b.peer() {
		t.Errorf("%q leads after the first has stopped", got)
	}
	eventually(t, "one address", func() bool {
		ep, err := b.client.CoreV1().Endpoints("default").Get(ctx, "kubernetes", metav1.GetOptions{}) //nolint:staticcheck // what old clients read
		return err == nil && len(ep.Subsets) == 1
	})
}
