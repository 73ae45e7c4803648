// Package golden holds what kubectl shows of proa against what it shows of
// upstream's control plane: every command, and every kind through the commands
// that work on all kinds. It tests the server; kubectl is the measuring
// instrument.
//
// A golden file is a transcript of upstream: lines that begin with "$ " are
// commands, what follows is their output; standard error follows standard
// output, each line marked "! ", and an exit code other than 0 comes last. What
// differs from run to run (times, uids, revisions, addresses, tokens) is
// replaced by its name in angle brackets. Where proa is to show something else,
// a line "~ why" and what it shows follow.
//
//	go test ./test/golden                     compare
//	go test ./test/golden -full               every kind through every command
//	go test ./test/golden -kubectl PATH       use that kubectl, not the embedded one
//	go test ./test/golden -record bin/upstream -kubectl bin/upstream/kubectl
//	                                          record upstream (make goldens)
//	go test ./test/golden -differ             write down where proa differs, to be explained
package golden

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

var (
	record  = flag.String("record", "", "start upstream's control plane from this directory and write what it shows into testdata")
	differ  = flag.Bool("differ", false, "write what proa shows below what upstream shows, where they differ")
	full    = flag.Bool("full", false, "show every kind through every command, not the most telling ones")
	program = flag.String("kubectl", "", "kubectl binary to use instead of the embedded one")
)

// TestKubectl runs the scripts, whose files are in testdata/files, and the kinds.
// Those that change what others see come first, alone.
func TestKubectl(t *testing.T) {
	p := start(t)
	all := append(scripts(t), kinds(t)...)
	for _, alone := range []bool{true, false} {
		t.Run(map[bool]string{true: "alone", false: "together"}[alone], func(t *testing.T) {
			for _, tr := range all {
				if tr.alone != alone {
					continue
				}
				t.Run(tr.name, func(t *testing.T) {
					if !alone {
						t.Parallel()
					}
					k := newSession(t, p, tr.name)
					if tr.sample != nil {
						tr.sample.make(t, p, k.namespace)
					}
					tr.run(t, k)
				})
			}
		})
	}
}

// transcript is a golden file and the commands that it is of.
type transcript struct {
	name, path string
	entries    []entry
	alone      bool
	// sample is the object to make before the commands.
	sample *sample
}

// alone are the scripts and kinds that all other clients notice.
var alone = []string{"cluster", "nodes", "custom", "nodes.", "namespaces.", "apiservices.apiregistration.k8s.io", "customresourcedefinitions.apiextensions.k8s.io"}

func scripts(t *testing.T) (out []transcript) {
	files, err := filepath.Glob("testdata/scripts/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatal("no scripts: ", err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		name := strings.TrimSuffix(filepath.Base(file), ".txt")
		out = append(out, transcript{name: name, path: file, entries: parse(string(text)), alone: slices.Contains(alone, name)})
	}
	return out
}

// entry is one command of a transcript.
type entry struct {
	comment, command string
	// upstream is what upstream shows; ours is what proa does, where why says
	// that it is to differ.
	upstream, ours, why string
	// file stands in the place of <file> in the command.
	file string
}

// want is what proa should show.
func (e entry) want() string {
	if e.why != "" {
		return e.ours
	}
	return e.upstream
}

func parse(text string) (out []entry) {
	var comment, body []string
	flush := func() {
		if n := len(out); n > 0 {
			into := &out[n-1].upstream
			if out[n-1].why != "" {
				into = &out[n-1].ours
			}
			*into = strings.Trim(strings.Join(body, "\n"), "\n")
		}
		body = nil
	}
	for _, line := range strings.Split(strings.TrimSuffix(text, "\n"), "\n") {
		switch {
		case strings.HasPrefix(line, "$ "):
			flush()
			out = append(out, entry{command: line[2:], comment: strings.Join(comment, "\n")})
			comment = nil
		case strings.HasPrefix(line, "~ "):
			flush()
			out[len(out)-1].why = line[2:]
		case strings.HasPrefix(line, "# ") && (len(body) == 0 || body[len(body)-1] == "" || len(comment) > 0):
			comment = append(comment, line)
		default:
			body = append(body, line)
		}
	}
	flush()
	return out
}

func (e entry) text() string {
	var b strings.Builder
	if e.comment != "" {
		b.WriteString(e.comment + "\n")
	}
	for _, part := range []string{"$ " + e.command, e.upstream} {
		if part != "" {
			b.WriteString(part + "\n")
		}
	}
	if e.why != "" {
		b.WriteString("\n~ " + e.why + "\n")
		if e.ours != "" {
			b.WriteString(e.ours + "\n")
		}
	}
	return b.String()
}

// unexplained is the reason that -differ gives; a person gives a better one.
const unexplained = "not explained yet"

// run runs the commands and compares, or writes the file.
func (tr transcript) run(t *testing.T, k *session) {
	var texts []string
	for _, e := range tr.entries {
		got, err := k.show(e)
		if err != nil {
			t.Fatalf("%s: $ %s: %v", tr.path, e.command, err)
		}
		switch {
		case *record != "":
			e.upstream = got
		case *differ && got == e.upstream:
			e.why, e.ours = "", ""
		case *differ && got != e.want():
			if e.ours = got; e.why == "" {
				e.why = unexplained
			}
		case got != e.want():
			t.Errorf("%s\n$ %s\n%s", tr.path, e.command, diff(e.want(), got))
		case e.why == unexplained || e.why != "" && e.ours == e.upstream:
			t.Errorf("%s\n$ %s\nproa differs, or no longer does, and nothing says why", tr.path, e.command)
		}
		texts = append(texts, e.text())
	}
	if *record == "" && !*differ {
		return
	}
	if err := os.MkdirAll(filepath.Dir(tr.path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(tr.path, []byte(strings.Join(texts, "\n")), 0o644); err != nil {
		t.Fatal(err)
	}
}

// diff shows where two texts part, with a little of what comes before.
func diff(want, got string) string {
	w, g := strings.Split(want, "\n"), strings.Split(got, "\n")
	i := 0
	for i < len(w) && i < len(g) && w[i] == g[i] {
		i++
	}
	from := max(0, i-3)
	return fmt.Sprintf("line %d\n---- want\n%s\n---- got\n%s", i+1, window(w, from), window(g, from))
}

func window(lines []string, from int) string {
	return strings.Join(lines[min(from, len(lines)):min(from+16, len(lines))], "\n")
}
