package openapi

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"

	"k8s.io/apimachinery/pkg/runtime/schema"

	"proa/api"
)

// Documents are the descriptions of what a registry serves. Safe for
// concurrent use.
type Documents struct {
	reg *api.Registry
	mu  sync.Mutex
	// made holds finished documents by key ("v2", "v3/apps/v1"), each for as
	// long as its hash is the registry's.
	made map[string]Document
}

// Document is one document: JSON, compressed by gzip. Hash changes when and
// only when the content does.
type Document struct {
	Gzip []byte
	Hash string
}

// New describes the registry, now and as it changes.
func New(reg *api.Registry) *Documents {
	return &Documents{reg: reg, made: map[string]Document{}}
}

// V3 is the document of one group version; ok is false where it is not served.
func (d *Documents) V3(gv schema.GroupVersion) (doc Document, ok bool, err error) {
	served, ok := d.reg.Groups()[gv]
	if !ok {
		return Document{}, false, nil
	}
	doc, err = d.get("v3/"+gv.String(), hashOf(gv, served), func(w io.Writer) error { return d.writeV3(w, gv, served) })
	return doc, true, err
}

// V2 is the swagger document of everything.
func (d *Documents) V2() (Document, error) {
	groups := d.reg.Groups()
	return d.get("v2", hashAll(groups), func(w io.Writer) error { return d.writeV2(w, groups) })
}

// get returns the kept document if it is the right one, or makes it. One is
// made at a time: they cost memory while in the making. write goes to memory and
// need not look at the errors of single writes.
func (d *Documents) get(key, hash string, write func(io.Writer) error) (Document, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if doc, ok := d.made[key]; ok && doc.Hash == hash {
		return doc, nil
	}
	var buf bytes.Buffer
	z := gzip.NewWriter(&buf)
	if err := write(z); err != nil {
		return Document{}, err
	}
	if err := z.Close(); err != nil {
		return Document{}, err
	}
	doc := Document{Gzip: bytes.Clone(buf.Bytes()), Hash: hash}
	d.made[key] = doc
	return doc, nil
}

// Index is the list of v3 documents by path ("apis/apps/v1"), each with the
// address that names its hash, as JSON.
func (d *Documents) Index() ([]byte, error) {
	type entry struct {
		URL string `json:"serverRelativeURL"`
	}
	paths := map[string]entry{}
	for gv, served := range d.reg.Groups() {
		paths[strings.TrimPrefix(prefix(gv), "/")] = entry{address(gv, hashOf(gv, served))}
	}
	return json.Marshal(map[string]any{"paths": paths})
}

// address is where a document is found, under a name that is good for ever.
func address(gv schema.GroupVersion, hash string) string {
	return "/openapi/v3" + prefix(gv) + "?hash=" + hash
}

// hashOf identifies the document of a group version by all that it is made of,
// so that nothing need be made to know it.
func hashOf(gv schema.GroupVersion, served []api.Served) string {
	h := sha256.New()
	base := packedHash()
	h.Write(base[:])
	fmt.Fprintf(h, "%d %s\n", format, gv)
	for _, s := range served {
		fmt.Fprintf(h, "%s %s %v %v\n", s.Plural, s.GVK(), s.Namespaced, s.Verbs)
		for _, sub := range s.Subresources {
			fmt.Fprintf(h, "/%s %s %v\n", sub.Name, sub.Kind, sub.Verbs)
		}
		if s.Custom != nil {
			io.WriteString(h, s.Custom.Edition) // a schema costs time to make
		} else if s.Schema != nil {
			h.Write(s.Schema(gv.Version))
		}
	}
	return strings.ToUpper(hex.EncodeToString(h.Sum(nil)))
}

// format goes up when the way that documents are written changes.
const format = 3

func hashAll(groups map[schema.GroupVersion][]api.Served) string {
	h := sha256.New()
	for _, gv := range slices.SortedFunc(maps.Keys(groups), compareVersions) {
		io.WriteString(h, hashOf(gv, groups[gv]))
	}
	return strings.ToUpper(hex.EncodeToString(h.Sum(nil)))
}

const info = `{"title":"Kubernetes","version":"unversioned"}`

func (d *Documents) writeV3(w io.Writer, gv schema.GroupVersion, served []api.Served) error {
	defs, err := withCustom(map[schema.GroupVersion][]api.Served{gv: served})
	if err != nil {
		return err
	}
	ops := operations(gv, served)
	r := newRenderer(defs, false)
	io.WriteString(w, `{"openapi":"3.0.0","info":`+info+`,"paths":{`)
	if err := r.writePaths(w, ops); err != nil {
		return err
	}
	io.WriteString(w, `},"components":{"securitySchemes":`+bearer+`,"schemas":{`)
	if err := d.writeSchemas(w, ops, defs, func(def definition) (string, error) { return def.v3, nil }); err != nil {
		return err
	}
	_, err = io.WriteString(w, "}}}")
	return err
}

// writeSchemas writes the definitions that operations lead to.
func (d *Documents) writeSchemas(w io.Writer, ops []operation, defs map[string]definition, text func(definition) (string, error)) error {
	of := kinds(d.reg)
	for i, name := range Reachable(roots(ops), func(n string) string { return defs[n].v3 }) {
		schema, err := text(defs[name])
		if err == nil {
			schema, err = withKinds(schema, of[name])
		}
		if err != nil {
			return fmt.Errorf("openapi: definition %s: %w", name, err)
		}
		fmt.Fprintf(w, "%s%q:%s", comma(i), name, schema)
	}
	return nil
}

const bearer = `{"BearerToken":{"type":"apiKey","name":"authorization","in":"header","description":"Bearer Token authentication"}}`

// comma goes before all elements but the first.
func comma(i int) string {
	if i == 0 {
		return ""
	}
	return ","
}

// roots are the definitions that operations name.
func roots(ops []operation) []string {
	var out []string
	for _, o := range ops {
		for _, name := range []string{o.body, o.result} {
			if name != "" {
				out = append(out, name)
			}
		}
	}
	return out
}

// withKinds adds to a schema the kinds that it is the schema of.
func withKinds(text string, gvks []schema.GroupVersionKind) (string, error) {
	if text == "" {
		return "", fmt.Errorf("is missing: run go generate ./api/openapi")
	}
	if len(gvks) == 0 {
		return text, nil
	}
	list := make([]dict, 0, len(gvks))
	for _, gvk := range gvks {
		list = append(list, kindOf(gvk))
	}
	data, err := json.Marshal(list)
	return strings.TrimSuffix(text, "}") + `,"x-kubernetes-group-version-kind":` + string(data) + "}", err
}

func (d *Documents) writeV2(w io.Writer, groups map[schema.GroupVersion][]api.Served) error {
	defs, err := withCustom(groups)
	if err != nil {
		return err
	}
	ops := rootOperations(groups)
	for _, gv := range slices.SortedFunc(maps.Keys(groups), compareVersions) {
		ops = append(ops, operations(gv, groups[gv])...)
	}
	r := newRenderer(defs, true)
	io.WriteString(w, `{"swagger":"2.0","info":`+info+`,"paths":{`)
	if err := r.writePaths(w, ops); err != nil {
		return err
	}
	io.WriteString(w, `},"parameters":{`)
	r.writeCommon(w)
	io.WriteString(w, `},"security":[{"BearerToken":[]}],"securityDefinitions":`+bearer+`,"definitions":{`)
	if err := d.writeSchemas(w, ops, defs, toV2); err != nil {
		return err
	}
	_, err = io.WriteString(w, "}}")
	return err
}
