package openapi

import (
	"encoding/json"
	"slices"
	"strings"
)

// toV2 turns a v3 schema into what v2 can say: references stand alone, and
// there are neither defaults nor nullable values nor alternatives.
func toV2(def definition) (string, error) {
	if def.v2 != "" || def.v3 == "" {
		return def.v2, nil
	}
	var tree any
	if err := json.Unmarshal([]byte(def.v3), &tree); err != nil {
		return "", err
	}
	data, err := json.Marshal(lower(tree))
	return string(data), err
}

func lower(node any) any {
	switch v := node.(type) {
	case []any:
		for i := range v {
			v[i] = lower(v[i])
		}
	case dict:
		lowerSchema(v)
		for key, child := range v {
			if props, ok := child.(dict); ok && key == "properties" {
				for name, p := range props { // a property may be named as a keyword is
					props[name] = lower(p)
				}
				continue
			}
			v[key] = lower(child)
		}
	}
	return node
}

func lowerSchema(v dict) {
	if all, ok := v["allOf"].([]any); ok && len(all) == 1 {
		if one, ok := all[0].(dict); ok && one["$ref"] != nil {
			v["$ref"] = one["$ref"]
		}
	}
	if ref, ok := v["$ref"].(string); ok {
		v["$ref"] = strings.Replace(ref, "#/components/schemas/", "#/definitions/", 1)
	}
	dropNullableFromRequired(v)
	open := v[preserveUnknown] == true
	if open || v["nullable"] == true {
		// kubectl takes what is not in properties for an error, and null too.
		delete(v, "properties")
		delete(v, "items")
		if v["nullable"] == true || v["type"] == "object" || v["type"] == "array" {
			delete(v, "type")
		}
	}
	for _, word := range []string{"default", "nullable", "allOf", "oneOf", "anyOf", "not"} {
		delete(v, word)
	}
}

const preserveUnknown = "x-kubernetes-preserve-unknown-fields"

// dropNullableFromRequired: to v2 a null is a value that is missing.
func dropNullableFromRequired(v dict) {
	required, _ := v["required"].([]any)
	props, _ := v["properties"].(dict)
	kept := slices.DeleteFunc(required, func(name any) bool {
		p, _ := props[name.(string)].(dict)
		return p["nullable"] == true
	})
	if len(kept) == 0 {
		delete(v, "required")
	} else {
		v["required"] = kept
	}
}
