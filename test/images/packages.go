package main

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// unpack puts the packages' files, as far as they are wanted, below root.
func unpack(r recipe, root string) error {
	for _, tool := range []string{"apt-get", "apt-cache", "dpkg-deb"} {
		if _, err := exec.LookPath(tool); err != nil {
			return fmt.Errorf("%s is missing: images are assembled on Debian and its relatives only", tool)
		}
	}
	names, err := closure(r.packages, r.without)
	if err != nil {
		return err
	}
	files, err := download(names)
	if err != nil {
		return err
	}
	for _, file := range files {
		if _, err := run("", "dpkg-deb", "-x", file, root); err != nil {
			return err
		}
	}
	return prune(root, r.keep)
}

// run returns a command's output; its error carries what the command said.
func run(dir, name string, args ...string) ([]byte, error) {
	cmd := exec.Command(name, args...)
	cmd.Dir = dir
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %s", name, err, strings.TrimSpace(stderr.String()))
	}
	return out, nil
}

// closure returns the packages with all that they depend on, in order.
func closure(roots, without []string) ([]string, error) {
	out, err := run("", "apt-cache", append([]string{"depends", "--recurse", "--no-recommends", "--no-suggests", "--no-conflicts",
		"--no-breaks", "--no-replaces", "--no-enhances"}, roots...)...)
	if err != nil {
		return nil, fmt.Errorf("%w (does apt know the packages? try apt-get update)", err)
	}
	depends := map[string][]string{}
	of := ""
	for lines := bufio.NewScanner(bytes.NewReader(out)); lines.Scan(); {
		line := lines.Text()
		if !strings.HasPrefix(line, " ") {
			of = line
			continue
		}
		if _, on, ok := strings.Cut(line, "epends: "); ok {
			depends[of] = append(depends[of], on)
		}
	}
	seen := map[string]bool{}
	var visit func(name string)
	visit = func(name string) {
		if seen[name] || strings.HasPrefix(name, "<") || slices.ContainsFunc(without, func(w string) bool { return matches(w, name) }) {
			return
		}
		seen[name] = true
		for _, d := range depends[name] {
			visit(d)
		}
	}
	for _, r := range roots {
		visit(r)
	}
	names := make([]string, 0, len(seen))
	for n := range seen {
		names = append(names, n)
	}
	slices.Sort(names)
	return names, nil
}

func matches(pattern, name string) bool {
	ok, err := filepath.Match(pattern, name)
	return ok && err == nil
}

// download returns the packages' files, fetching those that the cache lacks.
func download(names []string) ([]string, error) {
	base, err := os.UserCacheDir()
	if err != nil {
		base = os.TempDir()
	}
	cache := filepath.Join(base, "proa", "packages")
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return nil, err
	}
	wanted, err := listed(names)
	if err != nil {
		return nil, err
	}
	var missing, files []string
	for _, w := range wanted {
		if files = append(files, filepath.Join(cache, w.file)); !w.intact(cache) {
			missing = append(missing, w.name)
		}
	}
	if len(missing) > 0 {
		fmt.Printf("downloading %d packages\n", len(missing))
		if _, err := run(cache, "apt-get", append([]string{"download", "-qq", "-o", "APT::Sandbox::User=root"}, missing...)...); err != nil {
			return nil, err
		}
	}
	for _, w := range wanted {
		if !w.intact(cache) {
			return nil, fmt.Errorf("package %s was not downloaded whole: run it again", w.file)
		}
	}
	return files, nil
}

// pkg is a package's file as the mirror describes it.
type pkg struct{ name, file, sum string }

// listed asks apt for the files. apt leaves out what lies in its working
// directory, so it is asked in an empty one.
func listed(names []string) ([]pkg, error) {
	empty, err := os.MkdirTemp("", "proa-apt-")
	if err != nil {
		return nil, err
	}
	defer os.Remove(empty)
	out, err := run(empty, "apt-get", append([]string{"download", "--print-uris"}, names...)...)
	if err != nil {
		return nil, err
	}
	var all []pkg
	for lines := bufio.NewScanner(bytes.NewReader(out)); lines.Scan(); {
		// 'URL' FILE SIZE SHA256:HEX
		f := strings.Fields(lines.Text())
		if len(f) != 4 || !strings.HasPrefix(f[0], "'") {
			continue
		}
		name, _, _ := strings.Cut(f[1], "_")
		all = append(all, pkg{name: name, file: f[1], sum: strings.TrimPrefix(f[3], "SHA256:")})
	}
	if len(all) != len(names) {
		return nil, fmt.Errorf("apt offers %d of %d packages: run apt-get update", len(all), len(names))
	}
	slices.SortFunc(all, func(a, b pkg) int { return strings.Compare(a.name, b.name) })
	return all, nil
}

// intact tells whether the cache holds the file, whole. A damaged one is removed.
func (p pkg) intact(cache string) bool {
	path := filepath.Join(cache, p.file)
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil || hex.EncodeToString(h.Sum(nil)) != p.sum {
		_ = os.Remove(path)
		return false
	}
	return true
}

// prune removes files that are not wanted, then directories that are empty, and
// links that point nowhere.
func prune(root string, keep func(string) bool) error {
	var dirs []string
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == root {
			return err
		}
		if d.IsDir() {
			dirs = append(dirs, path)
			return nil
		}
		if name, _ := filepath.Rel(root, path); !keep(name) {
			return os.Remove(path)
		}
		return nil
	})
	if err != nil {
		return err
	}
	slices.Reverse(dirs)
	for _, d := range dirs {
		if err := os.Remove(d); err != nil && !errors.Is(err, fs.ErrExist) {
			if entries, rerr := os.ReadDir(d); rerr != nil || len(entries) == 0 {
				return err
			}
		}
	}
	return nil
}
