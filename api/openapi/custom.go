package openapi

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	"k8s.io/apimachinery/pkg/runtime/schema"

	"proa/api"
)

// withCustom are the built-in definitions and those of custom resources.
func withCustom(groups map[schema.GroupVersion][]api.Served) (map[string]definition, error) {
	defs, err := unpack()
	if err != nil {
		return nil, err
	}
	for gv, served := range groups {
		for _, s := range served {
			if s.Schema == nil {
				continue
			}
			text := s.Schema(gv.Version)
			own, err := customSchema(text)
			if err != nil {
				return nil, fmt.Errorf("openapi: schema of %s: %w", s.GVK(), err)
			}
			defs[nameOf(s)] = own
			defs[listNameOf(s)] = definition{v3: customList(s, text)}
		}
	}
	return defs, nil
}

const metaSchemas = "#/components/schemas/io.k8s.apimachinery.pkg.apis.meta.v1."

// Complete is a custom resource's schema with what every object has, as the
// documents show it.
func Complete(own []byte) ([]byte, error) {
	def, err := customSchema(own)
	return []byte(def.v3), err
}

// customSchema is the schema of a CustomResourceDefinition with what every
// object has. One that says nothing stays open, since naming metadata alone
// would make kubectl refuse all else; v2 has no other way to be open.
func customSchema(own []byte) (definition, error) {
	anything := definition{v3: `{"type":"object"}`}
	tree := dict{}
	if len(own) == 0 {
		return anything, nil
	}
	if err := json.Unmarshal(own, &tree); err != nil {
		return definition{}, err
	}
	open := tree[preserveUnknown] == true
	addObjectProperties(tree)
	addEmbedded(tree)
	data, err := json.Marshal(tree)
	def := definition{v3: string(data)}
	if open {
		def.v2 = anything.v3
	}
	return def, err
}

func addObjectProperties(tree dict) {
	props, _ := tree["properties"].(dict)
	if props == nil {
		props = dict{}
	}
	maps.Copy(props, typeMeta)
	props["metadata"] = dict{"allOf": []dict{{"$ref": metaSchemas + "ObjectMeta"}},
		"description": "Standard object's metadata. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#metadata"}
	tree["properties"] = props
}

// addEmbedded gives those fields that hold a whole object what objects have.
func addEmbedded(node dict) {
	props, _ := node["properties"].(dict)
	children := slices.AppendSeq([]any{node["items"], node["additionalProperties"]}, maps.Values(props))
	for _, child := range children {
		if p, ok := child.(dict); ok {
			embed(p)
		}
	}
}

func embed(p dict) {
	if p["x-kubernetes-embedded-resource"] == true {
		addObjectProperties(p)
		required, _ := p["required"].([]any)
		p["required"] = append(required, "kind", "apiVersion")
	}
	addEmbedded(p)
}

var typeMeta = dict{
	"apiVersion": dict{"type": "string", "description": "APIVersion defines the versioned schema of this representation of an object. Servers should convert recognized schemas to the latest internal value, and may reject unrecognized values. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#resources"},
	"kind":       dict{"type": "string", "description": "Kind is a string value representing the REST resource this object represents. Servers may infer this from the endpoint the client submits requests to. Cannot be updated. In CamelCase. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#types-kinds"},
}

// selectableFields is what a kind's schema and its list's tell alike.
const selectableFields = "x-kubernetes-selectable-fields"

func customList(s api.Served, own []byte) string {
	props := dict{
		"items":    dict{"type": "array", "items": dict{"$ref": "#/components/schemas/" + nameOf(s)}, "description": "List of " + s.Plural + "."},
		"metadata": dict{"allOf": []dict{{"$ref": metaSchemas + "ListMeta"}}, "description": "Standard list metadata."},
	}
	maps.Copy(props, typeMeta)
	list := dict{"type": "object", "required": []string{"items"}, "properties": props,
		"description": s.GVK().Kind + "List is a list of " + s.GVK().Kind}
	kind := dict{}
	if json.Unmarshal(own, &kind) == nil && kind[selectableFields] != nil {
		list[selectableFields] = kind[selectableFields]
	}
	data, _ := json.Marshal(list) // cannot fail: strings and maps
	return string(data)
}
