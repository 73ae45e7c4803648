package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
)

// flask is the example's image, as examples/flask/Dockerfile would make it: the
// parts of Python and Flask that an application runs with, a shell, no more.
var flask = recipe{
	packages: []string{"python3-flask", "busybox-static"},
	without: []string{"perl*", "libperl*", "dpkg", "tar", "install-info", "libjs-*", "media-types", "mailcap", "mime-support", "readline-common",
		"libreadline8", "libdb5.3", "libnsl2", "libtirpc*", "libsqlite3-0", "libncursesw6", "libtinfo6", "libuuid1",
		"python3-colorama", "python3-importlib-metadata", "python3-typing-extensions"},
	keep:   func(path string) bool { return !unused.MatchString(path) },
	finish: finishFlask,
	extra:  map[string]string{"app/app.py": "examples/flask/app.py"},
	variants: []variant{
		{name: "docker.io/library/flask-app:v1", env: []string{"APP_VERSION=v1"}, command: []string{"python3", "app.py"}, dir: "/app", port: "5000/tcp"},
		{name: "docker.io/library/flask-app:v2", env: []string{"APP_VERSION=v2"}, command: []string{"python3", "app.py"}, dir: "/app", port: "5000/tcp"},
	},
}

// unused are documentation, translations, tests, build files, development tools,
// and extension modules whose libraries stay away.
var unused = regexp.MustCompile(`^usr/share/(doc|man|info|lintian|python3/|python3$|locale|bug|menu|applications|pixmaps|binfmts|initramfs)|^var/|^etc/(init|python|cron|debconf|gai|ld)` +
	`|/gconv/|/audit/|^usr/share/zoneinfo|^s?bin/ldconfig|^usr/s?bin/(?:[a-z]*conv|ld|getent|tzselect|zdump|pldd|catchsegv|py3|pydoc|pygettext|2to3|flask|jinja)` +
	`|/(tests?|lib2to3|ensurepip|idlelib|turtledemo|tkinter|pydoc_data|distutils|unittest/test|sqlite3|dbm|curses)/` +
	`|/lib-dynload/(_sqlite3|_dbm|_gdbm|_curses|_curses_panel|readline|nis|_test|_xxtest|_ctypes_test|_uuid)[^/]*$` +
	`|/config-3[^/]*/|\.a$|\.h$|\.pyi$|/libthread_db|/libpcprofile|/libmemusage|/libnss_(hesiod|compat)`)

func finishFlask(root string) error {
	if err := applets(root); err != nil {
		return err
	}
	if err := accounts(root); err != nil {
		return err
	}
	for _, link := range [][2]string{{"python3", "usr/bin/python"}} {
		if err := os.Symlink(link[0], filepath.Join(root, link[1])); err != nil {
			return err
		}
	}
	return precompile(root)
}

// precompile saves each container from compiling Python's library again. The
// image's own interpreter does it, run through the image's own loader, so that
// this machine needs no Python. Hash-based files are the same each time, and
// need no look at their source when they are used.
func precompile(root string) error {
	loader, err := filepath.EvalSymlinks(filepath.Join(root, "lib64/ld-linux-x86-64.so.2"))
	if err != nil {
		if loader, err = glob(root, "lib/ld-linux-*.so.*"); err != nil {
			return err
		}
	}
	python, err := glob(root, "usr/bin/python3.[0-9]*")
	if err != nil {
		return err
	}
	libs, err := filepath.Glob(filepath.Join(root, "*/*-linux-gnu"))
	if err != nil {
		return err
	}
	more, err := filepath.Glob(filepath.Join(root, "usr/lib/*-linux-gnu"))
	if err != nil {
		return err
	}
	cmd := exec.Command(loader, "--library-path", strings.Join(append(libs, more...), ":"), python, "-s", "-S", "-B", "-m", "compileall", "-q", "-f", "-j1",
		"--invalidation-mode", "unchecked-hash", "-s", root, "-p", "/", filepath.Join(root, "usr/lib"))
	cmd.Env = []string{"PYTHONHOME=" + filepath.Join(root, "usr"), "PYTHONHASHSEED=0", "PATH=/usr/bin:/bin"}
	out, err := cmd.CombinedOutput()
	if err != nil {
		return &commandError{"compiling Python's library", err, string(out)}
	}
	return nil
}

type commandError struct {
	what string
	err  error
	out  string
}

func (e *commandError) Error() string { return e.what + ": " + e.err.Error() + ": " + e.out }
func (e *commandError) Unwrap() error { return e.err }

func glob(root, pattern string) (string, error) {
	found, err := filepath.Glob(filepath.Join(root, pattern))
	if err != nil || len(found) == 0 {
		return "", &os.PathError{Op: "find", Path: pattern, Err: os.ErrNotExist}
	}
	return found[0], nil
}

// busybox is a static busybox with a link for each of its commands.
var busybox = recipe{
	packages: []string{"busybox-static"},
	without:  []string{"libc6", "libcrypt1"},
	keep:     func(path string) bool { return path == "bin/busybox" },
	finish: func(root string) error {
		if err := applets(root); err != nil {
			return err
		}
		return accounts(root)
	},
	variants: []variant{{name: "docker.io/library/busybox:latest", command: []string{"sh"}}},
}

// health is busybox with a program that answers gRPC health checks; operator is
// one with a program that runs Kubernetes' resources.
var (
	health   = withProgram("health", ".", "./test/images/health", "bin/health")
	operator = withProgram("kubeflow/training-operator", "test/clients/operator", "github.com/kubeflow/training-operator/cmd/training-operator.v1", "manager")
)

// withProgram is busybox with a Go program, built in a module's directory.
func withProgram(name, module, program, path string) recipe {
	r := busybox
	r.finish = func(root string) error {
		if err := busybox.finish(root); err != nil {
			return err
		}
		_, err := run(module, "env", "CGO_ENABLED=0", "go", "build", "-ldflags", "-s -w", "-o", filepath.Join(root, path), program)
		return err
	}
	r.variants = []variant{{name: "docker.io/" + name + ":latest", command: []string{"sh"}}}
	if !strings.Contains(name, "/") {
		r.variants[0].name = "docker.io/library/" + name + ":latest"
	}
	return r
}

// applets links busybox's commands, except where a file is already.
func applets(root string) error {
	out, err := run("", filepath.Join(root, "bin/busybox"), "--list-full")
	if err != nil {
		return err
	}
	for _, name := range strings.Fields(string(out)) {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.Symlink("/bin/busybox", path); err != nil && !os.IsExist(err) {
			return err
		}
	}
	return nil
}

// accounts makes what programs expect of any system.
func accounts(root string) error {
	for _, d := range []string{"etc", "root", "proc", "sys", "dev", "run", "var", "home"} {
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			return err
		}
	}
	for _, d := range []string{"tmp", "var/tmp"} {
		if err := os.MkdirAll(filepath.Join(root, d), 0o777); err != nil {
			return err
		}
		if err := os.Chmod(filepath.Join(root, d), 0o777|os.ModeSticky); err != nil {
			return err
		}
	}
	for name, text := range map[string]string{
		"passwd":        "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/home:/bin/false\n",
		"group":         "root:x:0:\nnogroup:x:65534:\n",
		"nsswitch.conf": "hosts: files dns\n",
	} {
		if err := os.WriteFile(filepath.Join(root, "etc", name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}
