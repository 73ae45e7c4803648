// Command generate writes testdata/discovery.list: what Kubernetes publishes as
// its discovery documents, a line a resource, for the versions that it serves by
// default (those that are generally available). A test holds the rows to it.
//
// Run it by `go generate ./api` after the k8s.io modules change.
package main

import (
	"encoding/json"
	"fmt"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const release = "k8s.io/kubernetes@v1.37.2"

// stable finds the documents of the core group and of others at a version
// without "alpha" or "beta": the rest is off unless asked for.
var stable = regexp.MustCompile(`^apis?__(.*__)?v[0-9]+\.json$`)

func main() {
	log.SetFlags(0)
	if err := run("testdata/discovery.list"); err != nil {
		log.Fatal(err)
	}
}

func run(out string) error {
	dir, err := source()
	if err != nil {
		return err
	}
	entries, err := os.ReadDir(filepath.Join(dir, "api", "discovery"))
	if err != nil {
		return err
	}
	var lines []string
	for _, e := range entries {
		if !stable.MatchString(e.Name()) {
			continue
		}
		more, err := read(filepath.Join(dir, "api", "discovery", e.Name()))
		if err != nil {
			return err
		}
		lines = append(lines, more...)
	}
	slices.Sort(lines)
	return os.WriteFile(out, []byte(strings.Join(lines, "\n")+"\n"), 0o644)
}

// source is where the release's files are.
func source() (string, error) {
	data, err := exec.Command("go", "mod", "download", "-json", release).Output()
	if err != nil {
		return "", fmt.Errorf("%s: %w", release, err)
	}
	var module struct{ Dir string }
	return module.Dir, json.Unmarshal(data, &module)
}

func read(file string) ([]string, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var list metav1.APIResourceList
	if err := json.Unmarshal(data, &list); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	var lines []string
	for _, r := range list.APIResources {
		lines = append(lines, line(list.GroupVersion, r))
	}
	return lines, nil
}

// line is what published_test.go makes of a row, too.
func line(gv string, r metav1.APIResource) string {
	scope := "cluster"
	if r.Namespaced {
		scope = "namespaced"
	}
	kind := r.Kind
	if r.Version != "" {
		kind = strings.TrimPrefix(r.Group+"/"+r.Version+"/", "/") + kind
	}
	slices.Sort(r.Verbs)
	return strings.Join([]string{gv, r.Name, r.SingularName, kind, scope, strings.Join(r.Verbs, ","),
		strings.Join(r.ShortNames, ","), strings.Join(r.Categories, ",")}, " | ")
}
