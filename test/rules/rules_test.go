// Package rules holds the rules of the house that a compiler does not: who may
// import whom, one package comment each, short functions and files.
package rules

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "proa/"

// rooms are the layers from the ground up. A room imports only rooms of lower
// layers, and those beside it that beside allows.
var rooms = [][]string{
	{"internal"},
	{"api"},
	{"store"},
	{"client", "image", "network", "doctor"},
	{"reconcile", "auth", "control"},
	{"controllers", "scheduler", "kubelet", "runtime", "proxy", "dns", "apiserver"},
	{"cluster"},
	{"cli"},
	{"cmd", "test"},
	{"bench"},
}

// onlyIn lists imports that only some places may have, and why.
var onlyIn = map[string]struct {
	places []string
	why    string
}{
	"k8s.io/kubernetes":                      {nil, "it is what we are measured against"},
	"k8s.io/apiserver/pkg/server":            {nil, "the request path is our own"},
	"github.com/opencontainers/runc":         {[]string{"runtime", "cmd/proa-shim"}, "CRI is the boundary under the kubelet"},
	"proa/store":                             {[]string{"store", "apiserver", "cluster", "test", "bench"}, "the rest reaches state through client"},
	"proa/cluster":                           {[]string{"cli", "cmd", "test"}, "cluster sees everything, so nothing may lean on it"},
	"github.com/cockroachdb/pebble":          {[]string{"store/pebble"}, "an engine is behind store.Engine"},
	"github.com/vishvananda/netlink":         {[]string{"network", "proxy", "cluster", "runtime", "cmd/proa-shim", "internal", "test", "bench"}, "links are made in few places"},
	"github.com/google/go-containerregistry": {[]string{"image", "test/images"}, "images are one room"},
	"k8s.io/client-go/tools/cache":           {[]string{"test"}, "the world is in memory once; nobody keeps a cache"},
	"k8s.io/client-go/informers":             {[]string{"test"}, "the world is in memory once; nobody keeps a cache"},
}

type file struct {
	path, dir string // from the root of the repository, slashes
	test      bool
	ast       *ast.File
	lines     int
	set       *token.FileSet
}

func TestImportOrder(t *testing.T) {
	for _, f := range files(t) {
		if f.test {
			continue
		}
		for _, spec := range f.ast.Imports {
			path := strings.Trim(spec.Path.Value, `"`)
			if to, ours := strings.CutPrefix(path, module); ours && !mayImport(f.dir, to) {
				t.Errorf("%s imports %s, which is not below it", f.path, path)
			}
		}
	}
}

func mayImport(from, to string) bool {
	a, b := room(from), room(to)
	return a == b || layer(b) < layer(a)
}

func room(dir string) string { first, _, _ := strings.Cut(dir, "/"); return first }

func layer(room string) int {
	return slices.IndexFunc(rooms, func(l []string) bool { return slices.Contains(l, room) })
}

func TestEveryRoomHasALayer(t *testing.T) {
	for _, f := range files(t) {
		if layer(room(f.dir)) < 0 {
			t.Errorf("%s is in no layer: say in rooms where %s belongs", f.path, room(f.dir))
		}
	}
}

func TestRestrictedImports(t *testing.T) {
	for _, f := range files(t) {
		for _, spec := range f.ast.Imports {
			path := strings.Trim(spec.Path.Value, `"`)
			for what, rule := range onlyIn {
				if within(path, what) && !f.test && !slices.ContainsFunc(rule.places, func(p string) bool { return within(f.dir, p) }) {
					t.Errorf("%s imports %s: %s", f.path, path, rule.why)
				}
			}
		}
	}
}

// within tells whether path is root or below it; a version suffix counts as
// below.
func within(path, root string) bool { return path == root || strings.HasPrefix(path, root+"/") }

func TestOnePackageCommentEach(t *testing.T) {
	comments, seen := map[string][]string{}, map[string]bool{}
	for _, f := range files(t) {
		if f.test && f.dir != "test/e2e" && f.dir != "test/rules" {
			continue
		}
		seen[f.dir] = true
		if f.ast.Doc != nil && strings.TrimSpace(f.ast.Doc.Text()) != "" {
			comments[f.dir] = append(comments[f.dir], f.path)
		}
	}
	for dir := range seen {
		if n := len(comments[dir]); n != 1 {
			t.Errorf("package %s has %d package comments, want 1: %v", dir, n, comments[dir])
		}
	}
}

// Limits of what one reads at a glance.
const maxFunction, maxFile = 70, 1000

func TestLengths(t *testing.T) {
	for _, f := range files(t) {
		if f.lines > maxFile {
			t.Errorf("%s has %d lines, more than %d: split it by who owns the state", f.path, f.lines, maxFile)
		}
		for _, d := range f.ast.Decls {
			fn, ok := d.(*ast.FuncDecl)
			if !ok || fn.Body == nil {
				continue
			}
			if n := f.set.Position(fn.End()).Line - f.set.Position(fn.Pos()).Line + 1; n > maxFunction {
				t.Errorf("%s: %s has %d lines, more than %d", f.path, fn.Name.Name, n, maxFunction)
			}
		}
	}
}

func TestNoDrawers(t *testing.T) {
	for _, f := range files(t) {
		for _, part := range strings.Split(f.dir, "/") {
			if slices.Contains([]string{"util", "utils", "common", "helpers", "types", "misc"}, part) {
				t.Errorf("%s: a package named %s says nothing of what it is for", f.path, part)
			}
		}
	}
}

var parsed []file

// files parses every Go file of the module once.
func files(t *testing.T) []file {
	t.Helper()
	if parsed != nil {
		return parsed
	}
	const root = "../.."
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if name := d.Name(); name == "testdata" || name == "bin" || name == ".git" || path != root && exists(filepath.Join(path, "go.mod")) {
				return filepath.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(path, ".go") {
			return nil
		}
		f, err := parse(root, path)
		parsed = append(parsed, f)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return parsed
}

func exists(path string) bool { _, err := os.Stat(path); return err == nil }

func parse(root, path string) (file, error) {
	set := token.NewFileSet()
	tree, err := parser.ParseFile(set, path, nil, parser.ParseComments)
	if err != nil {
		return file{}, err
	}
	rel, err := filepath.Rel(root, path)
	rel = filepath.ToSlash(rel)
	return file{path: rel, dir: filepath.ToSlash(filepath.Dir(rel)), test: strings.HasSuffix(rel, "_test.go"),
		ast: tree, set: set, lines: set.Position(tree.End()).Line}, err
}
