package cluster

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"

	"proa/doctor"
	"proa/internal/disktest"
)

// diskTime is how long a disk stays full; `make disk` takes more.
func diskTime() time.Duration {
	if d, err := time.ParseDuration(os.Getenv("PROA_DISK_TIME")); err == nil {
		return d
	}
	return 2 * time.Second
}

// ballast is a file of somebody else's that takes what is left of a disk.
type ballast struct {
	path string
	size int64
}

func newBallast(v *victim) *ballast {
	return &ballast{path: filepath.Join(v.disk.Seen(v.cmd.Process), "ballast")}
}

// grow takes all that is left, to the last block.
func (b *ballast) grow(t *testing.T) {
	t.Helper()
	f, err := os.OpenFile(b.path, os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return // the directory had no room for it
	}
	defer f.Close()
	for step := int64(64 << 20); step >= 4096; {
		switch err := unix.Fallocate(int(f.Fd()), 0, b.size, step); {
		case err == nil:
			b.size += step
		case errors.Is(err, unix.ENOSPC):
			step /= 2
		default:
			t.Fatal(err)
		}
	}
}

func (b *ballast) remove(t *testing.T) {
	t.Helper()
	if err := os.Remove(b.path); err != nil {
		t.Fatal(err)
	}
	b.size = 0
}

func configMap(name string, bytes int) *corev1.ConfigMap {
	text := make([]byte, bytes)
	for i := range text {
		text[i] = byte(' ' + rand.IntN(95))
	}
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}, Data: map[string]string{"v": string(text)}}
}

// refused wants the answer of a full disk.
func refused(t *testing.T, what string, err error) {
	t.Helper()
	var s apierrors.APIStatus
	if !errors.As(err, &s) || s.Status().Code != http.StatusInsufficientStorage || !strings.Contains(s.Status().Message, "full") {
		t.Errorf("%s on a full disk: %v", what, err)
	}
}

