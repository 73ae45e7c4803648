package image

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
)

func openStore(t testing.TB) *Store {
	t.Helper()
	return openAt(t, t.TempDir())
}

func openAt(t testing.TB, dir string) *Store {
	t.Helper()
	s, err := Open(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// file is an entry of a layer.
type file struct {
	tar.Header
	body string
}

func reg(name, body string) file {
	return file{tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644, ModTime: time.Unix(1e9, 0)}, body}
}

func tarOf(t testing.TB, files ...file) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, f := range files {
		f.Size = int64(len(f.body))
		if err := w.WriteHeader(&f.Header); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, f.body); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func gz(data []byte) []byte {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	_, _ = w.Write(data)
	_ = w.Close()
	return b.Bytes()
}

func zst(data []byte) []byte {
	w, _ := zstd.NewWriter(nil)
	return w.EncodeAll(data, nil)
}

// layout is an OCI layout in the making.
type layout struct {
	blobs map[digest.Digest][]byte
	index v1.Index
}

func newLayout() *layout {
	return &layout{blobs: map[digest.Digest][]byte{}, index: v1.Index{Versioned: specs.Versioned{SchemaVersion: 2}}}
}

func (l *layout) put(mediaType string, data []byte) v1.Descriptor {
	d := digest.FromBytes(data)
	l.blobs[d] = data
	return v1.Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(data))}
}

func (l *layout) json(mediaType string, v any) v1.Descriptor {
	data, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return l.put(mediaType, data)
}

// image adds an image of gzipped layers and returns its manifest's descriptor.
func (l *layout) image(config v1.ImageConfig, layers ...[]byte) v1.Descriptor {
	c := v1.Image{Platform: v1.Platform{OS: "linux", Architecture: "amd64"}, Config: config}
	c.RootFS.Type = "layers"
	m := v1.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageManifest}
	for _, plain := range layers {
		c.RootFS.DiffIDs = append(c.RootFS.DiffIDs, digest.FromBytes(plain))
		m.Layers = append(m.Layers, l.put(v1.MediaTypeImageLayerGzip, gz(plain)))
	}
	m.Config = l.json(v1.MediaTypeImageConfig, c)
	return l.json(v1.MediaTypeImageManifest, m)
}

func (l *layout) named(d v1.Descriptor, name string) *layout {
	d.Annotations = map[string]string{}
	if name != "" {
		d.Annotations["io.containerd.image.name"] = name
	}
	l.index.Manifests = append(l.index.Manifests, d)
	return l
}

func (l *layout) tar(t testing.TB) []byte {
	t.Helper()
	index, err := json.Marshal(l.index)
	if err != nil {
		t.Fatal(err)
	}
	files := []file{reg("oci-layout", `{"imageLayoutVersion":"1.0.0"}`), reg("index.json", string(index))}
	for d, data := range l.blobs {
		files = append(files, reg("blobs/sha256/"+d.Encoded(), string(data)))
	}
	return tarOf(t, files...)
}

// hello is a layout with one small image of two layers.
func hello(t testing.TB, name string) *layout {
	l := newLayout()
	d := l.image(v1.ImageConfig{Cmd: []string{"/hello"}, Env: []string{"A=b"}, User: "1000:5"},
		tarOf(t, reg("hello", "one"), reg("etc/motd", "welcome")), tarOf(t, reg("hello", "two")))
	return l.named(d, name)
}

func importing(t testing.TB, s *Store, archive []byte, name string) ([]Image, error) {
	t.Helper()
	return s.Import(context.Background(), bytes.NewReader(archive), name, nil)
}

func mustImport(t testing.TB, s *Store, archive []byte, name string) Image {
	t.Helper()
	images, err := importing(t, s, archive, name)
	if err != nil {
		t.Fatal(err)
	}
	return images[0]
}

// content lists what is in the store's directory apart from lists, to show that
// nothing was left.
func content(t testing.TB, s *Store) (out []string) {
	t.Helper()
	for _, sub := range []string{"blobs/sha256", "l", "tmp", "ingest", "containers"} {
		entries, err := os.ReadDir(s.path(sub))
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			out = append(out, sub+"/"+e.Name())
		}
	}
	return out
}

