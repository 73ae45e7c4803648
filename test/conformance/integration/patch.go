package main

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// edit is one change of a file of the copy: what the pattern matches is followed by
// the text.
type edit struct{ file, pattern, then string }

const idle = "\n\t<-ctx.Done()\n\treturn"

// edits have the test servers be proa's, and leave out what looks at the counters
// of controllers in the test's own process.
var edits = []edit{
	{"pkg/scheduler/scheduler.go", `func \(sched \*Scheduler\) Run\(ctx context\.Context\) \{`, idle},
	{"cmd/kube-apiserver/app/testing/testserver.go", `func StartTestServer\(t ktesting\.TB.*\{`,
		"\n\tif true {\n\t\tconfig, stop := proa.Start(t, customFlags...)\n\t\treturn TestServer{ClientConfig: config, ServerOpts: options.NewServerRunOptions(), TearDownFn: stop, TmpDir: os.TempDir()}, nil\n\t}"},
	{"cmd/kube-apiserver/app/testing/testserver.go", `import \(`, "\n\t\"k8s.io/kubernetes/test/utils/proa\""},
	{"test/integration/framework/test_server.go", `func StartTestServer\(ctx context\.Context.*\{`,
		"\n\tif true {\n\t\tconfig, stop := proa.Start(t)\n\t\treturn client.NewForConfigOrDie(config), config, stop\n\t}"},
	{"test/integration/framework/test_server.go", `import \(`, "\n\t\"k8s.io/kubernetes/test/utils/proa\""},
	{"test/integration/framework/etcd.go", `func startEtcd\(.*\{`, "\n\tif true {\n\t\treturn func() {}, nil\n\t}"},
	{"test/integration/job/job_test.go", `func validate(CounterMetric|TerminatedPodsTrackingFinalizerMetric)\(.*\{`, "\n\tif true {\n\t\treturn\n\t}"},
	{"test/integration/volume/attach_detach_test.go", `func waitForMetric\(.*\{`, "\n\tif true {\n\t\treturn\n\t}"},
}

// patch changes the copy.
func patch(root string) error {
	starterDir := filepath.Join(root, "test/utils/proa")
	if err := os.MkdirAll(starterDir, 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(starterDir, "proa.go"), []byte(starter), 0o644); err != nil {
		return err
	}
	for _, e := range edits {
		if err := e.apply(root); err != nil {
			return err
		}
	}
	return filepath.WalkDir(filepath.Join(root, "pkg/controller"), func(path string, d fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		return still(path)
	})
}

func (e edit) apply(root string) error {
	path := filepath.Join(root, e.file)
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	pattern := regexp.MustCompile(`(?m)^` + e.pattern)
	if !pattern.Match(text) {
		return fmt.Errorf("%s: nothing matches %s", e.file, e.pattern)
	}
	return os.WriteFile(path, pattern.ReplaceAllFunc(text, func(m []byte) []byte { return followed(m, e.then) }), 0o644)
}

// followed is a text of its own: m is a part of what is being read.
func followed(m []byte, then string) []byte { return []byte(string(m) + then) }

var (
	runs      = regexp.MustCompile(`(?m)^func \([^)]*\) Run\(ctx context\.Context[^)]*\) \{`)
	runsError = regexp.MustCompile(`(?m)^func \([^)]*\) Run\(ctx context\.Context[^)]*\) error \{`)
)

// still has the controllers of a file wait for their end and do nothing.
func still(path string) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	next := runs.ReplaceAllFunc(text, func(m []byte) []byte { return followed(m, idle) })
	next = runsError.ReplaceAllFunc(next, func(m []byte) []byte { return followed(m, idle+" nil") })
	if string(next) == string(text) {
		return nil
	}
	return os.WriteFile(path, next, 0o644)
}
