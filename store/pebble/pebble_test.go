package pebble

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"proa/store"
	"proa/store/enginetest"
)

func openDir(t *testing.T, dir string) *Engine {
	t.Helper()
	e, err := Open(Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func TestEngine(t *testing.T) {
	enginetest.Run(t, func(t *testing.T, dir string) enginetest.Engine { return enginetest.Embedded(openDir(t, dir)) })
}

func TestStore(t *testing.T) {
	enginetest.RunStore(t, func(t *testing.T, dir string) *store.Store { return newStore(t, Config{Dir: dir}) })
}

func newStore(t *testing.T, c Config) *store.Store {
	t.Helper()
	e, err := Open(c)
	if err != nil {
		t.Fatal(err)
	}
	s, err := store.New(store.Config{Engine: e, Codec: enginetest.Codec{}, Registry: enginetest.Registry()})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func cmKey(name string) store.Key {
	return store.Key{Resource: "configmaps", Namespace: "ns", Name: name}
}

func cm(name, value string) store.Write {
	return store.Write{Key: cmKey(name), Object: enginetest.ConfigMap("ns", name, value), Expect: store.AnyRevision}
}

// TestPowerCut loads the store from several writers, cuts the power at some
// moment (unsynced data survives in part, as on a real disk), and checks that
// what was acknowledged is there and each transaction is whole or absent.
func TestPowerCut(t *testing.T) {
	fs := vfs.NewCrashableMem()
	rng := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 0))
	acked := map[string]int{} // writer -> last acknowledged round
	for cut := range 25 {
		s := newStore(t, Config{Dir: "data", FS: fs})
		checkRounds(t, s, acked)
		checkPast(t, s)
		stop := make(chan struct{})
		var wg sync.WaitGroup
		var mu sync.Mutex
		for n := range 4 {
			name := fmt.Sprint(n)
			from := lastRound(s, name)
			wg.Go(func() {
				for i := from + 1; ; i++ {
					select {
					case <-stop:
						return
					default:
					}
					// Two objects in one transaction, of the same round; the
					// padding makes memtables turn over.
					v := fmt.Sprintf("%d %s", i, strings.Repeat("x", 3000))
					if _, err := s.Commit(context.Background(), cm(name+"a", v), cm(name+"b", v)); err != nil {
						t.Error(err)
						return
					}
					mu.Lock()
					acked[name] = i
					mu.Unlock()
				}
			})
		}
		time.Sleep(time.Duration(rng.IntN(60)) * time.Millisecond)
		mu.Lock() // what is acknowledged up to this moment must survive it
		before := map[string]int{}
		for k, v := range acked {
			before[k] = v
		}
		mu.Unlock()
		image := fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: rng.IntN(101), RNG: rng})
		close(stop)
		wg.Wait()
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		fs, acked = image, before
		if t.Failed() {
			t.Fatalf("cut %d", cut)
		}
	}
	t.Logf("acknowledged rounds: %v", acked)
}

func roundOf(s *store.Store, name string) (round int) {
	r := s.Snapshot().Get(cmKey(name))
	if r == nil {
		return 0
	}
	obj, err := r.Object()
	if err != nil {
		return -1
	}
	fmt.Sscan(obj.(*corev1.ConfigMap).Data["value"], &round)
	return round
}

func lastRound(s *store.Store, writer string) int { return roundOf(s, writer+"a") }

func checkRounds(t *testing.T, s *store.Store, acked map[string]int) {
	t.Helper()
	for writer, want := range acked {
		a, b := roundOf(s, writer+"a"), roundOf(s, writer+"b")
		if a != b {
			t.Errorf("half a transaction: writer %s at %d and %d", writer, a, b)
		}
		if a < want {
			t.Errorf("writer %s: round %d was acknowledged, %d is there", writer, want, a)
		}
		acked[writer] = a
	}
}

