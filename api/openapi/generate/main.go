// Command generate writes definitions.txt.gz: the OpenAPI definitions of the Go
// types that the built-in kinds are made of, as Kubernetes' own generator
// (k8s.io/kube-openapi/cmd/openapi-gen) reads them out of the types' sources.
//
// Run it by `go generate ./api/openapi` after the k8s.io modules change. It
// works in a temporary module that has this one's requirements, so that the
// generator and its 66,000 lines of output are no part of the program.
package main

import (
	"bufio"
	"bytes"
	"compress/gzip"
	_ "embed"
	"errors"
	"fmt"
	"log"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	"proa/api"
	"proa/api/openapi"
)

const (
	openAPIModule = "k8s.io/kube-openapi"
	generator     = openAPIModule + "/cmd/openapi-gen"
)

//go:embed dump.go.txt
var dump []byte

func main() {
	log.SetFlags(0)
	if err := run("../../go.mod", "definitions.txt.gz"); err != nil {
		log.Fatal(err)
	}
}

func run(goMod, out string) error {
	dir, err := os.MkdirTemp("", "openapi")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := makeModule(dir, goMod); err != nil {
		return err
	}
	args := []string{"run", generator, "--output-dir", "out", "--output-pkg", "proa/out", "--output-file", "out.go",
		"--report-filename", os.DevNull, "--go-header-file", os.DevNull}
	for _, step := range [][]string{append(args, packages()...), {"run", "."}} {
		lines, err := command(dir, step...)
		if err != nil {
			return err
		}
		if step[1] == "." {
			return write(out, lines)
		}
	}
	return nil
}

// makeModule prepares dir: our requirements, the generator's on top, and the
// program that prints what was generated.
func makeModule(dir, goMod string) error {
	for _, name := range []string{goMod, strings.TrimSuffix(goMod, ".mod") + ".sum"} {
		data, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, filepath.Base(name)), data, 0o644); err != nil {
			return err
		}
	}
	version, err := command(dir, "list", "-m", "-f", "{{.Version}}", openAPIModule)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "main.go"), dump, 0o644); err != nil {
		return err
	}
	_, err = command(dir, "get", generator+"@"+strings.TrimSpace(string(version)))
	return err
}

func command(dir string, args ...string) ([]byte, error) {
	cmd := exec.Command("go", args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GOFLAGS=-mod=mod")
	out, err := cmd.Output()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		return nil, fmt.Errorf("go %s: %w\n%s", strings.Join(args, " "), err, exit.Stderr)
	}
	return out, err
}

// packages are those of all served types and of what their fields are made of:
// a package that is left out has its types under other names.
func packages() []string {
	seen, found := map[reflect.Type]bool{}, map[string]bool{}
	for _, typ := range openapi.Types(api.Builtin()) {
		collect(typ, seen, found)
	}
	return slices.Sorted(maps.Keys(found))
}

func collect(typ reflect.Type, seen map[reflect.Type]bool, packages map[string]bool) {
	switch typ.Kind() {
	case reflect.Pointer, reflect.Slice:
		collect(typ.Elem(), seen, packages)
	case reflect.Map:
		collect(typ.Key(), seen, packages)
		collect(typ.Elem(), seen, packages)
	}
	if seen[typ] || !strings.HasPrefix(typ.PkgPath(), "k8s.io/") {
		return
	}
	seen[typ], packages[typ.PkgPath()] = true, true
	if typ.Kind() != reflect.Struct || !typ.Implements(modelled) {
		return // its inside is not shown
	}
	for i := range typ.NumField() {
		collect(typ.Field(i).Type, seen, packages)
	}
}

var modelled = reflect.TypeFor[interface{ OpenAPIModelName() string }]()

// write keeps the definitions that served types lead to.
func write(name string, lines []byte) error {
	all := map[string]string{}
	scan := bufio.NewScanner(bytes.NewReader(lines))
	scan.Buffer(nil, 1<<24)
	for scan.Scan() {
		def, rest, _ := strings.Cut(scan.Text(), "\t")
		all[def] = rest
	}
	var roots []string
	for _, typ := range openapi.Types(api.Builtin()) {
		roots = append(roots, openapi.ModelName(reflect.New(typ).Interface()))
	}
	var buf bytes.Buffer
	z, _ := gzip.NewWriterLevel(&buf, gzip.BestCompression)
	for _, def := range openapi.Reachable(roots, func(name string) string { return all[name] }) {
		if all[def] == "" {
			return fmt.Errorf("%s has no definition", def)
		}
		fmt.Fprintf(z, "%s\t%s\n", def, all[def])
	}
	if err := z.Close(); err != nil {
		return err
	}
	return os.WriteFile(name, buf.Bytes(), 0o644)
}