// On a disk that is full to the last byte a server refuses what grows, and all
// else goes on: reads, watches, deletes of every kind, expiry, a crash and a
// start. With space it accepts writes again.
func TestFullDisk(t *testing.T) {
	disk := disktest.New(t, 512<<20)
	v := newVictim(t, "", "", disk, "PROA_CRASH_EVENT_TTL=3s")
	ctx, maps := t.Context(), v.client.CoreV1().ConfigMaps("default")
	must := func(what string, err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
	for i := range 10 {
		_, err := maps.Create(ctx, configMap(fmt.Sprint("kept", i), 10_000), metav1.CreateOptions{})
		must("create", err)
	}
	held := configMap("held", 10)
	held.Finalizers = []string{"example.com/hold"}
	_, err := maps.Create(ctx, held, metav1.CreateOptions{})
	must("create", err)
	_, err = v.client.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "doomed"}}, metav1.CreateOptions{})
	must("create", err)
	_, err = v.client.CoreV1().ConfigMaps("doomed").Create(ctx, configMap("in", 10), metav1.CreateOptions{})
	must("create", err)
	list, err := maps.List(ctx, metav1.ListOptions{})
	must("list", err)
	w, err := maps.Watch(ctx, metav1.ListOptions{ResourceVersion: list.ResourceVersion})
	must("watch", err)
	defer w.Stop()
	event := &corev1.Event{ObjectMeta: metav1.ObjectMeta{Name: "old"}, InvolvedObject: corev1.ObjectReference{Namespace: "default", Name: "x"}, Reason: "R"}
	_, err = v.client.CoreV1().Events("default").Create(ctx, event, metav1.CreateOptions{})
	must("an event", err)

	other := newBallast(v)
	other.grow(t)
	growthRefused(t, v)
	diskTold(t, v)
	must("delete", maps.Delete(ctx, "kept0", metav1.DeleteOptions{}))
	if ev := <-w.ResultChan(); ev.Type != watch.Deleted {
		t.Errorf("the watch says %s", ev.Type)
	}
	must("delete", maps.Delete(ctx, "held", metav1.DeleteOptions{}))
	_, err = maps.Patch(ctx, "held", types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`), metav1.PatchOptions{})
	must("letting go", err)
	must("delete", v.client.CoreV1().Namespaces().Delete(ctx, "doomed", metav1.DeleteOptions{}))
	eventually(t, "the namespace's end", func() bool {
		_, err := v.client.CoreV1().Namespaces().Get(ctx, "doomed", metav1.GetOptions{})
		return apierrors.IsNotFound(err)
	})
	eventually(t, "the event's end", func() bool {
		_, err := v.client.CoreV1().Events("default").Get(ctx, "old", metav1.GetOptions{})
		return apierrors.IsNotFound(err)
	})

	v.kill()
	v.start(t)
	other.path = newBallast(v).path
	wants(t, v, "kept1 kept2 kept3 kept4 kept5 kept6 kept7 kept8 kept9 kube-root-ca.crt")
	growthRefused(t, v)
	must("delete after a crash", maps.Delete(ctx, "kept1", metav1.DeleteOptions{}))
	other.remove(t)
	_, err = maps.Create(ctx, configMap("after", 100), metav1.CreateOptions{})
	must("create with space again", err)
	wants(t, v, "after kept2 kept3 kept4 kept5 kept6 kept7 kept8 kept9 kube-root-ca.crt")
}

// growthRefused tries all ways to make the data larger.
func growthRefused(t *testing.T, v *victim) {
	t.Helper()
	ctx, maps := t.Context(), v.client.CoreV1().ConfigMaps("default")
	_, err := maps.Create(ctx, configMap("new", 10), metav1.CreateOptions{})
	refused(t, "create", err)
	cm, err := maps.Get(ctx, "kept5", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	cm.Data["more"] = "x"
	_, err = maps.Update(ctx, cm, metav1.UpdateOptions{})
	refused(t, "update", err)
	_, err = maps.Patch(ctx, "kept5", types.MergePatchType, []byte(`{"data":{"more":"x"}}`), metav1.PatchOptions{})
	refused(t, "patch", err)
	_, err = maps.Patch(ctx, "applied", types.ApplyPatchType, []byte(`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"applied"}}`), metav1.PatchOptions{FieldManager: "t"})
	refused(t, "apply", err)
}

// diskTold looks at how an operator learns of it.
func diskTold(t *testing.T, v *victim) {
	t.Helper()
	text, err := v.client.RESTClient().Get().AbsPath("/readyz").Param("verbose", "").DoRaw(t.Context())
	if err != nil || !strings.Contains(string(text), "is full") || !strings.Contains(string(text), "free space") {
		t.Errorf("readyz: %v, %s", err, text)
	}
	data := filepath.Join(v.disk.Seen(v.cmd.Process), "data")
	for _, running := range []bool{true, false} {
		want := map[bool]doctor.State{true: doctor.Fail, false: doctor.Warn}[running]
		for _, r := range doctor.Run(doctor.Config{DataDir: data, Address: "127.0.0.1", Running: running, Reserve: DiskReserve}) {
			if r.Check == "disk" && (r.State != want || !strings.Contains(r.Found, "deletes work") || !strings.Contains(r.Fix, "free at least")) {
				t.Errorf("the doctor says %+v", r)
			}
		}
	}
}

// wants compares the names of what is there.
func wants(t *testing.T, v *victim, names string) {
	t.Helper()
	list, err := v.client.CoreV1().ConfigMaps("default").List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var have []string
	for _, cm := range list.Items {
		have = append(have, cm.Name)
	}
	if got := strings.Join(have, " "); got != names {
		t.Errorf("there is %s, want %s", got, names)
	}
}

// Somebody takes every byte that is given back, for as long as it lasts: answers
// go on to come, what was acknowledged stays so, and the same process accepts
// writes when it is over.
func TestDiskStaysFull(t *testing.T) {
	v := newVictim(t, "", "", disktest.New(t, 512<<20))
	ctx, maps := t.Context(), v.client.CoreV1().ConfigMaps("default")
	there := map[string]bool{"kube-root-ca.crt": true}
	for i := range 50 {
		name := fmt.Sprintf("n%02d", i)
		if _, err := maps.Create(ctx, configMap(name, 1000), metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		there[name] = true
	}
	other := newBallast(v)
	hog, end := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() {
		for ; hog.Err() == nil; time.Sleep(5 * time.Millisecond) {
			other.grow(t)
		}
	})
	eventually(t, "a full disk", func() bool {
		_, err := maps.Create(ctx, configMap("first", 10), metav1.CreateOptions{})
		if err == nil {
			there["first"] = true
		}
		return err != nil && !apierrors.IsAlreadyExists(err)
	})
	tried, done := stuffed(t, v, there)
	end()
	wg.Wait()
	other.remove(t)
	eventually(t, "writes with space again", func() bool {
		_, err := maps.Create(ctx, configMap("after", 100), metav1.CreateOptions{})
		return err == nil
	})
	there["after"] = true
	t.Logf("%d of %d deletes were done", done, tried)
	v.kill()
	v.start(t)
	for name := range there {
		if _, err := maps.Get(ctx, name, metav1.GetOptions{}); err != nil {
			t.Errorf("%s is lost: %v", name, err)
		}
	}
	list, err := maps.List(ctx, metav1.ListOptions{})
	if err != nil || len(list.Items) != len(there) {
		t.Errorf("%d objects, want %d: %v", len(list.Items), len(there), err)
	}
}

// stuffed works with a server whose disk stays full, and keeps the account of
// what is there. A delete is done or refused, and never left in the open.
func stuffed(t *testing.T, v *victim, there map[string]bool) (tried, done int) {
	t.Helper()
	ctx, maps := t.Context(), v.client.CoreV1().ConfigMaps("default")
	for began := time.Now(); tried == 0 || time.Since(began) < diskTime(); tried++ {
		_, err := maps.Create(ctx, configMap("new", 10), metav1.CreateOptions{})
		refused(t, "create", err)
		if _, err := maps.List(ctx, metav1.ListOptions{}); err != nil {
			t.Fatal(err)
		}
		name := fmt.Sprintf("n%02d", tried)
		switch err := maps.Delete(ctx, name, metav1.DeleteOptions{}); {
		case err == nil:
			delete(there, name)
			done++
		case !apierrors.IsNotFound(err):
			refused(t, "delete", err)
		}
	}
	return tried, done
}

// churnObjects is how many objects come and go; `make disk` has more.
func churnObjects() int {
	if n, err := strconv.Atoi(os.Getenv("PROA_CHURN_OBJECTS")); err == nil {
		return n
	}
	return 600
}

// What is created, updated and deleted leaves neither the disk nor the memory
// fuller than a few memtables and the histories are.
func TestChurn(t *testing.T) {
	const size, clients = 16 << 10, 16
	v := newVictim(t, "", "", disktest.New(t, 512<<20))
	before := used(t, v)
	looking, enough := context.WithCancel(t.Context())
	var top int64
	var wg sync.WaitGroup
	wg.Go(func() {
		for ; looking.Err() == nil; time.Sleep(50 * time.Millisecond) {
			top = max(top, used(t, v)-before)
		}
	})
	began := time.Now()
	churn(t, v, churnObjects(), clients, size)
	enough()
	wg.Wait()
	memory := anonymous(t, v)
	written := int64(churnObjects()) * 2 * size
	t.Logf("%d objects, %d MB written in %s; at most %d MB on disk, %d MB of memory", churnObjects(), written>>20, time.Since(began).Round(time.Second), top>>20, memory>>20)
	if top > 16<<20 {
		t.Errorf("it took %d MB of the disk", top>>20)
	}
	if memory > 256<<20 {
		t.Errorf("it has %d MB of memory", memory>>20)
	}
}

// churn has some clients create, update and delete objects.
func churn(t *testing.T, v *victim, objects, clients, size int) {
	t.Helper()
	ctx, maps := t.Context(), v.client.CoreV1().ConfigMaps("default")
	var wg sync.WaitGroup
	for client := range clients {
		wg.Go(func() {
			for i := client; i < objects; i += clients {
				cm, err := maps.Create(ctx, configMap(fmt.Sprint("c", i), size), metav1.CreateOptions{})
				if err == nil {
					cm.Data = configMap("", size).Data
					_, err = maps.Update(ctx, cm, metav1.UpdateOptions{})
				}
				if err == nil {
					err = maps.Delete(ctx, cm.Name, metav1.DeleteOptions{})
				}
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
}

// used is what the victim's disk holds.
func used(t *testing.T, v *victim) int64 {
	var fs unix.Statfs_t
	if err := unix.Statfs(v.disk.Seen(v.cmd.Process), &fs); err != nil {
		t.Error(err)
	}
	return int64(fs.Blocks-fs.Bfree) * fs.Bsize
}

// anonymous is the victim's memory that is no file's.
func anonymous(t *testing.T, v *victim) int64 {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", v.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), "RssAnon:")
	kb, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return kb << 10
}
