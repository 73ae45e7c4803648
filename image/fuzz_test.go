package image

import (
	"archive/tar"
	"bytes"
	"os"
	"path/filepath"
	"testing"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// outside is what nobody may touch: a file beside the store.
type outside struct{ dir string }

func besides(f *testing.F) (*Store, outside) {
	top := f.TempDir()
	o := outside{top}
	if err := os.WriteFile(filepath.Join(top, "kept"), []byte("as it was"), 0o600); err != nil {
		f.Fatal(err)
	}
	return openAt(f, filepath.Join(top, "store")), o
}

func (o outside) check(t *testing.T, s *Store) {
	t.Helper()
	entries, err := os.ReadDir(o.dir)
	if err != nil || len(entries) != 2 {
		t.Fatalf("beside the store there is now %v, %v", entries, err)
	}
	if got, err := os.ReadFile(filepath.Join(o.dir, "kept")); err != nil || string(got) != "as it was" {
		t.Fatalf("a file outside became %q, %v", got, err)
	}
	left, err := os.ReadDir(s.path("tmp"))
	if err != nil || len(left) > 0 {
		t.Fatalf("left behind: %v, %v", left, err)
	}
}

// hostileLayer is a layer that tries to get out of its directory.
func hostileLayer(f *testing.F) []byte {
	link := func(name, to string, kind byte) file {
		return file{tar.Header{Name: name, Linkname: to, Typeflag: kind, Mode: 0o777}, ""}
	}
	return tarOf(f, link("a", "../..", tar.TypeSymlink), reg("a/kept", "changed"), link("b", "/", tar.TypeSymlink), reg("b/x", "y"),
		link("c", "../../kept", tar.TypeLink), reg(".wh..wh..opq", ""), reg("d/.wh.e", ""),
		file{tar.Header{Name: "fifo", Typeflag: tar.TypeFifo}, ""},
		file{tar.Header{Name: "x", Typeflag: tar.TypeReg, Format: tar.FormatPAX, PAXRecords: map[string]string{"SCHILY.xattr.user.a": "b"}}, "x"})
}

// FuzzArchive imports made-up archives: nothing outside the store changes, and
// nothing is left of one that is refused.
func FuzzArchive(f *testing.F) {
	s, o := besides(f)
	whole := hello(f, "example.org/hello:1").tar(f)
	f.Add(whole)
	f.Add(gz(whole))
	f.Add(zst(whole))
	f.Add(tarOf(f, reg("../../kept", "x"), reg("index.json", `{"manifests":[{"digest":"sha256:../../kept"}]}`)))
	f.Add(tarOf(f, reg("manifest.json", `[{"Config":"../../../kept","Layers":["/etc/passwd"],"RepoTags":["a:b"]}]`)))
	f.Fuzz(func(t *testing.T, data []byte) {
		before := content(t, s)
		images, err := s.Import(t.Context(), bytes.NewReader(data), "", nil)
		o.check(t, s)
		if err != nil && len(content(t, s)) != len(before) {
			t.Errorf("of a refused archive (%v) something stays", err)
		}
		forget(t, s, images)
	})
}

func forget(t *testing.T, s *Store, images []Image) {
	t.Helper()
	for _, i := range images {
		if err := s.Remove(i.ID); err != nil {
			t.Error(err)
		}
	}
	if _, _, err := s.Prune(t.Context()); err != nil {
		t.Error(err)
	}
}

// FuzzLayer unpacks made-up layers that their manifest vouches for.
func FuzzLayer(f *testing.F) {
	s, o := besides(f)
	f.Add(hostileLayer(f))
	f.Add(tarOf(f, reg("usr/bin/hello", "x")))
	f.Fuzz(func(t *testing.T, data []byte) {
		l := newLayout()
		l.named(l.image(v1.ImageConfig{}, data), "example.org/made-up:1")
		images, _ := importing(t, s, l.tar(t), "")
		o.check(t, s)
		forget(t, s, images)
	})
}
