package main

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
)

// test is a line of the list.
type test struct {
	name        string
	nodes, long bool
}

func readList(path string) ([]test, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var out []test
	for i, line := range strings.Split(string(data), "\n") {
		if line == "" || line[0] == '#' {
			continue
		}
		t, err := parseLine(line)
		if err != nil {
			return nil, fmt.Errorf("%s:%d: %w", path, i+1, err)
		}
		out = append(out, t)
	}
	return out, nil
}

func parseLine(line string) (t test, err error) {
	part := strings.SplitN(line, " ", 3)
	if len(part) != 3 {
		return t, fmt.Errorf("want three parts, found %q", line)
	}
	t.name = part[2]
	switch part[0] {
	case "-":
	case "nodes":
		t.nodes = true
	default:
		return t, fmt.Errorf("%q is nothing that a test can need", part[0])
	}
	switch part[1] {
	case "quick":
	case "long":
		t.long = true
	default:
		return t, fmt.Errorf("%q is no pace", part[1])
	}
	return t, nil
}

func choose(tests []test, short bool, focus string) []test {
	return slices.DeleteFunc(slices.Clone(tests), func(t test) bool {
		return short && t.long || !strings.Contains(t.name, focus)
	})
}

func split(tests []test) (bare, onNodes []test) {
	for _, t := range tests {
		if t.nodes {
			onNodes = append(onNodes, t)
		} else {
			bare = append(bare, t)
		}
	}
	return bare, onNodes
}

// focusOf is the expression that matches exactly these tests. Ginkgo puts the
// suite's name before a test's.
func focusOf(tests []test) string {
	quoted := make([]string, len(tests))
	for i, t := range tests {
		quoted[i] = regexp.QuoteMeta(t.name)
	}
	return "^Kubernetes e2e suite (" + strings.Join(quoted, "|") + ")$"
}