func TestImportForms(t *testing.T) {
	plain := hello(t, "flask-app").tar(t)
	for name, archive := range map[string][]byte{"plain": plain, "gzip": gz(plain), "zstd": zst(plain)} {
		t.Run(name, func(t *testing.T) {
			s := openStore(t)
			var stages []string
			images, err := s.Import(t.Context(), bytes.NewReader(archive), "", func(p Progress) { stages = append(stages, p.Stage+" "+p.Ref) })
			if err != nil {
				t.Fatal(err)
			}
			if len(images) != 1 || strings.Join(images[0].Names, " ") != "docker.io/library/flask-app:latest" || images[0].Config.Cmd[0] != "/hello" || images[0].Size != 13 {
				t.Errorf("imported %+v", images)
			}
			if len(stages) == 0 || stages[0] != "unpack docker.io/library/flask-app:latest" {
				t.Errorf("progress %q", stages)
			}
		})
	}
}

func TestImportDirectory(t *testing.T) {
	dir := t.TempDir()
	l := hello(t, "")
	index, _ := json.Marshal(l.index)
	write := func(name string, data []byte) {
		path := filepath.Join(dir, name)
		_ = os.MkdirAll(filepath.Dir(path), 0o755)
		if err := os.WriteFile(path, data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("index.json", index)
	for d, data := range l.blobs {
		write(blobName(d), data)
	}
	s := openStore(t)
	if _, err := s.ImportDir(t.Context(), dir, "", nil); !errors.Is(err, ErrName) {
		t.Errorf("an image without a name: %v", err)
	}
	images, err := s.ImportDir(t.Context(), dir, "localhost:5000/a/b:v1", nil)
	if err != nil || images[0].Names[0] != "localhost:5000/a/b:v1" {
		t.Errorf("%+v, %v", images, err)
	}
}

func TestImportDockerArchive(t *testing.T) {
	one, two := tarOf(t, reg("a", "1")), tarOf(t, reg("b", "2"))
	config := func(layers ...[]byte) string {
		c := v1.Image{Platform: v1.Platform{OS: "linux", Architecture: "amd64"}}
		for _, l := range layers {
			c.RootFS.DiffIDs = append(c.RootFS.DiffIDs, digest.FromBytes(l))
		}
		data, _ := json.Marshal(c)
		return string(data)
	}
	manifest := `[{"Config":"c1.json","RepoTags":["x:1","y.example.com/x:2"],"Layers":["l1/layer.tar"]},
		{"Config":"c2.json","RepoTags":["z:1"],"Layers":["l1/layer.tar","l2/layer.tar"]}]`
	archive := tarOf(t, reg("l1/layer.tar", string(one)), reg("c1.json", config(one)), reg("c2.json", config(one, two)),
		reg("real/layer.tar", string(two)), file{tar.Header{Name: "l2/layer.tar", Typeflag: tar.TypeSymlink, Linkname: "../real/layer.tar"}, ""},
		reg("manifest.json", manifest))
	s := openStore(t)
	images, err := importing(t, s, archive, "")
	if err != nil {
		t.Fatal(err)
	}
	if len(images) != 2 || len(images[0].Names) != 2 {
		t.Fatalf("imported %+v", images)
	}
	for _, name := range []string{"x:1", "docker.io/library/x:1", "y.example.com/x:2", "z:1", images[0].ID, images[0].ID[7:19], images[1].Digests[0]} {
		if _, ok := s.Get(name); !ok {
			t.Errorf("%s is not found", name)
		}
	}
	for _, name := range []string{"x", "x:2", "sha256:1234", "", "UPPER"} {
		if img, ok := s.Get(name); ok {
			t.Errorf("%q finds %v", name, img.Names)
		}
	}
	if n := len(s.layers); n != 2 {
		t.Errorf("%d layers are kept, the first is shared", n)
	}
	if _, err := importing(t, s, archive, "one-name"); !errors.Is(err, ErrName) {
		t.Errorf("one name for two images: %v", err)
	}
}

func TestPlatformIsChosen(t *testing.T) {
	l := newLayout()
	mine := l.image(v1.ImageConfig{Cmd: []string{"mine"}}, tarOf(t, reg("a", "mine")))
	mine.Platform = &v1.Platform{OS: "linux", Architecture: "amd64"}
	newer := mine
	newer.Digest, newer.Platform = digest.FromString("v3"), &v1.Platform{OS: "linux", Architecture: "amd64", Variant: "v3"}
	// The others' content is not in the archive, as when one platform was saved.
	other := v1.Descriptor{MediaType: v1.MediaTypeImageManifest, Digest: digest.FromString("x"), Size: 1, Platform: &v1.Platform{OS: "linux", Architecture: "s390x"}}
	attest := v1.Descriptor{MediaType: v1.MediaTypeImageManifest, Digest: digest.FromString("y"), Size: 1, Platform: &v1.Platform{OS: "unknown", Architecture: "unknown"}}
	index := l.json(v1.MediaTypeImageIndex, v1.Index{MediaType: v1.MediaTypeImageIndex, Manifests: []v1.Descriptor{other, attest, newer, mine}})
	s := openStore(t)
	img := mustImport(t, s, l.named(index, "multi").tar(t), "")
	if img.Config.Cmd[0] != "mine" || img.Digests[0] != "docker.io/library/multi@"+index.Digest.String() {
		t.Errorf("imported %+v", img)
	}
	l = newLayout()
	index = l.json(v1.MediaTypeImageIndex, v1.Index{Manifests: []v1.Descriptor{other}})
	if _, err := importing(t, s, l.named(index, "foreign").tar(t), ""); !errors.Is(err, ErrNotFound) || !strings.Contains(err.Error(), "linux/s390x") {
		t.Errorf("another machine's image: %v", err)
	}
}

// TestDamagedArchives cuts an archive at every place and flips bytes all over:
// each time there is one sentence and nothing is kept.
func TestDamagedArchives(t *testing.T) {
	s := openStore(t)
	good := hello(t, "a").tar(t)
	check := func(what string, archive []byte, mayPass bool) {
		images, err := importing(t, s, archive, "")
		if err == nil && mayPass {
			for _, i := range images {
				_ = s.Remove(i.ID)
			}
			return
		}
		if err == nil {
			t.Errorf("%s: imported", what)
			_ = s.Remove(images[0].ID)
		} else if strings.Contains(err.Error(), "\n") || len(err.Error()) < 20 {
			t.Errorf("%s: %v", what, err)
		}
		if left := content(t, s); len(left) > 0 || len(s.List()) > 0 {
			t.Fatalf("%s: %v is left", what, left)
		}
	}
	for at := 0; at < len(good)-1536; at += 1531 {
		check(fmt.Sprint("cut at ", at), good[:at], false)
		check(fmt.Sprint("compressed, cut at ", at), gz(good)[:at*len(gz(good))/len(good)], false)
	}
	for at := 0; at < len(good); at += 211 {
		bad := bytes.Clone(good)
		bad[at] ^= 0x10
		check(fmt.Sprint("flipped at ", at), bad, true) // in padding it does not matter
	}
	check("no archive", []byte(strings.Repeat("text ", 1000)), false)
	check("xz", []byte("\xfd7zXZ\x00..............................."), false)
	check("another tar", tarOf(t, reg("a", "b")), false)
	if _, err := importing(t, s, good[:len(good)/2], ""); err == nil || !strings.Contains(err.Error(), "truncated") {
		t.Errorf("half an archive: %v", err)
	}
}

func TestLyingManifests(t *testing.T) {
	s := openStore(t)
	layer := tarOf(t, reg("a", "b"))
	for name, spoil := range map[string]func(c *v1.Image, m *v1.Manifest){
		"wrong diff ID":   func(c *v1.Image, _ *v1.Manifest) { c.RootFS.DiffIDs[0] = digest.FromString("x") },
		"wrong size":      func(_ *v1.Image, m *v1.Manifest) { m.Layers[0].Size-- },
		"larger size":     func(_ *v1.Image, m *v1.Manifest) { m.Layers[0].Size++ },
		"negative size":   func(_ *v1.Image, m *v1.Manifest) { m.Layers[0].Size = -1 },
		"wrong digest":    func(_ *v1.Image, m *v1.Manifest) { m.Layers[0].Digest = digest.FromString("x") },
		"no digest":       func(_ *v1.Image, m *v1.Manifest) { m.Layers[0].Digest = "../../etc/passwd" },
		"sha512":          func(_ *v1.Image, m *v1.Manifest) { m.Layers[0].Digest = digest.SHA512.FromString("x") },
		"too few diffs":   func(c *v1.Image, _ *v1.Manifest) { c.RootFS.DiffIDs = nil },
		"diff is no path": func(c *v1.Image, _ *v1.Manifest) { c.RootFS.DiffIDs[0] = "sha256:../../x" },
		"huge config":     func(_ *v1.Image, m *v1.Manifest) { m.Config.Size = 1 << 40 },
	} {
		l := newLayout()
		c := v1.Image{RootFS: v1.RootFS{DiffIDs: []digest.Digest{digest.FromBytes(layer)}}}
		m := v1.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, Layers: []v1.Descriptor{l.put(v1.MediaTypeImageLayerGzip, gz(layer))}}
		spoil(&c, &m)
		config := l.json(v1.MediaTypeImageConfig, c)
		if m.Config.Size > 0 {
			config.Size = m.Config.Size
		}
		m.Config = config
		_, err := importing(t, s, l.named(l.json(v1.MediaTypeImageManifest, m), "x").tar(t), "")
		if err == nil {
			t.Errorf("%s: imported", name)
		}
		if left := content(t, s); len(left) > 0 {
			t.Errorf("%s: %v is left", name, left)
		}
	}
}

func TestNamesMoveAndMerge(t *testing.T) {
	s := openStore(t)
	first := mustImport(t, s, hello(t, "app:v1").tar(t), "")
	l := newLayout()
	second := mustImport(t, s, l.named(l.image(v1.ImageConfig{}, tarOf(t, reg("x", "y"))), "app:v1").tar(t), "")
	if img, _ := s.Get("app:v1"); img.ID != second.ID {
		t.Error("the name did not move to the newer image")
	}
	if img, ok := s.Get(first.ID); !ok || len(img.Names) != 0 {
		t.Errorf("the older image is %+v, %v", img, ok)
	}
	again := mustImport(t, s, hello(t, "app:old").tar(t), "")
	if again.ID != first.ID || len(s.List()) != 2 || strings.Join(again.Names, "") != "docker.io/library/app:old" || len(again.Digests) != 1 {
		t.Errorf("imported again: %+v", again)
	}
}

func TestReopen(t *testing.T) {
	dir := t.TempDir()
	s := openAt(t, dir)
	img := mustImport(t, s, hello(t, "app:v1").tar(t), "")
	other := newLayout()
	lost := mustImport(t, s, other.named(other.image(v1.ImageConfig{}, tarOf(t, reg("x", "y"))), "lost").tar(t), "")
	rootfs, err := s.Prepare(t.Context(), img.ID, "c1")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Pin("app:v1", true); err != nil {
		t.Fatal(err)
	}
	s.Close()
	// What an interrupted import leaves, and a layer that somebody removed.
	for _, p := range []string{"tmp/import-1/0", "l/zz/file", "containers/half/fs/x", "blobs/sha256/" + strings.Repeat("0", 64)} {
		_ = os.MkdirAll(filepath.Join(dir, filepath.Dir(p)), 0o755)
		if err := os.WriteFile(filepath.Join(dir, p), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.RemoveAll(s.path("l", s.layers[s.images[lost.ID].Chain[0]].Dir)); err != nil {
		t.Fatal(err)
	}
	s = openAt(t, dir)
	if got, ok := s.Get("app:v1"); !ok || fmt.Sprintf("%+v", got) == fmt.Sprintf("%+v", img) || !got.Pinned || got.Config.Cmd[0] != "/hello" {
		t.Errorf("after reopening: %+v", got)
	}
	if _, ok := s.Get("lost"); ok {
		t.Error("an image without its layer is still listed")
	}
	if again, err := s.Prepare(t.Context(), img.ID, "c1"); err != nil || fmt.Sprint(again) != fmt.Sprint(rootfs) {
		t.Errorf("the container's layer is %v, was %v (%v)", again, rootfs, err)
	}
	if got := strings.Join(content(t, s), " "); strings.Count(got, "l/") != 2 || strings.Contains(got, "half") || strings.Contains(got, "000000") || strings.Contains(got, "tmp/") {
		t.Errorf("in the store: %s", got)
	}
	if err := os.WriteFile(s.path("images.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir, nil); err == nil || !strings.Contains(err.Error(), "images.json") || !strings.Contains(err.Error(), "import or pull") {
		t.Errorf("a damaged list: %v", err)
	}
}

func TestRemoveAndPrune(t *testing.T) {
	s := openStore(t)
	img := mustImport(t, s, hello(t, "a:1").tar(t), "")
	mustImport(t, s, hello(t, "a:2").tar(t), "")
	if err := s.Remove("a:1"); err != nil {
		t.Fatal(err)
	}
	if _, ok := s.Get("a:2"); !ok {
		t.Error("removing one name removed the other")
	}
	if _, err := s.Prepare(t.Context(), "a:2", "c1"); err != nil {
		t.Fatal(err)
	}
	if err := s.Remove("a:2"); !errors.Is(err, ErrInUse) || !strings.Contains(err.Error(), "c1") {
		t.Errorf("removing an image in use: %v", err)
	}
	if _, removed, err := s.Prune(t.Context()); err != nil || len(removed) != 0 {
		t.Errorf("pruned %v, %v", removed, err)
	}
	if err := s.Release("c1"); err != nil {
		t.Fatal(err)
	}
	freed, removed, err := s.Prune(t.Context())
	if err != nil || len(removed) != 1 || removed[0].ID != img.ID || freed != 13 {
		t.Errorf("pruned %v, %d bytes, %v", removed, freed, err)
	}
	if left := content(t, s); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
	if err := s.Remove("a:2"); !errors.Is(err, ErrNotFound) {
		t.Errorf("removing what is gone: %v", err)
	}
	if err := s.Release("c1"); err != nil {
		t.Errorf("releasing twice: %v", err)
	}
	if _, err := s.Prepare(t.Context(), "a:2", "c2"); !errors.Is(err, ErrNotFound) {
		t.Errorf("preparing on nothing: %v", err)
	}
	for _, key := range []string{"", "..", "a/b", "/etc"} {
		if _, err := s.Prepare(t.Context(), img.ID, key); err == nil {
			t.Errorf("key %q is accepted", key)
		}
		if err := s.Release(key); err == nil {
			t.Errorf("key %q is released", key)
		}
	}
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
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	return false
}

// TestOverlay mounts what Prepare hands out and looks at all that a layer can
// say of a file.
func TestOverlay(t *testing.T) {
	if !inOwnMounts(t) {
		return
	}
	when := time.Unix(1234567890, 0)
	dir := func(name string, mode int64) file {
		return file{tar.Header{Name: name, Typeflag: tar.TypeDir, Mode: mode, ModTime: when}, ""}
	}
	su := reg("bin/su", "su")
	su.Mode, su.Uid, su.Gid, su.ModTime = 0o4755, 0, 42, when
	ping := reg("bin/ping", "ping")
	ping.PAXRecords = map[string]string{"SCHILY.xattr.user.test": "yes", "SCHILY.xattr.trusted.overlay.opaque": "y"}
	link := file{tar.Header{Name: "bin/hard", Typeflag: tar.TypeLink, Linkname: "bin/su", Mode: 0o4755, ModTime: when, Gid: 42}, ""}
	sym := file{tar.Header{Name: "bin/sym", Typeflag: tar.TypeSymlink, Linkname: "/bin/su", ModTime: when}, ""}
	fifo := file{tar.Header{Name: "fifo", Typeflag: tar.TypeFifo, Mode: 0o600}, ""}
	null := file{tar.Header{Name: "dev/null", Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 3, Mode: 0o666}, ""}
	l := newLayout()
	d := l.image(v1.ImageConfig{},
		tarOf(t, dir("tmp/", 0o1777), dir("bin/", 0o755), su, ping, link, sym, fifo, null, reg("opt/old/a", "a"), reg("opt/old/b", "b"), reg("gone", "x"), reg("home/.wh", "not a whiteout")),
		tarOf(t, reg(".wh.gone", ""), reg("opt/old/.wh..wh..opq", ""), reg("opt/old/c", "c"), reg("tmp/seen", "in a directory without an entry")))
	s := openStore(t)
	img := mustImport(t, s, l.named(d, "a").tar(t), "")
	r, err := s.Prepare(t.Context(), img.ID, "c1")
	if err != nil {
		t.Fatal(err)
	}
	root := t.TempDir()
	mountOverlay(t, r, root)
	stat := func(name string) unix.Stat_t {
		var st unix.Stat_t
		if err := unix.Lstat(filepath.Join(root, name), &st); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		return st
	}
	if st := stat("bin/su"); st.Mode != unix.S_IFREG|0o4755 || st.Gid != 42 || st.Mtim.Sec != when.Unix() || st.Nlink != 2 {
		t.Errorf("bin/su: %+v", st)
	}
	if stat("bin/hard").Ino != stat("bin/su").Ino {
		t.Error("the hard link is a copy")
	}
	if to, _ := os.Readlink(filepath.Join(root, "bin/sym")); to != "/bin/su" {
		t.Errorf("symlink to %s", to)
	}
	if st := stat("bin"); st.Mtim.Sec != when.Unix() {
		t.Errorf("the directory's time is %d", st.Mtim.Sec)
	}
	if st := stat("tmp"); st.Mode != unix.S_IFDIR|0o1777 {
		t.Errorf("tmp has mode %o after a layer that does not mention it", st.Mode)
	}
	if st := stat("fifo"); st.Mode&unix.S_IFMT != unix.S_IFIFO {
		t.Errorf("fifo: %o", st.Mode)
	}
	if st := stat("dev/null"); st.Rdev != unix.Mkdev(1, 3) {
		t.Errorf("dev/null: %x", st.Rdev)
	}
	value := make([]byte, 10)
	if n, err := unix.Lgetxattr(filepath.Join(root, "bin/ping"), "user.test", value); err != nil || string(value[:n]) != "yes" {
		t.Errorf("xattr %q, %v", value, err)
	}
	whiteoutsHold(t, root)
	if err := os.WriteFile(filepath.Join(root, "written"), make([]byte, 100_000), 0o600); err != nil {
		t.Fatal(err)
	}
	if bytes, inodes, err := s.Usage("c1"); err != nil || bytes < 100_000 || bytes > 150_000 || inodes != 2 {
		t.Errorf("usage %d bytes, %d inodes, %v", bytes, inodes, err)
	}
}

func mountOverlay(t *testing.T, r Rootfs, root string) {
	t.Helper()
	if err := unix.Mount("overlay", root, "overlay", 0, "lowerdir="+strings.Join(r.Lower, ":")+",upperdir="+r.Upper+",workdir="+r.Work); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(root, unix.MNT_DETACH) })
}

func whiteoutsHold(t *testing.T, root string) {
	t.Helper()
	for _, name := range []string{"gone", ".wh.gone", "opt/old/a", "opt/old/b"} {
		if _, err := os.Lstat(filepath.Join(root, name)); !os.IsNotExist(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, name := range []string{"opt/old/c", "tmp/seen", "home/.wh"} {
		if _, err := os.Lstat(filepath.Join(root, name)); err != nil {
			t.Error(err)
		}
	}
}

func TestHostileLayers(t *testing.T) {
	outside := filepath.Join(t.TempDir(), "victim")
	if err := os.WriteFile(outside, []byte("safe"), 0o644); err != nil {
		t.Fatal(err)
	}
	sym := func(name, to string) file {
		return file{tar.Header{Name: name, Typeflag: tar.TypeSymlink, Linkname: to}, ""}
	}
	hard := func(name, to string) file {
		return file{tar.Header{Name: name, Typeflag: tar.TypeLink, Linkname: to}, ""}
	}
	for name, c := range map[string]struct {
		files   []file
		refused bool
	}{
		"dot dot":                    {[]file{reg("../../../../../../../../"+outside, "evil")}, true},
		"dot dot inside":             {[]file{reg("a/../../b", "evil")}, true},
		"absolute":                   {[]file{reg(outside, "evil")}, false}, // taken below the root
		"through a symlink":          {[]file{sym("d", filepath.Dir(outside)), reg("d/victim", "evil")}, false},
		"through a relative symlink": {[]file{sym("d", "../../../../../../../.."+filepath.Dir(outside)), reg("d/victim", "evil")}, false},
		"over a symlink":             {[]file{sym("f", outside), reg("f", "evil")}, false},
		"hard link to the outside":   {[]file{hard("h", outside), reg("h", "evil")}, true},
		"hard link through symlink":  {[]file{sym("d", filepath.Dir(outside)), hard("h", "d/victim")}, true},
		"whiteout of the outside":    {[]file{sym("d", filepath.Dir(outside)), reg("d/.wh.victim", "")}, false},
		"whiteout of dot dot":        {[]file{reg(".wh...", "")}, true},
		"chmod through symlink":      {[]file{sym("d", outside), {tar.Header{Name: "d", Typeflag: tar.TypeSymlink, Linkname: outside, Mode: 0o7777, Uid: 7}, ""}}, false},
	} {
		s := openStore(t)
		l := newLayout()
		_, err := importing(t, s, l.named(l.image(v1.ImageConfig{}, tarOf(t, c.files...)), "evil").tar(t), "")
		if (err != nil) != c.refused {
			t.Errorf("%s: %v", name, err)
		}
		if got, _ := os.ReadFile(outside); string(got) != "safe" {
			t.Fatalf("%s: wrote outside: %q", name, got)
		}
		if info, err := os.Lstat(outside); err != nil || info.Mode() != 0o644 || info.Sys().(*syscall.Stat_t).Uid != 0 || info.Sys().(*syscall.Stat_t).Nlink != 1 {
			t.Fatalf("%s: changed a file outside: %v %v", name, info, err)
		}
	}
}

// TestBombs unpacks small archives that grow beyond the disk, on a small disk.
func TestBombs(t *testing.T) {
	if !inOwnMounts(t) {
		return
	}
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=96m,nr_inodes=20000"); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(dir, unix.MNT_DETACH)
	s := openAt(t, filepath.Join(dir, "images"))
	zeros := strings.Repeat("\x00", 40<<20)
	var many []file
	for i := range 25_000 {
		many = append(many, reg(fmt.Sprintf("f%d", i), ""))
	}
	for name, layer := range map[string][]byte{
		"three large files": tarOf(t, reg("a", zeros), reg("b", zeros), reg("c", zeros)),
		"very many files":   tarOf(t, many...),
		"a sparse file":     sparse(t),
	} {
		l := newLayout()
		archive := l.named(l.image(v1.ImageConfig{}, layer), "bomb").tar(t)
		_, err := importing(t, s, archive, "")
		if !errors.Is(err, ErrNoSpace) || !strings.Contains(err.Error(), "free some space") {
			t.Errorf("%s of %d bytes packed: %v", name, len(archive), err)
		}
		if left := content(t, s); len(left) > 0 {
			t.Errorf("%s: left %v", name, left)
		}
	}
	mustImport(t, s, hello(t, "after").tar(t), "")
}

// sparse is a tar with one file of a terabyte, all hole (PAX sparse 1.0, which
// the library reads but does not write).
func sparse(t *testing.T) []byte {
	t.Helper()
	var b bytes.Buffer
	record := func(k, v string) string {
		line := fmt.Sprintf(" %s=%s\n", k, v)
		n := len(line) + 2
		if n+len(fmt.Sprint(n))-2 > n {
			n = len(line) + len(fmt.Sprint(len(line)+2))
		}
		return fmt.Sprint(n) + line
	}
	pax := record("GNU.sparse.major", "1") + record("GNU.sparse.minor", "0") + record("GNU.sparse.name", "hole") + record("GNU.sparse.realsize", fmt.Sprint(int64(1)<<40))
	block := func(name string, flag byte, body string) {
		h := make([]byte, 512)
		copy(h, name)
		copy(h[100:], "0000644\x000000000\x000000000\x00")
		copy(h[124:], fmt.Sprintf("%011o\x00", len(body)))
		copy(h[136:], "00000000000\x00        ")
		h[156] = flag
		copy(h[257:], "ustar\x0000")
		sum := 0
		for _, c := range h {
			sum += int(c)
		}
		copy(h[148:], fmt.Sprintf("%06o\x00 ", sum))
		b.Write(h)
		b.WriteString(body)
		b.Write(make([]byte, (512-len(body)%512)%512))
	}
	block("PaxHeaders/hole", 'x', pax)
	block("GNUSparseFile.0/hole", '0', "0\n"+strings.Repeat("\x00", 510)) // no data regions
	b.Write(make([]byte, 1024))
	r := tar.NewReader(bytes.NewReader(b.Bytes()))
	if h, err := r.Next(); err != nil || h.Size != 1<<40 {
		t.Fatalf("the test's own sparse file: %+v, %v", h, err)
	}
	return b.Bytes()
}
