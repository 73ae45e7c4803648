package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// served is a registry on loopback with a handler before it.
type served struct {
	host   string
	before func(w http.ResponseWriter, r *http.Request) bool // true: answered
	blobs  atomic.Int64                                      // requests for blobs
}

func serve(t testing.TB) *served {
	t.Helper()
	s := &served{}
	inner := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if s.before != nil && s.before(w, r) {
			return
		}
		if r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/blobs/") {
			s.blobs.Add(1)
		}
		inner.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	s.host = strings.TrimPrefix(server.URL, "http://")
	return s
}

// push puts an image of a layout into the registry.
func (s *served) push(t testing.TB, l *layout, root v1.Descriptor, repo, tag string) {
	t.Helper()
	send := func(method, path, contentType string, body []byte) {
		req, _ := http.NewRequest(method, "http://"+s.host+"/v2/"+repo+path, strings.NewReader(string(body)))
		req.Header.Set("Content-Type", contentType)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode > 299 {
			t.Fatalf("%s %s: %s", method, path, resp.Status)
		}
	}
	hook := s.before
	s.before = nil
	defer func() { s.before = hook }()
	for d, data := range l.blobs {
		send("POST", "/blobs/uploads/?digest="+d.String(), "application/octet-stream", data)
	}
	send("PUT", "/manifests/"+tag, root.MediaType, l.blobs[root.Digest])
}

// random is a layer of some size that does not compress.
func random(t testing.TB, size int) []byte {
	b := make([]byte, size)
	rng := rand.NewChaCha8([32]byte{1})
	_, _ = rng.Read(b)
	return tarOf(t, reg("random", string(b)))
}

func pullStore(t testing.TB) *Store {
	s := openStore(t)
	s.SetHosts(t.TempDir())
	return s
}

func TestPull(t *testing.T) {
	r := serve(t)
	l := newLayout()
	d := l.image(v1.ImageConfig{Cmd: []string{"run"}}, random(t, 3<<20), tarOf(t, reg("a", "b")))
	r.push(t, l, d, "team/app", "v1")
	s := pullStore(t)
	var mu sync.Mutex
	stages := map[string]bool{}
	img, err := s.Pull(t.Context(), r.host+"/team/app:v1", nil, func(p Progress) { mu.Lock(); stages[p.Stage] = true; mu.Unlock() })
	if err != nil {
		t.Fatal(err)
	}
	if img.Names[0] != r.host+"/team/app:v1" || img.Digests[0] != r.host+"/team/app@"+d.Digest.String() || img.Manifest != d.Digest {
		t.Errorf("pulled %+v", img)
	}
	if fmt.Sprint(stages) != "map[done:true download:true resolve:true unpack:true]" {
		t.Errorf("progress: %v", stages)
	}
	n := r.blobs.Load()
	if _, err := s.Pull(t.Context(), r.host+"/team/app@"+d.Digest.String(), nil, nil); err != nil {
		t.Error(err)
	}
	if got := r.blobs.Load() - n; got > 1 { // the configuration
		t.Errorf("pulling again fetched %d blobs", got)
	}
	if left := strings.Join(content(t, s), " "); strings.Contains(left, "ingest") || strings.Contains(left, "tmp") {
		t.Errorf("left: %s", left)
	}
	for ref, want := range map[string]error{
		r.host + "/team/app:v2":                                 ErrNotFound,
		r.host + "/team/other:v1":                               ErrNotFound,
		r.host + "/team/app@" + digest.FromString("x").String(): ErrNotFound,
		"Not A Name": ErrName,
		"":           ErrName,
	} {
		if _, err := s.Pull(t.Context(), ref, nil, nil); !errors.Is(err, want) {
			t.Errorf("%s: %v", ref, err)
		}
	}
}

