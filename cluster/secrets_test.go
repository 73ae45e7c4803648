package cluster

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"proa/api"
	"proa/apiserver"
	"proa/client"
	"proa/store"
	"proa/store/encryption"
	"proa/store/pebble"
)

// plane is a control plane alone, in this process.
type plane struct {
	*Cluster
	stop func() error
	log  *strings.Builder
}

func dirs(t *testing.T) Config {
	t.Helper()
	run, err := os.MkdirTemp("/tmp", "proa-run")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(run) })
	return Config{DataDir: t.TempDir(), RunDir: run, NoNode: true, BindAddress: "127.0.0.1"}
}

func up(t *testing.T, cfg Config) plane {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	cfg.APIPort = l.Addr().(*net.TCPAddr).Port
	l.Close()
	log := &strings.Builder{}
	cfg.Log = slog.New(slog.NewTextHandler(log, nil))
	c, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	select {
	case err := <-done:
		cancel()
		t.Fatalf("Run: %v", err)
	case <-c.Ready():
	}
	p := plane{Cluster: c, log: log, stop: sync.OnceValue(func() error { cancel(); return <-done })}
	t.Cleanup(func() {
		if err := p.stop(); err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return p
}

func (p plane) put(t *testing.T, name, value string) {
	t.Helper()
	s := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, StringData: map[string]string{"k": value}}
	if _, err := p.Client("test").Create(t.Context(), s); err != nil {
		t.Fatal(err)
	}
}

func (p plane) read(t *testing.T, name, want string) {
	t.Helper()
	s := client.Get[corev1.Secret](p.Client("test").View(), "default", name)
	if s == nil || string(s.Data["k"]) != want {
		t.Errorf("%s: %v, want %q", name, s, want)
	}
}

func (p plane) post(t *testing.T, path string) encryption.Rotated {
	t.Helper()
	resp, err := p.Instance().Client().Post("http://proa"+path, "", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	var done encryption.Rotated
	if resp.StatusCode != http.StatusOK || json.Unmarshal(body, &done) != nil {
		t.Fatalf("%s: %s: %s", path, resp.Status, body)
	}
	return done
}

// onDisk lists the files below a directory that contain a text.
func onDisk(t *testing.T, dir, text string) (found []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		if bytes.Contains(data, []byte(text)) {
			found = append(found, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// TestSecretsOnDisk looks for what Secrets say in every byte of the data
// directory: from the start, after an upgrade, and through rotations and a
// crash in the middle of one.
func TestSecretsOnDisk(t *testing.T) {
	cfg := dirs(t)
	beforeEncryption(t, cfg, "written-by-an-older-version")
	if len(onDisk(t, cfg.DataDir, "written-by-an-older-version")) == 0 {
		t.Fatal("the older version's Secret is not on disk as it is: the test proves nothing")
	}
	p := up(t, cfg)
	p.read(t, "old", "written-by-an-older-version")
	p.put(t, "one", "never-seen-on-disk")
	p.settled(t)
	first := p.post(t, "/secrets/rotate-key")
	if first.Rewritten < 2 || len(first.Dropped) != 1 {
		t.Errorf("first rotation: %+v", first)
	}
	p.put(t, "two", "never-seen-either")
	p.read(t, "one", "never-seen-on-disk")
	if err := p.stop(); err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"written-by-an-older-version", "never-seen-on-disk", "never-seen-either"} {
		if found := onDisk(t, cfg.DataDir, text); len(found) > 0 {
			t.Errorf("%q is on disk as it is: %v", text, found)
		}
	}

	crashRotation(t, cfg)
	p = up(t, cfg)
	for name, value := range map[string]string{"old": "written-by-an-older-version", "one": "never-seen-on-disk", "two": "never-seen-either"} {
		p.read(t, name, value)
	}
	p.settled(t)
	if p.secrets.local.Unfinished() {
		t.Error("the rotation that was cut off is not finished")
	}
	if err := p.stop(); err != nil {
		t.Fatal(err)
	}

	if err := os.Rename(filepath.Join(cfg.DataDir, secretsFile), filepath.Join(cfg.DataDir, "lost")); err != nil {
		t.Fatal(err)
	}
	c, err := New(p.cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Run(t.Context()); err == nil || !strings.Contains(err.Error(), `aesgcm key "key-`) || !strings.Contains(err.Error(), secretsFile) {
		t.Errorf("starting without the key: %v", err)
	}
}

// settled waits until nothing on disk is sealed by what was replaced.
func (p plane) settled(t *testing.T) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		stale := 0
		for r := range p.store.Snapshot().List(store.Scope{Resource: "secrets"}, store.Key{}) {
			if r.Stale() {
				stale++
			}
		}
		if stale == 0 && !p.secrets.local.Unfinished() {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%d Secrets are not encrypted anew", stale)
		}
	}
}

// beforeEncryption makes a data directory as the version before did.
func beforeEncryption(t *testing.T, cfg Config, value string) {
	t.Helper()
	engine, err := pebble.Open(pebble.Config{Dir: filepath.Join(cfg.DataDir, "store")})
	if err != nil {
		t.Fatal(err)
	}
	s, err := store.New(store.Config{Engine: engine, Codec: apiserver.NewCodec(api.Builtin()), Registry: api.Builtin()})
	if err != nil {
		t.Fatal(err)
	}
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "old", UID: "1"}, Data: map[string][]byte{"k": []byte(value)}}
	if _, err := s.Commit(t.Context(), store.Write{Key: store.Key{Resource: "secrets", Namespace: "default", Name: "old"}, Object: secret}); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

// crashRotation begins a rotation and stops before anything is rewritten.
func crashRotation(t *testing.T, cfg Config) {
	t.Helper()
	l, err := encryption.OpenLocal(filepath.Join(cfg.DataDir, secretsFile))
	if err != nil {
		t.Fatal(err)
	}
	crash := fmt.Errorf("crash")
	if _, err := l.Rotate(t.Context(), func(context.Context) (int, error) { return 0, crash }); err == nil {
		t.Fatal("no crash")
	}
}
