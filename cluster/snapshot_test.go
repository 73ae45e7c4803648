package cluster

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"proa/store"
	"proa/store/etcd/etcdtest"
	"proa/store/snapshot"
)

// A snapshot that was taken under load restores the same cluster on an empty
// machine: into either datastore, from either.
func TestSnapshotRestores(t *testing.T) {
	dir := t.TempDir()
	a := startServer(t, "a", dir, Datastore{})
	ctx := t.Context()
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "s"}, StringData: map[string]string{"k": "the quick brown fox"}}
	if _, err := a.client.CoreV1().Secrets("default").Create(ctx, secret, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	writing := make(chan int)
	go func() {
		n := 0
		defer func() { writing <- n }()
		for ; n < 200; n++ {
			cm := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("n%03d", n)}}
			if _, err := a.client.CoreV1().ConfigMaps("default").Create(ctx, cm, metav1.CreateOptions{}); err != nil {
				return
			}
		}
	}()
	eventually(t, "some writes", func() bool {
		_, err := a.client.CoreV1().ConfigMaps("default").Get(ctx, "n020", metav1.GetOptions{})
		return err == nil
	})
	var saved bytes.Buffer
	if err := a.saveTo(&saved, "test"); err != nil {
		t.Fatal(err)
	}
	if n := <-writing; n != 200 {
		t.Errorf("writing stopped at %d", n)
	}
	if bytes.Contains(saved.Bytes(), []byte("quick brown")) {
		t.Error("a Secret is readable in the snapshot")
	}
	late, err := a.client.CoreV1().ConfigMaps("default").List(ctx, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	a.stop()
	file := filepath.Join(t.TempDir(), "snapshot")
	if err := os.WriteFile(file, saved.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Run("to the embedded engine", func(t *testing.T) { restored(t, file, Datastore{}, late.ResourceVersion) })
	t.Run("to etcd, and back", func(t *testing.T) {
		d := Datastore{Endpoints: []string{etcdtest.Start(t).URL}}
		b := restored(t, file, d, late.ResourceVersion)
		var again bytes.Buffer
		if err := b.saveTo(&again, "test"); err != nil {
			t.Fatal(err)
		}
		next := filepath.Join(t.TempDir(), "snapshot")
		if err := os.WriteFile(next, again.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
		restored(t, next, Datastore{}, late.ResourceVersion)
	})
	t.Run("bad files", func(t *testing.T) { badSnapshots(t, saved.Bytes()) })
}

// restored restores the snapshot, starts it and looks at what is there.
func restored(t *testing.T, file string, d Datastore, late string) *server {
	t.Helper()
	ctx, dir := t.Context(), filepath.Join(t.TempDir(), "data")
	contents, err := Restore(ctx, file, dir, d)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Restore(ctx, file, dir, d); err == nil || !strings.Contains(err.Error(), "holds a cluster already") {
		t.Errorf("restored twice: %v", err)
	}
	for _, name := range append(contents.Files, ".") {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil || info.Mode().IsRegular() && info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", name, info.Mode(), err)
		}
	}
	s := startServer(t, "restored", dir, d)
	secret, err := s.client.CoreV1().Secrets("default").Get(ctx, "s", metav1.GetOptions{})
	if err != nil || string(secret.Data["k"]) != "the quick brown fox" {
		t.Errorf("the Secret: %v", err)
	}
	list, err := s.client.CoreV1().ConfigMaps("default").List(ctx, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	names := 0 // a snapshot is a moment: with n042 there is everything before
	for _, cm := range list.Items {
		if strings.HasPrefix(cm.Name, "n") {
			if want := fmt.Sprintf("n%03d", names); cm.Name != want {
				t.Errorf("%s comes where %s should", cm.Name, want)
			}
			names++
		}
	}
	if names <= 20 {
		t.Errorf("%d objects are restored", names)
	}
	if len(list.ResourceVersion) < 10 {
		t.Errorf("the restored cluster is at %s, the lost one was at %s", list.ResourceVersion, late)
	}
	w, err := s.client.CoreV1().ConfigMaps("default").Watch(ctx, metav1.ListOptions{ResourceVersion: late})
	if err == nil {
		ev := <-w.ResultChan()
		err = apierrors.FromObject(ev.Object)
		w.Stop()
	}
	if !apierrors.IsResourceExpired(err) && !apierrors.IsGone(err) {
		t.Errorf("a watch of the lost cluster goes on: %v", err)
	}
	stale := list.Items[0].DeepCopy()
	stale.ResourceVersion = late
	if _, err := s.client.CoreV1().ConfigMaps("default").Update(ctx, stale, metav1.UpdateOptions{}); !apierrors.IsConflict(err) {
		t.Errorf("an update with the lost cluster's version: %v", err)
	}
	return s
}

// A snapshot is one revision, whatever is written meanwhile: what the history
// says of that moment, to the byte.
func TestSnapshotIsOneRevision(t *testing.T) {
	t.Run("embedded", func(t *testing.T) { oneRevision(t, Datastore{}) })
	t.Run("etcd", func(t *testing.T) { oneRevision(t, Datastore{Endpoints: []string{etcdtest.Start(t).URL}}) })
}

func oneRevision(t *testing.T, d Datastore) {
	s := startServer(t, "a", t.TempDir(), d)
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	var rounds atomic.Int32
	for w := range 4 {
		wg.Go(func() {
			for ; ctx.Err() == nil; rounds.Add(1) {
				comeAndGo(t, s, fmt.Sprint("w", w))
			}
		})
	}
	for range 3 {
		before := rounds.Load()
		eventually(t, "some writes", func() bool { return rounds.Load() > before+4 })
		var saved bytes.Buffer
		if err := s.saveTo(&saved, "test"); err != nil {
			t.Fatal(err)
		}
		sameAsThen(t, s, &saved)
	}
	stop()
	wg.Wait()
}

// comeAndGo creates, changes and deletes.
func comeAndGo(t *testing.T, s *server, name string) {
	maps := s.client.CoreV1().ConfigMaps("default")
	cm, err := maps.Create(t.Context(), configMap(name, 100), metav1.CreateOptions{})
	if err == nil {
		cm.Data["v"] = "changed"
		_, err = maps.Update(t.Context(), cm, metav1.UpdateOptions{})
	}
	if err == nil {
		err = maps.Delete(t.Context(), name, metav1.DeleteOptions{})
	}
	if err != nil {
		t.Error(err)
	}
}

func sameAsThen(t *testing.T, s *server, saved *bytes.Buffer) {
	t.Helper()
	var h snapshot.Header
	found := map[store.Key]store.Entry{}
	err := snapshot.Read(saved, snapshot.Handler{
		Header: func(is snapshot.Header) error { h = is; return nil },
		Object: func(e store.Entry) error { found[e.Key] = e; return nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	resources := map[string]bool{"configmaps": true}
	for k := range found {
		resources[k.Resource] = true
	}
	for resource := range resources {
		then, err := s.store.SnapshotAt(h.Revision, resource)
		if err != nil {
			t.Fatalf("%s at %d: %v", resource, h.Revision, err)
		}
		for r := range then.List(store.Scope{Resource: resource}, store.Key{}) {
			e, ok := found[r.Key()]
			delete(found, r.Key())
			if !ok || e.Revision != r.Revision() || resource != "secrets" && !bytes.Equal(e.Value, r.Data()) {
				t.Errorf("%s at %d: the snapshot has revision %d (%t), the history %d", r.Key(), h.Revision, e.Revision, ok, r.Revision())
			}
		}
	}
	for k := range found {
		t.Errorf("%s was not there at %d", k, h.Revision)
	}
}

// badSnapshots are refused with one sentence, and nothing is touched.
func badSnapshots(t *testing.T, good []byte) {
	bad := map[string][]byte{"cut": good[:len(good)/2], "empty": nil, "other": []byte("hello, world"), "more": append(bytes.Clone(good), "x"...)}
	for i := range 8 { // past the version line, whose bits may say that it is another version
		flipped := bytes.Clone(good)
		flipped[len(good)/16+i*len(good)/9] ^= 0x55
		bad[fmt.Sprint("flipped ", i)] = flipped
	}
	for name, data := range bad {
		file, dir := filepath.Join(t.TempDir(), "snapshot"), filepath.Join(t.TempDir(), "data")
		if err := os.WriteFile(file, data, 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := Restore(t.Context(), file, dir, Datastore{})
		if err == nil || !strings.Contains(err.Error(), snapshot.ErrDamaged.Error()) || strings.Contains(err.Error(), "\n") || !strings.Contains(err.Error(), file) {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := os.Stat(dir); err == nil {
			t.Errorf("%s: something was made of it", name)
		}
	}
}
