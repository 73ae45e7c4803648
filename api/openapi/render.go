package openapi

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

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
		item := dict{"parameters": r.pathParameters(byPath[path][0])}
		for _, o := range byPath[path] {
			op, err := r.operation(o)
			if err != nil {
				return err
			}
			item[o.method] = op
		}
		data, err := json.Marshal(item)
		if err != nil {
			return err
		}
		fmt.Fprintf(w, "%s%q:%s", comma(i), path, data)
	}
	return nil
}

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
	return append(list, r.parameter("pretty", "query", "string", "If 'true', then the output is pretty printed."))
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

func (r *renderer) operation(o operation) (dict, error) {
	op := dict{"operationId": o.id, "description": o.text, "tags": []string{tag(o.gv)}, "responses": r.responses(o)}
	if o.action != "" {
		op["x-kubernetes-action"] = o.action
		op["x-kubernetes-group-version-kind"] = kindOf(o.gvk)
	}
	params, err := r.query(o)
	if err != nil {
		return nil, err
	}
	if o.body != "" {
		params = r.addBody(op, params, o)
	}
	if len(params) > 0 {
		op["parameters"] = params
	}
	if r.old {
		op["schemes"] = []string{"https"}
		op["consumes"], op["produces"] = bodyTypes(o), answerTypes(o)
	}
	return op, nil
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

var objectTypes = []string{"application/json", "application/yaml", "application/vnd.kubernetes.protobuf", "application/cbor"}

func answerTypes(o operation) []string {
	switch {
	case o.result == "" && o.action == "get":
		return append([]string{"text/plain"}, objectTypes...)
	case o.result == "":
		return []string{"*/*"}
	case o.watches:
		return append(slices.Clone(objectTypes), "application/json;stream=watch", "application/vnd.kubernetes.protobuf;stream=watch", "application/cbor-seq")
	}
	return objectTypes
}

func bodyTypes(o operation) []string {
	if !o.patch {
		return []string{"*/*"}
	}
	return []string{"application/json-patch+json", "application/merge-patch+json", "application/strategic-merge-patch+json",
		"application/apply-patch+yaml", "application/apply-patch+cbor"}
}