func TestPullNeedsCredentials(t *testing.T) {
	r := serve(t)
	l := newLayout()
	r.push(t, l, l.image(v1.ImageConfig{}, tarOf(t, reg("a", "b"))), "app", "v1")
	r.before = func(w http.ResponseWriter, q *http.Request) bool {
		if u, p, _ := q.BasicAuth(); u == "me" && p == "secret" {
			return false
		}
		w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
		http.Error(w, `{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}`, http.StatusUnauthorized)
		return true
	}
	s := pullStore(t)
	for _, a := range []*Auth{nil, {Username: "me", Password: "wrong"}} {
		if _, err := s.Pull(t.Context(), r.host+"/app:v1", a, nil); !errors.Is(err, ErrUnauthorized) || !strings.Contains(err.Error(), "unauthorized") {
			t.Errorf("%+v: %v", a, err)
		}
	}
	for _, a := range []*Auth{{Username: "me", Password: "secret"}, {Auth: "bWU6c2VjcmV0"}} {
		if _, err := s.Pull(t.Context(), r.host+"/app:v1", a, nil); err != nil {
			t.Error(err)
		}
	}
}

// TestPullByToken goes through a token service, as public registries do.
func TestPullByToken(t *testing.T) {
	r := serve(t)
	l := newLayout()
	r.push(t, l, l.image(v1.ImageConfig{}, tarOf(t, reg("a", "b"))), "app", "v1")
	r.before = func(w http.ResponseWriter, q *http.Request) bool {
		if q.URL.Path == "/token" {
			if u, p, _ := q.BasicAuth(); u == "me" && p == "secret" && q.URL.Query().Get("scope") == "repository:app:pull" {
				fmt.Fprint(w, `{"token":"abc"}`)
			} else {
				http.Error(w, "no", http.StatusUnauthorized)
			}
			return true
		}
		if q.Header.Get("Authorization") == "Bearer abc" {
			return false
		}
		w.Header().Set("WWW-Authenticate", `Bearer realm="http://`+r.host+`/token",service="test"`)
		w.WriteHeader(http.StatusUnauthorized)
		return true
	}
	s := pullStore(t)
	if _, err := s.Pull(t.Context(), r.host+"/app:v1", &Auth{Username: "me", Password: "secret"}, nil); err != nil {
		t.Error(err)
	}
	if _, err := s.Pull(t.Context(), r.host+"/app:v1", nil, nil); !errors.Is(err, ErrUnauthorized) {
		t.Errorf("without credentials: %v", err)
	}
}

// flakyWriter ends a response in the middle, as a broken connection does.
type flakyWriter struct {
	http.ResponseWriter
	left int
}

func (f *flakyWriter) Write(p []byte) (int, error) {
	if len(p) > f.left {
		p = p[:f.left]
	}
	n, _ := f.ResponseWriter.Write(p)
	if f.left -= n; f.left == 0 {
		panic(http.ErrAbortHandler)
	}
	return n, nil
}

