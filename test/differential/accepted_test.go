package differential

import (
	"os"
	"regexp"
	"slices"
	"sort"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

// accepted is a difference that is meant, and why.
type accepted struct {
	Test  string   `json:"test"`            // the test that finds it, "" for all
	Kinds []string `json:"kinds,omitempty"` // resource keys, empty for all
	Match string   `json:"match"`           // a regular expression for the line
	Why   string   `json:"why"`
	re    *regexp.Regexp
}

func loadAccepted(t *testing.T) []accepted {
	t.Helper()
	data, err := os.ReadFile("accepted.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var list []accepted
	if err := yaml.UnmarshalStrict(data, &list); err != nil {
		t.Fatal(err)
	}
	for i, a := range list {
		if a.Why == "" {
			t.Fatalf("accepted.yaml: %q without a reason", a.Match)
		}
		list[i].re = regexp.MustCompile(a.Match)
	}
	return list
}

// report collects the differences of one kind, each once, with an example.
type report struct {
	key      string
	accepted []accepted
	count    map[string]int
	example  map[string]string
}

func newReport(test, key string, list []accepted) *report {
	r := &report{key: key, count: map[string]int{}, example: map[string]string{}}
	for _, a := range list {
		if (a.Test == "" || a.Test == test) && (len(a.Kinds) == 0 || slices.Contains(a.Kinds, key)) {
			r.accepted = append(r.accepted, a)
		}
	}
	return r
}

var index = regexp.MustCompile(`\[[0-9]+\]`)

// add notes a line that only one side has: "+" is proa's, "-" Kubernetes'.
func (r *report) add(what, line string) {
	line = index.ReplaceAllString(line, "[*]")
	for _, a := range r.accepted {
		if a.re.MatchString(line) {
			return
		}
	}
	if r.count[line]++; r.count[line] == 1 {
		r.example[line] = what
	}
}

// lists notes what differs between two sets of lines.
func (r *report) lists(verb, what string, ours, theirs []string) (same bool) {
	for _, e := range ours {
		if !slices.Contains(theirs, e) {
			r.add(what, verb+" + "+e)
		}
	}
	for _, e := range theirs {
		if !slices.Contains(ours, e) {
			r.add(what, verb+" - "+e)
		}
	}
	return slices.Equal(ours, theirs)
}

func (r *report) show(t *testing.T) {
	t.Helper()
	var lines []string
	for l := range r.count {
		lines = append(lines, l)
	}
	sort.Strings(lines)
	for _, l := range lines {
		t.Errorf("%s: %s   (%d times; %s)", r.key, l, r.count[l], strings.TrimSpace(r.example[l]))
	}
}