// TestDiskFull runs on a real, small file system.
func TestDiskFull(t *testing.T) {
	if !inOwnMounts(t) {
		return
	}
	dir := smallDisk(t, 48<<20)
	s := newStore(t, Config{Dir: filepath.Join(dir, "data"), Reserve: 6 << 20})
	defer s.Close()
	rng := rand.New(rand.NewPCG(1, 2))
	n := 0
	for ; n < 2000; n++ {
		if _, err := s.Commit(t.Context(), cm(fmt.Sprint(n), noise(rng, 100_000))); err != nil {
			if !errors.Is(err, store.ErrNoSpace) || !strings.Contains(err.Error(), "deletes are still accepted") {
				t.Fatal(err)
			}
			break
		}
		if n == 30 {
			fill(t, filepath.Join(dir, "ballast"), 8<<20) // somebody else's file
		}
	}
	if n < 40 || n == 2000 {
		t.Fatalf("full after %d objects", n)
	}
	// Somebody else takes the rest, to the last byte.
	fill(t, filepath.Join(dir, "rest"), 1<<30)
	if _, err := s.Commit(t.Context(), cm("more", "x")); !errors.Is(err, store.ErrNoSpace) {
		t.Errorf("a write into a full disk: %v", err)
	}
	for i := range n {
		if _, err := s.Commit(t.Context(), store.Write{Key: cmKey(fmt.Sprint(i)), Expect: store.AnyRevision}); err != nil {
			t.Fatalf("delete %d on a full disk: %v", i, err)
		}
	}
	for _, f := range []string{"rest", "ballast"} {
		if err := os.Remove(filepath.Join(dir, f)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.Commit(t.Context(), cm("after", "x")); err != nil {
		t.Errorf("with space again: %v", err)
	}
	if _, err := os.Stat(filepath.Join(dir, "data", "reserve")); err != nil {
		t.Errorf("the reserve was not made again: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = newStore(t, Config{Dir: filepath.Join(dir, "data"), Reserve: 6 << 20})
	defer s.Close()
	if c := s.Snapshot().Count(store.Scope{Resource: "configmaps"}); c != 1 {
		t.Errorf("%d objects after reopening, want 1", c)
	}
}

// noise is text that does not compress.
func noise(rng *rand.Rand, n int) string {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(' ' + rng.IntN(95))
	}
	return string(b)
}

// smallDisk mounts a file system of its own. The caller runs in a mount
// namespace of its own, so the mount ends with the process.
func smallDisk(t *testing.T, size int) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d", size)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	return dir
}

// inOwnMounts runs the test again in a child with a mount namespace of its own,
// and tells the child to go on.
func inOwnMounts(t *testing.T) bool {
	t.Helper()
	if os.Getenv("PROA_TEST_CHILD") != "" {
		return true
	}
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	cmd := exec.Command(os.Args[0], "-test.v", "-test.run=^"+t.Name()+"$")
	cmd.Env = append(os.Environ(), "PROA_TEST_CHILD=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	return false
}

func fill(t *testing.T, path string, limit int) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	chunk := bytes.Repeat([]byte{1}, 4096)
	for n := 0; n < limit; n += len(chunk) {
		if _, err := f.Write(chunk); err != nil {
			return
		}
	}
}

// TestLogCannotBeWritten has the file system fail under a running store.
func TestLogCannotBeWritten(t *testing.T) {
	failing := errorfs.Toggle{Injector: errorfs.InjectorFunc(func(op errorfs.Op) error {
		if strings.HasSuffix(op.Path, ".log") && (op.Kind == errorfs.OpFileWrite || op.Kind == errorfs.OpFileSyncData || op.Kind == errorfs.OpFileSync) {
			return errorfs.ErrInjected
		}
		return nil
	})}
	mem := vfs.NewCrashableMem()
	s := newStore(t, Config{Dir: "data", FS: errorfs.Wrap(mem, &failing)})
	if _, err := s.Commit(t.Context(), cm("a", "1")); err != nil {
		t.Fatal(err)
	}
	failing.On()
	for range 3 {
		if _, err := s.Commit(t.Context(), cm("b", "1")); !errors.Is(err, store.ErrClosed) {
			t.Errorf("an unwritten commit: %v", err)
		}
	}
	if s.Snapshot().Get(cmKey("b")) != nil {
		t.Error("an unwritten object is in the world")
	}
	failing.Off()
	s = newStore(t, Config{Dir: "data", FS: mem.CrashClone(vfs.CrashCloneCfg{})})
	defer s.Close()
	if s.Snapshot().Get(cmKey("a")) == nil {
		t.Error("an acknowledged object is lost")
	}
}

func TestDamage(t *testing.T) {
	dir := t.TempDir()
	s := newStore(t, Config{Dir: filepath.Join(dir, "live")})
	for i := range 300 {
		if _, err := s.Commit(t.Context(), cm(fmt.Sprint(i), strings.Repeat("payload", 50))); err != nil {
			t.Fatal(err)
		}
	}
	// What a crash leaves is the log; what a clean end leaves, tables.
	for _, c := range [][2]string{{"crashed", "*.log"}, {"closed", "*.sst"}} {
		kind, pattern := c[0], c[1]
		if kind == "closed" {
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
		}
		copied := filepath.Join(dir, kind)
		if err := os.CopyFS(copied, os.DirFS(filepath.Join(dir, "live"))); err != nil {
			t.Fatal(err)
		}
		flip(t, copied, pattern)
		e, err := Open(Config{Dir: copied})
		if err == nil {
			_, err = e.Load(t.Context(), func(store.Entry) error { return nil })
			e.Close()
		}
		if err == nil || !strings.Contains(err.Error(), copied) || !strings.Contains(err.Error(), "restore") || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: damage was reported as %v", kind, err)
		}
	}
	s.Close()
}

// flip damages the middle of the largest matching file.
func flip(t *testing.T, dir, pattern string) {
	t.Helper()
	files, _ := filepath.Glob(filepath.Join(dir, pattern))
	var path string
	var data []byte
	for _, f := range files {
		if d, err := os.ReadFile(f); err == nil && len(bytes.TrimRight(d, "\x00")) > len(data) {
			path, data = f, bytes.TrimRight(d, "\x00")
		}
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	at := int64(len(data) / 3)
	if _, err := f.WriteAt([]byte{data[at] ^ 0x55}, at); err != nil {
		t.Fatal(err)
	}
}

// TestEveryByte flips bytes all over every file of a directory, one at a time:
// opening must refuse, or nothing may be lost.
func TestEveryByte(t *testing.T) {
	dir := t.TempDir()
	live := filepath.Join(dir, "live")
	want := 0
	for range 3 { // several flushes: tables, edits in the manifest
		s := newStore(t, Config{Dir: live, Reserve: 1 << 16})
		for range 40 {
			want++
			if _, err := s.Commit(t.Context(), cm(fmt.Sprint(want), strings.Repeat("payload", 20))); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	files, err := filepath.Glob(filepath.Join(live, "*"))
	if err != nil {
		t.Fatal(err)
	}
	refused := 0
	for _, file := range files {
		size := fileSize(t, file)
		for at := int64(0); at < size; at += max(1, size/30) {
			opens, n := withFlip(t, live, filepath.Base(file), at)
			if manifest := strings.HasPrefix(filepath.Base(file), "MANIFEST"); manifest && opens && file == newestManifest(files) {
				t.Errorf("%s flipped at %d of %d: nobody noticed", filepath.Base(file), at, size)
			}
			if !opens {
				refused++
			} else if n != want {
				t.Errorf("%s flipped at %d of %d: %d objects, want %d", filepath.Base(file), at, size, n, want)
				break
			}
		}
	}
	if refused < 20 {
		t.Errorf("refused only %d times", refused)
	}
}

// TestFlippedLog damages the log that a crash left, place by place: apart from
// the very last writes, which look the same torn or flipped, opening refuses.
func TestFlippedLog(t *testing.T) {
	dir := t.TempDir()
	live := filepath.Join(dir, "live")
	s := newStore(t, Config{Dir: live, Reserve: 1 << 16})
	const want = 60
	for i := range want {
		if _, err := s.Commit(t.Context(), cm(fmt.Sprint(i), strings.Repeat("payload", 20))); err != nil {
			t.Fatal(err)
		}
	}
	crashed := filepath.Join(dir, "crashed")
	if err := os.CopyFS(crashed, os.DirFS(live)); err != nil {
		t.Fatal(err)
	}
	s.Close()
	logs, _ := filepath.Glob(filepath.Join(crashed, "*.log"))
	refused, whole, short := 0, 0, 0
	for _, log := range logs {
		data, err := os.ReadFile(log)
		if err != nil {
			t.Fatal(err)
		}
		size := len(bytes.TrimRight(data, "\x00"))
		for at := 0; at < size; at += 61 {
			switch opens, n := withFlip(t, crashed, filepath.Base(log), int64(at)); {
			case !opens:
				refused++
			case n == want:
				whole++
			case at < size*9/10:
				short++
			}
		}
	}
	t.Logf("%d refused, %d without loss, %d with loss", refused, whole, short)
	if refused < 100 || short > refused/20 {
		t.Errorf("%d refused, %d opened with loss", refused, short)
	}
}

func newestManifest(files []string) (newest string) {
	for _, f := range files {
		if strings.HasPrefix(filepath.Base(f), "MANIFEST") {
			newest = max(newest, f)
		}
	}
	return newest
}

func fileSize(t *testing.T, path string) int64 {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Size()
}

// withFlip opens a damaged copy and counts its objects.
func withFlip(t *testing.T, live, name string, at int64) (opens bool, n int) {
	t.Helper()
	mem := vfs.NewMem()
	if err := mem.MkdirAll("data", 0o755); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(live)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		data, err := os.ReadFile(filepath.Join(live, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		if e.Name() == name {
			data[at] ^= 0xff
		}
		f, err := mem.Create("data/"+e.Name(), vfs.WriteCategoryUnspecified)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.Write(data); err != nil {
			t.Fatal(err)
		}
		f.Close()
	}
	e, err := Open(Config{Dir: "data", FS: mem})
	if err != nil {
		return false, 0
	}
	defer e.Close()
	_, err = e.Load(t.Context(), func(store.Entry) error { n++; return nil })
	return err == nil, n
}

func TestDamagedValueNamesTheRecord(t *testing.T) {
	dir := t.TempDir()
	e := openDir(t, dir)
	entry := store.Entry{Key: cmKey("a"), Revision: 2, Value: []byte("data")}
	if err := e.Commit(t.Context(), []store.Entry{entry}, false); err != nil {
		t.Fatal(err)
	}
	key := appendKey(nil, entry.Key)
	value := stamp(nil, key, 2, []byte("data"))
	value[len(value)-1] ^= 1
	if err := e.db.Set(key, value, nil); err != nil {
		t.Fatal(err)
	}
	_, err := store.New(store.Config{Engine: e, Codec: enginetest.Codec{}, Registry: enginetest.Registry()})
	if err == nil || !strings.Contains(err.Error(), "configmaps ns/a") || !strings.Contains(err.Error(), "restore") {
		t.Errorf("got %v", err)
	}
}

func TestNewerFormatIsRefused(t *testing.T) {
	dir := t.TempDir()
	e := openDir(t, dir)
	if err := e.db.Set(formatKey, []byte{format + 1}, nil); err != nil {
		t.Fatal(err)
	}
	e.Close()
	if _, err := Open(Config{Dir: dir}); err == nil || !strings.Contains(err.Error(), "newer proa") {
		t.Errorf("got %v", err)
	}
}

// TestSecondProcess opens the directory from a child process.
func TestSecondProcess(t *testing.T) {
	if dir := os.Getenv("PROA_TEST_OPEN"); dir != "" {
		_, err := Open(Config{Dir: dir})
		fmt.Println(err)
		os.Exit(0)
	}
	dir := t.TempDir()
	defer openDir(t, dir).Close()
	cmd := exec.Command(os.Args[0], "-test.run=TestSecondProcess")
	cmd.Env = append(os.Environ(), "PROA_TEST_OPEN="+dir)
	out, err := cmd.CombinedOutput()
	if want := fmt.Sprintf("in use by process %d", os.Getpid()); err != nil || !strings.Contains(string(out), want) {
		t.Errorf("%s (%v), want %q", out, err, want)
	}
}

func TestCheckpoint(t *testing.T) {
	dir := t.TempDir()
	s := newStore(t, Config{Dir: filepath.Join(dir, "a")})
	defer s.Close()
	if _, err := s.Commit(t.Context(), cm("a", "1")); err != nil {
		t.Fatal(err)
	}
	s.Close()
	e := openDir(t, filepath.Join(dir, "a"))
	if err := e.Checkpoint(filepath.Join(dir, "b")); err != nil {
		t.Fatal(err)
	}
	e.Close()
	s = newStore(t, Config{Dir: filepath.Join(dir, "b")})
	defer s.Close()
	if s.Snapshot().Get(cmKey("a")) == nil {
		t.Error("the copy is empty")
	}
}

// TestSpaceReturns overwrites and deletes far more than remains, and looks at
// what the directory takes.
func TestSpaceReturns(t *testing.T) {
	dir := t.TempDir()
	s := newStore(t, Config{Dir: dir})
	defer s.Close()
	rng := rand.New(rand.NewPCG(1, 2))
	for range 600 {
		if _, err := s.Commit(t.Context(), cm(fmt.Sprint(rng.IntN(20)), noise(rng, 60_000))); err != nil {
			t.Fatal(err)
		}
	}
	deadline := time.Now().Add(10 * time.Second)
	for {
		if used := s.Stat().DiskBytes; used < 20<<20 {
			return
		} else if time.Now().After(deadline) {
			t.Fatalf("36 MB written, 1.2 MB live, %d MiB on disk", used>>20)
		}
		time.Sleep(50 * time.Millisecond)
	}
}