func TestPullGoesOnAfterABreak(t *testing.T) {
	backoff = time.Millisecond
	l := newLayout()
	d := l.image(v1.ImageConfig{}, random(t, 4<<20))
	r := serve(t)
	r.push(t, l, d, "app", "v1")
	var breaks, ranges atomic.Int64
	var dead atomic.Bool
	r.before = func(w http.ResponseWriter, q *http.Request) bool {
		if q.Method != http.MethodGet || !strings.Contains(q.URL.Path, "/blobs/") {
			return false
		}
		data := l.blobs[digest.Digest(q.URL.Path[strings.LastIndex(q.URL.Path, "/")+1:])]
		if len(data) < 1<<20 {
			return false
		}
		at := 0
		if rg := q.Header.Get("Range"); rg != "" {
			ranges.Add(1)
			fmt.Sscanf(rg, "bytes=%d-", &at)
			w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", at, len(data)-1, len(data)))
			w.Header().Set("Content-Length", fmt.Sprint(len(data)-at))
			w.WriteHeader(http.StatusPartialContent)
		}
		if dead.Load() && at > 2<<20 {
			panic(http.ErrAbortHandler)
		}
		if breaks.Add(1); len(data)-at > 700_000 {
			w = &flakyWriter{w, 600_000}
		}
		_, _ = w.Write(data[at:])
		return true
	}
	s := pullStore(t)
	dead.Store(true) // for good, after two of four megabytes
	if _, err := s.Pull(t.Context(), r.host+"/app:v1", nil, nil); err == nil {
		t.Fatal("pulled from a dead registry")
	}
	partial, err := os.Stat(s.path("ingest", s.onlyIngest(t)))
	if err != nil || partial.Size() < 2<<20 {
		t.Fatalf("kept of the download: %v, %v", partial, err)
	}
	dead.Store(false)
	ranges.Store(0)
	if _, err := s.Pull(t.Context(), r.host+"/app:v1", nil, nil); err != nil {
		t.Fatal(err)
	}
	if ranges.Load() == 0 || breaks.Load() < 6 {
		t.Errorf("%d resumed requests, %d breaks", ranges.Load(), breaks.Load())
	}
	// A partial file with wrong content is found out, and not kept.
	if err := s.Remove("sha256:" + s.List()[0].ID[7:]); err != nil {
		t.Fatal(err)
	}
	for blob, data := range l.blobs {
		if len(data) > 1<<20 {
			if err := os.WriteFile(s.path("ingest", blob.Encoded()), make([]byte, 1<<20), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	if _, err := s.Pull(t.Context(), r.host+"/app:v1", nil, nil); err == nil {
		t.Error("wrong content was accepted")
	}
	if _, err := s.Pull(t.Context(), r.host+"/app:v1", nil, nil); err != nil {
		t.Errorf("after wrong content: %v", err)
	}
}

func (s *Store) onlyIngest(t *testing.T) string {
	t.Helper()
	entries, err := os.ReadDir(s.path("ingest"))
	if err != nil || len(entries) != 1 {
		t.Fatalf("%v %v", entries, err)
	}
	return entries[0].Name()
}

func TestPullsShareLayers(t *testing.T) {
	r := serve(t)
	base := random(t, 2<<20)
	l := newLayout()
	for i := range 5 {
		d := l.image(v1.ImageConfig{Cmd: []string{fmt.Sprint(i)}}, base, tarOf(t, reg("n", fmt.Sprint(i))))
		r.push(t, l, d, "app", fmt.Sprint("v", i))
	}
	var large atomic.Int64
	r.before = func(_ http.ResponseWriter, q *http.Request) bool {
		if q.Method == http.MethodGet && strings.HasSuffix(q.URL.Path, digest.FromBytes(gz(base)).String()) {
			large.Add(1)
		}
		return false
	}
	s := pullStore(t)
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			if _, err := s.Pull(context.Background(), fmt.Sprintf("%s/app:v%d", r.host, i%5), nil, nil); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if len(s.List()) != 5 || len(s.layers) != 6 {
		t.Errorf("%d images, %d layers", len(s.List()), len(s.layers))
	}
	// A pull that began before the layer was there may have it fetched already.
	if n := large.Load(); n > 5 {
		t.Errorf("the common layer was fetched %d times", n)
	}
	if left := strings.Join(content(t, s), " "); strings.Contains(left, "tmp/") {
		t.Errorf("left: %s", left)
	}
}

func TestPullFromMirrors(t *testing.T) {
	origin, mirror, empty := serve(t), serve(t), serve(t)
	l := newLayout()
	d := l.image(v1.ImageConfig{}, tarOf(t, reg("a", "b")))
	mirror.push(t, l, d, "library/app", "v1")
	mirror.push(t, l, d, "library/mirrored", "v1")
	l2 := newLayout()
	origin.push(t, l2, l2.image(v1.ImageConfig{}, tarOf(t, reg("c", "d"))), "library/own", "v1")
	s := openStore(t)
	dir := t.TempDir()
	s.SetHosts(dir)
	_ = os.MkdirAll(filepath.Join(dir, "docker.io"), 0o755)
	config := fmt.Sprintf("server = \"http://%s\"\n[host.\"http://%s\"]\ncapabilities = [\"pull\", \"resolve\"]\n[host.\"http://%s\"]\n", origin.host, empty.host, mirror.host)
	if err := os.WriteFile(filepath.Join(dir, "docker.io", "hosts.toml"), []byte(config), 0o644); err != nil {
		t.Fatal(err)
	}
	var sawCredentials atomic.Bool
	mirror.before = func(_ http.ResponseWriter, r *http.Request) bool {
		if r.Header.Get("Authorization") != "" {
			sawCredentials.Store(true)
		}
		return false
	}
	secret := &Auth{Username: "me", Password: "secret"}
	for _, name := range []string{"app:v1", "own:v1"} {
		img, err := s.Pull(t.Context(), name, secret, nil)
		if err != nil || img.Names[0] != "docker.io/library/"+name {
			t.Errorf("%s: %+v, %v", name, img, err)
		}
	}
	if sawCredentials.Load() {
		t.Error("the mirror was sent the registry's credentials")
	}
	if _, err := s.Pull(t.Context(), "none:v1", nil, nil); !errors.Is(err, ErrNotFound) {
		t.Errorf("nowhere: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "docker.io", "hosts.toml"), []byte("server = ["), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Pull(t.Context(), "app:v1", nil, nil); err == nil || !strings.Contains(err.Error(), "hosts.toml") {
		t.Errorf("a damaged configuration: %v", err)
	}
}

func TestPlainHTTPIsForThisMachineOnly(t *testing.T) {
	s := pullStore(t)
	for registry, plain := range map[string]bool{"localhost:5000": true, "127.0.0.1:5000": true, "[::1]:5000": true, "10.0.0.1:5000": false, "registry.example.com": false} {
		ends, err := s.endpoints(registry)
		if err != nil || len(ends) != 1 || ends[0].plain() != plain {
			t.Errorf("%s: %v, %v", registry, ends, err)
			continue
		}
		req, _ := http.NewRequest("GET", "http://"+registry+"/v2/", nil)
		if !plain {
			if _, err := ends[0].RoundTrip(req); err == nil || !strings.Contains(err.Error(), "https only") {
				t.Errorf("%s by http: %v", registry, err)
			}
		}
	}
}

func TestPullEnds(t *testing.T) {
	r := serve(t)
	l := newLayout()
	r.push(t, l, l.image(v1.ImageConfig{}, random(t, 1<<20)), "app", "v1")
	release := make(chan struct{})
	r.before = func(_ http.ResponseWriter, q *http.Request) bool {
		if strings.Contains(q.URL.Path, "/blobs/") {
			select {
			case <-release:
			case <-q.Context().Done():
			}
		}
		return false
	}
	defer close(release)
	s := pullStore(t)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := s.Pull(ctx, r.host+"/app:v1", nil, nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("timed out: %v", err)
	}
	time.AfterFunc(50*time.Millisecond, func() { s.Close() })
	if _, err := s.Pull(t.Context(), r.host+"/app:v1", nil, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("store closed: %v", err)
	}
}

func TestService(t *testing.T) {
	r := serve(t)
	l := hello(t, "")
	d := l.index.Manifests[0]
	d.Annotations = nil
	r.push(t, l, d, "app", "v1")
	s := pullStore(t)
	v := NewService(s)
	ctx := t.Context()
	spec := func(name string) *runtimeapi.ImageSpec { return &runtimeapi.ImageSpec{Image: name} }
	if st, err := v.ImageStatus(ctx, spec(r.host+"/app:v1"), false); err != nil || st.Image != nil {
		t.Errorf("before the pull: %v, %v", st, err)
	}
	id, err := v.PullImage(ctx, spec(r.host+"/app:v1"), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	st, err := v.ImageStatus(ctx, spec(id), true)
	if err != nil || st.Image.Uid.GetValue() != 1000 || st.Image.RepoTags[0] != r.host+"/app:v1" || st.Image.Size != 13 || !strings.Contains(st.Info["info"], "/hello") {
		t.Errorf("%+v, %v", st, err)
	}
	if all, err := v.ListImages(ctx, nil); err != nil || len(all) != 1 {
		t.Errorf("%v, %v", all, err)
	}
	if some, err := v.ListImages(ctx, &runtimeapi.ImageFilter{Image: spec("other")}); err != nil || len(some) != 0 {
		t.Errorf("%v, %v", some, err)
	}
	for name, want := range map[string]codes.Code{r.host + "/app:v9": codes.NotFound, "A B": codes.InvalidArgument} {
		if _, err := v.PullImage(ctx, spec(name), nil, nil); status.Code(err) != want {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := s.Prepare(ctx, id, "c1"); err != nil {
		t.Fatal(err)
	}
	info, err := v.ImageFsInfo(ctx)
	if err != nil || info.ImageFilesystems[0].UsedBytes.Value != 13 || info.ContainerFilesystems[0].InodesUsed.Value < 4 {
		t.Errorf("%+v, %v", info, err)
	}
	if err := v.RemoveImage(ctx, spec(id)); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("in use: %v", err)
	}
	if err := s.Release("c1"); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := v.RemoveImage(ctx, spec(id)); err != nil {
			t.Error(err)
		}
	}
}
