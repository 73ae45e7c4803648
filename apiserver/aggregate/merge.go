package aggregate

import (
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
)

// part is another server's v2 document, of which the paths below prefix count.
type part struct {
	prefix string
	body   []byte
}

type texts map[string]json.RawMessage

// merged is the v2 document with the parts' paths and the definitions that these
// lead to. A definition that another of the same name differs from is renamed. A
// part that cannot be read is left out: what the others serve is still true.
func merged(own []byte, parts []part) ([]byte, error) {
	var doc, paths, defs texts
	err := json.Unmarshal(own, &doc)
	if err == nil {
		err = json.Unmarshal(doc["paths"], &paths)
	}
	if err == nil {
		err = json.Unmarshal(doc["definitions"], &defs)
	}
	if err != nil {
		return nil, fmt.Errorf("aggregate: this server's own OpenAPI document: %w", err)
	}
	for _, p := range parts {
		maps.DeleteFunc(paths, func(path string, _ json.RawMessage) bool { return p.below(path) })
		newPaths, newDefs := p.read()
		rename(newPaths, newDefs, defs)
		maps.Copy(paths, newPaths)
		maps.Copy(defs, newDefs)
	}
	if doc["paths"], err = json.Marshal(paths); err != nil {
		return nil, err
	}
	if doc["definitions"], err = json.Marshal(defs); err != nil {
		return nil, err
	}
	return json.Marshal(doc)
}

func (p part) below(path string) bool {
	return path == p.prefix || strings.HasPrefix(path, p.prefix+"/")
}

// read returns the part's paths, and the definitions that they need.
func (p part) read() (paths, defs texts) {
	var doc struct{ Paths, Definitions texts }
	if json.Unmarshal(p.body, &doc) != nil {
		return nil, nil
	}
	maps.DeleteFunc(doc.Paths, func(path string, _ json.RawMessage) bool { return !p.below(path) })
	needed := map[string]bool{}
	for _, t := range doc.Paths {
		doc.Definitions.follow(t, needed)
	}
	maps.DeleteFunc(doc.Definitions, func(name string, _ json.RawMessage) bool { return !needed[name] })
	return doc.Paths, doc.Definitions
}

// follow notes the definitions that a text leads to.
func (t texts) follow(text json.RawMessage, needed map[string]bool) {
	for rest := string(text); ; {
		_, after, found := strings.Cut(rest, `"#/definitions/`)
		if !found {
			return
		}
		name, tail, _ := strings.Cut(after, `"`)
		rest = tail
		if !needed[name] {
			needed[name] = true
			t.follow(t[name], needed)
		}
	}
}

// rename gives definitions whose names are taken by others new names.
func rename(paths, defs, taken texts) {
	var pairs []string
	for _, name := range slices.Sorted(maps.Keys(defs)) {
		if taken[name] == nil || same(taken[name], defs[name]) {
			continue
		}
		next := name
		for i := 2; taken[next] != nil || defs[next] != nil; i++ {
			next = fmt.Sprintf("%s_v%d", name, i)
		}
		defs[next] = defs[name]
		delete(defs, name)
		pairs = append(pairs, reference(name), reference(next))
	}
	if pairs == nil {
		return
	}
	r := strings.NewReplacer(pairs...)
	for _, m := range []texts{paths, defs} {
		for k, t := range m {
			m[k] = json.RawMessage(r.Replace(string(t)))
		}
	}
}

func reference(name string) string { return `"#/definitions/` + name + `"` }

func same(a, b json.RawMessage) bool {
	var x, y any
	return json.Unmarshal(a, &x) == nil && json.Unmarshal(b, &y) == nil && reflect.DeepEqual(x, y)
}
