package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"proa/image"
)

// TestArchiveImports builds an archive from a small tree, twice with the same
// bytes, and imports it.
func TestArchiveImports(t *testing.T) {
	root := t.TempDir()
	if err := accounts(root); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/bin/busybox", filepath.Join(root, "sh")); err != nil {
		t.Fatal(err)
	}
	var archives [][]byte
	for range 2 {
		base, err := treeLayer(root)
		if err != nil {
			t.Fatal(err)
		}
		app, err := filesLayer(map[string]string{"app/app.py": "../../examples/flask/app.py"})
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(t.TempDir(), "x.tar")
		if err := writeArchive(path, []layer{base, app}, flask.variants); err != nil {
			t.Fatal(err)
		}
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		archives = append(archives, data)
	}
	if !bytes.Equal(archives[0], archives[1]) {
		t.Error("the same input gave other bytes")
	}
	s, err := image.Open(t.TempDir(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := s.Import(t.Context(), bytes.NewReader(archives[0]), "", nil); err != nil {
		t.Fatal(err)
	}
	v2, ok := s.Get("flask-app:v2")
	if !ok || len(v2.Layers) != 2 || v2.Config.WorkingDir != "/app" || !strings.Contains(strings.Join(v2.Config.Env, " "), "APP_VERSION=v2") {
		t.Errorf("imported %+v", v2)
	}
}

func TestUnusedFiles(t *testing.T) {
	for path, want := range map[string]bool{
		"usr/lib/python3.11/json/__init__.py":                  true,
		"usr/lib/python3.11/test/test_json.py":                 false,
		"usr/lib/python3/dist-packages/flask/app.py":           true,
		"usr/lib/python3.11/lib-dynload/_ssl.cpython-311.so":   true,
		"usr/lib/python3.11/lib-dynload/readline.cpython-x.so": false,
		"usr/share/doc/python3/README":                         false,
		"lib/x86_64-linux-gnu/libc.so.6":                       true,
		"usr/lib/x86_64-linux-gnu/gconv/UTF-16.so":             false,
		"bin/busybox": true,
	} {
		if got := flask.keep(path); got != want {
			t.Errorf("keep(%s) = %v", path, got)
		}
	}
}
