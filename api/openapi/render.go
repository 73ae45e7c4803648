package openapi

import (
	"cmp"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"reflect"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// dict is a JSON object; encoding/json writes its keys in order, so that the
// same registry always makes the same document.
type dict = map[string]any

// parameter is a query parameter, as a field of an options struct describes it.
type parameter struct {
	Description string `json:"description"`
	Type        string `json:"type"`
}

// renderer writes operations in one version of OpenAPI.
type renderer struct {
	old  bool // v2
	defs map[string]definition
	// seen keeps the parameters of options structs, decoded.
	seen map[string]map[string]parameter
	// common are the parameters that short has found, v2 only; often the bodies
	// among them, by reference.
	common map[string]json.RawMessage
	often  map[string]bool
}

func newRenderer(defs map[string]definition, old bool) *renderer {
	r := &renderer{old: old, defs: defs, seen: map[string]map[string]parameter{}, common: map[string]json.RawMessage{}, often: map[string]bool{}}
	for _, body := range []any{&metav1.DeleteOptions{}, &metav1.Patch{}} {
		r.often["#/definitions/"+ModelName(body)] = true
	}
	return r
}

// parameters are the fields of an options struct.
func (r *renderer) parameters(options any) (map[string]parameter, error) {
	name := ModelName(options)
	if p, ok := r.seen[name]; ok {
		return p, nil
	}
	var def struct{ Properties map[string]parameter }
	if err := json.Unmarshal([]byte(r.defs[name].v3), &def); err != nil {
		return nil, fmt.Errorf("openapi: definition %s: %w", name, err)
	}
	delete(def.Properties, "apiVersion")
	delete(def.Properties, "kind")
	delete(def.Properties, "preconditions") // has no form as a parameter
	r.seen[name] = def.Properties
	return def.Properties, nil
}

// writePaths writes all operations by path and method, one path at a time: all
// of them as a tree would take many times the memory.
func (r *renderer) writePaths(w io.Writer, ops []operation) error {
	byPath := map[string][]operation{}
	for _, o := range ops {
		byPath[o.path] = append(byPath[o.path], o)
	}
	for i, path := range slices.Sorted(maps.Keys(byPath)) {
		item, err := r.path(byPath[path])
		if err != nil {
			return err
		}
		data, err := json.Marshal(item)
		if err != nil {
			return err
		}
		fmt.Fprintf(w, "%s%q:%s", comma(i), path, data)
	}
	return nil
}

// path is everything about one path. Parameters that all its operations have are
// told once.
func (r *renderer) path(ops []operation) (dict, error) {
	item := dict{}
	lists := make([][]dict, len(ops))
	for i, o := range ops {
		op, params, err := r.operation(o)
		if err != nil {
			return nil, err
		}
		item[o.method], lists[i] = op, params
	}
	var shared []dict
	for _, p := range lists[0] {
		everywhere := p["in"] != "body" && !slices.ContainsFunc(lists, func(l []dict) bool {
			return !slices.ContainsFunc(l, func(q dict) bool { return reflect.DeepEqual(p, q) })
		})
		if everywhere {
			shared = append(shared, p)
		}
	}
	for i, o := range ops {
		own := slices.DeleteFunc(lists[i], func(p dict) bool {
			return slices.ContainsFunc(shared, func(q dict) bool { return reflect.DeepEqual(p, q) })
		})
		if own = r.short(own); len(own) > 0 {
			item[o.method].(dict)["parameters"] = own
		}
	}
	if shared = r.short(shared); len(shared) > 0 {
		item["parameters"] = shared
	}
	return item, nil
}

// short puts references in the place of parameters that many paths have. Only v2
// has those: it describes everything in one document.
func (r *renderer) short(params []dict) []dict {
	if !r.old {
		return params
	}
	for i, p := range params {
		if p["in"] == "path" && p["name"] == "name" || p["in"] == "body" && !r.often[p["schema"].(dict)["$ref"].(string)] {
			continue
		}
		data, _ := json.Marshal(p) // strings and booleans cannot fail
		sum := sha256.Sum256(data)
		key := p["name"].(string) + "-" + base64.RawURLEncoding.EncodeToString(sum[:6])
		r.common[key] = data
		params[i] = dict{"$ref": "#/parameters/" + key}
	}
	return params
}

// writeCommon writes what short has put references to.
func (r *renderer) writeCommon(w io.Writer) {
	for i, key := range slices.Sorted(maps.Keys(r.common)) {
		fmt.Fprintf(w, "%s%q:%s", comma(i), key, r.common[key])
	}
}

const prettyText = "If 'true', then the output is pretty printed. Defaults to 'false' unless the user-agent indicates a browser or command-line HTTP tool (curl and wget)."

func (r *renderer) pathParameters(o operation) []dict {
	list := []dict{}
	for _, name := range o.inPath {
		text := pathText[name]
		if name == "name" {
			text = "name of the " + o.gvk.Kind
		}
		p := r.parameter(name, "path", "string", text)
		p["required"] = true
		list = append(list, p)
	}
	if o.document() || o.action == "connect" {
		return list
	}
	return append(list, r.parameter("pretty", "query", "string", prettyText))
}

func (r *renderer) parameter(name, in, typ, text string) dict {
	p := dict{"name": name, "in": in, "description": text}
	if r.old {
		p["type"], p["uniqueItems"] = typ, true
	} else {
		p["schema"] = dict{"type": typ, "uniqueItems": true}
	}
	return p
}

// operation is one method of a path, and its parameters.
func (r *renderer) operation(o operation) (dict, []dict, error) {
	op := dict{"operationId": o.id, "description": o.text, "tags": []string{cmp.Or(o.tag, tag(o.gv))}, "responses": r.responses(o)}
	if o.action != "" {
		op["x-kubernetes-action"] = o.action
		op["x-kubernetes-group-version-kind"] = kindOf(o.gvk)
	}
	params, err := r.query(o)
	if err != nil {
		return nil, nil, err
	}
	if o.body != "" {
		params = r.addBody(op, params, o)
	}
	if r.old {
		op["schemes"] = []string{"https"}
		op["consumes"], op["produces"] = bodyTypes(o), answerTypes(o)
	}
	return op, append(params, r.pathParameters(o)...), nil
}

func kindOf(gvk schema.GroupVersionKind) dict {
	return dict{"group": gvk.Group, "version": gvk.Version, "kind": gvk.Kind}
}

func (r *renderer) query(o operation) ([]dict, error) {
	byName := map[string]parameter{}
	for _, options := range o.options {
		params, err := r.parameters(options)
		if err != nil {
			return nil, err
		}
		for name, p := range params {
			byName[name] = p
		}
	}
	if o.action == "deletecollection" { // deletes do not watch
		for _, name := range []string{"watch", "allowWatchBookmarks"} {
			delete(byName, name)
		}
	}
	var list []dict
	for name, p := range byName {
		typ := cmp.Or(p.Type, "string")
		if typ == "array" {
			typ = "string" // written once for each value
		}
		list = append(list, r.parameter(name, "query", typ, p.Description))
	}
	slices.SortFunc(list, func(a, b dict) int { return strings.Compare(a["name"].(string), b["name"].(string)) })
	return list, nil
}

func (r *renderer) ref(name string) dict {
	if r.old {
		return dict{"$ref": "#/definitions/" + name}
	}
	return dict{"$ref": "#/components/schemas/" + name}
}

func (r *renderer) addBody(op dict, params []dict, o operation) []dict {
	required := o.method != "delete"
	if r.old {
		body := dict{"name": "body", "in": "body", "schema": r.ref(o.body)}
		if required {
			body["required"] = true
		}
		return append([]dict{body}, params...)
	}
	content := dict{}
	for _, t := range bodyTypes(o) {
		content[t] = dict{"schema": r.ref(o.body)}
	}
	body := dict{"content": content}
	if required {
		body["required"] = true
	}
	op["requestBody"] = body
	return params
}

func (r *renderer) responses(o operation) dict {
	out := dict{"401": dict{"description": codeText["401"]}}
	for _, code := range o.codes {
		answer := dict{"description": codeText[code]}
		what := dict{"type": "string"}
		if o.result != "" {
			what = r.ref(o.result)
		}
		if r.old {
			answer["schema"] = what
		} else {
			content := dict{}
			for _, t := range answerTypes(o) {
				content[t] = dict{"schema": what}
			}
			answer["content"] = content
		}
		out[code] = answer
	}
	return out
}

// What objects are written as; custom resources have no protobuf.
var (
	objectTypes = []string{"application/json", "application/yaml", "application/vnd.kubernetes.protobuf", "application/cbor"}
	customTypes = []string{"application/json", "application/yaml", "application/cbor"}
	streamTypes = []string{"application/json;stream=watch", "application/vnd.kubernetes.protobuf;stream=watch", "application/cbor-seq"}
	customFlows = []string{"application/json;stream=watch", "application/cbor-seq"}
)

func answerTypes(o operation) []string {
	objects, streams := objectTypes, streamTypes
	if o.custom {
		objects, streams = customTypes, customFlows
	}
	switch {
	case o.tag != "" && o.result == "":
		return []string{"application/json"}
	case o.result == "" && o.action == "get":
		return append([]string{"text/plain"}, objects...)
	case o.result == "":
		return []string{"*/*"}
	case o.watches:
		return slices.Concat(objects, streams)
	}
	return objects
}

func bodyTypes(o operation) []string {
	switch {
	case o.document():
		return answerTypes(o)
	case !o.patch && o.custom:
		return customTypes
	case !o.patch:
		return []string{"*/*"}
	case o.custom:
		return []string{"application/json-patch+json", "application/merge-patch+json", "application/apply-patch+yaml", "application/apply-patch+cbor"}
	}
	return []string{"application/json-patch+json", "application/merge-patch+json", "application/strategic-merge-patch+json",
		"application/apply-patch+yaml", "application/apply-patch+cbor"}
}
