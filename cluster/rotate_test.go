package cluster

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"proa/auth/pki"
	"proa/store"
	"proa/store/encryption"
	"proa/store/snapshot"
)

// caller is a client that keeps its credentials while the server gets new ones.
type caller struct {
	*kubernetes.Clientset
	name string
}

func (c caller) asks(t *testing.T) error {
	_, err := c.CoreV1().Namespaces().Get(t.Context(), "default", metav1.GetOptions{})
	return err
}

// forbidden passes over a refusal by who knows the caller.
func forbidden(err error) error {
	if apierrors.IsForbidden(err) {
		return nil
	}
	return err
}

func callerOf(t *testing.T, name string, config *rest.Config) caller {
	t.Helper()
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	return caller{client, name}
}

// byToken is a service account that believes the authority of a kubeconfig.
func byToken(t *testing.T, name string, s *server) caller {
	t.Helper()
	config, err := clientcmd.BuildConfigFromFlags("", s.Instance().Kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the account", func() bool {
		_, err := s.client.CoreV1().ServiceAccounts("default").Get(t.Context(), "default", metav1.GetOptions{})
		return err == nil
	})
	made, err := s.client.CoreV1().ServiceAccounts("default").CreateToken(t.Context(), "default", &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	config = rest.AnonymousClientConfig(config)
	config.BearerToken = made.Status.Token
	return callerOf(t, name, config)
}

// Authorities and the key of tokens are replaced while clients with old
// credentials and old trust go on, until the rotation is finished.
func TestCertificatesRotate(t *testing.T) {
	dir, port := t.TempDir(), freePort(t)
	start := func() *server {
		return startServer(t, "a", dir, Datastore{}, func(c *Config) { c.APIPort = port })
	}
	change := func(how func(dir, name string) error) {
		for _, name := range []string{pki.ClusterAuthority, pki.FrontProxyAuthority, pki.TokenKeys} {
			if err := how(filepath.Join(dir, "pki"), name); err != nil {
				t.Fatal(err)
			}
		}
	}
	s := start()
	oldAdmin, oldToken := caller{s.client, "the old certificate"}, byToken(t, "the old token", s)
	change(pki.Rotate)
	s.stop()
	s = start()
	newAdmin, newToken := caller{s.client, "the new certificate"}, byToken(t, "the new token", s)
	for _, c := range []caller{oldAdmin, oldToken, newAdmin, newToken} {
		if err := c.asks(t); forbidden(err) != nil {
			t.Errorf("%s, with both authorities: %v", c.name, err)
		}
	}
	change(pki.Finish)
	s.stop()
	start()
	for _, c := range []caller{newAdmin, newToken} {
		if err := c.asks(t); forbidden(err) != nil {
			t.Errorf("%s, when the old is dropped: %v", c.name, err)
		}
	}
	for _, c := range []caller{oldAdmin, oldToken} {
		if err := c.asks(t); forbidden(err) == nil {
			t.Errorf("%s is good still", c.name)
		}
	}
}

// The key of Secrets is replaced while they are written and read: nobody notices,
// and what was acknowledged is there after a restart, by the new key alone.
func TestKeyRotatesUnderLoad(t *testing.T) {
	dir := t.TempDir()
	s := startServer(t, "a", dir, Datastore{})
	ctx, stop := context.WithCancel(t.Context())
	const writers = 4
	var acked [writers]atomic.Int64
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			secrets := s.client.CoreV1().Secrets("default")
			name := fmt.Sprint("s", w)
			secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: name}, Data: map[string][]byte{"n": []byte("0")}}
			secret, err := secrets.Create(t.Context(), secret, metav1.CreateOptions{})
			for n := int64(1); err == nil && ctx.Err() == nil; n++ {
				secret = secret.DeepCopy()
				secret.ResourceVersion, secret.Data["n"] = "", fmt.Append(nil, n)
				if secret, err = secrets.Update(t.Context(), secret, metav1.UpdateOptions{}); err == nil {
					acked[w].Store(n)
				}
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	var saved []*bytes.Buffer
	wg.Go(func() {
		for ctx.Err() == nil {
			var b bytes.Buffer
			if err := s.saveTo(&b, "test"); err != nil {
				t.Error(err)
			}
			if saved = append(saved, &b); len(saved) > 20 {
				saved = saved[1:]
			}
			time.Sleep(time.Millisecond)
		}
	})
	for range 3 {
		before := acked[0].Load()
		eventually(t, "some writes", func() bool { return acked[0].Load() > before+3 })
		eventually(t, "a rotation", func() bool {
			answer := httptest.NewRecorder()
			s.handleRotate(answer, httptest.NewRequest("POST", "/secrets/rotate-key", nil))
			if answer.Code != http.StatusOK && !strings.Contains(answer.Body.String(), "snapshot is being taken") {
				t.Errorf("rotating: %d %s", answer.Code, answer.Body)
			}
			return answer.Code == http.StatusOK
		})
	}
	stop()
	wg.Wait()
	for _, b := range saved {
		opens(t, b)
	}
	if s.secrets.local.Unfinished() {
		t.Error("the rotation is not finished")
	}
	s.stop()
	s = startServer(t, "a", dir, Datastore{})
	for w := range writers {
		got, err := s.client.CoreV1().Secrets("default").Get(t.Context(), fmt.Sprint("s", w), metav1.GetOptions{})
		if want := fmt.Sprint(acked[w].Load()); err != nil || string(got.Data["n"]) != want {
			t.Errorf("s%d is %q, was acknowledged as %s: %v", w, got.Data["n"], want, err)
		}
	}
}

// opens wants the key in a snapshot to open the Secrets in it.
func opens(t *testing.T, saved *bytes.Buffer) {
	t.Helper()
	var keys *encryption.Keys
	err := snapshot.Read(saved, snapshot.Handler{
		File: func(f snapshot.File) error {
			if f.Name != secretsFile {
				return nil
			}
			path := filepath.Join(t.TempDir(), secretsFile)
			err := os.WriteFile(path, f.Data, 0o600)
			if err == nil {
				var l *encryption.Local
				if l, err = encryption.OpenLocal(path); err == nil {
					keys = l.Keys()
				}
			}
			return err
		},
		Object: func(e store.Entry) error {
			_, _, err := keys.Open(e.Key, e.Value)
			return err
		},
	})
	if err != nil {
		t.Error(err)
	}
}
